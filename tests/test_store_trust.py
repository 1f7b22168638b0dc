"""Pins and the device id on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from messageapp.client.trust import Trust, TrustRefused, changed_digits
from messageapp.errors import ServerNotAuthenticated, UnusableSetup
from messageapp.store.database import open_database
from messageapp.store.trust import Pin, ServerPin, device_id, find_pin, find_server, save_pin, save_server
from support.world import identity

BOB, NEW, THIRD = (identity(name).bundle for name in ("bob", "bob's new key", "a third key"))
PLACE = ("bob", "chat.example")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_database(tmp_path / "trust.db", "account")
    yield opened
    opened.close()


@pytest.fixture
def trust(database: sqlite3.Connection) -> Trust:
    return Trust(database, "alice", identity("alice").bundle, lambda: 1000)


def test_a_pin_is_read_as_it_was_saved(database: sqlite3.Connection) -> None:
    assert find_pin(database, *PLACE) is None
    pin = Pin(*PLACE, BOB, verified=True, first_ms=5)
    for version in (pin, replace(pin, offered=NEW, verified=False), pin):
        save_pin(database, version)
        assert find_pin(database, *PLACE) == version
        assert version.changed is (version.offered is not None)
    assert find_pin(database, "bob", "other.example") is None


@pytest.mark.parametrize("column", ["bundle", "offered"])
def test_a_damaged_pin_is_never_taken_for_none(database: sqlite3.Connection, trust: Trust, column: str) -> None:
    trust.pin_first(*PLACE, BOB)
    database.execute(f"UPDATE pins SET {column} = x'00'")  # noqa: S608
    for act in (
        lambda: find_pin(database, *PLACE),
        lambda: trust.judge(*PLACE, BOB),
        lambda: trust.pin_first(*PLACE, NEW),
        lambda: trust.verify(*PLACE),
    ):
        with pytest.raises(UnusableSetup, match="bob is damaged"):
            act()


def test_what_cannot_be_saved_is_our_error(database: sqlite3.Connection, trust: Trust) -> None:
    database.execute("PRAGMA query_only = 1")
    for act in (
        lambda: trust.pin_first(*PLACE, BOB),
        trust.device,
        lambda: trust.pin_server(ServerPin("chat.example", 4000, bytes(32), "chat.example", b"", 0)),
    ):
        with pytest.raises(UnusableSetup):
            act()
    database.close()
    for read in (lambda: trust.pin(*PLACE), lambda: trust.known_server("chat.example", 4000)):
        with pytest.raises(UnusableSetup):
            read()


def test_the_device_id_is_chosen_once(database: sqlite3.Connection, tmp_path: Path) -> None:
    first = device_id(database, b"1" * 16)
    assert first == device_id(database, b"2" * 16) == b"1" * 16
    other = open_database(tmp_path / "trust.db", "account")
    assert device_id(other, b"3" * 16) == b"1" * 16
    other.close()


def test_a_server_pin_is_by_name_and_port(database: sqlite3.Connection, trust: Trust) -> None:
    pin = ServerPin("chat.example", 4000, b"h" * 32, "chat.example", b"ca", 7)
    save_server(database, pin)
    assert find_server(database, "chat.example", 4000) == pin
    assert find_server(database, "chat.example", 4001) is None
    trust.check_server("chat.example", 4000, b"h" * 32)
    trust.check_server("chat.example", 4001, b"x" * 32)
    with pytest.raises(ServerNotAuthenticated):
        trust.check_server("chat.example", 4000, b"x" * 32)
    trust.pin_server(replace(pin, spki_hash=b"x" * 32))
    trust.check_server("chat.example", 4000, b"x" * 32)


def test_a_server_with_another_name_of_its_own_is_refused(trust: Trust) -> None:
    """Peers are pinned under that name: with a new one all pins would be void."""
    trust.check_name(b"h" * 32, "chat.example")
    trust.pin_server(ServerPin("192.0.2.1", 4000, b"h" * 32, "chat.example", b"ca", 7))
    trust.check_name(b"h" * 32, "chat.example")
    with pytest.raises(ServerNotAuthenticated, match=r"evil\.example now and chat\.example before"):
        trust.check_name(b"h" * 32, "evil.example")
    trust.check_name(b"x" * 32, "evil.example")


def test_a_new_name_of_a_server_is_its_name_under_every_address(trust: Trust) -> None:
    for name in ("127.0.0.1", "localhost"):
        trust.pin_server(ServerPin(name, 8081, b"k" * 32, "old.example", b"", 0))
    trust.pin_server(ServerPin("127.0.0.1", 8082, b"x" * 32, "old.example", b"", 0))
    trust.pin_server(ServerPin("localhost", 8081, b"k" * 32, "new.example", b"", 0))
    trust.check_name(b"k" * 32, "new.example")
    with pytest.raises(ServerNotAuthenticated):
        trust.check_name(b"k" * 32, "old.example")
    for name in ("127.0.0.1", "localhost"):
        pin = trust.known_server(name, 8081)
        assert pin is not None
        assert pin.canonical == "new.example"
    trust.check_name(b"x" * 32, "old.example")


def test_a_first_pin_is_never_replaced_by_pinning_again(trust: Trust) -> None:
    assert trust.pin_first(*PLACE, BOB) == (Pin(*PLACE, BOB, verified=False, first_ms=1000), True)
    assert trust.pin_first(*PLACE, NEW) == (Pin(*PLACE, BOB, verified=False, first_ms=1000), False)


def test_each_further_key_is_judged_against_the_pin(trust: Trust) -> None:
    assert trust.judge(*PLACE, BOB)
    assert trust.pin(*PLACE) is None, "judging pins nothing"
    trust.pin_first(*PLACE, BOB)
    trust.verify(*PLACE)
    assert trust.judge(*PLACE, BOB)
    assert trust.pin(*PLACE).verified  # type: ignore[union-attr]
    for other in (NEW, THIRD, NEW):
        assert not trust.judge(*PLACE, other)
        pin = trust.pin(*PLACE)
        assert pin is not None
        assert (pin.bundle, pin.offered, pin.verified) == (BOB, other, False)


def test_only_the_key_whose_digits_were_typed_is_accepted(trust: Trust) -> None:
    """A third key offered meanwhile has other digits."""
    trust.pin_first(*PLACE, BOB)
    trust.judge(*PLACE, NEW)
    old = trust.number(*PLACE, BOB)
    digits = {key: changed_digits(old, trust.number(*PLACE, key))[:10] for key in (NEW, THIRD)}
    trust.judge(*PLACE, THIRD)
    with pytest.raises(TrustRefused):
        trust.accept_offered(*PLACE, digits[NEW])
    assert trust.accept_offered(*PLACE, digits[THIRD]).bundle == THIRD
    assert trust.judge(*PLACE, THIRD)
    assert not trust.judge(*PLACE, BOB)


def test_both_people_have_the_same_number(database: sqlite3.Connection, trust: Trust) -> None:
    bobs = Trust(database, "bob", BOB, lambda: 0)
    number = trust.number(*PLACE, BOB)
    assert number == bobs.number("alice", "chat.example", identity("alice").bundle)
    assert len(number) == 60
    assert number.isdigit()
    assert number != trust.number("bob", "other.example", BOB)
    assert number != trust.number("bobby", "chat.example", BOB)
