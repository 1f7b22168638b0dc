"""Getting in: who logs in where, the TCP connection, M1 to M4, and the server's pin (protocol §3, §4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import trio

from messageapp.errors import (
    CannotConnect,
    ConnectionCut,
    JoinRefused,
    LoginRefused,
    RemoteProtocolError,
    ServerBusy,
    ServerNotAuthenticated,
    UnusableSetup,
)
from messageapp.link import Link
from messageapp.store.trust import ServerPin
from messageapp.wire.frames import Frame, FrameType
from messageapp.wire.joining import Invitation
from messageapp.wire.login import ClientLogin, LoggedIn
from messageapp.wire.messages import Alert
from messageapp_keys.certificate import (
    Certificate,
    CertificateRefused,
    RevocationList,
    ServerLeaf,
    certificate_der,
    certificate_pem,
    check_crl_untrusted,
    crl_der,
    describe,
    load_certificate_untrusted,
    load_crl_untrusted,
)
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import DEFAULT_SUITES, Suite
from messageapp_keys.primitives import Random, hash_bytes

from .trust import Trust

__all__ = ["Account", "dial", "log_in"]

LOGIN_SECONDS: Final = 20.0  # twice the server's own patience
_CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Account:
    """Who logs in where, and what is trusted."""

    user: str
    identity: PrivateIdentity
    authority: Certificate | Invitation  # the latter: join there, by a join code
    trust: Trust
    server: str  # as dialled: the name that the certificate must carry
    port: int = 0  # with `server`, what the server's pin is kept under
    suites: Sequence[Suite] = DEFAULT_SUITES
    accept_chat: Sequence[Suite] = DEFAULT_SUITES
    hide_user: bool = False
    trust_server: bool = False  # accept that the server has another key or name than before
    revoked: RevocationList | None = None  # kept for this server from now on; None: the one that is kept, if any
    thin: bool = False  # do not fetch the whole key log; ask for proofs
    on_proved: Callable[[], None] = lambda: None  # the server has proved itself; nothing of the user is sent yet
    device: bytes | None = None  # [16] another than this account's own, which a client that runs beside may use


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

    Raises `ServerNotAuthenticated`, `LoginRefused`, `CannotConnect`. Cancelling leaves the connection useless. A join
    raises `JoinRefused` where the server has said so under the session's key: then nobody was enrolled.
    """
    trust = account.trust
    login = ClientLogin(
        username=account.user,
        identity=account.identity,
        authority=account.authority,
        server=account.server,
        suites=account.suites,
        random=random,
        device=account.device or trust.device(),
        hide_user=account.hide_user,
        revoked=_revoked(account, wall_ms),
        accept_leaf=lambda leaf: _accept_leaf(account, leaf),
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
    except LoginRefused as error:
        if isinstance(account.authority, Invitation) and not isinstance(error, JoinRefused):
            raise LoginRefused("the server does not know this join code; ask its owner for a new one") from None
        raise
    except RemoteProtocolError as error:
        raise ServerNotAuthenticated(f"what answers there does not speak MessageApp: {error}") from None
    if not account.trust_server:
        trust.check_name(info.leaf.spki_hash, info.welcome.server_name)
    return replace(info, news=_remember(account, info, wall_ms))


def _revoked(account: Account, wall_ms: int) -> RevocationList | None:
    """The list to ask. A new one for a server that is known is kept at once: what it refuses stays refused."""
    known = account.trust.known_server(account.server, account.port)
    if account.revoked is None:
        # It is the list of the authority that was kept with it; where the user names another one it says nothing.
        if known is None or known.crl is None or not _is_kept(account.authority, known):
            return None
        try:
            return load_crl_untrusted(known.crl)
        except CertificateRefused:
            raise UnusableSetup("the stored revocation list is damaged; connect once with --crl FILE") from None
    if known is not None and not isinstance(account.authority, Invitation) and _is_kept(account.authority, known):
        with suppress(CertificateRefused):  # the login says why
            now = datetime.fromtimestamp(wall_ms / 1000, UTC)
            check_crl_untrusted(account.revoked, account.authority, now)
            account.trust.pin_server(replace(known, crl=crl_der(account.revoked)))
    return account.revoked


def _is_kept(authority: Certificate | Invitation, known: ServerPin) -> bool:
    if not isinstance(authority, Invitation):
        return certificate_pem(authority).encode() == known.ca_pem
    try:
        return hash_bytes(certificate_der(load_certificate_untrusted(known.ca_pem))) == authority.authority
    except CertificateRefused:
        return False


def _remember(account: Account, info: LoggedIn, wall_ms: int) -> tuple[str, ...]:
    """Pin the server and its authority, or the authority's successor (§3.2), and the list; what to tell the user."""
    known = account.trust.known_server(account.server, account.port)
    successor, canonical = info.leaf.successor, info.welcome.server_name
    pem = certificate_pem(successor or info.authority).encode()
    revoked = None if account.revoked is None else crl_der(account.revoked)
    if known is None or account.trust_server:
        pin = ServerPin(account.server, account.port, info.leaf.spki_hash, canonical, pem, wall_ms)
    else:
        pin = known
    kept = None if known is None or known.ca_pem != pem else known.crl
    pin = replace(pin, ca_pem=pem, crl=kept if successor is not None or revoked is None else revoked)
    if pin != known:
        account.trust.pin_server(pin)
    news = []
    if successor is not None:
        news.append(
            "the server's authority has a successor, signed by the one that you had; it is trusted from now on: "
            f"fingerprint {describe(successor).fingerprint_sha256}"
        )
    if pin.crl is None and (revoked is not None or (known is not None and known.crl is not None)):
        news.append(
            "the revocation list was that of the authority before; get the new one from the server's owner "
            "(`messageapp ca crl`) and connect once with --crl FILE"
        )
    return tuple(news)


def _accept_leaf(account: Account, leaf: ServerLeaf) -> None:
    if not account.trust_server:
        account.trust.check_server(account.server, account.port, leaf.spki_hash)
    account.on_proved()


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
