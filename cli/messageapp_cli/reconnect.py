"""The prompt's connection: one `Client` at a time, and the next one when it is lost.

    connected → waiting ⇄ trying → connected … until the user leaves, or nothing that a new connection could mend

The first connection has to succeed, so that a wrong address is told at once; only where the account has been before,
an `Unconnected` stands in while the server cannot be reached. A client that is lost is
closed before the next one begins: both use the same database. The pause before a try is drawn from the whole of
0 … 1, 2, 4 … 60 s ("full jitter"), so that the clients of a server that was restarted do not all come at one moment.
The first try has no pause, unless the session before was so short that this would turn into a race.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from messageapp.client import events as ev
from messageapp.client.client import Client
from messageapp.client.login import Account
from messageapp.client.unconnected import AnyClient, Unconnected
from messageapp.errors import CannotConnect, ConnectionCut, MessageAppError, ServerGoodbye
from messageapp.store.states import Cause
from messageapp.wire.commands import ByeReason

from .account import load_authority

__all__ = [
    "CATCH_UP_SECONDS",
    "FIRST_SECONDS",
    "GOOD_SECONDS",
    "LONGEST_SECONDS",
    "QUIET_SECONDS",
    "Backoff",
    "Connections",
    "Opening",
    "caught_up",
    "lost_by",
    "returning",
]

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
GOOD_SECONDS: Final = 10.0
"""A session that lasted so long was a good one: after it the first try is made at once again."""

LONG_SECONDS: Final = 5
"""Who waits longer is told how not to."""

QUIET_SECONDS: Final = 1.0
"""Without a new message for so long, what had waited for us is taken in."""
CATCH_UP_SECONDS: Final = 10.0
"""What came until then is counted; the rest is shown like any message."""

_MENDED: Final = frozenset({ByeReason.SHUTDOWN, ByeReason.AGE, ByeReason.SLOW})
_ORDINALS: Final = {1: "st", 2: "nd", 3: "rd"}

Opening = Callable[[], AbstractAsyncContextManager[Client]]
"""Dials, logs in and runs a client until the block is left. Raises what `dial` and `open_client` raise."""


def returning(account: Account) -> Account:
    """`account` for logging in again where it was a moment ago: with what the first login pinned, and nothing that
    was accepted for that one login only (another key of the server, a join code, a new revocation list)."""
    pin = account.trust.known_server(account.server, account.port)
    if pin is None:
        return account
    authority = load_authority(pin.ca_pem)
    return replace(account, authority=authority, trust_server=False, revoked=None, on_proved=lambda: None)


async def caught_up(client: Client) -> int:
    """How many messages this client has taken in since its login, as soon as nothing more is coming."""
    before = -1
    with trio.move_on_after(CATCH_UP_SECONDS):
        while (received := client.mail.status().received) != before:
            before = received
            await trio.sleep(QUIET_SECONDS)
    return client.mail.status().received


def lost_by(event: ev.Event) -> int:
    """How many messages this event gives up, when it comes with the end of a connection or after it.

    Texts that were given back, those that nobody will ever confirm, and gaps in what came.
    """
    match event:
        case ev.Missing(_, count):
            return count
        case ev.NotDelivered():
            return 1
        case ev.MessageChanged(cause=Cause.UNCONFIRMED | Cause.CHAT_CUT):
            return 1
    return 0


@dataclass(slots=True)
class Backoff:
    """How long to wait before each try. `uniform(a, b)` draws from a … b."""

    uniform: Callable[[float, float], float] = random.SystemRandom().uniform
    tries: int = 0

    def next(self) -> float:
        """Seconds before the next try, which is number `tries` from now on."""
        self.tries += 1
        if self.tries == 1:
            return 0.0
        return self.uniform(0.0, min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self.tries - 2, 10)))

    def reset(self) -> None:
        self.tries = 0


@dataclass(frozen=True, slots=True)
class _Held:
    """A client whose block stays open until `scope` is cancelled; `closed` says that it was left."""

    client: Client
    scope: trio.CancelScope
    closed: trio.Event


class Connections:
    """Opens clients in `nursery`, one after the other. `text` and `advice` are cheap reads from any thread."""

    def __init__(
        self,
        nursery: trio.Nursery,
        opening: Opening,
        backoff: Backoff | None = None,
        unconnected: Callable[[MessageAppError], Unconnected] | None = None,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called when `text` is another: each second while a try is awaited."""
        self._nursery = nursery
        self._opening = opening
        self._backoff = backoff or Backoff()
        self._unconnected = unconnected
        self._held: _Held | None = None
        self._since = 0.0
        self._hurry = trio.Event()
        self._why = ""
        self._left: int | None = None  # seconds until the next try; None while connected

    @property
    def lost(self) -> bool:
        """There is no connection, and the next one is being sought."""
        return self._left is not None

    @property
    def retry_s(self) -> int | None:
        """Seconds until the next try; None while connected."""
        return self._left

    @property
    def text(self) -> str:
        """For the bottom line; empty while connected. The reason in it may be a stranger's words."""
        left = self._left
        if left is None:
            return ""
        pause = f"in {left} s " if left else "… "
        return f"reconnecting {pause}({_ordinal(self._backoff.tries)} try){f': {self._why}' if self._why else ''}"

    @property
    def advice(self) -> str:
        """What to say of a command that needs the server."""
        hurry = "; reconnect tries at once" if (self._left or 0) > LONG_SECONDS else ""
        return f"not connected; trying again {f'in {self._left} s' if self._left else 'now'}{hurry}"

    async def first(self) -> AnyClient:
        """The first client; where `unconnected` can make one and only the connection fails, what stands in for it.
        Raises what else `opening` raises."""
        try:
            return await self._open()
        except CannotConnect as error:
            if self._unconnected is None:
                raise
            self._since, self._why, self._left = trio.current_time(), str(error), 0
            self._backoff.next()
            return self._unconnected(error)

    def mends(self, error: MessageAppError | None) -> bool:
        """Whether a new connection is the answer to this end of a session, or to there being none."""
        return isinstance(error, (ConnectionCut, CannotConnect)) or (
            isinstance(error, ServerGoodbye) and error.reason in _MENDED
        )

    def hurry(self) -> None:
        """Try now, whatever is left of the pause."""
        self._hurry.set()

    async def again(self) -> Client:
        """Close the client that was lost and come back, however many tries it takes.

        Raises `LoginRefused`, `ServerNotAuthenticated` and whatever else a later try would meet as well. Cancelling
        leaves no connection.
        """
        if trio.current_time() - self._since >= GOOD_SECONDS:
            self._backoff.reset()
        if self._held is not None:
            self._why = ""
        pause = self._backoff.next()
        self._show(math.ceil(pause))
        await self._close()
        while True:
            await self._wait(pause)
            try:
                client = await self._open()
            except CannotConnect as error:
                self._why, pause = str(error), self._backoff.next()
                continue
            self._show(None)
            return client

    async def _wait(self, seconds: float) -> None:
        self._hurry = trio.Event()
        end = trio.current_time() + seconds
        while (left := end - trio.current_time()) > 0 and not self._hurry.is_set():
            self._show(math.ceil(left))
            with trio.move_on_after(left - (math.ceil(left) - 1)):
                await self._hurry.wait()
        self._show(0)

    def _show(self, left: int | None) -> None:
        self._left = left
        self.changed()

    async def _open(self) -> Client:
        self._held = await self._nursery.start(self._hold)
        self._since = trio.current_time()
        return self._held.client

    async def _hold(self, *, task_status: trio.TaskStatus[Any]) -> None:
        closed = trio.Event()
        with trio.CancelScope() as scope:
            async with self._opening() as client:
                task_status.started(_Held(client, scope, closed))
                await trio.sleep_forever()
        closed.set()

    async def _close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.scope.cancel()
            await held.closed.wait()


def _ordinal(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teen else _ORDINALS.get(number % 10, 'th')}"
