"""What clients and server say about the key log: klog and newk (protocol §6.2, §12).

Leaves, notes and bundles are bytes here; who uses them reads them. A hash has 32 bytes, a list goes to the end of the
argument, and every length is bounded by the record that carries it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from messageapp_keys.codec import Malformed, Reader, u8, u16, u64, vec8, vec16
from messageapp_keys.merkle import HASH_SIZE

from .fields import read_username

__all__ = [
    "MAX_LOG_BYTES",
    "MAX_USER_LEAVES",
    "LogBundle",
    "LogConsistency",
    "LogHead",
    "LogInclusion",
    "LogLeaves",
    "LogOp",
    "LogReply",
    "LogRequest",
    "LogUser",
    "NewKey",
    "PeerProof",
    "ReplyForm",
]

MAX_LOG_BYTES: Final = 120_000
"""Leaves in one reply, all in all: with its head it fits one record (131,072 bytes)."""
MAX_USER_LEAVES: Final = 64
"""Leaves of one user in one reply, the newest: more changes of a key than anybody makes in years."""


class LogOp(IntEnum):
    HEAD = 1
    RANGE = 2
    INCLUSION = 3
    CONSISTENCY = 4
    KEYS = 5
    COSIGN = 6
    USER = 7


def _read_hashes(reader: Reader) -> tuple[bytes, ...]:
    """To the end."""
    found = []
    while not reader.at_end:
        found.append(reader.take(HASH_SIZE))
    return tuple(found)


_OPERANDS: Final[dict[LogOp, Callable[[Reader], tuple[int, int, bytes]]]] = {
    LogOp.HEAD: lambda reader: (0, 0, b""),
    LogOp.RANGE: lambda reader: (reader.u64(), reader.u64(), b""),
    LogOp.INCLUSION: lambda reader: (reader.u64(), reader.u64(), b""),
    LogOp.CONSISTENCY: lambda reader: (reader.u64(), reader.u64(), b""),
    LogOp.KEYS: lambda reader: (0, 0, reader.take(HASH_SIZE)),
    LogOp.COSIGN: lambda reader: (0, 0, reader.vec16()),
    LogOp.USER: lambda reader: (0, 0, read_username(reader).encode()),
}


@dataclass(frozen=True, slots=True)
class LogRequest:
    """klog of a client. Made by the class methods below, one for each operation."""

    op: LogOp
    first: int = 0
    second: int = 0
    data: bytes = b""  # key_id [32], signature line, or username

    @classmethod
    def head(cls) -> LogRequest:
        """Answer: `LogHead`."""
        return cls(LogOp.HEAD)

    @classmethod
    def range(cls, start: int, stop: int) -> LogRequest:
        """Leaves from `start` on, below `stop`. Answer: `LogLeaves`, at least one."""
        return cls(LogOp.RANGE, start, stop)

    @classmethod
    def inclusion(cls, index: int, size: int) -> LogRequest:
        """Answer: `LogInclusion`."""
        return cls(LogOp.INCLUSION, index, size)

    @classmethod
    def consistency(cls, old: int, new: int) -> LogRequest:
        """Two sizes. Answer: `LogConsistency`."""
        return cls(LogOp.CONSISTENCY, old, new)

    @classmethod
    def keys(cls, key_id: bytes) -> LogRequest:
        """Answer: `LogBundle`, whether the key counts today or did once."""
        return cls(LogOp.KEYS, data=key_id)

    @classmethod
    def cosign(cls, line: bytes) -> LogRequest:
        """A witness's signature line for the present checkpoint, with its line end. Answer: okay."""
        return cls(LogOp.COSIGN, data=line)

    @classmethod
    def user(cls, name: str) -> LogRequest:
        """Answer: `LogUser`."""
        return cls(LogOp.USER, data=name.encode())

    def encode(self) -> bytes:
        op = u8(self.op)
        if self.op in (LogOp.RANGE, LogOp.INCLUSION, LogOp.CONSISTENCY):
            return op + u64(self.first) + u64(self.second)
        if self.op is LogOp.COSIGN:
            return op + vec16(self.data)
        return op + (vec8(self.data) if self.op is LogOp.USER else self.data)

    @classmethod
    def read(cls, reader: Reader) -> LogRequest:
        op = _read_op(reader)
        return cls(op, *_OPERANDS[op](reader))


def _read_op(reader: Reader) -> LogOp:
    try:
        return LogOp(reader.u8())
    except ValueError:
        raise Malformed("an unknown operation of the key log") from None


@dataclass(frozen=True, slots=True)
class LogHead:
    """The newest checkpoint, and the key that signs it, bound to the server's certificate (protocol §12)."""

    note: bytes
    log_key: bytes  # [32] Ed25519
    sigalg: int
    signature: bytes  # by the certificate's key, SIG_LOG_KEY

    def encode(self) -> bytes:
        return u8(LogOp.HEAD) + vec16(self.note) + self.log_key + u16(self.sigalg) + vec16(self.signature)

    @classmethod
    def read(cls, reader: Reader) -> LogHead:
        """With its op: as the event."""
        if reader.u8() != LogOp.HEAD:
            raise Malformed("an event of the key log is its head")
        return cls._read_body(reader)

    @classmethod
    def _read_body(cls, reader: Reader) -> LogHead:
        return cls(reader.vec16(), reader.take(HASH_SIZE), reader.u16(), reader.vec16())


@dataclass(frozen=True, slots=True)
class LogLeaves:
    """Leaves `start`, `start` + 1 …, at least one."""

    start: int
    leaves: tuple[bytes, ...]

    def encode(self) -> bytes:
        return u8(LogOp.RANGE) + u64(self.start) + b"".join(map(vec16, self.leaves))

    @classmethod
    def _read_body(cls, reader: Reader) -> LogLeaves:
        start, leaves = reader.u64(), [reader.vec16()]
        while not reader.at_end:
            leaves.append(reader.vec16())
        return cls(start, tuple(leaves))


@dataclass(frozen=True, slots=True)
class LogInclusion:
    leaf: bytes
    proof: tuple[bytes, ...]

    def encode(self) -> bytes:
        return u8(LogOp.INCLUSION) + vec16(self.leaf) + b"".join(self.proof)

    @classmethod
    def _read_body(cls, reader: Reader) -> LogInclusion:
        return cls(reader.vec16(), _read_hashes(reader))


@dataclass(frozen=True, slots=True)
class LogConsistency:
    proof: tuple[bytes, ...]

    def encode(self) -> bytes:
        return u8(LogOp.CONSISTENCY) + b"".join(self.proof)

    @classmethod
    def _read_body(cls, reader: Reader) -> LogConsistency:
        return cls(_read_hashes(reader))


@dataclass(frozen=True, slots=True)
class LogBundle:
    """The bundle with the key_id that was asked for: who asked compares it."""

    bundle: bytes

    def encode(self) -> bytes:
        return u8(LogOp.KEYS) + vec16(self.bundle)

    @classmethod
    def _read_body(cls, reader: Reader) -> LogBundle:
        return cls(reader.vec16())


@dataclass(frozen=True, slots=True)
class LogUser:
    """(number, leaf) of one user, the newest first."""

    entries: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        return u8(LogOp.USER) + b"".join([u64(number) + vec16(leaf) for number, leaf in self.entries])

    @classmethod
    def _read_body(cls, reader: Reader) -> LogUser:
        entries: list[tuple[int, bytes]] = []
        while not reader.at_end:
            if len(entries) == MAX_USER_LEAVES:
                raise Malformed("too many leaves of one user")
            entries.append((reader.u64(), reader.vec16()))
        return cls(tuple(entries))


LogReply = LogHead | LogLeaves | LogInclusion | LogConsistency | LogBundle | LogUser

_REPLIES: Final[dict[LogOp, Callable[[Reader], LogReply]]] = {
    LogOp.HEAD: LogHead._read_body,
    LogOp.RANGE: LogLeaves._read_body,
    LogOp.INCLUSION: LogInclusion._read_body,
    LogOp.CONSISTENCY: LogConsistency._read_body,
    LogOp.KEYS: LogBundle._read_body,
    LogOp.USER: LogUser._read_body,
}


class ReplyForm:
    """klog of the server: which form it is stands in its first byte."""

    @staticmethod
    def read(reader: Reader) -> LogReply:
        op = _read_op(reader)
        if op not in _REPLIES:
            raise Malformed("an operation of the key log without an answer")
        return _REPLIES[op](reader)


@dataclass(frozen=True, slots=True)
class PeerProof:
    """The proof in `pubk`: the peer's latest leaf is in the log of this checkpoint."""

    note: bytes
    index: int
    leaf: bytes
    proof: tuple[bytes, ...]

    def encode(self) -> bytes:
        return vec16(self.note) + u64(self.index) + vec16(self.leaf) + b"".join(self.proof)

    @classmethod
    def parse_untrusted(cls, data: bytes) -> PeerProof:
        """`Malformed`."""
        with Reader(data) as reader:
            return cls(reader.vec16(), reader.u64(), reader.vec16(), _read_hashes(reader))


@dataclass(frozen=True, slots=True)
class NewKey:
    """newk: the user's next key. Each side has signed `keylog.change_body`, in the list form of protocol §4.4."""

    bundle: bytes
    change: bytes  # by the key that was enrolled until now, SIG_KEY_CHANGE
    possession: bytes  # by the new key, SIG_NEW_KEY

    def encode(self) -> bytes:
        return vec16(self.bundle) + vec16(self.change) + vec16(self.possession)

    @classmethod
    def read(cls, reader: Reader) -> NewKey:
        return cls(reader.vec16(), reader.vec16(), reader.vec16())
