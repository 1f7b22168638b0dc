"""Safety numbers: Signal's published vector, an independent computation, and what must change the number."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp_keys import fingerprint
from messageapp_keys.fingerprint import group_digits, key_fingerprint, numeric_fingerprint, safety_number

# libsignal, NumericFingerprintGeneratorTest / rust/protocol/src/fingerprint.rs, `fingerprint_encodings`
ALICE = bytes.fromhex("0506863bc66d02b40d27b8d49ca7c09e9239236f9d7d25d6fcca5ce13c7064d868")
BOB = bytes.fromhex("05f781b6fb32fed9ba1cf2de978d4d5da28dc34046ae814402b5c0dbd96fda907b")
ALICE_ID, BOB_ID = "+14152222222", "+14153333333"
DISPLAYABLE = "300354477692869396892869876765458257569162576843440918079131"
ALICE_SCANNABLE = "1e301a0353dce3dbe7684cb8336e85136cdc0ee96219494ada305d62a7bd61df"
BOB_SCANNABLE = "d62cbf73a11592015b6b9f1682ac306fea3aaf3885b84d12bca631e9d4fb3a4d"


def test_the_published_vector_is_reproduced() -> None:
    assert safety_number(ALICE, ALICE_ID, BOB, BOB_ID) == DISPLAYABLE
    assert safety_number(BOB, BOB_ID, ALICE, ALICE_ID) == DISPLAYABLE


def test_the_published_scannable_halves_are_reproduced() -> None:
    assert numeric_fingerprint(ALICE, ALICE_ID.encode())[:32].hex() == ALICE_SCANNABLE
    assert numeric_fingerprint(BOB, BOB_ID.encode())[:32].hex() == BOB_SCANNABLE


@given(st.binary(max_size=80), st.binary(max_size=30), st.integers(1, 4))
def test_against_the_formula_written_with_hashlib(key: bytes, identifier: bytes, iterations: int) -> None:
    expected = bytes(2) + key + identifier
    for _ in range(iterations):
        expected = hashlib.sha512(expected + key).digest()
    assert numeric_fingerprint(key, identifier, iterations) == expected


@pytest.mark.parametrize(
    ("bundle_b", "id_b"),
    [(BOB[:-1] + b"\x7a", BOB_ID), (BOB, "+14153333334"), (BOB + b"\x00", BOB_ID), (BOB, BOB_ID.upper() + "x")],
)
def test_any_other_key_or_name_gives_another_number(bundle_b: bytes, id_b: str) -> None:
    changed = safety_number(ALICE, ALICE_ID, bundle_b, id_b)
    assert changed != DISPLAYABLE
    assert "300354477692869396892869876765" in changed  # alice's half stays


def test_leading_zeros_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "numeric_fingerprint", lambda key, identifier: bytes(64))
    assert safety_number(b"", "a@s", b"", "b@s") == "0" * 60


def test_names_are_utf8() -> None:
    assert safety_number(ALICE, "é@s", BOB, "b@s") == safety_number(BOB, "b@s", ALICE, "\u00e9@s")


def test_groups() -> None:
    grouped = group_digits(DISPLAYABLE)
    assert grouped == "30035 44776 92869 39689 28698 76765 45825 75691 62576 84344 09180 79131"
    assert grouped.replace(" ", "") == DISPLAYABLE


@pytest.mark.parametrize("text", ["", "1" * 59, "1" * 61, "1" * 59 + "x", "1" * 59 + "²", "1" * 59 + "٣"])
def test_groups_refuse_anything_else(text: str) -> None:
    with pytest.raises(ValueError, match="sixty"):
        group_digits(text)


def test_key_fingerprint() -> None:
    assert key_fingerprint(bytes(range(32))) == "0001:0203:0405:0607:0809:0a0b:0c0d:0e0f"


@settings(max_examples=20)
@given(st.binary(max_size=64).filter(lambda value: len(value) != 32))
def test_key_fingerprint_wants_32_bytes(value: bytes) -> None:
    with pytest.raises(ValueError, match="32"):
        key_fingerprint(value)


@pytest.mark.parametrize("iterations", [0, -1])
def test_iterations_must_be_positive(iterations: int) -> None:
    with pytest.raises(ValueError, match="iterations"):
        numeric_fingerprint(b"k", b"i", iterations)
