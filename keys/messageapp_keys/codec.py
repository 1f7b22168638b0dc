"""Big-endian, length-prefixed fields, read exactly (protocol §1).

Writing joins the small functions below; reading walks a `Reader`, which consumes a structure to its last
byte. `Malformed` is the only exception that reading raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = [
    "Malformed",
    "Reader",
    "reading_untrusted",
    "tlvs",
    "u8",
    "u16",
    "u24",
    "u32",
    "u64",
    "vec8",
    "vec16",
    "vec24",
]

_NOT_PRINTABLE: Final = re.compile(rb"[^\x21-\x7e]")


class Malformed(ValueError):
    """Bytes from outside do not have the form that the protocol asks for."""


def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u24(value: int) -> bytes:
    return value.to_bytes(3, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def vec8(data: bytes) -> bytes:
    return len(data).to_bytes(1, "big") + data


def vec16(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def vec24(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data


def tlvs(entries: Mapping[int, bytes]) -> bytes:
    """Entries in ascending order of type, each `u16 type | vec16 value`."""
    return b"".join([u16(kind) + vec16(value) for kind, value in sorted(entries.items())])


class Reader:
    """A cursor over bytes of a stranger; every method raises `Malformed` where the bytes run out."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end()

    @property
    def position(self) -> int:
        return self._position

    @property
    def at_end(self) -> bool:
        return self._position == len(self._data)

    def consumed(self) -> bytes:
        return self._data[: self._position]

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise Malformed("a field is shorter than its length")
        piece = self._data[self._position : end]
        self._position = end
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u24(self) -> int:
        return int.from_bytes(self.take(3), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def vec8(self) -> bytes:
        return self.take(self.take(1)[0])

    def vec16(self) -> bytes:
        return self.take(int.from_bytes(self.take(2), "big"))

    def vec24(self) -> bytes:
        return self.take(int.from_bytes(self.take(3), "big"))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)

    def tlvs(self) -> dict[int, bytes]:
        """The TLVs from here to the end. A type that stands twice is an error; an unknown one is kept."""
        found: dict[int, bytes] = {}
        while not self.at_end:
            kind = self.u16()
            if kind in found:
                raise Malformed("a TLV type stands twice")
            found[kind] = self.vec16()
        return found

    def ascii8(self) -> str:
        return ascii_text(self.vec8())

    def end(self) -> None:
        if not self.at_end:
            raise Malformed("bytes are left over behind the last field")


def ascii_text(data: bytes) -> str:
    if _NOT_PRINTABLE.search(data):
        raise Malformed("a name is not printable ASCII")
    return data.decode("ascii")


def reading_untrusted(data: bytes) -> Reader:
    """Read a whole structure: leaving the block checks that nothing is left over."""
    return Reader(data)
