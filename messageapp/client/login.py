"""Getting in: who logs in where, the TCP connection, M1 to M4, and the server's pin (protocol §3, §4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from messageapp.errors import (
    CannotConnect,
    ConnectionCut,
    LoginRefused,
    RemoteProtocolError,
    ServerBusy,
    ServerNotAuthenticated,
)
from messageapp.link import Link
from messageapp.store.trust import ServerPin
from messageapp.wire.frames import Frame, FrameType
from messageapp.wire.login import ClientLogin, LoggedIn
from messageapp.wire.messages import Alert
from messageapp_keys.certificate import Certificate, RevocationList, certificate_pem
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import DEFAULT_SUITES, Suite
from messageapp_keys.primitives import Random

from .trust import Trust

__all__ = ["Account", "dial", "log_in"]

LOGIN_SECONDS: Final = 20.0  # twice the server's own patience
_CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Account:
    """Who logs in where, and what is trusted."""

    user: str
    identity: PrivateIdentity
    authority: Certificate
    trust: Trust
    server: str  # as dialled: the name that the certificate must carry
    port: int = 0  # with `server`, what the server's pin is kept under
    suites: Sequence[Suite] = DEFAULT_SUITES
    accept_chat: Sequence[Suite] = DEFAULT_SUITES
    hide_user: bool = False
    trust_server: bool = False  # accept that the server has another key or name than before
    revoked: RevocationList | None = None


async def dial(host: str, port: int) -> trio.SocketStream:
    """A TCP connection; raises `CannotConnect` with the reason in words."""
    try:
        with trio.fail_after(_CONNECT_SECONDS):
            return await trio.open_tcp_stream(host, port)
    except trio.TooSlowError:
        raise CannotConnect(f"{host}:{port} does not answer") from None
    except OSError as error:
        if isinstance(error, trio.socket.gaierror):
            raise CannotConnect(f"there is no host named {host}") from None
        raise CannotConnect(f"nobody listens on {host}:{port}") from None


async def log_in(link: Link, account: Account, random: Random, wall_ms: int) -> LoggedIn:
    """M1 to M4. The server is pinned by its key and by its own name; what differs from the pin is refused.

    Raises `ServerNotAuthenticated`, `LoginRefused`, `CannotConnect`. Cancelling leaves the connection useless.
    """
    trust = account.trust
    login = ClientLogin(
        username=account.user,
        identity=account.identity,
        authority=account.authority,
        server=account.server,
        suites=account.suites,
        random=random,
        device=trust.device(),
        hide_user=account.hide_user,
        revoked=account.revoked,
        accept_leaf=lambda leaf: (
            None if account.trust_server else trust.check_server(account.server, account.port, leaf.spki_hash)
        ),
    )
    try:
        with trio.fail_after(LOGIN_SECONDS):
            await link.send_frame(FrameType.M1, login.start())
            m2 = await _frame(link)
            now = datetime.fromtimestamp(wall_ms / 1000, UTC)
            await link.send_frame(FrameType.M3, login.receive_m2_untrusted(m2, now))
            info = login.receive_m4_untrusted(await _frame(link))
    except trio.TooSlowError:
        raise CannotConnect("the server does not answer") from None
    except ConnectionCut:
        raise CannotConnect("the server closed the connection during the login") from None
    except RemoteProtocolError as error:
        raise ServerNotAuthenticated(f"what answers there does not speak MessageApp: {error}") from None
    canonical, spki_hash = info.welcome.server_name, info.leaf.spki_hash
    if not account.trust_server:
        trust.check_name(spki_hash, canonical)
    if account.trust_server or trust.known_server(account.server, account.port) is None:
        pem = certificate_pem(account.authority).encode()
        trust.pin_server(ServerPin(account.server, account.port, spki_hash, canonical, pem, wall_ms))
    return info


async def _frame(link: Link) -> Frame:
    """The next frame, an ALERT turned into its error."""
    frame = await link.receive_frame()
    if frame.type is not FrameType.ALERT:
        return frame
    try:
        alert = Alert.parse_untrusted(frame.body)
    except Malformed:
        raise RemoteProtocolError("an alert has not the form of one") from None
    match alert.code:
        case 1:
            raise LoginRefused
        case 2:
            wait = f"; try again in {alert.retry} seconds" if alert.retry else ""
            raise ServerBusy(f"the server is busy{wait}")
        case 3:
            raise ServerNotAuthenticated("the server takes none of the versions or suites offered")
    raise CannotConnect("the server gave up: the login was too slow or too large")
