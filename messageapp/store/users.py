"""The server's directory of users, shared by `serve` and `messageapp user` in other processes.

Whoever changes a key writes the directory, the table of bundles and a leaf of the key log in one transaction: neither
is ever without the other (protocol §12). A function called within a transaction of its caller joins it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from messageapp.errors import UnusableSetup
from messageapp_keys import labels
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle, Signatures, key_id_of
from messageapp_keys.keylog import FLAG_RESET, FLAG_REVOKED, Leaf, change_body
from messageapp_keys.names import fold

from .keylog import LogStore

__all__ = [
    "ChangeRefused",
    "Holder",
    "NameTaken",
    "NoSuchUser",
    "User",
    "add_user",
    "adopt",
    "anybody_enrolled",
    "change_key",
    "data_version",
    "enrol",
    "find_bundle",
    "find_encoded",
    "find_holder",
    "list_users",
    "registered_name",
    "remove_user",
    "reset",
    "reset_user",
    "revoke_user",
    "writing_users",
]

_Latest = tuple[int, Leaf]


class NameTaken(UnusableSetup):
    """there is a user of that name"""


class NoSuchUser(UnusableSetup):
    """there is no user of that name"""


class ChangeRefused(ValueError):
    """A change of key that is not signed as it must be, or by somebody whose key does not count."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    bundle: IdentityBundle
    added_ms: int
    revoked_ms: int | None = None  # since when the key counts no more


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a name now. `added_ms` differs for who has it after a removal."""

    name: str  # in the registered spelling
    key_id: bytes
    bundle: bytes  # encoded
    added_ms: int


@contextmanager
def writing_users(database: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; within a transaction that is open already a part of that one, which an error has to end.

    `UnusableSetup` for what SQLite cannot do, and where another process writes for longer than five seconds.
    """
    try:
        if database.in_transaction:
            yield
            return
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise UnusableSetup(f"cannot write the directory of users: {error}") from None


def add_user(database: sqlite3.Connection, name: str, bundle: IdentityBundle, now_ms: int) -> None:
    """`NameTaken` where the name is, in any spelling, also by a user who is revoked."""
    with writing_users(database):
        enrol(database, name, bundle, now_ms)


def reset_user(database: sqlite3.Connection, name: str, bundle: IdentityBundle, now_ms: int) -> None:
    """Another key for an enrolled user, without a word of the old one; also for a user who is revoked. `NoSuchUser`."""
    with writing_users(database):
        reset(database, name, bundle, now_ms)


def revoke_user(database: sqlite3.Connection, name: str, now_ms: int) -> None:
    """The key counts no more; the name stays taken. `NoSuchUser`; `UnusableSetup` where it is revoked already."""
    with writing_users(database):
        if _row(database, name)[1] is not None:
            raise UnusableSetup(f"the key of {name} is revoked already")
        _revoke(database, name, now_ms)
        database.execute("UPDATE users SET revoked_ms = ? WHERE folded = ?", (now_ms, fold(name)))


def remove_user(database: sqlite3.Connection, name: str, now_ms: int) -> None:
    """Gone from the directory, and the name is free; the log keeps what was, and says that it counts no more."""
    with writing_users(database):
        if _row(database, name)[1] is None:
            _revoke(database, name, now_ms)
        database.execute("DELETE FROM users WHERE folded = ?", (fold(name),))
        database.execute("DELETE FROM blocks WHERE owner = ?", (fold(name),))  # not for who has the name next


def enrol(database: sqlite3.Connection, name: str, bundle: IdentityBundle, now_ms: int) -> None:
    """`add_user` for a caller who has a transaction open. `NameTaken`, `sqlite3.Error`."""
    folded = fold(name)
    if database.execute("SELECT 1 FROM users WHERE folded = ?", (folded,)).fetchone() is not None:
        raise NameTaken(f"there is a user {name} already (capital letters make no difference)")
    encoded = bundle.encode()
    database.execute(
        "INSERT INTO users (folded, name, bundle, added_ms) VALUES (?, ?, ?, ?)", (folded, name, encoded, now_ms)
    )
    latest = LogStore(database).latest(name)
    _append(database, latest, name, encoded, now_ms, flags=0 if latest is None else FLAG_RESET)


def reset(database: sqlite3.Connection, name: str, bundle: IdentityBundle, now_ms: int) -> None:
    """`reset_user` for a caller who has a transaction open. `NoSuchUser`, `sqlite3.Error`."""
    registered, _ = _row(database, name)
    encoded = bundle.encode()
    _append(database, _latest(database, name, now_ms), registered, encoded, now_ms, flags=FLAG_RESET)
    _replace(database, name, encoded)


def change_key(
    database: sqlite3.Connection,
    server: str,
    name: str,
    old_key_id: bytes,
    new: IdentityBundle,
    change: Signatures,
    possession: Signatures,
    now_ms: int,
) -> None:
    """The user's own change of key, `server` being the canonical name (protocol §12).

    `ChangeRefused` unless the key of `old_key_id` is the one that counts, another than `new`, and both have signed
    exactly this step; then nothing has changed.
    """
    with writing_users(database):
        encoded = find_encoded(database, name)
        if encoded is None or key_id_of(encoded) != old_key_id or new.key_id == old_key_id:
            raise ChangeRefused("the old key is not the one that counts, or the new one is the same")
        latest = _latest(database, name, now_ms)
        body = change_body(server, name, latest[1].version + 1, old_key_id, new.key_id)
        try:
            signed = (
                IdentityBundle.parse_untrusted(encoded).verify_untrusted(labels.SIG_KEY_CHANGE, body, change),
                new.verify_untrusted(labels.SIG_NEW_KEY, body, possession),
            )
        except Malformed:
            raise ChangeRefused("the enrolled key is damaged") from None
        if not all(signed):
            raise ChangeRefused("a signature does not verify")
        _append(database, latest, name, new.encode(), now_ms, signatures=change)
        _replace(database, name, new.encode())


def adopt(database: sqlite3.Connection, now_ms: int) -> int:
    """Users of before there was a log get their first leaf. How many there were."""
    with writing_users(database):
        rows = database.execute(
            "SELECT name FROM users WHERE folded NOT IN (SELECT folded FROM log_leaves WHERE log = '')"
            " ORDER BY added_ms, folded"
        ).fetchall()
        for (name,) in rows:
            _latest(database, name, now_ms)
    return len(rows)


def _row(database: sqlite3.Connection, name: str) -> tuple[str, int | None]:
    """(registered spelling, since when revoked)"""
    row = database.execute("SELECT name, revoked_ms FROM users WHERE folded = ?", (fold(name),)).fetchone()
    if row is None:
        raise NoSuchUser(f"there is no user {name}")
    return row[0], row[1]


def _latest(database: sqlite3.Connection, name: str, now_ms: int) -> _Latest:
    """The newest leaf of an enrolled user; one of before there was a log gets the first now."""
    folded = fold(name)
    found = LogStore(database).latest(name)
    if found is None:
        registered, encoded = database.execute("SELECT name, bundle FROM users WHERE folded = ?", (folded,)).fetchone()
        found = _append(database, None, registered, encoded, now_ms)
    return found


def _revoke(database: sqlite3.Connection, name: str, now_ms: int) -> None:
    latest = _latest(database, name, now_ms)
    _write(database, Leaf.after(latest, now_ms, latest[1].user, latest[1].key_id, FLAG_REVOKED))


def _append(
    database: sqlite3.Connection,
    latest: _Latest | None,
    name: str,
    encoded: bytes,
    now_ms: int,
    *,
    flags: int = 0,
    signatures: Signatures = (),
) -> _Latest:
    """A leaf for a key, and the key itself among all that ever counted: who follows the change asks for it."""
    key_id = key_id_of(encoded)
    database.execute("INSERT OR IGNORE INTO bundles (key_id, bundle) VALUES (?, ?)", (key_id, encoded))
    return _write(database, Leaf.after(latest, now_ms, name, key_id, flags, signatures))


def _write(database: sqlite3.Connection, leaf: Leaf) -> _Latest:
    log = LogStore(database)
    number = log.size
    log.append([leaf.encode()])
    # A code that was to replace the key of before must not replace this one, nor that of who has the name next.
    database.execute(
        "UPDATE invites SET revoked_ms = ? WHERE reset = 1 AND uses > 0 AND revoked_ms IS NULL AND lower(name) = ?",
        (leaf.ms, fold(leaf.user)),
    )
    return number, leaf


def _replace(database: sqlite3.Connection, name: str, encoded: bytes) -> None:
    database.execute("UPDATE users SET bundle = ?, revoked_ms = NULL WHERE folded = ?", (encoded, fold(name)))


def list_users(database: sqlite3.Connection) -> list[User]:
    return [
        _user(row) for row in database.execute("SELECT name, bundle, added_ms, revoked_ms FROM users ORDER BY folded")
    ]


def _user(row: tuple[str, bytes, int, int | None]) -> User:
    try:
        return User(row[0], IdentityBundle.parse_untrusted(row[1]), row[2], row[3])
    except Malformed:
        raise UnusableSetup(f"the key of {row[0]} in the directory is damaged; remove and add the user again") from None


def registered_name(database: sqlite3.Connection, name: str) -> str | None:
    """The spelling under which somebody has this name, also who is revoked; None where it is free."""
    row = database.execute("SELECT name FROM users WHERE folded = ?", (fold(name),)).fetchone()
    return None if row is None else str(row[0])


def anybody_enrolled(database: sqlite3.Connection) -> bool:
    """Is there a user whose key counts?"""
    return database.execute("SELECT 1 FROM users WHERE revoked_ms IS NULL LIMIT 1").fetchone() is not None


def find_encoded(database: sqlite3.Connection, name: str) -> bytes | None:
    """The encoded bundle of exactly the registered spelling, unread; None also for a user who is revoked."""
    row = database.execute(
        "SELECT bundle FROM users WHERE folded = ? AND name = ? AND revoked_ms IS NULL", (fold(name), name)
    ).fetchone()
    return None if row is None else row[0]


def find_holder(database: sqlite3.Connection, name: str) -> Holder | None:
    """Whatever the spelling of `name`; None also for a user who is revoked."""
    row = database.execute(
        "SELECT name, bundle, added_ms FROM users WHERE folded = ? AND revoked_ms IS NULL", (fold(name),)
    ).fetchone()
    return None if row is None else Holder(row[0], key_id_of(row[1]), row[1], row[2])


def find_bundle(database: sqlite3.Connection, key_id: bytes) -> bytes | None:
    """The encoded bundle of a key that counts or once did."""
    row = database.execute("SELECT bundle FROM bundles WHERE key_id = ?", (key_id,)).fetchone()
    return None if row is None else row[0]


def data_version(database: sqlite3.Connection) -> int:
    """A number that changes when another process has changed the file."""
    (version,) = database.execute("PRAGMA data_version").fetchone()
    return int(version)
