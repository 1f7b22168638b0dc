"""A witness's own memory: its key, and the checkpoint of each log that it cosigned last (protocol §12.2).

It is apart from what the account knows of the log: whatever a user accepts there, a witness never cosigns two logs.
"""

from __future__ import annotations

from pathlib import Path

from messageapp.errors import UnusableSetup
from messageapp_keys.codec import Malformed
from messageapp_keys.notes import COSIGNER, LogKey

from .database import Database, stored, transaction
from .home import read_secret, write_file

__all__ = ["find_cosigned", "open_witness_key", "save_cosigned"]


def open_witness_key(path: Path, name: str) -> tuple[str, LogKey]:
    """(name, key) in the file, which is made the first time, with `name`. `UnusableSetup`.

    A key has one name, whatever log it cosigns: a line with it stands above the PEM, which tools pass over.
    """
    if not path.exists():
        key = LogKey.generate()
        try:
            key.verifier(name, COSIGNER)
        except Malformed as error:
            raise UnusableSetup(f"{name!r} cannot be the name of a witness: {error}") from None
        write_file(path, f"name: {name}\n".encode() + key.pem())
    line, _, pem = read_secret(path).partition(b"\n")
    try:
        name, key = line.decode().removeprefix("name: "), LogKey.from_pem(pem)
        key.verifier(name, COSIGNER)
    except (UnicodeDecodeError, Malformed):
        raise UnusableSetup(
            f"{path} is no key of a witness; restore it, or remove it to begin with a new one"
        ) from None
    return name, key


@stored("what was cosigned")
def find_cosigned(database: Database, server: str) -> bytes:
    """The note; empty before the first."""
    row = database.execute("SELECT note FROM cosigned WHERE server = ?", (server,)).fetchone()
    return b"" if row is None else bytes(row[0])


def save_cosigned(database: Database, server: str, before: bytes, note: bytes) -> bool:
    """On disk when this returns. False where it is no longer `before`: another process has cosigned meanwhile."""
    with transaction(database):
        if find_cosigned(database, server) != before:
            return False
        database.execute("INSERT OR REPLACE INTO cosigned VALUES (?, ?)", (server, note))
        return True
