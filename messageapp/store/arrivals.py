"""What a client remembers of messages that came: taken in already, held, asked for again (protocol §9.3, §16).

Every function is one step of whatever transaction is open, or one of its own. `UnusableSetup` where SQLite fails.
Peers count in lower case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from messageapp_keys.names import fold
from messageapp_keys.primitives import hash_bytes

from .database import Database, transaction

__all__ = [
    "Held",
    "add_held",
    "count_asked",
    "count_held",
    "count_starts",
    "forget_asked",
    "held_peers",
    "list_held",
    "list_notes",
    "note_asked",
    "note_seen",
    "note_start",
    "purge_arrivals",
    "remove_held",
    "start_known",
    "text_hash",
    "was_seen",
]

_WINDOW_MS: Final = 3_600_000
_WINDOW: Final = b""  # no id of a message: the row of `heals` that counts the sessions which were begun in this hour


@dataclass(frozen=True, slots=True)
class Held:
    """A message that waits, closed, for a key to be accepted or confirmed."""

    place: int
    peer: str  # in the spelling that is shown
    number: int | None  # the line that stands for it
    id: bytes  # [16] under which the server stored it
    blob: bytes


# taken in -------------------------------------------------------------------------------------------------------------


def was_seen(database: Database, server: str, digest: bytes) -> bool:
    """Was a message with these first 16 bytes of SHA-256 taken in?"""
    with transaction(database):
        row = database.execute("SELECT 1 FROM seen WHERE server = ? AND hash = ?", (server, digest)).fetchone()
    return row is not None


def note_seen(database: Database, server: str, digest: bytes, now_ms: int) -> None:
    with transaction(database):
        database.execute("INSERT OR IGNORE INTO seen (server, hash, ms) VALUES (?, ?, ?)", (server, digest, now_ms))


def text_hash(peer: str, id: bytes) -> bytes:
    """[16] under which a text that is deleted here is known as one that came."""
    return hash_bytes(b"text " + id + fold(peer).encode())[:16]


def start_known(database: Database, server: str, transcript: bytes) -> bool:
    """Was the start with this TH_C3 taken under a last-resort prekey?"""
    with transaction(database):
        row = database.execute("SELECT 1 FROM starts WHERE server = ? AND start = ?", (server, transcript)).fetchone()
    return row is not None


def note_start(database: Database, server: str, transcript: bytes, prekey: int) -> None:
    with transaction(database):
        database.execute("INSERT INTO starts (server, start, prekey) VALUES (?, ?, ?)", (server, transcript, prekey))


# held -----------------------------------------------------------------------------------------------------------------


def add_held(database: Database, server: str, peer: str, number: int, id: bytes, blob: bytes, now_ms: int) -> None:
    with transaction(database):
        database.execute(
            "INSERT INTO held (server, peer, number, id, blob, ms) VALUES (?, ?, ?, ?, ?, ?)",
            (server, fold(peer), number, id, blob, now_ms),
        )


def count_held(database: Database, server: str, peer: str | None = None) -> int:
    """Of this peer, or of all."""
    of_peer, parameters = ("", (server,)) if peer is None else (" AND peer = ?", (server, fold(peer)))
    with transaction(database):
        (found,) = database.execute(f"SELECT count(*) FROM held WHERE server = ?{of_peer}", parameters).fetchone()  # noqa: S608
    return int(found)


def held_peers(database: Database, server: str) -> list[str]:
    """Those of whom something is held, in lower case."""
    with transaction(database):
        rows = database.execute("SELECT DISTINCT peer FROM held WHERE server = ? ORDER BY peer", (server,)).fetchall()
    return [str(peer) for (peer,) in rows]


def list_held(database: Database, server: str, peer: str, above: int, limit: int) -> list[Held]:
    """The first `limit` of this peer behind place `above`, in the order in which they came."""
    with transaction(database):
        rows = database.execute(
            "SELECT h.place, coalesce(c.name, h.peer), h.number, h.id, h.blob FROM held h LEFT JOIN conversations c"
            " ON c.server = h.server AND c.peer = h.peer AND c.group_id = x''"
            " WHERE h.server = ? AND h.peer = ? AND h.place > ? ORDER BY h.place LIMIT ?",
            (server, fold(peer), above, limit),
        ).fetchall()
    return [Held(place, peer, number, bytes(id), bytes(blob)) for place, peer, number, id, blob in rows]


def remove_held(database: Database, place: int) -> None:
    with transaction(database):
        database.execute("DELETE FROM held WHERE place = ?", (place,))


# asked for again ------------------------------------------------------------------------------------------------------


def count_asked(database: Database, server: str, peer: str, id: bytes) -> tuple[int, int]:
    """(how often this message was asked for again, ms when last)."""
    with transaction(database):
        row = database.execute(
            "SELECT asked, ms FROM heals WHERE server = ? AND peer = ? AND id = ?", (server, fold(peer), id)
        ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def note_asked(database: Database, server: str, peer: str, ids: list[bytes], now_ms: int) -> None:
    """They are asked for once more, over one more new session."""
    count = count_starts(database, server, peer, now_ms)
    since = count_asked(database, server, peer, _WINDOW)[1] if count else now_ms
    with transaction(database):
        database.execute(
            "INSERT OR REPLACE INTO heals (server, peer, id, asked, ms) VALUES (?, ?, ?, ?, ?)",
            (server, fold(peer), _WINDOW, count + 1, since),
        )
        database.executemany(
            "INSERT INTO heals (server, peer, id, asked, ms) VALUES (?, ?, ?, 1, ?)"
            " ON CONFLICT (server, peer, id) DO UPDATE SET asked = asked + 1, ms = excluded.ms",
            [(server, fold(peer), id, now_ms) for id in ids],
        )


def count_starts(database: Database, server: str, peer: str, now_ms: int) -> int:
    """How many sessions were begun in this hour to ask `peer` for something."""
    count, since = count_asked(database, server, peer, _WINDOW)
    return count if since <= now_ms < since + _WINDOW_MS else 0


def forget_asked(database: Database, server: str, peer: str, id: bytes) -> None:
    """It has come."""
    with transaction(database):
        database.execute("DELETE FROM heals WHERE server = ? AND peer = ? AND id = ?", (server, fold(peer), id))


def list_notes(database: Database, server: str, peer: str) -> list[bytes]:
    """The envelopes of notes to `peer` that wait in the outbox and are not sealed yet."""
    with transaction(database):
        rows = database.execute(
            "SELECT content FROM outbox WHERE server = ? AND peer = ? AND number IS NULL AND blob IS NULL",
            (server, fold(peer)),
        ).fetchall()
    return [bytes(content) for (content,) in rows]


def purge_arrivals(database: Database, server: str, before_ms: int) -> None:
    """Forget what was taken in, or asked for, before that time."""
    with transaction(database):
        database.execute("DELETE FROM seen WHERE server = ? AND ms < ?", (server, before_ms))
        database.execute("DELETE FROM heals WHERE server = ? AND ms < ?", (server, before_ms))
