"""Backups: a file of a stranger, what a key opens, and typed words."""

from __future__ import annotations

import hashlib
from itertools import count

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messageapp_keys import backup as product
from messageapp_keys.backup import (
    Backup,
    BackupRefused,
    NotRecoveryWords,
    SealedBackup,
    WrongBackupKey,
    read_words_untrusted,
    recovery_words,
    seal_backup,
)
from messageapp_keys.types import RecoverySecret

from . import material
from .material import USER
from .target import Harness, Target, require

__all__ = ["TARGETS"]

_ACCOUNT = b"the database of an account"


def _secret() -> RecoverySecret:
    return RecoverySecret(material.drawn("recovery words", 32))


def _sealed() -> bytes:
    numbers = count()
    return seal_backup(
        USER,
        Backup(material.identity(), _ACCOUNT),
        _secret(),
        random=lambda size: material.drawn(f"backup {next(numbers)}", size),
    )


def _rehashed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def _file() -> Harness:
    """All but the hash at the end, which is made right: whatever is changed, it does not open."""

    def attack(data: bytes) -> None:
        read = SealedBackup.parse_untrusted(_rehashed(data))
        try:
            opened = read.open(_secret())
        except WrongBackupKey:
            raise BackupRefused from None
        require((read.user, opened.account) == (USER, _ACCOUNT), "another account came out")

    return Harness(attack, [_sealed()[:-32]])


def _insider() -> Harness:
    """The sections, sealed rightly."""
    read = SealedBackup.parse_untrusted(_sealed())
    cipher = AESGCM(product._key_of_words(_secret()).expose())

    def attack(data: bytes) -> None:
        parts = {name: getattr(read, name) for name in SealedBackup.__slots__}
        parts["sealed"] = cipher.encrypt(read.nonce, data, read.header)
        opened = SealedBackup(**parts).open(_secret())
        require(opened.identity.bundle == material.identity().bundle, "another key came out")

    return Harness(attack, [cipher.decrypt(read.nonce, read.sealed, read.header)])


def _words() -> Harness:
    def attack(data: bytes) -> None:
        secret = read_words_untrusted(data.decode("utf-8", "replace"))
        require(read_words_untrusted(" ".join(recovery_words(secret))) == secret, "what was read is written otherwise")

    words = recovery_words(_secret())
    return Harness(
        attack,
        [" ".join(words).encode(), "\n".join(f"{place} {word}" for place, word in enumerate(words, 1)).encode()],
    )


TARGETS = (
    Target("backup", _file, (BackupRefused,), sealed=True, mutations=20_000),
    Target("backup-insider", _insider, (BackupRefused,), mutations=5000),
    Target("recovery-words", _words, (NotRecoveryWords,), mutations=5000),
)
