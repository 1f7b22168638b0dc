"""SQLite files with numbered schemas: `schema/<kind>-<n>.sql`, each applied once, in order, in one transaction.

Before an upgrade of an existing file a copy is left beside it. A file of a newer version is refused, never touched.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

from messageapp.errors import UnusableSetup

from .home import make_folder

__all__ = ["newest_schema", "open_database", "stored"]

_BUSY_SECONDS: Final = 5.0
_SCHEMA: Final = re.compile(r"(?P<kind>[a-z]+)-(?P<number>\d+)\.sql")


@contextmanager
def stored(what: str) -> Iterator[None]:
    """`UnusableSetup` for what SQLite cannot do: a full disk, a file that is locked, damaged or not ours to write."""
    try:
        yield
    except sqlite3.Error as error:
        raise UnusableSetup(f"cannot use {what}: {error}") from None


def _schemas(kind: str) -> list[str]:
    """The scripts of `kind`, number 1 first."""
    found = {}
    for entry in resources.files(__package__).joinpath("schema").iterdir():
        match = _SCHEMA.fullmatch(entry.name)
        if match and match["kind"] == kind:
            found[int(match["number"])] = entry.read_text("utf-8")
    return [found[number] for number in sorted(found)]


def newest_schema(kind: str) -> int:
    """The version that `open_database` brings a file to."""
    return len(_schemas(kind))


def open_database(path: Path, kind: str) -> sqlite3.Connection:
    """An open connection in autocommit mode, its schema current. `UnusableSetup` for a file that is not ours to use."""
    make_folder(path.parent)
    scripts = _schemas(kind)
    try:
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            _upgrade(database, path, kind, scripts)
        except BaseException:
            database.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise UnusableSetup(f"cannot use {path}: {str(error).lower()}") from None
    return database


def _upgrade(database: sqlite3.Connection, path: Path, kind: str, scripts: list[str]) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise UnusableSetup(f"{path} was written by a newer MessageApp; it is left as it is")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    if version == len(scripts):
        return
    if version:
        before = path.with_suffix(f".before-{version + 1}.db")
        os.close(os.open(before, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(before)) as copy:
            database.backup(copy)
    database.execute("BEGIN IMMEDIATE")
    (version,) = database.execute("PRAGMA user_version").fetchone()  # another process may have been first
    for number, script in enumerate(scripts[version:], version + 1):
        for statement in script.split(";\n"):
            if statement.strip():
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {number}")
    database.execute("COMMIT")
