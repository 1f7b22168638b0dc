"""A key log as files that transparency-log tools read: https://c2sp.org/tlog-tiles.

    checkpoint                  the signed note (protocol §12.2)
    tile/L/N[.p/W]              hashes of complete subtrees of 256^L leaves, 256 to a file; W in the last one
    tile/entries/N[.p/W]        the leaves themselves, vec16 each

N is written in groups of three digits, all but the last behind an x: 1234067 is x001/x234/067.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from messageapp_keys.codec import vec16
from messageapp_keys.merkle import EMPTY_ROOT, leaf_hash, node_hash

__all__ = ["Tiles", "tile_files", "tile_path"]

WIDTH: Final = 256


def tile_path(level: int | str, number: int, width: int = WIDTH) -> str:
    """`tile/0/x001/234`, with `.p/W` for a tile of fewer than 256; `level` is a number or `entries`."""
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03}")
    return f"tile/{level}/{'/'.join(groups)}" + (f".p/{width}" if width < WIDTH else "")


class Tiles:
    """Takes leaves one after the other and gives each file once it is full. Holds one tile of each level."""

    def __init__(self) -> None:
        self.size = 0
        self._entries: list[bytes] = []
        self._levels: list[list[bytes]] = []

    def add(self, leaf: bytes) -> Iterator[tuple[str, bytes]]:
        """The (path, content) of each file that is full with this `leaf`, encoded as it is in the log."""
        self._entries.append(leaf)
        self.size += 1
        if self.size % WIDTH == 0:
            yield tile_path("entries", self.size // WIDTH - 1), _bundle(self._entries)
            self._entries.clear()
        yield from self._put(0, leaf_hash(leaf))

    def _put(self, level: int, value: bytes) -> Iterator[tuple[str, bytes]]:
        if level == len(self._levels):
            self._levels.append([])
        hashes = self._levels[level]
        hashes.append(value)
        if len(hashes) == WIDTH:
            yield tile_path(level, self.size // WIDTH ** (level + 1) - 1), b"".join(hashes)
            (top,) = _peaks(hashes)
            hashes.clear()
            yield from self._put(level + 1, top)

    def rest(self) -> Iterator[tuple[str, bytes]]:
        """The files that are not full."""
        if self._entries:
            yield tile_path("entries", self.size // WIDTH, len(self._entries)), _bundle(self._entries)
        for level, hashes in enumerate(self._levels):
            if hashes:
                yield tile_path(level, self.size // WIDTH ** (level + 1), len(hashes)), b"".join(hashes)

    def root(self) -> bytes:
        """[32] of all leaves so far, from the leaves alone."""
        peaks = [peak for hashes in reversed(self._levels) for peak in _peaks(hashes)]
        if not peaks:
            return EMPTY_ROOT
        found = peaks.pop()
        while peaks:
            found = node_hash(peaks.pop(), found)
        return found


def tile_files(leaves: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every file but the checkpoint."""
    tiles = Tiles()
    for leaf in leaves:
        yield from tiles.add(leaf)
    yield from tiles.rest()


def _bundle(leaves: list[bytes]) -> bytes:
    return b"".join(map(vec16, leaves))


def _peaks(hashes: list[bytes]) -> list[bytes]:
    """The roots of the largest complete subtrees over `hashes`, from the left."""
    found: list[bytes] = []
    start = 0
    for height in reversed(range(len(hashes).bit_length())):
        if len(hashes) >> height & 1:
            row = hashes[start : start + (1 << height)]
            start += 1 << height
            while len(row) > 1:
                row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True)]
            found += row
    return found
