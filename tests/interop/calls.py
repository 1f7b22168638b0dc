"""What two logged-in sessions of the second implementation ask of a real server, and what must come back."""

from __future__ import annotations

import os

from interop.base import Identity, Reader, need, vec
from interop.chat import C1, C2, C3, C4, RATCHET, Chat, Ratchet
from interop.peer import Session

PubKey = tuple[bytes, int, str, bytes, bytes, bytes]


def to(user: str, invite: bytes) -> bytes:
    return vec(user.encode(), 1) + invite


def erro(answer: tuple[str, bytes]) -> tuple[int, bytes]:
    """(code, text)"""
    verb, value = answer
    need(verb == "erro", f"{verb} {value[:40]!r} instead of erro")
    reader = Reader(value)
    code, text = reader.u(2), reader.vec(1)
    reader.end()
    return code, text


def states(session: Session) -> dict[str, int]:
    """Who is online, and in which state."""
    verb, value = session.ask("list")
    need(verb == "list", f"{verb} instead of list")
    reader, found = Reader(value), dict[str, int]()
    while reader.at < len(value):
        name = reader.vec(1).decode()
        found[name] = reader.u(1)
    return found


def read_pubk(value: bytes) -> PubKey:
    """(invite, role, user, bundle, PEM text, log proof)"""
    reader = Reader(value)
    found = reader.take(16), reader.u(1), reader.vec(1).decode(), reader.vec(2), reader.vec(2), reader.vec(3)
    reader.end()
    return found


def ring(a: Session, b: Session) -> bytes:
    """A call of a to b, who has been told; returns the invite."""
    invite = os.urandom(16)
    need(a.ask("chat", to(b.user.decode(), invite)) == ("reqt", to(b.user.decode(), invite)), "reply to chat")
    need(b.event("reqt") == to(a.user.decode(), invite), "reqt")
    return invite


def bind(a: Session, b: Session) -> bytes:
    """A chat of a with b, up to both `pubk`; returns the invite."""
    invite = ring(a, b)
    verb, mine = b.ask("acpt", to(a.user.decode(), invite))
    theirs = a.event("pubk")
    need(verb == "pubk", f"{verb} instead of pubk")
    need(read_pubk(mine)[:3] == (invite, 2, a.user.decode()), "pubk of the receiver")
    need(read_pubk(theirs)[:3] == (invite, 1, b.user.decode()), "pubk of the caller")
    return invite


def over(source: Session, sink: Session, kind: int, body: bytes) -> bytes:
    """`body` as it comes out of the relay."""
    source.relay(kind, body)
    value = sink.event("frwd")
    need(value[0] == kind, "type of frwd")
    return value[1:]


def secure(a: Session, b: Session, mine: Identity, yours: Identity) -> tuple[Ratchet, Ratchet]:
    """A call, C1 to C4 and the first, empty message; the ratchets of both ends."""
    invite, server = bind(a, b), Reader(a.tlvs[5]).vec(1).decode()
    calling = Chat(mine, yours.name, yours.bundle, server, invite, True)
    called = Chat(yours, mine.name, mine.bundle, server, invite, False)
    c2 = over(b, a, C2, called.c2_from(over(a, b, C1, calling.make_c1())))
    calling.check_c4(over(b, a, C4, called.c4_from(over(a, b, C3, calling.c3_from(c2)))))
    ratchets = calling.ratchet(), called.ratchet()
    need(3 not in ratchets[1].open(over(a, b, RATCHET, ratchets[0].text(None))), "the first message shows nothing")
    return ratchets


def talk(a: Session, b: Session, ratchets: tuple[Ratchet, Ratchet]) -> None:
    """A text each way."""
    for source, sink, out, into in ((b, a, ratchets[1], ratchets[0]), (a, b, *ratchets)):
        need(into.open(over(source, sink, RATCHET, out.text("hello")))[3] == b"hello", "text")
