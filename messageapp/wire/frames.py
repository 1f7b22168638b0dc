"""Frames (protocol §2): `u32 length | u8 type | body`, length = 1 + |body|.

The limit is checked on the four length bytes alone, before a byte of the body is waited for or kept. Which limit holds
follows from the types that are in turn, so a peer before login never makes us hold more than its one message.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from messageapp.errors import RemoteProtocolError
from messageapp_keys.primitives import Buffer

__all__ = ["FRAME_LIMITS", "Frame", "FrameBuffer", "FrameType", "encode_frame", "record_head"]


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

_LIMITS: Final = {int(kind): limit for kind, limit in FRAME_LIMITS.items()}
_HEAD: Final = struct.Struct(">IB")
_RECORD_ALONE: Final = (int(FrameType.RECORD),)
_RECORD_LIMIT: Final = FRAME_LIMITS[FrameType.RECORD]
_HEADER: Final = 4
_VIEWED: Final = 8192  # from this length on a view is cheaper than a copy
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
    return (1 + len(body)).to_bytes(_HEADER, "big") + bytes((kind,)) + body


@lru_cache(64)  # padding leaves few lengths
def record_head(size: int) -> bytes:
    """What stands before a record's body of that size."""
    return (1 + size).to_bytes(_HEADER, "big") + bytes((FrameType.RECORD,))


class FrameBuffer:
    """Bytes in, frames out, at any split.

    Linear: whole frames are read where they lie in what was fed. Only an unfinished one is moved, to `_partial`, which
    grows until its frame is whole; so a byte is copied a fixed number of times however it came.
    """

    __slots__ = ("_data", "_needed", "_partial", "_start")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._start = 0  # frames before it were given
        self._partial = bytearray()
        self._needed = 0  # with fewer bytes in `_partial` there is nothing to look at

    def feed(self, data: bytes) -> None:
        if not self._data and not self._partial:
            self._data = data
            return
        if self._data:
            self._partial += memoryview(self._data)[self._start :]
            self._data, self._start = b"", 0
        self._partial += data
        if len(self._partial) >= self._needed:
            self._data, self._partial = self._partial, bytearray()

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._data) - self._start + len(self._partial)

    def next_untrusted(self, expected: Collection[FrameType]) -> Frame | None:
        """The next whole frame, or None until more bytes came.

        Raises `RemoteProtocolError` with alert 4 for a length over every expected limit and alert 1 for a type out of
        turn.
        """
        end = self._end_untrusted(expected, max([FRAME_LIMITS[kind] for kind in expected]))
        if not end:
            return None
        data, start = self._data, self._start + _HEADER
        self._start, self._needed = end, 0
        if end == len(data):
            self._data, self._start = b"", 0  # an idle connection keeps nothing
        return Frame(FrameType(data[start]), bytes(data[start + 1 : end]))

    def records_untrusted(self) -> Iterator[Buffer]:
        """The bodies of the frames that are whole, which must be records; a large one as a view of what was fed.

        Raises as `next_untrusted`. Each is taken out as it is given. The way of every relayed message: where a frame is
        not whole or not as it must be, the general way below says what that means.
        """
        data, start = self._data, self._start
        size = len(data)
        while size - start > _HEADER:
            length, kind = _HEAD.unpack_from(data, start)
            end = start + _HEADER + length
            if end > size or kind != FrameType.RECORD or not 1 <= length <= _RECORD_LIMIT:
                break
            self._start, self._needed = end, 0
            if end == size:
                self._data, self._start = b"", 0  # an idle connection keeps nothing
            yield data[start + _HEADER + 1 : end] if length < _VIEWED else memoryview(data)[start + _HEADER + 1 : end]
            start = end
        if start < size:
            self._end_untrusted(_RECORD_ALONE, _RECORD_LIMIT)
            if start:  # keep the unfinished frame, not all that was read with it
                self._partial += memoryview(data)[start:]
                self._data, self._start = b"", 0

    def _end_untrusted(self, expected: Collection[int], limit: int) -> int:
        """Where the next frame ends, or 0 if it is not whole."""
        data, start = self._data, self._start
        available = len(data) - start
        if available < _HEADER:
            if not self._partial:
                self._needed = _HEADER
            return 0
        length = int.from_bytes(data[start : start + _HEADER], "big")
        if not 1 <= length <= limit:
            raise RemoteProtocolError("a frame is longer than allowed" if length else "a frame has no type", ALERT_SIZE)
        if available == _HEADER:
            self._needed = _HEADER + 1
            return 0
        kind = data[start + _HEADER]
        if kind not in expected:
            raise RemoteProtocolError("a frame is of a type that is not in turn", ALERT_FORMAT)
        if length > _LIMITS[kind]:
            raise RemoteProtocolError("a frame is longer than allowed", ALERT_SIZE)
        self._needed = _HEADER + length
        return start + self._needed if available >= self._needed else 0
