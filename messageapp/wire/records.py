"""Records (protocol §5): `[16] counter | [16] tag | ciphertext` under AES-256-GCM, one key a direction.

Each direction has its own traffic secret, its own key and its own counter, which runs 0, 1, 2 … for the whole session
and is never reset, also not by a key update. The receiver computes the counter it expects; what came must equal it. The
first record that does not open ends the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from messageapp.errors import LocalProtocolError, RemoteProtocolError
from messageapp_keys import labels
from messageapp_keys.codec import u8, u32
from messageapp_keys.primitives import (
    COUNTER_SIZE,
    TAG_SIZE,
    OpenFailed,
    RecordCipher,
    counter_bytes,
    expand_label,
    same,
)
from messageapp_keys.types import SessionKey, TrafficSecret

__all__ = [
    "HARD_STOP_RECORDS",
    "MAX_ARGUMENT",
    "UPDATE_AFTER_BYTES",
    "UPDATE_AFTER_RECORDS",
    "UPDATE_AFTER_SECONDS",
    "Kind",
    "Record",
    "RecordOpener",
    "RecordSealer",
    "padded_length",
]

UPDATE_AFTER_RECORDS: Final = 2**20
UPDATE_AFTER_BYTES: Final = 2**30
UPDATE_AFTER_SECONDS: Final = 3600.0
HARD_STOP_RECORDS: Final = 2**24  # far below the 2^32 at which AES-GCM bounds begin to matter
MAX_ARGUMENT: Final = 129_014  # the longest argument whose padded record fits a frame (protocol §5.1)
_PREFIX: Final = 1 + 4 + 4
_SMALL: Final = 4096
_BLOCK: Final = 256


class Kind(IntEnum):
    REQUEST = 0
    REPLY = 1
    EVENT = 2


@dataclass(frozen=True, slots=True)
class Record:
    kind: Kind
    id: int
    verb: bytes  # [4]
    argument: bytes

    def encode(self) -> bytes:
        return u8(self.kind) + u32(self.id) + self.verb + self.argument

    @classmethod
    def parse_untrusted(cls, plaintext: bytes) -> Record:
        """`RemoteProtocolError` for a short record or an unknown kind."""
        if len(plaintext) < _PREFIX or plaintext[0] > Kind.EVENT:
            raise RemoteProtocolError("a record has not the form of one")
        return cls(Kind(plaintext[0]), int.from_bytes(plaintext[1:5], "big"), plaintext[5:9], plaintext[9:])


def padded_length(size: int) -> int:
    """Length after padding of `size` bytes, the 0x80 counted: multiples of 256, above 4,096 Padmé-like steps."""
    if size <= _SMALL:
        return -(-size // _BLOCK) * _BLOCK
    exponent = size.bit_length() - 1
    step = max(_BLOCK, 1 << (exponent - exponent.bit_length()))
    return -(-size // step) * step


def pad(plaintext: bytes) -> bytes:
    marked = plaintext + b"\x80"
    return marked.ljust(padded_length(len(marked)), b"\0")


def unpad_untrusted(padded: bytes) -> bytes:
    stripped = padded.rstrip(b"\0")
    if not stripped.endswith(b"\x80"):
        raise RemoteProtocolError("a record is not padded")
    return stripped[:-1]


class _Direction:
    """One traffic secret with its key and counter."""

    __slots__ = ("_cipher", "_counter", "_secret", "_username", "bytes_under_key", "generation", "records_under_key")

    def __init__(self, secret: TrafficSecret, username: str) -> None:
        self._secret = secret
        self._username = username.encode()
        self._counter = 0
        self.generation = 0
        self._start_key()

    def _start_key(self) -> None:
        self._cipher = RecordCipher(expand_label(self._secret, labels.KEY, b"", SessionKey))
        self.records_under_key = 0
        self.bytes_under_key = 0

    def update(self) -> None:
        """Move to k_d[i+1]; s_d[i] is dropped. The counter goes on."""
        self._secret = expand_label(self._secret, labels.TRAFFIC_UPDATE, b"", TrafficSecret)
        self.generation += 1
        self._start_key()

    def _used(self, size: int) -> None:
        self._counter += 1
        self.records_under_key += 1
        self.bytes_under_key += size


class RecordSealer(_Direction):
    """The sending direction. Not for two tasks: the counter is taken in the order of the calls."""

    __slots__ = ()

    def seal(self, record: Record) -> bytes:
        """A frame body. Raises `LocalProtocolError` for an argument over `MAX_ARGUMENT` and at the hard stop."""
        if len(record.argument) > MAX_ARGUMENT:
            raise LocalProtocolError("an argument is longer than a record takes")
        if self.records_under_key >= HARD_STOP_RECORDS:
            raise LocalProtocolError("a key has sealed all that it may")
        plaintext = pad(record.encode())
        counter = counter_bytes(self._counter)
        sealed = self._cipher.seal(counter, plaintext, self._username + counter)
        self._used(len(plaintext))
        return counter + sealed

    @property
    def update_due(self) -> bool:
        """True where amount calls for a key update; age is the caller's to watch."""
        return self.records_under_key >= UPDATE_AFTER_RECORDS or self.bytes_under_key >= UPDATE_AFTER_BYTES


class RecordOpener(_Direction):
    """The receiving direction."""

    __slots__ = ()

    def open_untrusted(self, body: bytes) -> Record:
        """`RemoteProtocolError` for every body but the next one that the sender sealed; nothing changes then."""
        counter = counter_bytes(self._counter)
        if len(body) < COUNTER_SIZE + TAG_SIZE or not same(body[:COUNTER_SIZE], counter):
            raise RemoteProtocolError("a record is out of order")
        if self.records_under_key >= HARD_STOP_RECORDS:
            raise RemoteProtocolError("a key was used for too long")
        try:
            plaintext = self._cipher.open(counter, body[COUNTER_SIZE:], self._username + counter)
        except OpenFailed:
            raise RemoteProtocolError("a record did not open") from None
        self._used(len(plaintext))
        return Record.parse_untrusted(unpad_untrusted(plaintext))
