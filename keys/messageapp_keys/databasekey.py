"""The key of an account's database, wrapped under the passphrase, as bytes; the file is the caller's (protocol §15.2).

    "MSGAPPD" 0x01 | u8 n | n × (u8 kdf=1 | u32 KiB | u32 passes | u8 lanes | [16] salt | [12] nonce | vec16 wrapped)

    wrapped = AES-256-GCM(Argon2id(passphrase), database key), everything before its vec16 as AAD

n is 2 only while the passphrase is changed: both open the key then, so that whatever is interrupted, one passphrase
opens both the database and the identity. The nonce cannot repeat under a key: each wrap draws a fresh salt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .codec import Malformed, Reader, reading_untrusted, u8, vec16
from .keystore import (
    DEFAULT_COST,
    KDF_ARGON2ID,
    NONCE_SIZE,
    SALT_SIZE,
    TAG_SIZE,
    Argon2Cost,
    KeyFileCorrupt,
    WrongPassphrase,
    read_cost,
    stretch,
)
from .primitives import Random
from .types import Secret

__all__ = ["MAX_WRAPS", "DatabaseKey", "SealedDatabaseKey", "seal_database_key"]

MAX_WRAPS: Final = 2
_MAGIC: Final = b"MSGAPPD\x01"


class DatabaseKey(Secret):
    """The account's database is encrypted under it, as a whole; random, and never another one."""

    @classmethod
    def generate(cls, random: Random = os.urandom) -> DatabaseKey:
        return cls(random(cls.SIZE))


def seal_database_key(
    key: DatabaseKey,
    passphrases: Sequence[str | bytes],
    *,
    cost: Argon2Cost = DEFAULT_COST,
    random: Random = os.urandom,
) -> bytes:
    """The file that each of the one or two `passphrases` opens.

    Takes for each as long and as much memory as `cost` says: not for the event loop. ValueError for another number.
    """
    if not 1 <= len(passphrases) <= MAX_WRAPS:
        raise ValueError(f"one to {MAX_WRAPS} passphrases open a database key")
    data = _MAGIC + u8(len(passphrases))
    for passphrase in passphrases:
        salt, nonce = random(SALT_SIZE), random(NONCE_SIZE)
        data += u8(KDF_ARGON2ID) + cost.encode() + salt + nonce
        data += vec16(AESGCM(stretch(passphrase, salt, cost)).encrypt(nonce, key.expose(), data))
    return data


@dataclass(frozen=True, slots=True, repr=False)
class _Wrap:
    cost: Argon2Cost
    salt: bytes
    nonce: bytes
    header: bytes  # all of the file that stands before `wrapped`
    wrapped: bytes

    @classmethod
    def read(cls, reader: Reader) -> _Wrap:
        if reader.u8() != KDF_ARGON2ID:
            raise Malformed("it names a key derivation that is not known")
        cost = read_cost(reader)
        salt, nonce, header = reader.take(SALT_SIZE), reader.take(NONCE_SIZE), reader.consumed()
        wrapped = reader.vec16()
        if len(wrapped) != DatabaseKey.SIZE + TAG_SIZE:
            raise Malformed("it holds no key of a database")
        return cls(cost, salt, nonce, header, wrapped)


@dataclass(frozen=True, slots=True, repr=False)
class SealedDatabaseKey:
    """A key file of a database, read but not opened."""

    wraps: tuple[_Wrap, ...]

    def __repr__(self) -> str:
        return f"<SealedDatabaseKey {len(self.wraps)}>"

    @property
    def changing(self) -> bool:
        """A change of the passphrase was begun and not finished: an old one opens it, too."""
        return len(self.wraps) > 1

    @classmethod
    def parse_untrusted(cls, data: bytes) -> SealedDatabaseKey:
        """Read the file without a passphrase. Raises `KeyFileCorrupt`, also for costs outside the bounds."""
        if not data.startswith(_MAGIC):
            raise KeyFileCorrupt("this is no key of an account's database")
        try:
            with reading_untrusted(data) as reader:
                reader.take(len(_MAGIC))
                count = reader.u8()
                if not 1 <= count <= MAX_WRAPS:
                    raise Malformed("it holds an impossible number of keys")
                return cls(tuple(_Wrap.read(reader) for _ in range(count)))
        except ValueError as error:  # Malformed, a cost out of bounds
            reason = str(error) if isinstance(error, Malformed) else "a field has an impossible value"
            raise KeyFileCorrupt(f"the key file is damaged: {reason}") from None

    def open(self, passphrase: str | bytes) -> DatabaseKey:
        """The key. Costs time and memory for each wrap that is tried: not for the event loop.

        Raises `WrongPassphrase` if no tag fits.
        """
        for wrap in self.wraps:
            try:
                opened = AESGCM(stretch(passphrase, wrap.salt, wrap.cost)).decrypt(
                    wrap.nonce, wrap.wrapped, wrap.header
                )
            except InvalidTag:
                continue
            return DatabaseKey(opened)
        raise WrongPassphrase
