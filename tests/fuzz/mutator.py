"""Seeded mutations that know of length fields: the same seed gives the same inputs on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

__all__ = ["Mutator"]

_BYTES: Final = bytes((0, 1, 2, 0x0A, 0x1B, 0x20, 0x2D, 0x3A, 0x41, 0x7E, 0x7F, 0x80, 0x81, 0xC3, 0xFE, 0xFF))
_NUMBERS: Final = (0, 1, 2, 3, 255, 256, 1000, 1001, 4096, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 2**31, 2**32 - 1, 2**64 - 1)
_WIDTHS: Final = (1, 2, 3, 4, 8, 16)
_SIZES: Final = (0, 1, 2, 3, 4, 8, 16, 17, 31, 32, 33, 64, 255, 256)
_KEPT: Final = 400

Field = tuple[int, int, int]
"""(where its length stands, width of the length, where it ends)."""


def fields_of(data: bytes) -> list[Field]:
    """Where there may be a field behind its length: every number whose bytes would fit."""
    size, found = len(data), []
    for width in (2, 1, 3, 4):
        for start in range(size - width):
            length = int.from_bytes(data[start : start + width], "big")
            if (width > 1 or length > 3) and 0 < length <= size - start - width:
                found.append((start, width, start + width + length))
    return found


def tlvs_between(data: bytes, start: int, end: int) -> list[Field]:
    """The TLVs, in ascending order of type, that fill this place to its last byte; none where something else does."""
    found: list[Field] = []
    last = -1
    while start < end:
        kind, length = (int.from_bytes(data[at : at + 2], "big") for at in (start, start + 2))
        start, last, before = start + 4 + length, kind, last
        if kind <= before or start > end:
            return []
        found.append((start - length - 2, 2, start))
    return found


class Layout:
    """Where the fields of a seed seem to be. `tlvs` and `sure` are not only guessed: chance makes few of them."""

    def __init__(self, data: bytes) -> None:
        every = fields_of(data)
        lists = [
            (field, inside)
            for field in every
            if field[1] == 2 and (inside := tlvs_between(data, sum(field[:2]), field[2]))
        ]
        self.fields = every[:_KEPT]
        self.tlvs = [tlv for _, inside in lists for tlv in inside]
        ends = {len(data), *(field[2] for field, _ in lists)}
        self.sure = [field for field in every if field[1] == 4 or field[2] in ends]

    def around(self, start: int, end: int) -> list[Field]:
        """The true fields around this place: those of `sure`, and what ends where it ends."""
        near = [field for field in self.fields if field[2] == end]
        return [field for field in dict.fromkeys((*self.sure, *near)) if sum(field[:2]) <= start and field[2] >= end]


class Mutator:
    """`next()` gives one mutation of one of the `seeds`."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        self._seeds = [(data, Layout(data)) for data in seeds]
        self._random = Random(seed)
        self._blind = (self._flip, self._set, self._number, self._number, self._resize, self._blank, self._join)

    def next(self) -> bytes:
        random = self._random
        seed, layout = random.choice(self._seeds)
        data = bytearray(seed)
        again = 1.0
        if layout.fields and random.random() < 0.4:
            some = layout.tlvs if layout.tlvs and random.getrandbits(1) else layout.fields
            self._reshape(data, random.choice(some), layout)
            again = 0.2
        while random.random() < again or data == seed:
            random.choice(self._blind)(data)
            again = 0.3
        return bytes(data)

    def _at(self, data: bytearray) -> int:
        return int(self._random.random() * len(data))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] ^= 1 << self._random.getrandbits(3)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] = self._random.choice(_BYTES)

    def _number(self, data: bytearray) -> None:
        """One that code likes to be wrong about, in either byte order."""
        width, value, start = self._random.choice(_WIDTHS), self._random.choice(_NUMBERS), self._at(data)
        data[start : start + width] = (value % 256**width).to_bytes(width, self._random.choice(("little", "big")))

    def _resize(self, data: bytearray) -> None:
        """Cut off, lengthened, a piece taken out or repeated."""
        start, size = self._at(data), 1 + self._random.getrandbits(5)
        match self._random.getrandbits(2):
            case 0:
                del data[start:]
            case 1:
                del data[start : start + size]
            case 2:
                data[start:start] = data[start : start + size]
            case _:
                data += self._random.choice((b"\0", b"\x80", b"\xff", b"x", bytes(16), bytes(data)))

    def _blank(self, data: bytearray) -> None:
        start, size = self._at(data), 1 + self._random.getrandbits(5)
        size = min(size, len(data) - start)
        data[start : start + size] = self._random.choice((bytes(1), b"\xff")) * size

    def _join(self, data: bytearray) -> None:
        """The end of another seed behind its beginning, or two blocks in each other's place."""
        one, two = sorted((self._at(data), self._at(data)))
        size = 1 + self._random.getrandbits(5)
        if self._random.getrandbits(1):
            data[one:] = self._random.choice(self._seeds)[0][one:]
        elif one + size <= two:
            data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]

    def _reshape(self, data: bytearray, field: Field, layout: Layout) -> None:
        """Its length wrong; or its content of another size, twice, gone or blank, and lengths around it right.

        These are the true ones half of the time, else some of those that may be one.
        """
        random, (start, width, end) = self._random, field
        length, old = end - start - width, len(data)
        match random.randrange(6):
            case 0 | 1:
                self._put(data, start, width, random.choice((0, 1, -1, length - 1, length + 1, 2 * length, old)))
            case 2:
                length = random.choice((*_SIZES, length - 1, length - 1, length + 1, length + 1))
                data[start + width : end] = bytes(data[start + width : end][:length]).ljust(length, b"\0")
                self._put(data, start, width, length)
            case 3:  # with the two bytes before it, which may be the type of a TLV
                data[end:end] = data[max(0, start - random.choice((0, 2))) : end]
            case 4:
                del data[max(0, start - random.choice((0, 2))) : end]
            case _:
                data[start + width : end] = random.choice((bytes(1), b"\xff", b"A")) * length
        if len(data) == old:
            return
        if random.getrandbits(1):
            outers = layout.around(start, end)
        else:
            outers = [
                (outer, size, last)
                for outer, size, last in layout.fields
                if size in (2, 3) and outer + size <= start and last >= end and random.random() < 0.6
            ]
        for outer, size, last in outers:
            self._put(data, outer, size, last - outer - size + len(data) - old)

    def _put(self, data: bytearray, start: int, width: int, number: int) -> None:
        data[start : start + width] = (number % 256**width).to_bytes(width, "big")
