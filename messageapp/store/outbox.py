"""What waits to be sent: envelopes, and from when they are sealed the same bytes until the server has them (§16).

Every function is one step of whatever transaction is open, or one of its own. `UnusableSetup` where SQLite fails.
Peers count in lower case. The rows of one peer go in order of place; one peer never holds back another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from messageapp_keys.names import fold

from .database import Database, stored, transaction

__all__ = [
    "Waiting",
    "add",
    "count",
    "due",
    "find",
    "held_until",
    "next_due",
    "of_message",
    "postpone",
    "release_live",
    "remove",
    "seal",
    "set_content",
    "wake",
]


@dataclass(frozen=True, slots=True)
class Waiting:
    place: int
    server: str
    peer: str  # in the spelling that is shown
    id: bytes  # [16] of the envelope; the server stores it under this, too
    number: int | None  # the message; None for receipts and other notes between clients
    content: bytes = field(repr=False)  # the envelope, until it is sealed
    blob: bytes | None = field(repr=False)  # sealed: the same bytes are sent again until the server has them
    live: bool  # said in the chat that is under way; waits for its receipt
    made_ms: int
    next_ms: int  # not tried again before
    tries: int
    about: int | None = None  # the message that a note changes; the note goes with it


def add(
    database: Database,
    server: str,
    peer: str,
    id: bytes,
    *,
    now_ms: int,
    number: int | None = None,
    about: int | None = None,
    content: bytes = b"",
    blob: bytes | None = None,
    live: bool = False,
) -> int:
    """The place of a new row, behind all others; of the one that is there, untouched, for an id that is known.

    Give `content` (an envelope), or `blob` where it is sealed already.
    """
    with transaction(database):
        database.execute(
            "INSERT INTO outbox (server, peer, id, number, about, content, blob, live, made_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (server, peer, id) DO NOTHING",
            (server, fold(peer), id, number, about, content, blob, int(live), now_ms),
        )
        (place,) = database.execute(
            "SELECT place FROM outbox WHERE server = ? AND peer = ? AND id = ?", (server, fold(peer), id)
        ).fetchone()
    return int(place)


def due(database: Database, server: str, now_ms: int, limit: int = 64, without: Iterable[str] = ()) -> list[Waiting]:
    """The next rows that may be sent now, in order of place; none that is live, and none to peers of `without`.

    A row that waits for its time (`postpone`) holds back all later ones of the same peer. What changes a message waits
    until that is gone, also by a chat.
    """
    others = tuple(map(fold, without))
    return _select(
        database,
        "LEFT JOIN (SELECT peer, min(place) AS place FROM outbox WHERE server = ? AND live = 0 AND next_ms > ?"  # noqa: S608
        " GROUP BY peer) AS waits ON waits.peer = o.peer"
        " WHERE o.server = ? AND o.live = 0 AND (waits.place IS NULL OR o.place < waits.place)"
        " AND (o.about IS NULL OR NOT EXISTS (SELECT 1 FROM outbox WHERE number = o.about))"
        f" AND o.peer NOT IN ({', '.join('?' * len(others))}) ORDER BY o.place LIMIT ?",
        (server, now_ms, server, *others, limit),
    )


def next_due(database: Database, server: str, now_ms: int) -> int | None:
    """When a row that waits for its time is to be tried, ms; None: none waits."""
    with stored("the messages"):
        (found,) = database.execute(
            "SELECT min(next_ms) FROM outbox WHERE server = ? AND live = 0 AND next_ms > ?", (server, now_ms)
        ).fetchone()
    return None if found is None else int(found)


def held_until(database: Database, number: int) -> int:
    """When message `number`, or what holds it back, is tried again, ms; 0: nothing holds it back, or it is not here."""
    with stored("the messages"):
        (found,) = database.execute(
            "SELECT max(head.next_ms) FROM outbox o JOIN outbox head ON head.server = o.server AND head.peer = o.peer"
            " AND head.live = 0 AND head.place <= o.place WHERE o.number = ?",
            (number,),
        ).fetchone()
    return int(found or 0)


_COLUMNS: Final = (
    "o.place, o.server, coalesce(c.name, o.peer), o.id, o.number, o.content, o.blob, o.live, o.made_ms, o.next_ms,"
    " o.tries, o.about"
)


def _select(database: Database, rest: str, parameters: Iterable[Any]) -> list[Waiting]:
    with stored("the messages"):
        rows = database.execute(
            f"SELECT {_COLUMNS} FROM outbox o"  # noqa: S608 - our own
            f" LEFT JOIN conversations c ON c.server = o.server AND c.peer = o.peer AND c.group_id = x'' {rest}",
            tuple(parameters),
        ).fetchall()
    return [
        Waiting(
            place,
            server,
            peer,
            bytes(id),
            number,
            bytes(content),
            None if blob is None else bytes(blob),
            bool(live),
            made_ms,
            next_ms,
            tries,
            about,
        )
        for place, server, peer, id, number, content, blob, live, made_ms, next_ms, tries, about in rows
    ]


def find(database: Database, server: str, peer: str, id: bytes) -> Waiting | None:
    found = _select(database, "WHERE o.server = ? AND o.peer = ? AND o.id = ?", (server, fold(peer), id))
    return next(iter(found), None)


def of_message(database: Database, number: int) -> Waiting | None:
    """The row with message `number` itself; notes that change it do not count."""
    return next(iter(_select(database, "WHERE o.number = ?", (number,))), None)


def seal(database: Database, place: int, blob: bytes) -> None:
    """From now on these bytes are sent, and no others. Nothing happens to a row that is sealed already."""
    with transaction(database):
        database.execute("UPDATE outbox SET blob = ?, content = x'' WHERE place = ? AND blob IS NULL", (blob, place))


def set_content(database: Database, place: int, content: bytes) -> bool:
    """Another envelope instead, with the same id; False where it is sealed already."""
    with transaction(database):
        cursor = database.execute("UPDATE outbox SET content = ? WHERE place = ? AND blob IS NULL", (content, place))
    return cursor.rowcount == 1


def remove(database: Database, place: int) -> bool:
    """False where it is gone already."""
    with transaction(database):
        return database.execute("DELETE FROM outbox WHERE place = ?", (place,)).rowcount == 1


def postpone(database: Database, place: int, next_ms: int) -> None:
    """It was tried in vain, and is not tried again before `next_ms`."""
    with transaction(database):
        database.execute("UPDATE outbox SET next_ms = ?, tries = tries + 1 WHERE place = ?", (next_ms, place))


def wake(database: Database, server: str, peer: str | None = None) -> None:
    """What waits for its time may be tried now: of one peer, or of all."""
    with transaction(database):
        database.execute(
            "UPDATE outbox SET next_ms = 0 WHERE server = ? AND next_ms > 0 AND (? IS NULL OR peer = ?)",
            (server, *_one(peer)),
        )


def release_live(database: Database, server: str, peer: str | None = None) -> list[Waiting]:
    """The chat (with `peer`, or every one) is over: what had no receipt goes through the server's storage.

    The rows, which keep their place and bytes.
    """
    one = _one(peer)
    with transaction(database):
        rows = _select(
            database, "WHERE o.server = ? AND o.live = 1 AND (? IS NULL OR o.peer = ?) ORDER BY o.place", (server, *one)
        )
        database.execute(
            "UPDATE outbox SET live = 0 WHERE server = ? AND live = 1 AND (? IS NULL OR peer = ?)", (server, *one)
        )
    return rows


def count(database: Database, server: str, peer: str | None = None) -> int:
    """How many rows wait, live ones and notes too: to one peer, or to all."""
    with stored("the messages"):
        (found,) = database.execute(
            "SELECT count(*) FROM outbox WHERE server = ? AND (? IS NULL OR peer = ?)", (server, *_one(peer))
        ).fetchone()
    return int(found)


def _one(peer: str | None) -> tuple[str | None, str | None]:
    folded = None if peer is None else fold(peer)
    return folded, folded
