"""Usernames: the one form that everything else relies on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp_keys.names import MAX_USERNAME, BadUsername, check_username, fold, is_username

GOOD = ["a", "Z", "0", "alice", "Bob-2", "a--b", "A" * 16, "0-0"]
BAD = ["", "-", "-a", "a-", "a" * 17, "a" * 255, "a b", "a_b", "é", "a\n", "a\0", "\u0661", "ａ", "a.b", "a\u200b", "ſ"]


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert is_username(name)
    assert check_username(name) == name


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    assert not is_username(name)
    with pytest.raises(BadUsername, match=r"1 to 16 characters of A-Z a-z 0-9 and -"):
        check_username(name)


@given(st.text(max_size=20))
def test_against_the_rule_written_out(name: str) -> None:
    alphabet = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")
    expected = 1 <= len(name) <= MAX_USERNAME and set(name) <= alphabet and name[0] != "-" and name[-1] != "-"
    assert is_username(name) == expected


def test_two_spellings_are_one_name() -> None:
    assert fold("ALICE") == fold("Alice") == "alice"
    assert fold("alice") != fold("a1ice")
