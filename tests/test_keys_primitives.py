"""HKDF by its RFC, the labelled forms written again with hashlib, and what AES-256-GCM must refuse."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp_keys import primitives
from messageapp_keys.primitives import OpenFailed, RecordCipher, counter_bytes
from messageapp_keys.types import ExporterSecret, HandshakeKey, MasterSecret, SessionKey

KEY = SessionKey(bytes(range(32)))


def test_hkdf_reproduces_rfc_5869_case_1() -> None:
    prk = primitives.extract(bytes(range(13)), b"\x0b" * 22)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    okm = primitives.expand(prk, bytes(range(0xF0, 0xFA)), 42)
    assert okm.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")


def test_hkdf_reproduces_rfc_5869_case_3_without_salt_and_info() -> None:
    prk = primitives.extract(b"", b"\x0b" * 22)
    assert primitives.expand(prk, b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_the_hash_is_sha256() -> None:
    assert primitives.hash_bytes(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.binary(max_size=40), st.lists(st.binary(max_size=20), max_size=4))
def test_labelled_hash(label: bytes, parts: list[bytes]) -> None:
    expected = hashlib.sha256(label + b"\0" + b"".join(parts)).digest()
    assert primitives.hash_labelled(label, *parts) == expected


def _expand_label(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """XL of protocol §1 with hashlib and hmac only."""
    name = b"msgapp2 " + label
    info = length.to_bytes(2, "big") + bytes([len(name)]) + name + bytes([len(context)]) + context
    output, block, number = b"", b"", 1
    while len(output) < length:
        block = hmac.digest(secret, block + info + bytes([number]), "sha256")
        output, number = output + block, number + 1
    return output[:length]


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=32), st.integers(1, 100))
def test_expand_label_against_hmac(secret: bytes, context: bytes, length: int) -> None:
    made = primitives.expand_bytes(MasterSecret(secret), b"c2s traffic", context, length)
    assert made == _expand_label(secret, b"c2s traffic", context, length)


def test_expand_label_gives_the_type_that_was_asked_for() -> None:
    made = primitives.expand_label(MasterSecret(bytes(32)), b"exporter", b"", ExporterSecret)
    assert type(made) is ExporterSecret
    assert made.expose() == _expand_label(bytes(32), b"exporter", b"", 32)


def test_label_context_and_length_separate() -> None:
    secret = MasterSecret(bytes(32))
    made = {
        primitives.expand_bytes(secret, label, context, length)[:16]
        for label, context, length in [
            (b"a", b"", 32),
            (b"b", b"", 32),
            (b"a", b"b", 32),
            (b"a", b"", 16),
            (b"", b"a", 32),
        ]
    }
    assert len(made) == 5


def test_the_counter_is_little_endian_so_the_first_twelve_bytes_are_never_constant() -> None:
    assert counter_bytes(1) == b"\x01" + bytes(15)
    assert counter_bytes(256) == b"\x00\x01" + bytes(14)
    assert len({counter_bytes(number)[:12] for number in range(2000)}) == 2000
    with pytest.raises(OverflowError):
        counter_bytes(2**128)


def test_a_record_is_tag_then_ciphertext_and_uses_the_first_twelve_bytes_as_iv() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    counter = counter_bytes(0x0102)
    sealed = RecordCipher(KEY).seal(counter, b"plain", b"associated")
    reference = AESGCM(KEY.expose()).encrypt(counter[:12], b"plain", b"associated")
    assert sealed == reference[-16:] + reference[:-16]
    assert RecordCipher(KEY).open(counter, sealed, b"associated") == b"plain"


def test_every_byte_of_a_record_counts() -> None:
    cipher, counter = RecordCipher(KEY), counter_bytes(7)
    sealed = cipher.seal(counter, b"plain", b"associated")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(OpenFailed):
            cipher.open(counter, bytes(changed), b"associated")
    for wrong_counter, wrong_aad in ((counter_bytes(8), b"associated"), (counter, b"associatee"), (counter, b"")):
        with pytest.raises(OpenFailed):
            cipher.open(wrong_counter, sealed, wrong_aad)
    with pytest.raises(OpenFailed):
        RecordCipher(SessionKey(bytes(32))).open(counter, sealed, b"associated")


@given(st.binary(max_size=40))
def test_garbage_never_opens(garbage: bytes) -> None:
    with pytest.raises(OpenFailed) as failed:
        RecordCipher(KEY).open(counter_bytes(0), garbage, b"")
    assert str(failed.value) == "a sealed message did not open"
    with pytest.raises(OpenFailed):
        primitives.open_once(HandshakeKey(bytes(32)), garbage, b"")


def test_the_single_message_under_a_handshake_key() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = HandshakeKey(bytes(range(32)))
    sealed = primitives.seal_once(key, b"plain", b"th")
    assert sealed == AESGCM(key.expose()).encrypt(bytes(12), b"plain", b"th")
    assert primitives.open_once(key, sealed, b"th") == b"plain"
    with pytest.raises(OpenFailed):
        primitives.open_once(key, sealed, b"TH")


def test_same() -> None:
    assert primitives.same(b"ab", b"ab")
    assert not primitives.same(b"ab", b"ac")
    assert not primitives.same(b"ab", b"abc")
