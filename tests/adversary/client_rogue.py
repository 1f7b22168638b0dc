"""A server and a chat peer that break one rule each: the second implementation with one step changed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from interop.base import DER, L_C2, L_C3, L_M2, SWIFT, Identity, Private, Reader, Temporary, sign, tlv, u, vec
from interop.chat import Chat
from interop.peer import M2, Authority, Closed, Server, Session, frame, th_m2

__all__ = ["Flip", "Offer", "Plan", "Rogue", "RogueChat", "cut", "flip", "longer"]

Flip = Callable[[bytes], bytes]


def flip(at: int, bit: int = 1) -> Flip:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= bit
        return bytes(changed)

    return change


def cut(data: bytes) -> bytes:
    return data[:-1]


def longer(data: bytes) -> bytes:
    return data + b"\0"


def signed_by(key: Private, label: bytes = L_M2, salt: int = 32) -> Flip:
    return lambda body: sign(key, label, body, salt)[1]


@dataclass(frozen=True)
class Offer:
    """M2 in its parts; `signature` is made over TH_M2 of these parts and of `m1`."""

    m1: bytes
    temp_pub: bytes
    chain: tuple[bytes, ...]
    key: Private
    suite: int = SWIFT
    version: int = 2
    flags: int = 0
    tlvs: bytes = tlv(0x2A2A, b"unused")
    sigalg: int | None = None  # None: that of the key
    signature: Flip | None = None  # TH_M2 → signature; None: as it should be

    def core(self) -> bytes:
        alg = sign(self.key, b"", b"")[0] if self.sigalg is None else self.sigalg
        core = os.urandom(32) + u(self.version, 2) + u(self.suite, 2) + u(self.flags, 4) + vec(self.temp_pub, 2)
        core += u(len(self.chain), 1) + b"".join(vec(der, 3) for der in self.chain)
        return core + vec(self.tlvs, 2) + u(alg, 2)

    def sign(self, core: bytes) -> bytes:
        return (self.signature or signed_by(self.key))(th_m2(self.m1, core))


def _as_it_is(offer: Offer) -> Offer:
    return offer


@dataclass(frozen=True)
class Plan:
    """What a server does otherwise. `core` and `m2` change the bytes after the signature was made."""

    offer: Callable[[Offer], Offer] = _as_it_is
    core: Flip = bytes
    m2: Flip = bytes  # the whole frame, and whatever is sent instead
    m4: Callable[[Rogue, Session], bytes] | None = None  # what is sent instead of M4
    hang_up: bool = False  # after M2
    suite: int = SWIFT  # of the temporary key
    canonical: str = "localhost"
    words: tuple[str, ...] = ()  # options of the client
    authority: Authority | None = None


@dataclass
class Rogue(Server):
    plan: Plan = field(default_factory=Plan)

    def accept_m1(self) -> tuple[socket.socket, bytes]:
        self.sock, m1 = super().accept_m1()
        return self.sock, m1

    def make_m2(self, m1: bytes, temporary: Temporary) -> bytes:
        plan, authority = self.plan, self.authority
        self.m1 = m1
        chain = (authority.leaf.public_bytes(DER),)
        offer = plan.offer(Offer(m1, temporary.public(), chain, authority.key, self.suite))
        core = offer.core()
        self.m2 = plan.m2(frame(M2, plan.core(core) + vec(offer.sign(core), 2)))
        if plan.hang_up:
            self.sock.sendall(self.m2)
            raise Closed("as planned")
        return self.m2

    def make_m4(self, session: Session) -> bytes:
        self.canonical = self.plan.canonical
        return super().make_m4(session) if self.plan.m4 is None else self.plan.m4(self, session)


@dataclass
class RogueChat(Chat):
    """A caller or receiver that checks nothing and changes what it is told to change, before it signs."""

    temp: Flip = bytes  # TempPub of C2
    start: Flip = bytes  # Ratchet of C2
    core: Flip = bytes  # all of C2 that is signed
    signer: Identity | None = None
    label: bytes = b""
    c3_body: Flip = bytes  # what the signature in C3 covers
    signatures: Flip = bytes  # the list, as it is written
    point: bytes = b""  # of low order, in place of the X25519 key in Enc(K)

    def check_c1(self, c1: bytes) -> None:
        return

    def check_c2(self, core: bytes, rest: Reader) -> None:
        return

    def encapsulate(self, temp_pub: bytes) -> tuple[bytes, bytes]:
        enc, ikm = super().encapsulate(temp_pub)
        return (self.point + enc[32:], bytes(32) + ikm[32:]) if self.point else (enc, ikm)

    def c2_core(self) -> bytes:
        reader = Reader(super().c2_core())
        head, temp, start = reader.take(34), reader.vec(2), reader.vec(2)
        return self.core(head + vec(self.temp(temp), 2) + vec(self.start(start), 2) + reader.rest())

    def c2_signatures(self, core: bytes) -> bytes:
        return self.signatures((self.signer or self.me).signatures(self.label or L_C2, self.th_c2(core)))

    def c3_signatures(self, th_ce: bytes) -> bytes:
        body = self.c3_body(self._c3_body(th_ce))
        return self.signatures((self.signer or self.me).signatures(self.label or L_C3, body))
