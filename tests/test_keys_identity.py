"""Identities: which bundles there are, that both signatures of two must verify, and what is refused of a stranger."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from hypothesis import given
from hypothesis import strategies as st

from messageapp_keys import labels
from messageapp_keys.codec import Malformed, Reader, u8, u16, vec16
from messageapp_keys.identity import IdentityBundle, PrivateIdentity, key_id_of, read_signatures, write_signatures
from messageapp_keys.signing import PrivateKey, algorithm_of, public_der
from support.keys import USER_KINDS, identity, rsa_key

each_kind = pytest.mark.parametrize("kind", USER_KINDS)
BODY = b"body"


@each_kind
def test_a_bundle_round_trips_and_has_its_key_id(kind: str) -> None:
    bundle = identity(kind).bundle
    data = bundle.encode()
    assert IdentityBundle.parse_untrusted(data) == bundle
    assert bundle.key_id == hashlib.sha256(b"MessageApp v2 identity\0" + data).digest()
    assert identity(kind).key_id == bundle.key_id == key_id_of(data)


@each_kind
def test_the_kind_in_words(kind: str) -> None:
    words = {
        "rsa-2048": "RSA-2048",
        "rsa-3072": "RSA-3072",
        "ed25519": "Ed25519",
        "rsa+pq": "RSA-3072 + ML-DSA-65",
        "ed25519+pq": "Ed25519 + ML-DSA-65",
    }
    assert identity(kind).bundle.kind == words[kind]


@each_kind
def test_sign_and_verify(kind: str) -> None:
    own = identity(kind)
    signatures = own.sign(labels.SIG_M3, BODY)
    assert own.bundle.verify_untrusted(labels.SIG_M3, BODY, signatures)
    assert not own.bundle.verify_untrusted(labels.SIG_C3, BODY, signatures)
    assert not own.bundle.verify_untrusted(labels.SIG_M3, BODY + b".", signatures)
    for other in USER_KINDS:
        if other != kind:
            assert not identity(other).bundle.verify_untrusted(labels.SIG_M3, BODY, signatures)


@each_kind
def test_the_keys_come_back_from_pkcs8(kind: str) -> None:
    own = identity(kind)
    again = PrivateIdentity.from_pkcs8(own.pkcs8())
    assert again.bundle == own.bundle
    assert own.bundle.verify_untrusted(labels.SIG_M3, BODY, again.sign(labels.SIG_M3, BODY))


@pytest.mark.parametrize("kind", ["rsa+pq", "ed25519+pq"])
def test_with_two_keys_both_signatures_must_verify(kind: str) -> None:
    own, other = identity(kind), identity(kind, "mallory")
    first, second = own.sign(labels.SIG_M3, BODY)
    _, foreign = other.sign(labels.SIG_M3, BODY)
    wrong = [
        (),
        (first,),
        (second,),
        (second, first),
        (first, first),
        (first, foreign),
        (first, (second[0], second[1][:-1])),
        ((first[0], bytes(len(first[1]))), second),
        (first, second, second),
        ((0x0403, first[1]), second),
        (first, (0, second[1])),
    ]
    for signatures in wrong:
        assert not own.bundle.verify_untrusted(labels.SIG_M3, BODY, signatures)


def test_one_key_takes_one_signature() -> None:
    own = identity("ed25519")
    (signature,) = own.sign(labels.SIG_M3, BODY)
    for signatures in ((), (signature, signature), ((0x0804, signature[1]),)):
        assert not own.bundle.verify_untrusted(labels.SIG_M3, BODY, signatures)


def _bundle(*keys: PrivateKey) -> bytes:
    return u8(len(keys)) + b"".join(u16(algorithm_of(key)) + vec16(public_der(key.public_key())) for key in keys)


ED, PQ = ed25519.Ed25519PrivateKey.generate(), mldsa.MLDSA65PrivateKey.generate()
P256, RSA = ec.generate_private_key(ec.SECP256R1()), rsa_key("user")


@pytest.mark.parametrize(
    "keys",
    [(), (PQ,), (P256,), (P256, PQ), (PQ, ED), (ED, ED), (ED, RSA), (RSA, ED), (ED, PQ, PQ), (PQ, PQ)],
    ids=lambda keys: "+".join(algorithm_of(key).name for key in keys) or "none",
)
def test_bundles_that_do_not_exist(keys: tuple[PrivateKey, ...]) -> None:
    with pytest.raises(Malformed):
        IdentityBundle.parse_untrusted(_bundle(*keys))
    with pytest.raises(Malformed):
        PrivateIdentity(keys)


def test_a_key_named_as_another_algorithm_is_refused() -> None:
    data = _bundle(ED)
    with pytest.raises(Malformed):
        IdentityBundle.parse_untrusted(u8(1) + u16(0x0804) + data[3:])


@pytest.mark.parametrize("kind", ["ed25519", "rsa-3072", "ed25519+pq"])
def test_cut_or_extended_bundles_are_refused(kind: str) -> None:
    data = identity(kind).bundle.encode()
    for wrong in (b"", data[:1], data[:-1], data + b"\0"):
        with pytest.raises(Malformed):
            IdentityBundle.parse_untrusted(wrong)


@given(st.binary(max_size=120))
def test_garbage_raises_only_malformed(garbage: bytes) -> None:
    with pytest.raises(Malformed):
        IdentityBundle.parse_untrusted(garbage)


@given(st.data())
def test_one_changed_byte_is_refused_or_another_identity(data: st.DataObject) -> None:
    bundle = identity("rsa-3072").bundle
    raw = bytearray(bundle.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = IdentityBundle.parse_untrusted(bytes(raw))
    except Malformed:
        return
    assert parsed.encode() == bytes(raw)
    assert parsed.key_id != bundle.key_id


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(0x0807, b"")],
        [(0x0804, identity("ed25519").pkcs8()[0][1])],
        [(0x0807, identity("rsa-3072").pkcs8()[0][1])],
        identity("ed25519+pq").pkcs8()[::-1],
    ],
    ids=["none", "empty", "Ed25519 as RSA", "RSA as Ed25519", "order"],
)
def test_stored_keys_that_are_not_what_they_say(parts: list[tuple[int, bytes]]) -> None:
    with pytest.raises(Malformed):
        PrivateIdentity.from_pkcs8(parts)


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=50)), min_size=1, max_size=2).map(tuple))
def test_signature_lists_round_trip(signatures: tuple[tuple[int, bytes], ...]) -> None:
    reader = Reader(write_signatures(signatures))
    assert read_signatures(reader) == signatures
    assert reader.at_end


@pytest.mark.parametrize("count", [0, 3, 255])
def test_there_are_one_or_two_signatures(count: int) -> None:
    with pytest.raises(Malformed):
        read_signatures(Reader(u8(count) + (u16(1) + vec16(b"")) * count))


def test_a_generated_identity_is_of_the_kind_asked_for() -> None:
    assert PrivateIdentity.generate("ed25519").bundle.kind == "Ed25519"
    assert PrivateIdentity.generate("ed25519", post_quantum=True).bundle.kind == "Ed25519 + ML-DSA-65"
    assert PrivateIdentity.generate().bundle.kind == "RSA-3072"


def test_an_identity_shows_its_key_id_only() -> None:
    own = identity("ed25519")
    assert repr(own) == f"<PrivateIdentity {own.key_id.hex()[:16]}>"
