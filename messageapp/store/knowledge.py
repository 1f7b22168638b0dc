"""What a server's files hold about one user, in words: every column of every table, and every file of a home.

`tests/test_store_knowledge.py` goes through the schema and through the files of a server that runs: one without words
here is an error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from messageapp_keys.codec import Malformed
from messageapp_keys.fingerprint import key_fingerprint
from messageapp_keys.identity import key_id_of
from messageapp_keys.keylog import Leaf
from messageapp_keys.names import fold

__all__ = ["FILES", "IN_MEMORY", "MAIL_TABLES", "NEVER", "NOBODYS", "TABLES", "Table", "rows_about"]


@dataclass(frozen=True, slots=True)
class Table:
    """Where rows about users lie. `which` selects those of the user `:name`, a lower-case name."""

    about: str
    which: str
    columns: dict[str, str]  # name → what it says


TABLES: Final = {
    "users": Table(
        "the directory",
        "folded = :name",
        {
            "folded": "the name in lower case: it is taken in any spelling",
            "name": "the name as it was enrolled",
            "bundle": "the public key that counts",
            "added_ms": "when the user was enrolled",
            "revoked_ms": "since when the key counts no more",
        },
    ),
    "bundles": Table(
        "every public key that ever counted",
        "key_id IN (SELECT key_id FROM temp.keys_of_user)",
        {"key_id": "its fingerprint", "bundle": "the public key"},
    ),
    "log_leaves": Table(
        "the key log, which every user can read and nobody can shorten",
        "folded = :name",
        {
            "log": "empty: the log of this server",
            "number": "the place in the log",
            "folded": "whom the entry is about",
            "leaf": "which key, since when, and who says so",
        },
    ),
    "invites": Table(
        "join codes made for this name",
        "lower(name) = :name",
        {
            "id": "its number",
            "key": "what proves that somebody has the code, which itself is not kept",
            "name": "for whom it is",
            "reset": "1: it gives an enrolled user another key",
            "made_ms": "when it was made",
            "expires_ms": "until when it holds",
            "uses": "how many uses are left",
            "used": "how often it was used",
            "revoked_ms": "since when it is revoked",
            "first": "1: printed by serve for the first user",
        },
    ),
    "blocks": Table(
        "who blocks whom, both ways",
        ":name IN (owner, blocked)",
        {"owner": "who blocks", "blocked": "whom", "since_ms": "since when"},
    ),
}
MAIL_TABLES: Final = {
    "devices": Table(
        "which device receives the messages of the user",
        "folded = :name",
        {
            "folded": "whose",
            "device": "the random number of the device; zeros: none has uploaded prekeys yet",
            "added_ms": "when the user was enrolled",
            "next_seq": "how many messages came for the user since then, plus one",
            "messages": "how many wait",
            "bytes": "how long they are, all in all",
        },
    ),
    "prekeys": Table(
        "prekeys of the user: public keys with which others can begin to write",
        "folded = :name",
        {
            "folded": "whose",
            "device": "the random number of the device",
            "id": "its number",
            "kind": "1: given once; 2: the one that is given when no other is left",
            "key_id": "the fingerprint of the key that signed it",
            "expires_ms": "until when it counts",
            "prekey": "the prekey",
        },
    ),
    "mail": Table(
        "encrypted messages that wait, to the user and from the user",
        ":name IN (folded, lower(sender))",
        {
            "folded": "for whom",
            "device": "the random number of the device that is to receive it",
            "seq": "its number among those for that user",
            "sender": "who sent it",
            "id": "its random number, by the sender",
            "time_ms": "when it came",
            "size": "how long it was, where the receiver blocks the sender; else 0",
            "blob": "the message, which only the receiver can open; empty: the receiver blocks the sender",
        },
    ),
}
"""Of mail.db; a message is in it until the receiver has it, for 30 days at most."""
NOBODYS: Final = {
    "log_tiles": "hashes over the entries of all users, from which proofs are made",
    "cosignatures": "what witnesses have signed of the newest checkpoint",
}
"""Tables without a row that belongs to a user."""
FILES: Final = {
    "ca/ca.pem": "the certificate of the authority; nothing about users",
    "ca/ca.key": "the key of the authority; nothing about users",
    "ca/crl.pem": "revoked certificates of this server; nothing about users",
    "ca/cross.pem": "the authority's certificate by the one before it; nothing about users",
    "ca/old-*.pem": "earlier certificates of the authority; nothing about users",
    "ca/old-*.crl": "their last revocation lists; nothing about users",
    "ca/next": "a change of these files that is under way; nothing about users",
    "server/server.pem": "the server's certificate; nothing about users",
    "server/server.key": "the server's key; it opens no message and no key of a user",
    "server/log.key": "the key that signs the checkpoints of the key log",
    "server/address": "where the server listens",
    "server/directory.db": "all that is above",
    "server/directory.db-wal": "changes of directory.db on their way into it",
    "server/directory.db-shm": "an index of these changes",
    "server/mail.db": "what waits for users who are away",
    "server/mail.db-wal": "changes of mail.db on their way into it",
    "server/mail.db-shm": "an index of these changes",
    "server/mail.before-*.db": "a copy of mail.db, with what it held, from before an upgrade",
    "server/directory.before-*.db": "a copy of directory.db, with what it held, from before an upgrade",
    "server.toml": "the settings",
}
"""Path in a home (a pattern, as of `fnmatch`) → what lies there."""
IN_MEMORY: Final = (
    "the network address, the random number of the device, the keys of the connection",
    "idle, ringing, calling or in a chat, and with whom",
    "messages that the peer has not taken yet: at most 1 MiB, encrypted between the two, padded",
    "which of the messages that wait are on their way to the user's device",
    "how much was asked and how often called lately, which stays until others push it out or the server ends",
    "the address of a good login, for a day, and no name with it",
)
NEVER: Final = (
    "private keys, passphrases, keys of a chat, what is written in one",
    "who has talked to whom, and when, but for messages that wait; when and from where somebody was logged in",
    "whose key a user remembers or has verified, safety numbers, what was backed up",
)


def rows_about(database: sqlite3.Connection, table: str, name: str) -> Iterator[list[tuple[str, str, str]]]:
    """The rows of a table that belong to `name`: (column, value, what it says). `sqlite3.Error`.

    Of one of `TABLES` in the directory, or of `MAIL_TABLES` in mail.db.
    """
    row = TABLES.get(table) or MAIL_TABLES[table]
    columns = row.columns
    if table in TABLES:
        database.execute("CREATE TEMP TABLE IF NOT EXISTS keys_of_user (key_id BLOB)")
        database.execute("DELETE FROM temp.keys_of_user")
        database.executemany("INSERT INTO temp.keys_of_user VALUES (?)", [(key,) for key in _keys_of(database, name)])
    asked = f"SELECT {', '.join(columns)} FROM {table} WHERE {row.which}"  # noqa: S608 - words of ours
    for row in database.execute(asked, {"name": fold(name)}):
        yield [(column, _shown(column, value), columns[column]) for column, value in zip(columns, row, strict=True)]


def _keys_of(database: sqlite3.Connection, name: str) -> set[bytes]:
    """Every key that ever counted for the name."""
    found = set()
    for (leaf,) in database.execute("SELECT leaf FROM log_leaves WHERE folded = ?", (fold(name),)):
        try:
            found.add(Leaf.parse_untrusted(leaf).key_id)
        except Malformed:
            continue  # shown as damaged, in its own row
    return found


def _shown(column: str, value: Any) -> str:
    if value is None:
        return "–"
    if column.endswith("_ms"):
        return f"{datetime.fromtimestamp(value / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return _FORMS.get(column, str)(value)


def _leaf(value: bytes) -> str:
    try:
        leaf = Leaf.parse_untrusted(value)
    except Malformed:
        return f"damaged, {len(value)} bytes"
    kind = {0: "enrolled" if leaf.previous is None else "changed, signed by the old key", 1: "reset", 2: "revoked"}
    return f"version {leaf.version}, {_shown('_ms', leaf.ms)}, {kind[leaf.flags]}, {key_fingerprint(leaf.key_id)}"


_FORMS: Final[dict[str, Callable[[Any], str]]] = {
    "bundle": lambda value: f"{len(value)} bytes, {key_fingerprint(key_id_of(value))}",
    "key_id": key_fingerprint,
    "leaf": _leaf,
    "id": lambda value: str(value.hex() if isinstance(value, bytes) else value),
    "device": lambda value: str(value.hex()),
    "prekey": lambda value: f"{len(value)} bytes",
    "blob": lambda value: f"{len(value)} bytes",
    "key": lambda value: f"{len(value)} bytes",  # who reads it could join
    "log": lambda value: value or "–",
}
