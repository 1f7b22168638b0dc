"""Long-term identities (protocol §3): one signing key, or two of which both must agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

from . import labels
from .codec import Malformed, Reader, reading_untrusted, u8, u16, vec16
from .primitives import hash_labelled
from .signing import (
    RSA_EXPONENT,
    UNREADABLE_KEY,
    PrivateKey,
    SignatureAlgorithm,
    UnusableKey,
    VerifyingKey,
    algorithm_of,
    load_verifying_key_untrusted,
    public_der,
    sign,
)

__all__ = ["IdentityBundle", "PrivateIdentity", "Signatures", "key_id_of", "read_signatures", "write_signatures"]

RSA_BITS: Final = 3072
_FIRST: Final = (SignatureAlgorithm.RSA_PSS, SignatureAlgorithm.ED25519)
_SECOND: Final = SignatureAlgorithm.ML_DSA_65
_ALLOWED: Final = {(int(first),) for first in _FIRST} | {(int(first), int(_SECOND)) for first in _FIRST}

Signatures = tuple[tuple[int, bytes], ...]


def write_signatures(signatures: Signatures) -> bytes:
    """`u8 n | n × (u16 sigalg | vec16 signature)`, the form in M3, C2 and C3."""
    return u8(len(signatures)) + b"".join(u16(algorithm) + vec16(value) for algorithm, value in signatures)


def read_signatures(reader: Reader) -> Signatures:
    count = reader.u8()
    if count not in (1, 2):
        raise Malformed("there are one or two signatures")
    return tuple([(reader.u16(), reader.vec16()) for _ in range(count)])


def key_id_of(encoded: bytes) -> bytes:
    """[32] The key_id of the bundle with this encoding (protocol §3.1), unread."""
    return hash_labelled(labels.IDENTITY, encoded)


@dataclass(frozen=True)
class IdentityBundle:
    """The public half: (sigalg, SubjectPublicKeyInfo DER), one or two."""

    keys: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        return u8(len(self.keys)) + b"".join([u16(algorithm) + vec16(der) for algorithm, der in self.keys])

    @cached_property
    def key_id(self) -> bytes:
        return key_id_of(self.encode())

    @cached_property
    def _verifiers(self) -> tuple[VerifyingKey, ...]:
        return tuple([load_verifying_key_untrusted(algorithm, der) for algorithm, der in self.keys])

    @classmethod
    def parse_untrusted(cls, data: bytes) -> IdentityBundle:
        """`Malformed` for a combination, key or encoding that the protocol does not take."""
        return cls.read_untrusted(data).checked_untrusted()

    @classmethod
    def read_untrusted(cls, data: bytes) -> IdentityBundle:
        """An allowed combination, its keys not looked at yet: `checked_untrusted` does that. `Malformed`."""
        with reading_untrusted(data) as reader:
            bundle = cls(tuple([(reader.u16(), reader.vec16()) for _ in range(reader.u8())]))
        return bundle._combined_untrusted()

    @staticmethod
    def allows(algorithms: Sequence[int]) -> bool:
        """Are these the algorithms of an identity, in this order?"""
        return tuple(algorithms) in _ALLOWED

    @property
    def signature_sizes(self) -> tuple[tuple[int, int], ...]:
        """Of each key the algorithm and, for RSA, the bytes of a signature, else 0; of keys that are not checked yet.

        RFC 8017 A.1.1: the modulus is the first INTEGER. From 2048 bits on its length stands at one place.
        """
        return tuple(
            [
                (algorithm, int.from_bytes(der[30:32], "big") - (der[32:33] == b"\0") if algorithm == _FIRST[0] else 0)
                for algorithm, der in self.keys
            ]
        )

    def checked_untrusted(self) -> IdentityBundle:
        """Itself, with keys that can be used. `Malformed`."""
        try:
            _ = self._combined_untrusted()._verifiers
        except UnusableKey as error:
            raise Malformed(str(error)) from None
        return self

    def _combined_untrusted(self) -> IdentityBundle:
        if not self.allows([algorithm for algorithm, _ in self.keys]):
            raise Malformed("an identity is RSA or Ed25519, alone or together with ML-DSA-65")
        return self

    def verify_untrusted(self, label: bytes, body: bytes, signatures: Signatures) -> bool:
        """True only if there is one signature by each key, in the bundle's order, and every one verifies.

        All are checked whatever the first one gives, so that the time does not tell which was wrong.
        """
        if len(signatures) != len(self._verifiers):
            # As much work as a bundle of the right shape.
            signatures = tuple((0, b"") for _ in self._verifiers)
        results = [
            verifier.verify_untrusted(label, body, value) and verifier.algorithm == algorithm
            for verifier, (algorithm, value) in zip(self._verifiers, signatures, strict=True)
        ]
        return all(results)

    @property
    def kind(self) -> str:
        names = {
            SignatureAlgorithm.RSA_PSS: "RSA",
            SignatureAlgorithm.ED25519: "Ed25519",
            SignatureAlgorithm.ML_DSA_65: "ML-DSA-65",
        }
        parts = []
        for verifier in self._verifiers:
            bits = f"-{verifier.key.key_size}" if isinstance(verifier.key, rsa.RSAPublicKey) else ""
            parts.append(names[verifier.algorithm] + bits)
        return " + ".join(parts)


class PrivateIdentity:
    """The private keys behind a bundle; they live only here and, sealed, in the key store."""

    __slots__ = ("_keys", "bundle")

    def __init__(self, keys: Sequence[PrivateKey]) -> None:
        """Raises `Malformed` where the keys make no allowed bundle."""
        self._keys = tuple(keys)
        self.bundle = IdentityBundle(
            tuple((int(algorithm_of(key)), public_der(key.public_key())) for key in self._keys)
        ).checked_untrusted()

    @classmethod
    def generate(cls, kind: Literal["rsa", "ed25519"] = "rsa", *, post_quantum: bool = False) -> PrivateIdentity:
        """RSA-3072 takes 120 to 560 ms: not for the event loop."""
        first: PrivateKey
        if kind == "rsa":
            first = rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)
        else:
            first = ed25519.Ed25519PrivateKey.generate()
        return cls([first, mldsa.MLDSA65PrivateKey.generate()] if post_quantum else [first])

    @property
    def key_id(self) -> bytes:
        return self.bundle.key_id

    def __repr__(self) -> str:
        return f"<PrivateIdentity {self.key_id.hex()[:16]}>"

    def sign(self, label: bytes, body: bytes) -> Signatures:
        return tuple((int(algorithm_of(key)), sign(key, label, body)) for key in self._keys)

    def pkcs8(self) -> list[tuple[int, bytes]]:
        """(sigalg, unencrypted PKCS#8 DER) of each key, for the key store to seal."""
        return [
            (
                int(algorithm_of(key)),
                key.private_bytes(
                    serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ),
            )
            for key in self._keys
        ]

    @classmethod
    def from_pkcs8(cls, parts: Sequence[tuple[int, bytes]]) -> PrivateIdentity:
        """The reverse. Raises `Malformed`.

        The bytes were authenticated by the key store, so the 35 ms consistency check of an RSA key is left out.
        """
        keys: list[PrivateKey] = []
        for algorithm, der in parts:
            try:
                key = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
            except UNREADABLE_KEY:
                raise Malformed("a private key cannot be read") from None
            if (
                not isinstance(key, PrivateKey)
                or isinstance(key, ec.EllipticCurvePrivateKey)
                or algorithm_of(key) != algorithm
            ):
                raise Malformed("a private key is of another kind than it says")
            keys.append(key)
        return cls(keys)
