"""Temporary keys and suites (protocol §4.2).

A suite is a list of key-encapsulation components in fixed order; TempPub, Enc(K) and the input keying material are
the concatenations of what the components give. Breaking a suite means breaking each of its components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from cryptography.exceptions import InternalError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, padding, rsa, x25519

from . import labels
from .codec import Malformed, Reader, vec16
from .primitives import hash_bytes, hmac_sha256
from .signing import RSA_EXPONENT, UNREADABLE_KEY, public_der

__all__ = [
    "CLASSIC",
    "DEFAULT_SUITES",
    "HYBRID",
    "PAIR_SIZE",
    "SUITES",
    "SWIFT",
    "Suite",
    "TemporaryKey",
    "encapsulate_untrusted",
    "export_pair",
    "generate_rsa",
    "import_pair",
    "prepare_rsa",
]

RSA_BITS: Final = 3072
_RSA_CIPHERTEXT: Final = RSA_BITS // 8
_NO_CIPHERTEXT: Final = bytes(_RSA_CIPHERTEXT - 1) + b"\2"
_SECRET: Final = 32
_X_SIZE: Final = 32
PAIR_SIZE: Final = _X_SIZE + 64  # an exported X25519 key and ML-KEM seed
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), labels.OAEP_TEMP_PUB)


class Component(Protocol):
    """One key-encapsulation mechanism. `random` draws the RSA secret; the others draw their own from the system."""

    def generate(self) -> Any: ...
    def public(self, private: Any) -> bytes: ...
    def read_public_untrusted(self, reader: Reader) -> Any: ...
    def encapsulate_untrusted(self, public: Any, random: Callable[[int], bytes]) -> tuple[bytes, bytes]: ...
    def read_ciphertext_untrusted(self, reader: Reader) -> bytes: ...
    def decapsulate_untrusted(self, private: Any, ciphertext: bytes, rejection: bytes) -> bytes: ...


def generate_rsa() -> rsa.RSAPrivateKey:
    """RSA-3072; 120 to 560 ms, so made ahead and off the event loop. Releases the interpreter lock. `MemoryError`."""
    try:
        return rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)
    except InternalError:  # what the library makes of OpenSSL's lack of memory; nothing else fails here
        raise MemoryError from None


def prepare_rsa(key: rsa.RSAPrivateKey) -> None:
    """Spare the first decryption in this thread 0.6 ms: OpenSSL makes blinding values then, for each thread its own.

    Takes 1.3 ms, whereafter a decryption takes 0.7.
    """
    with suppress(ValueError):
        key.decrypt(_NO_CIPHERTEXT, _OAEP)


class _Rsa:
    """The report's own: K is 32 random bytes under RSA-OAEP (RFC 8017 §7.1, SHA-256, MGF1-SHA-256, our label)."""

    generate = staticmethod(generate_rsa)

    def public(self, private: rsa.RSAPrivateKey) -> bytes:
        return vec16(public_der(private.public_key()))

    def read_public_untrusted(self, reader: Reader) -> rsa.RSAPublicKey:
        der = reader.vec16()
        try:
            key = serialization.load_der_public_key(der)
        except UNREADABLE_KEY:
            raise Malformed("the temporary RSA key cannot be read") from None
        if not isinstance(key, rsa.RSAPublicKey):
            raise Malformed("the temporary RSA key is of another kind")
        numbers = key.public_numbers()
        if key.key_size != RSA_BITS or numbers.e != RSA_EXPONENT or numbers.n % 2 == 0 or public_der(key) != der:
            raise Malformed("the temporary RSA key is not a plain 3072-bit one")
        return key

    def encapsulate_untrusted(self, public: rsa.RSAPublicKey, random: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        secret = random(_SECRET)
        return public.encrypt(secret, _OAEP), secret

    def read_ciphertext_untrusted(self, reader: Reader) -> bytes:
        return reader.take(_RSA_CIPHERTEXT)

    def decapsulate_untrusted(self, private: rsa.RSAPrivateKey, ciphertext: bytes, rejection: bytes) -> bytes:
        # Both values are always made, so that a bad ciphertext costs what a good one does and fails only when opened.
        substitute = hmac_sha256(rejection, ciphertext)
        try:
            secret = private.decrypt(ciphertext, _OAEP)
        except ValueError:
            return substitute
        return secret if len(secret) == _SECRET else substitute


class _X25519:
    """X25519 (RFC 7748) with an ephemeral key of the encapsulating side as ciphertext."""

    def generate(self) -> x25519.X25519PrivateKey:
        return x25519.X25519PrivateKey.generate()

    def public(self, private: x25519.X25519PrivateKey) -> bytes:
        return private.public_key().public_bytes_raw()

    def read_public_untrusted(self, reader: Reader) -> bytes:
        return reader.take(32)

    def encapsulate_untrusted(self, public: bytes, random: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        private = x25519.X25519PrivateKey.generate()
        return private.public_key().public_bytes_raw(), diffie_hellman_untrusted(private, public)

    def read_ciphertext_untrusted(self, reader: Reader) -> bytes:
        return reader.take(32)

    def decapsulate_untrusted(self, private: x25519.X25519PrivateKey, ciphertext: bytes, rejection: bytes) -> bytes:
        return diffie_hellman_untrusted(private, ciphertext)


class _MlKem768:
    """ML-KEM-768 (FIPS 203); a bad ciphertext is rejected implicitly by the algorithm itself."""

    def generate(self) -> mlkem.MLKEM768PrivateKey:
        return mlkem.MLKEM768PrivateKey.generate()

    def public(self, private: mlkem.MLKEM768PrivateKey) -> bytes:
        return private.public_key().public_bytes_raw()

    def read_public_untrusted(self, reader: Reader) -> mlkem.MLKEM768PublicKey:
        return load_mlkem_untrusted(reader.take(1184))

    def encapsulate_untrusted(
        self, public: mlkem.MLKEM768PublicKey, random: Callable[[int], bytes]
    ) -> tuple[bytes, bytes]:
        secret, ciphertext = public.encapsulate()
        return ciphertext, secret

    def read_ciphertext_untrusted(self, reader: Reader) -> bytes:
        return reader.take(1088)

    def decapsulate_untrusted(self, private: mlkem.MLKEM768PrivateKey, ciphertext: bytes, rejection: bytes) -> bytes:
        return private.decapsulate(ciphertext)


def diffie_hellman_untrusted(private: x25519.X25519PrivateKey, public: bytes) -> bytes:
    """X25519; `Malformed` for the low-order points, whose result is all zero."""
    try:
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Malformed("an X25519 key gives a shared secret of zero") from None


def load_mlkem_untrusted(raw: bytes) -> mlkem.MLKEM768PublicKey:
    """`Malformed` where FIPS 203 §7.2 refuses the encapsulation key (length, a coefficient of q or more)."""
    try:
        return mlkem.MLKEM768PublicKey.from_public_bytes(raw)
    except ValueError:
        raise Malformed("an ML-KEM-768 key is not valid") from None


def export_pair(x: x25519.X25519PrivateKey, kem: mlkem.MLKEM768PrivateKey) -> bytes:
    """[32] X25519 || [64] ML-KEM-768 seed (d || z of FIPS 203), for an encrypted file only."""
    return bytes(x.private_bytes_raw()) + bytes(kem.private_bytes_raw())


def import_pair(data: bytes) -> tuple[x25519.X25519PrivateKey, mlkem.MLKEM768PrivateKey]:
    """The reverse of `export_pair`. `Malformed` for another length."""
    if len(data) != PAIR_SIZE:
        raise Malformed("a private key pair has not its length")
    return (
        x25519.X25519PrivateKey.from_private_bytes(data[:_X_SIZE]),
        mlkem.MLKEM768PrivateKey.from_seed_bytes(data[_X_SIZE:]),
    )


@dataclass(frozen=True, slots=True)
class Suite:
    code: int
    name: str
    components: tuple[Component, ...]
    needs_rsa: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs_rsa", any(isinstance(component, _Rsa) for component in self.components))


CLASSIC: Final = Suite(0x0001, "classic", (_Rsa(),))
HYBRID: Final = Suite(0x0002, "hybrid", (_Rsa(), _X25519(), _MlKem768()))
SWIFT: Final = Suite(0x0003, "swift", (_X25519(), _MlKem768()))
SUITES: Final = {suite.code: suite for suite in (CLASSIC, HYBRID, SWIFT)}
DEFAULT_SUITES: Final = (HYBRID, SWIFT)


class TemporaryKey:
    """The private halves for one key offer. `decapsulate_untrusted` works once: forward secrecy ends with reuse."""

    __slots__ = ("_privates", "public", "suite")

    def __init__(self, suite: Suite, privates: Sequence[Any]) -> None:
        self.suite = suite
        self._privates: Sequence[Any] | None = privates
        self.public = b"".join([c.public(p) for c, p in zip(suite.components, privates, strict=True)])

    @classmethod
    def generate(cls, suite: Suite, rsa_key: rsa.RSAPrivateKey | None = None) -> TemporaryKey:
        """`rsa_key`, made ahead by `generate_rsa`, saves the one slow step."""
        return cls(
            suite,
            [rsa_key if rsa_key is not None and isinstance(c, _Rsa) else c.generate() for c in suite.components],
        )

    @classmethod
    def from_private_bytes(cls, data: bytes) -> TemporaryKey:
        """A key of `SWIFT` out of what `private_bytes` gave. `Malformed` for another length."""
        return cls(SWIFT, import_pair(data))

    def private_bytes(self) -> bytes:
        """[96] The private halves of a key of `SWIFT` that has not served yet, for an encrypted file only."""
        if self.suite is not SWIFT or self._privates is None:
            raise RuntimeError("only an unused temporary key of swift can be stored")
        return export_pair(*self._privates)

    @property
    def fingerprint(self) -> bytes:
        return hash_bytes(self.public)

    def __repr__(self) -> str:
        return f"<TemporaryKey {self.suite.name}>"

    def decapsulate_untrusted(self, ciphertext: bytes, rejection: bytes) -> bytes:
        """The input keying material, 32 bytes a component. `Malformed` for a wrong length or a zero X25519 result.

        `rejection` is the per-process key of protocol §4.4: a bad RSA ciphertext yields an HMAC under it, not an error.
        """
        privates, self._privates = self._privates, None
        if privates is None:
            raise RuntimeError("a temporary key serves once")
        reader = Reader(ciphertext)
        parts = [component.read_ciphertext_untrusted(reader) for component in self.suite.components]
        reader.end()
        return b"".join(
            [
                component.decapsulate_untrusted(private, part, rejection)
                for component, private, part in zip(self.suite.components, privates, parts, strict=True)
            ]
        )


def encapsulate_untrusted(suite: Suite, temp_pub: bytes, random: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """(Enc(K), input keying material) for a stranger's TempPub. `Malformed` where one of its keys is not acceptable."""
    reader = Reader(temp_pub)
    publics = [component.read_public_untrusted(reader) for component in suite.components]
    reader.end()
    made = [c.encapsulate_untrusted(p, random) for c, p in zip(suite.components, publics, strict=True)]
    return b"".join(part for part, _ in made), b"".join(secret for _, secret in made)
