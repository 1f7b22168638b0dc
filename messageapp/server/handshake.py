"""The login at the server, M1 to M3, under its deadlines (protocol §4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import trio

from messageapp.errors import ConnectionCut, MessageAppError, RemoteProtocolError, UnusableSetup
from messageapp.keypool import KeySource
from messageapp.limits import Limits
from messageapp.link import Link
from messageapp.store.invites import InviteRefused
from messageapp.wire.commands import ErrorCode
from messageapp.wire.frames import FrameType
from messageapp.wire.joining import Newcomer, nobody_invited
from messageapp.wire.login import AcceptedLogin, ServerLogin, ServerOffer, refusal_frame
from messageapp.wire.messages import Alert
from messageapp_keys.kem import Suite, TemporaryKey
from messageapp_keys.primitives import Random

from .directory import Directory, DirectoryUnreadable
from .invites import Invites
from .keylog import ServerLog
from .pump import Pump
from .quota import AddressQuota
from .router import Router
from .turns import Turns

__all__ = ["Common", "Refused", "busy", "log_in"]

T = TypeVar("T")

_BUSY: Final = 2
_SLOW: Final = 4
_RETRY_SECONDS: Final = 5
_FEW: Final = 4  # logins under way that need not take turns


class Common(Protocol):
    """What all connections share; `serve.Server` is it."""

    offer: ServerOffer
    directory: Directory
    keys: KeySource
    limits: Limits
    suites: tuple[Suite, ...]
    random: Random
    wall_ms: Callable[[], int]
    quota: AddressQuota
    turns: Turns
    router: Router
    pump: Pump | None
    log: ServerLog | None
    invites: Invites | None

    def next_id(self) -> int: ...


class Refused(MessageAppError):
    """a login did not come about; `alert` goes to the client, or `m4` where it has proved to be invited"""

    def __init__(self, alert: Alert | None, why: str, m4: bytes = b"") -> None:
        super().__init__(why)
        self.alert = alert
        self.m4 = m4


def busy(why: str) -> Refused:
    return Refused(Alert(_BUSY, _RETRY_SECONDS), why)


async def log_in(server: Common, link: Link) -> AcceptedLogin:
    """From the first byte to M3; M4 is the session's. Raises `Refused`."""
    accepted = None
    try:
        with trio.CancelScope() as time_out:
            accepted = await _handshake(server, link, time_out)
    except ConnectionCut:
        raise Refused(None, "connection cut") from None
    except DirectoryUnreadable:
        raise busy("the directory of users cannot be read") from None
    except RemoteProtocolError as error:
        why = getattr(error, "cause", str(error))
        raise Refused(None if error.alert is None else Alert(error.alert), why) from None
    if accepted is None:
        raise Refused(Alert(_SLOW), "too slow")
    if accepted.newcomer is not None and server.invites is not None:
        await _let_in(server.invites, accepted, accepted.newcomer)
    return accepted


async def _let_in(invites: Invites, accepted: AcceptedLogin, newcomer: Newcomer) -> None:
    """Enrol who has proved to be invited; `Refused` with the reason under the session's key (protocol §3.3)."""
    try:
        await invites.redeem(newcomer.invite, accepted.username, newcomer.bundle)
    except InviteRefused as error:
        m4 = refusal_frame(accepted.sealer, ErrorCode(error.fault))
        raise Refused(None, f"a join is refused: {error}", m4) from None
    except UnusableSetup:
        raise busy("the directory of users cannot be written") from None


async def _handshake(server: Common, link: Link, time_out: trio.CancelScope) -> AcceptedLogin:
    limits = server.limits
    began = trio.current_time()
    time_out.deadline = began + limits.m1_seconds
    m1 = await link.receive_frame()
    time_out.deadline = began + limits.handshake_seconds
    login = ServerLogin(m1, server.offer, server.suites)
    if server.router.session_count >= limits.sessions:
        raise busy("all sessions taken")
    suite, rsa_key = await _temporary_key(server, login)
    m2 = await _in_turn(server, time_out, lambda: login.offer(TemporaryKey.generate(suite, rsa_key), server.random))
    await link.send_frame(FrameType.M2, m2)
    m3 = await link.receive_frame()
    invited = nobody_invited if server.invites is None else server.invites.find
    return await _in_turn(server, time_out, lambda: login.accept_untrusted(m3, server.directory.find, invited))


async def _in_turn(server: Common, time_out: trio.CancelScope, compute: Callable[[], T]) -> T:
    """Cryptography, up to 2 ms: in its turn, unless only a few are logging in.

    The time in line is ours and does not count as the client's. As many wait as handshakes may be under way.
    """
    if server.quota.under_way <= _FEW:
        return compute()
    left, time_out.deadline = time_out.deadline - trio.current_time(), math.inf
    await server.turns.take()
    try:
        time_out.deadline = trio.current_time() + left
        return compute()
    finally:
        await server.turns.give_back()


async def _temporary_key(server: Common, login: ServerLogin) -> tuple[Suite, Any]:
    """The suite, and an RSA key where it takes one."""
    rsa_key = server.keys.take_nowait() if login.suites[0].needs_rsa else None
    suite = login.choose(rsa_ready=rsa_key is not None)
    if suite.needs_rsa and rsa_key is None:
        with trio.move_on_after(server.limits.pool_wait_seconds):
            rsa_key = await server.keys.take()
        if rsa_key is None:
            raise busy("no temporary key ready")
    return suite, rsa_key
