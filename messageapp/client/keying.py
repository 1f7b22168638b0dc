"""From `pubk` to a secure chat (protocol §6.2, §8, §12.5): the key log, then the pin, then the exchange.

    pubk → the log confirms the key → it is the pinned one → C1 … C4 → pinned if it is the first → ChatSecure

Nothing is sent to a key that the log has not confirmed; what its owner sends meanwhile waits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from messageapp.e2ee.exchange import ExchangeFailed, Parties
from messageapp.errors import CannotStore, MessageAppError, RemoteProtocolError
from messageapp.keypool import KeySource
from messageapp.wire.commands import PeerKey
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.kem import DEFAULT_SUITES, Suite, TemporaryKey

from . import events as ev
from .chat import Chat
from .context import ClientContext
from .conversations import Conversation, NeedKey, Step
from .following import LogFollower
from .lies import KeyRefused
from .live import keep_session
from .mailing import Mailing
from .pins import changed_key

__all__ = ["Keying"]

HELD_FRAMES: Final = 4  # of the peer, while the key log is read; an honest one sends C1 and then waits
KEYING_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Unchecked:
    """A chat whose peer's key the key log has not confirmed yet: nothing is sent, and what comes waits."""

    conversation: Conversation
    key: PeerKey
    held: list[bytes] = field(default_factory=list)
    confirmed: bool = False  # and what was held is being taken in


class Keying:
    """Makes `chat` secure, or ends it. `keys` gives temporary RSA keys for being called."""

    def __init__(
        self,
        chat: Chat,
        context: ClientContext,
        log: LogFollower,
        mail: Mailing,
        keys: KeySource,
        tell: Callable[[ev.Event], Awaitable[None]],
    ) -> None:
        self.keys_seen: dict[str, IdentityBundle] = {}  # as the server gave them, pinned or not
        self._chat = chat
        self._context = context
        self._log = log
        self._mail = mail
        self._keys = keys
        self._tell = tell
        self._since = 0.0
        self._last_unchecked: _Unchecked | None = None

    @property
    def _unchecked(self) -> _Unchecked | None:
        """Of the present conversation."""
        last = self._last_unchecked
        return last if last is not None and last.conversation is self._chat.conversation else None

    async def watch(self) -> None:
        """The task: a peer that stalls in the exchange does not keep us there."""
        while True:
            changed = self._chat.changed
            watched = self._chat.conversation
            if watched is None or watched.secure:
                await changed.wait()
                continue
            with trio.move_on_at(self._since + KEYING_SECONDS):
                await changed.wait()
                continue
            if self._chat.conversation is watched and not watched.secure:
                what = "the other side did not finish the key exchange"
                with contextlib.suppress(MessageAppError):  # the session may be over too
                    await self._chat.fail(what if self._unchecked is None else "the key log could not be read in time")

    # the key ----------------------------------------------------------------------------------------------------------

    async def begin(self, key: PeerKey) -> None:
        """`pubk`, of a call that we know of."""
        try:
            bundle = IdentityBundle.parse_untrusted(key.bundle)
        except Malformed:
            raise RemoteProtocolError("a peer's key has not the form of one") from None
        self.keys_seen[key.user] = bundle
        conversation = self._conversation(key, bundle)
        self._since = trio.current_time()
        self._chat.begin(conversation)
        if self._log.kept:
            self._last_unchecked = _Unchecked(conversation, key)
            await self._check_log(first=True)
        else:
            await self._go_on(conversation)

    def _conversation(self, key: PeerKey, bundle: IdentityBundle) -> Conversation:
        """With the key that the server gave; `_check_log` and `_go_on` judge it before anything is sent."""
        account = self._context.account
        own = account.identity.bundle
        caller, receiver = (account.user, key.user) if key.caller else (key.user, account.user)
        parties = Parties(
            server=self._context.server,
            invite=key.invite,
            caller=caller,
            caller_bundle=own if key.caller else bundle,
            receiver=receiver,
            receiver_bundle=bundle if key.caller else own,
        )
        return Conversation(
            user=account.user,
            peer=key.user,
            bundle=bundle,
            parties=parties,
            identity=account.identity,
            suites=DEFAULT_SUITES if key.caller else account.accept_chat,
            random=self._context.random,
            checkpoint=self._log.note,
        )

    async def log_checked(self) -> None:
        """The key log was read further."""
        with contextlib.suppress(MessageAppError):  # the session may be over: its event says so
            try:
                await self._check_log()
            except MessageAppError as error:
                await self._chat.fail(str(error))

    async def _check_log(self, *, first: bool = False) -> None:
        """Rule of the key log: nothing is sent to a key that it does not confirm (protocol §12.5)."""
        unchecked = self._unchecked
        if unchecked is None or unchecked.confirmed:
            return
        conversation, key = unchecked.conversation, unchecked.key
        try:
            if not self._log.check(key.user, conversation.bundle.key_id, key.proof, first=first):
                return
        except KeyRefused as error:
            await self._chat.fail(str(error))
            return
        unchecked.confirmed = True
        await self._go_on(conversation)
        while unchecked.held and self._unchecked is unchecked:
            await self._take_in(conversation, unchecked.held.pop(0))
        if self._unchecked is unchecked:
            self._last_unchecked = None

    async def _go_on(self, conversation: Conversation) -> None:
        """The log has nothing against the key; now the pin."""
        trust, server = self._context.account.trust, self._context.server
        peer, bundle = conversation.peer, conversation.bundle
        before = trust.pin(peer, server)
        try:
            same = trust.judge(peer, server, bundle, "unexplained" if self._log.kept else "")
        except CannotStore as error:
            await self._chat.fail(str(error))
            return
        if not same:
            await self._chat.part(conversation, changed_key(trust, server, peer, before, bundle))
            return
        await self._tell(ev.Keying(peer))
        await self._perform(conversation, Step(send=conversation.start()))

    # the exchange -----------------------------------------------------------------------------------------------------

    async def receive(self, content: bytes) -> None:
        """The event `frwd`: also what comes in the secure chat, behind what waits."""
        conversation, unchecked = self._chat.conversation, self._unchecked
        if conversation is None:
            return
        if unchecked is None:
            await self._take_in(conversation, content)
        elif len(unchecked.held) < HELD_FRAMES:
            unchecked.held.append(content)
        else:
            await self._chat.fail("the other side sent too much before its turn")

    async def _take_in(self, conversation: Conversation, content: bytes) -> None:
        live, wall_ms = self._chat.live, self._context.wall_ms
        if live is not None:
            await self._chat.hear(conversation, live, content)
            return
        try:
            step = conversation.receive_untrusted(content, wall_ms(), wall_ms() / 1000)
            if isinstance(step, NeedKey):
                step = await self._offer(conversation, step.suite)
                if self._chat.conversation is not conversation:
                    return  # left meanwhile
        except ExchangeFailed as error:
            await self._chat.fail(str(error))
        else:
            try:
                await self._perform(conversation, step)
            except CannotStore as error:
                await self._chat.fail(str(error))

    async def _offer(self, conversation: Conversation, suite: Suite) -> Step:
        rsa_key = await self._keys.take() if suite.needs_rsa else None
        return conversation.offer(TemporaryKey.generate(suite, rsa_key))

    async def _perform(self, conversation: Conversation, step: Step) -> None:
        chat, peer, bundle = self._chat, conversation.peer, conversation.bundle
        if step.secure and not self._context.account.trust.judge(peer, self._context.server, bundle):
            # Pinned by another client of this account meanwhile; nothing more goes to this key.
            await chat.fail("another key was remembered meanwhile")
            return
        if step.secure and self._log.outdated(peer, bundle.key_id):
            await chat.fail(f"the key of {peer} has changed meanwhile")
            return
        if conversation.agreed and not step.secure:
            keep_session(self._mail, conversation)
        heard = chat.go_live(conversation, step.received) if step.secure else None
        hello = None if heard is None or chat.live is None else chat.live.hello()
        for content in (*step.send, *([] if hello is None else [hello])):
            await chat.forward(peer, content)
        if step.secure:
            await self._secured(conversation)
        if heard is not None:
            await chat.take_in(conversation, heard)

    async def _secured(self, conversation: Conversation) -> None:
        """The peer has proved to hold the key: pin it if it is the first, tell, send what was held."""
        peer, bundle = conversation.peer, conversation.bundle
        pin, first = self._context.account.trust.pin_first(peer, self._context.server, bundle)
        self._chat.note_changed()
        await self._tell(ev.ChatSecure(peer, self._chat.suite or "", bundle, first, pin.verified))
        await self._chat.send_held(conversation)
