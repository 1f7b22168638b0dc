"""Records (protocol §5): `[16] counter | [16] tag | ciphertext` under AES-256-GCM, one key a direction.

Each direction has its own traffic secret, its own key and its own counter, which runs 0, 1, 2 … for the whole session
and is never reset, also not by a key update. The receiver computes the counter it expects; what came must equal it. The
first record that does not open ends the connection.

A record is sealed and opened in its packed form, the padded plaintext of §5.1. The server relays that form as it came,
but for kind and id (`relay`): no parsing, no padding anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NewType

from messageapp.errors import LocalProtocolError, RemoteProtocolError
from messageapp_keys import labels
from messageapp_keys.codec import u8, u32
from messageapp_keys.primitives import (
    COUNTER_SIZE,
    TAG_SIZE,
    Buffer,
    OpenFailed,
    RecordCipher,
    counter_bytes,
    expand_label,
)
from messageapp_keys.types import SessionKey, TrafficSecret

from .frames import record_head

__all__ = [
    "HARD_STOP_RECORDS",
    "MAX_ARGUMENT",
    "SEAL_SIZE",
    "UPDATE_AFTER_BYTES",
    "UPDATE_AFTER_RECORDS",
    "UPDATE_AFTER_SECONDS",
    "Kind",
    "Packed",
    "Record",
    "RecordOpener",
    "RecordSealer",
    "checked_untrusted",
    "is_relayed",
    "padded_length",
    "relay",
]

UPDATE_AFTER_RECORDS: Final = 2**20
UPDATE_AFTER_BYTES: Final = 2**30
UPDATE_AFTER_SECONDS: Final = 3600.0
HARD_STOP_RECORDS: Final = 2**24  # far below the 2^32 at which AES-GCM bounds begin to matter
SEAL_SIZE: Final = COUNTER_SIZE + TAG_SIZE  # what sealing adds
MAX_ARGUMENT: Final = 129_014  # the longest argument whose padded record fits a frame (protocol §5.1)
_PREFIX: Final = 1 + 4 + 4
_PAD: Final = b"\x80"
_EVENT_HEAD: Final = b"\x02" + bytes(4)
_SMALL: Final = 4096
_BLOCK: Final = 256


class Kind(IntEnum):
    REQUEST = 0
    REPLY = 1
    EVENT = 2


Packed = NewType("Packed", bytearray)
"""A padded plaintext of canonical length, its form checked. Nobody changes it but `relay`."""


@dataclass(frozen=True, slots=True)
class Record:
    kind: Kind
    id: int
    verb: bytes  # [4]
    argument: bytes

    def encode(self) -> bytes:
        return u8(self.kind) + u32(self.id) + self.verb + self.argument

    def pack(self) -> Packed:
        """`LocalProtocolError` for an argument over `MAX_ARGUMENT`."""
        if len(self.argument) > MAX_ARGUMENT:
            raise LocalProtocolError("an argument is longer than a record takes")
        return Packed(bytearray(pad(self.encode())))

    @classmethod
    def unpack(cls, packed: Packed) -> Record:
        end = packed.rindex(_PAD)
        return cls(
            Kind(packed[0]), int.from_bytes(packed[1:5], "big"), bytes(packed[5:_PREFIX]), bytes(packed[_PREFIX:end])
        )


def is_relayed(packed: Packed) -> bool:
    """Is this the request `frwd`, which goes to the peer of the chat?"""
    return packed[5:_PREFIX] == b"frwd" and not packed[0]


def relay(records: Iterable[Packed]) -> None:
    """Make the requests `frwd` the events with the same arguments, in place."""
    for packed in records:
        packed[:5] = _EVENT_HEAD


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


def checked_untrusted(plaintext: bytearray) -> Packed:
    """The plaintext if it has the form of a record; padded anew where its sender's length is not ours.

    Else `RemoteProtocolError`. What has passed fits a frame again, so nobody can be made to send what he must not.
    """
    size, end = len(plaintext), plaintext.rfind(_PAD)
    if end < _PREFIX or plaintext[0] > Kind.EVENT or plaintext[end + 1 :] != bytes(size - end - 1):
        raise RemoteProtocolError("a record has not the form of one")
    if size - end > _BLOCK or size > _SMALL or size % _BLOCK:  # else the length is ours at a glance
        if end - _PREFIX > MAX_ARGUMENT:
            raise RemoteProtocolError("an argument is longer than a record takes")
        if size != padded_length(end + 1):
            plaintext = bytearray(pad(bytes(plaintext[:end])))
    return Packed(plaintext)


class _Direction:
    """One traffic secret with its key and counter."""

    __slots__ = ("_cipher", "_counter", "_secret", "_since", "_username", "generation")

    def __init__(self, secret: TrafficSecret, username: str) -> None:
        self._secret = secret
        self._username = username.encode()
        self._counter = 0
        self.generation = 0
        self._start_key()

    def _start_key(self) -> None:
        self._cipher = RecordCipher(expand_label(self._secret, labels.KEY, b"", SessionKey))
        self._since = self._counter  # the first under this key

    @property
    def records_under_key(self) -> int:
        return self._counter - self._since

    def update(self) -> None:
        """Move to k_d[i+1]; s_d[i] is dropped. The counter goes on."""
        self._secret = expand_label(self._secret, labels.TRAFFIC_UPDATE, b"", TrafficSecret)
        self.generation += 1
        self._start_key()


class RecordSealer(_Direction):
    """The sending direction. Not for two tasks: the counter is taken in the order of the calls."""

    __slots__ = ("_bytes",)

    def _start_key(self) -> None:
        super()._start_key()
        self._bytes = 0  # of plaintext under this key

    def seal(self, record: Record) -> bytes:
        """A frame body. Raises `LocalProtocolError` for an argument over `MAX_ARGUMENT` and at the hard stop."""
        parts: list[Buffer] = []
        self.seal_run((record.pack(),), parts)
        return b"".join(parts[1:])

    def seal_run(self, records: Iterable[Packed], parts: list[Buffer]) -> int:
        """Seal records until a key update is due, and add their whole frames to `parts`, in pieces that want one join.

        How many were sealed: the others wait for the update.
        """
        number, size, seal = self._counter, self._bytes, self._cipher.seal_apart
        until = self._since + UPDATE_AFTER_RECORDS
        if self.records_under_key >= HARD_STOP_RECORDS:
            raise LocalProtocolError("a key has sealed all that it may")
        for packed in records:
            counter = counter_bytes(number)
            tag, ciphertext = seal(counter, packed, self._username + counter)
            parts += (record_head(SEAL_SIZE + len(packed)), counter, tag, ciphertext)
            number += 1
            size += len(packed)
            if number >= until or size >= UPDATE_AFTER_BYTES:
                break
        sealed, self._counter, self._bytes = number - self._counter, number, size
        return sealed

    @property
    def update_due(self) -> bool:
        """True where amount calls for a key update; age is the caller's to watch."""
        return self.records_under_key >= UPDATE_AFTER_RECORDS or self._bytes >= UPDATE_AFTER_BYTES


class RecordOpener(_Direction):
    """The receiving direction."""

    __slots__ = ()

    def open_untrusted(self, body: Buffer) -> Record:
        """`RemoteProtocolError` for every body but the next one that the sender sealed; nothing changes then."""
        return Record.unpack(self.open_packed_untrusted(body))

    def open_packed_untrusted(self, body: Buffer) -> Packed:
        """As `open_untrusted`, in a buffer of its own."""
        counter = counter_bytes(self._counter)
        if body[:COUNTER_SIZE] != counter or len(body) < SEAL_SIZE:
            raise RemoteProtocolError("a record is out of order")
        if self.records_under_key >= HARD_STOP_RECORDS:
            raise RemoteProtocolError("a key was used for too long")
        try:
            plaintext = self._cipher.open_buffer(
                counter, body[COUNTER_SIZE:SEAL_SIZE], body[SEAL_SIZE:], self._username + counter
            )
        except OpenFailed:
            raise RemoteProtocolError("a record did not open") from None
        self._counter += 1
        return checked_untrusted(plaintext)
