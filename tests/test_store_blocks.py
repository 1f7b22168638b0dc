"""Blocks on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from messageapp.store.blocks import (
    MAX_BLOCKS,
    TooManyBlocks,
    add_block,
    blocked_by,
    blockers_of,
    is_blocked,
    remove_block,
)
from messageapp.store.database import open_database
from messageapp.store.users import NoSuchUser, add_user, remove_user, reset_user, revoke_user
from support.world import identity


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_database(tmp_path / "directory.db", "server")) as found:
        for name in ("alice", "Bob", "carol"):
            add_user(found, name, identity(name).bundle, 1)
        yield found


def test_a_block_counts_in_any_spelling_and_in_one_direction(database: sqlite3.Connection) -> None:
    add_block(database, "alice", "bOB", 5)
    add_block(database, "ALICE", "bob", 6)
    assert is_blocked(database, "Alice", "BOB")
    assert not is_blocked(database, "bob", "alice")
    assert blockers_of(database, "BOB") == {"alice"}
    assert not blockers_of(database, "alice")
    assert (blocked_by(database, "alice"), blocked_by(database, "bob")) == (["Bob"], [])
    assert database.execute("SELECT * FROM blocks").fetchall() == [("alice", "bob", 5)]
    assert not remove_block(database, "bob", "alice")
    assert remove_block(database, "alice", "Bob")
    assert not remove_block(database, "alice", "Bob")
    assert not is_blocked(database, "alice", "bob")


def test_only_who_is_enrolled_is_blocked(database: sqlite3.Connection) -> None:
    with pytest.raises(NoSuchUser, match="there is no user dave"):
        add_block(database, "alice", "dave", 5)
    revoke_user(database, "carol", 4)
    add_block(database, "alice", "carol", 5)
    assert blocked_by(database, "alice") == ["carol"]


def test_blocks_end_with_who_made_them_and_not_with_the_blocked(database: sqlite3.Connection) -> None:
    """Whoever has the name next inherits no list, and who is removed does not come back unblocked."""
    for owner, other in (("alice", "Bob"), ("Bob", "alice"), ("carol", "alice")):
        add_block(database, owner, other, 5)
    reset_user(database, "Bob", identity("Bob, anew").bundle, 6)
    assert is_blocked(database, "bob", "alice")
    remove_user(database, "Bob", 7)
    assert blockers_of(database, "alice") == {"carol"}
    assert blocked_by(database, "alice") == ["bob"]
    assert remove_block(database, "alice", "bob")


def test_1000_blocks_are_the_most(database: sqlite3.Connection) -> None:
    rows = [("alice", f"u{number}", 1) for number in range(MAX_BLOCKS - 1)]
    database.executemany("INSERT INTO blocks VALUES (?, ?, ?)", rows)
    add_block(database, "alice", "bob", 5)
    assert len(blocked_by(database, "alice")) == MAX_BLOCKS == 1000
    with pytest.raises(TooManyBlocks, match="1,000"):
        add_block(database, "alice", "carol", 5)
    add_block(database, "alice", "bob", 5)
    add_block(database, "bob", "carol", 5)
    assert remove_block(database, "alice", "u7")
    add_block(database, "alice", "carol", 5)


def test_who_blocks_is_found_without_reading_all(database: sqlite3.Connection) -> None:
    """At every `list`."""
    ((*_, how),) = database.execute("EXPLAIN QUERY PLAN SELECT owner FROM blocks WHERE blocked = 'bob'").fetchall()
    assert "SEARCH" in how
    assert "blocks_of" in how
