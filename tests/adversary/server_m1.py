"""First frames that are no M1, against a server that has sent nothing yet (protocol §2, §4.1)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from adversary.case import ALERT_1, ALERT_3, ALERT_4, CLOSED, Case, Outcome
from adversary.server_world import World, answer_on
from interop.base import ED25519, HYBRID, P256, PSS, SWIFT, need, tlv, u, vec
from interop.peer import ALERT, M1, M2, M3, M4, RECORD, frame, read_frame

__all__ = ["CASES", "good_then", "m1"]

MAGIC = b"MSGAPP\0\2"


def codes(*values: int) -> bytes:
    return u(len(values), 1) + b"".join(u(value, 2) for value in values)


VERSIONS, SUITES, SIGALGS = codes(2), codes(SWIFT), codes(PSS, P256)


def m1(
    magic: bytes = MAGIC,
    versions: bytes = VERSIONS,
    suites: bytes = SUITES,
    sigalgs: bytes = SIGALGS,
    flags: int = 0,
    server: bytes = b"127.0.0.1",
    user: bytes = b"ann",
    tlvs: bytes = b"",
) -> bytes:
    """The body of an M1 that a server takes, unless it is told otherwise."""
    lists = versions + suites + sigalgs
    return magic + bytes(32) + lists + u(flags, 4) + vec(server, 1) + vec(user, 1) + vec(tlvs, 2)


def sends(data: bytes) -> Callable[[World], Outcome]:
    def do(world: World) -> Outcome:
        sock = world.connect()
        sock.sendall(data)
        return answer_on(sock)

    return do


def good_then(data: bytes) -> Callable[[World], Outcome]:
    """A good M1, and `data` where M3 should come."""

    def do(world: World) -> Outcome:
        sock = world.connect()
        sock.sendall(frame(M1, m1()))
        read_frame(sock, M2)
        sock.sendall(data)
        return answer_on(sock)

    return do


def twice(world: World) -> Outcome:
    sock = world.connect()
    sock.sendall(frame(M1, m1()) * 2)
    read_frame(sock, M2)
    return answer_on(sock)


def half_then_end(world: World) -> Outcome:
    sock = world.connect()
    sock.sendall(frame(M1, m1())[:40])
    sock.shutdown(socket.SHUT_WR)
    return answer_on(sock)


def byte_by_byte(world: World) -> Outcome:
    """Any split of the bytes is fine as long as they come in time."""
    sock = world.connect()
    for byte in frame(M1, m1(user=b"-ann")):
        sock.sendall(bytes([byte]))
    return answer_on(sock)


def last_byte_decides(world: World) -> Outcome:
    """A frame that is one byte short gets no answer; its last byte does."""
    sock, data = world.connect(), frame(M1, m1(magic=b"MSGAPP\0\1"))
    sock.sendall(data[:-1])
    sock.settimeout(0.05)
    try:
        early = socket.socket.recv(sock, 1)
    except TimeoutError:
        early = None
    need(early is None, "an answer to a part of M1")
    sock.sendall(data[-1:])
    return answer_on(sock)


_BODIES: tuple[tuple[str, str, bytes, Outcome], ...] = (
    ("magic-version-1", "m1-magic", m1(magic=b"MSGAPP\0\1"), ALERT_1),
    ("magic-of-c1", "m1-magic", m1(magic=b"MSGCHAT\2"), ALERT_1),
    ("no-versions", "m1-lists", m1(versions=codes()), ALERT_1),
    ("no-suites", "m1-lists", m1(suites=codes()), ALERT_1),
    ("no-sigalgs", "m1-lists", m1(sigalgs=codes()), ALERT_1),
    ("nine-versions", "m1-lists", m1(versions=codes(*[2] * 9)), ALERT_1),
    ("seventeen-suites", "m1-lists", m1(suites=codes(*[SWIFT] * 17)), ALERT_1),
    ("nine-sigalgs", "m1-lists", m1(sigalgs=codes(*[P256] * 9)), ALERT_1),
    ("count-beyond-the-end", "m1-lists", MAGIC + bytes(32) + b"\x08\0\2", ALERT_1),
    ("version-1-only", "m1-no-common", m1(versions=codes(1)), ALERT_3),
    ("version-unknown-only", "m1-no-common", m1(versions=codes(3, 0x0202)), ALERT_3),
    ("suite-unknown-only", "m1-no-common", m1(suites=codes(0, 9, 0x1A1A, HYBRID << 8)), ALERT_3),
    ("sigalg-of-users-only", "m1-no-common", m1(sigalgs=codes(ED25519)), ALERT_3),
    ("username-0-bytes", "m1-username", m1(user=b""), ALERT_1),
    ("username-17-bytes", "m1-username", m1(user=b"a" * 17), ALERT_1),
    ("username-255-bytes", "m1-username", m1(user=b"a" * 255), ALERT_1),
    ("username-NUL", "m1-username", m1(user=b"an\0"), ALERT_1),
    ("username-newline", "m1-username", m1(user=b"ann\n"), ALERT_1),
    ("username-escape", "m1-username", m1(user=b"\x1b[2Jann"), ALERT_1),
    ("username-utf8", "m1-username", m1(user="änn".encode()), ALERT_1),
    ("username-not-utf8", "m1-username", m1(user=b"an\xff"), ALERT_1),
    ("username-leading-dash", "m1-username", m1(user=b"-ann"), ALERT_1),
    ("username-trailing-dash", "m1-username", m1(user=b"ann-"), ALERT_1),
    ("username-path", "m1-username", m1(user=b"../ann"), ALERT_1),
    ("server-0-bytes", "m1-server", m1(server=b""), ALERT_1),
    ("server-254-bytes", "m1-server", m1(server=b"a" * 254), ALERT_1),
    ("server-space", "m1-server", m1(server=b"local host"), ALERT_1),
    ("server-NUL", "m1-server", m1(server=b"localhost\0"), ALERT_1),
    ("server-utf8", "m1-server", m1(server="löcal".encode()), ALERT_1),
    ("hidden-with-name", "m1-hidden-with-name", m1(flags=1), ALERT_1),
    ("hidden-with-name-and-unused-flags", "m1-hidden-with-name", m1(flags=0xFFFFFFFF), ALERT_1),
    ("tlv-twice", "m1-tlvs", m1(tlvs=tlv(0x1A1A, b"") * 2), ALERT_1),
    ("device-twice", "m1-tlvs", m1(tlvs=tlv(1, bytes(16)) + tlv(2, b"") + tlv(1, bytes(16))), ALERT_1),
    ("device-15-bytes", "m1-tlvs", m1(tlvs=tlv(1, bytes(15))), ALERT_1),
    ("device-17-bytes", "m1-tlvs", m1(tlvs=tlv(1, bytes(17))), ALERT_1),
    ("tlv-value-short", "m1-tlvs", m1(tlvs=b"\0\1\0\x10abc"), ALERT_1),
    ("tlv-head-short", "m1-tlvs", m1(tlvs=b"\x1a\x1a\0"), ALERT_1),
    ("trailing-byte", "m1-trailing-byte", m1() + b"\0", ALERT_1),
    ("last-byte-missing", "m1-trailing-byte", m1()[:-1], ALERT_1),
    ("tlvs-beyond-the-end", "m1-trailing-byte", m1()[:-2] + u(0xFFFF, 2), ALERT_1),
    ("r1-only", "m1-trailing-byte", m1()[:40], ALERT_1),
    ("empty", "m1-trailing-byte", b"", ALERT_1),
    ("4095-zeros", "m1-magic", bytes(4095), ALERT_1),
)

_BYTES: tuple[tuple[str, str, bytes, Outcome], ...] = (
    ("length-0", "m1-length", u(0, 4) + b"\1", ALERT_4),
    ("length-4097", "m1-length", u(4097, 4) + b"\1", ALERT_4),
    ("length-4097-without-type", "m1-length", u(4097, 4), ALERT_4),
    ("length-2^31", "m1-length", u(2**31, 4), ALERT_4),
    ("length-2^32-1", "m1-length", u(2**32 - 1, 4) + b"\1", ALERT_4),
    ("http", "m1-length", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", ALERT_4),
    ("tls", "m1-length", bytes.fromhex("1603010200010001fc0303") + bytes(500), ALERT_4),
    ("type-0", "m1-turn", frame(0, m1()), ALERT_1),
    ("type-0-without-body", "m1-turn", u(200, 4) + b"\0", ALERT_1),
    ("type-255", "m1-turn", frame(255, m1()), ALERT_1),
    ("M2-first", "m1-turn", frame(M2, m1()), ALERT_1),
    ("M3-first", "m1-turn", frame(M3, m1()), ALERT_1),
    ("M4-first", "m1-turn", frame(M4, bytes(64)), ALERT_1),
    ("record-first", "m1-turn", frame(RECORD, bytes(64)), ALERT_1),
    ("alert-first", "m1-turn", frame(ALERT, b"\1"), ALERT_1),
)

CASES: tuple[Case[World], ...] = (
    *(Case(f"m1/{name}", line, sends(frame(M1, body)), seen) for name, line, body, seen in _BODIES),
    *(Case(f"m1/{name}", line, sends(data), seen) for name, line, data, seen in _BYTES),
    Case("m1/twice", "m1-turn", twice, ALERT_1),
    Case("m1/half-then-end", "m1-half", half_then_end, CLOSED),
    Case("m1/byte-by-byte", "m1-username", byte_by_byte, ALERT_1),
    Case("m1/judged-when-whole", "m1-magic", last_byte_decides, ALERT_1),
)
