"""The server's directory of users, for the commands of its owner: changes count at once, also while the server runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["open_directory"]


@contextmanager
def open_directory(home: Any) -> Iterator[Any]:
    """The database, closed with the block. `UnusableSetup`."""
    from messageapp.store.database import open_database

    database = open_database(home.directory, "server")
    try:
        yield database
    finally:
        database.close()
