"""What one account knows of the key logs of its servers: how far it read them, whose word it asks for (protocol §12.5).

The leaves themselves are in `keylog`. Everything here is under a server's canonical name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .database import Database, stored, transaction

__all__ = [
    "KnownLog",
    "WitnessPolicy",
    "accept_alarm",
    "add_own_key",
    "find_log",
    "find_policy",
    "known_logs",
    "own_keys",
    "remember_leaf",
    "save_log",
    "save_policy",
    "start_afresh",
]


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log that was seen once: it never goes backwards, nor does its key change, without an alarm."""

    server: str
    log_key: bytes  # [32] Ed25519, pinned
    note: bytes = b""  # the newest checkpoint that was verified; empty before the first
    size: int = 0
    witnessed_size: int = 0  # of the largest checkpoint that had enough cosignatures
    thin: bool = False  # proofs only: `log_leaves` holds single leaves that were proved, not all
    alarm: str = ""  # why nothing is sent any more
    accepted: int = 0  # leaves about the own name below this number were looked at and accepted


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """A peer's leaf counts when so many of the witnesses have cosigned a checkpoint that has it."""

    needed: int = 0
    witnesses: tuple[str, ...] = ()  # vkey texts


_COLUMNS = "server, log_key, note, size, witnessed_size, thin, alarm, accepted"


def _known(row: tuple[str, bytes, bytes, int, int, int, str, int]) -> KnownLog:
    server, log_key, note, size, witnessed_size, thin, alarm, accepted = row
    return KnownLog(server, log_key, note, size, witnessed_size, bool(thin), alarm, accepted)


@stored("what is known of key logs")
def find_log(database: Database, server: str) -> KnownLog | None:
    row = database.execute(f"SELECT {_COLUMNS} FROM logs WHERE server = ?", (server,)).fetchone()  # noqa: S608
    return None if row is None else _known(row)


@stored("what is known of key logs")
def known_logs(database: Database) -> list[KnownLog]:
    rows = database.execute(f"SELECT {_COLUMNS} FROM logs ORDER BY server").fetchall()  # noqa: S608
    return [_known(row) for row in rows]


@stored("what is known of key logs")
def save_log(database: Database, log: KnownLog) -> None:
    database.execute(
        f"INSERT OR REPLACE INTO logs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (log.server, log.log_key, log.note, log.size, log.witnessed_size, int(log.thin), log.alarm, log.accepted),
    )


@stored("what is known of key logs")
def remember_leaf(database: Database, server: str, number: int, folded: str, leaf: bytes) -> None:
    """One leaf that was proved, for a log that is not read as a whole."""
    database.execute("INSERT OR REPLACE INTO log_leaves VALUES (?, ?, ?, ?)", (server, number, folded, leaf))


@stored("what is known of key logs")
def start_afresh(database: Database, server: str) -> None:
    """Drop the leaves and hashes, within a transaction of the caller."""
    for table in ("log_leaves", "log_tiles"):
        database.execute(f"DELETE FROM {table} WHERE log = ?", (server,))  # noqa: S608


@stored("what is known of key logs")
def accept_alarm(database: Database, server: str, *, keep: bool) -> None:
    """The user says that an alarm is settled.

    With `keep` the log stays, and what it says of the own name so far is accepted (an alarm about one's own key).
    Without, all that is known of it goes: the next login takes the log that it is shown, as the first one did.
    """
    with transaction(database):
        if keep:
            database.execute("UPDATE logs SET alarm = '', accepted = size WHERE server = ?", (server,))
        else:
            start_afresh(database, server)
            database.execute("DELETE FROM logs WHERE server = ?", (server,))


@stored("the own keys")
def own_keys(database: Database) -> frozenset[bytes]:
    """key_ids [32] that this account has had."""
    return frozenset(bytes(key_id) for (key_id,) in database.execute("SELECT key_id FROM own_keys"))


@stored("the own keys")
def add_own_key(database: Database, key_id: bytes) -> None:
    """Before it is shown to a server: a leaf with it is then our own doing."""
    database.execute("INSERT OR IGNORE INTO own_keys VALUES (?)", (key_id,))


@stored("the witnesses")
def find_policy(database: Database, server: str) -> WitnessPolicy:
    row = database.execute("SELECT needed FROM log_policy WHERE server = ?", (server,)).fetchone()
    rows = database.execute("SELECT vkey FROM witnesses WHERE server = ? ORDER BY vkey", (server,))
    return WitnessPolicy(0 if row is None else int(row[0]), tuple(vkey for (vkey,) in rows))


@stored("the witnesses")
def save_policy(database: Database, server: str, needed: int, witnesses: Sequence[str]) -> None:
    """In place of the policy so far; what earlier witnesses have confirmed does not count for it."""
    with transaction(database):
        database.execute("INSERT OR REPLACE INTO log_policy VALUES (?, ?)", (server, needed))
        database.execute("DELETE FROM witnesses WHERE server = ?", (server,))
        database.executemany("INSERT OR IGNORE INTO witnesses VALUES (?, ?)", [(server, vkey) for vkey in witnesses])
        database.execute("UPDATE logs SET witnessed_size = 0 WHERE server = ?", (server,))
