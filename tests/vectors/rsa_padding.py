"""RSA-OAEP and RSA-PSS with SHA-256 once more, from RFC 8017 with hashlib and `pow`: what the vectors do not have.

The published vectors have other labels and salts than ours. They show that these functions are right; these functions
then show that our wrappers are.
"""

from __future__ import annotations

import hashlib

_SIZE = 32


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _mask(seed: bytes, size: int) -> bytes:
    """MGF1."""
    return b"".join(_hash(seed + count.to_bytes(4, "big")) for count in range(-(-size // _SIZE)))[:size]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def oaep_encrypt(n: int, e: int, message: bytes, label: bytes, seed: bytes) -> bytes:
    """RFC 8017 §7.1.1."""
    size = (n.bit_length() + 7) // 8
    block = _hash(label) + bytes(size - len(message) - 2 * _SIZE - 2) + b"\1" + message
    masked = _xor(block, _mask(seed, len(block)))
    whole = b"\0" + _xor(seed, _mask(masked, _SIZE)) + masked
    return pow(int.from_bytes(whole, "big"), e, n).to_bytes(size, "big")


def oaep_decrypt(n: int, d: int, ciphertext: bytes, label: bytes) -> bytes:
    """RFC 8017 §7.1.2; ValueError where it does not open."""
    size = (n.bit_length() + 7) // 8
    whole = pow(int.from_bytes(ciphertext, "big"), d, n).to_bytes(size, "big")
    masked = whole[1 + _SIZE :]
    seed = _xor(whole[1 : 1 + _SIZE], _mask(masked, _SIZE))
    block = _xor(masked, _mask(seed, len(masked)))
    zeros, one, message = block[_SIZE:].partition(b"\1")
    if whole[0] or block[:_SIZE] != _hash(label) or any(zeros) or not one:
        raise ValueError("does not open")
    return message


def pss_salt(n: int, e: int, message: bytes, signature: bytes) -> bytes | None:
    """The salt of a good signature (RFC 8017 §8.1.2 with any length of salt), or None."""
    bits = n.bit_length() - 1
    number = pow(int.from_bytes(signature, "big"), e, n)
    if number.bit_length() > bits or len(signature) != (n.bit_length() + 7) // 8:
        return None
    whole = number.to_bytes((bits + 7) // 8, "big")
    masked, digest = whole[: -_SIZE - 1], whole[-_SIZE - 1 : -1]
    block = bytearray(_xor(masked, _mask(digest, len(masked))))
    block[0] &= 0xFF >> (8 * len(whole) - bits)
    zeros, one, salt = bytes(block).partition(b"\1")
    good = whole[-1] == 0xBC and one and not any(zeros) and _hash(bytes(8) + _hash(message) + salt) == digest
    return salt if good else None
