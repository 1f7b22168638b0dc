"""A logged-in client: requests out, replies and events in, one conversation at a time (protocol §6).

    OFFLINE → M1_SENT → M3_SENT → ONLINE → (CALLING | RINGING) → KEYING → CHAT → ONLINE

The tasks of the connection are in `session`. The channel of events is bounded: a user interface that does not read
slows the server's sending to us, nothing else.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import trio

from messageapp.e2ee.envelope import check_text
from messageapp.e2ee.exchange import ExchangeFailed, Parties
from messageapp.e2ee.ratchet import Undecryptable
from messageapp.e2ee.sas import SasMessage
from messageapp.errors import (
    ConnectionCut,
    MessageAppError,
    RemoteProtocolError,
    RequestRefused,
    ServerGoodbye,
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
from messageapp.wire.records import Kind
from messageapp.wire.states import Role
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.kem import DEFAULT_SUITES, Suite, TemporaryKey
from messageapp_keys.names import fold
from messageapp_keys.primitives import Random

from . import events as ev
from .checks import LiveChecks
from .conversations import Conversation, NeedKey, Step
from .following import LogFollower
from .lies import KeyRefused
from .login import Account, log_in
from .session import Incoming, Session, expect

__all__ = ["Client", "State", "open_client"]

EVENTS: Final = 1024  # events waiting for the user interface; then the reader waits
HELD_TEXTS: Final = 100  # typed while the keys are made
HELD_FRAMES: Final = 4  # of the peer, while the key log is read; an honest one sends C1 and then waits
REMEMBERED_SENDS: Final = 512  # more than a server's queue: to name the text that it refused
UNANSWERED_SECONDS: Final = 55.0  # a call rings for 60
KEYING_SECONDS: Final = 30.0
EXIT_SECONDS: Final = 5.0
REFRESH_SECONDS: Final = 10.0  # who is online, for completion
_FRESH_SECONDS: Final = 2.0


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
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
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


@dataclass(slots=True)
class _Unchecked:
    """A chat whose peer's key the key log has not confirmed yet: nothing is sent, and what comes waits."""

    conversation: Conversation
    key: PeerKey
    held: list[bytes] = field(default_factory=list)
    confirmed: bool = False  # and what was held is being taken in


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
        self.online: dict[str, int] = {}
        self.log = LogFollower(self, account, info, wall_ms)
        self.checks = LiveChecks(
            account.trust, self.server_name, lambda: self._conversation, self._send_check, self._tell
        )
        self._session = Session(link, random, self._react, self._at_end)
        self._keys = keys
        self._random = random
        self._wall_ms = wall_ms
        self._to_ui, self.events = trio.open_memory_channel[ev.Event](EVENTS)
        self._sends: OrderedDict[int, tuple[str, str]] = OrderedDict()  # frwd id → (peer, text)
        self._ring: Call | None = None
        self._outgoing: Call | None = None
        self._accepted: Call | None = None  # the call that the user has accepted: no other may begin
        self._key: PeerKey | None = None
        self._conversation: Conversation | None = None
        self._unchecked: _Unchecked | None = None
        self._held: list[str] = []
        self._left_over: list[ev.NotDelivered] = []  # held when their chat ended, still to be given back
        self._call_since = 0.0
        self._keys_seen: dict[str, IdentityBundle] = {}  # as the server gave them, pinned or not
        self._keying_since = 0.0
        self._keying_changed = trio.Event()
        self._refresh_wanted = trio.Event()
        self._refreshed = -1e9
        self._exiting = False

    # what there is ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        if self._conversation is not None:
            return State.CHAT if self._conversation.secure else State.KEYING
        if self._outgoing is not None:
            return State.CALLING
        return State.ONLINE if self._ring is None else State.RINGING

    @property
    def peer(self) -> str | None:
        """Who is called, calling, or in the chat."""
        if self._conversation is not None:
            return self._conversation.peer
        call = self._outgoing or self._ring
        return None if call is None else call.user

    @property
    def caller(self) -> str | None:
        """Who is calling us."""
        return None if self._ring is None else self._ring.user

    @property
    def ended(self) -> MessageAppError | None:
        """Why the session is over; None while it lives."""
        return self._session.ended

    @property
    def server_name(self) -> str:
        """Canonical: the one in pins and safety numbers."""
        return self.info.welcome.server_name

    def key_seen(self, peer: str) -> IdentityBundle | None:
        """The key that the server last gave for `peer`, in this session; nothing says yet that it is right."""
        return self._keys_seen.get(peer)

    @property
    def chat_suite(self) -> str | None:
        suite = None if self._conversation is None else self._conversation.suite
        return None if suite is None else suite.name

    @property
    def peer_bundle(self) -> IdentityBundle | None:
        """The key by which the peer of a secure chat has signed."""
        chat = self._conversation
        return chat.bundle if chat is not None and chat.secure else None

    @property
    def peer_verified(self) -> bool:
        """The chat is secure, and its peer verified by exactly the key of this chat."""
        chat = self._conversation
        if chat is None or not chat.secure:
            return False
        return self.account.trust.verified(self.server_name).get(fold(chat.peer)) == chat.bundle.encode()

    # tasks ------------------------------------------------------------------------------------------------------------

    def start(self, nursery: trio.Nursery) -> None:
        """Run in `nursery`, until it is cancelled."""
        self._session.start(nursery)
        nursery.start_soon(self._refresh)
        nursery.start_soon(self._watch_keying)
        self.checks.open(nursery)
        if self.log.kept:
            nursery.start_soon(self.log.run)

    async def _refresh(self) -> None:
        """Keep `online` fresh without anybody asking."""
        while self.ended is None:
            try:
                await self.list_users()
            except RequestRefused:
                pass
            except MessageAppError:
                return
            with trio.move_on_after(REFRESH_SECONDS):
                await self._refresh_wanted.wait()
            self._refresh_wanted = trio.Event()

    def want_refresh(self) -> None:
        """Completion is being asked for: make `online` fresh if it is not. In the trio thread."""
        if trio.current_time() - self._refreshed > _FRESH_SECONDS:
            self._refresh_wanted.set()

    async def _watch_keying(self) -> None:
        """A peer that stalls in the exchange does not keep us there."""
        while True:
            changed = self._keying_changed
            watched = self._conversation
            if watched is None or watched.secure:
                await changed.wait()
                continue
            with trio.move_on_at(self._keying_since + KEYING_SECONDS):
                await changed.wait()
                continue
            if self._conversation is watched and not watched.secure:
                what = "the other side did not finish the key exchange"
                with contextlib.suppress(MessageAppError):  # the session may be over too
                    await self._fail_chat(what if self._unchecked is None else "the key log could not be read in time")

    async def _at_end(self, error: MessageAppError) -> None:
        """What was held is given back, and the user interface hears why."""
        if self._conversation is not None:
            self._drop(self._conversation, "the session ended before the chat was secure")
        self._outgoing = self._ring = None
        self._changed_keying()
        await self._give_back()
        # Only a goodbye says that nothing is missing.
        own_exit = self._exiting and isinstance(error, ServerGoodbye) and error.reason == ByeReason.EXIT
        await self._tell(ev.Ended(None if own_exit else error))
        self._to_ui.close()

    async def _tell(self, event: ev.Event) -> None:
        """To the user interface, which hears nothing after `Ended`."""
        with contextlib.suppress(trio.ClosedResourceError):
            try:
                self._to_ui.send_nowait(event)  # many events, one wake-up
            except trio.WouldBlock:
                await self._to_ui.send(event)

    # requests ---------------------------------------------------------------------------------------------------------

    async def list_users(self) -> Listing:
        """Who is online, ourselves included."""

        def apply(reply: Any) -> Listing:
            listing: Listing = expect(reply, Listing)
            self.online = {entry.user: entry.state for entry in listing.entries}
            self._refreshed = trio.current_time()
            return listing

        listing: Listing = await self._session.request("list", Nothing(), apply)
        return listing

    async def chat(self, user: str) -> bool:
        """Call `user`. True: it rings there; False: they had called us too, and the chat begins (glare)."""
        if self.ended is not None:
            raise self.ended
        if self.state not in (State.ONLINE, State.RINGING):
            doing = "calling" if self.state is State.CALLING else "in a chat with"
            raise RequestRefused(ErrorCode.NOT_NOW, f"already {doing} {self.peer}")
        if self._accepted is not None and self._accepted is self._ring:
            raise RequestRefused(ErrorCode.NOT_NOW, f"already answering {self._accepted.user}")
        self.log.raise_alarm()
        self.log.nudge()
        call = self._outgoing = Call(user, self._random(16))
        self._call_since = trio.current_time()

        def apply(reply: Any) -> Any:
            if isinstance(reply, MessageAppError) and self._outgoing is call:
                self._outgoing = None
            return self._connected(reply) if isinstance(reply, PeerKey) else expect(reply, Call)

        try:
            reply = await self._session.request("chat", call, apply)
        except RequestRefused as error:
            if error.code == ErrorCode.NOT_AVAILABLE:
                raise RequestRefused(error.code, f"{user} is not available") from None
            raise
        if isinstance(reply, PeerKey):
            return False
        self.account.trust.prepare_number(self.server_name)  # while it rings
        return True

    async def accept(self) -> None:
        """Accept whoever is calling; `Keying` and `ChatSecure` follow as events."""
        ring = self._ring
        if ring is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "nobody is calling")
        self.log.raise_alarm()
        self.log.nudge()
        self._accepted = ring

        def apply(reply: Any) -> PeerKey:
            if isinstance(reply, MessageAppError) and self._accepted is ring:
                self._accepted = None
            return self._connected(expect(reply, PeerKey))

        await self._session.request("acpt", ring, apply)

    def _connected(self, key: PeerKey) -> PeerKey:
        """The reply to `acpt` or `chat`; `_react` goes on with it. As the reply to anything else it means nothing."""
        self._key = key
        return key

    async def refuse(self) -> None:
        ring = self._ring
        if ring is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "nobody is calling")

        def apply(reply: Any) -> None:
            if self._ring is ring:  # not a later call
                self._ring = None
            expect(reply, Raw)

        await self._session.request("refu", ring, apply)

    async def cancel(self) -> str:
        """Take the own call back; whom it was to."""
        call = self._outgoing
        if call is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "there is no call to cancel")

        def apply(reply: Any) -> None:
            expect(reply, Raw)
            self._outgoing = None

        await self._session.request("cach", Invite(call.invite), apply)
        return call.user

    async def leave(self) -> None:
        """Leave the chat, or a key exchange."""
        conversation = self._conversation
        if conversation is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "there is no chat to leave")
        await self._leave(conversation, ev.ChatOver(conversation.peer, by_us=True, disconnected=False))

    async def _leave(self, conversation: Conversation, event: ev.Event) -> None:
        """Whatever the server replies (it may have ended the chat already), it is over for us."""

        def apply(reply: Any) -> bool:
            if isinstance(reply, RequestRefused) and reply.code == ErrorCode.RATE:
                raise reply
            return self._drop(conversation, "the chat did not become secure")

        if await self._session.request("exch", Nothing(), apply):
            await self._give_back()
            await self._tell(event)

    async def say(self, text: str) -> None:
        """Send a text; while the keys are made it is held. `MessageTooLong`; `RequestRefused` outside a chat."""
        if self.ended is not None:
            raise self.ended
        if self._exiting:  # the server reads nothing behind `exit`
            raise RequestRefused(ErrorCode.NOT_NOW, "logging off")
        conversation = self._conversation
        if conversation is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "there is no chat")
        if not conversation.secure or self._held:  # what was typed first goes first
            if len(self._held) >= HELD_TEXTS:
                raise RequestRefused(ErrorCode.NOT_NOW, "too much is waiting for the chat to be secure")
            self._held.append(check_text(text))
            return
        await self._send_text(conversation, text)

    async def _send_text(self, conversation: Conversation, text: str) -> None:
        await self._forward(conversation.peer, conversation.seal(text, self._wall_ms()), text)

    async def _send_check(self, conversation: Conversation, message: SasMessage) -> None:
        content = conversation.seal_check(message, self._wall_ms())
        await self._forward(conversation.peer, content, "a step of the live check")

    async def block(self, user: str) -> None:
        """The server lets `user` call us no more, and does not say so. What we have with each other ends first."""
        if self.peer is not None and fold(self.peer) == fold(user):
            ends = {State.CALLING: self.cancel, State.RINGING: self.refuse}
            with contextlib.suppress(RequestRefused):  # it is over meanwhile, or the server ends it
                await ends.get(self.state, self.leave)()
        await self._change_blocks(BlockOp.BLOCK, user)

    async def unblock(self, user: str) -> None:
        await self._change_blocks(BlockOp.UNBLOCK, user)

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
        self._exiting = True
        with trio.move_on_after(EXIT_SECONDS):
            with contextlib.suppress(MessageAppError):
                await self._session.request("exit", Nothing())
        await self._session.end(ConnectionCut())  # does nothing after a goodbye

    async def _forward(self, peer: str, content: bytes, text: str) -> None:
        def note(identifier: int) -> None:
            self._sends[identifier] = (peer, text)
            if len(self._sends) > REMEMBERED_SENDS:
                self._sends.popitem(last=False)

        await self._session.post("frwd", Raw(content), noted=note)

    # what comes in ----------------------------------------------------------------------------------------------------

    async def _react(self, incoming: Incoming) -> None:
        """In the reader, in the order of the wire."""
        argument = incoming.argument
        if incoming.kind is Kind.EVENT:
            await self._receive_event(incoming.verb, argument)
        elif argument is self._key and isinstance(argument, PeerKey):
            await self._begin(argument)
        elif not incoming.awaited and isinstance(argument, Errors):
            peer, text = self._sends.pop(incoming.id, ("", ""))
            if text:
                full = argument.code == ErrorCode.QUEUE_FULL
                await self._tell(
                    ev.NotDelivered(peer, text, f"the queue of {peer} is full" if full else "the chat was over")
                )

    async def _receive_event(self, verb: bytes, argument: Any) -> None:
        match verb:
            case b"reqt":
                self._ring = expect(argument, Call)
                self._call_since = trio.current_time()
                await self._tell(ev.IncomingCall(self._ring.user))
                await _others_first()  # it is shown before
                self.account.trust.prepare_number(self.server_name)
            case b"cach":
                ring = self._ring
                if ring is not None and ring.invite == expect(argument, Invite).invite:
                    self._ring = None
                    await self._tell(ev.CallCanceled(ring.user, self._unanswered()))
            case b"refu":
                call = self._outgoing
                if call is not None and call.invite == expect(argument, Call).invite:
                    self._outgoing = None
                    await self._tell(ev.CallRefused(call.user, self._unanswered()))
            case b"pubk":
                await self._begin(expect(argument, PeerKey))
            case b"klog":
                self.log.hear_head(expect(argument, LogHead))
            case b"frwd":
                await self._receive_forwarded(expect(argument, Raw).data)
            case b"exch":
                conversation = self._conversation
                if conversation is not None:
                    disconnected = expect(argument, Left).disconnected
                    self._drop(conversation, "the chat ended before it was secure")
                    await self._give_back()
                    await self._tell(
                        ev.ChatOver(
                            conversation.peer, by_us=False, disconnected=disconnected, secure=conversation.secure
                        )
                    )

    def _unanswered(self) -> bool:
        """The server says of a call that nobody answered what it says of a refused or canceled one; the clock knows."""
        return trio.current_time() - self._call_since >= UNANSWERED_SECONDS

    # conversation -----------------------------------------------------------------------------------------------------

    async def _begin(self, key: PeerKey) -> None:
        """`pubk`: both agreed. Only for a call that we know of, and only with the key that we trust."""
        ours, accepted = self._outgoing, self._accepted
        if key.caller:
            known = ours is not None and (ours.user, ours.invite) == (key.user, key.invite)
        else:
            known = (accepted is not None and (accepted.user, accepted.invite) == (key.user, key.invite)) or (
                ours is not None and ours.user == key.user
            )
        self._outgoing = self._ring = self._accepted = self._key = None
        if not known or self._conversation is not None:
            raise RemoteProtocolError("the server connects us with someone who was not called")
        server, account = self.server_name, self.account
        try:
            bundle = IdentityBundle.parse_untrusted(key.bundle)
        except Malformed:
            raise RemoteProtocolError("a peer's key has not the form of one") from None
        self._keys_seen[key.user] = bundle
        caller, receiver = (account.user, key.user) if key.caller else (key.user, account.user)
        own = account.identity.bundle
        parties = Parties(
            server=server,
            invite=key.invite,
            caller=caller,
            caller_bundle=own if key.caller else bundle,
            receiver=receiver,
            receiver_bundle=bundle if key.caller else own,
        )
        conversation = self._conversation = Conversation(
            user=account.user,
            peer=key.user,
            bundle=bundle,
            parties=parties,
            identity=account.identity,
            suites=DEFAULT_SUITES if key.caller else account.accept_chat,
            random=self._random,
            checkpoint=self.log.note,
        )
        self._keying_since = trio.current_time()
        self._changed_keying()
        if self.log.kept:
            self._unchecked = _Unchecked(conversation, key)
            await self._check_log(first=True)
        else:
            await self._go_on(conversation)

    async def _check_log(self, *, first: bool = False) -> None:
        """Rule of the key log: nothing is sent to a key that it does not confirm (protocol §12.5)."""
        unchecked = self._unchecked
        if unchecked is None or unchecked.confirmed:
            return
        conversation, key = unchecked.conversation, unchecked.key
        try:
            if not self.log.check(key.user, conversation.bundle.key_id, key.proof, first=first):
                return
        except KeyRefused as error:
            await self._fail_chat(str(error))
            return
        unchecked.confirmed = True
        await self._go_on(conversation)
        while unchecked.held and self._unchecked is unchecked:
            await self._take_in(conversation, unchecked.held.pop(0))
        if self._unchecked is unchecked:
            self._unchecked = None

    async def _go_on(self, conversation: Conversation) -> None:
        """The log has nothing against the key; now the pin."""
        trust, server, peer, bundle = self.account.trust, self.server_name, conversation.peer, conversation.bundle
        before = trust.pin(peer, server)
        verified = before is not None and before.verified
        if not trust.judge(peer, server, bundle, "unexplained" if self.log.kept else ""):
            pin = trust.pin(peer, server)
            assert before is not None and pin is not None  # noqa: S101, PT018 - only a pinned key can differ
            old, new = (trust.number(peer, server, each) for each in (before.bundle, bundle))
            await self._part(conversation, ev.KeyChanged(peer, old, new, verified, pin.how))
            return
        await self._tell(ev.Keying(peer))
        await self._perform(conversation, Step(send=conversation.start()))

    async def _receive_forwarded(self, content: bytes) -> None:
        conversation, unchecked = self._conversation, self._unchecked
        if conversation is None:
            return
        if unchecked is None:
            await self._take_in(conversation, content)
        elif len(unchecked.held) < HELD_FRAMES:
            unchecked.held.append(content)
        else:
            await self._fail_chat("the other side sent too much before its turn")

    async def _take_in(self, conversation: Conversation, content: bytes) -> None:
        try:
            step = conversation.receive_untrusted(content, self._wall_ms(), trio.current_time())
            if isinstance(step, NeedKey):
                step = await self._offer(conversation, step.suite)
                if self._conversation is not conversation:
                    return  # left meanwhile
        except ExchangeFailed as error:
            await self._fail_chat(str(error))
        except Undecryptable:
            await self._tell(ev.UndecryptableText(conversation.peer))
        else:
            await self._perform(conversation, step)

    async def _offer(self, conversation: Conversation, suite: Suite) -> Step:
        rsa_key = await self._keys.take() if suite.needs_rsa else None
        return conversation.offer(TemporaryKey.generate(suite, rsa_key))

    async def _perform(self, conversation: Conversation, step: Step) -> None:
        if step.secure and not self.account.trust.judge(conversation.peer, self.server_name, conversation.bundle):
            # Pinned by another client of this account meanwhile; nothing more goes to this key.
            await self._fail_chat("another key was remembered meanwhile")
            return
        if step.secure and self.log.outdated(conversation.peer, conversation.bundle.key_id):
            await self._fail_chat(f"the key of {conversation.peer} has changed meanwhile")
            return
        for content in step.send:
            await self._forward(conversation.peer, content, "")
        if step.secure:
            await self._secured(conversation)
        received = step.received
        if received is None:
            return
        self.log.hear_peer(conversation.peer, received.envelope.checkpoint)
        if received.missing:
            await self._tell(ev.Missing(conversation.peer, received.missing))
        if received.envelope.text is not None:
            envelope = received.envelope
            await self._tell(
                ev.TextReceived(conversation.peer, received.envelope.text, envelope.time_ms, received.late)
            )
        if received.envelope.sas is not None:
            await self.checks.receive(conversation, received.envelope.sas)

    async def _secured(self, conversation: Conversation) -> None:
        """The peer has proved to hold the key: pin it if it is the first, tell, send what was held."""
        trust, peer, server = self.account.trust, conversation.peer, self.server_name
        pin, first = trust.pin_first(peer, server, conversation.bundle)
        self._changed_keying()
        await self._tell(ev.ChatSecure(peer, self.chat_suite or "", conversation.bundle, first, pin.verified))
        while self._held and self._conversation is conversation and not self._exiting:
            await self._send_text(conversation, self._held.pop(0))

    async def _fail_chat(self, reason: str) -> None:
        conversation = self._conversation
        if conversation is not None:
            await self._part(conversation, ev.ChatFailed(conversation.peer, reason))

    async def _part(self, conversation: Conversation, event: ev.Event) -> None:
        """Leave by ourselves, from within the reader: the reply to `exch` needs nothing more."""
        self._drop(conversation, "the chat did not become secure")
        await self._give_back()
        await self._tell(event)
        await self._session.post("exch", Nothing())

    def _drop(self, conversation: Conversation, reason: str) -> bool:
        """It is over. At once, so that a text that was meant for this peer never waits for the next one."""
        if self._conversation is not conversation:
            return False
        self._conversation = self._unchecked = None
        self._left_over += [ev.NotDelivered(conversation.peer, text, reason) for text in self._held]
        self._held.clear()
        self._changed_keying()
        return True

    async def _give_back(self) -> None:
        """By who left, or by the reader where the session ends before he has his turn."""
        while self._left_over:
            await self._tell(self._left_over.pop(0))

    # the key log's host -----------------------------------------------------------------------------------------------

    async def log_request(self, verb: str, argument: Any) -> Any:
        return await self._session.request(verb, argument)

    async def log_tell(self, event: ev.Event) -> None:
        await self._tell(event)

    async def log_checked(self) -> None:
        with contextlib.suppress(MessageAppError):  # the session may be over: its event says so
            try:
                await self._check_log()
            except MessageAppError as error:
                await self._fail_chat(str(error))

    async def log_stopped(self, peer: str | None, reason: str) -> None:
        """Leave the chat with `peer`, or with whoever it is."""
        conversation = self._conversation
        if conversation is None or peer not in (None, conversation.peer):
            return
        event = (ev.ChatStopped if conversation.secure else ev.ChatFailed)(conversation.peer, reason)
        with contextlib.suppress(MessageAppError):
            await self._part(conversation, event)

    def _changed_keying(self) -> None:
        self._keying_changed.set()
        self._keying_changed = trio.Event()


async def _others_first() -> None:
    """Whatever task can run now has had its turn when this returns: trio runs them in rounds, each in any order."""
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
