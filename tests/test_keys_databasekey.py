"""The key of an account's database: who opens it, and what a damaged file is."""

from __future__ import annotations

from itertools import count

import pytest

from messageapp_keys.databasekey import DatabaseKey, SealedDatabaseKey, seal_database_key
from messageapp_keys.keystore import Argon2Cost, KeyFileCorrupt, WrongPassphrase

CHEAP = Argon2Cost(kib=8, passes=1)
KEY = DatabaseKey(bytes(range(32)))


def fixed() -> bytes:
    numbers = count()
    return seal_database_key(KEY, ["old", "new"], cost=CHEAP, random=lambda size: bytes([next(numbers)]) * size)


def test_a_known_answer() -> None:
    """Protocol §15.2, computed with the primitives alone."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    expected = b"MSGAPPD\x01" + b"\x02"
    for number, passphrase in enumerate((b"old", b"new")):
        salt, nonce = bytes([2 * number]) * 16, bytes([2 * number + 1]) * 12
        expected += b"\x01" + (8).to_bytes(4) + (1).to_bytes(4) + b"\x01" + salt + nonce
        key = Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=8).derive(passphrase)
        expected += (48).to_bytes(2) + AESGCM(key).encrypt(nonce, bytes(range(32)), expected)
    assert fixed() == expected


def test_each_of_two_passphrases_opens_it_and_no_other() -> None:
    found = SealedDatabaseKey.parse_untrusted(fixed())
    assert found.changing
    assert found.open("old") == found.open("new") == KEY
    with pytest.raises(WrongPassphrase):
        found.open("other")
    one = SealedDatabaseKey.parse_untrusted(seal_database_key(KEY, ["pässword"], cost=CHEAP))
    assert not one.changing
    assert one.open("pa\u0308ssword") == KEY  # however it is typed


def test_each_sealing_draws_its_own_salt() -> None:
    assert len({seal_database_key(KEY, ["x"], cost=CHEAP) for _ in range(9)}) == 9


@pytest.mark.parametrize("number", [0, 3])
def test_one_or_two_passphrases(number: int) -> None:
    with pytest.raises(ValueError, match="one to 2"):
        seal_database_key(KEY, ["x"] * number, cost=CHEAP)


def test_no_byte_can_be_changed() -> None:
    """Under the tag of the last wrap stands all that is before it."""
    whole = fixed()
    for place in range(len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises((KeyFileCorrupt, WrongPassphrase)):
            SealedDatabaseKey.parse_untrusted(damaged).open("new")


def test_no_byte_can_be_missing_or_too_many() -> None:
    whole = fixed()
    for end in range(len(whole)):
        with pytest.raises(KeyFileCorrupt):
            SealedDatabaseKey.parse_untrusted(whole[:end])
    with pytest.raises(KeyFileCorrupt):
        SealedDatabaseKey.parse_untrusted(whole + b"\0")


@pytest.mark.parametrize("cost", [(2**31, 1, 1), (8, 2**31, 1), (8, 1, 200), (0, 1, 1)])
def test_a_file_cannot_ask_for_all_our_memory_or_time(cost: tuple[int, int, int]) -> None:
    whole = bytearray(fixed())
    whole[10:19] = cost[0].to_bytes(4) + cost[1].to_bytes(4) + cost[2].to_bytes(1)
    with pytest.raises(KeyFileCorrupt, match="impossible value"):
        SealedDatabaseKey.parse_untrusted(bytes(whole))


def test_nothing_shows_the_key() -> None:
    assert repr(DatabaseKey.generate()) == "<DatabaseKey>"
    assert repr(SealedDatabaseKey.parse_untrusted(fixed())) == "<SealedDatabaseKey 2>"
    assert DatabaseKey.generate() != DatabaseKey.generate()
