"""RSA-PSS, ECDSA on P-256, Ed25519 and ML-DSA-65: published vectors through `signing`.

No vector has our label in front of its message. So `_message`, which puts it there, is taken away, and all else of the
wrapper is as it runs; `test_derivations.py` has known answers with the label.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from messageapp_keys import signing
from messageapp_keys.signing import SignatureAlgorithm, UnusableKey, VerifyingKey, load_verifying_key_untrusted

from . import rsa_padding
from .published import Block

# SubjectPublicKeyInfo up to the key itself: RFC 5480 (uncompressed point), RFC 8410, RFC 9881
_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_ED25519 = bytes.fromhex("302a300506032b6570032100")
_ML_DSA_65 = bytes.fromhex("308207b2300b0609608648016503040312038207a100")


@contextmanager
def unlabelled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "_message", lambda label, body: body)
        yield


def _verifies(algorithm: int, der: bytes, message: bytes, signature: bytes, label: bytes = b"") -> bool:
    key = load_verifying_key_untrusted(algorithm, der)
    with unlabelled():
        return key.verify_untrusted(label, message, signature)


def ed25519_signature(vector: Block) -> str | None:
    private, public, message, signature = (
        bytes.fromhex(vector[name]) for name in ("private", "public", "message", "signature")
    )
    with unlabelled():
        assert signing.sign(ed25519.Ed25519PrivateKey.from_private_bytes(private), b"", message) == signature
    assert _verifies(SignatureAlgorithm.ED25519, _ED25519 + public, message, signature)
    assert not _verifies(SignatureAlgorithm.ED25519, _ED25519 + public, message + b"x", signature)
    return None


def ml_dsa(vector: Block) -> str | None:
    """The context string is our label. Our own signatures are hedged, so they are verified, not compared."""
    public, message, signed, context = (bytes.fromhex(vector[name]) for name in ("pk", "msg", "sm", "ctx"))
    signature, algorithm = signed[: len(signed) - len(message)], SignatureAlgorithm.ML_DSA_65
    assert _verifies(algorithm, _ML_DSA_65 + public, message, signature, context)
    assert not _verifies(algorithm, _ML_DSA_65 + public, message, signature, b"")
    private = mldsa.MLDSA65PrivateKey.from_seed_bytes(bytes.fromhex(vector["xi"]))
    assert signing.public_der(private.public_key()) == _ML_DSA_65 + public
    with unlabelled():
        own = signing.sign(private, context, message)
    assert _verifies(algorithm, _ML_DSA_65 + public, message, own, context)
    return None


def ecdsa(vector: Block) -> str | None:
    """SigGen has good signatures only; SigVer says which are good."""
    curve, _, digest = vector["section"].partition(",")
    if curve != "P-256":
        return "another curve"
    if digest != "SHA-256":
        return "another hash"
    der = _P256 + bytes.fromhex(vector["Qx"].zfill(64) + vector["Qy"].zfill(64))
    signature = encode_dss_signature(int(vector["R"], 16), int(vector["S"], 16))
    good = vector.get("Result", "P").startswith("P")
    try:
        found = _verifies(SignatureAlgorithm.ECDSA_P256, der, bytes.fromhex(vector["Msg"]), signature)
    except UnusableKey:  # a point that is not on the curve
        found = False
    assert found is good
    return None


def ecdsa_rfc6979(vector: Block) -> str | None:
    """The signature of a signing block must verify as well; nonces of ours are random."""
    if "P-256" not in vector["Key"]:
        return "another curve"
    if vector.get("DigestSign", vector.get("DigestVerify")) != "SHA256":
        return "another hash"
    der = load_pem_public_key(vector["pem"].encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    message = vector["Input"].strip('"').encode()
    found = _verifies(SignatureAlgorithm.ECDSA_P256, der, message, bytes.fromhex(vector["Output"]))
    assert found is (vector.get("Result") != "VERIFY_ERROR")
    return None


def pss_other_salt(vector: Block) -> str | None:
    """No file has a salt of 32 bytes: a signature that is good but for that must be refused.

    That it is good the second verifier says, which reads the salt out of it; a bad one has none.
    """
    if vector["SHAAlg"] != "SHA256":
        return "another hash"
    n, e = int(vector["n"], 16), int(vector["e"], 16)
    key = rsa.RSAPublicNumbers(e, n).public_key()
    small = n.bit_length() < 2048
    if small or e != 65537:
        with pytest.raises(UnusableKey):
            VerifyingKey.of(key)
        return "a modulus below 2048 bits, refused" if small else "another exponent than 65537, refused"
    message, signature = bytes.fromhex(vector["Msg"]), bytes.fromhex(vector["S"])
    salt = rsa_padding.pss_salt(n, e, message, signature)
    assert (salt is not None) is vector.get("Result", "P").startswith("P")
    assert salt is None or salt.hex() == vector.get("SaltVal", salt.hex())
    assert not _verifies(SignatureAlgorithm.RSA_PSS, signing.public_der(key), message, signature)
    return None


def pss_certificate(vector: Block) -> str | None:
    """A certificate signed by its own key: SHA-256, MGF1-SHA-256, and our salt of 32 bytes in two of them."""
    data = bytes.fromhex(vector["hex"])
    certificate = x509.load_pem_x509_certificate(data)
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    der, numbers = signing.public_der(key), key.public_numbers()
    message, signature = certificate.tbs_certificate_bytes, certificate.signature
    salt = rsa_padding.pss_salt(numbers.n, numbers.e, message, signature)
    assert salt is not None
    assert _verifies(SignatureAlgorithm.RSA_PSS, der, message, signature) is (len(salt) == 32)
    assert not _verifies(SignatureAlgorithm.RSA_PSS, der, message + b"x", signature)
    return None


def public_key(vector: Block) -> str | None:
    """A public key in its one encoding is read; one with bits that mean nothing is not."""
    load_verifying_key_untrusted(SignatureAlgorithm.ED25519, bytes.fromhex(vector["hex"]))
    return None


def bad_public_key(vector: Block) -> str | None:
    with pytest.raises(UnusableKey):
        public_key(vector)
    return None
