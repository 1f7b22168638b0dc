"""A logged-in client: requests out, replies and events in, one conversation at a time (protocol §6).

    OFFLINE → M1_SENT → M3_SENT → ONLINE → (CALLING | RINGING) → KEYING → CHAT → ONLINE

The rooms behind it: `session` (the connection and its tasks), `calls` (who calls whom), `keying` (until the chat is
secure), `chat` (what is said in it), `online` (who is there), `mailing` (messages through the server's storage),
`following` (the key log).

The channel of events is bounded: a user interface that does not read slows the server's sending to us, nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, Final

import trio

from messageapp.clock import wall_ms
from messageapp.errors import (
    CannotStore,
    ConnectionCut,
    MessageAppError,
    RemoteProtocolError,
    RequestRefused,
    ServerGoodbye,
    UnusableSetup,
)
from messageapp.keypool import KeySource
from messageapp.link import Link
from messageapp.wire.commands import (
    Block,
    BlockList,
    BlockOp,
    ByeReason,
    Call,
    ErrorCode,
    Errors,
    Invite,
    Left,
    Listing,
    Nothing,
    PeerKey,
    Raw,
)
from messageapp.wire.keylog_forms import LogHead
from messageapp.wire.login import LoggedIn
from messageapp.wire.mail_forms import Delivery, PrekeyState
from messageapp.wire.records import Kind
from messageapp.wire.states import Role
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold
from messageapp_keys.primitives import Random

from . import events as ev
from .calls import Calls
from .chat import Chat
from .context import ClientContext
from .following import LogFollower
from .keying import Keying
from .login import Account, log_in
from .mailing import Mailing
from .messages import Messages
from .online import Online
from .session import Incoming, Session, expect

__all__ = ["Client", "State", "open_client"]

EVENTS: Final = 1024  # events waiting for the user interface; then the reader waits
EXIT_SECONDS: Final = 5.0
PARTING_SECONDS: Final = 2.0  # for what was written last, and for the first prekeys of somebody who leaves at once


class State(Enum):
    ONLINE = "online"
    CALLING = "calling"
    RINGING = "ringing"
    KEYING = "keying"
    CHAT = "chat"


@asynccontextmanager
async def open_client(
    stream: trio.abc.Stream,
    account: Account,
    keys: KeySource,
    *,
    random: Random = os.urandom,
    wall_ms: Callable[[], int] = wall_ms,
) -> AsyncIterator[Client]:
    """Log in over `stream` and run until the block is left. `keys` gives temporary RSA keys for being called.

    Raises `ServerNotAuthenticated`, `LoginRefused`, `CannotConnect` for a login that fails. Later ends come as the
    event `Ended`. Leaving closes the stream; only `Client.exit` says goodbye.
    """
    link = Link(stream, Role.CLIENT)
    try:
        info = await log_in(link, account, random, wall_ms())
        link.connection.start_session(info.sealer, info.opener, trio.current_time())
        client = Client(link, info, account, keys, random, wall_ms)
        async with trio.open_nursery() as nursery:
            client.start(nursery)
            try:
                yield client
            finally:
                nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)


class Client:
    """Made by `open_client`. What asks the server raises `RequestRefused`, or the session's error once it ended."""

    def __init__(
        self,
        link: Link,
        info: LoggedIn,
        account: Account,
        keys: KeySource,
        random: Random,
        wall_ms: Callable[[], int],
    ) -> None:
        self.info = info
        self.account = account
        context = ClientContext(account, self.server_name, random, wall_ms)
        self.log = LogFollower(self, context, info)
        self.exiting = False  # `exit` was called
        self._messages = Messages(context.database, context.server, account.user, wall_ms, random)
        self._mail = Mailing(self, context, self.log)
        self._session = Session(link, random, self._react, self._at_end, lambda: self._chat.confirm())
        self._calls = Calls(self._session, context, self.log, self.tell)
        self._chat = Chat(self, self._session, context, self.log, self._mail, self._messages)
        self._keying = Keying(self._chat, context, self.log, self._mail, keys, self.tell)
        self._online = Online(self._session, self._mail)
        self.checks = self._chat.checks
        self._to_ui, self.events = trio.open_memory_channel[ev.Event](EVENTS)
        self._stores = True  # the disk took what came last

    # what there is ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        conversation = self._chat.conversation
        if conversation is not None:
            return State.CHAT if conversation.secure else State.KEYING
        if self._calls.outgoing is not None:
            return State.CALLING
        return State.ONLINE if self._calls.ring is None else State.RINGING

    @property
    def peer(self) -> str | None:
        """Who is called, calling, or in the chat."""
        conversation = self._chat.conversation
        return self._calls.peer if conversation is None else conversation.peer

    @property
    def caller(self) -> str | None:
        """Who is calling us."""
        ring = self._calls.ring
        return None if ring is None else ring.user

    @property
    def ended(self) -> MessageAppError | None:
        """Why the session is over; None while it lives."""
        return self._session.ended

    @property
    def server_name(self) -> str:
        """Canonical: the one in pins and safety numbers."""
        return self.info.welcome.server_name

    @property
    def messages(self) -> Messages:
        """Everything about messages that needs no server: history, search, states, drafts. Works after the end, too."""
        return self._messages

    @property
    def mail(self) -> Mailing:
        """What sends and receives messages through the server's storage; `poke` it after queueing in `messages`."""
        return self._mail

    @property
    def online(self) -> dict[str, int]:
        """Who is, as far as we know, ourselves included: name → state."""
        return self._online.users

    def key_seen(self, peer: str) -> IdentityBundle | None:
        """The key that the server last gave for `peer`, in this session; nothing says yet that it is right."""
        return self._keying.keys_seen.get(peer)

    @property
    def chat_suite(self) -> str | None:
        return self._chat.suite

    @property
    def peer_bundle(self) -> IdentityBundle | None:
        """The key by which the peer of a secure chat has signed."""
        chat = self._chat.conversation
        return chat.bundle if chat is not None and chat.secure else None

    @property
    def peer_verified(self) -> bool:
        """The chat is secure, and its peer verified by exactly the key of this chat."""
        chat = self._chat.conversation
        if chat is None or not chat.secure:
            return False
        return self.account.trust.verified(self.server_name).get(fold(chat.peer)) == chat.bundle.encode()

    # tasks ------------------------------------------------------------------------------------------------------------

    def start(self, nursery: trio.Nursery) -> None:
        """Run in `nursery`, until it is cancelled."""
        self._session.start(nursery)
        nursery.start_soon(self._online.run)
        nursery.start_soon(self._keying.watch)
        nursery.start_soon(self._mail.run, nursery)
        self.checks.open(nursery)
        if self.log.kept:
            nursery.start_soon(self.log.run)

    def want_refresh(self) -> None:
        """Completion is being asked for: make `online` fresh if it is not. In the trio thread."""
        self._online.want()

    async def _at_end(self, error: MessageAppError) -> None:
        """What was held is given back, and the user interface hears why."""
        # Only a goodbye says that nothing is missing.
        own_exit = self.exiting and isinstance(error, ServerGoodbye) and error.reason == ByeReason.EXIT
        with contextlib.suppress(UnusableSetup):  # the next session finds what is there
            if self._chat.conversation is not None:
                why = "the session ended before the chat was secure"
                self._chat.drop(self._chat.conversation, why, cut=not own_exit)
            self._mail.close()
        self._calls.end()
        self._chat.note_changed()
        await self._chat.give_back()
        await self.tell(ev.Ended(None if own_exit else error))
        self._to_ui.close()

    # requests ---------------------------------------------------------------------------------------------------------

    async def list_users(self) -> Listing:
        """Who is online, ourselves included."""
        return await self._online.list()

    async def chat(self, user: str) -> bool:
        """Call `user`. True: it rings there; False: they had called us too, and the chat begins (glare)."""
        if self.ended is not None:
            raise self.ended
        if self.state not in (State.ONLINE, State.RINGING):
            doing = "calling" if self.state is State.CALLING else "in a chat with"
            raise RequestRefused(ErrorCode.NOT_NOW, f"already {doing} {self.peer}")
        return await self._calls.call(user)

    async def accept(self) -> None:
        """Accept whoever is calling; `Keying` and `ChatSecure` follow as events."""
        await self._calls.accept()

    async def refuse(self) -> None:
        """Refuse whoever is calling."""
        await self._calls.refuse()

    async def cancel(self) -> str:
        """Take the own call back; whom it was to."""
        return await self._calls.cancel()

    async def leave(self) -> None:
        """Leave the chat, or a key exchange."""
        await self._chat.leave()

    async def say(self, text: str) -> int:
        """Send a text; its number in `messages`. While the keys are made it is held (0: it has none yet).

        `MessageTooLong`; `RequestRefused` outside a chat; `CannotStore` for a full disk: then nothing was sent.
        """
        if self.ended is not None:
            raise self.ended
        if self.exiting:  # the server reads nothing behind `exit`
            raise RequestRefused(ErrorCode.NOT_NOW, "logging off")
        return await self._chat.say(text)

    async def write(self, peer: str, text: str, *, reply_to: int | None = None) -> int:
        """Send `text` to `peer`, present or not, and return its number in `messages`, whose state says how it goes.

        Live where a secure chat with this peer is up; else through the server's storage, also after the end of the
        session: then it is queued, and the next session sends it. On disk when this returns. Raises `MessageTooLong`,
        `MessagesRefused`, `CannotStore` for a full disk; then nothing was sent.
        """
        return await self._chat.write(peer, text, reply_to)

    async def block(self, user: str) -> None:
        """The server lets `user` call us no more, and does not say so. What we have with each other ends first."""
        if self.peer is not None and fold(self.peer) == fold(user):
            ends = {State.CALLING: self.cancel, State.RINGING: self.refuse}
            with contextlib.suppress(RequestRefused):  # it is over meanwhile, or the server ends it
                await ends.get(self.state, self.leave)()
        await self._change_blocks(BlockOp.BLOCK, user)

    async def unblock(self, user: str) -> None:
        await self._change_blocks(BlockOp.UNBLOCK, user)
        self._mail.poke(user)

    async def blocked(self) -> tuple[str, ...]:
        """Whom we block at this server."""
        found: BlockList = await self._change_blocks(BlockOp.LIST)
        return found.users

    async def _change_blocks(self, op: BlockOp, user: str = "") -> Any:
        form = BlockList if op is BlockOp.LIST else Raw
        try:
            return await self._session.request("blck", Block(op, user), lambda reply: expect(reply, form))
        except RequestRefused as error:
            if error.code == ErrorCode.UNKNOWN_VERB:
                raise RequestRefused(error.code, "this server cannot block users") from None
            raise

    async def exit(self) -> None:
        """Log off: `exit`, wait for `byee` a little, and end without it if need be: `Ended` always follows."""
        self.exiting = True
        await self._chat.await_receipts()
        with trio.move_on_after(PARTING_SECONDS):
            await self._mail.settle()
        with trio.move_on_after(EXIT_SECONDS):
            with contextlib.suppress(MessageAppError):
                await self._session.request("exit", Nothing())
        await self._session.end(ConnectionCut())  # does nothing after a goodbye

    # what comes in ----------------------------------------------------------------------------------------------------

    async def _react(self, incoming: Incoming) -> None:
        """In the reader, in the order of the wire."""
        argument = incoming.argument
        if incoming.kind is Kind.EVENT:
            await self._receive_event(incoming.verb, argument)
        elif self._calls.connects(argument):
            await self._begin(argument)
        elif not incoming.awaited and isinstance(argument, Errors):
            await self._chat.note_refused(incoming.id, argument.code)

    async def _receive_event(self, verb: bytes, argument: Any) -> None:
        match verb:
            case b"reqt":
                await self._calls.hear_ring(expect(argument, Call))
            case b"cach":
                await self._calls.hear_canceled(expect(argument, Invite))
            case b"refu":
                await self._calls.hear_refused(expect(argument, Call))
            case b"pubk":
                await self._begin(expect(argument, PeerKey))
            case b"mail":
                self._mail.hear(expect(argument, Delivery))
            case b"prek":
                self._mail.hear_state(expect(argument, PrekeyState))
            case b"klog":
                self.log.hear_head(expect(argument, LogHead))
            case b"frwd":
                await self._keying.receive(expect(argument, Raw).data)
            case b"exch":
                await self._chat.hear_left(disconnected=expect(argument, Left).disconnected)

    async def _begin(self, key: PeerKey) -> None:
        """Only for a call that we know of."""
        if not self._calls.claim(key) or self._chat.conversation is not None:
            raise RemoteProtocolError("the server connects us with someone who was not called")
        await self._keying.begin(key)

    # the host of its parts --------------------------------------------------------------------------------------------

    async def ask(self, verb: str, argument: Any) -> Any:
        """A request whose reply is waited for."""
        return await self._session.request(verb, argument)

    async def post(self, verb: str, argument: Any, apply: Callable[[Any], None]) -> None:
        """A request whose reply only `apply` sees, in the reader."""
        await self._session.begin(verb, argument, apply)

    async def tell(self, event: ev.Event) -> None:
        """To the user interface, which hears nothing after `Ended`."""
        with contextlib.suppress(trio.ClosedResourceError):
            try:
                self._to_ui.send_nowait(event)  # many events, one wake-up
            except trio.WouldBlock:
                await self._to_ui.send(event)

    async def failed(self, error: MessageAppError) -> None:
        """A part cannot go on: the end of the session."""
        await self._session.end(error)

    async def not_stored(self, error: CannotStore) -> None:
        """Said once, until something could be stored again."""
        if self._stores:
            self._stores = False
            await self.tell(ev.StorageTrouble(str(error)))

    def note_stored(self) -> None:
        self._stores = True

    async def log_checked(self) -> None:
        """The key log was read further."""
        self._mail.hear_log()
        await self._keying.log_checked()

    async def log_stopped(self, peer: str | None, reason: str) -> None:
        """The key log is against the key of `peer`, or against all."""
        await self._chat.stop(peer, reason)
