"""The key pair of one ratchet turn: X25519 and ML-KEM-768 together (protocol §10)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from . import labels
from .kem import diffie_hellman_untrusted, export_pair, import_pair, load_mlkem_untrusted
from .primitives import expand, extract, hash_bytes, hmac_sha256
from .types import ChainKey, MessageKey, RootKey

__all__ = ["CIPHERTEXT_SIZE", "DH_SIZE", "EK_SIZE", "RatchetKeys", "kdf_chain", "kdf_root"]

DH_SIZE: Final = 32
EK_SIZE: Final = 1184
CIPHERTEXT_SIZE: Final = 1088


class RatchetKeys:
    """Private halves of one turn; replaced when the other side answers it."""

    __slots__ = ("_kem", "_x", "dh", "ek")

    def __init__(self) -> None:
        self._hold(x25519.X25519PrivateKey.generate(), mlkem.MLKEM768PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, data: bytes) -> RatchetKeys:
        """Those that `private_bytes` gave. `Malformed` for another length."""
        keys = cls.__new__(cls)
        keys._hold(*import_pair(data))
        return keys

    def _hold(self, x: x25519.X25519PrivateKey, kem: mlkem.MLKEM768PrivateKey) -> None:
        self._x, self._kem = x, kem
        self.dh = self._x.public_key().public_bytes_raw()
        self.ek = self._kem.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "<RatchetKeys>"

    def private_bytes(self) -> bytes:
        """[96] X25519 || ML-KEM seed, for an encrypted file only."""
        return export_pair(self._x, self._kem)

    @property
    def public(self) -> bytes:
        """`Ratchet` of C2: [32] X25519 || [1184] ML-KEM-768."""
        return self.dh + self.ek

    def encapsulate_untrusted(self, dh: bytes, ek: bytes) -> tuple[bytes, bytes]:
        """(ciphertext, d || s) towards the other side's public keys. `Malformed` where one of them is not valid."""
        shared, ciphertext = load_mlkem_untrusted(ek).encapsulate()
        return ciphertext, diffie_hellman_untrusted(self._x, dh) + shared

    def decapsulate_untrusted(self, dh: bytes, ciphertext: bytes) -> bytes:
        """d || s from the other side's new key and ciphertext. `Malformed` for a low-order point."""
        return diffie_hellman_untrusted(self._x, dh) + self._kem.decapsulate(ciphertext)


def kdf_root(root: RootKey, secrets: bytes, keys: bytes) -> tuple[RootKey, ChainKey]:
    """KDF_RK: `secrets` = d || s, `keys` = dh || ek || ct of the header that carries them."""
    prk = extract(root.expose(), secrets)
    okm = expand(prk, labels.RATCHET_ROOT + hash_bytes(keys), 64)
    return RootKey(okm[:32]), ChainKey(okm[32:])


def kdf_chain(chain: ChainKey) -> tuple[MessageKey, ChainKey]:
    """KDF_CK."""
    key = chain.expose()
    return MessageKey(hmac_sha256(key, b"\x01")), ChainKey(hmac_sha256(key, b"\x02"))
