"""Signatures (protocol §1): four algorithms, one labelled form.

`SIG(label, body)` signs `0x20 × 64 || label || 0x00 || body`: no signature of ours means anything in another protocol
or in another message of this one (the original's login signature was valid in a chat).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa

__all__ = [
    "MAX_RSA_BITS",
    "MIN_RSA_BITS",
    "UNREADABLE_KEY",
    "PrivateKey",
    "PublicKey",
    "SignatureAlgorithm",
    "UnusableKey",
    "VerifyingKey",
    "algorithm_of",
    "load_verifying_key_untrusted",
    "sign",
]

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey

MIN_RSA_BITS: Final = 2048  # the report's own keys
MAX_RSA_BITS: Final = 4096  # a stranger's larger modulus would buy him our time
RSA_EXPONENT: Final = 65537
# DER object identifiers: other kinds of keys are not even handed to the parser.
_OIDS: Final = {
    0x0804: bytes.fromhex("06092a864886f70d010101"),
    0x0403: bytes.fromhex("06072a8648ce3d0201"),
    0x0807: bytes.fromhex("06032b6570"),
    0x0905: bytes.fromhex("0609608648016503040312"),
}
# What the library raises on a key that it cannot read; the last one for X25519 and the like of a wrong length.
UNREADABLE_KEY: Final = (ValueError, TypeError, UnsupportedAlgorithm, InternalError)
_PREFIX: Final = b"\x20" * 64
_SHA256: Final = hashes.SHA256()
_PSS: Final = padding.PSS(padding.MGF1(_SHA256), salt_length=32)
_ECDSA: Final = ec.ECDSA(_SHA256)


class SignatureAlgorithm(IntEnum):
    RSA_PSS = 0x0804
    ECDSA_P256 = 0x0403
    ED25519 = 0x0807
    ML_DSA_65 = 0x0905


_KINDS: Final = {
    SignatureAlgorithm.RSA_PSS: (rsa.RSAPublicKey, rsa.RSAPrivateKey),
    SignatureAlgorithm.ECDSA_P256: (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey),
    SignatureAlgorithm.ED25519: (ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey),
    SignatureAlgorithm.ML_DSA_65: (mldsa.MLDSA65PublicKey, mldsa.MLDSA65PrivateKey),
}
# In ML-DSA the label is also the context string of FIPS 204.
_SIGN: Final[dict[SignatureAlgorithm, Callable[[Any, bytes, bytes], bytes]]] = {
    SignatureAlgorithm.RSA_PSS: lambda key, message, label: key.sign(message, _PSS, _SHA256),
    SignatureAlgorithm.ECDSA_P256: lambda key, message, label: key.sign(message, _ECDSA),
    SignatureAlgorithm.ED25519: lambda key, message, label: key.sign(message),
    SignatureAlgorithm.ML_DSA_65: lambda key, message, label: key.sign(message, label),
}


def _verify_rsa(key: Any, signature: bytes, message: bytes, label: bytes) -> None:
    # A number from the modulus on is refused at once; without the same work the time would tell whose modulus it is.
    above = 8 * len(signature) >= key.key_size and int.from_bytes(signature, "big") >= key.public_numbers().n
    key.verify(b"\0" + b"\1" * (len(signature) - 1) if above else signature, message, _PSS, _SHA256)
    if above:
        raise InvalidSignature


_VERIFY: Final[dict[SignatureAlgorithm, Callable[[Any, bytes, bytes, bytes], None]]] = {
    SignatureAlgorithm.RSA_PSS: _verify_rsa,
    SignatureAlgorithm.ECDSA_P256: lambda key, signature, message, label: key.verify(signature, message, _ECDSA),
    SignatureAlgorithm.ED25519: lambda key, signature, message, label: key.verify(signature, message),
    SignatureAlgorithm.ML_DSA_65: lambda key, signature, message, label: key.verify(signature, message, label),
}


class UnusableKey(ValueError):
    """A public key is of a kind, size or encoding that the protocol does not take."""


def algorithm_of(key: PublicKey | PrivateKey) -> SignatureAlgorithm:
    """Raises `UnusableKey`."""
    found = _algorithm_of_kind(type(key))
    if found is None:
        raise UnusableKey("the key is of no kind that the protocol knows")
    return found


@lru_cache(32)  # a key's class says it, but asking an abstract class for each key of each login is slow
def _algorithm_of_kind(kind: type) -> SignatureAlgorithm | None:
    for algorithm, kinds in _KINDS.items():
        if issubclass(kind, kinds):
            return algorithm
    return None


def _message(label: bytes, body: bytes) -> bytes:
    return _PREFIX + label + b"\0" + body


def sign(key: PrivateKey, label: bytes, body: bytes) -> bytes:
    """SIG(label, body). About 1 ms for RSA-3072, 0.03 ms for P-256; releases the interpreter lock."""
    signature: bytes = _SIGN[algorithm_of(key)](key, _message(label, body), label)
    return signature


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key together with the one algorithm that it may be used with."""

    algorithm: SignatureAlgorithm
    key: PublicKey

    @classmethod
    def of(cls, key: PublicKey) -> VerifyingKey:
        """Raises `UnusableKey` for a size or curve that the protocol does not take."""
        algorithm = algorithm_of(key)
        if isinstance(key, rsa.RSAPublicKey):
            if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS or key.public_numbers().e != RSA_EXPONENT:
                raise UnusableKey(
                    f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits and the exponent {RSA_EXPONENT}"
                )
        elif isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, ec.SECP256R1):
            raise UnusableKey("an elliptic-curve key is on P-256")
        return cls(algorithm, key)

    def verify_untrusted(self, label: bytes, body: bytes, signature: bytes) -> bool:
        try:
            _VERIFY[self.algorithm](self.key, signature, _message(label, body), label)
        except InvalidSignature:
            return False
        return True


def public_der(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_verifying_key_untrusted(algorithm: int, der: bytes) -> VerifyingKey:
    """A key in SubjectPublicKeyInfo; the DER must be what we would write ourselves. Raises `UnusableKey`."""
    oid = _OIDS.get(algorithm)
    if oid is None or oid not in der[:24]:
        raise UnusableKey("a public key is not of the named algorithm")
    try:
        key: Any = serialization.load_der_public_key(der)
    except UNREADABLE_KEY:
        raise UnusableKey("a public key cannot be read") from None
    found = VerifyingKey.of(key)
    if found.algorithm != algorithm:
        raise UnusableKey("a public key is not of the named algorithm")
    if public_der(key) != der:
        raise UnusableKey("a public key is not in its one encoding")
    return found
