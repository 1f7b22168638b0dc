"""The key log in SQLite: every root and proof is that of RFC 6962, whole or not at all, and damage is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from messageapp.errors import UnusableSetup
from messageapp.store.database import open_database, transaction
from messageapp.store.keylog import LogStore
from messageapp_keys.codec import Malformed
from messageapp_keys.keylog import FLAG_RESET, Leaf
from messageapp_keys.merkle import EMPTY_ROOT, leaf_hash, verify_consistency_untrusted, verify_inclusion_untrusted
from support import naive_tree


def leaf(number: int, user: str | None = None) -> bytes:
    return Leaf(number, user or f"u{number}", 1, number.to_bytes(32, "big")).encode()


LEAVES = [leaf(number) for number in range(1100)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_database(tmp_path / "directory.db", "server")
    yield opened
    opened.close()


@pytest.fixture
def store(database: sqlite3.Connection) -> LogStore:
    return LogStore(database)


def filled(store: LogStore, *sizes: int) -> LogStore:
    """Appended to what is there, in pieces that end at these sizes."""
    with transaction(store.database):
        start = store.size
        for size in sizes:
            store.append(LEAVES[start:size])
            start = size
    return store


# The tree ---------------------------------------------------------------------------------------------------------

EDGES = [1, 2, 3, 100, 255, 256, 257, 511, 512, 513, 768, 1000, 1100]


def test_an_empty_log(store: LogStore) -> None:
    assert (store.size, store.root(), store.latest("u1"), store.of_user("u1")) == (0, EMPTY_ROOT, None, [])
    store.append([])
    assert (store.size, list(store.leaves(0, 0))) == (0, [])


def test_roots_and_proofs_are_those_of_the_rfc(store: LogStore) -> None:
    filled(store, *EDGES)
    roots = {size: naive_tree.mth(LEAVES[:size]) for size in EDGES}
    assert {size: store.root(size) for size in EDGES} == roots
    assert store.root() == roots[1100]
    for size in (1, 256, 257, 1100):
        for index in {0, size // 2, 255, 256, size - 1} & set(range(size)):
            assert store.inclusion(index, size) == naive_tree.path(index, LEAVES[:size])
        for old in {size} | {edge for edge in EDGES if edge < size}:
            assert store.consistency(old, size) == naive_tree.proof(old, LEAVES[:size])


@pytest.mark.parametrize("sizes", [(1100,), (255, 256, 1100), (256, 512, 1100), (1, 1100), tuple(range(1, 1101, 7))])
def test_the_pieces_in_which_leaves_came_make_no_difference(store: LogStore, sizes: tuple[int, ...]) -> None:
    filled(store, *sizes)
    last = sizes[-1]
    tiles = store.database.execute("SELECT level, number, hashes FROM log_tiles ORDER BY level, number").fetchall()
    hashes = [leaf_hash(data) for data in LEAVES[:last]]
    expected = [(0, at // 256, b"".join(hashes[at : at + 256])) for at in range(0, last, 256)]
    tops = [naive_tree.mth(LEAVES[at : at + 256]) for at in range(0, last - 255, 256)]
    assert tiles == [*expected, (1, 0, b"".join(tops))]


def test_a_third_level_of_tiles(store: LogStore) -> None:
    """256^2 leaves fill one tile of the second level; published roots of this size are in test_keys_merkle.py."""
    size = 256 * 256 + 1
    leaves = [leaf(number, "alice") for number in range(size)]
    with transaction(store.database):
        store.append(leaves[:-300])
        store.append(leaves[-300:])
    rows = store.database.execute("SELECT level, count(*), sum(length(hashes)) FROM log_tiles GROUP BY level")
    assert rows.fetchall() == [(0, 257, size * 32), (1, 1, 256 * 32), (2, 1, 32)]
    whole = store.root()
    assert store.node(16, 0) == naive_tree.mth(leaves[:-1])
    assert whole == naive_tree.mth(leaves)
    for index in (0, 255, 40_000, size - 1):
        verify_inclusion_untrusted(leaf_hash(leaves[index]), index, size, store.inclusion(index, size), whole)
    for old in (1, 256, 40_000, size - 1):
        verify_consistency_untrusted(old, store.root(old), size, whole, store.consistency(old, size))


def test_two_logs_in_one_file_do_not_meet(tmp_path: Path) -> None:
    database = open_database(tmp_path / "trust.db", "account")
    try:
        one, two = LogStore(database, "one.example"), LogStore(database, "two.example")
        with transaction(database):
            one.append(LEAVES[:300])
            two.append(LEAVES[300:310])
        assert (one.size, two.size, LogStore(database).size) == (300, 10, 0)
        assert one.root() == naive_tree.mth(LEAVES[:300])
        assert two.root() == naive_tree.mth(LEAVES[300:310])
        assert two.latest("u7") is None
        assert two.latest("u309") == (9, Leaf.parse_untrusted(LEAVES[309]))
    finally:
        database.close()


# Leaves -----------------------------------------------------------------------------------------------------------


def test_leaves_by_number_and_by_user(store: LogStore) -> None:
    filled(store, 1100)
    again = Leaf(5, "U7", 2, bytes(32), 7, FLAG_RESET)
    store.append([again.encode()])
    assert store.encoded(3) == LEAVES[3]
    assert store.leaf(3) == Leaf.parse_untrusted(LEAVES[3])
    assert list(store.encoded_leaves(5, 1050)) == LEAVES[5:1050], "more than are read at a time"
    assert list(store.leaves(1099, 1101)) == [Leaf.parse_untrusted(LEAVES[1099]), again]
    assert store.of_user("u7") == store.of_user("U7") == [(7, Leaf.parse_untrusted(LEAVES[7])), (1100, again)]
    assert store.latest("u7") == store.latest("U7") == (1100, again)
    assert store.latest("u") is None


def test_leaves_may_be_written_while_they_are_read(store: LogStore) -> None:
    filled(store, 100)
    read = 0
    with transaction(store.database):
        for _ in store.encoded_leaves(0, 100):
            store.append([LEAVES[100 + read]])
            read += 1
    assert (read, store.size) == (100, 200)
    assert store.root() == naive_tree.mth(LEAVES[:200])


def test_a_user_is_found_without_reading_the_whole_log(store: LogStore) -> None:
    """Counted in instructions of SQLite's machine; nor does the size, a leaf or a proof take more of a longer log."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    taken = []
    for size in (20, 1100):
        store.database.set_progress_handler(None, 1)  # type: ignore[attr-defined]
        filled(store, size)
        store.database.set_progress_handler(count, 1)  # type: ignore[attr-defined]
        for read in (
            lambda: store.latest("u7"),
            lambda: store.of_user("u7"),
            lambda: store.size,
            lambda: store.leaf(7),
            lambda: store.inclusion(7, 20),
        ):
            before = steps
            read()
            taken.append(steps - before)
    assert taken[:5] == taken[5:]
    assert max(taken) < 100


@pytest.mark.parametrize("bad", [b"", b"\1", LEAVES[0] + b"\0"])
def test_what_is_no_leaf_is_not_appended(store: LogStore, bad: bytes) -> None:
    filled(store, 3)
    with pytest.raises(Malformed):
        store.append([LEAVES[3], bad])
    assert (store.size, store.root()) == (3, naive_tree.mth(LEAVES[:3]))


# All or nothing ---------------------------------------------------------------------------------------------------


def test_what_is_rolled_back_leaves_nothing_behind(store: LogStore) -> None:
    filled(store, 255)
    before = store.root()
    store.database.execute("BEGIN IMMEDIATE")
    store.append(LEAVES[500:600])
    assert store.size == 355
    assert store.root() != before
    store.inclusion(300, 355)
    store.database.execute("ROLLBACK")
    assert (store.size, store.root()) == (255, before)
    with transaction(store.database):
        store.append(LEAVES[255:600])
    assert store.root() == naive_tree.mth(LEAVES[:600])


def test_another_process_appends(store: LogStore, tmp_path: Path) -> None:
    filled(store, 200)
    store.root()
    other = open_database(tmp_path / "directory.db", "server")
    try:
        with transaction(other):
            LogStore(other).append(LEAVES[200:300])
    finally:
        other.close()
    assert (store.size, store.root()) == (300, naive_tree.mth(LEAVES[:300]))


# Damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("DELETE FROM log_tiles WHERE level = 0 AND number = 0", 5),
        ("DELETE FROM log_tiles WHERE level = 1", 299),
        ("UPDATE log_tiles SET hashes = substr(hashes, 1, 100) WHERE number = 0", 5),
        ("DROP TABLE log_tiles", 5),
        ("DROP TABLE log_tiles", 299),
    ],
)
def test_damaged_tiles_are_told(store: LogStore, statement: str, index: int) -> None:
    filled(store, 300)
    store.database.execute(statement)
    with pytest.raises(UnusableSetup, match="key log"):
        store.inclusion(index, 300)


def test_a_damaged_tile_is_not_added_to(store: LogStore) -> None:
    filled(store, 100)
    store.database.execute("UPDATE log_tiles SET hashes = substr(hashes, 33)")
    with pytest.raises(UnusableSetup, match="damaged: a tile"):
        store.append([LEAVES[100]])


def test_a_changed_hash_makes_another_root(store: LogStore) -> None:
    filled(store, 300)
    store.database.execute("UPDATE log_tiles SET hashes = zeroblob(32) WHERE level = 1")
    assert store.root() != naive_tree.mth(LEAVES[:300])


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log_leaves WHERE number = 5",
        "UPDATE log_leaves SET leaf = x'00' WHERE number = 5",
        "DELETE FROM log_leaves",
        "DROP TABLE log_leaves",
    ],
)
def test_damaged_leaves_are_told(store: LogStore, statement: str) -> None:
    filled(store, 10)
    store.database.execute(statement)
    with pytest.raises(UnusableSetup, match="key log"):
        store.leaf(5)
    with pytest.raises(UnusableSetup, match="key log"):
        list(store.leaves(0, 10))


def test_the_name_of_a_damaged_log_is_told(tmp_path: Path) -> None:
    database = open_database(tmp_path / "trust.db", "account")
    try:
        with pytest.raises(UnusableSetup, match=r"key log of chat.example is damaged: leaf 1,000 is missing"):
            LogStore(database, "chat.example").leaf(1000)
    finally:
        database.close()
