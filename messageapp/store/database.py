"""SQLite files with numbered schemas: `schema/<kind>-<n>.sql`, each applied once, in order, in one transaction.

Before an upgrade of an existing file a copy is left beside it. A file of a newer version is refused, never touched.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final, Protocol

from messageapp.errors import CannotStore, UnusableSetup

from .home import make_folder

__all__ = [
    "BUSY_SECONDS",
    "Database",
    "Rows",
    "apply_schemas",
    "bring_up_to_date",
    "check_version",
    "newest_schema",
    "open_database",
    "schemas",
    "stored",
    "transaction",
]

BUSY_SECONDS: Final = 5.0
_SCHEMA: Final = re.compile(r"(?P<kind>[a-z]+)-(?P<number>\d+)\.sql")
_DURABLE: Final = "PRAGMA synchronous = FULL"  # what is committed outlives a loss of power
_DAMAGED: Final = "; the file is damaged: put back a copy of it, or move it away"
_PASSES: Final = ("disk is full", "disk i/o error", "is locked")  # SQLITE_FULL, SQLITE_IOERR, SQLITE_BUSY


class Rows(Protocol):
    """What a statement found."""

    @property
    def rowcount(self) -> int: ...
    @property
    def lastrowid(self) -> int | None: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """An open file in autocommit mode: SQLite's own (`open_database`), or an encrypted one.

    Both raise `sqlite3.Error`.
    """

    @property
    def in_transaction(self) -> bool: ...
    def execute(self, sql: str, parameters: Any = (), /) -> Rows: ...
    def executemany(self, sql: str, parameters: Any, /) -> Rows: ...
    def close(self) -> None: ...


@contextmanager
def stored(what: str) -> Iterator[None]:
    """`UnusableSetup` for what SQLite cannot do: a file that is damaged or not ours to write; `CannotStore` where that
    may pass: a full disk, a file that is locked."""
    try:
        yield
    except sqlite3.Error as error:
        kind = CannotStore if any(words in str(error).lower() for words in _PASSES) else UnusableSetup
        advice = _DAMAGED if "malformed" in str(error) else ""
        raise kind(f"cannot use {what}: {error}{advice}") from None


@contextmanager
def transaction(database: Database) -> Iterator[None]:
    """All or nothing, also against other processes; within one that is open already a part of that one.

    Nothing inside may wait. `UnusableSetup`.
    """
    with stored("the account's database"):
        if database.in_transaction:
            yield
            return
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # a full disk has ended it already
                database.execute("ROLLBACK")
            raise


def schemas(kind: str) -> list[str]:
    """The scripts of `kind`, number 1 first."""
    found = {}
    for entry in resources.files(__package__).joinpath("schema").iterdir():
        match = _SCHEMA.fullmatch(entry.name)
        if match and match["kind"] == kind:
            found[int(match["number"])] = entry.read_text("utf-8")
    return [found[number] for number in sorted(found)]


def newest_schema(kind: str) -> int:
    """The version that `open_database` brings a file to."""
    return len(schemas(kind))


def open_database(path: Path, kind: str, *, any_thread: bool = False) -> sqlite3.Connection:
    """An open connection in autocommit mode, its schema current. `UnusableSetup` for a file that is not ours to use.

    With `any_thread` it may go from thread to thread, one at a time.
    """
    make_folder(path.parent)
    scripts = schemas(kind)
    try:
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=not any_thread)
        try:
            bring_up_to_date(database, path, scripts)
        except BaseException:
            database.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise UnusableSetup(f"cannot use {path}: {str(error).lower()}") from None
    return database


def bring_up_to_date(database: Database, path: Path, scripts: list[str]) -> None:
    """Make the schema the newest, in one transaction; of an older file a copy is left beside it, encrypted if that is.

    `UnusableSetup` for a newer one, which is not touched. `sqlite3.Error`, `OSError`.
    """
    check_version(database, path, scripts)
    version = _version(database)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(_DURABLE)
    if version == len(scripts):
        return
    if version:
        before = path.with_suffix(f".before-{version + 1}.db")
        copy = before.with_name(f".{before.name}.{secrets.token_hex(8)}")
        os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            database.execute("VACUUM INTO ?", (str(copy),))
            os.replace(copy, before)
        finally:
            copy.unlink(missing_ok=True)
    apply_schemas(database, scripts)


def check_version(database: Database, path: Path, scripts: list[str]) -> None:
    """`UnusableSetup` where a newer MessageApp has written what `path` holds."""
    if _version(database) > len(scripts):
        raise UnusableSetup(f"{path} was written by a newer MessageApp; it is left as it is")


def apply_schemas(database: Database, scripts: list[str]) -> None:
    """Those that come after the version it has, in one transaction. `sqlite3.Error`."""
    database.execute("BEGIN IMMEDIATE")
    version = _version(database)  # another process may have been first
    for number, script in enumerate(scripts[version:], version + 1):
        for statement in script.split(";\n"):
            if statement.strip():
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {number}")
    database.execute("COMMIT")


def _version(database: Database) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)
