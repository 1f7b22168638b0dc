"""A backup of an identity and an account: one sealed file, as bytes (protocol §15.1).

    "MSGAPPB" 0x01 | u8 kind | kind 1: u32 KiB | u32 passes | u8 lanes | [16] salt | [12] nonce | vec8 user
    | u32 n | [n] sealed | [32] H(everything before)

    sealed = AES-256-GCM(key, nonce, sections, AAD = everything before `u32 n`)
    key of kind 1 = Argon2id(passphrase), as of a key file
    key of kind 2 = XL(HKDF-Extract("MessageApp v2 backup", entropy), "backup key", ""), entropy: 24 words of BIP-39
    sections: (u16 type | u32 length | bytes) …, types ascending: 1 identity = vec16 bundle | private, 2 account

The hash at the end tells a damaged file from a wrong passphrase; what cannot be forged stands under the tag. The nonce
cannot repeat under a key: each backup draws a salt or an entropy of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from mnemonic import Mnemonic

from . import labels
from .codec import Malformed, Reader, reading_untrusted, u8, u16, u32, vec8, vec16
from .identity import IdentityBundle, PrivateIdentity
from .keystore import DEFAULT_COST, Argon2Cost, read_cost, read_private, stretch, write_private
from .names import is_username
from .primitives import Random, expand_label, extract, hash_bytes, same
from .types import BackupKey, PseudoRandomKey, RecoverySecret

__all__ = [
    "MAX_BACKUP",
    "Backup",
    "BackupRefused",
    "NotRecoveryWords",
    "SealedBackup",
    "WrongBackupKey",
    "read_words_untrusted",
    "recovery_words",
    "seal_backup",
]

MAX_BACKUP: Final = 256 * 1024 * 1024  # bytes; an account with the largest key log that is fetched at once has 100 MiB
MAX_WORDS_TEXT: Final = 2000  # characters; 24 words with their numbers have 300
WORDS: Final = 24
_MAGIC: Final = b"MSGAPPB"
_VERSION: Final = b"\x01"
_PASSPHRASE, _WORDS = 1, 2
_IDENTITY, _ACCOUNT = 1, 2
_SALT_SIZE: Final = 16
_NONCE_SIZE: Final = 12
_HASH_SIZE: Final = 32
_NUMBER: Final = re.compile(r"\d+[.:)]?")


class BackupRefused(Exception):
    """This is no backup that can be read; the text is the sentence for the user."""


class WrongBackupKey(Exception):
    """The passphrase or the words are not those of this backup, or the backup was forged."""


class NotRecoveryWords(ValueError):
    """What was typed are no 24 words of a backup; the text says where, and nothing of the words."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What is inside. `account`: the account's database as bytes, empty where there is none yet."""

    identity: PrivateIdentity
    account: bytes = field(default=b"", repr=False)
    unknown: tuple[int, ...] = ()  # types of sections that a later version wrote; they are left out

    def _encode(self) -> bytes:
        sections: Mapping[int, bytes] = {
            _IDENTITY: vec16(self.identity.bundle.encode()) + write_private(self.identity),
            **({_ACCOUNT: self.account} if self.account else {}),
        }
        return b"".join(u16(kind) + u32(len(data)) + data for kind, data in sorted(sections.items()))


def seal_backup(
    user: str,
    backup: Backup,
    secret: str | RecoverySecret,
    *,
    cost: Argon2Cost = DEFAULT_COST,
    random: Random = os.urandom,
) -> bytes:
    """The file. A `str` is a passphrase and takes what `cost` says; a `RecoverySecret` is for one backup only.

    Raises ValueError for a username that the protocol does not take, `BackupRefused` beyond `MAX_BACKUP`.
    """
    if not is_username(user):
        raise ValueError("not a username")
    if isinstance(secret, RecoverySecret):
        key, how = _key_of_words(secret), u8(_WORDS)
    else:
        salt = random(_SALT_SIZE)
        key, how = BackupKey(stretch(secret, salt, cost)), u8(_PASSPHRASE) + cost.encode() + salt
    nonce = random(_NONCE_SIZE)
    header = _MAGIC + _VERSION + how + nonce + vec8(user.encode())
    sealed = AESGCM(key.expose()).encrypt(nonce, backup._encode(), header)
    whole = header + u32(len(sealed)) + sealed
    whole += hash_bytes(whole)
    if len(whole) > MAX_BACKUP:
        raise BackupRefused(f"the account is larger than a backup may be ({MAX_BACKUP // 2**20} MiB)")
    return whole


@dataclass(frozen=True, slots=True, repr=False)
class SealedBackup:
    """A backup, read but not opened: `user` is what it says, authentic only once it opens."""

    user: str
    cost: Argon2Cost | None  # None: it opens with words
    salt: bytes
    nonce: bytes
    header: bytes
    sealed: bytes

    def __repr__(self) -> str:
        return f"<SealedBackup {self.user}>"

    @property
    def takes_words(self) -> bool:
        return self.cost is None

    @classmethod
    def parse_untrusted(cls, data: bytes) -> SealedBackup:
        """Read a backup without its key. Raises `BackupRefused`, also for costs outside the bounds of a key file."""
        if len(data) > MAX_BACKUP:
            raise BackupRefused(f"this file is larger than any backup ({MAX_BACKUP // 2**20} MiB)")
        if not data.startswith(_MAGIC):
            raise BackupRefused("this is no backup of messageapp")
        if data[len(_MAGIC) : len(_MAGIC) + 1] not in (_VERSION, b""):
            raise BackupRefused("this backup is of a newer MessageApp: install that first")
        try:
            with reading_untrusted(data) as reader:
                found = cls._read(reader)
        except ValueError as error:  # Malformed, a cost out of bounds, a username that is no UTF-8
            reason = str(error) if isinstance(error, Malformed) else "a field has an impossible value"
            raise BackupRefused(f"the backup is damaged or cut short: {reason}") from None
        if not same(hash_bytes(data[:-_HASH_SIZE]), data[-_HASH_SIZE:]):
            raise BackupRefused("the backup is damaged: it is not what was written")
        return found

    @classmethod
    def _read(cls, reader: Reader) -> SealedBackup:
        reader.take(len(_MAGIC) + len(_VERSION))
        kind = reader.u8()
        if kind not in (_PASSPHRASE, _WORDS):
            raise Malformed("it names a kind of key that is not known")
        cost = read_cost(reader) if kind == _PASSPHRASE else None
        salt = b"" if cost is None else reader.take(_SALT_SIZE)
        nonce = reader.take(_NONCE_SIZE)
        user = reader.vec8().decode()
        if not is_username(user):
            raise Malformed("it names no user")
        header = reader.consumed()
        sealed = reader.take(reader.u32())
        reader.take(_HASH_SIZE)
        return cls(user, cost, salt, nonce, header, sealed)

    def open(self, secret: str | RecoverySecret) -> Backup:
        """What is inside. A passphrase takes time and memory as `cost` says: not for the event loop.

        Raises `WrongBackupKey`, also for the wrong kind of secret, and `BackupRefused` where what opens is no backup.
        """
        if isinstance(secret, RecoverySecret) != self.takes_words:
            raise WrongBackupKey
        if isinstance(secret, RecoverySecret):
            key = _key_of_words(secret)
        else:
            assert self.cost is not None  # noqa: S101 - else it takes words
            key = BackupKey(stretch(secret, self.salt, self.cost))
        try:
            plaintext = AESGCM(key.expose()).decrypt(self.nonce, self.sealed, self.header)
        except InvalidTag:
            raise WrongBackupKey from None
        try:
            return _read_sections(plaintext)
        except Malformed:
            raise BackupRefused("the backup opens, but holds nothing that can be used") from None


def _read_sections(plaintext: bytes) -> Backup:
    """Of bytes that the tag has authenticated."""
    found: dict[int, bytes] = {}
    with reading_untrusted(plaintext) as reader:
        while not reader.at_end:
            kind = reader.u16()
            if found and kind <= max(found):
                raise Malformed("sections come in the order of their numbers, each once")
            found[kind] = reader.take(reader.u32())
    if _IDENTITY not in found:
        raise Malformed("a backup holds an identity")
    with reading_untrusted(found.pop(_IDENTITY)) as reader:
        bundle, identity = IdentityBundle.parse_untrusted(reader.vec16()), read_private(reader)
    if identity.bundle != bundle:
        raise Malformed("the private key does not belong to its public key")
    return Backup(identity, found.pop(_ACCOUNT, b""), tuple(found))


# Words ----------------------------------------------------------------------------------------------------------------


@cache
def _list() -> Mnemonic:
    return Mnemonic("english")


def _key_of_words(secret: RecoverySecret) -> BackupKey:
    prk = PseudoRandomKey(extract(labels.EXTRACT_BACKUP, secret.expose()))
    return expand_label(prk, labels.BACKUP_KEY, b"", BackupKey)


def recovery_words(secret: RecoverySecret) -> list[str]:
    """The 24 words that say `secret` (BIP-39, English). Whoever sees them and the file has the identity."""
    return _list().to_mnemonic(secret.expose()).split()


def read_words_untrusted(text: str) -> RecoverySecret:
    """24 words as they were printed; capitals, line ends and numbers do not count. Raises `NotRecoveryWords`."""
    if len(text) > MAX_WORDS_TEXT:
        raise NotRecoveryWords(f"these are no recovery words: more than {MAX_WORDS_TEXT} characters")
    words = [word for word in text.lower().split() if not _NUMBER.fullmatch(word)]
    for place, word in enumerate(words, 1):
        if word not in _list().wordlist:
            raise NotRecoveryWords(f"these are no recovery words: word {place} is not in the list of BIP-39")
    if len(words) != WORDS:
        raise NotRecoveryWords(f"recovery words are {WORDS}; these are {len(words)}")
    try:
        return RecoverySecret(bytes(_list().to_entropy(words)))
    except ValueError:
        raise NotRecoveryWords("these words do not belong together: one is wrong, or two have changed places") from None
