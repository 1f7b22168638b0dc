"""The private keys of known-answer vectors (protocol §19): temporary keys that are written down, and the root.

Nowhere else does a temporary key leave memory. A vector must not be readable in two ways, so what is read here has to
be exactly what would be written: otherwise a wrong bit in a key could go unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, rsa, x25519

from .certificate_reading import UNREADABLE
from .codec import Malformed
from .kem import CLASSIC, HYBRID, SWIFT, Suite, TemporaryKey
from .signing import UNREADABLE_KEY

__all__ = [
    "MLKEM_REJECTED",
    "PRIVATE_FIELDS",
    "load_root_untrusted",
    "load_temporary_key_untrusted",
    "make_temporary_key",
    "mlkem_rejected_untrusted",
]

_RSA: Final = "temp_rsa_pkcs8"  # PKCS#8 DER
_X25519: Final = "temp_x25519"  # [32], clamped
_MLKEM: Final = "temp_mlkem_seed"  # [64] d || z of FIPS 203
MLKEM_REJECTED: Final = "temp_mlkem_rejected"  # [32], see `mlkem_rejected_untrusted`

PRIVATE_FIELDS: Final = {CLASSIC.code: (_RSA,), HYBRID.code: (_RSA, _X25519, _MLKEM), SWIFT.code: (_X25519, _MLKEM)}
"""Names of the private keys of each suite, in the order of its components."""

_CIPHERTEXT_SIZE: Final = 1088


def load_temporary_key_untrusted(suite: Suite, fields: Mapping[str, bytes]) -> TemporaryKey:
    """The temporary key from `PRIVATE_FIELDS[suite.code]`, all of which must be in `fields`.

    About 140 ms with RSA, whose key is checked for consistency. `Malformed` for a key that is not in its one encoding.
    """
    return TemporaryKey(suite, [_load_untrusted(name, fields[name]) for name in PRIVATE_FIELDS[suite.code]])


def make_temporary_key(suite: Suite) -> tuple[TemporaryKey, dict[str, bytes]]:
    """A new temporary key, and its private halves in the clear. For vectors only; with RSA 120 to 560 ms."""
    privates = [component.generate() for component in suite.components]
    names = PRIVATE_FIELDS[suite.code]
    fields = {name: _dump(private) for name, private in zip(names, privates, strict=True)}
    if _MLKEM in fields:
        fields[MLKEM_REJECTED] = mlkem_rejected_untrusted(fields)
    return TemporaryKey(suite, privates), fields


def mlkem_rejected_untrusted(fields: Mapping[str, bytes]) -> bytes:
    """[32] What the ML-KEM key makes of a ciphertext of 1,088 zero bytes: its implicit rejection (FIPS 203 §6.3).

    It is the one value that depends on the second half of the seed. `Malformed` for a seed that is none.
    """
    secret: bytes = _load_untrusted(_MLKEM, fields[_MLKEM]).decapsulate(bytes(_CIPHERTEXT_SIZE))
    return secret


def load_root_untrusted(der: bytes) -> x509.Certificate:
    """The root of a vector: one certificate in DER that is signed by its own key. `Malformed` for anything else."""
    try:
        root = x509.load_der_x509_certificate(der)
        root.verify_directly_issued_by(root)
    except (InvalidSignature, *UNREADABLE):
        raise Malformed("the root is not a certificate signed by itself") from None
    return root


def _dump(private: Any) -> bytes:
    if isinstance(private, rsa.RSAPrivateKey):
        return private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    raw: bytes = private.private_bytes_raw()
    return raw


def _load_untrusted(name: str, data: bytes) -> Any:
    private: Any
    try:
        if name == _RSA:
            private = serialization.load_der_private_key(data, None)
        elif name == _X25519:
            private = x25519.X25519PrivateKey.from_private_bytes(data)
        else:
            private = mlkem.MLKEM768PrivateKey.from_seed_bytes(data)
    except UNREADABLE_KEY:
        raise Malformed(f"{name} cannot be read") from None
    if name == _RSA and not isinstance(private, rsa.RSAPrivateKey):
        raise Malformed(f"{name} is of another kind")
    clamped = name != _X25519 or (data[0] & 7 == 0 and data[31] & 0xC0 == 0x40)
    if _dump(private) != data or not clamped:
        raise Malformed(f"{name} is not in its one encoding")
    return private
