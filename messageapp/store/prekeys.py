"""Prekeys that a server keeps for users who are away (protocol §9), in `mail.db`.

Functions within a transaction of their caller; they raise `sqlite3.Error`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from messageapp_keys.names import fold

from .database import Database
from .mailbox import mail_device, row_of
from .users import Holder

__all__ = [
    "LAST_RESORT",
    "ONE_TIME",
    "Left",
    "StoredPrekey",
    "Taken",
    "TooManyPrekeys",
    "add_prekeys",
    "expire_prekeys",
    "prekeys_left",
    "take_prekey",
]

ONE_TIME, LAST_RESORT = 1, 2


class TooManyPrekeys(Exception):
    """more one-time prekeys than a user may have"""


@dataclass(frozen=True, slots=True)
class StoredPrekey:
    id: int
    kind: int
    expires_ms: int
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a user's prekeys."""

    device: bytes
    one_time: int
    last_resort_ms: int  # when it expires; 0: there is none


@dataclass(frozen=True, slots=True)
class Taken:
    prekey: bytes
    one_time: bool
    left: Left


def add_prekeys(
    database: Database, holder: Holder, device: bytes, prekeys: Iterable[StoredPrekey], now_ms: int, most: int
) -> None:
    """The device receives the user's messages from now on.

    What another device or another key has uploaded goes, waiting messages move to this device, a last-resort prekey
    replaces the one before. `TooManyPrekeys` where more than `most` one-time ones were left.
    """
    folded, before = fold(holder.name), row_of(database, holder)[0]
    if before != device:
        database.execute("UPDATE devices SET device = ? WHERE folded = ?", (device, folded))
        database.execute("UPDATE mail SET device = ? WHERE folded = ?", (device, folded))
    database.execute(
        "DELETE FROM prekeys WHERE folded = ? AND (device <> ? OR key_id <> ? OR expires_ms <= ?)",
        (folded, device, holder.key_id, now_ms),
    )
    for prekey in prekeys:
        if prekey.kind == LAST_RESORT:
            database.execute("DELETE FROM prekeys WHERE folded = ? AND kind = ?", (folded, LAST_RESORT))
        database.execute(
            "INSERT OR REPLACE INTO prekeys (folded, device, id, kind, key_id, expires_ms, prekey)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (folded, device, prekey.id, prekey.kind, holder.key_id, prekey.expires_ms, prekey.encoded),
        )
    if prekeys_left(database, holder, now_ms).one_time > most:
        raise TooManyPrekeys


def prekeys_left(database: Database, holder: Holder, now_ms: int) -> Left:
    """Of those that can still be given."""
    one_time, last_resort_ms = database.execute(
        "SELECT count(*) FILTER (WHERE kind = ?), max(expires_ms) FILTER (WHERE kind = ?) FROM prekeys"
        " WHERE folded = ? AND key_id = ? AND expires_ms > ?",
        (ONE_TIME, LAST_RESORT, fold(holder.name), holder.key_id, now_ms),
    ).fetchone()
    return Left(mail_device(database, holder), one_time, last_resort_ms or 0)


def take_prekey(database: Database, holder: Holder, now_ms: int, *, one_time: bool = True) -> Taken | None:
    """A one-time prekey, which is gone with that, else the last-resort one; None where there is nothing to give.

    Only what the key that counts has signed, and has not expired. Without `one_time` the last-resort one is given.
    """
    folded = fold(holder.name)
    row = database.execute(
        "SELECT device, id, kind, prekey FROM prekeys WHERE folded = ? AND key_id = ? AND expires_ms > ? AND kind >= ?"
        " ORDER BY kind, expires_ms, id LIMIT 1",
        (folded, holder.key_id, now_ms, ONE_TIME if one_time else LAST_RESORT),
    ).fetchone()
    if row is None:
        return None
    device, identifier, kind, prekey = row
    if kind == ONE_TIME:
        database.execute("DELETE FROM prekeys WHERE folded = ? AND device = ? AND id = ?", (folded, device, identifier))
    return Taken(prekey, kind == ONE_TIME, prekeys_left(database, holder, now_ms))


def expire_prekeys(database: Database, now_ms: int) -> None:
    database.execute("DELETE FROM prekeys WHERE expires_ms <= ?", (now_ms,))
