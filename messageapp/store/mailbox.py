"""What a server keeps for users who are away (protocol §9, §16): messages, until they are taken. Prekeys: prekeys.py.

Functions over an open `mail.db`, each within a transaction of its caller; they raise `sqlite3.Error`. One device of a
user receives the messages: the one that uploaded prekeys last. What was kept for somebody who had the name before is
never given to who has it now: `Holder.added_ms` tells them apart.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from messageapp_keys.names import fold

from .database import Database, open_database
from .users import Holder

__all__ = [
    "NOBODY",
    "Letter",
    "MailboxFull",
    "add_mail",
    "drop_mail_from",
    "drop_seqs",
    "drop_user",
    "expire_mail",
    "forget_blocked",
    "keep_only",
    "mail_device",
    "next_mail",
    "open_mailbox",
    "row_of",
    "users_kept",
]

NOBODY: Final = bytes(16)
"""The device of a user who has not uploaded prekeys yet."""


class MailboxFull(Exception):
    """as many messages, or bytes of them, wait as may"""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that waits."""

    seq: int
    sender: str
    id: bytes
    blob: bytes


def open_mailbox(path: Path) -> sqlite3.Connection:
    """A connection that may go from thread to thread, one at a time. `UnusableSetup`."""
    database = open_database(path, "mail", any_thread=True)
    database.execute("PRAGMA secure_delete = FAST")
    return database


def add_mail(
    database: Database,
    to: Holder,
    sender: str,
    identifier: bytes,
    blob: bytes,
    now_ms: int,
    *,
    most: int,
    most_bytes: int,
    blocked: bool = False,
) -> int:
    """Its seq. The same `identifier` of the same sender gives, while it waits, the same seq and is kept once.

    `blocked`: the receiver blocks the sender. Then nothing is kept but that something came, and how long it was.
    `MailboxFull`.
    """
    folded = fold(to.name)
    device, seq, messages, size = row_of(database, to)
    there = database.execute(
        "SELECT seq FROM mail WHERE folded = ? AND device = ? AND sender = ? AND id = ?",
        (folded, device, sender, identifier),
    ).fetchone()
    if there is not None:
        return int(there[0])
    if blocked:  # he finds it full when all others do, and when it were with his own
        own, own_size = database.execute(
            "SELECT count(*), ifnull(sum(size), 0) FROM mail WHERE folded = ? AND sender = ? AND blob = x''",
            (folded, sender),
        ).fetchone()
        messages, size = max(messages, own), max(size, own_size)
    if messages >= most or size + len(blob) > most_bytes:
        raise MailboxFull
    database.execute(
        "INSERT INTO mail (folded, device, seq, sender, id, time_ms, size, blob) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (folded, device, seq, sender, identifier, now_ms, *((len(blob), b"") if blocked else (0, blob))),
    )
    database.execute("UPDATE devices SET next_seq = ? WHERE folded = ?", (seq + 1, folded))
    return seq


def row_of(database: Database, holder: Holder) -> tuple[bytes, int, int, int]:
    """(device, next seq, messages that wait, their bytes); made where there is none."""
    folded = fold(holder.name)
    row = database.execute(
        "SELECT device, next_seq, messages, bytes, added_ms FROM devices WHERE folded = ?", (folded,)
    ).fetchone()
    if row is not None and row[4] == holder.added_ms:
        return row[0], row[1], row[2], row[3]
    drop_user(database, folded)  # of somebody else who had the name
    database.execute(
        "INSERT INTO devices (folded, device, added_ms, next_seq) VALUES (?, ?, ?, 1)",
        (folded, NOBODY, holder.added_ms),
    )
    return NOBODY, 1, 0, 0


def mail_device(database: Database, holder: Holder) -> bytes:
    """The device that receives the user's messages; `NOBODY` before the first."""
    row = database.execute(
        "SELECT device FROM devices WHERE folded = ? AND added_ms = ?", (fold(holder.name), holder.added_ms)
    ).fetchone()
    return NOBODY if row is None else row[0]


def next_mail(
    database: Database, holder: Holder, device: bytes, after: int, most: int, most_bytes: int
) -> tuple[list[Letter], bool] | None:
    """Messages with a seq above `after`, in its order, and whether there are more; None for a device that gets none.

    At most `most`, and at most `most_bytes` together.
    """
    if mail_device(database, holder) != device or device == NOBODY:
        return None
    found: list[Letter] = []
    room = most_bytes
    for row in database.execute(
        "SELECT seq, sender, id, blob FROM mail WHERE folded = ? AND device = ? AND seq > ? AND blob <> x''"
        " ORDER BY seq LIMIT ?",
        (fold(holder.name), device, after, most + 1),
    ):
        letter = Letter(*row)
        room -= len(letter.blob)
        if room < 0 or len(found) == most:
            return found, True
        found.append(letter)
    return found, False


def drop_seqs(database: Database, user: str, device: bytes, seqs: Iterable[int]) -> None:
    """Taken: nothing of them is kept."""
    folded = fold(user)
    database.executemany(
        "DELETE FROM mail WHERE folded = ? AND device = ? AND seq = ?", [(folded, device, seq) for seq in seqs]
    )


def drop_mail_from(database: Database, user: str, sender: str) -> None:
    """`user` blocks `sender`: what waits of him goes."""
    database.execute("DELETE FROM mail WHERE folded = ? AND lower(sender) = ?", (fold(user), fold(sender)))


def forget_blocked(database: Database, user: str, sender: str) -> None:
    """`user` blocks `sender` no more: that something came meanwhile goes, so that the same can come again."""
    database.execute(
        "DELETE FROM mail WHERE folded = ? AND lower(sender) = ? AND blob = x''", (fold(user), fold(sender))
    )


# what goes by itself --------------------------------------------------------------------------------------------------


def expire_mail(database: Database, before_ms: int, most: int) -> int:
    """Delete what came before, at most so many; how many."""
    return database.execute(
        "DELETE FROM mail WHERE (folded, device, seq) IN"
        " (SELECT folded, device, seq FROM mail WHERE time_ms < ? ORDER BY time_ms LIMIT ?)",
        (before_ms, most),
    ).rowcount


def users_kept(database: Database) -> list[str]:
    """Of whom there is anything, in lower case."""
    return [name for (name,) in database.execute("SELECT folded FROM devices")]


def keep_only(database: Database, holder: Holder) -> None:
    """Prekeys that another key has signed go, and all of somebody who had the name before."""
    folded = fold(holder.name)
    if database.execute("SELECT added_ms FROM devices WHERE folded = ?", (folded,)).fetchone() != (holder.added_ms,):
        drop_user(database, folded)
    database.execute("DELETE FROM prekeys WHERE folded = ? AND key_id <> ?", (folded, holder.key_id))


def drop_user(database: Database, user: str) -> None:
    """Everything."""
    for statement in (
        "DELETE FROM prekeys WHERE folded = ?",
        "DELETE FROM mail WHERE folded = ?",
        "DELETE FROM devices WHERE folded = ?",
    ):
        database.execute(statement, (fold(user),))
