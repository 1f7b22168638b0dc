"""Limits as the owner of a server gives them."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from messageapp.errors import UnusableSetup
from messageapp.limits import MOST_SESSIONS, Limits, limit_rows
from messageapp.wire.commands import ListEntry, Listing, make
from messageapp.wire.records import Kind, RecordSealer
from messageapp_keys.types import TrafficSecret


def test_nothing_given_is_the_defaults() -> None:
    assert Limits.from_mapping({}) == Limits()


def test_what_is_given_counts_and_the_rest_stays() -> None:
    limits = Limits.from_mapping({"sessions": 10, "ring_seconds": 30, "chats_per_minute": 0.5})
    assert asdict(limits) == asdict(Limits()) | {"sessions": 10, "ring_seconds": 30.0, "chats_per_minute": 0.5}


@pytest.mark.parametrize("name", [entry.name for entry in fields(Limits)])
@pytest.mark.parametrize(
    "value", [0, -1, 0.0, -0.5, True, False, "5", None, [], {}, float("nan"), float("inf"), float("-inf")]
)
def test_a_limit_is_a_number_above_zero(name: str, value: object) -> None:
    with pytest.raises(UnusableSetup, match=name):
        Limits.from_mapping({name: value})


@pytest.mark.parametrize("name", [entry.name for entry in fields(Limits) if entry.type == "int"])
@pytest.mark.parametrize("value", [0.5, 1.5, 1e-9])
def test_a_count_is_whole(name: str, value: float) -> None:
    """Half a session rounded down would be none, and lock everybody out."""
    with pytest.raises(UnusableSetup, match=name):
        Limits.from_mapping({name: value})


def test_a_whole_count_may_be_written_as_a_fraction() -> None:
    assert Limits.from_mapping({"sessions": 10.0}) == Limits(sessions=10)
    assert type(Limits.from_mapping({"sessions": 10.0}).sessions) is int
    assert type(Limits.from_mapping({"ring_seconds": 10}).ring_seconds) is float


@pytest.mark.parametrize("name", ["session", "", "SESSIONS", "from_mapping", "__class__", "sessions "])
def test_an_unknown_limit_names_those_there_are(name: str) -> None:
    with pytest.raises(UnusableSetup, match="sessions_per_user"):
        Limits.from_mapping({name: 5})


def test_every_limit_has_its_unit_and_reason() -> None:
    rows = limit_rows()
    assert [row[0] for row in rows] == [entry.name for entry in fields(Limits)]
    assert all(unit and why and default for _, default, unit, why in rows)


def test_the_list_of_all_sessions_fits_one_record() -> None:
    listing = Listing(tuple(ListEntry(f"{number:016}", 3) for number in range(MOST_SESSIONS)))
    RecordSealer(TrafficSecret(bytes(32)), "alice").seal(make(Kind.REPLY, 1, "list", listing))
    assert Limits.from_mapping({"sessions": MOST_SESSIONS}).sessions == MOST_SESSIONS
    for more in (MOST_SESSIONS + 1, 10**9):
        with pytest.raises(UnusableSetup, match="sessions is at most 7,000"):
            Limits.from_mapping({"sessions": more})
