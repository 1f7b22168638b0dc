"""SHA-256, HKDF, AES-256-GCM: our parameters, in one place.

This module is the only maker of nonces. Why none repeats under one key:

- records (`counter_nonce`): the counter is little-endian, so its low 12 bytes, the IV, differ for 2^96 records; it is
  never reset in a session, and each direction has a key of its own (protocol §5);
- ratchet messages: as records, and each message has a key of its own, with a random salt in its derivation (§10);
- M3, C3 and C4 (`seal_once`): the key comes out of a transcript with fresh randomness from both sides and seals
  exactly one message, so the constant nonce is used once (§4.4, §8).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import constant_time, hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from .codec import u16, vec8
from .types import HandshakeKey, Secret

__all__ = [
    "COUNTER_SIZE",
    "TAG_SIZE",
    "Buffer",
    "OpenFailed",
    "Random",
    "RecordCipher",
    "counter_bytes",
    "expand",
    "expand_bytes",
    "expand_label",
    "extract",
    "hash_bytes",
    "hash_labelled",
    "hmac_sha256",
    "open_once",
    "same",
    "seal_once",
]

Random = Callable[[int], bytes]
"""Gives that many random bytes: `os.urandom`, or a seeded source in a simulation."""

TAG_SIZE: Final = 16
COUNTER_SIZE: Final = 16
_SHA256: Final = hashes.SHA256()
_NONCE_SIZE: Final = 12
_ONCE: Final = bytes(_NONCE_SIZE)
_VIEWED: Final = 8192  # from this length on a view is cheaper than a copy

Buffer = bytes | bytearray | memoryview

S = TypeVar("S", bound=Secret)


class OpenFailed(Exception):
    """A sealed message did not open. Nothing more is said, and nothing of the plaintext is kept."""

    def __init__(self) -> None:
        super().__init__("a sealed message did not open")


def hash_bytes(data: bytes) -> bytes:
    """SHA-256, [32]."""
    return hashes.Hash.hash(_SHA256, data)


def hash_labelled(label: bytes, *parts: bytes) -> bytes:
    """H(label || 00 || parts), the form of every transcript hash."""
    return hash_bytes(label + b"\0" + b"".join(parts))


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    mac = hmac.HMAC(key, _SHA256)
    mac.update(data)
    return mac.finalize()


def extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869 §2.2)."""
    return hmac_sha256(salt, secret)


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 §2.3)."""
    return HKDFExpand(_SHA256, length, info).derive(key)


def expand_label(secret: Secret, label: bytes, context: bytes, kind: type[S]) -> S:
    """XL of protocol §1; the length is that of `kind`."""
    return kind(expand_bytes(secret, label, context, kind.SIZE))


def expand_bytes(secret: Secret, label: bytes, context: bytes, length: int) -> bytes:
    """XL for what is not secret: identifiers and the like."""
    return expand(secret.expose(), _info(label, length) + vec8(context), length)


@lru_cache(64)  # the labels are few
def _info(label: bytes, length: int) -> bytes:
    return u16(length) + vec8(b"msgapp2 " + label)


def same(left: bytes, right: bytes) -> bool:
    """Equality in constant time."""
    return constant_time.bytes_eq(left, right)


def counter_bytes(counter: int) -> bytes:
    """The 16-byte counter of the report, little-endian: the one field of the protocol that is."""
    return counter.to_bytes(COUNTER_SIZE, "little")


class RecordCipher:
    """AES-256-GCM under one key, one counter a message; the layout is tag || ciphertext (protocol §5, §10.1)."""

    __slots__ = ("_aead",)

    def __init__(self, key: Secret) -> None:
        self._aead = AESGCM(key.expose())

    def seal(self, counter: bytes, plaintext: Buffer, associated: bytes) -> bytes:
        return b"".join(self.seal_apart(counter, plaintext, associated))

    def seal_apart(self, counter: bytes, plaintext: Buffer, associated: bytes) -> tuple[Buffer, Buffer]:
        """(tag, ciphertext): `seal` without the copy that puts one before the other."""
        sealed = self._aead.encrypt(counter[:_NONCE_SIZE], plaintext, associated)
        whole = sealed if len(sealed) < _VIEWED else memoryview(sealed)
        return whole[-TAG_SIZE:], whole[:-TAG_SIZE]

    def open(self, counter: bytes, sealed: Buffer, associated: bytes) -> bytes:
        """`OpenFailed` for every reason alike."""
        return bytes(self.open_buffer(counter, sealed[:TAG_SIZE], sealed[TAG_SIZE:], associated))

    def open_buffer(self, counter: bytes, tag: Buffer, ciphertext: Buffer, associated: bytes) -> bytearray:
        """`open` into a buffer that is the caller's."""
        plaintext = bytearray(len(ciphertext))
        try:
            self._aead.decrypt_into(counter[:_NONCE_SIZE], b"".join((ciphertext, tag)), associated, plaintext)
        except (InvalidTag, ValueError):
            raise OpenFailed from None
        return plaintext


def seal_once(key: HandshakeKey, plaintext: bytes, associated: bytes) -> bytes:
    """The single message under a handshake key: ciphertext || tag, nonce zero."""
    return AESGCM(key.expose()).encrypt(_ONCE, plaintext, associated)


def open_once(key: HandshakeKey, sealed: bytes, associated: bytes) -> bytes:
    """`OpenFailed` for every reason alike."""
    try:
        return AESGCM(key.expose()).decrypt(_ONCE, sealed, associated)
    except (InvalidTag, ValueError):
        raise OpenFailed from None
