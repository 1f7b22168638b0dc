"""Keys and ciphertexts of strangers: identities, signatures, temporary keys, ratchet keys, key files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messageapp_keys.codec import Malformed, reading_untrusted, tlvs, u8, vec8, vec16, vec24
from messageapp_keys.databasekey import DatabaseKey, SealedDatabaseKey, seal_database_key
from messageapp_keys.identity import IdentityBundle, PrivateIdentity, read_signatures, write_signatures
from messageapp_keys.kem import (
    HYBRID,
    SUITES,
    SWIFT,
    diffie_hellman_untrusted,
    encapsulate_untrusted,
    load_mlkem_untrusted,
)
from messageapp_keys.keystore import Argon2Cost, KeyFileCorrupt, SealedIdentity, WrongPassphrase, stretch
from messageapp_keys.pem import PemRefused, export_public_pem, import_private_pem, import_public_pem
from messageapp_keys.signing import (
    SignatureAlgorithm,
    UnusableKey,
    VerifyingKey,
    load_verifying_key_untrusted,
    public_der,
)
from messageapp_keys.vectorkeys import load_temporary_key_untrusted

from . import material
from .target import Harness, Target, require

__all__ = ["TARGETS"]

BODY = b"what is signed"
LABEL = b"label"


def _bundles() -> list[PrivateIdentity]:
    rows = [("ed25519", False), ("ed25519", True), ("rsa", False), ("rsa", True)]
    return [material.identity(kind=kind, post_quantum=pq) for kind, pq in rows]


def _bundle() -> Harness:
    def attack(data: bytes) -> None:
        bundle = IdentityBundle.parse_untrusted(data)
        require(bundle.encode() == data and len(bundle.key_id) == 32, "one identity can be written in two ways")
        require(import_public_pem(export_public_pem(bundle).encode()) == bundle, "its PEM is another identity")

    return Harness(attack, [who.bundle.encode() for who in _bundles()])


def _signatures() -> Harness:
    """Signatures under a bundle of two keys: none but the genuine ones."""
    who = material.identity(post_quantum=True)

    def attack(data: bytes) -> None:
        with reading_untrusted(data) as reader:
            signatures = read_signatures(reader)
        if not who.bundle.verify_untrusted(LABEL, BODY, signatures):
            raise Malformed("a signature does not verify")

    genuine = [(0x0807, material.recording()["signature ed25519"]), (0x0905, material.recording()["signature ml-dsa"])]
    return Harness(attack, [write_signatures(tuple(genuine))])


def _keys() -> dict[int, Any]:
    return {
        SignatureAlgorithm.RSA_PSS: material.rsa_key(),
        SignatureAlgorithm.ECDSA_P256: material.p256("leaf"),
        SignatureAlgorithm.ED25519: material.identity()._keys[0],
        SignatureAlgorithm.ML_DSA_65: mldsa.MLDSA65PrivateKey.from_seed_bytes(material.drawn("alice")),
    }


def _signature(algorithm: SignatureAlgorithm, name: str) -> Harness:
    """One signature alone. Of ECDSA (r, n - s) is a signature too, which no mutation will find."""
    verifier = VerifyingKey.of(_keys()[algorithm].public_key())

    def attack(data: bytes) -> None:
        if not verifier.verify_untrusted(LABEL, BODY, data):
            raise Malformed("a signature does not verify")

    return Harness(attack, [material.recording()[f"signature {name}"]])


def _verifying_key() -> Harness:
    """`u16 algorithm | SubjectPublicKeyInfo`."""

    def attack(data: bytes) -> None:
        key = load_verifying_key_untrusted(int.from_bytes(data[:2], "big"), data[2:])
        require(public_der(key.key) == data[2:], "one key can be written in two ways")
        require(not key.verify_untrusted(LABEL, BODY, bytes(64)), "a signature of zeros verifies")

    keys = _keys()
    return Harness(attack, [code.to_bytes(2, "big") + public_der(key.public_key()) for code, key in keys.items()])


def _temp_pub() -> Harness:
    """`u8 suite | TempPub`."""

    def attack(data: bytes) -> None:
        suite = SUITES.get(data[0]) if data else None
        if suite is None:
            raise Malformed("no suite")
        encapsulated, secret = encapsulate_untrusted(suite, data[1:], material.seeded("K"))
        require(len(secret) == 32 * len(suite.components) and len(encapsulated) < 2000, "a secret has a wrong length")

    return Harness(attack, [u8(suite.code) + material.temporary(suite).public for suite in (SWIFT, HYBRID)])


def _enc_k() -> Harness:
    """`Enc(K)` of swift: any of the right length gives some secret, as the algorithms say."""
    _, m3 = material.m2_parts()
    genuine = material.temporary().decapsulate_untrusted(m3.encapsulated, bytes(32))

    def attack(data: bytes) -> None:
        key = material.temporary()
        secret = key.decapsulate_untrusted(data, bytes(32))
        require(len(secret) == 64 and (secret != genuine or len(data) == 1120), "a secret comes of a wrong ciphertext")

    return Harness(attack, [m3.encapsulated])


def _lattice_key() -> Harness:
    def attack(data: bytes) -> None:
        require(load_mlkem_untrusted(data).public_bytes_raw() == data, "one key can be written in two ways")

    return Harness(attack, [material.ratchet_keys().ek, material.temporary().public[32:]])


def _curve_key() -> Harness:
    """Points of low order have a result of zero and are refused."""
    private = material.ratchet_keys()._x
    low = [bytes(32), u8(1) + bytes(31), (2**255 - 19).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]

    def attack(data: bytes) -> None:
        require(any(diffie_hellman_untrusted(private, data)) and data not in low, "a secret of zero was taken")

    for point in low:
        try:
            diffie_hellman_untrusted(private, point)
        except Malformed:
            continue
        require(False, "a point of low order was taken")
    return Harness(attack, [material.ratchet_keys("other").dh, u8(9) + bytes(31)])


def _ratchet_keys() -> Harness:
    """`[32] dh | [1184] ek`, as C2 and every header carry them."""

    def attack(data: bytes) -> None:
        ciphertext, secrets = material.ratchet_keys().encapsulate_untrusted(data[:32], data[32:])
        require((len(ciphertext), len(secrets)) == (1088, 64), "a secret has a wrong length")

    return Harness(attack, [material.ratchet_keys("other").public])


def _codec() -> Harness:
    """Every way to read of `Reader`, in a row; what is left are TLVs."""

    def attack(data: bytes) -> None:
        with reading_untrusted(data) as reader:
            numbers = reader.u8(), reader.u16(), reader.u24(), reader.u32(), reader.u64()
            parts = reader.vec8(), reader.vec16(), reader.vec24(), reader.ascii8().encode()
            found = reader.tlvs()
        require(reader.at_end and max(numbers) < 2**64, "bytes are left")
        require(sum(map(len, (*parts, *found.values()))) <= len(data), "more was read than there is")

    parts = vec8(b"one") + vec16(b"two") + vec24(b"three") + vec8(b"name")
    return Harness(attack, [bytes(18) + parts + tlvs({1: b"x", 7: b"", 300: bytes(9)}), bytes(18) + parts])


# Files ------------------------------------------------------------------------------------------------------------


def _key_file() -> Harness:
    """A key file and its passphrase: whatever is changed in it, it does not open."""

    def attack(data: bytes) -> None:
        sealed = SealedIdentity.parse_untrusted(data)
        if sealed.cost.kib * sealed.cost.passes > 64:
            raise KeyFileCorrupt("not tried here: a changed cost may be 16 passes over 1 GiB")
        opened = sealed.unseal("pass")
        require(opened.bundle == material.identity().bundle, "another key came out")

    return Harness(attack, [material.recording()["key file"]])


def _database_key() -> Harness:
    """The key file of an account's database, likewise."""
    key, numbers = DatabaseKey(material.drawn("database key", 32)), count()
    whole = seal_database_key(
        key,
        ["pass"],
        cost=Argon2Cost(kib=8, passes=1),
        random=lambda size: material.drawn(f"database key {next(numbers)}", size),
    )

    def attack(data: bytes) -> None:
        sealed = SealedDatabaseKey.parse_untrusted(data)
        if any(wrap.cost.kib * wrap.cost.passes > 64 for wrap in sealed.wraps):
            raise KeyFileCorrupt("not tried here: a changed cost may be 16 passes over 1 GiB")
        require(sealed.open("pass") == key, "another key came out")

    return Harness(attack, [whole])


def _key_file_insider() -> Harness:
    """The plaintext of a key file, sealed rightly: a file that somebody made up with the passphrase."""
    sealed = SealedIdentity.parse_untrusted(material.recording()["key file"])
    cipher = AESGCM(stretch("pass", sealed.salt, sealed.cost))

    def attack(data: bytes) -> None:
        parts = {name: getattr(sealed, name) for name in SealedIdentity.__slots__}
        parts["sealed"] = cipher.encrypt(sealed.nonce, data, sealed.header)
        opened = SealedIdentity(**parts).unseal("pass")
        require(opened.bundle == material.identity().bundle, "another key came out")

    return Harness(attack, [cipher.decrypt(sealed.nonce, sealed.sealed, sealed.header)])


def _pem(read: Callable[[bytes], PrivateIdentity | IdentityBundle], name: str) -> Harness:
    def attack(data: bytes) -> None:
        found = read(data)
        bundle = found.bundle if isinstance(found, PrivateIdentity) else found
        require(IdentityBundle.parse_untrusted(bundle.encode()) == bundle, "a key was taken that is none")

    return Harness(attack, material.recording()[name])


def _vector_key() -> Harness:
    """The private fields of a vector, each behind a length."""

    def attack(data: bytes) -> None:
        with reading_untrusted(data) as reader:
            fields = {"temp_x25519": reader.vec8(), "temp_mlkem_seed": reader.vec8()}
        key = load_temporary_key_untrusted(SWIFT, fields)
        require(len(key.public) == 32 + 1184, "a key of another size")

    case = next(case for case in material.vectors()["cases"] if case["suite"] == SWIFT.code)
    return Harness(attack, [vec8(bytes.fromhex(case["temp_x25519"])) + vec8(bytes.fromhex(case["temp_mlkem_seed"]))])


_MALFORMED = (Malformed,)

TARGETS = (
    Target("codec", _codec, _MALFORMED),
    Target("identity", _bundle, _MALFORMED, mutations=20_000),
    Target("identity-signatures", _signatures, _MALFORMED, sealed=True, mutations=5000),
    *(
        Target(f"signature-{name}", partial(_signature, code, name), _MALFORMED, sealed=True, mutations=5000)
        for name, code in zip(("rsa", "p256", "ed25519", "ml-dsa"), SignatureAlgorithm, strict=True)
    ),
    Target("verifying-key", _verifying_key, (UnusableKey,), mutations=20_000),
    Target("temp-pub", _temp_pub, _MALFORMED, mutations=10_000),
    Target("enc-k", _enc_k, _MALFORMED, mutations=20_000),
    Target("ml-kem-key", _lattice_key, _MALFORMED, mutations=20_000),
    Target("x25519-key", _curve_key, _MALFORMED, mutations=20_000),
    Target("ratchet-keys", _ratchet_keys, _MALFORMED, mutations=5000),
    Target("key-file", _key_file, (KeyFileCorrupt, WrongPassphrase), sealed=True, mutations=20_000),
    Target("database-key", _database_key, (KeyFileCorrupt, WrongPassphrase), sealed=True, mutations=20_000),
    Target("key-file-insider", _key_file_insider, (KeyFileCorrupt,), mutations=5000),
    Target("public-pem", lambda: _pem(import_public_pem, "public pem"), (PemRefused,), mutations=20_000),
    Target(
        "private-pem",
        lambda: _pem(lambda data: import_private_pem(data, None), "private pem"),
        (PemRefused,),
        mutations=2000,
    ),
    Target("vector-keys", _vector_key, _MALFORMED, mutations=5000),
)
