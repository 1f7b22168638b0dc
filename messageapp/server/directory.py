"""The enrolled users as the running server sees them, changes by other processes included."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from messageapp.errors import MessageAppError, UnusableSetup
from messageapp.store.database import open_database
from messageapp.store.users import Holder, data_version, find_encoded, find_holder
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle

__all__ = ["Directory", "DirectoryUnreadable", "SqliteDirectory", "Writer", "open_writer", "reading"]

T = TypeVar("T")


class DirectoryUnreadable(MessageAppError):
    """the directory of users cannot be read"""


@contextmanager
def reading() -> Iterator[None]:
    """`DirectoryUnreadable` for what SQLite cannot read, and for what was stored and is damaged."""
    try:
        yield
    except (sqlite3.Error, UnusableSetup):
        raise DirectoryUnreadable from None


class Directory(Protocol):
    """Who is enrolled."""

    def find(self, name: str) -> IdentityBundle | None:
        """The bundle of exactly this spelling, or None; its keys may be unread. Raises `DirectoryUnreadable`."""
        ...

    def encoded(self, name: str) -> bytes | None:
        """The bytes of that bundle, unread: cheaper, where they are only compared. Raises `DirectoryUnreadable`."""
        ...

    def holder(self, name: str) -> Holder | None:
        """Who has this name, in any spelling, and a key that counts. Raises `DirectoryUnreadable`."""
        ...

    def changed(self) -> bool:
        """True where others have changed it since `acknowledge`. Raises `DirectoryUnreadable`."""
        ...

    def acknowledge(self) -> None:
        """The changes so far were dealt with."""
        ...


class SqliteDirectory:
    """Reads the file at each login (some µs), so that `user add` and `user remove` count at once."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._seen = self._known = data_version(database)

    def find(self, name: str) -> IdentityBundle | None:
        encoded = self.encoded(name)
        try:
            return None if encoded is None else IdentityBundle.read_untrusted(encoded)
        except Malformed:
            return None  # a damaged row lets nobody in

    def encoded(self, name: str) -> bytes | None:
        try:
            return find_encoded(self._database, name)
        except sqlite3.Error:
            raise DirectoryUnreadable from None

    def holder(self, name: str) -> Holder | None:
        with reading():
            return find_holder(self._database, name)

    def changed(self) -> bool:
        try:
            self._seen = data_version(self._database)
        except sqlite3.Error:
            raise DirectoryUnreadable from None
        return self._seen != self._known

    def acknowledge(self) -> None:
        self._known = self._seen


class Writer(Protocol):
    """How the running server changes the file."""

    async def __call__(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """`act` on a connection that is its own until it returns; raises what `act` raises, or `UnusableSetup`."""
        ...


def open_writer(path: Path) -> Writer:
    """In a thread, each time with a connection of its own.

    A commit waits for the disk, and for as long as another process writes (up to 5 s): not for the loop that relays.
    What changed shows as a change by another process does, `Directory.changed`. Cancelling waits for the commit.
    """

    async def write(act: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with closing(open_database(path, "server")) as database:
                return act(database)

        return await trio.to_thread.run_sync(run)

    return write
