"""Published vectors through our wrappers: how many of each file are used, how many cannot be, and why.

A wrong parameter of ours (the order of nonce or tag, the length of a salt, a mask's hash, a context, Argon2's lanes)
fails here. The numbers are exact, and every file of the folders stands in one of the two tables, so nothing is left out
silently: a release of `cryptography-vectors` that has more fails until somebody has looked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from messageapp_keys import signing
from messageapp_keys.fingerprint import numeric_fingerprint, safety_number
from messageapp_keys.primitives import OpenFailed, open_once, seal_once
from messageapp_keys.types import HandshakeKey
from support.keys import rsa_key
from vectors import rsa_padding
from vectors.agreement import MLKEM_FILE, X25519_FILE, check_oaep_wrapper, diffie_hellman, ml_kem, oaep
from vectors.published import FOLDER, Block, Drive, blocks, colons, drive, evp, examples, whole
from vectors.signatures import (
    bad_public_key,
    ecdsa,
    ecdsa_rfc6979,
    ed25519_signature,
    ml_dsa,
    pss_certificate,
    pss_other_salt,
    public_key,
)
from vectors.symmetric import argon2id, gcm, hkdf


@dataclass(frozen=True)
class Row:
    """One file: how it is read, what one of its vectors goes through, and what becomes of them all."""

    read: Callable[[str], Iterator[Block]]
    one: Drive
    used: int
    passed_over: dict[str, int] = field(default_factory=dict)


def _with(needs: str) -> Callable[[str], Iterator[Block]]:
    return lambda file: blocks(file, needs)


GCM, RSA, ECDSA = "ciphers/AES/GCM/", "asymmetric/RSA/", "asymmetric/ECDSA/"
_GCM: Final = {"an IV that is not 12 bytes long": 5250, "a tag that is not 16 bytes long": 2250}
_CURVES: Final = {"another curve": 1050, "another hash": 60}
_SMALL, _EXPONENT = "a modulus below 2048 bits, refused", "another exponent than 65537, refused"

USED: Final = {
    GCM + "gcmEncryptExtIV256.rsp": Row(_with("Count"), gcm, 375, _GCM),
    GCM + "gcmDecrypt256.rsp": Row(_with("Count"), gcm, 375, _GCM),
    "KDF/rfc-5869-HKDF-SHA256.txt": Row(_with("OKM"), hkdf, 3),
    "KDF/hkdf-generated.txt": Row(_with("OKM"), hkdf, 1),
    "KDF/argon2id.txt": Row(
        _with("output"),
        argon2id,
        2,
        {"a secret and associated data": 1, "another length than 32 bytes, and a salt of 8": 3},
    ),
    X25519_FILE: Row(_with("INPUT_U"), diffie_hellman, 3),
    MLKEM_FILE: Row(_with("pk"), ml_kem, 1000),
    RSA + "oaep-custom/oaep-sha256-sha256.txt": Row(examples, oaep, 60),
    "asymmetric/MLDSA/kat_MLDSA_65_det_pure.rsp": Row(_with("sm"), ml_dsa, 100),
    "asymmetric/Ed25519/sign.input": Row(colons, ed25519_signature, 1024),
    "asymmetric/Ed25519/ed25519-pub.der": Row(whole, public_key, 1),
    "asymmetric/Ed25519/ed25519-pub-non-zero-unused-bits.der": Row(whole, bad_public_key, 1),
    ECDSA + "FIPS_186-3/SigVer.rsp": Row(_with("Msg"), ecdsa, 15, _CURVES),
    ECDSA + "FIPS_186-3/SigGen.rsp": Row(_with("Msg"), ecdsa, 15, _CURVES),
    ECDSA + "FIPS_186-3/SigGen.txt": Row(_with("Msg"), ecdsa, 15, _CURVES),
    ECDSA + "RFC6979/evppkey_ecdsa_rfc6979.txt": Row(evp, ecdsa_rfc6979, 6, {"another curve": 420, "another hash": 24}),
    # RSA-PSS: files with a salt of 20, 20, 0 and 10 bytes, all to be refused; certificates with 32, 32 and 20
    RSA + "FIPS_186-2/SigGenPSS_186-2.rsp": Row(_with("Msg"), pss_other_salt, 30, {"another hash": 200, _SMALL: 20}),
    RSA + "FIPS_186-2/SigGenPSS_186-2.txt": Row(_with("Msg"), pss_other_salt, 30, {"another hash": 200, _SMALL: 20}),
    RSA + "FIPS_186-2/SigGenPSS_186-3.rsp": Row(
        _with("Msg"), pss_other_salt, 0, {"another hash": 200, _SMALL: 20, _EXPONENT: 30}
    ),
    RSA + "FIPS_186-2/SigVerPSS_186-3.rsp": Row(
        _with("Msg"), pss_other_salt, 17, {"another hash": 360, _SMALL: 36, _EXPONENT: 37}
    ),
    "x509/custom/rsa_pss_cert.pem": Row(whole, pss_certificate, 1),
    "x509/custom/rsa_pss_sha256_no_null.pem": Row(whole, pss_certificate, 1),
    "x509/custom/ca/rsae_ca.pem": Row(whole, pss_certificate, 1),
}

_HASHES: Final = ("sha1", "sha224", "sha256", "sha384", "sha512")
NOT_OURS: Final = {
    "a key of another length": {
        GCM + f"gcm{way}{bits}.rsp" for way in ("EncryptExtIV", "Decrypt") for bits in (128, 192)
    },
    "another derivation": {
        f"KDF/{name}.txt"
        for name in ("ansx963_2001", "argon2d", "argon2i", "nist-800-108-KBKDF-CTR", "rfc-5869-HKDF-SHA1", "scrypt")
    }
    | {"KDF/rfc-6070-PBKDF2-SHA1.txt"},
    "another size of ML-KEM or ML-DSA": {
        *(f"asymmetric/MLKEM/kat_MLKEM_{size}.rsp" for size in (512, 1024)),
        *(f"asymmetric/MLDSA/kat_MLDSA_{size}_det_pure.rsp" for size in (44, 87)),
        *(f"asymmetric/MLDSA/mldsa44_{half}.der" for half in ("priv", "pub")),
    },
    "a private key in a file: its form is the library's affair": {
        *(f"asymmetric/MLKEM/mlkem768.{form}" for form in ("der", "pem")),
        "asymmetric/MLDSA/mldsa65_noseed_priv.der",
        *(f"asymmetric/{kind}/{kind.lower()}-pkcs8{how}" for kind in ("X25519", "Ed25519")
          for how in (".der", ".pem", "-enc.der", "-enc.pem")),
    },
    "a public key in a form that the protocol does not have": {
        "asymmetric/X25519/x25519-pub.der", "asymmetric/X25519/x25519-pub.pem", "asymmetric/Ed25519/ed25519-pub.pem",
    },
    "ECDSA: keys without a signature, SHA-1 only, or another curve": {
        *(ECDSA + f"FIPS_186-{edition}/{name}.rsp" for edition in (2, 3) for name in ("KeyPair", "PKV")),
        *(ECDSA + f"FIPS_186-2/{name}" for name in ("SigGen.rsp", "SigGen.txt", "SigVer.rsp")),
        ECDSA + "SECP256K1/SigGen.txt",
    },
    "RSA: PKCS #1 v1.5, X9.31, keys only": {
        *(RSA + name for name in ("SigVer15EMTest.txt", "pkcs1v15crypt-vectors.txt", "pkcs1v15sign-vectors.txt")),
        *(RSA + f"FIPS_186-2/{name}" for name in (
            "KeyGenRSA.rsp", "SigGen15_186-2.rsp", "SigGen15_186-2.txt", "SigGen15_186-3.rsp", "SigGenRSA.rsp",
            "SigGenRSA_186-2.rsp", "SigGenRSA_186-2.txt", "SigVer15_186-3.rsp", "SigVerRSA.rsp")),
    },
    "RSA: another hash or mask": {
        RSA + "oaep-label.txt",
        *(RSA + f"pkcs-1v2-1d2-vec/{name}.txt" for name in ("oaep-int", "oaep-vect", "pss-int", "pss-vect")),
        *(RSA + f"oaep-custom/oaep-{digest}-{mask}.txt" for digest in _HASHES for mask in _HASHES
          if (digest, mask) not in (("sha256", "sha256"), ("sha1", "sha1"))),
    },
    "a text for people": {
        RSA + "FIPS_186-2/Readme.txt", RSA + "pkcs-1v2-1d2-vec/readme.txt",
        *(ECDSA + f"FIPS_186-{edition}/Readme.txt" for edition in (2, 3)),
    },
}  # fmt: skip
FOLDERS: Final = (
    GCM,
    "KDF",
    "asymmetric/X25519",
    "asymmetric/MLKEM",
    "asymmetric/MLDSA",
    "asymmetric/Ed25519",
    ECDSA,
    RSA,
)


@pytest.mark.parametrize("file", USED)
def test_published_vectors(file: str) -> None:
    row = USED[file]
    assert drive(row.read(file), row.one) == (row.used, row.passed_over)


def test_every_file_is_used_or_named_with_its_reason() -> None:
    found = {
        path.relative_to(FOLDER).as_posix()
        for folder in FOLDERS
        for path in (FOLDER / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    named = [file for files in NOT_OURS.values() for file in files]
    assert len(named) == len(set(named))
    assert not set(named) & set(USED)
    assert found == set(named) | {file for file in USED if not file.startswith("x509/")}


def test_oaep_with_our_label_against_the_second_encoder() -> None:
    check_oaep_wrapper()


def test_our_pss_signatures_have_a_salt_of_32_random_bytes() -> None:
    """The way of signing: the second verifier, which the published vectors have shown to be right, reads the salt."""
    key = rsa_key("pss", 2048)
    numbers = key.public_key().public_numbers()
    made = [signing.sign(key, b"label", b"body") for _ in range(2)]
    salts = [rsa_padding.pss_salt(numbers.n, numbers.e, b" " * 64 + b"label\0body", signature) for signature in made]
    assert [salt and len(salt) for salt in salts] == [32, 32]
    assert salts[0] != salts[1]


# McGrew and Viega, The Galois/Counter Mode of Operation, test cases 13 and 14: the only ones with a 256-bit key and the
# nonce of zeros that M3, C3 and C4 have.
ONCE: Final = {
    "": "530f8afbc74536b9a963b4f1c4cb738b",
    "00" * 16: "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
}


@pytest.mark.parametrize("plaintext", ONCE)
def test_the_single_message_under_a_handshake_key(plaintext: str) -> None:
    key, sealed = HandshakeKey(bytes(32)), bytes.fromhex(ONCE[plaintext])
    assert seal_once(key, bytes.fromhex(plaintext), b"") == sealed
    assert open_once(key, sealed, b"") == bytes.fromhex(plaintext)
    with pytest.raises(OpenFailed):
        open_once(key, sealed[-16:] + sealed[:-16] + b"x", b"")


# libsignal, rust/protocol/src/fingerprint.rs, `fingerprint_test_v1` and `_v2` (in Java `testVectorsVersion1` and `2`):
# the digits are the same in both versions, the scannable form differs in its version byte only.
ALICE: Final = ("0506863bc66d02b40d27b8d49ca7c09e9239236f9d7d25d6fcca5ce13c7064d868", "+14152222222")
BOB: Final = ("05f781b6fb32fed9ba1cf2de978d4d5da28dc34046ae814402b5c0dbd96fda907b", "+14153333333")
DIGITS: Final = "300354477692869396892869876765458257569162576843440918079131"
SCANNABLE: Final = (
    "080{version}12220a201e301a0353dce3dbe7684cb8336e85136cdc0ee96219494ada305d62a7bd61df"
    "1a220a20d62cbf73a11592015b6b9f1682ac306fea3aaf3885b84d12bca631e9d4fb3a4d"
)


def test_signals_numeric_fingerprint() -> None:
    """The safety number is that function itself, with our bundle and user@server in the place of key and number."""
    (a, a_id), (b, b_id) = ((bytes.fromhex(key), name) for key, name in (ALICE, BOB))
    assert safety_number(a, a_id, b, b_id) == safety_number(b, b_id, a, a_id) == DIGITS
    halves = [numeric_fingerprint(key, name.encode())[:32].hex() for key, name in ((a, a_id), (b, b_id))]
    for version in (1, 2):
        assert f"080{version}12220a20{halves[0]}1a220a20{halves[1]}" == SCANNABLE.format(version=version)
