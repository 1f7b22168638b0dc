"""Invitations on disk: each lets in whom it is for, so often and so long; a use and an enrolment are one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from messageapp.errors import UnusableSetup
from messageapp.store.database import open_database
from messageapp.store.invites import (
    KEPT_MS,
    MAX_INVITES,
    MAX_LIFETIME_MS,
    MAX_USES,
    InviteFault,
    InviteRefused,
    create_invite,
    drop_first_invites,
    find_invite_key,
    list_invites,
    redeem_invite,
    revoke_invite,
)
from messageapp.store.keylog import LogStore
from messageapp.store.users import add_user, find_encoded, list_users, remove_user, reset_user, revoke_user
from messageapp_keys.joincode import derive_invite
from messageapp_keys.keylog import FLAG_RESET
from messageapp_keys.types import InviteSecret
from support.world import identity

DAY = 86_400_000
NOW = 1_767_268_800_000
BOB, EVE = identity("bob").bundle, identity("eve").bundle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory.db"


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_database(path, "server")) as found:
        yield found


def invited(database: sqlite3.Connection, name: str = "", **changes: object) -> bytes:
    """The id of a new invitation."""
    secret = create_invite(database, name, NOW, DAY, **changes)  # type: ignore[arg-type]
    return derive_invite(secret)[0]


def refused(database: sqlite3.Connection, identifier: bytes, name: str = "bob", now: int = NOW) -> InviteFault:
    before = state(database)
    with pytest.raises(InviteRefused) as caught:
        redeem_invite(database, identifier, name, BOB, now)
    assert state(database) == before
    return caught.value.fault


def state(database: sqlite3.Connection) -> object:
    queries = ("SELECT * FROM users", "SELECT * FROM invites", "SELECT * FROM log_leaves")
    return [database.execute(query).fetchall() for query in queries]


def test_an_invitation_lets_in_once_with_a_leaf_of_the_log(database: sqlite3.Connection) -> None:
    identifier = invited(database)
    redeem_invite(database, identifier, "bob", BOB, NOW + 5)
    assert [(user.name, user.bundle, user.added_ms) for user in list_users(database)] == [("bob", BOB, NOW + 5)]
    (invite,) = list_invites(database)
    assert (invite.uses, invite.used) == (0, 1)
    leaf = LogStore(database).leaf(0)
    assert (leaf.user, leaf.key_id, leaf.flags, leaf.ms) == ("bob", BOB.key_id, 0, NOW + 5)
    assert refused(database, identifier, "carol") is InviteFault.USED


def test_the_file_holds_nothing_that_opens_it(path: Path, database: sqlite3.Connection) -> None:
    secret = create_invite(database, "bob", NOW, DAY)
    identifier, key = derive_invite(secret)
    assert find_invite_key(database, identifier) == key
    assert find_invite_key(database, bytes(16)) is None
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert identifier in path.read_bytes()
    assert secret.expose() not in path.read_bytes()
    assert all(key.expose() != getattr(list_invites(database)[0], name) for name in ("id", "name"))


def test_it_survives_the_process_and_ends_by_the_wall_clock(path: Path) -> None:
    with closing(open_database(path, "server")) as database:
        identifier = invited(database, uses=2)
    with closing(open_database(path, "server")) as database:
        assert refused(database, identifier, now=NOW + DAY) is InviteFault.EXPIRED
        redeem_invite(database, identifier, "bob", BOB, NOW + DAY - 1)
        assert refused(database, identifier, "carol", NOW + DAY) is InviteFault.EXPIRED


def test_who_is_enrolled_with_these_keys_already_is_let_in_again(database: sqlite3.Connection) -> None:
    """The first answer may have been lost. Nothing is counted, whatever became of the invitation."""
    identifier = invited(database, "bob")
    for now in (NOW, NOW + 1, NOW + 2 * DAY):
        redeem_invite(database, identifier, "bob", BOB, now)
    assert list_invites(database)[0].used == 1
    assert LogStore(database).size == 1
    revoke_user(database, "bob", NOW)
    assert refused(database, identifier) is InviteFault.USED


def test_a_revoked_invitation(database: sqlite3.Connection) -> None:
    identifier, other = invited(database), invited(database)
    gone = revoke_invite(database, identifier.hex()[:10].upper(), NOW)
    assert gone.id == identifier
    assert refused(database, identifier) is InviteFault.REVOKED
    redeem_invite(database, other, "bob", BOB, NOW)


@pytest.mark.parametrize("typed", ["", "zz", "%", "' OR 1"])
def test_an_id_that_is_none(database: sqlite3.Connection, typed: str) -> None:
    invited(database)
    with pytest.raises(UnusableSetup, match="there is no invitation"):
        revoke_invite(database, typed, NOW)


def test_an_id_that_two_begin_with(database: sqlite3.Connection) -> None:
    found = [invited(database) for _ in range(17)]
    first = next(each.hex()[0] for each in found if sum(other.hex()[0] == each.hex()[0] for other in found) > 1)
    with pytest.raises(UnusableSetup, match="there are several invitations"):
        revoke_invite(database, first, NOW)
    assert all(invite.revoked_ms is None for invite in list_invites(database))


def test_the_name_of_an_invitation_is_exact(database: sqlite3.Connection) -> None:
    identifier = invited(database, "bob")
    assert refused(database, identifier, "eve") is InviteFault.OTHER_NAME
    assert refused(database, identifier, "Bob") is InviteFault.OTHER_NAME
    redeem_invite(database, identifier, "bob", BOB, NOW)


def test_a_name_that_is_taken_in_any_spelling_also_by_who_is_revoked(database: sqlite3.Connection) -> None:
    identifier = invited(database, uses=3)
    add_user(database, "Bob", EVE, NOW)
    assert refused(database, identifier) is InviteFault.NAME_TAKEN
    revoke_user(database, "Bob", NOW)
    assert refused(database, identifier) is InviteFault.NAME_TAKEN
    remove_user(database, "Bob", NOW)
    redeem_invite(database, identifier, "bob", BOB, NOW)
    assert LogStore(database).leaf(2).flags == FLAG_RESET


@pytest.mark.parametrize("how", ["enrolled", "revoked", "removed"])
def test_an_invitation_to_take_another_key(database: sqlite3.Connection, how: str) -> None:
    add_user(database, "bob", EVE, NOW)
    if how != "enrolled":
        (revoke_user if how == "revoked" else remove_user)(database, "bob", NOW)
    identifier = invited(database, "bob", reset=True)
    redeem_invite(database, identifier, "bob", BOB, NOW)
    assert find_encoded(database, "bob") == BOB.encode()
    log = LogStore(database)
    assert log.leaf(log.size - 1).flags == FLAG_RESET


@pytest.mark.parametrize("how", ["revoked", "removed", "reset", "another code"])
def test_an_invitation_to_take_another_key_ends_with_the_key_that_it_was_for(
    database: sqlite3.Connection, how: str
) -> None:
    add_user(database, "bob", EVE, NOW)
    identifier = invited(database, "bob", reset=True)
    match how:
        case "revoked":
            revoke_user(database, "bob", NOW)
        case "removed":  # and somebody else has the name
            remove_user(database, "bob", NOW)
            add_user(database, "Bob", EVE, NOW)
        case "reset":
            reset_user(database, "bob", identity("carol").bundle, NOW)
        case _:
            redeem_invite(database, invited(database, "bob", reset=True), "bob", identity("carol").bundle, NOW)
    assert refused(database, identifier) is InviteFault.REVOKED


def test_what_serve_printed_at_an_earlier_start_ends(database: sqlite3.Connection) -> None:
    first, mine = invited(database, first=True), invited(database)
    second = invited(database, first=True)
    assert refused(database, first) is InviteFault.REVOKED
    drop_first_invites(database, NOW)
    assert refused(database, second) is InviteFault.REVOKED
    redeem_invite(database, mine, "bob", BOB, NOW)


def test_an_invitation_is_kept_for_30_days_after_its_end(database: sqlite3.Connection) -> None:
    assert KEPT_MS == 30 * DAY
    invited(database)
    create_invite(database, "", NOW + DAY + KEPT_MS, DAY)
    assert len(list_invites(database)) == 2
    create_invite(database, "", NOW + DAY + KEPT_MS + 1, DAY)
    assert [invite.made_ms for invite in list_invites(database)] == [NOW + DAY + KEPT_MS + 1, NOW + DAY + KEPT_MS]


@pytest.mark.parametrize(
    ("lifetime", "uses", "good"),
    [
        (MAX_LIFETIME_MS, MAX_USES, True),
        (366 * DAY, 1000, True),
        (366 * DAY + 1, 1, False),
        (0, 1, False),
        (DAY, 0, False),
        (DAY, 1001, False),
    ],
)
def test_366_days_and_1000_uses_are_the_most(
    database: sqlite3.Connection, lifetime: int, uses: int, good: bool
) -> None:
    if good:
        create_invite(database, "", NOW, lifetime, uses=uses)
    else:
        with pytest.raises(UnusableSetup, match="366 days at most, and for 1 to 1,000 users"):
            create_invite(database, "", NOW, lifetime, uses=uses)


def test_10_000_invitations_are_the_most(database: sqlite3.Connection) -> None:
    assert MAX_INVITES == 10_000
    rows = [(number.to_bytes(16), bytes(32), NOW, NOW + DAY) for number in range(9_999)]
    database.execute("BEGIN")
    database.executemany("INSERT INTO invites VALUES (?, ?, '', 0, ?, ?, 1, 0, NULL, 0)", rows)
    database.execute("COMMIT")
    invited(database)
    with pytest.raises(UnusableSetup, match="there are 10,000 invitations"):
        invited(database)


def test_an_invitation_that_is_gone_since_it_was_found(database: sqlite3.Connection) -> None:
    assert refused(database, bytes(16)) is InviteFault.REVOKED


def test_of_many_at_once_as_many_get_in_as_there_are_uses(path: Path, database: sqlite3.Connection) -> None:
    identifier = invited(database, uses=2)
    names = [f"user{number}" for number in range(6)]
    found: list[str] = []
    together = threading.Barrier(len(names))

    def join(name: str) -> None:
        with closing(open_database(path, "server")) as own:
            together.wait(30)
            try:
                redeem_invite(own, identifier, name, identity(name).bundle, NOW)
                found.append("in")
            except InviteRefused as error:
                found.append(error.fault.name)

    threads = [threading.Thread(target=join, args=(name,)) for name in names]
    for name in names:
        identity(name)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == ["USED"] * 4 + ["in"] * 2
    assert len(list_users(database)) == LogStore(database).size == 2
    assert (list_invites(database)[0].uses, list_invites(database)[0].used) == (0, 2)


def test_what_cannot_be_written_changes_nothing(database: sqlite3.Connection) -> None:
    identifier = invited(database)
    database.execute("DROP TABLE log_tiles")
    before = state(database)
    with pytest.raises(UnusableSetup):
        redeem_invite(database, identifier, "bob", BOB, NOW)
    assert state(database) == before


def test_a_secret_is_drawn_and_not_made_twice(database: sqlite3.Connection) -> None:
    fixed = create_invite(database, "", NOW, DAY, random=lambda size: bytes(size))
    assert fixed == InviteSecret(bytes(16))
    with pytest.raises(UnusableSetup):
        create_invite(database, "", NOW, DAY, random=lambda size: bytes(size))
    assert create_invite(database, "", NOW, DAY) != create_invite(database, "", NOW, DAY)
