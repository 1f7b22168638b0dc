"""A key log in SQLite: the leaves, and the hashes above them in tiles (protocol §12; the layout of C2SP tlog-tiles).

A tile holds up to 256 hashes of complete subtrees of 256^level leaves. What lies between is computed: a proof in a
million leaves reads some tiles and hashes some hundred times. Nothing is kept in memory, so a transaction that is
rolled back, another process, or a log that is begun anew leaves nothing wrong behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from messageapp.errors import UnusableSetup
from messageapp_keys.codec import Malformed
from messageapp_keys.keylog import Leaf
from messageapp_keys.merkle import HASH_SIZE, Node, consistency_proof, inclusion_proof, leaf_hash, node_hash, root
from messageapp_keys.names import fold

from .database import Database, stored

__all__ = ["LogStore"]

_HEIGHT: Final = 8  # levels of the tree to one level of tiles
_WIDTH: Final = 1 << _HEIGHT  # hashes to a tile
# Left to itself SQLite takes the primary key, and reads the whole log for one user.
_OF_USER: Final = "SELECT number, leaf FROM log_leaves INDEXED BY log_leaves_of WHERE log = ? AND folded = ?"
_PAGE: Final = 1000  # leaves read at a time, so that a caller may write between two


@dataclass(frozen=True, slots=True)
class LogStore:
    """The log with the name `log`: '' at a server, the server's canonical name at a client. Leaves count from 0.

    Every method raises `UnusableSetup` for a file that cannot be used, or is damaged where it is read.
    """

    database: Database
    log: str = ""

    # leaves -----------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many leaves there are."""
        row = self._one("SELECT number FROM log_leaves WHERE log = ? ORDER BY number DESC LIMIT 1", self.log)
        return 0 if row is None else int(row[0]) + 1

    def encoded(self, number: int) -> bytes:
        row = self._one("SELECT leaf FROM log_leaves WHERE log = ? AND number = ?", self.log, number)
        if row is None:
            raise self._damaged(f"leaf {number:,} is missing")
        return bytes(row[0])

    def leaf(self, number: int) -> Leaf:
        return self._leaf(number, self.encoded(number))

    def encoded_leaves(self, start: int, stop: int) -> Iterator[bytes]:
        """From `start` to before `stop`, in order, each of them."""
        for first in range(start, stop, _PAGE):
            end = min(stop, first + _PAGE)
            rows = self._all(
                "SELECT number, leaf FROM log_leaves WHERE log = ? AND number >= ? AND number < ? ORDER BY number",
                *(self.log, first, end),
            )
            if [number for number, _ in rows] != list(range(first, end)):
                raise self._damaged(f"of the leaves {first:,} to {end - 1:,} some are missing")
            yield from [bytes(leaf) for _, leaf in rows]

    def leaves(self, start: int, stop: int) -> Iterator[Leaf]:
        for number, encoded in enumerate(self.encoded_leaves(start, stop), start):
            yield self._leaf(number, encoded)

    def of_user(self, name: str) -> list[tuple[int, Leaf]]:
        """(index, leaf) of every leaf about this user, in any spelling, oldest first."""
        rows = self._all(f"{_OF_USER} ORDER BY number", self.log, fold(name))
        return [(number, self._leaf(number, leaf)) for number, leaf in rows]

    def latest(self, name: str) -> tuple[int, Leaf] | None:
        """(index, leaf) of the newest leaf about this user, in any spelling."""
        row = self._one(f"{_OF_USER} ORDER BY number DESC LIMIT 1", self.log, fold(name))
        return None if row is None else (row[0], self._leaf(row[0], row[1]))

    def append(self, encoded: Sequence[bytes]) -> None:
        """Add leaves at the end; that they follow what is there (`keylog.follows`) is for the caller to know.

        `Malformed` for what is no leaf. Within a transaction of the caller, which is what makes it all or nothing: it
        begins with BEGIN IMMEDIATE, before the caller reads what the new leaves rest on.
        """
        start = self.size
        rows = [
            (self.log, number, Leaf.parse_untrusted(leaf).folded, leaf) for number, leaf in enumerate(encoded, start)
        ]
        with stored("the key log"):
            self.database.executemany("INSERT INTO log_leaves (log, number, folded, leaf) VALUES (?, ?, ?, ?)", rows)
        level, hashes = 0, [leaf_hash(leaf) for leaf in encoded]
        while hashes:
            hashes = self._append_hashes(level, start, hashes)
            level, start = level + 1, start // _WIDTH

    # tree -------------------------------------------------------------------------------------------------------------

    def node(self, level: int, index: int) -> bytes:
        """[32] of the 2^level leaves from index * 2^level on, all of which there have to be."""
        return self._reader()(level, index)

    def root(self, size: int | None = None) -> bytes:
        """[32] of the first `size` leaves, or of all. About a millisecond in a million leaves, as have the proofs."""
        return root(self.size if size is None else size, self._reader())

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Proof that leaf `index` is one of the first `size`."""
        return inclusion_proof(index, size, self._reader())

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Proof that the first `old` leaves are how the first `new` begin."""
        return consistency_proof(old, new, self._reader())

    def _reader(self) -> Node:
        """Reads each tile once."""
        tiles: dict[tuple[int, int], bytes] = {}

        def node(level: int, index: int) -> bytes:
            tile_level, height = divmod(level, _HEIGHT)
            first = index << height
            place = (tile_level, first // _WIDTH)
            if place not in tiles:
                tiles[place] = self._tile(*place)
            start = first % _WIDTH * HASH_SIZE
            found = tiles[place][start : start + (HASH_SIZE << height)]
            if len(found) != HASH_SIZE << height:
                raise self._damaged("a hash is missing")
            return _top([found[at : at + HASH_SIZE] for at in range(0, len(found), HASH_SIZE)])

        return node

    def _tile(self, level: int, number: int) -> bytes:
        row = self._one(
            "SELECT hashes FROM log_tiles WHERE log = ? AND level = ? AND number = ?", self.log, level, number
        )
        return b"" if row is None else bytes(row[0])

    def _append_hashes(self, level: int, start: int, hashes: list[bytes]) -> list[bytes]:
        """Write the tiles in which `hashes` lie, from number `start` of the level on; the tops of those now full."""
        number, there = divmod(start, _WIDTH)
        before = self._tile(level, number)
        if len(before) != there * HASH_SIZE:
            raise self._damaged("a tile has a wrong length")
        hashes = [before[at : at + HASH_SIZE] for at in range(0, len(before), HASH_SIZE)] + hashes
        tiles = [hashes[at : at + _WIDTH] for at in range(0, len(hashes), _WIDTH)]
        rows = [(self.log, level, at, b"".join(tile)) for at, tile in enumerate(tiles, number)]
        with stored("the key log"):
            self.database.executemany(
                "INSERT OR REPLACE INTO log_tiles (log, level, number, hashes) VALUES (?, ?, ?, ?)", rows
            )
        return [_top(tile) for tile in tiles if len(tile) == _WIDTH]

    # rows -------------------------------------------------------------------------------------------------------------

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with stored("the key log"):
            found: tuple[Any, ...] | None = self.database.execute(query, values).fetchone()
        return found

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with stored("the key log"):
            found: list[tuple[Any, ...]] = self.database.execute(query, values).fetchall()
        return found

    def _leaf(self, number: int, encoded: bytes) -> Leaf:
        try:
            return Leaf.parse_untrusted(encoded)
        except Malformed:
            raise self._damaged(f"leaf {number:,} cannot be read") from None

    def _damaged(self, what: str) -> UnusableSetup:
        whose = f" of {self.log}" if self.log else ""
        return UnusableSetup(f"the stored key log{whose} is damaged: {what}")


def _top(hashes: list[bytes]) -> bytes:
    """The hash of a complete subtree over these, of which there is a power of two."""
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]
