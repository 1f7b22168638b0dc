"""The directory of users and how a running server sees it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from messageapp.errors import UnusableSetup
from messageapp.server.directory import DirectoryUnreadable, SqliteDirectory
from messageapp.store.database import open_database
from messageapp.store.users import User, add_user, find_encoded, list_users, remove_user
from messageapp_keys.codec import Malformed
from support.world import identity

ROOT = Path(__file__).parents[1]
BUNDLE = identity("alice").bundle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory.db"


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_database(path, "server")
    yield opened
    opened.close()


def test_a_user_is_found_in_exactly_the_registered_spelling(database: sqlite3.Connection) -> None:
    add_user(database, "Alice-Jones", BUNDLE, 123)
    assert find_encoded(database, "Alice-Jones") == BUNDLE.encode()
    for other in ("alice-jones", "ALICE-JONES", "Alice-jones", "Alice", "", "Alice-Jones ", "Alice-Jones\0"):
        assert find_encoded(database, other) is None


@pytest.mark.parametrize("taken", ["alice", "ALICE", "aLiCe"])
def test_names_are_unique_whatever_their_capitals(database: sqlite3.Connection, taken: str) -> None:
    add_user(database, "Alice", BUNDLE, 1)
    with pytest.raises(UnusableSetup, match="already"):
        add_user(database, taken, identity("bob").bundle, 2)
    assert list_users(database) == [User("Alice", BUNDLE, 1)]


def test_removing(database: sqlite3.Connection) -> None:
    add_user(database, "Alice", BUNDLE, 1)
    add_user(database, "bob", identity("bob").bundle, 2)
    remove_user(database, "ALICE", 9)
    assert [user.name for user in list_users(database)] == ["bob"]
    with pytest.raises(UnusableSetup, match="no user alice"):
        remove_user(database, "alice", 9)
    add_user(database, "alice", BUNDLE, 3)
    assert [user.name for user in list_users(database)] == ["alice", "bob"]


@pytest.mark.parametrize(
    "bundle",
    [b"", b"\0", b"\1\x08\x07\0\1\0", BUNDLE.encode()[:-1], BUNDLE.encode() + b"\0", os.urandom(100)],
    ids=["empty", "a byte", "no key", "cut", "a byte behind", "garbage"],
)
def test_a_damaged_row_lets_nobody_in_and_is_named(database: sqlite3.Connection, bundle: bytes) -> None:
    add_user(database, "alice", BUNDLE, 1)
    add_user(database, "bob", identity("bob").bundle, 1)
    database.execute("UPDATE users SET bundle = ? WHERE name = 'alice'", (bundle,))
    with pytest.raises(UnusableSetup, match=r"alice.*damaged"):
        list_users(database)
    directory = SqliteDirectory(database)
    found = directory.find("alice")
    if found is not None:  # its keys are looked at by the login
        with pytest.raises(Malformed):
            found.checked_untrusted()
    assert directory.find("bob") == identity("bob").bundle
    remove_user(database, "alice", 9)
    assert [user.name for user in list_users(database)] == ["bob"]


def test_the_tables_take_only_what_they_are_for(database: sqlite3.Connection) -> None:
    rows = (("a", "a", "text", 1, None), ("a", "a", b"", "long ago", None), ("a", None, b"", 1, None))
    for row in (*rows, ("a", "a", b"", 1, "now")):
        with pytest.raises(sqlite3.IntegrityError):
            database.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?)", row)


def test_a_directory_that_cannot_be_written(database: sqlite3.Connection) -> None:
    add_user(database, "alice", BUNDLE, 1)
    database.execute("PRAGMA query_only = 1")
    with pytest.raises(UnusableSetup, match="cannot write"):
        add_user(database, "bob", BUNDLE, 1)
    with pytest.raises(UnusableSetup, match="cannot write"):
        remove_user(database, "alice", 9)


def test_a_directory_that_cannot_be_read(database: sqlite3.Connection) -> None:
    directory = SqliteDirectory(database)
    database.close()
    for read in (lambda: directory.find("alice"), lambda: directory.encoded("alice"), directory.changed):
        with pytest.raises(DirectoryUnreadable):
            read()


def test_the_bytes_of_a_bundle_are_given_for_the_registered_spelling_as_they_are(
    path: Path, database: sqlite3.Connection
) -> None:
    """Also those of a damaged row, which `find` takes for nobody's."""
    directory, other = SqliteDirectory(database), open_database(path, "server")
    assert directory.encoded("Alice") is None
    add_user(other, "Alice", BUNDLE, 1)
    assert directory.encoded("Alice") == BUNDLE.encode()
    assert [directory.encoded(name) for name in ("alice", "ALICE", "bob", "")] == [None] * 4
    other.execute("UPDATE users SET bundle = x'0102'")
    assert directory.encoded("Alice") == b"\1\2"
    assert directory.find("Alice") is None
    remove_user(other, "Alice", 9)
    assert directory.encoded("Alice") is None
    other.close()


def test_a_running_server_sees_what_others_change(path: Path, database: sqlite3.Connection) -> None:
    directory = SqliteDirectory(database)
    assert not directory.changed()
    other = open_database(path, "server")
    add_user(other, "alice", BUNDLE, 1)
    assert directory.find("alice") == BUNDLE, "at once"
    assert directory.changed()
    assert directory.changed(), "until it was dealt with"
    directory.acknowledge()
    assert not directory.changed()
    remove_user(other, "alice", 9)
    assert directory.changed()
    assert directory.find("alice") is None
    other.close()


def test_a_change_between_looking_and_acknowledging_is_not_lost(path: Path, database: sqlite3.Connection) -> None:
    directory, other = SqliteDirectory(database), open_database(path, "server")
    add_user(other, "alice", BUNDLE, 1)
    assert directory.changed()
    remove_user(other, "alice", 9)
    directory.acknowledge()
    assert directory.changed()
    other.close()


def test_two_processes_add_the_same_user(path: Path, database: sqlite3.Connection) -> None:
    script = (
        "import sys, pathlib; from messageapp.store.database import open_database;"
        "from messageapp.store.users import add_user; from messageapp.errors import UnusableSetup;"
        "from messageapp_keys.identity import IdentityBundle;"
        "d = open_database(pathlib.Path(sys.argv[1]), 'server');"
        "b = IdentityBundle.parse_untrusted(bytes.fromhex(sys.argv[2])); sys.stdin.readline()\n"
        "try: add_user(d, sys.argv[3], b, 1)\n"
        "except UnusableSetup: sys.exit(2)\n"
        "finally: d.close()"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'keys'}"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), BUNDLE.encode().hex(), name],
            stdin=subprocess.PIPE,
            env=environment,
        )
        for name in ("Carol", "carol", "CAROL", "carol")
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=30)
    assert sorted(child.returncode for child in children) == [0, 2, 2, 2]
    assert [user.name.lower() for user in list_users(database)] == ["carol"]
