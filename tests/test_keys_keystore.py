"""Key files: round trips, the exact layout, and every way in which a file or a passphrase can be wrong."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp_keys import keystore
from messageapp_keys.codec import u8, u16, u32, vec8, vec16, vec24
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keystore import Argon2Cost, KeyFileCorrupt, SealedIdentity, WrongPassphrase, seal_identity

CHEAP = Argon2Cost(kib=8, passes=1)
SALT, NONCE = bytes(range(16)), bytes(range(100, 112))
_KIB_AT, _PASSES_AT, _LANES_AT = 9, 13, 17


@cache
def alice() -> PrivateIdentity:
    return PrivateIdentity.generate("ed25519")


@cache
def sealed_file() -> bytes:
    return seal_identity("alice", alice(), "correct horse", cost=CHEAP)


def fixed_random(size: int) -> bytes:
    return {16: SALT, 12: NONCE}[size]


def forged(plaintext: bytes, *, user: bytes = b"alice", bundle: bytes | None = None) -> bytes:
    """A file that anyone who knows the passphrase could write: the layout of protocol §15, made by hand."""
    header = b"MSGAPPK\x01\x01" + u32(8) + u32(1) + u8(1) + SALT + NONCE
    header += vec8(user) + vec16(alice().bundle.encode() if bundle is None else bundle)
    key = Argon2id(salt=SALT, length=32, iterations=1, lanes=1, memory_cost=8).derive(b"correct horse")
    return header + vec24(AESGCM(key).encrypt(NONCE, plaintext, header))


def inner(identity: PrivateIdentity) -> bytes:
    parts = identity.pkcs8()
    return u8(len(parts)) + b"".join(u16(algorithm) + vec16(der) for algorithm, der in parts)


@pytest.mark.parametrize(("kind", "post_quantum"), [("ed25519", False), ("ed25519", True), ("rsa", False)])
def test_an_identity_comes_back(kind: str, post_quantum: bool) -> None:
    identity = PrivateIdentity.generate("rsa" if kind == "rsa" else "ed25519", post_quantum=post_quantum)
    data = seal_identity("Bob-2", identity, "pass", cost=CHEAP)
    found = SealedIdentity.parse_untrusted(data)
    assert (found.user, found.bundle, found.cost) == ("Bob-2", identity.bundle, CHEAP)
    opened = found.unseal("pass")
    assert opened.pkcs8() == identity.pkcs8()
    assert found.bundle.verify_untrusted(b"label", b"body", opened.sign(b"label", b"body"))


def test_the_layout_is_the_documented_one() -> None:
    data = seal_identity("alice", alice(), "correct horse", cost=CHEAP, random=fixed_random)
    assert data == forged(inner(alice()))


def test_defaults_are_64_mib_three_passes_one_lane() -> None:
    assert Argon2Cost(kib=65536, passes=3, lanes=1) == keystore.DEFAULT_COST


def test_salt_and_nonce_are_fresh() -> None:
    first, second = (SealedIdentity.parse_untrusted(seal_identity("a", alice(), "p", cost=CHEAP)) for _ in range(2))
    assert first.salt != second.salt
    assert first.nonce != second.nonce


def test_nothing_secret_is_in_the_file_or_in_reprs() -> None:
    found = SealedIdentity.parse_untrusted(sealed_file())
    private = alice().pkcs8()[0][1]
    assert private[-32:] not in sealed_file()
    for text in (repr(found), repr(found.unseal("correct horse"))):
        assert private[-32:].hex() not in text
        assert "correct horse" not in text
        assert "PKCS" not in text


@pytest.mark.parametrize("passphrase", ["", "correct hors", "Correct horse", b"correct horse\n", b"\xff\xfe"])
def test_a_wrong_passphrase(passphrase: str | bytes) -> None:
    with pytest.raises(WrongPassphrase) as caught:
        SealedIdentity.parse_untrusted(sealed_file()).unseal(passphrase)
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize(
    ("made_with", "opened_with"),
    [
        ("é", unicodedata.normalize("NFD", "é")),
        (unicodedata.normalize("NFD", "ünïcode"), "ünïcode".encode()),
        ("plain", b"plain"),
        (b"\xff\x00", b"\xff\x00"),
        ("", ""),
    ],
)
def test_passphrases_are_normalised_utf8(made_with: str | bytes, opened_with: str | bytes) -> None:
    data = seal_identity("a", alice(), made_with, cost=CHEAP)
    assert SealedIdentity.parse_untrusted(data).unseal(opened_with).bundle == alice().bundle


def test_every_flipped_bit_is_noticed() -> None:
    data = sealed_file()
    # The costs are left out: flipped upwards they are still allowed, and would take the time that they ask for.
    for position in (*range(_KIB_AT), *range(_LANES_AT + 1, len(data))):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        with pytest.raises((KeyFileCorrupt, WrongPassphrase)):
            SealedIdentity.parse_untrusted(bytes(changed)).unseal("correct horse")


def test_changed_costs_within_the_bounds_are_noticed() -> None:
    for at, size, value in ((_KIB_AT, 4, 9), (_PASSES_AT, 4, 2)):
        changed = sealed_file()[:at] + value.to_bytes(size, "big") + sealed_file()[at + size :]
        with pytest.raises(WrongPassphrase):
            SealedIdentity.parse_untrusted(changed).unseal("correct horse")


@pytest.mark.parametrize(
    ("at", "size", "value"),
    [
        (_KIB_AT, 4, 7),
        (_KIB_AT, 4, 0),
        (_KIB_AT, 4, keystore.MAX_KIB + 1),
        (_KIB_AT, 4, 0xFFFFFFFF),
        (_PASSES_AT, 4, 0),
        (_PASSES_AT, 4, keystore.MAX_PASSES + 1),
        (_PASSES_AT, 4, 0xFFFFFFFF),
        (_LANES_AT, 1, 0),
        (_LANES_AT, 1, keystore.MAX_LANES + 1),
        (_LANES_AT, 1, 2),  # two lanes want 16 KiB
    ],
)
def test_costs_out_of_bounds_are_refused_before_any_work(at: int, size: int, value: int) -> None:
    changed = sealed_file()[:at] + value.to_bytes(size, "big") + sealed_file()[at + size :]
    with pytest.raises(KeyFileCorrupt, match="impossible value"):
        SealedIdentity.parse_untrusted(changed)


def test_the_bounds_themselves_are_allowed() -> None:
    Argon2Cost(kib=keystore.MAX_KIB, passes=keystore.MAX_PASSES, lanes=keystore.MAX_LANES)
    Argon2Cost(kib=keystore.MIN_KIB, passes=1, lanes=1)


def test_every_cut_and_every_addition_is_noticed() -> None:
    data = sealed_file()
    for end in range(len(data)):
        with pytest.raises(KeyFileCorrupt):
            SealedIdentity.parse_untrusted(data[:end])
    with pytest.raises(KeyFileCorrupt, match="left over"):
        SealedIdentity.parse_untrusted(data + b"\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: b"-----BEGIN RSA PRIVATE KEY-----\n", "no key file"),
        (lambda d: d.replace(b"MSGAPPK\x01", b"MSGAPPK\x02"), "no key file"),
        (lambda d: d[:8] + b"\x02" + d[9:], "key derivation"),
        (lambda d: forged(inner(alice()), user=b""), "no user"),
        (lambda d: forged(inner(alice()), user=b"a\x1b[2J"), "no user"),
        (lambda d: forged(inner(alice()), user=b"\xff"), "impossible value"),
        (lambda d: forged(inner(alice()), bundle=b"\x00"), "damaged"),
        (lambda d: d[:-1], "shorter than its length"),
    ],
)
def test_a_damaged_file_says_so(change: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(KeyFileCorrupt, match=said):
        SealedIdentity.parse_untrusted(change(sealed_file()))


def test_a_file_without_a_sealed_key_is_corrupt() -> None:
    header = SealedIdentity.parse_untrusted(sealed_file()).header
    with pytest.raises(KeyFileCorrupt, match="holds no key"):
        SealedIdentity.parse_untrusted(header + vec24(bytes(16)))


def test_the_public_half_must_belong_to_the_private_half() -> None:
    other = PrivateIdentity.generate("ed25519")
    found = SealedIdentity.parse_untrusted(forged(inner(other)))
    with pytest.raises(KeyFileCorrupt, match="does not belong"):
        found.unseal("correct horse")


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\x00",
        b"\x01\x08\x07",
        inner(alice()) + b"\x00",
        u8(1) + u16(0x0807) + vec16(b"junk"),
        u8(1) + u16(0x0804),
    ],
    ids=["empty", "a byte", "cut", "a byte behind", "junk for a key", "no key"],
)
def test_sealed_rubbish_is_corrupt(plaintext: bytes) -> None:
    with pytest.raises(KeyFileCorrupt):
        SealedIdentity.parse_untrusted(forged(plaintext)).unseal("correct horse")


@pytest.mark.parametrize("user", ["", "a" * 17, "-a", "a b", "é", "a\n"])
def test_only_usernames_are_written(user: str) -> None:
    with pytest.raises(ValueError, match="username"):
        seal_identity(user, alice(), "p", cost=CHEAP)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_garbage_raises_only_the_declared_error(data: bytes, with_magic: bool) -> None:
    with pytest.raises(KeyFileCorrupt):
        SealedIdentity.parse_untrusted(keystore.MAGIC + data if with_magic else data)


@settings(max_examples=300)
@given(st.data())
def test_spliced_files_raise_only_the_declared_error(data: st.DataObject) -> None:
    original = sealed_file()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, len(original)))
    changed = original[:start] + data.draw(st.binary(max_size=40)) + original[end:]
    try:
        found = SealedIdentity.parse_untrusted(changed)
    except KeyFileCorrupt:
        return
    assert found.header + vec24(found.sealed) == changed
