"""Databases: who may read them, which version they have, and two processes at once."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from messageapp.errors import UnusableSetup
from messageapp.store import database as module
from messageapp.store.database import open_database

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("kind", "version"), [("server", 2), ("account", 3), ("mail", 1)])
def test_a_new_database_is_ours_alone(tmp_path: Path, kind: str, version: int) -> None:
    path = tmp_path / "home" / "server" / "it.db"
    with closing(open_database(path, kind)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (version,)
        for entry in path.parent.iterdir():
            assert mode(entry) == 0o600, entry
        assert mode(path.parent) == mode(path.parent.parent) == 0o700


@pytest.mark.parametrize("kind", ["server", "account", "mail"])
def test_every_table_is_strict(tmp_path: Path, kind: str) -> None:
    with closing(open_database(tmp_path / "it.db", kind)) as database:
        tables = database.execute("PRAGMA table_list").fetchall()
        ours = [row for row in tables if row[2] == "table" and not row[1].startswith("sqlite_")]
        assert ours
        assert all(row[5] == 1 for row in ours)


@pytest.mark.usefixtures("durable")
def test_what_is_not_synced_is_not_promised(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "it.db", "server")) as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "it.db"
    with closing(open_database(path, "account")) as database:
        database.execute("INSERT INTO device VALUES (x'00')")
    with closing(open_database(path, "account")) as database:
        assert database.execute("SELECT count(*) FROM device").fetchone() == (1,)
    assert [entry.name for entry in tmp_path.iterdir()] == ["it.db"]


def test_a_newer_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "it.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE future (x)")
        database.execute("PRAGMA user_version = 99")
        database.commit()
    before = path.read_bytes()
    with pytest.raises(UnusableSetup, match="newer MessageApp"):
        open_database(path, "account")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["it.db"]


FIRST = "CREATE TABLE t (x INTEGER NOT NULL) STRICT;\nINSERT INTO t VALUES (1);\n"


def schemas(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> None:
    monkeypatch.setattr(module, "schemas", lambda kind: list(scripts))


def test_an_upgrade_keeps_the_rows_and_leaves_a_copy_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.db"
    schemas(monkeypatch, FIRST)
    open_database(path, "account").close()
    schemas(monkeypatch, FIRST, "ALTER TABLE t ADD COLUMN y TEXT;\n", "UPDATE t SET y = 'new';\n")
    with closing(open_database(path, "account")) as database:
        assert database.execute("SELECT * FROM t").fetchall() == [(1, "new")]
        assert database.execute("PRAGMA user_version").fetchone() == (3,)
    (copy,) = [entry for entry in tmp_path.iterdir() if "before" in entry.name]
    assert mode(copy) == 0o600
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT * FROM t").fetchall() == [(1,)]
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.db"
    schemas(monkeypatch, FIRST)
    open_database(path, "account").close()
    schemas(monkeypatch, FIRST, "UPDATE t SET x = 2;\nUPDATE nowhere SET x = 3;\n")
    for _ in range(2):
        with pytest.raises(UnusableSetup, match="nowhere"):
            open_database(path, "account")
    schemas(monkeypatch, FIRST)
    with closing(open_database(path, "account")) as database:
        assert database.execute("SELECT * FROM t").fetchall() == [(1,)]


def test_a_first_schema_that_fails_leaves_an_empty_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.db"
    schemas(monkeypatch, FIRST + "nonsense;\n")
    with pytest.raises(UnusableSetup):
        open_database(path, "account")
    schemas(monkeypatch, FIRST)
    with closing(open_database(path, "account")) as database:
        assert database.execute("SELECT * FROM t").fetchall() == [(1,)]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 20, b"\0" * 4096])
def test_a_file_that_is_none_of_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "it.db"
    path.write_bytes(content)
    with pytest.raises(UnusableSetup, match="cannot use"):
        open_database(path, "account")
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "it.db").mkdir()
    with pytest.raises(UnusableSetup):
        open_database(tmp_path / "it.db", "account")


def test_a_locked_database_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    path = tmp_path / "it.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnusableSetup, match="locked"):
            open_database(path, "account")
    open_database(path, "account").close()


def test_many_processes_may_be_the_first(tmp_path: Path) -> None:
    """All make the same new database at the same moment; each finds it whole."""
    script = (
        "import sys, pathlib; from messageapp.store.database import open_database;"
        "sys.stdin.readline();"
        "d = open_database(pathlib.Path(sys.argv[1]), 'account');"
        "d.execute('INSERT INTO device VALUES (randomblob(16))'); d.close()"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'keys'}"}
    path = tmp_path / "home" / "it.db"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for _ in range(5)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=30)
        assert child.returncode == 0, errors.decode()
    with closing(open_database(path, "account")) as database:
        assert database.execute("SELECT count(*) FROM device").fetchone() == (5,)
