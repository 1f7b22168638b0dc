"""Suites and temporary keys: what is accepted of a stranger, and that failing decapsulation says nothing."""

import hmac
import os

import pytest
from cryptography.exceptions import InternalError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, padding, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp_keys import labels
from messageapp_keys.codec import Malformed, vec16
from messageapp_keys.kem import (
    CLASSIC,
    DEFAULT_SUITES,
    HYBRID,
    SUITES,
    SWIFT,
    Suite,
    TemporaryKey,
    encapsulate_untrusted,
    generate_rsa,
    prepare_rsa,
)
from messageapp_keys.signing import public_der
from support.keys import rsa_key, seeded, temporary

REJECTION = bytes(range(32))
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
each_suite = pytest.mark.parametrize("suite", list(SUITES.values()), ids=[suite.name for suite in SUITES.values()])


def test_codes_names_and_defaults() -> None:
    assert [(suite.code, suite.name, suite.needs_rsa) for suite in SUITES.values()] == [
        (1, "classic", True),
        (2, "hybrid", True),
        (3, "swift", False),
    ]
    assert DEFAULT_SUITES == (HYBRID, SWIFT)


@each_suite
def test_both_sides_get_the_same_secrets(suite: Suite) -> None:
    key = temporary(suite)
    ciphertext, made = encapsulate_untrusted(suite, key.public, os.urandom)
    assert key.decapsulate_untrusted(ciphertext, REJECTION) == made
    assert len(made) == {"classic": 32, "hybrid": 96, "swift": 64}[suite.name]


@each_suite
def test_sizes_are_those_of_the_protocol(suite: Suite) -> None:
    key = temporary(suite)
    ciphertext, _ = encapsulate_untrusted(suite, key.public, os.urandom)
    publics, ciphertexts = {"classic": (424, 384), "hybrid": (1640, 1504), "swift": (1216, 1120)}[suite.name]
    assert (len(key.public), len(ciphertext)) == (publics, ciphertexts)


@each_suite
def test_a_temporary_key_serves_once_whatever_came(suite: Suite) -> None:
    key = temporary(suite)
    ciphertext, _ = encapsulate_untrusted(suite, key.public, os.urandom)
    with pytest.raises(Malformed):
        key.decapsulate_untrusted(ciphertext[:-1], REJECTION)
    with pytest.raises(RuntimeError, match="once"):
        key.decapsulate_untrusted(ciphertext, REJECTION)


@each_suite
def test_enc_k_has_exactly_its_length(suite: Suite) -> None:
    ciphertext, _ = encapsulate_untrusted(suite, temporary(suite).public, os.urandom)
    for wrong in (b"", ciphertext[:-1], ciphertext + b"\0"):
        with pytest.raises(Malformed):
            temporary(suite).decapsulate_untrusted(wrong, REJECTION)


@each_suite
def test_temp_pub_has_exactly_its_length(suite: Suite) -> None:
    public = temporary(suite).public
    for wrong in (b"", public[:-1], public + b"\0"):
        with pytest.raises(Malformed):
            encapsulate_untrusted(suite, wrong, os.urandom)


def test_fresh_secrets_every_time() -> None:
    public = temporary(HYBRID).public
    first, second = (encapsulate_untrusted(HYBRID, public, os.urandom) for _ in range(2))
    assert all(a != b for a, b in zip(first, second, strict=True))
    for start in (0, 32, 64):  # each component on its own
        assert first[1][start : start + 32] != second[1][start : start + 32]


def test_the_secret_of_the_rsa_component_comes_from_random() -> None:
    _, made = encapsulate_untrusted(CLASSIC, temporary(CLASSIC).public, seeded(3))
    assert made == seeded(3)(32)


# RSA temporary keys -----------------------------------------------------------------------------------------------


def _odd(bits: int) -> int:
    return (1 << bits) - 105


def _der(exponent: int, modulus: int) -> bytes:
    return public_der(rsa.RSAPublicNumbers(exponent, modulus).public_key())


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes((size,)) if size < 128 else bytes((0x82,)) + size.to_bytes(2, "big")
    return bytes((tag,)) + length + content


RSA_OID = bytes.fromhex("06092a864886f70d010101")
PSS_OID = bytes.fromhex("06092a864886f70d01010a")


def _pkcs1(exponent: int, modulus: int) -> bytes:
    return _tlv(0x30, b"".join(_tlv(2, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in (modulus, exponent)))


def _numbers_der(exponent: int, modulus: int, algorithm: bytes = RSA_OID + b"\x05\x00") -> bytes:
    """SubjectPublicKeyInfo written by hand: the library does not make keys this bad."""
    return _tlv(0x30, _tlv(0x30, algorithm) + _tlv(3, b"\0" + _pkcs1(exponent, modulus)))


def test_the_hand_made_der_is_right_for_a_good_key() -> None:
    numbers = rsa_key("temporary").public_key().public_numbers()
    assert _numbers_der(numbers.e, numbers.n) == public_der(rsa_key("temporary").public_key())


GOOD_N = rsa_key("temporary").public_key().public_numbers().n
BAD_RSA = {
    "2048 bits": public_der(rsa_key("2048", 2048).public_key()),
    "3071 bits": _der(65537, _odd(3071)),
    "3073 bits": _der(65537, _odd(3073)),
    "4096 bits": _der(65537, _odd(4096)),
    "e = 3": _der(3, GOOD_N),
    "e = 65539": _der(65539, GOOD_N),
    "e = 1": _numbers_der(1, GOOD_N),
    "e = 0": _numbers_der(0, GOOD_N),
    "e even": _numbers_der(65536, GOOD_N),
    "n even": _numbers_der(65537, GOOD_N - 1),
    "n zero": _numbers_der(65537, 0),
    "a byte behind": public_der(rsa_key("temporary").public_key()) + b"\0",
    "length in three bytes": b"\x30\x83\x00" + public_der(rsa_key("temporary").public_key())[2:],
    "without the NULL of its algorithm": _numbers_der(65537, GOOD_N, RSA_OID),
    "as a PSS key": _numbers_der(65537, GOOD_N, PSS_OID),
    "bare PKCS#1": _pkcs1(65537, GOOD_N),
    "P-256": public_der(ec.generate_private_key(ec.SECP256R1()).public_key()),
    "PEM": b"-----BEGIN PUBLIC KEY-----\n",
    "nothing": b"",
}


@pytest.mark.parametrize("case", list(BAD_RSA))
def test_rsa_temporary_keys_that_are_refused(case: str) -> None:
    with pytest.raises(Malformed):
        encapsulate_untrusted(CLASSIC, vec16(BAD_RSA[case]), os.urandom)
    swift = temporary(SWIFT).public
    with pytest.raises(Malformed):
        encapsulate_untrusted(HYBRID, vec16(BAD_RSA[case]) + swift, os.urandom)


def _oaep(content: bytes, label: bytes | None = labels.OAEP_TEMP_PUB, digest: type = hashes.SHA256) -> bytes:
    scheme = padding.OAEP(padding.MGF1(digest()), digest(), label)
    return rsa_key("temporary").public_key().encrypt(content, scheme)


BAD_ENC_K = {
    "wrong label": lambda: _oaep(bytes(32), b"MessageApp v1 TempPub"),
    "no label": lambda: _oaep(bytes(32), None),
    "31 bytes": lambda: _oaep(bytes(31)),
    "33 bytes": lambda: _oaep(bytes(33)),
    "no bytes": lambda: _oaep(b""),
    "SHA-1 as in the original": lambda: _oaep(bytes(32), None, hashes.SHA1),
    "PKCS#1 v1.5": lambda: rsa_key("temporary").public_key().encrypt(bytes(32), padding.PKCS1v15()),
    "all zero": lambda: bytes(384),
    "the modulus": lambda: GOOD_N.to_bytes(384, "big"),
    "above the modulus": lambda: b"\xff" * 384,
    "flipped": lambda: bytes((_oaep(bytes(32))[0] ^ 1,)) + _oaep(bytes(32))[1:],
}


@pytest.mark.parametrize("case", list(BAD_ENC_K))
def test_rsa_decapsulation_never_fails_visibly(case: str) -> None:
    ciphertext = BAD_ENC_K[case]()
    secret = temporary(CLASSIC).decapsulate_untrusted(ciphertext, REJECTION)
    assert secret == hmac.digest(REJECTION, ciphertext, "sha256")


def test_the_label_of_a_good_ciphertext_is_the_protocols() -> None:
    assert temporary(CLASSIC).decapsulate_untrusted(_oaep(b"k" * 32), REJECTION) == b"k" * 32


# X25519 and ML-KEM-768 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_points_are_refused_on_either_side(point: str) -> None:
    raw, key = bytes.fromhex(point), temporary(SWIFT)
    with pytest.raises(Malformed):
        encapsulate_untrusted(SWIFT, raw + key.public[32:], os.urandom)
    ciphertext, _ = encapsulate_untrusted(SWIFT, key.public, os.urandom)
    with pytest.raises(Malformed):
        key.decapsulate_untrusted(raw + ciphertext[32:], REJECTION)


@pytest.mark.parametrize("value", [3329, 3330, 4095])
@pytest.mark.parametrize("place", [0, 767])
def test_an_ml_kem_key_with_a_coefficient_of_q_or_more_is_refused(value: int, place: int) -> None:
    raw = bytearray(mlkem.MLKEM768PrivateKey.generate().public_key().public_bytes_raw())
    start, odd = place // 2 * 3, place % 2  # 12 bits a coefficient, two in three bytes
    if odd:
        raw[start + 1] = raw[start + 1] & 0x0F | (value & 0x0F) << 4
        raw[start + 2] = value >> 4
    else:
        raw[start] = value & 0xFF
        raw[start + 1] = raw[start + 1] & 0xF0 | value >> 8
    with pytest.raises(Malformed):
        encapsulate_untrusted(
            SWIFT, x25519.X25519PrivateKey.generate().public_key().public_bytes_raw() + raw, os.urandom
        )


def test_a_bad_ml_kem_ciphertext_is_rejected_implicitly() -> None:
    key = TemporaryKey.generate(SWIFT)
    ciphertext, made = encapsulate_untrusted(SWIFT, key.public, os.urandom)
    changed = ciphertext[:-1] + bytes((ciphertext[-1] ^ 1,))
    got = key.decapsulate_untrusted(changed, REJECTION)
    assert got[:32] == made[:32]
    assert got[32:] != made[32:]


@each_suite
@settings(max_examples=30)
@given(garbage=st.binary(max_size=1700))
def test_garbage_raises_only_malformed(suite: Suite, garbage: bytes) -> None:
    with pytest.raises(Malformed):
        encapsulate_untrusted(suite, garbage, os.urandom)


@settings(max_examples=60)
@given(st.data())
def test_one_changed_byte_of_temp_pub_raises_malformed_or_gives_no_common_secret(data: st.DataObject) -> None:
    key = temporary(HYBRID)
    public = bytearray(key.public)
    public[data.draw(st.integers(0, len(public) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        ciphertext, made = encapsulate_untrusted(HYBRID, bytes(public), os.urandom)
    except Malformed:
        return
    # The top bit of an X25519 key is ignored (RFC 7748 §5); it is the transcript that notices it.
    if public[424 + 31] & 0x7F == key.public[424 + 31] & 0x7F and public[: 424 + 31] == key.public[: 424 + 31]:
        return
    assert key.decapsulate_untrusted(ciphertext, REJECTION) != made


def test_a_temporary_key_shows_nothing() -> None:
    key = temporary(HYBRID)
    assert repr(key) == "<TemporaryKey hybrid>"
    assert len(key.fingerprint) == 32


def test_a_prepared_key_is_as_good_as_before() -> None:
    key = rsa_key("temporary")
    prepare_rsa(key)
    temporary_key = TemporaryKey(CLASSIC, [key])
    encapsulated, secret = encapsulate_untrusted(CLASSIC, temporary_key.public, os.urandom)
    assert temporary_key.decapsulate_untrusted(encapsulated, REJECTION) == secret


def test_too_little_memory_for_a_key_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise InternalError("Unknown OpenSSL error", [])

    monkeypatch.setattr(rsa, "generate_private_key", fails)
    with pytest.raises(MemoryError):
        generate_rsa()
