"""The encrypted database: as any other to its users, and nothing to whoever has the file but not the key."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from messageapp.errors import UnusableSetup
from messageapp.store import sealed as module
from messageapp.store.database import Database, open_database, stored, transaction
from messageapp.store.sealed import _SMALLEST, SealedDatabase, copy_rows, create_sealed, open_sealed
from messageapp_keys.databasekey import DatabaseKey

ROOT = Path(__file__).parents[1]
KEY = DatabaseKey(bytes(range(32)))
OTHER = DatabaseKey(bytes(32))
TEXT = "the meeting is at the old mill"
TABLE = "CREATE TABLE t (x INTEGER NOT NULL UNIQUE, y TEXT) STRICT;\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts" / "alice" / "account.db"


@pytest.fixture(params=["open", "sealed"])
def database(request: pytest.FixtureRequest, path: Path) -> Iterator[Database]:
    """Either kind: what one does, the other does."""
    opened: Database = open_database(path, "account") if request.param == "open" else open_sealed(path, "account", KEY)
    with closing(opened):
        opened.execute("CREATE TABLE t (x INTEGER NOT NULL UNIQUE, y TEXT) STRICT")
        yield opened


@pytest.mark.usefixtures("durable")
def test_it_is_set_up_like_the_other(database: Database) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "user_version": 3}
    assert {name: database.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted} == wanted


def test_nothing_goes_to_temporary_files_and_nothing_deleted_stays(path: Path) -> None:
    with closing(open_sealed(path, "account", KEY)) as database:
        assert database.execute("PRAGMA temp_store").fetchone() == (2,)
        assert database.execute("PRAGMA secure_delete").fetchone() == (1,)
        assert database.execute("PRAGMA cipher").fetchone() == ("chacha20",)


def test_rows_counts_and_errors(database: Database) -> None:
    inserted = database.execute("INSERT INTO t VALUES (?, ?)", (1, TEXT))
    assert (inserted.rowcount, inserted.lastrowid) == (1, 1)
    assert database.execute("INSERT OR IGNORE INTO t VALUES (1, 'again')").rowcount == 0
    assert database.executemany("INSERT INTO t VALUES (?, ?)", ((n, None) for n in (2, 3, 4))).rowcount == 3
    assert database.execute("UPDATE t SET y = :y WHERE x > :x", {"x": 2, "y": "late"}).rowcount == 2
    assert database.execute("SELECT x FROM t").rowcount == -1
    assert database.execute("PRAGMA user_version").rowcount == -1
    found = database.execute("SELECT x, y FROM t ORDER BY x")
    assert found.fetchone() == (1, TEXT)
    assert list(found) == [(2, None), (3, "late"), (4, "late")]
    assert found.fetchone() is None
    assert database.execute("DELETE FROM t WHERE x > 1 RETURNING x").fetchall() == [(2,), (3,), (4,)]
    for statement, parameters, error in (
        ("INSERT INTO t VALUES (1, NULL)", (), sqlite3.IntegrityError),
        ("INSERT INTO t VALUES ('one', NULL)", (), sqlite3.IntegrityError),
        ("SELECT * FROM nowhere", (), sqlite3.OperationalError),
        ("SELECT ?", (1, 2), sqlite3.ProgrammingError),
    ):
        with pytest.raises(error):
            database.execute(statement, parameters)
    with pytest.raises(sqlite3.IntegrityError):
        database.executemany("INSERT INTO t VALUES (?, NULL)", [(7,), (7,)])
    with pytest.raises(UnusableSetup, match="cannot use the file: no such table: nowhere"), stored("the file"):
        database.execute("SELECT * FROM nowhere")


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    with suppress(ZeroDivisionError), transaction(database):
        assert database.in_transaction
        database.execute("INSERT INTO t VALUES (1, 'x')")
        raise ZeroDivisionError
    assert not database.in_transaction
    with transaction(database), transaction(database):
        database.execute("INSERT INTO t VALUES (2, 'x')")
    assert database.execute("SELECT x FROM t").fetchall() == [(2,)]


def test_a_locked_file_is_our_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    with closing(open_sealed(path, "account", KEY)) as one, closing(open_sealed(path, "account", KEY)) as other:
        one.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(UnusableSetup, match="cannot use the account's database: database is locked"),
            transaction(other),
        ):
            pass


def content(*folders: Path) -> bytes:
    return b"".join(file.read_bytes() for folder in folders for file in sorted(folder.iterdir()) if file.is_file())


def test_nothing_of_it_is_readable_on_disk(path: Path) -> None:
    """Also in the write-ahead log, and in a word index and a schema; and it looks like no database."""
    with closing(open_sealed(path, "account", KEY)) as database:
        for number in range(300):
            database.execute("INSERT INTO device VALUES (?)", (TEXT.encode() + number.to_bytes(4),))
        assert (path.parent / "account.db-wal").stat().st_size > 10_000
        while_open = content(path.parent)
    for data in (while_open, content(path.parent)):
        for readable in (TEXT.encode(), TEXT.encode("utf-16-le"), b"SQLite format", b"CREATE TABLE", b"conversations"):
            assert readable not in data
        assert KEY.expose() not in data
    assert [entry.name for entry in path.parent.iterdir()] == ["account.db"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def filled(path: Path) -> list[Any]:
    with closing(open_sealed(path, "account", KEY)) as database:
        rows = [(number, f"{TEXT} {number}", bytes(20)) for number in range(400)]
        database.executemany("INSERT INTO log_leaves VALUES ('a', ?, ?, ?)", rows)
        return database.execute("SELECT * FROM log_leaves ORDER BY number").fetchall()


def refused_untouched(path: Path, key: DatabaseKey = KEY, match: str = "account.db: it is damaged") -> None:
    before = path.read_bytes()
    with pytest.raises(UnusableSetup, match=match):
        open_sealed(path, "account", key)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["account.db"]


def test_another_key(path: Path) -> None:
    filled(path)
    refused_untouched(path, OTHER)
    open_sealed(path, "account", KEY).close()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 100, _SMALLEST - 1, _SMALLEST, 1024, 4095])
def test_cut_short_in_the_first_page(path: Path, size: int) -> None:
    filled(path)
    path.write_bytes(path.read_bytes()[:size])
    refused_untouched(path)


def read_all(path: Path) -> list[Any]:
    with closing(open_sealed(path, "account", KEY)) as database, stored("the file"):
        return database.execute("SELECT * FROM log_leaves ORDER BY number").fetchall()


def test_cut_short_anywhere(path: Path) -> None:
    """An error as soon as a page is missing; of half a page when that is read. Never fewer rows."""
    rows = filled(path)
    whole = path.read_bytes()
    assert read_all(path) == rows
    draw = random.Random(5)
    for size in [draw.randrange(4096, len(whole) - 4096) for _ in range(30)] + [len(whole) - 4096]:
        path.write_bytes(whole[:size])
        with pytest.raises(UnusableSetup, match="cannot use"):
            read_all(path)
        assert path.read_bytes() == whole[:size]
    path.write_bytes(whole[:-1])
    with suppress(UnusableSetup):
        assert read_all(path) == rows


def test_one_bit_flipped_anywhere(path: Path) -> None:
    """No row is ever another; a page that nobody reads may be damaged unseen until it is read."""
    rows = filled(path)
    whole = path.read_bytes()
    draw, errors = random.Random(6), 0
    for _ in range(150):
        place = draw.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert read_all(path) == rows
        except UnusableSetup:
            errors += 1
        assert path.read_bytes() == damaged
    assert errors > 20


@pytest.mark.parametrize("place", [0, 15, 16, 17, 20, 24, 100, 4000, 4095])
def test_a_bit_of_the_first_page(path: Path, place: int) -> None:
    filled(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    refused_untouched(path)


@pytest.mark.parametrize("data", [b"x" * 9000, bytes(8192), b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_none_of_ours(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    refused_untouched(path)


def test_one_in_the_open_is_not_taken_for_an_encrypted_one(path: Path) -> None:
    """Who can write the folder but has no key cannot slip in a database of his own."""
    open_database(path, "account").close()
    refused_untouched(path)


def test_a_newer_one_is_refused_and_untouched(path: Path) -> None:
    with closing(open_sealed(path, "account", KEY)) as database:
        database.execute("PRAGMA user_version = 99")
    refused_untouched(path, match="was written by a newer MessageApp; it is left as it is")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnusableSetup):
        open_sealed(tmp_path / "file" / "account.db", "account", KEY)


# upgrades and copies --------------------------------------------------------------------------------------------------


def schemas(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> None:
    monkeypatch.setattr(module, "schemas", lambda kind: list(scripts))


def test_an_upgrade_leaves_an_encrypted_copy_of_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schemas(monkeypatch, TABLE)
    with closing(open_sealed(path, "account", KEY)) as database:
        database.execute("INSERT INTO t VALUES (1, ?)", (TEXT,))
    schemas(monkeypatch, TABLE, "ALTER TABLE t ADD COLUMN z TEXT;\n", "UPDATE t SET z = 'new';\n")
    for _ in range(2):
        with closing(open_sealed(path, "account", KEY)) as database:
            assert database.execute("SELECT * FROM t").fetchall() == [(1, TEXT, "new")]
            assert database.execute("PRAGMA user_version").fetchone() == (3,)
    copy = path.parent / "account.before-2.db"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert TEXT.encode() not in content(path.parent)
    schemas(monkeypatch, TABLE)
    with closing(open_sealed(copy, "account", KEY)) as database:
        assert database.execute("SELECT * FROM t").fetchall() == [(1, TEXT)]
    refused_with = pytest.raises(UnusableSetup, match="it is damaged")
    with refused_with:
        open_sealed(copy, "account", OTHER)


def test_an_upgrade_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schemas(monkeypatch, TABLE, "INSERT INTO t VALUES (1, 'x');\n")
    open_sealed(path, "account", KEY).close()
    schemas(monkeypatch, TABLE, "", "UPDATE t SET x = 2;\nUPDATE nowhere SET x = 3;\n")
    for _ in range(2):
        with pytest.raises(UnusableSetup, match="nowhere"):
            open_sealed(path, "account", KEY)
    schemas(monkeypatch, TABLE, "")
    with closing(open_sealed(path, "account", KEY)) as database:
        assert database.execute("SELECT * FROM t").fetchall() == [(1, "x")]


def test_a_new_file_is_whole_or_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(database: Database) -> None:
        database.execute("INSERT INTO device VALUES (x'00')")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        create_sealed(path, "account", KEY, fail)
    assert list(path.parent.iterdir()) == []
    create_sealed(path, "account", KEY, lambda database: None)
    with pytest.raises(ZeroDivisionError):
        create_sealed(path, "account", KEY, fail)
    with closing(open_sealed(path, "account", KEY)) as database:  # the one that was there first
        assert database.execute("SELECT count(*) FROM device").fetchone() == (0,)


def test_every_row_of_every_table_is_copied(path: Path) -> None:
    """Also what numbers were given already, and the index of words; but for the tables that are left out."""
    with closing(open_database(path.with_name("open.db"), "account")) as source:
        source.execute("INSERT INTO device VALUES (x'01')")
        source.execute("INSERT INTO conversations (server, peer, name) VALUES ('s', 'bob', 'Bob')")
        for number in (1, 2, 3):
            source.execute(
                "INSERT INTO messages (conversation, id, own, text, written_ms, stored_ms, state, changed_ms)"
                " VALUES (1, ?, 1, ?, 5, 6, 'sent', 7)",
                (bytes([number]), f"{TEXT} {number}"),
            )
        source.execute("DELETE FROM messages WHERE number = 3")
        create_sealed(path, "account", KEY, lambda target: copy_rows(source, target, frozenset({"device"})))
        with closing(open_sealed(path, "account", KEY)) as target:
            for table in ("conversations", "messages"):
                rows = f"SELECT * FROM {table}"  # noqa: S608
                assert target.execute(rows).fetchall() == source.execute(rows).fetchall()
            assert target.execute("SELECT count(*) FROM device").fetchone() == (0,)
            assert target.execute("SELECT rowid FROM words WHERE words MATCH 'mill'").fetchall() == [(1,), (2,)]
            assert target.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchall() == [(3,)]


def test_many_processes_may_be_the_first(path: Path) -> None:
    script = (
        "import sys, pathlib; from messageapp.store.sealed import open_sealed;"
        "from messageapp_keys.databasekey import DatabaseKey;"
        "sys.stdin.readline();"
        "d = open_sealed(pathlib.Path(sys.argv[1]), 'account', DatabaseKey(bytes(range(32))));"
        "d.execute('INSERT INTO device VALUES (randomblob(16))'); d.close()"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'keys'}"}
    command = [sys.executable, "-c", script, str(path)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) for _ in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=30)
        assert child.returncode == 0, errors.decode()
    with closing(open_sealed(path, "account", KEY)) as database:
        assert database.execute("SELECT count(*) FROM device").fetchone() == (4,)
    assert [entry.name for entry in path.parent.iterdir()] == ["account.db"]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (apsw.FullError, sqlite3.OperationalError),
        (apsw.IOError, sqlite3.OperationalError),
        (apsw.CorruptError, sqlite3.DatabaseError),
        (apsw.ConstraintError, sqlite3.IntegrityError),
    ],
)
def test_every_error_is_one_of_sqlite3(make: Callable[[str], Exception], kind: type[sqlite3.Error]) -> None:
    class Failing:
        def execute(self, *ignored: object) -> None:
            raise make("disk")

    with pytest.raises(kind, match="disk"):
        SealedDatabase(Failing()).execute("SELECT 1")  # type: ignore[arg-type]
