"""The chat under way, one at a time, from `begin` to `drop`: what is said in it, what comes, how it ends.

`keying` makes it secure; what the user types until then is held. The secure chat is seen as messages by `live`: what is
said or heard is on disk first. Texts that a chat could not bring to its peer are given back, or go by mail.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any, Final, Protocol

import trio

from messageapp.e2ee.envelope import Envelope, check_text
from messageapp.e2ee.ratchet import Undecryptable
from messageapp.e2ee.sas import SasMessage
from messageapp.e2ee.session import Received
from messageapp.errors import CannotStore, MessageAppError, RequestRefused
from messageapp.wire.commands import ErrorCode, Nothing, Raw
from messageapp_keys.names import fold

from . import events as ev
from .checks import LiveChecks
from .context import ClientContext
from .conversations import Conversation
from .following import LogFollower
from .live import Heard, LiveChat
from .mailing import Mailing
from .messages import Messages
from .session import Session

__all__ = ["Chat", "Host"]

HELD_TEXTS: Final = 100  # typed while the keys are made
REMEMBERED_SENDS: Final = 512  # more than a server's queue: to name the text that it refused
RECEIPT_SECONDS: Final = 1.0  # for the receipt of what was said last, when a chat is left


class Host(Protocol):
    """The client, seen from here."""

    @property
    def exiting(self) -> bool: ...
    async def tell(self, event: ev.Event) -> None: ...
    async def not_stored(self, error: CannotStore) -> None: ...
    def note_stored(self) -> None: ...


class Chat:
    """`conversation` is None while there is no chat, `live` until it is secure."""

    def __init__(
        self,
        host: Host,
        session: Session,
        context: ClientContext,
        log: LogFollower,
        mail: Mailing,
        messages: Messages,
    ) -> None:
        self.conversation: Conversation | None = None
        self.live: LiveChat | None = None
        self.changed = trio.Event()  # another conversation, or it has become secure; then this is a new event
        self.checks = LiveChecks(
            context.account.trust, context.server, lambda: self.conversation, self._send_check, host.tell
        )
        self._host = host
        self._session = session
        self._context = context
        self._log = log
        self._mail = mail
        self._messages = messages
        self._held: list[str] = []
        self._left_over: list[ev.Event] = []  # what follows from the end of a chat, still to be told
        self._sends: OrderedDict[int, tuple[str, str, int]] = OrderedDict()  # frwd id → (peer, text, its number)

    @property
    def suite(self) -> str | None:
        suite = None if self.conversation is None else self.conversation.suite
        return None if suite is None else suite.name

    # the beginning ----------------------------------------------------------------------------------------------------

    def begin(self, conversation: Conversation) -> None:
        """It is to be made secure."""
        self.conversation = conversation
        self.note_changed()

    def go_live(self, conversation: Conversation, first: Received | None) -> Heard | None:
        """From here on all that is sent or received is on disk first. What the first message was, if one came."""
        self.live = LiveChat(self._mail, self._messages, conversation)
        return None if first is None else self.live.hear_first(first)

    async def send_held(self, conversation: Conversation) -> None:
        """It is secure: what was typed meanwhile goes out."""
        while self._held and self.conversation is conversation and not self._host.exiting:
            text = self._held.pop(0)
            try:
                await self._send(text)
            except CannotStore as error:
                await self._host.tell(ev.NotDelivered(conversation.peer, text, str(error).removeprefix("not sent: ")))

    def note_changed(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    # what is sent -----------------------------------------------------------------------------------------------------

    async def say(self, text: str) -> int:
        """`Client.say`, while the session lives."""
        conversation = self.conversation
        if conversation is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "there is no chat")
        if not conversation.secure or self._held:  # what was typed first goes first
            if len(self._held) >= HELD_TEXTS:
                raise RequestRefused(ErrorCode.NOT_NOW, "too much is waiting for the chat to be secure")
            self._held.append(check_text(text))
            return 0
        return await self._send(text)

    async def write(self, peer: str, text: str, reply_to: int | None) -> int:
        """`Client.write`: live where that is possible."""
        live, ended = self.live, self._session.ended is not None
        if live is None or self._held or self._host.exiting or ended or fold(live.peer) != fold(peer):
            with self._storing():
                number = self._messages.write(peer, text, reply_to=reply_to)
            if ended:
                with contextlib.suppress(CannotStore):
                    self._mail.close()
            self._mail.poke(peer)
            return number
        with self._storing():
            content, number = live.say(text, reply_to)
        with contextlib.suppress(MessageAppError):  # the session is over: what is on disk goes by the next one
            await self.forward(live.peer, content, text, number)
        return number

    async def _send(self, text: str) -> int:
        live = self.live
        assert live is not None  # noqa: S101 - by state
        with self._storing():
            content, number = live.say(text)
        await self.forward(live.peer, content, text, number)
        return number

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """What is to be sent is stored first."""
        try:
            yield
        except CannotStore as error:
            raise CannotStore(f"not sent: {error}") from None
        self._host.note_stored()

    async def _send_check(self, conversation: Conversation, message: SasMessage) -> None:
        live = self.live
        assert live is not None  # noqa: S101 - by state
        content = live.seal(Envelope(self._context.random(16), self._context.wall_ms(), sas=message))
        await self.forward(conversation.peer, content, "a step of the live check")

    async def confirm(self) -> None:
        """One receipt for all that came in one read."""
        try:
            content = None if self.live is None else self.live.receipt()
        except CannotStore as error:
            # It goes with the next one; without, the text comes by mail and is known.
            await self._host.not_stored(error)
            return
        if content is not None and self.live is not None:
            await self.forward(self.live.peer, content)

    async def await_receipts(self) -> None:
        """What was said last is most likely on its way: it need not go by mail."""
        with trio.move_on_after(RECEIPT_SECONDS):
            while self._session.ended is None and self.live is not None and self.live.awaits_receipts:
                await self.live.settled.wait()

    async def forward(self, peer: str, content: bytes, text: str = "", number: int = 0) -> None:
        """`frwd`. `text` is what the user hears of if the server does not hand it on, `number` its row."""

        def note(identifier: int) -> None:
            self._sends[identifier] = (peer, text, number)
            if len(self._sends) > REMEMBERED_SENDS:
                self._sends.popitem(last=False)

        await self._session.post("frwd", Raw(content), noted=note)

    async def note_refused(self, identifier: int, code: int) -> None:
        """The server did not hand it on. A text that goes through its storage now is not lost."""
        peer, text, number = self._sends.pop(identifier, ("", "", 0))
        live = self.live
        if live is not None and live.peer == peer:
            for event in self._release(live, cut=True):
                await self._host.tell(event)
        if text and not self._mail.carries(number):
            full = code == ErrorCode.QUEUE_FULL
            await self._host.tell(
                ev.NotDelivered(peer, text, f"the queue of {peer} is full" if full else "the chat was over")
            )

    # what comes in ----------------------------------------------------------------------------------------------------

    async def hear(self, conversation: Conversation, live: LiveChat, content: bytes) -> None:
        """A `frwd` of the peer, once the chat is secure."""
        try:
            heard = live.hear_untrusted(content)
        except Undecryptable:
            await self._host.tell(ev.UndecryptableText(conversation.peer))
        except CannotStore as error:
            await self._host.not_stored(error)  # there is no receipt, so it comes by mail
        else:
            self._host.note_stored()
            await self.take_in(conversation, heard)

    async def take_in(self, conversation: Conversation, heard: Heard) -> None:
        """All that follows from a message that is on disk."""
        received = heard.received
        self._log.hear_peer(conversation.peer, received.envelope.checkpoint)
        if received.missing:
            await self._host.tell(ev.Missing(conversation.peer, received.missing))
        for event in heard.events:
            await self._host.tell(event)
        if received.envelope.sas is not None:
            try:
                await self.checks.receive(conversation, received.envelope.sas)
            except CannotStore as error:
                await self.part(conversation, ev.ChatStopped(conversation.peer, str(error)))

    # the end ----------------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Whatever the server replies (it may have ended the chat already), it is over for us."""
        conversation = self.conversation
        if conversation is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "there is no chat to leave")
        await self.await_receipts()

        def apply(reply: Any) -> bool:
            if isinstance(reply, RequestRefused) and reply.code == ErrorCode.RATE:
                raise reply
            return self.drop(conversation, "the chat did not become secure")

        if await self._session.request("exch", Nothing(), apply):
            await self.give_back()
            await self._host.tell(ev.ChatOver(conversation.peer, by_us=True, disconnected=False))

    async def hear_left(self, *, disconnected: bool) -> None:
        """The event `exch`: the peer has left, or was cut."""
        conversation = self.conversation
        if conversation is None:
            return
        self.drop(conversation, "the chat ended before it was secure", cut=disconnected)
        await self.give_back()
        await self._host.tell(
            ev.ChatOver(conversation.peer, by_us=False, disconnected=disconnected, secure=conversation.secure)
        )

    async def fail(self, reason: str) -> None:
        """It cannot become secure, or must not be."""
        conversation = self.conversation
        if conversation is not None:
            await self.part(conversation, ev.ChatFailed(conversation.peer, reason))

    async def stop(self, peer: str | None, reason: str) -> None:
        """Leave the chat with `peer`, or with whoever it is."""
        conversation = self.conversation
        if conversation is None or peer not in (None, conversation.peer):
            return
        event = (ev.ChatStopped if conversation.secure else ev.ChatFailed)(conversation.peer, reason)
        with contextlib.suppress(MessageAppError):
            await self.part(conversation, event)

    async def part(self, conversation: Conversation, event: ev.Event) -> None:
        """Leave by ourselves, from within the reader: the reply to `exch` needs nothing more."""
        self.drop(conversation, "the chat did not become secure")
        await self.give_back()
        await self._host.tell(event)
        await self._session.post("exch", Nothing())

    def drop(self, conversation: Conversation, reason: str, *, cut: bool = False) -> bool:
        """It is over; `cut`: by a lost connection. At once, so that a text that was meant for this peer never waits for
        the next one."""
        if self.conversation is not conversation:
            return False
        live, self.live = self.live, None
        self.conversation = None
        self._mail.sessions.in_chat = b""
        self._left_over += [ev.NotDelivered(conversation.peer, text, reason) for text in self._held]
        self._held.clear()
        if live is not None:
            self._left_over += self._release(live, cut=cut)
        self.note_changed()
        return True

    def _release(self, live: LiveChat, *, cut: bool) -> list[ev.Event]:
        try:
            return live.release(cut=cut)
        except CannotStore:
            self._mail.later(partial(live.release, cut=cut))
            return []

    async def give_back(self) -> None:
        """By who left, or by the reader where the session ends before he has his turn."""
        while self._left_over:
            await self._host.tell(self._left_over.pop(0))
