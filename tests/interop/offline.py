"""Prekeys, starts and stored messages (§9) of the second implementation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from interop.base import (
    L_C3,
    SWIFT,
    H,
    Identity,
    Reader,
    Temporary,
    key_id_of,
    need,
    read_tlvs,
    tlv,
    u,
    vec,
    verify_list,
)
from interop.chat import Chat, open_sealed
from interop.peer import EVENT, Session

L_PREKEY = b"MessageApp v2, prekey"
ONE_TIME, LAST_RESORT = 1, 2
MESSAGE, START = 1, 2


@dataclass
class Prekey:
    """One of my own, with every choice open, so that tests can make it wrong."""

    me: Identity
    number: int
    expires: int  # ms
    kind: int = ONE_TIME
    user: str | None = None
    key_id: bytes | None = None
    suite: int = SWIFT
    label: bytes = L_PREKEY
    temporary: Temporary = field(default_factory=lambda: Temporary(SWIFT))
    x: x25519.X25519PrivateKey = field(default_factory=x25519.X25519PrivateKey.generate)
    m: mlkem.MLKEM768PrivateKey = field(default_factory=mlkem.MLKEM768PrivateKey.generate)
    temp_pub: bytes | None = None
    ratchet: bytes | None = None
    on_core: Callable[[bytes], bytes] = bytes  # after it was signed

    def __post_init__(self) -> None:
        start = self.x.public_key().public_bytes_raw() + self.m.public_key().public_bytes_raw()
        core = u(self.number, 4) + u(self.kind, 1) + u(self.expires, 8) + os.urandom(32) + u(self.suite, 2)
        core += vec(self.temporary.public() if self.temp_pub is None else self.temp_pub, 2)
        core += vec(start if self.ratchet is None else self.ratchet, 2)
        core += vec((self.user or self.me.name).encode(), 1) + (self.key_id or self.me.key_id)
        self.bytes = self.on_core(core) + self.me.signatures(self.label, core)


@dataclass(frozen=True)
class Theirs:
    """A prekey of somebody else, read and verified."""

    raw: bytes
    number: int
    kind: int
    temp_pub: bytes
    ratchet: bytes

    @classmethod
    def read(cls, reader: Reader, user: str, bundle: bytes, now: int) -> Theirs:
        began = reader.at
        number, kind, expires = reader.u(4), reader.u(1), reader.u(8)
        reader.take(32)
        need(reader.u(2) == SWIFT and kind in (ONE_TIME, LAST_RESORT), "suite and kind of a prekey")
        temp_pub, ratchet = reader.vec(2), reader.vec(2)
        need(len(ratchet) == 32 + 1184, "length of Ratchet")
        need(reader.vec(1) == user.encode() and reader.take(32) == key_id_of(bundle), "whose prekey it is")
        need(expires > now, "the prekey has expired")
        verify_list(bundle, L_PREKEY, reader.data[began : reader.at], reader)
        return cls(reader.data[began : reader.at], number, kind, temp_pub, ratchet)


@dataclass
class Offline(Chat):
    """`start` as the sender, `accept` as the receiver; then `ratchet()` as in a chat. The prekey stands for C2."""

    suite: int = SWIFT
    device: bytes = b""
    extra: bytes = b""  # more TLVs of C1
    suites: tuple[int, ...] = (SWIFT,)
    on_proof: Callable[[bytes], bytes] = bytes  # what is sealed in C3

    def start(self, prekey: Theirs, number: int | None = None) -> None:
        tlvs = tlv(1, u(prekey.number if number is None else number, 4))
        tlvs += (tlv(2, self.device) if self.device else b"") + self.extra
        suites = u(len(self.suites), 1) + b"".join(u(suite, 2) for suite in self.suites)
        self.c1 = b"MSGCHAT\x02" + os.urandom(32) + suites + self.invite + self._after_invite() + vec(tlvs, 2)
        self.c2, self.peer_start = prekey.raw, prekey.ratchet
        enc, ikm = self.encapsulate(prekey.temp_pub)
        key, th_ce = self._keys(enc, ikm)
        proof = self.on_proof(self.c3_signatures(th_ce))
        self.c3 = vec(enc, 2) + vec(AESGCM(key).encrypt(bytes(12), proof, th_ce), 2)

    def blob(self, message: bytes) -> bytes:
        return u(START, 1) + vec(self.c1, 3) + vec(self.c3, 3) + message

    def accept(self, start: Read, prekey: Prekey) -> None:
        """`start.message` is then for `ratchet()` to open."""
        need(start.after_invite == self._after_invite(), "names or key_ids of C1")
        need(start.prekey == prekey.number, "number of the prekey")
        self.c1, self.c2, self.c3, self.invite = start.c1, prekey.bytes, start.c3, start.invite
        self.x, self.m = prekey.x, prekey.m
        reader = Reader(start.c3)
        enc, sealed = reader.vec(2), reader.vec(2)
        reader.end()
        key, th_ce = self._keys(enc, prekey.temporary.decapsulate(enc))
        signed = Reader(open_sealed(key, bytes(12), sealed, th_ce))
        verify_list(self.peer_bundle, L_C3, self._c3_body(th_ce), signed)
        signed.end()


@dataclass(frozen=True)
class Read:
    """A start as it came; nothing is proved."""

    c1: bytes
    c3: bytes
    message: bytes
    invite: bytes
    after_invite: bytes
    prekey: int
    device: bytes

    @classmethod
    def blob(cls, blob: bytes) -> Read:
        reader = Reader(blob)
        need(reader.u(1) == START, "kind of a blob")
        c1, c3, message = reader.vec(3), reader.vec(3), reader.rest()
        head = Reader(c1)
        need(head.take(8) == b"MSGCHAT\x02", "magic of C1")
        head.take(32)
        need(head.take(3) == b"\1\0\3", "suites of a start")
        invite, began = head.take(16), head.at
        head.vec(1), head.vec(1), head.take(64), head.vec(1)
        after = c1[began : head.at]
        tlvs = read_tlvs(head.vec(2))
        head.end()
        need(len(tlvs[1]) == 4 and len(tlvs.get(2, bytes(16))) == 16, "TLVs of a start")
        return cls(c1, c3, message, invite, after, int.from_bytes(tlvs[1], "big"), tlvs.get(2, b""))


# Verbs of §9.2 ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What the server says that it holds."""

    one_time: int
    expires: int
    mine: bool
    seconds: int

    @classmethod
    def read(cls, argument: bytes) -> Held:
        reader = Reader(argument)
        held = cls(reader.u(2), reader.u(8), bool(reader.u(1)), reader.u(4))
        reader.end()
        return held


@dataclass(frozen=True)
class Mail:
    sender: str
    seq: int
    id: bytes
    blob: bytes

    @classmethod
    def read(cls, argument: bytes) -> Mail:
        reader = Reader(argument)
        mail = cls(reader.vec(1).decode(), reader.u(8), reader.take(16), reader.vec(3))
        reader.end()
        return mail


def upload(session: Session, *prekeys: Prekey) -> None:
    need(session.ask("prek", b"".join(prekey.bytes for prekey in prekeys)) == ("okay", b""), "prekeys are taken")


def held(session: Session) -> Held:
    verb, argument = session.ask("prek", b"")
    need(verb == "prek", f"{verb} instead of prek")
    return Held.read(argument)


def fetch(session: Session, user: str, now: int) -> tuple[bytes, bytes, Theirs]:
    """(bundle, device, prekey) by `bndl`, the signatures verified."""
    verb, argument = session.ask("bndl", vec(user.encode(), 1))
    need(verb == "bndl", f"{verb} {argument[:2].hex()} instead of bndl")
    reader = Reader(argument)
    name, bundle = reader.vec(1).decode(), reader.vec(2)
    reader.vec(3)  # of the key log: `interop.log`
    device, inner = reader.take(16), Reader(reader.vec(2))
    reader.end()
    prekey = Theirs.read(inner, name, bundle, now)
    inner.end()
    return bundle, device, prekey


def send(session: Session, to: str, id_: bytes, blob: bytes) -> int:
    """seq, when the server has it on its disk."""
    verb, argument = session.ask("send", vec(to.encode(), 1) + id_ + vec(blob, 3))
    need(verb == "ackd" and len(argument) == 24 and argument[:16] == id_, f"{verb} {argument[:2].hex()} to send")
    return int.from_bytes(argument[16:], "big")


def take(session: Session) -> Mail:
    """The next `mail`; it is not acknowledged yet. That few prekeys are left is passed over."""
    while True:
        kind, _, verb, argument = session.events.popleft() if session.events else session.receive()
        if verb != "prek":
            need((kind, verb) == (EVENT, "mail"), f"{verb} instead of mail")
            return Mail.read(argument)


def acknowledge(session: Session, *mails: Mail) -> None:
    need(session.ask("ackm", b"".join(u(mail.seq, 8) for mail in mails)) == ("okay", b""), "ackm")


def known_by(ratchet_message: bytes) -> bytes:
    """[16] What a message that was taken in is remembered by (§16)."""
    return H(ratchet_message)[:16]
