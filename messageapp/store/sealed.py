"""An encrypted database: `open_sealed` is to an account on disk what `open_database` is to a file in the open.

SQLite3 Multiple Ciphers encrypts page by page (ChaCha20-Poly1305), the write-ahead log too, so that full-text search
works and nothing readable reaches the disk (protocol §15.2). The file is made beside its place and linked there when it
is whole: one that is there and cannot be read is damaged, never new.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import apsw

from messageapp.errors import UnusableSetup
from messageapp_keys.databasekey import DatabaseKey

from .database import BUSY_SECONDS, Database, bring_up_to_date, schemas, transaction
from .home import make_folder, sync_folder

__all__ = ["SealedDatabase", "copy_rows", "create_sealed", "open_sealed"]

_SMALLEST: Final = 512  # bytes: the least that a page of SQLite has
_OPENING: Final = (
    "PRAGMA temp_store = MEMORY",  # a sort that does not fit would be written in the open
    "PRAGMA secure_delete = ON",
)
_CHANGES: Final = ("INSERT", "UPDATE", "DELETE", "REPLACE")  # as of sqlite3, only these have a row count
_KINDS: Final[tuple[tuple[type[apsw.Error], type[sqlite3.Error]], ...]] = (
    (apsw.ConstraintError, sqlite3.IntegrityError),
    (apsw.BindingsError, sqlite3.ProgrammingError),
    (apsw.NotADBError, sqlite3.DatabaseError),
    (apsw.CorruptError, sqlite3.DatabaseError),
)


@contextmanager
def _as_sqlite3() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        kind = next((theirs for ours, theirs in _KINDS if isinstance(error, ours)), sqlite3.OperationalError)
        raise kind(str(error)) from None


class _Found:
    """What a statement came to: every row, read before this is there."""

    def __init__(self, rows: list[Any], rowcount: int, lastrowid: int | None) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount
        self.lastrowid = lastrowid

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class SealedDatabase:
    """A `Database` over an encrypted file."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, parameters: Any = (), /) -> _Found:
        with _as_sqlite3():
            rows = self._connection.execute(sql, parameters).fetchall()
        changed = sql.lstrip()[:7].upper().startswith(_CHANGES)
        return _Found(rows, self._connection.changes() if changed else -1, self._connection.last_insert_rowid())

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> _Found:
        before = self._connection.total_changes()
        with _as_sqlite3():
            self._connection.executemany(sql, parameters).fetchall()
        return _Found([], self._connection.total_changes() - before, None)

    def close(self) -> None:
        with _as_sqlite3():
            self._connection.close()


def open_sealed(path: Path, kind: str, key: DatabaseKey) -> SealedDatabase:
    """An open database in autocommit mode, its schema current; made where there is none.

    `UnusableSetup`, and the file stays as it is, for one that is damaged, cut short, under another key or of a newer
    version. What is damaged further in is found when it is read: `sqlite3.DatabaseError` there.
    """
    if not path.exists():
        create_sealed(path, kind, key, lambda database: None)
    with _usable(path):
        if path.stat().st_size < _SMALLEST:
            raise sqlite3.DatabaseError("it is cut short")  # SQLite would begin a new one in it
        return _open(path, kind, key)


def create_sealed(path: Path, kind: str, key: DatabaseKey, fill: Callable[[Database], None]) -> None:
    """A new file, with what `fill` puts into its tables; complete or absent. One that is there stays."""
    make_folder(path.parent)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with _usable(path):
        try:
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            database = _open(new, kind, key)
            try:
                with transaction(database):
                    fill(database)
            finally:
                database.close()  # the last connection takes the write-ahead log away
            with suppress(FileExistsError):  # another process was first
                os.link(new, path)
            sync_folder(path.parent)
        finally:
            for end in ("", "-wal", "-shm"):
                Path(f"{new}{end}").unlink(missing_ok=True)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise UnusableSetup(f"cannot use {path}: {str(error).lower()}") from None
        raise UnusableSetup(
            f"cannot use {path}: it is damaged, or it was encrypted under another key ({str(error).lower()}). It is "
            "left as it is; put back the account.key that belongs to it, or restore a backup"
        ) from None
    except (OSError, sqlite3.Error) as error:
        raise UnusableSetup(f"cannot use {path}: {str(error).lower()}") from None


def _open(path: Path, kind: str, key: DatabaseKey) -> SealedDatabase:
    with _as_sqlite3():
        connection = apsw.Connection(str(path))
    database = SealedDatabase(connection)
    try:
        connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
        database.execute("PRAGMA cipher = 'chacha20'")
        database.execute(f"PRAGMA key = 'raw:{key.expose().hex()}'")
        for pragma in _OPENING:
            database.execute(pragma)
        database.execute("SELECT count(*) FROM sqlite_schema")  # the first page tells whether it is the right key
        bring_up_to_date(database, path, schemas(kind))
    except BaseException:
        database.close()
        raise
    return database


def copy_rows(source: Database, target: Database, without: frozenset[str] = frozenset()) -> None:
    """Every row of every table but `without`, into the same tables of an empty database of the same schema."""
    listed = source.execute("SELECT name, type FROM pragma_table_list WHERE schema = 'main'").fetchall()
    tables = {name for name, kind in listed if kind == "table" and not name.startswith("sqlite_")} - without
    for table in sorted(tables):
        rows = source.execute(f"SELECT * FROM {table}")  # noqa: S608 - names of our own schema
        columns = len(source.execute(f"SELECT * FROM pragma_table_info('{table}')").fetchall())  # noqa: S608
        target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", rows)  # noqa: S608
    for name, number in source.execute("SELECT name, seq FROM sqlite_sequence").fetchall():  # never used twice
        target.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        target.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, number))
    for name, kind in listed:
        if kind == "virtual":  # of full-text search, made anew from the table that it is about
            target.execute(f"INSERT INTO {name} ({name}) VALUES ('rebuild')")  # noqa: S608
