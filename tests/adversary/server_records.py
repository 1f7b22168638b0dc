"""Records of a logged-in user that are not the next one (protocol §5). Each ends the session without a word.

A record that lies about its counter is sealed under the right one (`labelled`) or under the one it shows (`sealed`). So
a case fails when the comparison is missing, and not only when the tag is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adversary.case import CLOSED, Case, Outcome
from adversary.server_world import TimedSocket, World
from interop.base import XL, pad, u
from interop.peer import ALERT, EVENT, M1, M2, M3, M4, RECORD, REPLY, REQUEST, Session, frame

__all__ = ["CASES", "flipped", "little", "record", "sealed"]

Make = Callable[[Session], bytes]
LIST = u(REQUEST, 1) + u(1, 4) + b"listx"


def little(counter: int) -> bytes:
    return counter.to_bytes(16, "little")


def record(session: Session, kind: int = REQUEST, verb: str = "list", argument: bytes = b"x", number: int = 1) -> bytes:
    """The next record, whole."""
    return frame(RECORD, session.record(kind, number, verb, argument))


def sealed(
    session: Session,
    plain: bytes = pad(LIST, 256),
    counter: bytes | None = None,
    user: bytes | None = None,
    key: bytes | None = None,
    iv: bytes | None = None,
    aad: bytes | None = None,
) -> bytes:
    """A whole record of which any part can be another one than it should be; all of it fits together."""
    counter = little(session.counters["out"]) if counter is None else counter
    aad = (session.user if user is None else user) + counter if aad is None else aad
    key = key or XL(session.secrets["out"], "key", b"")
    box = AESGCM(key).encrypt(counter[:12] if iv is None else iv, plain, aad)
    return frame(RECORD, counter + box[-16:] + box[:-16])


def labelled(session: Session, counter: bytes) -> bytes:
    """The next record with another counter in front; key, IV and associated data are those that the server expects."""
    return frame(RECORD, counter + session.record(REQUEST, 1, "list")[16:])


def flipped(at: int) -> Make:
    """The next record with one bit changed, `at` counted from the counter on."""

    def make(session: Session) -> bytes:
        data = bytearray(record(session))
        data[5 + at if at >= 0 else at] ^= 1
        return bytes(data)

    return make


def second_only(session: Session) -> bytes:
    record(session)
    return record(session)


def swapped(session: Session) -> bytes:
    first, second = record(session), record(session, verb="help")
    return second + first


def as_type(kind: int) -> Make:
    return lambda session: frame(kind, session.record(REQUEST, 1, "list"))


def plain(data: bytes) -> Make:
    """An already padded plaintext, or what stands in its place."""
    return lambda session: frame(RECORD, session.seal(data))


def update(argument: bytes, kind: int = EVENT, number: int = 0) -> Make:
    return lambda session: record(session, kind, "rkey", argument, number)


def update_and_old_key(session: Session) -> bytes:
    return update(u(1, 4))(session) + record(session)


def next_key_without_update(session: Session) -> bytes:
    session.advance("out")
    return record(session)


def tag_behind(body: bytes) -> bytes:
    return body[:16] + body[32:] + body[16:32]


def pong(session: Session) -> bytes:
    """A record that is taken and gets no answer."""
    return record(session, REPLY, "pong", bytes(8))


def updated(session: Session) -> bytes:
    """A good key update, after which the sender goes on under the next key."""
    data = update(u(1, 4))(session)
    session.advance("out")
    return data


def m4(session: Session) -> bytes:
    """The server's own M4, the last frame of the login."""
    assert isinstance(session.sock, TimedSocket)
    came, at = session.sock.came, 0
    while came[at + 4] != M4:
        at += 4 + int.from_bytes(came[at : at + 4], "big")
    return came[at:]


def says(make: Make) -> Callable[[World], Outcome]:
    def do(world: World) -> Outcome:
        session = world.log_in("cid")
        session.sock.sendall(make(session))
        return world.ended(session)

    return do


def with_the_servers_key(session: Session) -> bytes:
    return sealed(session, key=XL(session.secrets["in"], "key", b""))


_ENDING: tuple[tuple[str, str, Make], ...] = (
    ("counter-first-bit", "record-flipped", flipped(0)),
    ("counter-last-bit", "record-flipped", flipped(15)),
    ("tag-first-bit", "record-flipped", flipped(16)),
    ("tag-last-bit", "record-flipped", flipped(31)),
    ("ciphertext-first-bit", "record-flipped", flipped(32)),
    ("ciphertext-last-bit", "record-flipped", flipped(-1)),
    ("user-left-out", "record-flipped", lambda s: sealed(s, user=b"")),
    ("user-of-another", "record-flipped", lambda s: sealed(s, user=b"dan")),
    ("counter-left-out", "record-flipped", lambda s: sealed(s, aad=s.user)),
    ("tag-behind", "record-flipped", lambda s: frame(RECORD, tag_behind(s.record(REQUEST, 1, "list")))),
    ("not-sealed", "record-flipped", lambda s: frame(RECORD, little(0) + bytes(16) + pad(LIST, 256))),
    ("dropped", "record-dropped", second_only),
    ("one-ahead", "record-dropped", lambda s: sealed(s, counter=little(1))),
    ("swapped", "record-swapped", swapped),
    ("twice-at-once", "record-replayed", lambda s: pong(s) * 2),
    ("again-under-the-same-counter", "record-replayed", lambda s: pong(s) + sealed(s, counter=little(0))),
    ("m4-reflected-as-M4", "record-reflected", m4),
    ("with-the-key-of-the-server", "record-reflected", with_the_servers_key),
    ("counter-byte-12", "record-counter-high", lambda s: sealed(s, counter=little(1 << 96))),
    ("counter-byte-15", "record-counter-high", lambda s: sealed(s, counter=little(1 << 120))),
    ("counter-bytes-12-to-15", "record-counter-high", lambda s: sealed(s, counter=bytes(12) + b"\xff" * 4)),
    ("shows-byte-12", "record-counter-high", lambda s: labelled(s, little(1 << 96))),
    ("shows-byte-15", "record-counter-high", lambda s: labelled(s, little(1 << 127))),
    ("shows-256", "record-counter-modulo", lambda s: labelled(s, little(256))),
    ("shows-2^64", "record-counter-modulo", lambda s: labelled(s, little(1 << 64))),
    ("shows-the-one-before", "record-counter-modulo", lambda s: pong(s) + labelled(s, little(0))),
    ("counter-256", "record-counter-modulo", lambda s: sealed(s, counter=little(256))),
    ("counter-2^16", "record-counter-modulo", lambda s: sealed(s, counter=little(1 << 16))),
    ("counter-2^32", "record-counter-modulo", lambda s: sealed(s, counter=little(1 << 32))),
    ("counter-2^64", "record-counter-modulo", lambda s: sealed(s, counter=little(1 << 64))),
    ("counter-big-endian", "record-counter-modulo", lambda s: pong(s) + sealed(s, counter=u(1, 16))),
    ("counter-0-with-the-iv-of-1", "record-counter-modulo", lambda s: sealed(s, iv=u(1, 12))),
    ("m4-reflected-as-record", "record-frame-type", lambda s: frame(RECORD, m4(s)[5:])),
    ("as-M4", "record-frame-type", as_type(M4)),
    ("as-M1", "record-frame-type", as_type(M1)),
    ("as-M2", "record-frame-type", as_type(M2)),
    ("as-M3", "record-frame-type", as_type(M3)),
    ("as-type-17", "record-frame-type", as_type(17)),
    ("alert", "record-frame-type", lambda _: frame(ALERT, b"\1")),
    ("rkey-and-the-old-key", "record-old-key", update_and_old_key),
    ("rkey-twice", "record-old-key", lambda s: updated(s) + update(u(1, 4))(s)),
    ("rkey-and-counter-0", "record-old-key", lambda s: updated(s) + sealed(s, counter=little(0))),
    ("next-key-without-rkey", "record-old-key", next_key_without_update),
    ("rkey-0", "record-old-key", update(u(0, 4))),
    ("rkey-2", "record-old-key", update(u(2, 4))),
    ("rkey-2^32-1", "record-old-key", update(u(2**32 - 1, 4))),
    ("rkey-short", "record-old-key", update(b"\0\0\1")),
    ("rkey-long", "record-old-key", update(u(1, 4) + b"\0")),
    ("rkey-as-request", "record-old-key", update(u(1, 4), REQUEST, 1)),
    ("rkey-as-reply", "record-old-key", update(u(1, 4), REPLY, 1)),
    ("no-pad-byte", "record-pad", plain(LIST + bytes(246))),
    ("only-zeros", "record-pad", plain(bytes(256))),
    ("only-a-pad-byte", "record-pad", plain(b"\x80")),
    ("pad-byte-0x81", "record-pad", plain(LIST + b"\x81" + bytes(245))),
    ("not-zero-behind-the-pad-byte", "record-pad", plain(LIST + b"\x80" + bytes(244) + b"\1")),
    ("verb-of-three-letters", "record-pad", plain(b"\0\0\0\0\1lis\x80" + bytes(247))),
    ("plaintext-empty", "record-pad", plain(b"")),
    ("131073-bytes", "record-length", lambda _: u(131_073, 4) + bytes([RECORD])),
    ("2^32-1-bytes", "record-length", lambda _: u(2**32 - 1, 4) + bytes([RECORD])),
    ("length-0", "record-length", lambda _: u(0, 4)),
    ("body-empty", "record-length", lambda _: frame(RECORD, b"")),
    ("body-31-bytes", "record-length", lambda _: frame(RECORD, bytes(31))),
    ("body-cut", "record-length", lambda s: frame(RECORD, s.record(REQUEST, 1, "list")[:-1])),
    ("body-longer", "record-length", lambda s: frame(RECORD, s.record(REQUEST, 1, "list") + b"\0")),
    ("argument-129015-bytes", "record-length", plain(pad(b"\0\0\0\0\1frwd" + bytes(129_015), 131_039))),
)

CASES = tuple(Case(f"records/{name}", line, says(make), CLOSED) for name, line, make in _ENDING)
