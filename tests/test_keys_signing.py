"""Signatures: four algorithms, one labelled form, one parameter set each."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from messageapp_keys import labels
from messageapp_keys.signing import (
    PrivateKey,
    SignatureAlgorithm,
    UnusableKey,
    VerifyingKey,
    algorithm_of,
    load_verifying_key_untrusted,
    public_der,
    sign,
)
from support.keys import rsa_key

BODY = b"body"
SIG = (labels.SIG_M2, labels.SIG_M3, labels.SIG_C2, labels.SIG_C3)
KEYS: dict[str, PrivateKey] = {
    "rsa": rsa_key("2048", 2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate(),
}
each_key = pytest.mark.parametrize("key", list(KEYS.values()), ids=list(KEYS))


def message(label: bytes, body: bytes) -> bytes:
    return b" " * 64 + label + b"\0" + body


@each_key
def test_a_signature_verifies_under_its_own_label_and_body_only(key: PrivateKey) -> None:
    verifier = VerifyingKey.of(key.public_key())
    signature = sign(key, labels.SIG_M3, BODY)
    assert verifier.verify_untrusted(labels.SIG_M3, BODY, signature)
    assert not verifier.verify_untrusted(labels.SIG_M3, BODY + b"\0", signature)
    for other in SIG:
        assert verifier.verify_untrusted(other, BODY, signature) == (other == labels.SIG_M3)


@each_key
def test_any_changed_cut_or_extended_signature_is_refused(key: PrivateKey) -> None:
    verifier = VerifyingKey.of(key.public_key())
    signature = sign(key, labels.SIG_M3, BODY)
    flipped = [bytes((signature[0] ^ 1,)) + signature[1:], signature[:-1] + bytes((signature[-1] ^ 1,))]
    for wrong in [*flipped, b"", signature[:-1], signature + b"\0", bytes(len(signature)), bytes(5000)]:
        assert not verifier.verify_untrusted(labels.SIG_M3, BODY, wrong)


class Watched:
    """An RSA key that notes which numbers it is asked about."""

    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self.key_size, self.public_numbers, self._verify = key.key_size, key.public_numbers, key.verify
        self.asked: list[int] = []

    def verify(self, signature: bytes, *others: Any) -> None:
        self.asked.append(int.from_bytes(signature, "big"))
        self._verify(signature, *others)


def test_an_rsa_signature_from_the_modulus_on_costs_what_another_does() -> None:
    """The library refuses such a number at once, so the time would tell whose modulus it is."""
    key = Watched(rsa_key("2048", 2048).public_key())
    modulus = key.public_numbers().n
    verifier = VerifyingKey(SignatureAlgorithm.RSA_PSS, key)  # type: ignore[arg-type]
    for number in (modulus, modulus + 1, 2**2048 - 1, modulus - 1, 5):
        assert not verifier.verify_untrusted(labels.SIG_M3, BODY, number.to_bytes(256, "big"))
    assert len(key.asked) == 5
    assert all(number < modulus for number in key.asked)
    assert verifier.verify_untrusted(labels.SIG_M3, BODY, sign(rsa_key("2048", 2048), labels.SIG_M3, BODY))


@each_key
def test_another_key_of_the_same_kind_does_not_verify(key: PrivateKey) -> None:
    others: dict[SignatureAlgorithm, PrivateKey] = {
        SignatureAlgorithm.RSA_PSS: rsa_key("user"),
        SignatureAlgorithm.ECDSA_P256: ec.generate_private_key(ec.SECP256R1()),
        SignatureAlgorithm.ED25519: ed25519.Ed25519PrivateKey.generate(),
        SignatureAlgorithm.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate(),
    }
    signature = sign(others[algorithm_of(key)], labels.SIG_M3, BODY)
    assert not VerifyingKey.of(key.public_key()).verify_untrusted(labels.SIG_M3, BODY, signature)


@given(st.binary(max_size=600))
def test_garbage_is_false_and_never_an_exception(garbage: bytes) -> None:
    for key in KEYS.values():
        assert not VerifyingKey.of(key.public_key()).verify_untrusted(labels.SIG_M2, BODY, garbage)


@pytest.mark.parametrize("salt", [0, 20, 31, 33])
def test_pss_takes_a_salt_of_32_bytes_and_no_other(salt: int) -> None:
    key = rsa_key("2048", 2048)
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    signature = key.sign(message(labels.SIG_M2, BODY), scheme, hashes.SHA256())
    assert not VerifyingKey.of(key.public_key()).verify_untrusted(labels.SIG_M2, BODY, signature)


SCHEMES: list[tuple[Any, hashes.HashAlgorithm]] = [
    (padding.PKCS1v15(), hashes.SHA256()),
    (padding.PSS(padding.MGF1(hashes.SHA1()), 32), hashes.SHA256()),  # noqa: S303 - that it is refused is the point
    (padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA256()),
    (padding.PSS(padding.MGF1(hashes.SHA512()), 32), hashes.SHA512()),
]


@pytest.mark.parametrize(("scheme", "digest"), SCHEMES)
def test_other_rsa_schemes_are_refused(scheme: Any, digest: hashes.HashAlgorithm) -> None:
    key = rsa_key("2048", 2048)
    signature = key.sign(message(labels.SIG_M2, BODY), scheme, digest)
    assert not VerifyingKey.of(key.public_key()).verify_untrusted(labels.SIG_M2, BODY, signature)


def test_the_signed_bytes_are_64_spaces_label_zero_body() -> None:
    key = KEYS["ed25519"]
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert sign(key, labels.SIG_C3, BODY) == key.sign(message(labels.SIG_C3, BODY))


def test_ml_dsa_has_the_label_as_context_as_well() -> None:
    key = mldsa.MLDSA65PrivateKey.generate()
    verifier = VerifyingKey.of(key.public_key())
    assert verifier.verify_untrusted(labels.SIG_M3, BODY, key.sign(message(labels.SIG_M3, BODY), labels.SIG_M3))
    assert not verifier.verify_untrusted(labels.SIG_M3, BODY, key.sign(message(labels.SIG_M3, BODY)))


@each_key
def test_a_public_key_round_trips(key: PrivateKey) -> None:
    found = load_verifying_key_untrusted(algorithm_of(key), public_der(key.public_key()))
    assert found.algorithm == algorithm_of(key)
    assert found.verify_untrusted(labels.SIG_M2, BODY, sign(key, labels.SIG_M2, BODY))


@each_key
def test_a_public_key_under_another_algorithm_is_refused(key: PrivateKey) -> None:
    for algorithm in [*SignatureAlgorithm, 0, 0x0401]:
        if algorithm != algorithm_of(key):
            with pytest.raises(UnusableKey):
                load_verifying_key_untrusted(algorithm, public_der(key.public_key()))


def spki(key: Any) -> bytes:
    der: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return der


def _odd(bits: int) -> int:
    return (1 << bits) - 105  # a modulus need not factor for this


def _rebuilt(algorithm: bytes) -> bytes:
    """A good RSA key under another algorithm identifier; the library reads these."""
    content = public_der(KEYS["rsa"].public_key())[4 + 15 :]
    return b"\x30\x82" + (len(algorithm) + len(content)).to_bytes(2, "big") + algorithm + content


def test_what_is_rebuilt_is_right_for_the_right_algorithm() -> None:
    der = public_der(KEYS["rsa"].public_key())
    assert _rebuilt(bytes.fromhex("300d06092a864886f70d0101010500")) == der


REFUSED: dict[str, tuple[int, Callable[[], bytes]]] = {
    "1024 bits": (0x0804, lambda: spki(rsa.RSAPublicNumbers(65537, _odd(1024)).public_key())),
    "2047 bits": (0x0804, lambda: spki(rsa.RSAPublicNumbers(65537, _odd(2047)).public_key())),
    "4097 bits": (0x0804, lambda: spki(rsa.RSAPublicNumbers(65537, _odd(4097)).public_key())),
    "16384 bits": (0x0804, lambda: spki(rsa.RSAPublicNumbers(65537, _odd(16384)).public_key())),
    "exponent 3": (0x0804, lambda: spki(rsa.RSAPublicNumbers(3, _odd(3072)).public_key())),
    "P-384": (0x0403, lambda: spki(ec.generate_private_key(ec.SECP384R1()).public_key())),
    "Ed448": (0x0807, lambda: spki(ed448.Ed448PrivateKey.generate().public_key())),
    "X25519": (0x0807, lambda: spki(x25519.X25519PrivateKey.generate().public_key())),
    "ML-DSA-44": (0x0905, lambda: spki(mldsa.MLDSA44PrivateKey.generate().public_key())),
    "ML-DSA-87": (0x0905, lambda: spki(mldsa.MLDSA87PrivateKey.generate().public_key())),
    "empty": (0x0804, lambda: b""),
    "without the NULL of its algorithm": (0x0804, lambda: _rebuilt(bytes.fromhex("300b06092a864886f70d010101"))),
    "as a PSS key": (0x0804, lambda: _rebuilt(bytes.fromhex("300b06092a864886f70d01010a"))),
    "behind it": (0x0807, lambda: public_der(KEYS["ed25519"].public_key()) + b"\0"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_unusable_public_keys(case: str) -> None:
    algorithm, make = REFUSED[case]
    with pytest.raises(UnusableKey):
        load_verifying_key_untrusted(algorithm, make())


def test_a_key_in_non_minimal_der_is_refused() -> None:
    der = public_der(KEYS["ed25519"].public_key())
    longer = b"\x30\x81" + der[1:]  # the length 42 in two bytes
    with pytest.raises(UnusableKey):
        load_verifying_key_untrusted(SignatureAlgorithm.ED25519, longer)


@given(st.sampled_from(list(KEYS)), st.data())
def test_mutated_public_keys_raise_the_declared_exception_or_stay_exact(name: str, data: st.DataObject) -> None:
    key = KEYS[name]
    der = bytearray(public_der(key.public_key()))
    position = data.draw(st.integers(0, len(der) - 1))
    der[position] ^= data.draw(st.integers(1, 255))
    try:
        found = load_verifying_key_untrusted(algorithm_of(key), bytes(der))
    except UnusableKey:
        return
    assert public_der(found.key) == bytes(der)
