"""Conversations in the account's database: one with each peer at each server.

Every function is one step of whatever transaction is open, or one of its own. `UnusableSetup` where SQLite fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from messageapp_keys.names import fold

from .database import Database, stored, transaction
from .messages import Message, last_of_each
from .states import State

__all__ = [
    "Conversation",
    "conversation_of",
    "count_unread",
    "find_conversation",
    "list_conversations",
    "mark_read",
    "note_seen",
    "save_draft",
    "set_expiry",
    "set_receipts",
]


@dataclass(frozen=True, slots=True)
class Conversation:
    id: int
    peer: str  # as it is shown
    unread: int
    last_ms: int  # when the last message was stored; 0: there is none
    last: Message | None
    draft: str = field(repr=False)
    expire_s: int  # 0: messages stay
    receipts: bool  # the peer is told what was read
    seen_ms: int  # when the peer was last seen online; 0: never
    last_read: int  # number of the last message that the user has seen


def conversation_of(database: Database, server: str, peer: str, *, registered: bool = False) -> int:
    """The number of the conversation with `peer`, made if it is not there.

    `registered`: `peer` is in the spelling that the server has, and is shown so from now on.
    """
    with transaction(database):
        row = database.execute(
            "SELECT id, name FROM conversations WHERE server = ? AND peer = ? AND group_id = x''", (server, fold(peer))
        ).fetchone()
        if row is None:
            row = database.execute(
                "INSERT INTO conversations (server, peer, name) VALUES (?, ?, ?) RETURNING id, name",
                (server, fold(peer), peer),
            ).fetchone()
        elif registered and row[1] != peer:
            database.execute("UPDATE conversations SET name = ? WHERE id = ?", (peer, row[0]))
    return int(row[0])


def find_conversation(database: Database, server: str, peer: str) -> Conversation | None:
    """The conversation with `peer` in any spelling."""
    return next(iter(_select(database, "c.server = ? AND c.peer = ? AND c.group_id = x''", (server, fold(peer)))), None)


def list_conversations(database: Database, server: str) -> list[Conversation]:
    """All of this server, the one with the newest message first; then those without one, by name."""
    found = _select(database, "c.server = ?", (server,))
    return sorted(found, key=lambda one: (-(one.last.number if one.last else 0), fold(one.peer)))


def _select(database: Database, where: str, parameters: tuple[Any, ...]) -> list[Conversation]:
    with stored("the messages"):
        rows = database.execute(
            "SELECT c.id, c.name, c.draft, c.expire_s, c.receipts, c.seen_ms, c.last_read,"  # noqa: S608 - our own
            " (SELECT count(*) FROM messages WHERE conversation = c.id AND number > c.last_read AND own = 0)"
            f" FROM conversations c WHERE {where}",
            parameters,
        ).fetchall()
        newest, found = last_of_each(database, where, parameters), []
        for id, name, draft, expire_s, receipts, seen_ms, last_read, unread in rows:
            last = newest.get(id)
            last_ms = last.stored_ms if last else 0
            found.append(
                Conversation(id, name, unread, last_ms, last, draft, expire_s, bool(receipts), seen_ms, last_read)
            )
    return found


def count_unread(database: Database, server: str) -> int:
    """Over all conversations of this server."""
    with stored("the messages"):
        (found,) = database.execute(
            "SELECT count(*) FROM conversations c JOIN messages m ON m.conversation = c.id AND m.number > c.last_read"
            " WHERE c.server = ? AND m.own = 0",
            (server,),
        ).fetchone()
    return int(found)


def mark_read(database: Database, conversation: int) -> list[bytes]:
    """Ids of the messages of the peer that are newly read; all that is there counts as seen."""
    with transaction(database):
        rows = database.execute(
            "SELECT m.id FROM messages m JOIN conversations c ON c.id = m.conversation WHERE c.id = ?"
            " AND m.number > c.last_read AND m.own = 0 AND m.state = ? ORDER BY m.number",
            (conversation, State.RECEIVED),
        ).fetchall()
        database.execute(
            "UPDATE conversations SET last_read = max(last_read,"
            " ifnull((SELECT max(number) FROM messages WHERE conversation = conversations.id), 0)) WHERE id = ?",
            (conversation,),
        )
    return [bytes(id) for (id,) in rows]


def note_seen(database: Database, server: str, peer: str, now_ms: int) -> None:
    """The peer is online. Nothing happens where there is no conversation with it."""
    with transaction(database):
        database.execute(
            "UPDATE conversations SET seen_ms = max(seen_ms, ?) WHERE server = ? AND peer = ? AND group_id = x''",
            (now_ms, server, fold(peer)),
        )


def save_draft(database: Database, conversation: int, text: str) -> None:
    with transaction(database):
        database.execute("UPDATE conversations SET draft = ? WHERE id = ?", (text, conversation))


def set_receipts(database: Database, conversation: int, on: bool) -> None:
    with transaction(database):
        database.execute("UPDATE conversations SET receipts = ? WHERE id = ?", (int(on), conversation))


def set_expiry(database: Database, conversation: int, seconds: int) -> bool:
    """Messages from now on vanish so many seconds after they came; 0: never. Whether that is another time."""
    with transaction(database):
        cursor = database.execute(
            "UPDATE conversations SET expire_s = ? WHERE id = ? AND expire_s <> ?", (seconds, conversation, seconds)
        )
    return cursor.rowcount == 1
