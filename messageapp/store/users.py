"""The server's directory of users, shared by `serve` and `user add|remove` in other processes."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from messageapp.errors import UnusableSetup
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold

__all__ = ["User", "add_user", "data_version", "find_encoded", "list_users", "remove_user"]


@dataclass(frozen=True, slots=True)
class User:
    name: str
    bundle: IdentityBundle
    added_ms: int


def _user(row: tuple[str, bytes, int]) -> User:
    try:
        return User(row[0], IdentityBundle.parse_untrusted(row[1]), row[2])
    except Malformed:
        raise UnusableSetup(f"the key of {row[0]} in the directory is damaged; remove and add the user again") from None


def add_user(database: sqlite3.Connection, name: str, bundle: IdentityBundle, now_ms: int) -> None:
    """`UnusableSetup` where the name is taken, in any spelling."""
    try:
        database.execute("INSERT INTO users VALUES (?, ?, ?, ?)", (fold(name), name, bundle.encode(), now_ms))
    except sqlite3.IntegrityError:
        raise UnusableSetup(f"there is a user {name} already (capital letters make no difference)") from None
    except sqlite3.Error as error:
        raise UnusableSetup(f"cannot write the directory of users: {error}") from None


def remove_user(database: sqlite3.Connection, name: str) -> None:
    try:
        removed = database.execute("DELETE FROM users WHERE folded = ?", (fold(name),)).rowcount
    except sqlite3.Error as error:
        raise UnusableSetup(f"cannot write the directory of users: {error}") from None
    if not removed:
        raise UnusableSetup(f"there is no user {name}")


def list_users(database: sqlite3.Connection) -> list[User]:
    return [_user(row) for row in database.execute("SELECT name, bundle, added_ms FROM users ORDER BY folded")]


def find_encoded(database: sqlite3.Connection, name: str) -> bytes | None:
    """The encoded bundle of exactly the registered spelling, unread."""
    row = database.execute("SELECT bundle FROM users WHERE folded = ? AND name = ?", (fold(name), name)).fetchone()
    return None if row is None else row[0]


def data_version(database: sqlite3.Connection) -> int:
    """A number that changes when another process has changed the file."""
    (version,) = database.execute("PRAGMA data_version").fetchone()
    return int(version)
