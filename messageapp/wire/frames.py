"""Frames (protocol §2): `u32 length | u8 type | body`, length = 1 + |body|.

The limit is checked on the four length bytes alone, before a byte of the body is waited for or kept. Which limit holds
follows from the types that are in turn, so a peer before login never makes us hold more than its one message.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from messageapp.errors import RemoteProtocolError

__all__ = ["FRAME_LIMITS", "Frame", "FrameBuffer", "FrameType", "encode_frame"]


class FrameType(IntEnum):
    M1 = 0x01
    M2 = 0x02
    M3 = 0x03
    M4 = 0x04
    RECORD = 0x10
    ALERT = 0x1F


FRAME_LIMITS: Final = {
    FrameType.M1: 4096,
    FrameType.M2: 32_768,
    FrameType.M3: 8192,
    FrameType.M4: 4096,
    FrameType.RECORD: 131_072,
    FrameType.ALERT: 4,
}
"""Largest length field of each type (protocol §2; that of M2 for chains of ML-DSA-65 certificates)."""

_TYPES: Final[dict[int, tuple[FrameType, int]]] = {int(kind): (kind, limit) for kind, limit in FRAME_LIMITS.items()}
_HEADER: Final = 4
ALERT_FORMAT: Final = 1
ALERT_SIZE: Final = 4


@dataclass(frozen=True, slots=True)
class Frame:
    type: FrameType
    body: bytes

    @property
    def wire(self) -> bytes:
        """All bytes including length and type: what the transcript hashes."""
        return encode_frame(self.type, self.body)


def encode_frame(kind: FrameType, body: bytes) -> bytes:
    return (1 + len(body)).to_bytes(4, "big") + bytes((kind,)) + body


class FrameBuffer:
    """Bytes in, frames out, at any split. Linear: the consumed prefix is dropped once a `feed`, not once a frame."""

    __slots__ = ("_buffer", "_start")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes) -> None:
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer) - self._start

    def next_untrusted(self, expected: Collection[FrameType]) -> Frame | None:
        """The next whole frame, or None until more bytes came.

        Raises `RemoteProtocolError` with alert 4 for a length over every expected limit and alert 1 for a type out of
        turn.
        """
        buffer, start = self._buffer, self._start
        body = start + _HEADER + 1
        if len(buffer) < body - 1:
            return None
        length = int.from_bytes(buffer[start : body - 1], "big")
        if not 1 <= length <= max([_TYPES[kind][1] for kind in expected]):
            raise RemoteProtocolError("a frame is longer than allowed" if length else "a frame has no type", ALERT_SIZE)
        if len(buffer) < body:
            return None
        if buffer[body - 1] not in expected:
            raise RemoteProtocolError("a frame is of a type that is not in turn", ALERT_FORMAT)
        kind, limit = _TYPES[buffer[body - 1]]
        if length > limit:
            raise RemoteProtocolError("a frame is longer than allowed", ALERT_SIZE)
        end = body - 1 + length
        if end > len(buffer):
            return None
        self._start = end
        return Frame(kind, bytes(buffer[body:end]))
