"""The chat under way, seen as messages: every text is a row before it leaves, and stays one until its receipt (§16).

    say      row, outbox row (live), ratchet: one transaction → `frwd` → receipt → outbox row gone, delivered
    hear     ratchet, row: one transaction → told → receipt for all that came together
    the end  what had no receipt goes through the server's storage, as the same bytes

Both clients say so in their first message if they send receipts. Towards a peer whose client does not, a text that was
said is `sent`, and no more is known of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from messageapp.e2ee.envelope import MAX_IDS, Envelope
from messageapp.e2ee.offline import message_blob
from messageapp.e2ee.session import ChatSession, Received
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.outbox import Waiting
from messageapp.store.states import Cause, State

from . import events as ev
from .conversations import Conversation
from .mailing import Mailing
from .messages import Messages
from .sessions import StoredSession

__all__ = ["Heard", "LiveChat", "keep_session"]


def keep_session(mail: Mailing, conversation: Conversation) -> StoredSession:
    """On disk before the caller can use it: what is sent over it can be read, however early the chat is cut."""
    peer, key_id, session = conversation.peer, conversation.bundle.key_id, conversation.session
    known = mail.sessions.newest(peer, key_id)
    confirms = known is not None and known.confirms
    kept = mail.sessions.add(peer, b"", key_id, session, mail.now_ms(), confirmed=False, confirms=confirms)
    mail.sessions.in_chat = kept.sid
    return kept


@dataclass(slots=True)
class Heard:
    received: Received
    events: list[ev.Event] = field(default_factory=list)


class LiveChat:
    """Made when a chat became secure, with the session as it is then: on disk before anything else is sent over it.

    Each method is one transaction; where it fails (`CannotStore` for a full disk), everything is what it was before.
    """

    def __init__(self, mail: Mailing, messages: Messages, conversation: Conversation) -> None:
        self.peer = peer = conversation.peer
        self.settled = trio.Event()  # nothing waits for a receipt
        self._waiting: set[int] = set()
        self._conversation = conversation
        self._mail = mail
        self._messages = messages
        kept = mail.sessions.by_sid(peer, conversation.session.chat_id) or keep_session(mail, conversation)
        self._confirms: bool | None = True if kept.confirms else None  # None: not known yet
        self._heard = False
        self._due: list[bytes] = []  # ids that a receipt is due for
        with mail.sessions.changing(kept) as self._stored:
            kept.confirmed = True
        mail.outgoing.reachable([peer])

    @property
    def awaits_receipts(self) -> bool:
        """Something was said, and the peer's client will confirm it."""
        return bool(self._confirms and self._waiting)

    # ours -------------------------------------------------------------------------------------------------------------

    def say(self, text: str, reply_to: int | None = None) -> tuple[bytes, int]:
        """(`frwd` argument, number). `MessageTooLong`, `MessagesRefused`."""
        mail = self._mail
        with mail.sessions.changing(self._stored):
            number = self._messages.write(self.peer, text, reply_to=reply_to, live=True)
            row = outbox.of_message(mail.database, number)
            assert row is not None  # noqa: S101 - `write` has just made it
            content = self._conversation.seal_envelope(Envelope.parse_untrusted(row.content))
            outbox.seal(mail.database, row.place, message_blob(self._conversation.ratchet_message(content)))
            if self._confirms is False:
                self._let_go([row])
        if self._confirms is not False:
            self._waiting.add(number)
        return content, number

    def seal(self, envelope: Envelope) -> bytes:
        """A `frwd` argument that is no text: nothing waits for its receipt."""
        with self._mail.sessions.changing(self._stored):
            return self._conversation.seal_envelope(envelope)

    def hello(self) -> bytes | None:
        """Our first message, where we were called: we confirm. None where the caller's client would not know that."""
        return self.seal(self._mail.receipt(())) if self._confirms else None

    def receipt(self) -> bytes | None:
        """One for all texts since the last one; None where none is due, or the peer's client would not know it."""
        due = self._due[:MAX_IDS]
        content = self.seal(self._mail.receipt(tuple(due))) if due and self._confirms else None
        del self._due[: len(due)]
        return content

    # theirs -----------------------------------------------------------------------------------------------------------

    def hear_first(self, received: Received) -> Heard:
        """What the receiver of the call has opened as the first message, before there was this."""
        return self._hear(lambda session: received, b"")

    def hear_untrusted(self, content: bytes) -> Heard:
        """A `frwd` of the peer. `Undecryptable` changes nothing."""
        message = self._conversation.ratchet_message(content)
        return self._hear(lambda session: session.open_untrusted(message, self._mail.now_ms() / 1000), message)

    def _hear(self, opening: Callable[[ChatSession], Received], message: bytes) -> Heard:
        mail, confirms = self._mail, self._confirms
        with mail.sessions.changing(self._stored) as stored:
            received = opening(stored.session)
            effects = mail.incoming.apply(stored, self.peer, received, message, live=True)
            heard = Heard(received, effects.events)
            if received.envelope.receipts is not None:
                confirms = True
            elif not self._heard and not received.missing:
                confirms = False  # its first message would have said so
                heard.events += self._let_go(outbox.release_live(mail.database, mail.server, self.peer))
        self._confirms, self._heard = confirms, True
        self._due += effects.confirm
        if not confirms:
            mail.gaps += received.missing - received.late
        self._waiting -= {event.number for event in heard.events if isinstance(event, ev.MessageChanged)}
        if not self._waiting:
            self.settled.set()
            self.settled = trio.Event()
        if heard.events:
            mail.outgoing.poke()  # what changes a text that is confirmed now may go
        return heard

    # the end ----------------------------------------------------------------------------------------------------------

    def release(self, *, cut: bool) -> list[ev.Event]:
        """It is over, or a text was refused: what has no receipt goes on by mail, or is as well as it will ever be.

        `cut`: what was said last may not have come through. Without, who has not spoken yet is taken for a client that
        confirms nothing; with, for one that does.
        """
        mail = self._mail
        with mail.sessions.step():
            left = outbox.release_live(mail.database, mail.server, self.peer)
            confirms = cut if self._confirms is None else self._confirms
            events = mail.outgoing.take_over(left) if confirms else self._let_go(left)
        self._waiting.clear()
        mail.outgoing.poke()
        return events

    def _let_go(self, left: list[Waiting]) -> list[ev.Event]:
        """Said, and nobody will ever confirm it."""
        events: list[ev.Event] = []
        for row in left:
            outbox.remove(self._mail.database, row.place)
            if row.number is not None and rows.set_state(
                self._mail.database, row.number, State.SENT, Cause.UNCONFIRMED, self._mail.now_ms()
            ):
                events.append(ev.MessageChanged(row.number, self.peer, State.SENT, Cause.UNCONFIRMED))
        return events
