"""The bytes of M1, M2 and M3 (protocol §4.1, §4.3, §4.4) and of ALERT. Parsing raises `Malformed` and nothing else."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from messageapp_keys.codec import (
    Malformed,
    Reader,
    ascii_text,
    reading_untrusted,
    tlvs,
    u8,
    u16,
    u32,
    vec8,
    vec16,
    vec24,
)
from messageapp_keys.identity import IdentityBundle, Signatures, read_signatures, write_signatures
from messageapp_keys.joincode import INVITE_ID_SIZE
from messageapp_keys.names import is_username

__all__ = [
    "HIDE_USER",
    "M1",
    "M2",
    "M3",
    "MAGIC",
    "MAX_CHAIN",
    "TLV_DEVICE",
    "TLV_INVITE",
    "VERSION",
    "Alert",
    "JoinProof",
    "M2Core",
    "M3Proof",
    "m2_head",
    "m2_tail",
    "server_name_untrusted",
]

MAGIC: Final = b"MSGAPP\0\x02"
VERSION: Final = 2
HIDE_USER: Final = 1
TLV_DEVICE: Final = 1
TLV_INVITE: Final = 0x4A4E  # far from the low numbers, which other clients may send as unknown ones
MAX_CHAIN: Final = 3
_RANDOM: Final = 32
_SERVER_NAME: Final = re.compile(rb"[A-Za-z0-9_.:-]{1,253}")


def server_name_untrusted(data: bytes) -> str:
    """An ASCII DNS name or IP text."""
    if not _SERVER_NAME.fullmatch(data):
        raise Malformed("a server name is a DNS name or an IP address")
    return data.decode("ascii")


def _codes(values: tuple[int, ...]) -> bytes:
    return u8(len(values)) + b"".join(map(u16, values))


def _read_codes(reader: Reader, most: int) -> tuple[int, ...]:
    count = reader.u8()
    if not 1 <= count <= most:
        raise Malformed("a list of offers is empty or too long")
    return struct.unpack(f">{count}H", reader.take(2 * count))


@dataclass(frozen=True, slots=True)
class M1:
    random: bytes  # [32] R1
    versions: tuple[int, ...]
    suites: tuple[int, ...]
    sigalgs: tuple[int, ...]
    server: str
    username: str  # "" with HIDE_USER
    flags: int = 0
    tlvs: dict[int, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        return b"".join(
            (
                MAGIC,
                self.random,
                _codes(self.versions),
                _codes(self.suites),
                _codes(self.sigalgs),
                u32(self.flags),
                vec8(self.server.encode()),
                vec8(self.username.encode()),
                vec16(tlvs(self.tlvs)),
            )
        )

    @classmethod
    def parse_untrusted(cls, body: bytes) -> M1:
        with reading_untrusted(body) as reader:
            if reader.take(len(MAGIC)) != MAGIC:
                raise Malformed("not a MessageApp client")
            random = reader.take(_RANDOM)
            versions, suites, sigalgs = _read_codes(reader, 8), _read_codes(reader, 16), _read_codes(reader, 8)
            flags = reader.u32()
            server = server_name_untrusted(reader.vec8())
            raw_name = reader.vec8()
            extra = Reader(reader.vec16()).tlvs()
        username = "" if not raw_name else ascii_text(raw_name)
        if bool(flags & HIDE_USER) != (username == "") or (username and not is_username(username)):
            raise Malformed("the username has not the form of one")
        if TLV_DEVICE in extra and len(extra[TLV_DEVICE]) != 16:
            raise Malformed("a device id has 16 bytes")
        if TLV_INVITE in extra and (len(extra[TLV_INVITE]) != INVITE_ID_SIZE or username):
            raise Malformed("an invitation has 16 bytes, and its user no name yet")
        return cls(random, versions, suites, sigalgs, server, username, flags, extra)


@dataclass(frozen=True, slots=True)
class M2Core:
    """M2 up to its signature algorithm: what the signature is over."""

    random: bytes  # [32] R2
    version: int
    suite: int
    temp_pub: bytes
    chain: tuple[bytes, ...]  # DER, leaf first
    sigalg: int
    tlvs: dict[int, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        head = m2_head(self.random, self.version, self.suite, self.temp_pub)
        return head + m2_tail(self.chain, self.sigalg, self.tlvs)


def m2_head(random: bytes, version: int, suite: int, temp_pub: bytes) -> bytes:
    """What of M2-core is new in each login; `m2_tail` follows."""
    return b"".join((random, u16(version), u16(suite), u32(0), vec16(temp_pub)))


def m2_tail(chain: Sequence[bytes], sigalg: int, extra: Mapping[int, bytes] = MappingProxyType({})) -> bytes:
    """What of M2-core a server says in each login. `OverflowError` for a certificate of 16 MiB."""
    return b"".join((u8(len(chain)), *map(vec24, chain), vec16(tlvs(extra)), u16(sigalg)))


@dataclass(frozen=True, slots=True)
class M2:
    core: M2Core
    core_bytes: bytes
    signature: bytes

    @classmethod
    def parse_untrusted(cls, body: bytes) -> M2:
        with reading_untrusted(body) as reader:
            random, version, suite, flags = reader.take(_RANDOM), reader.u16(), reader.u16(), reader.u32()
            if flags:
                raise Malformed("M2 has a flag set")
            temp_pub = reader.vec16()
            count = reader.u8()
            if not 1 <= count <= MAX_CHAIN:
                raise Malformed("a chain has one to three certificates")
            chain = tuple(reader.vec24() for _ in range(count))
            extra = Reader(reader.vec16()).tlvs()
            core = M2Core(random, version, suite, temp_pub, chain, reader.u16(), extra)
            core_bytes = reader.consumed()
            return cls(core, core_bytes, reader.vec16())

    def encode(self) -> bytes:
        return self.core_bytes + vec16(self.signature)


@dataclass(frozen=True, slots=True)
class M3:
    encapsulated: bytes  # Enc(K)
    sealed: bytes  # M3Proof under k_m3: ciphertext || tag

    def encode(self) -> bytes:
        return vec16(self.encapsulated) + vec16(self.sealed)

    @classmethod
    def parse_untrusted(cls, body: bytes) -> M3:
        with reading_untrusted(body) as reader:
            return cls(reader.vec16(), reader.vec16())


@dataclass(frozen=True, slots=True)
class M3Proof:
    """The sealed part of M3."""

    username: str
    key_id: bytes  # [32]
    signatures: Signatures

    def encode(self) -> bytes:
        return vec8(self.username.encode()) + self.key_id + write_signatures(self.signatures)

    @classmethod
    def parse_untrusted(cls, plaintext: bytes) -> M3Proof:
        with reading_untrusted(plaintext) as reader:
            return cls(ascii_text(reader.vec8()), reader.take(32), read_signatures(reader))


@dataclass(frozen=True, slots=True)
class JoinProof(M3Proof):
    """The sealed part of an M3 that joins (§3.3)."""

    bundle: IdentityBundle  # its keys are not looked at yet
    tag: bytes  # [32] proof of the invitation's key

    def encode(self) -> bytes:
        return M3Proof.encode(self) + vec16(self.bundle.encode()) + self.tag

    @classmethod
    def parse_untrusted(cls, plaintext: bytes) -> JoinProof:
        with reading_untrusted(plaintext) as reader:
            username, key_id, signatures = ascii_text(reader.vec8()), reader.take(32), read_signatures(reader)
            return cls(username, key_id, signatures, IdentityBundle.read_untrusted(reader.vec16()), reader.take(32))


@dataclass(frozen=True, slots=True)
class Alert:
    """An unauthenticated hint (protocol §7): shown, never acted upon."""

    code: int
    retry: int | None = None  # seconds

    def encode(self) -> bytes:
        return u8(self.code) + (b"" if self.retry is None else u16(self.retry))

    @classmethod
    def parse_untrusted(cls, body: bytes) -> Alert:
        with reading_untrusted(body) as reader:
            code = reader.u8()
            return cls(code, None if reader.at_end else reader.u16())
