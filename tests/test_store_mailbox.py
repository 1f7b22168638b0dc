"""What a server keeps for users who are away, where a running server cannot be brought to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from messageapp.errors import UnusableSetup
from messageapp.store.database import open_database
from messageapp.store.mailbox import (
    add_mail,
    expire_mail,
    forget_blocked,
    keep_only,
    next_mail,
    open_mailbox,
    users_kept,
)
from messageapp.store.prekeys import StoredPrekey, add_prekeys, prekeys_left
from messageapp.store.users import Holder

BOB = Holder("Bob", b"k" * 32, b"bundle", 5)
DEVICE = b"d" * 16


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_mailbox(tmp_path / "mail.db")) as found:
        add_prekeys(found, BOB, DEVICE, [StoredPrekey(1, 1, 100, b"prekey")], 1, 9)
        yield found


def add(database: sqlite3.Connection, number: int, *, blocked: bool = False) -> int:
    identifier = bytes([number]) * 16
    return add_mail(database, BOB, "Al", identifier, b"sealed", number, most=9, most_bytes=99, blocked=blocked)


def test_the_end_of_a_block_takes_nothing_that_came_since(database: sqlite3.Connection) -> None:
    add(database, 1, blocked=True)
    add(database, 2)
    forget_blocked(database, "bob", "AL")
    assert database.execute("SELECT seq FROM mail").fetchall() == [(2,)]


def test_a_tidy_keeps_what_belongs_to_who_has_the_name(database: sqlite3.Connection) -> None:
    add(database, 1)
    keep_only(database, BOB)
    assert (prekeys_left(database, BOB, 1).one_time, next_mail(database, BOB, DEVICE, 0, 9, 99)) != (0, None)
    keep_only(database, Holder("Bob", b"other" * 6 + b"..", b"bundle", 5))
    assert prekeys_left(database, BOB, 1).one_time == 0
    assert next_mail(database, BOB, DEVICE, 0, 9, 99) is not None
    keep_only(database, Holder("Bob", b"k" * 32, b"bundle", 6))
    assert users_kept(database) == []
    assert database.execute("SELECT count(*) FROM mail").fetchone() == (0,)


def test_so_many_expire_at_a_time_the_oldest_first(database: sqlite3.Connection) -> None:
    for number in (1, 2, 3, 4):
        add(database, number)
    assert expire_mail(database, 4, 2) == 2
    assert database.execute("SELECT seq FROM mail").fetchall() == [(3,), (4,)]
    assert [expire_mail(database, 4, 2) for _ in range(2)] == [1, 0]


def test_a_file_that_is_none_or_of_a_newer_version_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "none.db").write_bytes(b"no database" * 100)
    with pytest.raises(UnusableSetup, match=r"none\.db"):
        open_mailbox(tmp_path / "none.db")
    with closing(open_database(tmp_path / "newer.db", "mail")) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(UnusableSetup, match="newer"):
        open_mailbox(tmp_path / "newer.db")


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    open_mailbox(tmp_path / "mail.db").close()
    assert (tmp_path / "mail.db").stat().st_mode & 0o777 == 0o600
