"""What cannot be read is asked for again, over a new session (protocol §16, rule 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from messageapp.clock import DAY_MS
from messageapp.e2ee.envelope import MAX_IDS, Envelope
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.arrivals import count_asked, count_starts, list_notes, note_asked
from messageapp.store.messages import Message
from messageapp.store.states import Cause, State
from messageapp_keys.codec import Malformed
from messageapp_keys.names import fold

from . import events as ev
from .context import ClientContext
from .sessions import Sessions

__all__ = ["AGAIN_MS", "HEALS_PER_HOUR", "HEAL_TRIES", "Healing"]

HEAL_TRIES: Final = 3  # for one message: what still does not open then never will
HEALS_PER_HOUR: Final = 6  # new sessions with one peer: whoever sends us junk does not make us take all its prekeys
AGAIN_MS: Final = DAY_MS  # what was asked for, and did not come, is asked for again after so long


class Healing:
    def __init__(self, context: ClientContext, sessions: Sessions) -> None:
        self._database = context.database
        self._server = context.server
        self._random = context.random
        self._wall_ms = context.wall_ms
        self._sessions = sessions

    def ask(self, peer: str, ids: Sequence[bytes]) -> dict[bytes, Cause]:
        """Queue one request for these, by the ids under which the server had them; what each of them waits for now."""
        now, database, server = self._wall_ms(), self._database, self._server
        with self._sessions.step():
            open_ones = [id for id in ids if count_asked(database, server, peer, id)[0] < HEAL_TRIES]
            causes = dict.fromkeys(ids, Cause.GAVE_UP) | dict.fromkeys(open_ones, Cause.CANNOT_ASK)
            left = open_ones[:MAX_IDS]  # the others at the next login
            if left and count_starts(database, server, peer, now) >= HEALS_PER_HOUR:
                return causes
            if left:
                note_asked(database, server, peer, left, now)
                self._sessions.retire(peer)
                note = Envelope(self._random(16), now, resend=tuple(left))
                outbox.add(database, server, peer, note.id, now_ms=now, content=note.encode())
            return causes | dict.fromkeys(left, Cause.ASKED_AGAIN)

    def ask_again(self) -> list[ev.Event]:
        """Everything unreadable that nothing is under way for; what has changed by that."""
        now, due = self._wall_ms(), dict[str, list[Message]]()
        for message in rows.find_open(self._database, self._server, (State.UNREADABLE,)):
            asked_ms = count_asked(self._database, self._server, message.peer, message.id)[1]
            stale = not asked_ms <= now < asked_ms + AGAIN_MS  # also after the clock was set back
            if message.cause is Cause.CANNOT_ASK or (message.cause is Cause.ASKED_AGAIN and stale):
                due.setdefault(message.peer, []).append(message)
        events: list[ev.Event] = []
        for peer, messages in due.items():
            with self._sessions.step():
                waiting = self._waiting(peer)
                causes = self.ask(peer, [message.id for message in messages if message.id not in waiting])
                for message in messages:
                    if message.id in causes:
                        events += self._set(message, causes[message.id])
        return events

    def note_asking(self, peer: str, *, possible: bool) -> list[ev.Event]:
        """Nothing can begin a session with `peer` now, or (`possible`) something can again."""
        before, after = Cause.ASKED_AGAIN, Cause.CANNOT_ASK
        if possible:
            before, after = after, before
        with self._sessions.step():
            waiting = self._waiting(peer)
            return [
                event
                for message in rows.find_open(self._database, self._server, (State.UNREADABLE,))
                if fold(message.peer) == fold(peer) and message.cause is before and message.id in waiting
                for event in self._set(message, after)
            ]

    def _set(self, message: Message, cause: Cause) -> list[ev.Event]:
        if rows.set_state(self._database, message.number, State.UNREADABLE, cause, self._wall_ms()):
            return [ev.MessageChanged(message.number, message.peer, State.UNREADABLE, cause)]
        return []

    def _waiting(self, peer: str) -> set[bytes]:
        """Ids that a request which is not sealed yet asks for."""
        found: set[bytes] = set()
        for content in list_notes(self._database, self._server, peer):
            try:
                found.update(Envelope.parse_untrusted(content).resend)
            except Malformed:  # pragma: no cover - our own
                continue
        return found
