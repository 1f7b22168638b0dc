"""ngIRCd (C, one thread, epoll; GnuTLS in Debian's build).

What was set and why: no penalty for many commands, no limit on connections from one address, no DNS, no ident, no PAM
(each would make a login wait), no ping within the benchmark. Messages are PRIVMSG from one nick to another.

It leaves Nagle's algorithm on and has no setting for it, so that with many in flight it often waits for an
acknowledgement (up to 40 ms). It is measured as it is and, for what its code can do, with TCP_NODELAY set from outside,
as `NoDelay=` of a systemd socket would do for it (see peers_nagle.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from .peers_base import END, HOST, TEXT, Launch, Peer, Place, found

__all__ = ["NGIRCD"]

_CONFIGURATION = """\
[Global]
    Name = irc.localhost
    Info = benchmark
    AdminEMail = nobody@localhost
    Listen = {host}
    Ports = {plain}
    MotdPhrase = benchmark
    ServerUID = nobody
    ServerGID = nogroup
[Limits]
    MaxConnections = 0
    MaxConnectionsIP = 0
    MaxJoins = 0
    MaxNickLength = 16
    MaxPenaltyTime = 0
    PingTimeout = 86400
    PongTimeout = 86400
[Options]
    DNS = no
    Ident = no
    PAM = no
    IncludeDir =
    SyslogFacility = local1
{tls}
"""
_TLS = """\
[SSL]
    CertFile = {certificate}
    KeyFile = {key}
    Ports = {port}
"""


def _prepare(place: Place) -> Launch:
    configuration = place.folder / "ngircd.conf"
    tls = _TLS.format(certificate=place.certificate, key=place.key, port=place.port) if place.tls else ""
    configuration.write_text(_CONFIGURATION.format(host=HOST, plain="" if place.tls else place.port, tls=tls))
    return Launch([found("ngircd") or "ngircd", "--nodaemon", "--config", str(configuration)])


def _login(user: int) -> Sequence[tuple[bytes, bytes]]:
    """RFC 2812 §3.1; 376 ends the message of the day."""
    return ((f"NICK user{user}\r\nUSER user{user} 0 * :benchmark\r\n".encode(), b" 376 "),)


def _message(receiver: int) -> bytes:
    return f"PRIVMSG user{receiver} :{TEXT}\r\n".encode()


NGIRCD = Peer("ngIRCd", "ngircd", "ngircd", _prepare, _login, _message, f"{END}\r\n".encode(), lacks_no_delay=True)
