"""What becomes of a message later: another text, a reaction, its end.

Every function is one step of whatever transaction is open, or one of its own. `UnusableSetup` where SQLite fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from messageapp_keys.names import fold

from .arrivals import note_seen, text_hash
from .database import Database, stored, transaction
from .search import index, unindex

__all__ = [
    "PURGED_AT_ONCE",
    "Version",
    "delete_message",
    "edit_message",
    "empty_log",
    "forget",
    "forgetting",
    "next_expiry",
    "purge_expired",
    "react",
    "versions",
]

_OF_A_MESSAGE: Final = (
    "DELETE FROM versions WHERE number = ?",
    "DELETE FROM reactions WHERE number = ?",
    "DELETE FROM outbox WHERE number = ?",
    "DELETE FROM outbox WHERE about = ?",
    "DELETE FROM held WHERE number = ?",
    "DELETE FROM messages WHERE number = ?",
)
PURGED_AT_ONCE: Final = 4096  # letters of text; then every other task has its turn


@dataclass(frozen=True, slots=True)
class Version:
    text: str = field(repr=False)
    from_ms: int  # since when the message had it


def edit_message(database: Database, number: int, text: str, now_ms: int) -> bool:
    """Another text; the one before is kept. False where it is the same, or the message has none."""
    with transaction(database):
        row = database.execute(
            "SELECT text, max(coalesce(edited_ms, written_ms), ifnull((SELECT max(from_ms) + 1 FROM versions"
            " WHERE number = messages.number), 0)) FROM messages WHERE number = ?",
            (number,),
        ).fetchone()
        if row is None or row[0] is None or row[0] == text:
            return False
        before, from_ms = row
        database.execute("INSERT INTO versions (number, text, from_ms) VALUES (?, ?, ?)", (number, before, from_ms))
        unindex(database, number, before)
        database.execute("UPDATE messages SET text = ?, edited_ms = ? WHERE number = ?", (text, now_ms, number))
        index(database, number, text)
    return True


def versions(database: Database, number: int) -> list[Version]:
    """The texts that a message had before, the oldest first."""
    with stored("the messages"):
        rows = database.execute("SELECT text, from_ms FROM versions WHERE number = ? ORDER BY from_ms", (number,))
        return [Version(text, from_ms) for text, from_ms in rows.fetchall()]


def react(database: Database, number: int, emoji: str, *, own: bool) -> bool:
    """One side's reaction in place of the one before; empty: none. Whether that is another."""
    with transaction(database):
        row = database.execute(
            "SELECT emoji FROM reactions WHERE number = ? AND own = ?", (number, int(own))
        ).fetchone()
        if (row[0] if row else "") == emoji:
            return False
        database.execute("DELETE FROM reactions WHERE number = ? AND own = ?", (number, int(own)))
        if emoji:
            database.execute("INSERT INTO reactions (number, own, emoji) VALUES (?, ?, ?)", (number, int(own), emoji))
    return True


def delete_message(database: Database, number: int) -> bool:
    """The message, its versions and reactions, and whatever of it is not sent yet. False where it is not there.

    That a text came stays known: it is confirmed, and not shown, if it comes once more.
    """
    with transaction(database):
        row = database.execute(
            "SELECT m.text, m.own, m.id, m.stored_ms, c.server, c.peer FROM messages m"
            " JOIN conversations c ON c.id = m.conversation WHERE m.number = ?",
            (number,),
        ).fetchone()
        if row is None:
            return False
        text, own, id, stored_ms, server, peer = row
        unindex(database, number, text)
        if text is not None and not own:
            note_seen(database, server, text_hash(peer, bytes(id)), stored_ms)
        # The peer never sees how such a session began (§9.3): what is written next must not be sealed in it.
        database.execute(
            "UPDATE sessions SET made_ms = -made_ms WHERE made_ms > 0 AND confirmed = 0 AND (server, peer) IN (SELECT"
            " server, peer FROM outbox WHERE (number = ?1 OR about = ?1) AND substr(blob, 1, 1) = x'02')",
            (number,),
        )
        for statement in _OF_A_MESSAGE:
            database.execute(statement, (number,))
    return True


def forget(database: Database, server: str, peer: str) -> int:
    """All that `forgetting` deletes; how many messages."""
    return sum(forgetting(database, server, peer))


def forgetting(database: Database, server: str, peer: str, most: int | None = None) -> Iterator[int]:
    """All of the conversation but the pin: messages, draft, timer, what waits or is held.

    In steps, each one transaction that gives how many messages went: at most so many letters of text, or one message.
    What comes after the first step stays. Sessions stay: they have no text, and without them nothing that the peer
    sends next could be read.
    """
    place = (server, fold(peer))
    of_peer = "server = ?1 AND peer = ?2"
    with stored("the messages"):
        last = database.execute(
            "SELECT ifnull((SELECT max(number) FROM messages), 0), ifnull((SELECT max(place) FROM outbox), 0),"
            " ifnull((SELECT max(place) FROM held), 0)"
        ).fetchone()
    last_number, *last_places = last
    while True:
        with transaction(database):
            rows = _first_letters(
                database,
                "SELECT m.number, length(m.text) FROM conversations c JOIN messages m ON m.conversation = c.id"
                " WHERE c.server = ? AND c.peer = ? AND c.group_id = x'' AND m.number <= ? ORDER BY m.number",
                (*place, last_number),
                most,
            )
            for number in rows:
                delete_message(database, number)
        if not rows:
            break
        yield len(rows)
    with transaction(database):
        database.execute(  # as in delete_message, for notes
            f"UPDATE sessions SET made_ms = -made_ms WHERE made_ms > 0 AND confirmed = 0 AND {of_peer} AND EXISTS"  # noqa: S608
            f" (SELECT 1 FROM outbox WHERE {of_peer} AND place <= ?3 AND substr(blob, 1, 1) = x'02')",
            (*place, last_places[0]),
        )
        for table, last_place in zip(("outbox", "held"), last_places, strict=True):
            database.execute(f"DELETE FROM {table} WHERE {of_peer} AND place <= ?3", (*place, last_place))  # noqa: S608
        database.execute(f"DELETE FROM heals WHERE {of_peer}", place)  # noqa: S608 - words of ours
        database.execute(f"UPDATE conversations SET draft = '' WHERE {of_peer} AND group_id = x''", place)  # noqa: S608
        database.execute(
            f"DELETE FROM conversations WHERE {of_peer} AND group_id = x''"  # noqa: S608
            " AND NOT EXISTS (SELECT 1 FROM messages WHERE conversation = conversations.id)",
            place,
        )
    empty_log(database)


def _first_letters(database: Database, query: str, parameters: tuple[Any, ...], most: int | None) -> list[int]:
    """Of messages (number, letters of text or NULL), the first with so many letters, at least one; None: all."""
    if most is None:
        return [int(number) for number, _ in database.execute(query, parameters).fetchall()]
    found = database.execute(f"{query} LIMIT ?", (*parameters, most // 16 + 1)).fetchall()  # not the texts of all
    sizes = accumulate(size or 0 for _, size in found)
    return [
        int(number) for at, ((number, _), size) in enumerate(zip(found, sizes, strict=True)) if not at or size <= most
    ]


def purge_expired(database: Database, now_ms: int, most: int | None = None) -> list[int]:
    """Delete what has had its time: at most so many letters of text, or one message. The numbers.

    Every word of them is looked for and overwritten: up to 15 ms a KB.
    """
    with transaction(database):
        numbers = _first_letters(
            database,
            "SELECT number, length(text) FROM messages WHERE expires_ms <= ? ORDER BY expires_ms, number",
            (now_ms,),
            most,
        )
        for number in numbers:
            delete_message(database, number)
    if numbers:
        empty_log(database)
    return sorted(numbers)


def next_expiry(database: Database) -> int | None:
    """When the next message has had its time, ms; None: no time is running."""
    with stored("the messages"):
        (found,) = database.execute("SELECT min(expires_ms) FROM messages WHERE expires_ms IS NOT NULL").fetchone()
    return None if found is None else int(found)


def empty_log(database: Database) -> None:
    """Write the write-ahead log into the file: it still has the pages from before a deletion.

    Later, where another process is reading or a transaction is open.
    """
    if not database.in_transaction:
        with stored("the messages"):
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
