"""`messageapp admin knows`: whatever the server keeps has its words, and is shown to the owner who asks."""

from __future__ import annotations

import fnmatch
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from messageapp.server.keylog import open_log
from messageapp.server.setup import prepare_server
from messageapp.store.blocks import add_block
from messageapp.store.database import open_database
from messageapp.store.home import Home
from messageapp.store.invites import create_invite
from messageapp.store.knowledge import FILES, MAIL_TABLES, NOBODYS, TABLES
from messageapp.store.mailbox import add_mail, open_mailbox
from messageapp.store.prekeys import StoredPrekey, add_prekeys
from messageapp.store.users import add_user, find_holder, remove_user, reset_user
from messageapp_cli.invite import write_address
from messageapp_cli.main import main
from messageapp_keys.fingerprint import key_fingerprint
from messageapp_keys.joincode import derive_invite
from support.world import identity

OLD, NEW = identity("alice").bundle, identity("alice, anew").bundle


@pytest.fixture
def database(home: Home) -> Iterator[sqlite3.Connection]:
    with closing(open_database(home.directory, "server")) as found:
        yield found


def columns_of(database: sqlite3.Connection) -> dict[str, list[str]]:
    return {
        table: [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
        for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    }


def test_every_table_and_column_has_its_words(database: sqlite3.Connection) -> None:
    there = columns_of(database)
    assert {table: sorted(columns) for table, columns in there.items() if table not in NOBODYS} == {
        table: sorted(row.columns) for table, row in TABLES.items()
    }
    assert set(NOBODYS) <= set(there)


def test_every_table_and_column_of_the_mailbox_has_its_words(home: Home) -> None:
    with closing(open_mailbox(home.mail)) as database:
        assert {table: sorted(columns) for table, columns in columns_of(database).items()} == {
            table: sorted(row.columns) for table, row in MAIL_TABLES.items()
        }


def test_every_file_of_a_server_has_its_words(home: Home) -> None:
    offer, _ = prepare_server(home, ["chat.example"], datetime.now(UTC))
    with closing(open_database(home.directory, "server")) as database, closing(open_mailbox(home.mail)):
        open_log(home, database, offer)
        write_address(home, "chat.example", 8081)
        home.server_settings.write_text("")
        files = [str(path.relative_to(home.path)) for path in home.path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [file for file in files if not any(fnmatch.fnmatch(file, place) for place in FILES)] == []


def test_every_file_that_a_home_names_for_a_server_has_its_words(home: Home) -> None:
    """Also what is made later."""
    named = [
        str(path.relative_to(home.path))
        for name in vars(Home)
        if isinstance(getattr(Home, name), property) and isinstance(path := getattr(home, name), Path)
    ]
    assert "server/directory.db" in named
    assert [file for file in named if not any(fnmatch.fnmatch(file, place) for place in FILES)] == []


def ask(home: Home, capsys: pytest.CaptureFixture[str], name: str = "alice") -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught:
        main(["admin", "knows", name, "--home", str(home.path)])
    captured = capsys.readouterr()
    return caught.value.code, captured.out + captured.err


def test_all_that_is_known_is_shown(
    home: Home, database: sqlite3.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    add_user(database, "Alice", OLD, 1_767_268_800_000)
    add_user(database, "bob", identity("bob").bundle, 2)
    add_user(database, "carol", identity("carol").bundle, 3)
    reset_user(database, "alice", NEW, 4)
    add_block(database, "alice", "bob", 5)
    add_block(database, "carol", "alice", 6)
    add_block(database, "carol", "bob", 7)
    invite, key = derive_invite(create_invite(database, "ALICE", 8, 1000, reset=True))
    code, out = ask(home, capsys)
    assert code == 0
    known, _, rest = out.partition("Tables without anything of a single user:")
    for shown in ("Alice", "2026-01-01 12:00:00 UTC", key_fingerprint(OLD.key_id), key_fingerprint(NEW.key_id)):
        assert shown in known
    assert "version 1, 2026-01-01 12:00:00 UTC, enrolled" in known
    assert "version 2, 1970-01-01 00:00:00 UTC, reset" in known
    assert known.count("(who blocks)") == 2
    assert invite.hex() in known
    assert key.expose().hex() not in out, "who reads this cannot join"
    assert key_fingerprint(identity("bob").bundle.key_id) not in out
    assert "server/directory.db: " in rest
    assert "Never on the server:" in rest
    for row in TABLES.values():
        for words in row.columns.values():
            assert f"({words})" in known


def test_what_waits_for_a_user_and_of_one_is_shown(
    home: Home, database: sqlite3.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("alice", "bob", "carol"):
        add_user(database, name, identity(name).bundle, 1)
    with closing(open_mailbox(home.mail)) as mail:
        for sender, to, number in (("alice", "bob", 1), ("carol", "alice", 2), ("carol", "bob", 3)):
            holder = find_holder(database, to)
            assert holder is not None
            add_mail(mail, holder, sender, bytes([number]) * 16, b"sealed" * number, 1000, most=9, most_bytes=999)
        holder = find_holder(database, "alice")
        assert holder is not None
        add_prekeys(mail, holder, b"d" * 16, [StoredPrekey(7, 1, 1_767_268_800_000, b"prekey")], 1, 9)
    code, out = ask(home, capsys)
    assert code == 0
    _, _, shown = out.partition(f"in {home.mail}:")
    shown, _, _ = shown.partition("Tables without")
    for there in "01" * 16, "02" * 16, "6 bytes", "12 bytes", "2026-01-01 12:00:00 UTC", "64" * 16:
        assert there in shown
    assert "03" * 16 not in shown, "which is between two others"
    assert key_fingerprint(identity("alice").bundle.key_id) in shown
    for row in MAIL_TABLES.values():
        for words in row.columns.values():
            assert f"({words})" in shown


def test_who_was_removed_is_still_in_the_log(
    home: Home, database: sqlite3.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    add_user(database, "alice", OLD, 1)
    remove_user(database, "alice", 2)
    code, out = ask(home, capsys)
    assert code == 0
    assert "users: the directory – nothing" in out
    assert "version 2" in out
    assert f"{len(OLD.encode())} bytes, {key_fingerprint(OLD.key_id)}" in out


def test_damage_is_shown_and_not_run_into(
    home: Home, database: sqlite3.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    add_user(database, "alice", OLD, 1)
    database.execute("UPDATE log_leaves SET leaf = x'00'")
    code, out = ask(home, capsys)
    assert code == 0
    assert "damaged, 1 bytes" in out


def test_a_home_without_a_server(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = ask(home, capsys)
    assert code == 2
    assert "there is no server in" in out
    assert not home.path.exists()
