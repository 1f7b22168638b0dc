"""Who blocks whom (protocol §6.2). Names count in lower case; a block outlives the sessions of both."""

from __future__ import annotations

import sqlite3
from typing import Final

from messageapp.errors import UnusableSetup
from messageapp_keys.names import fold

from .users import NoSuchUser, registered_name, writing_users

__all__ = ["MAX_BLOCKS", "TooManyBlocks", "add_block", "blocked_by", "blockers_of", "is_blocked", "remove_block"]

MAX_BLOCKS: Final = 1000
"""Of one user: the list fits one record, and nobody fills the disk."""


class TooManyBlocks(UnusableSetup):
    """the user blocks as many as one may"""


def add_block(database: sqlite3.Connection, owner: str, blocked: str, now_ms: int) -> None:
    """`NoSuchUser`, `TooManyBlocks`, `UnusableSetup`. Nothing happens where the block is there."""
    with writing_users(database):
        if is_blocked(database, owner, blocked):
            return
        if registered_name(database, blocked) is None:
            raise NoSuchUser(f"there is no user {blocked}")
        (count,) = database.execute("SELECT count(*) FROM blocks WHERE owner = ?", (fold(owner),)).fetchone()
        if count >= MAX_BLOCKS:
            raise TooManyBlocks(f"you block {MAX_BLOCKS:,} users; unblock one first")
        database.execute(
            "INSERT INTO blocks (owner, blocked, since_ms) VALUES (?, ?, ?)", (fold(owner), fold(blocked), now_ms)
        )


def remove_block(database: sqlite3.Connection, owner: str, blocked: str) -> bool:
    """False where there was none. `UnusableSetup`."""
    with writing_users(database):
        found = database.execute("DELETE FROM blocks WHERE owner = ? AND blocked = ?", (fold(owner), fold(blocked)))
        return found.rowcount > 0


def is_blocked(database: sqlite3.Connection, owner: str, blocked: str) -> bool:
    """Does `owner` block `blocked`? `sqlite3.Error`."""
    row = database.execute("SELECT 1 FROM blocks WHERE owner = ? AND blocked = ?", (fold(owner), fold(blocked)))
    return row.fetchone() is not None


def blockers_of(database: sqlite3.Connection, blocked: str) -> frozenset[str]:
    """Who blocks `blocked`, in lower case. `sqlite3.Error`."""
    return frozenset(
        owner for (owner,) in database.execute("SELECT owner FROM blocks WHERE blocked = ?", (fold(blocked),))
    )


def blocked_by(database: sqlite3.Connection, owner: str) -> list[str]:
    """Whom `owner` blocks, in the registered spelling; in lower case who is not enrolled any more. `sqlite3.Error`."""
    return [
        name
        for (name,) in database.execute(
            "SELECT coalesce(name, blocked) FROM blocks LEFT JOIN users ON folded = blocked WHERE owner = ?"
            " ORDER BY blocked",
            (fold(owner),),
        )
    ]
