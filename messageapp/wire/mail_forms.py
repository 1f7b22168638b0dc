"""What clients and server say about messages that the server stores: prek bndl send ackd mail ackm (protocol §6.2, §9).

Prekeys, bundles, proofs and blobs are bytes here; who uses them reads them. The server never looks into a blob.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from messageapp_keys.codec import Malformed, Reader, u8, u16, u32, u64, vec8, vec16, vec24

from .fields import read_username

__all__ = [
    "DEVICE_SIZE",
    "MAIL_ID_SIZE",
    "MAX_ACKNOWLEDGED",
    "MAX_BLOB",
    "MAX_PREKEYS",
    "Acknowledgement",
    "Delivery",
    "MailRequest",
    "PeerPrekey",
    "PrekeyRequest",
    "PrekeyState",
    "PrekeyUpload",
    "Stored",
]

MAX_BLOB: Final = 128_000
"""Bytes of one stored message: with its head and padding it fits one record (131,072 bytes)."""
MAX_PREKEYS: Final = 40
"""In one upload: with RSA signatures these fill a record."""
MAX_ACKNOWLEDGED: Final = 1_024
"""Messages that one `ackm` names."""
DEVICE_SIZE: Final = 16
MAIL_ID_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class PrekeyUpload:
    """prek of a client: encoded prekeys, one after another; empty is a question, answered by `PrekeyState`."""

    prekeys: bytes = b""

    def encode(self) -> bytes:
        return self.prekeys

    @classmethod
    def read(cls, reader: Reader) -> PrekeyUpload:
        return cls(reader.rest())


@dataclass(frozen=True, slots=True)
class PrekeyState:
    """prek of the server: the answer, and the event when few are left or another device receives the mail now."""

    one_time: int  # left
    last_resort_ms: int  # when the last-resort one expires; 0: there is none
    receives: bool  # this device receives the user's mail
    kept_s: int  # how long the server keeps a message

    def encode(self) -> bytes:
        return u16(self.one_time) + u64(self.last_resort_ms) + u8(int(self.receives)) + u32(self.kept_s)

    @classmethod
    def read(cls, reader: Reader) -> PrekeyState:
        one_time, last_resort_ms, receives = reader.u16(), reader.u64(), reader.u8()
        if receives > 1:
            raise Malformed("whether this device receives mail is 0 or 1")
        return cls(one_time, last_resort_ms, bool(receives), reader.u32())


@dataclass(frozen=True, slots=True)
class PrekeyRequest:
    """bndl of a client: with what a conversation with `user` begins. Answer: `PeerPrekey`."""

    user: str

    def encode(self) -> bytes:
        return vec8(self.user.encode())

    @classmethod
    def read(cls, reader: Reader) -> PrekeyRequest:
        return cls(read_username(reader))


@dataclass(frozen=True, slots=True)
class PeerPrekey:
    """bndl of the server. Nothing of it counts before the bundle is checked as that of `pubk` is."""

    user: str  # in the registered spelling
    bundle: bytes
    proof: bytes  # of the key log, as in `pubk`; empty at a server without one
    device: bytes  # [16]
    prekey: bytes

    def encode(self) -> bytes:
        name = vec8(self.user.encode())
        return name + vec16(self.bundle) + vec24(self.proof) + self.device + vec16(self.prekey)

    @classmethod
    def read(cls, reader: Reader) -> PeerPrekey:
        return cls(read_username(reader), reader.vec16(), reader.vec24(), reader.take(DEVICE_SIZE), reader.vec16())


@dataclass(frozen=True, slots=True)
class MailRequest:
    """send: to be stored for `to`. Answer: `Stored`, when it is on disk."""

    to: str
    id: bytes  # [16] chosen by the sender: the same again is stored once
    blob: bytes

    def encode(self) -> bytes:
        return vec8(self.to.encode()) + self.id + vec24(self.blob)

    @classmethod
    def read(cls, reader: Reader) -> MailRequest:
        return cls(read_username(reader), reader.take(MAIL_ID_SIZE), _read_blob(reader))


@dataclass(frozen=True, slots=True)
class Stored:
    """ackd: it is on disk."""

    id: bytes  # [16]
    seq: int

    def encode(self) -> bytes:
        return self.id + u64(self.seq)

    @classmethod
    def read(cls, reader: Reader) -> Stored:
        return cls(reader.take(MAIL_ID_SIZE), reader.u64())


@dataclass(frozen=True, slots=True)
class Delivery:
    """mail: a stored message, in the order of `seq`. It stays stored until it is acknowledged."""

    sender: str  # in the registered spelling
    seq: int
    id: bytes  # [16]
    blob: bytes

    def encode(self) -> bytes:
        return vec8(self.sender.encode()) + u64(self.seq) + self.id + vec24(self.blob)

    @classmethod
    def read(cls, reader: Reader) -> Delivery:
        return cls(read_username(reader), reader.u64(), reader.take(MAIL_ID_SIZE), _read_blob(reader))


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """ackm: these are on the receiver's disk; the server deletes them. Answer: okay."""

    seqs: tuple[int, ...]

    def encode(self) -> bytes:
        return b"".join(map(u64, self.seqs))

    @classmethod
    def read(cls, reader: Reader) -> Acknowledgement:
        seqs = [reader.u64()]
        while not reader.at_end:
            seqs.append(reader.u64())
        if len(seqs) > MAX_ACKNOWLEDGED:
            raise Malformed("too many messages acknowledged at once")
        return cls(tuple(seqs))


def _read_blob(reader: Reader) -> bytes:
    blob = reader.vec24()
    if not 0 < len(blob) <= MAX_BLOB:
        raise Malformed("a stored message has a size that none has")
    return blob
