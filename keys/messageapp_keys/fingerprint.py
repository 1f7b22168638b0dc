"""Numbers that two people read to each other: the safety number of a pair and the short fingerprint of one key.

The safety number is Signal's numeric fingerprint with this project's key and name put in (protocol §11). For each of
the two parties

    h = u16 0 || K || id, then 5,200 times h = SHA-512(h || K)

with K = the encoded identity bundle and id = user@server; thirty digits come from the first 30 bytes of h. The
repetition makes it costly to search for a second key whose digits look alike; the two halves are sorted, so both people
see the same sixty digits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives import hashes

__all__ = ["ITERATIONS", "group_digits", "key_fingerprint", "numeric_fingerprint", "safety_code", "safety_number"]

ITERATIONS: Final = 5200
_VERSION: Final = b"\x00\x00"
_CHUNKS: Final = 6  # of five bytes, each five digits
_CODE_BYTES: Final = 32  # of each party in a QR code
_KEY_FINGERPRINT_BYTES: Final = 16  # 128 bits: a second key with the same short text is out of reach


def numeric_fingerprint(key: bytes, identifier: bytes, iterations: int = ITERATIONS) -> bytes:
    """The iterated hash of one party, 64 bytes; 30 of them make its digits, 32 go into a QR code.

    ``key`` is whatever stands for the party's key (here an encoded identity bundle), ``identifier`` its name as UTF-8.
    Takes about 10 ms: keep it out of a loop. Raises ValueError if ``iterations`` is below 1.

    Source: protocol §11; libsignal, numeric fingerprint version 0.
    """
    if iterations < 1:
        raise ValueError("iterations must be at least 1")
    algorithm = hashes.SHA512()
    one_shot = hashes.Hash.hash
    digest = _VERSION + key + identifier
    for _ in range(iterations):
        digest = one_shot(algorithm, digest + key)
    return digest


def safety_number(bundle_a: bytes, id_a: str, bundle_b: bytes, id_b: str) -> str:
    """Sixty digits that are equal for both people if and only if both hold the same two keys under the same two names.

    ``bundle_*`` are encoded identity bundles, ``id_*`` is ``user@server`` with the server's canonical name. The order
    of the two parties does not matter. Source: protocol §11.
    """
    return "".join(sorted((_half(bundle_a, id_a), _half(bundle_b, id_b))))


def safety_code(bundle_a: bytes, id_a: str, bundle_b: bytes, id_b: str) -> bytes:
    """[65], the same for both people, for a QR code: version 0, then 32 bytes of each party in the order of the digits.

    Arguments as of `safety_number`. Source: protocol §11.1.
    """
    digests = sorted((_digest(bundle_a, id_a), _digest(bundle_b, id_b)), key=_digits)
    return bytes(1) + b"".join(digest[:_CODE_BYTES] for digest in digests)


def _half(bundle: bytes, name: str) -> str:
    return _digits(_digest(bundle, name))


@lru_cache(maxsize=64)  # one's own half is in every number, and costs 10 ms
def _digest(bundle: bytes, name: str) -> bytes:
    return numeric_fingerprint(bundle, name.encode())


def group_digits(number: str) -> str:
    """The sixty digits as twelve groups of five, with spaces. Raises ValueError for anything but sixty digits."""
    if len(number) != 60 or not (number.isascii() and number.isdigit()):
        raise ValueError("a safety number has sixty digits")
    return " ".join(number[i : i + 5] for i in range(0, 60, 5))


def key_fingerprint(key_id: bytes) -> str:
    """A short text for one key: the first 16 of the 32 bytes of its key_id as eight groups of four hexadecimal digits.

    For lists and for the key-change warning; people who compare keys use the safety number. Raises ValueError for
    another length.
    """
    if len(key_id) != 32:
        raise ValueError("a key id has 32 bytes")
    text = key_id[:_KEY_FINGERPRINT_BYTES].hex()
    return ":".join(text[i : i + 4] for i in range(0, len(text), 4))


def _digits(digest: bytes) -> str:
    return "".join(f"{int.from_bytes(digest[i * 5 : i * 5 + 5], 'big') % 100_000:05d}" for i in range(_CHUNKS))
