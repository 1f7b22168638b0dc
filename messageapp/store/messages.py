"""Messages in the account's database: written, found, and in which state they are (protocol §16).

Every function is one step of whatever transaction is open, or one of its own. `UnusableSetup` where SQLite fails.
A conversation is given by the number that `store.conversations` has for it; how a message changes or goes is in
`store.changes`, the index of words in `store.search`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from .database import Database, stored, transaction
from .search import Query, index, search_numbers, unindex
from .states import Cause, State

__all__ = [
    "OPEN",
    "Message",
    "add_own",
    "add_received",
    "export",
    "fill",
    "find_by_id",
    "find_message",
    "find_open",
    "history",
    "last_of_each",
    "search",
    "set_state",
]

OPEN: Final = (State.QUEUED, State.SENT, State.FAILED)
"""States of own messages that are not where they shall go."""
_NOT_OVER: Final = frozenset((*OPEN, State.UNREADABLE, State.HELD))
_INDEXED: Final = "m.state IN ('queued', 'sent', 'failed', 'unreadable', 'held')"
"""The words of the index `messages_open`: without them SQLite goes through every message that there is."""
_PAGE: Final = 500
_CONFIRMED: Final = (State.DELIVERED, State.READ)


@dataclass(frozen=True, slots=True)
class Message:
    number: int
    peer: str  # as it is shown
    server: str
    id: bytes  # [16] the same on both sides
    own: bool
    text: str | None = field(repr=False)  # None: it cannot be read (yet)
    written_ms: int  # by the writer's clock
    stored_ms: int  # by ours
    state: State
    cause: Cause
    changed_ms: int  # when state or cause last changed
    reply_to: int | None  # number of the message that it answers, where we have that
    edited_ms: int | None
    versions: int  # how many there were before this text
    reactions: tuple[tuple[bool, str], ...]  # (ours, emoji); each side has at most one
    expires_ms: int | None  # None: never, or the time does not run yet
    expire_s: int  # 0: it stays
    live: bool  # said in a chat
    reply_id: bytes | None  # [16] of the message that it answers, also where we have it not
    conversation: int


def add_own(
    database: Database,
    conversation: int,
    id: bytes,
    text: str,
    *,
    written_ms: int,
    reply_to: bytes | None = None,
    expire_s: int = 0,
    live: bool = False,
    cause: Cause = Cause.WAITING,
) -> int | None:
    """Its number, in state queued; None where this id is there already."""
    return _add(
        database,
        text,
        conversation=conversation,
        id=id,
        own=1,
        written_ms=written_ms,
        stored_ms=written_ms,
        changed_ms=written_ms,
        state=State.QUEUED,
        cause=cause,
        reply_to=reply_to,
        expire_s=expire_s,
        live=int(live),
    )


def add_received(
    database: Database,
    conversation: int,
    id: bytes,
    text: str | None,
    *,
    written_ms: int,
    now_ms: int,
    state: State = State.RECEIVED,
    cause: Cause = Cause.NONE,
    reply_to: bytes | None = None,
    expire_s: int = 0,
    live: bool = False,
    device: bytes = b"",
) -> int | None:
    """Its number; None where this id is there already. Without `text` in state unreadable or held.

    With a text the time after which it vanishes runs from now.
    """
    return _add(
        database,
        text,
        conversation=conversation,
        id=id,
        own=0,
        device=device,
        written_ms=written_ms,
        stored_ms=now_ms,
        changed_ms=now_ms,
        state=state,
        cause=cause,
        reply_to=reply_to,
        expire_s=expire_s,
        expires_ms=_expiry(now_ms, expire_s) if state is State.RECEIVED else None,
        live=int(live),
    )


def _expiry(now_ms: int, expire_s: int) -> int | None:
    return now_ms + 1000 * expire_s if expire_s else None


def _add(database: Database, text: str | None, **columns: Any) -> int | None:
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    with transaction(database):
        row = database.execute(
            f"INSERT INTO messages (text, {names}) VALUES (?, {marks})"  # noqa: S608 - names are ours
            " ON CONFLICT (conversation, own, id) DO NOTHING RETURNING number",
            (text, *columns.values()),
        ).fetchone()
        if row is None:
            return None
        index(database, row[0], text)
    return int(row[0])


def fill(
    database: Database,
    number: int,
    text: str,
    *,
    written_ms: int,
    now_ms: int,
    cause: Cause = Cause.HEALED,
    reply_to: bytes | None = None,
    expire_s: int = 0,
) -> bool:
    """Put the text into the line of a message that was unreadable or held; False where it is neither (any more)."""
    with transaction(database):
        cursor = database.execute(
            "UPDATE messages SET text = ?, written_ms = ?, state = ?, cause = ?, changed_ms = ?, reply_to = ?,"
            " expire_s = ?, expires_ms = ? WHERE number = ? AND state IN (?, ?) AND text IS NULL",
            (
                text,
                written_ms,
                State.RECEIVED,
                cause,
                now_ms,
                reply_to,
                expire_s,
                _expiry(now_ms, expire_s),
                number,
                State.UNREADABLE,
                State.HELD,
            ),
        )
        if cursor.rowcount != 1:
            return False
        unindex(database, number, None)
        index(database, number, text)
    return True


def set_state(database: Database, number: int, state: State, cause: Cause, now_ms: int) -> bool:
    """Whether anything is another now. What is confirmed is never less than that again, whatever comes late.

    The time after which an own message vanishes runs from when it is first sent.
    """
    more = _CONFIRMED[_CONFIRMED.index(state) + 1 :] if state in _CONFIRMED else _CONFIRMED
    marks = ", ".join("?" * len(more))
    with transaction(database):
        cursor = database.execute(
            "UPDATE messages SET state = ?, cause = ?, changed_ms = ?"  # noqa: S608 - marks
            f" WHERE number = ? AND (state <> ? OR cause <> ?) AND state NOT IN ({marks})",
            (state, cause, now_ms, number, state, cause, *more),
        )
        if state in (State.SENT, *_CONFIRMED):
            database.execute(
                "UPDATE messages SET expires_ms = ? + 1000 * expire_s"
                " WHERE number = ? AND own = 1 AND expire_s > 0 AND expires_ms IS NULL",
                (now_ms, number),
            )
    return cursor.rowcount == 1


_COLUMNS: Final = """
    m.number, c.name, c.server, m.id, m.own, m.text, m.written_ms, m.stored_ms, m.state, m.cause, m.changed_ms,
    (SELECT min(r.number) FROM messages r
      WHERE r.conversation = m.conversation AND r.own IN (0, 1) AND r.id = m.reply_to),
    m.edited_ms, (SELECT count(*) FROM versions v WHERE v.number = m.number),
    (SELECT a.emoji FROM reactions a WHERE a.number = m.number AND a.own = 1),
    (SELECT a.emoji FROM reactions a WHERE a.number = m.number AND a.own = 0),
    m.expires_ms, m.expire_s, m.live, m.reply_to, m.conversation"""


def _select(database: Database, rest: str, parameters: Iterable[Any]) -> list[Message]:
    """Messages `m` of conversations `c`, as `rest` (our own SQL, from WHERE or JOIN on) says."""
    with stored("the messages"):
        rows = database.execute(
            f"SELECT {_COLUMNS} FROM messages m CROSS JOIN conversations c ON c.id = m.conversation {rest}",  # noqa: S608
            tuple(parameters),
        ).fetchall()
    return [_message(tuple(row)) for row in rows]


def _message(row: tuple[Any, ...]) -> Message:
    *head, state, cause, changed, reply_to, edited, versions, ours, theirs, expires, expire_s, live, reply_id, of = row
    number, peer, server, id, own, text, written, stored = head
    reactions = tuple((mine, emoji) for mine, emoji in ((True, ours), (False, theirs)) if emoji is not None)
    return Message(
        number,
        peer,
        server,
        bytes(id),
        bool(own),
        text,
        written,
        stored,
        State(state),
        Cause(cause),
        changed,
        reply_to,
        edited,
        versions,
        reactions,
        expires,
        expire_s,
        bool(live),
        None if reply_id is None else bytes(reply_id),
        of,
    )


def find_message(database: Database, server: str, number: int) -> Message | None:
    return next(iter(_select(database, "WHERE m.number = ? AND c.server = ?", (number, server))), None)


def find_by_id(database: Database, conversation: int, id: bytes, *, own: bool) -> Message | None:
    found = _select(database, "WHERE m.conversation = ? AND m.own = ? AND m.id = ?", (conversation, int(own), id))
    return next(iter(found), None)


def history(database: Database, conversation: int, n: int, before: int | None = None) -> list[Message]:
    """The last `n`, or the last below number `before`; the oldest first."""
    below = (1 << 62) if before is None else before
    return _select(
        database,
        "WHERE m.conversation = ? AND m.number < ? ORDER BY m.number DESC LIMIT ?",
        (conversation, below, max(n, 0)),
    )[::-1]


def last_of_each(database: Database, which: str, parameters: Iterable[Any]) -> dict[int, Message]:
    """By conversation, of all conversations `c` of which `which` (our own SQL) is true."""
    newest = "SELECT (SELECT max(number) FROM messages WHERE conversation = c.id)"
    rest = f"WHERE m.number IN ({newest} FROM conversations c WHERE {which})"
    return {message.conversation: message for message in _select(database, rest, parameters)}


def find_open(database: Database, server: str, states: Iterable[State] = OPEN) -> list[Message]:
    """Every message of this server in one of `states`, the oldest first."""
    wanted = tuple(states)
    marks = ", ".join("?" * len(wanted))
    return _select(
        database,
        f"WHERE {_INDEXED if _NOT_OVER.issuperset(wanted) else 'true'}"
        f" AND m.state IN ({marks}) AND c.server = ? ORDER BY m.number",
        (*wanted, server),
    )


def search(database: Database, server: str, query: Query, limit: int = 50) -> list[Message]:
    """The newest `limit` that match, the newest first."""
    numbers = search_numbers(database, server, query, limit)
    marks = ", ".join("?" * len(numbers))
    return _select(database, f"WHERE m.number IN ({marks}) ORDER BY m.number DESC", numbers)


def export(database: Database, conversation: int) -> Iterator[Message]:
    """All of a conversation, the oldest first, read in pages: nothing is locked in between."""
    number = 0
    while page := _select(
        database,
        "WHERE m.conversation = ? AND m.number > ? ORDER BY m.number LIMIT ?",
        (conversation, number, _PAGE),
    ):
        yield from page
        number = page[-1].number
