"""Who calls whom, until both have agreed and the server connects them (protocol §6.2).

    we call      chat → it rings → `pubk`, refused, or canceled by us
    they call    `reqt` → accept → `pubk`, or refused by us, or canceled

There is one call each way at most. The server connects us with nobody whom the user has neither called nor accepted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from messageapp.errors import MessageAppError, RequestRefused
from messageapp.wire.commands import Call, ErrorCode, Invite, PeerKey, Raw

from . import events as ev
from .context import ClientContext
from .following import LogFollower
from .session import Session, expect

__all__ = ["Calls"]

UNANSWERED_SECONDS: Final = 55.0  # a call rings for 60


class Calls:
    """The requests are those of `Client`, which says what they do."""

    def __init__(
        self,
        session: Session,
        context: ClientContext,
        log: LogFollower,
        tell: Callable[[ev.Event], Awaitable[None]],
    ) -> None:
        self.ring: Call | None = None
        self.outgoing: Call | None = None
        self._accepted: Call | None = None  # the call that the user has accepted: no other may begin
        self._key: PeerKey | None = None
        self._since = 0.0
        self._session = session
        self._context = context
        self._log = log
        self._tell = tell

    @property
    def peer(self) -> str | None:
        """Who is called, or calling."""
        call = self.outgoing or self.ring
        return None if call is None else call.user

    # requests ---------------------------------------------------------------------------------------------------------

    async def call(self, user: str) -> bool:
        """True: it rings there; False: they had called us too, and the chat begins (glare)."""
        if self._accepted is not None and self._accepted is self.ring:
            raise RequestRefused(ErrorCode.NOT_NOW, f"already answering {self._accepted.user}")
        self._log.raise_alarm()
        self._log.nudge()
        call = self.outgoing = Call(user, self._context.random(16))
        self._since = trio.current_time()

        def apply(reply: Any) -> Any:
            if isinstance(reply, MessageAppError) and self.outgoing is call:
                self.outgoing = None
            return self._connected(reply) if isinstance(reply, PeerKey) else expect(reply, Call)

        try:
            reply = await self._session.request("chat", call, apply)
        except RequestRefused as error:
            if error.code == ErrorCode.NOT_AVAILABLE:
                raise RequestRefused(error.code, f"{user} is not available") from None
            raise
        if isinstance(reply, PeerKey):
            return False
        self._prepare_number()  # while it rings
        return True

    async def accept(self) -> None:
        ring = self._ringing()
        self._log.raise_alarm()
        self._log.nudge()
        self._accepted = ring

        def apply(reply: Any) -> PeerKey:
            if isinstance(reply, MessageAppError) and self._accepted is ring:
                self._accepted = None
            return self._connected(expect(reply, PeerKey))

        await self._session.request("acpt", ring, apply)

    async def refuse(self) -> None:
        ring = self._ringing()

        def apply(reply: Any) -> None:
            if self.ring is ring:  # not a later call
                self.ring = None
            expect(reply, Raw)

        await self._session.request("refu", ring, apply)

    async def cancel(self) -> str:
        """Whom the call was to."""
        call = self.outgoing
        if call is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "there is no call to cancel")

        def apply(reply: Any) -> None:
            expect(reply, Raw)
            self.outgoing = None

        await self._session.request("cach", Invite(call.invite), apply)
        return call.user

    def _ringing(self) -> Call:
        if self.ring is None:
            raise RequestRefused(ErrorCode.NOT_NOW, "nobody is calling")
        return self.ring

    def _connected(self, key: PeerKey) -> PeerKey:
        """The reply to `acpt` or `chat`. As the reply to anything else it means nothing."""
        self._key = key
        return key

    def _prepare_number(self) -> None:
        self._context.account.trust.prepare_number(self._context.server)

    # from the reader --------------------------------------------------------------------------------------------------

    async def hear_ring(self, ring: Call) -> None:
        """The event `reqt`."""
        self.ring = ring
        self._since = trio.current_time()
        await self._tell(ev.IncomingCall(ring.user))
        await _others_first()  # it is shown before
        self._prepare_number()

    async def hear_canceled(self, canceled: Invite) -> None:
        """The event `cach`."""
        ring = self.ring
        if ring is not None and ring.invite == canceled.invite:
            self.ring = None
            await self._tell(ev.CallCanceled(ring.user, self._unanswered()))

    async def hear_refused(self, refused: Call) -> None:
        """The event `refu`."""
        call = self.outgoing
        if call is not None and call.invite == refused.invite:
            self.outgoing = None
            await self._tell(ev.CallRefused(call.user, self._unanswered()))

    def _unanswered(self) -> bool:
        """The server says of a call that nobody answered what it says of a refused or canceled one; the clock knows."""
        return trio.current_time() - self._since >= UNANSWERED_SECONDS

    def connects(self, reply: Any) -> bool:
        """Does this reply connect us: to `acpt`, or to `chat` in a glare?"""
        return reply is not None and reply is self._key

    def claim(self, key: PeerKey) -> bool:
        """The server connects us: no call is left. False where it is with somebody whom nobody called or accepted."""
        ours, accepted = self.outgoing, self._accepted
        self.outgoing = self.ring = self._accepted = self._key = None
        if key.caller:
            return ours is not None and (ours.user, ours.invite) == (key.user, key.invite)
        if accepted is not None and (accepted.user, accepted.invite) == (key.user, key.invite):
            return True
        return ours is not None and ours.user == key.user

    def end(self) -> None:
        """The session is over."""
        self.outgoing = self.ring = None


async def _others_first() -> None:
    """Whatever task can run now has had its turn when this returns: trio runs them in rounds, each in any order."""
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
