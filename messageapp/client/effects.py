"""What follows from an envelope of a peer, whichever way it came (protocol §10.3): rows, states, notes, events.

Whatever it says counts only for messages between exactly these two. Everything is written in the transaction that is
open; the events are told when it has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.session import Received
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.arrivals import forget_asked, text_hash, was_seen
from messageapp.store.changes import delete_message, edit_message, react
from messageapp.store.conversations import conversation_of, set_expiry
from messageapp.store.states import Cause, State
from messageapp_keys.identity import IdentityBundle

from . import events as ev
from .context import ClientContext
from .resending import resend
from .sessions import Sessions, StoredSession

__all__ = ["Effects", "Taker"]

_LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999: a peer's clock says what it likes


@dataclass(slots=True)
class Effects:
    """Of one message, or of several together."""

    events: list[ev.Event] = field(default_factory=list)
    confirm: list[bytes] = field(default_factory=list)  # ids of texts that are on this disk: a receipt is due
    queued: bool = False  # something was put into the outbox
    texts: int = 0  # shown for the first time


class Taker:
    """Applies envelopes to one account's messages at one server."""

    def __init__(self, context: ClientContext, sessions: Sessions) -> None:
        self._database = context.database
        self._server = context.server
        self._random = context.random
        self._wall_ms = context.wall_ms
        self._sessions = sessions

    def apply(
        self,
        stored: StoredSession,
        peer: str,
        received: Received,
        *,
        live: bool = False,
        first: IdentityBundle | None = None,
    ) -> Effects:
        """Inside `Sessions.changing(stored)`. `peer` in the registered spelling; `first` is its key if pinned now."""
        envelope, effects = received.envelope, Effects()
        stored.confirmed = True
        if not received.late:
            self._sessions.prefer(stored)
        stored.confirms = stored.confirms or envelope.receipts is not None
        of = conversation_of(self._database, self._server, peer, registered=True)
        if envelope.text is None:
            self._no_text(of, peer, envelope, effects)
        elif envelope.edits:
            self._edit(of, peer, envelope, effects)
        else:
            self._text(of, stored, peer, received, live, first, effects)
        for id in envelope.receipts or ():
            self._confirmed(of, peer, id, State.DELIVERED, effects)
        for id in envelope.read:
            self._confirmed(of, peer, id, State.READ, effects)
        if envelope.react is not None:
            self._react(of, peer, *envelope.react, effects)
        if envelope.resend:
            resend(self._database, self._server, peer, envelope.resend, self._wall_ms(), self._random)
            effects.queued = True
        return effects

    def withdraw(self, number: int) -> None:
        """A line that stood for what is nothing to be shown."""
        delete_message(self._database, number)

    def _text(
        self,
        of: int,
        stored: StoredSession,
        peer: str,
        received: Received,
        live: bool,
        first: IdentityBundle | None,
        effects: Effects,
    ) -> None:
        envelope, now = received.envelope, self._wall_ms()
        id = envelope.id if any(envelope.id) else self._random(16)  # an old client's has none
        text, written_ms = envelope.text or "", min(envelope.time_ms, _LAST_MS)
        reply_to, expire_s = envelope.reply_to or None, envelope.expire_s or 0
        effects.confirm.append(id)
        found = rows.find_by_id(self._database, of, id, own=False)
        healed = False
        if found is None and was_seen(self._database, self._server, text_hash(peer, id)):
            return  # it was deleted here since it came
        if found is None:
            number = rows.add_received(
                self._database,
                of,
                id,
                text,
                written_ms=written_ms,
                now_ms=now,
                cause=Cause.LATE if received.late else Cause.NONE,
                reply_to=reply_to,
                expire_s=expire_s,
                live=live,
                device=stored.device,
            )
            assert number is not None  # noqa: S101 - it was looked for
        elif found.text is None:
            number, healed = found.number, found.state is State.UNREADABLE
            rows.fill(
                self._database,
                number,
                text,
                written_ms=written_ms,
                now_ms=now,
                cause=Cause.HEALED if healed else Cause.NONE,
                reply_to=reply_to,
                expire_s=expire_s,
            )
            forget_asked(self._database, self._server, peer, id)
        else:
            return  # it came before, by another way
        effects.texts += 1
        if live:
            effects.events.append(ev.TextReceived(peer, text, envelope.time_ms, received.late, number))
            return
        row = None if reply_to is None else rows.find_message(self._database, self._server, number)
        answers = None if row is None else row.reply_to
        effects.events.append(ev.MessageReceived(peer, number, text, written_ms, answers, received.late, healed, first))

    def _no_text(self, of: int, peer: str, envelope: Envelope, effects: Effects) -> None:
        if envelope.expire_s is not None and set_expiry(self._database, of, envelope.expire_s):
            effects.events.append(ev.TimerChanged(peer, envelope.expire_s, by_us=False))
        found = rows.find_by_id(self._database, of, envelope.id, own=False)
        if found is not None and found.text is None:  # what could not be read is nothing to be shown
            self.withdraw(found.number)
            forget_asked(self._database, self._server, peer, envelope.id)

    def _edit(self, of: int, peer: str, envelope: Envelope, effects: Effects) -> None:
        found, text = rows.find_by_id(self._database, of, envelope.edits, own=False), envelope.text or ""
        if found is None or found.text is None:  # the text itself has the change when it is sent again
            return
        if edit_message(self._database, found.number, text, self._wall_ms()):
            effects.events.append(ev.MessageEdited(peer, found.number, text))

    def _confirmed(self, of: int, peer: str, id: bytes, state: State, effects: Effects) -> None:
        """A receipt or a reading; only for a message that was to this very peer."""
        own = rows.find_by_id(self._database, of, id, own=True)
        if own is None:
            return
        waiting = outbox.find(self._database, self._server, peer, id)
        if waiting is not None and waiting.number == own.number:
            outbox.remove(self._database, waiting.place)
        if rows.set_state(self._database, own.number, state, Cause.NONE, self._wall_ms()):
            effects.events.append(ev.MessageChanged(own.number, peer, state, Cause.NONE))

    def _react(self, of: int, peer: str, id: bytes, emoji: str, effects: Effects) -> None:
        for own in (True, False):
            found = rows.find_by_id(self._database, of, id, own=own)
            if found is not None and react(self._database, found.number, emoji, own=False):
                effects.events.append(ev.Reacted(peer, found.number, emoji))
