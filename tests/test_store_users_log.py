"""Every change of a user's key is in the directory and in the key log, or in neither (protocol §12.1)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from messageapp.errors import UnusableSetup
from messageapp.store.database import open_database
from messageapp.store.keylog import LogStore
from messageapp.store.users import (
    ChangeRefused,
    NameTaken,
    NoSuchUser,
    add_user,
    adopt,
    change_key,
    enrol,
    find_bundle,
    find_encoded,
    list_users,
    remove_user,
    reset,
    reset_user,
    revoke_user,
    writing_users,
)
from messageapp_keys import labels
from messageapp_keys.identity import IdentityBundle, PrivateIdentity, Signatures
from messageapp_keys.keylog import Leaf, change_body, explain, follows
from support.world import identity

SERVER = "chat.example"
FIRST, SECOND, THIRD = (identity(name) for name in ("first", "second", "third"))
TABLES = ("users", "bundles", "log_leaves", "log_tiles")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_database(tmp_path / "directory.db", "server")
    yield opened
    opened.close()


def dump(database: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
    return [database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES]  # noqa: S608


def history(database: sqlite3.Connection, name: str = "alice") -> list[Leaf]:
    """The user's leaves, which fit one another as a client asks for it."""
    found = LogStore(database).of_user(name)
    before = None
    for number, leaf in found:
        assert follows(leaf, before)
        before = number, leaf
    return [leaf for _, leaf in found]


def signed(
    old: PrivateIdentity, new: PrivateIdentity, *, version: int = 2, user: str = "alice", server: str = SERVER
) -> tuple[Signatures, Signatures]:
    body = change_body(server, user, version, old.key_id, new.key_id)
    return old.sign(labels.SIG_KEY_CHANGE, body), new.sign(labels.SIG_NEW_KEY, body)


def change(database: sqlite3.Connection, old: PrivateIdentity, new: PrivateIdentity, version: int = 2) -> None:
    change_key(database, SERVER, "alice", old.key_id, new.bundle, *signed(old, new, version=version), 50)


def test_an_enrolment_is_a_first_leaf(database: sqlite3.Connection) -> None:
    add_user(database, "Alice", FIRST.bundle, 10)
    assert history(database) == [Leaf(10, "Alice", 1, FIRST.key_id)]
    assert find_bundle(database, FIRST.key_id) == FIRST.bundle.encode()
    assert find_bundle(database, SECOND.key_id) is None


def test_a_reset_is_the_administrators_and_says_so(database: sqlite3.Connection) -> None:
    add_user(database, "Alice", FIRST.bundle, 10)
    reset_user(database, "ALICE", SECOND.bundle, 20)
    assert history(database) == [
        Leaf(10, "Alice", 1, FIRST.key_id),
        Leaf(20, "Alice", 2, SECOND.key_id, 0, flags=1),
    ]
    assert find_encoded(database, "Alice") == SECOND.bundle.encode()
    assert find_bundle(database, FIRST.key_id) == FIRST.bundle.encode(), "kept for who follows the change"
    assert explain(FIRST.bundle, history(database)[1], SERVER) == "reset"


def test_a_revoked_key_does_not_count_and_the_name_stays_taken(database: sqlite3.Connection) -> None:
    add_user(database, "Alice", FIRST.bundle, 10)
    revoke_user(database, "alice", 20)
    assert history(database)[1] == Leaf(20, "Alice", 2, FIRST.key_id, 0, flags=2)
    assert find_encoded(database, "Alice") is None
    assert [(user.name, user.revoked_ms) for user in list_users(database)] == [("Alice", 20)]
    with pytest.raises(NameTaken):
        add_user(database, "alice", SECOND.bundle, 30)
    with pytest.raises(UnusableSetup, match="revoked already"):
        revoke_user(database, "alice", 30)
    with pytest.raises(ChangeRefused):
        change(database, FIRST, SECOND, version=3)
    assert len(history(database)) == 2
    reset_user(database, "alice", SECOND.bundle, 40)
    assert history(database)[2] == Leaf(40, "Alice", 3, SECOND.key_id, 1, flags=1)
    assert find_encoded(database, "Alice") == SECOND.bundle.encode()
    assert list_users(database)[0].revoked_ms is None


def test_a_removal_is_a_revocation_and_who_comes_back_a_reset(database: sqlite3.Connection) -> None:
    add_user(database, "Alice", FIRST.bundle, 10)
    remove_user(database, "ALICE", 20)
    assert list_users(database) == []
    assert find_encoded(database, "Alice") is None
    add_user(database, "aLiCe", FIRST.bundle, 30)
    assert history(database) == [
        Leaf(10, "Alice", 1, FIRST.key_id),
        Leaf(20, "Alice", 2, FIRST.key_id, 0, flags=2),
        Leaf(30, "aLiCe", 3, FIRST.key_id, 1, flags=1),
    ]


def test_who_is_revoked_and_then_removed_is_revoked_once(database: sqlite3.Connection) -> None:
    add_user(database, "alice", FIRST.bundle, 10)
    revoke_user(database, "alice", 20)
    remove_user(database, "alice", 30)
    assert [leaf.flags for leaf in history(database)] == [0, 2]
    assert list_users(database) == []


def test_users_of_one_log_do_not_get_mixed_up(database: sqlite3.Connection) -> None:
    add_user(database, "alice", FIRST.bundle, 10)
    add_user(database, "bob", SECOND.bundle, 20)
    reset_user(database, "alice", THIRD.bundle, 30)
    assert [leaf.previous for leaf in history(database)] == [None, 0]
    assert [(leaf.version, leaf.key_id) for leaf in history(database, "bob")] == [(1, SECOND.key_id)]
    assert LogStore(database).size == 3


@pytest.mark.parametrize("act", [reset_user, revoke_user, remove_user])
def test_nobody_is_changed(database: sqlite3.Connection, act: Callable[..., None]) -> None:
    before = dump(database)
    with pytest.raises(NoSuchUser, match="there is no user alice"):
        act(database, "alice", *([FIRST.bundle] if act is reset_user else []), 10)
    assert dump(database) == before


# the user's own change --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pq", [False, True], ids=["one key", "two keys"])
def test_a_change_is_signed_by_both_keys(database: sqlite3.Connection, pq: bool) -> None:
    old, new = (PrivateIdentity.generate("ed25519", post_quantum=pq) for _ in range(2))
    add_user(database, "alice", old.bundle, 10)
    change(database, old, new)
    first, second = history(database)
    assert second == Leaf(50, "alice", 2, new.key_id, 0, 0, signed(old, new)[0]) or pq  # ML-DSA signs at random
    assert explain(old.bundle, second, SERVER) == "signed"
    assert find_encoded(database, "alice") == new.bundle.encode()
    assert (first.key_id, second.key_id) == (old.key_id, new.key_id)
    again = PrivateIdentity.generate("ed25519")
    change(database, new, again, version=3)
    assert explain(new.bundle, history(database)[2], SERVER) == "signed"


WRONG_STEPS: dict[str, dict[str, Any]] = {
    "another version": {"version": 3},
    "the version before": {"version": 1},
    "another user": {"user": "bob"},
    "another spelling": {"user": "Alice"},
    "another server": {"server": "other.example"},
    "another old key": {"old": THIRD},
    "another new key": {"new": THIRD},
}


@pytest.mark.parametrize("wrong", WRONG_STEPS)
@pytest.mark.parametrize("side", ["old", "new"])
def test_a_signature_is_for_this_step_alone(database: sqlite3.Connection, wrong: str, side: str) -> None:
    add_user(database, "alice", FIRST.bundle, 10)
    good = signed(FIRST, SECOND)
    other = signed(**({"old": FIRST, "new": SECOND} | WRONG_STEPS[wrong]))
    before = dump(database)
    pair = (other[0], good[1]) if side == "old" else (good[0], other[1])
    with pytest.raises(ChangeRefused):
        change_key(database, SERVER, "alice", FIRST.key_id, SECOND.bundle, *pair, 50)
    assert dump(database) == before
    change_key(database, SERVER, "alice", FIRST.key_id, SECOND.bundle, *good, 50)


def test_only_the_right_keys_under_the_right_labels_sign(database: sqlite3.Connection) -> None:
    add_user(database, "alice", FIRST.bundle, 10)
    body = change_body(SERVER, "alice", 2, FIRST.key_id, SECOND.key_id)
    old, new = signed(FIRST, SECOND)
    ((algorithm, value),) = old
    flipped = ((algorithm, value[:-1] + bytes([value[-1] ^ 1])),)
    wrong: list[tuple[Signatures, Signatures]] = [
        ((), new),
        (old, ()),
        (new, old),
        (flipped, new),
        (((0x0804, value),), new),
        ((*old, *old), new),
        (SECOND.sign(labels.SIG_KEY_CHANGE, body), new),
        (FIRST.sign(labels.SIG_NEW_KEY, body), new),
        (FIRST.sign(labels.SIG_M3, body), new),
        (old, FIRST.sign(labels.SIG_NEW_KEY, body)),
        (old, SECOND.sign(labels.SIG_KEY_CHANGE, body)),
    ]
    before = dump(database)
    for pair in wrong:
        with pytest.raises(ChangeRefused):
            change_key(database, SERVER, "alice", FIRST.key_id, SECOND.bundle, *pair, 50)
    assert dump(database) == before


def test_one_of_two_signatures_is_not_enough(database: sqlite3.Connection) -> None:
    old = PrivateIdentity.generate("ed25519", post_quantum=True)
    add_user(database, "alice", old.bundle, 10)
    by_old, by_new = signed(old, SECOND)
    for part in (by_old[:1], by_old[1:], by_old[::-1]):
        with pytest.raises(ChangeRefused):
            change_key(database, SERVER, "alice", old.key_id, SECOND.bundle, part, by_new, 50)
    assert len(history(database)) == 1


def test_only_a_key_that_counts_is_changed_and_only_into_another(database: sqlite3.Connection) -> None:
    add_user(database, "alice", FIRST.bundle, 10)
    before = dump(database)
    for name, old, new in (("alice", SECOND, THIRD), ("bob", FIRST, SECOND), ("Alice", FIRST, SECOND)):
        with pytest.raises(ChangeRefused):
            change_key(database, SERVER, name, old.key_id, new.bundle, *signed(old, new, user=name), 50)
    with pytest.raises(ChangeRefused):
        change(database, FIRST, FIRST)
    assert dump(database) == before
    change(database, FIRST, SECOND)
    with pytest.raises(ChangeRefused):
        change(database, FIRST, THIRD, version=3)


def test_a_damaged_row_signs_nothing(database: sqlite3.Connection) -> None:
    add_user(database, "alice", FIRST.bundle, 10)
    damaged = IdentityBundle(((0x0807, b"no key"),))
    database.execute("UPDATE users SET bundle = ?", (damaged.encode(),))
    with pytest.raises(ChangeRefused):
        change_key(database, SERVER, "alice", damaged.key_id, SECOND.bundle, *signed(FIRST, SECOND), 50)
    reset_user(database, "alice", SECOND.bundle, 60)
    assert find_encoded(database, "alice") == SECOND.bundle.encode()


# all or nothing ---------------------------------------------------------------------------------------------------

ACTS: dict[str, Callable[[sqlite3.Connection], None]] = {
    "add": lambda database: add_user(database, "bob", SECOND.bundle, 20),
    "reset": lambda database: reset_user(database, "alice", SECOND.bundle, 20),
    "revoke": lambda database: revoke_user(database, "alice", 20),
    "remove": lambda database: remove_user(database, "alice", 20),
    "change": lambda database: change(database, FIRST, SECOND),
}
WRITES = {"add": "INSERT", "reset": "UPDATE", "revoke": "UPDATE", "remove": "DELETE", "change": "UPDATE"}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("table", TABLES)
def test_a_failure_in_the_middle_leaves_nothing(database: sqlite3.Connection, act: str, table: str) -> None:
    add_user(database, "alice", FIRST.bundle, 10)
    before = dump(database)
    when = WRITES[act] if table == "users" else "INSERT"
    database.execute(
        f"CREATE TEMP TRIGGER no BEFORE {when} ON main.{table} BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    if table == "bundles" and act in ("revoke", "remove"):  # no new key
        ACTS[act](database)
        return
    with pytest.raises(UnusableSetup, match="disk full"):
        ACTS[act](database)
    assert dump(database) == before
    assert not database.in_transaction
    database.execute("DROP TRIGGER no")
    ACTS[act](database)
    assert len(LogStore(database).of_user("alice")) + len(LogStore(database).of_user("bob")) == 2


def test_enrolments_join_the_callers_transaction(database: sqlite3.Connection) -> None:
    def three(*names: str) -> None:
        with writing_users(database):
            for name in names:
                enrol(database, name, FIRST.bundle, 10)
                add_user(database, f"{name}-2", THIRD.bundle, 30)

    before = dump(database)
    with pytest.raises(NameTaken):
        three("alice", "bob", "ALICE")
    assert dump(database) == before
    with writing_users(database):
        enrol(database, "alice", FIRST.bundle, 10)
        reset(database, "alice", SECOND.bundle, 20)
        assert database.in_transaction
    assert [leaf.version for leaf in history(database)] == [1, 2]


def test_who_waits_for_another_writer_sees_what_that_one_wrote(tmp_path: Path, database: sqlite3.Connection) -> None:
    """A leaf's number and version come from within its transaction."""
    other = open_database(tmp_path / "directory.db", "server")
    add_user(other, "alice", FIRST.bundle, 10)
    reset_user(database, "alice", SECOND.bundle, 20)
    reset_user(other, "alice", THIRD.bundle, 30)
    other.close()
    assert [leaf.version for leaf in history(database)] == [1, 2, 3]


def test_a_writer_that_holds_on_is_our_error(tmp_path: Path, database: sqlite3.Connection) -> None:
    database.execute("PRAGMA busy_timeout = 1")
    other = open_database(tmp_path / "directory.db", "server")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnusableSetup, match="cannot write the directory of users: database is locked"):
        add_user(database, "alice", FIRST.bundle, 10)
    other.close()


# of before there was a log ----------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A file of version 1 with three users, opened by this version."""
    path = tmp_path / "old.db"
    before = sqlite3.connect(path)
    before.executescript(resources.files("messageapp.store").joinpath("schema", "server-1.sql").read_text("utf-8"))
    for name, who, added in (("Zoe", FIRST, 1), ("alice", SECOND, 2), ("bob", THIRD, 2)):
        before.execute("INSERT INTO users VALUES (?, ?, ?, ?)", (name.lower(), name, who.bundle.encode(), added))
    before.execute("PRAGMA user_version = 1")
    before.commit()
    before.close()
    opened = open_database(path, "server")
    yield opened
    opened.close()


def test_users_of_before_get_their_first_leaf_once(old: sqlite3.Connection, tmp_path: Path) -> None:
    assert find_encoded(old, "Zoe") == FIRST.bundle.encode(), "counts before it is in the log"
    assert adopt(old, 100) == 3
    assert [LogStore(old).leaf(number) for number in range(3)] == [
        Leaf(100, "Zoe", 1, FIRST.key_id),
        Leaf(100, "alice", 1, SECOND.key_id),
        Leaf(100, "bob", 1, THIRD.key_id),
    ]
    assert find_bundle(old, SECOND.key_id) == SECOND.bundle.encode()
    assert adopt(old, 200) == 0
    assert LogStore(old).size == 3
    assert [(user.name, user.added_ms) for user in list_users(old)] == [("alice", 2), ("bob", 2), ("Zoe", 1)]
    assert (tmp_path / "old.before-2.db").exists()


@pytest.mark.parametrize("act", ["reset", "revoke", "remove", "change"])
def test_a_change_of_who_is_not_in_the_log_yet_is_the_second_leaf(old: sqlite3.Connection, act: str) -> None:
    """Where the owner of a server uses `messageapp user` before the server ran."""
    if act == "change":
        change_key(old, SERVER, "alice", SECOND.key_id, FIRST.bundle, *signed(SECOND, FIRST), 50)
    else:
        acts = {"reset": (reset_user, (FIRST.bundle,)), "revoke": (revoke_user, ()), "remove": (remove_user, ())}
        function, arguments = acts[act]
        function(old, "alice", *arguments, 50)  # type: ignore[operator]
    first, second = history(old)
    assert first == Leaf(50, "alice", 1, SECOND.key_id)
    assert second.version == 2
    assert adopt(old, 60) == 2, "the others"


def test_an_adoption_that_fails_adopts_nobody(old: sqlite3.Connection) -> None:
    before = dump(old)
    old.execute(
        "CREATE TEMP TRIGGER no BEFORE INSERT ON main.log_leaves WHEN new.number = 2"
        " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(UnusableSetup, match="disk full"):
        adopt(old, 100)
    assert dump(old) == before


def test_a_leaf_is_what_a_client_reads(database: sqlite3.Connection) -> None:
    add_user(database, "alice", FIRST.bundle, 2**40)
    change(database, FIRST, SECOND)
    for leaf in history(database):
        assert Leaf.parse_untrusted(leaf.encode()) == leaf
        assert replace(leaf, version=9) != leaf
