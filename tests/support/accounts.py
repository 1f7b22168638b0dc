"""An account's database through each of the two libraries that the store works on."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import apsw

from messageapp.store.database import Database, apply_schemas, open_database, schemas
from messageapp.store.sealed import SealedDatabase, open_sealed
from messageapp_keys.databasekey import DatabaseKey

__all__ = ["KINDS", "in_memory", "open_kind", "readable"]

KINDS: Final = ("plain", "sealed")


def open_kind(kind: str, path: Path) -> Database:
    """`plain` is the standard library's SQLite, `sealed` the encrypted one that users have."""
    return open_database(path, "account") if kind == "plain" else open_sealed(path, "account", DatabaseKey(bytes(32)))


def in_memory(kind: str) -> Database:
    database: Database
    if kind == "plain":
        database = sqlite3.connect(":memory:", isolation_level=None)
    else:
        database = SealedDatabase(apsw.Connection(":memory:"))
    apply_schemas(database, schemas("account"))
    return database


def readable(path: Path) -> Database:
    """A file as users have it, but not encrypted: to see what is left in it."""
    database = SealedDatabase(apsw.Connection(str(path)))
    database.execute("PRAGMA journal_mode = WAL")
    apply_schemas(database, schemas("account"))
    return database
