"""Backups as bytes: what goes in comes out, and nothing else opens. The derivation itself: test_derivations.py."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messageapp_keys import backup as module
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
from messageapp_keys.codec import u16, u32, vec16
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keystore import Argon2Cost, write_private
from messageapp_keys.types import RecoverySecret
from support.keys import identity

LIGHT = Argon2Cost(kib=8, passes=1)
SECRET = RecoverySecret(bytes(range(32)))
WORDS = recovery_words(SECRET)


def sealed(secret: str | RecoverySecret = SECRET, account: bytes = b"the account") -> bytes:
    return seal_backup("Alice", Backup(identity("ed25519"), account), secret, cost=LIGHT)


def rehashed(data: bytes) -> bytes:
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


@pytest.mark.parametrize("secret", ["correct horse", SECRET], ids=["passphrase", "words"])
@pytest.mark.parametrize("post_quantum", [False, True])
@pytest.mark.parametrize("account", [b"", os.urandom(100_000)])
def test_what_goes_in_comes_out(secret: str | RecoverySecret, post_quantum: bool, account: bytes) -> None:
    own = PrivateIdentity.generate("ed25519", post_quantum=post_quantum)
    data = seal_backup("Alice", Backup(own, account), secret, cost=LIGHT)
    read = SealedBackup.parse_untrusted(data)
    assert (read.user, read.takes_words) == ("Alice", isinstance(secret, RecoverySecret))
    opened = read.open(secret)
    assert (opened.identity.bundle, opened.account, opened.unknown) == (own.bundle, account, ())
    assert opened.identity.pkcs8() == own.pkcs8()
    assert own.bundle.keys[0][1] not in data  # also the public half is sealed


def test_no_two_backups_share_a_key_or_a_nonce() -> None:
    first, second = (SealedBackup.parse_untrusted(sealed("one passphrase")) for _ in range(2))
    assert first.salt != second.salt
    assert first.nonce != second.nonce


def test_the_wrong_secret() -> None:
    cases: list[tuple[bytes, list[str | RecoverySecret]]] = [
        (sealed("right"), ["wrong", "", SECRET]),
        (sealed(SECRET), [RecoverySecret(bytes(32)), "right"]),
    ]
    for data, others in cases:
        for other in others:
            with pytest.raises(WrongBackupKey):
                SealedBackup.parse_untrusted(data).open(other)


@pytest.mark.parametrize("secret", ["right", SECRET], ids=["passphrase", "words"])
def test_every_changed_bit_and_every_cut_is_refused_and_said_to_be_damage(secret: str | RecoverySecret) -> None:
    data = sealed(secret)
    for at in range(len(data)):
        with pytest.raises(BackupRefused):
            SealedBackup.parse_untrusted(data[:at])
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(BackupRefused):
            SealedBackup.parse_untrusted(bytes(changed))
    with pytest.raises(BackupRefused, match="left over"):
        SealedBackup.parse_untrusted(data + b"\0")


def test_a_forged_one_has_the_right_hash_and_does_not_open() -> None:
    data = sealed(SECRET)
    for at in range(9, len(data) - 32):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises((BackupRefused, WrongBackupKey)):
            SealedBackup.parse_untrusted(rehashed(bytes(changed))).open(SECRET)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no backup"),
        (b"MSGAPPK\x01" + bytes(100), "no backup"),
        (b"MSGAPPB\x02" + bytes(100), "newer MessageApp"),
        (b"MSGAPPB\x01\x03" + bytes(100), "a kind of key that is not known"),
        (b"MSGAPPB\x01\x01\xff\xff\xff\xff\0\0\0\x01\x01" + bytes(100), "impossible value"),  # 4 TiB of memory
    ],
)
def test_what_is_no_backup(data: bytes, said: str) -> None:
    with pytest.raises(BackupRefused, match=said):
        SealedBackup.parse_untrusted(data)


def test_a_backup_of_the_largest_size_is_taken_and_one_byte_more_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sealed()
    monkeypatch.setattr(module, "MAX_BACKUP", len(data))
    assert sealed()  # made
    SealedBackup.parse_untrusted(data)
    monkeypatch.setattr(module, "MAX_BACKUP", len(data) - 1)
    with pytest.raises(BackupRefused, match="larger than any"):
        SealedBackup.parse_untrusted(data)
    with pytest.raises(BackupRefused, match="larger than a backup may be"):
        sealed()


def _with_sections(sections: bytes) -> bytes:
    whole = sealed(SECRET)
    read = SealedBackup.parse_untrusted(whole)
    ciphertext = AESGCM(module._key_of_words(SECRET).expose()).encrypt(read.nonce, sections, read.header)
    return rehashed(read.header + u32(len(ciphertext)) + ciphertext + bytes(32))


def _section(kind: int, data: bytes) -> bytes:
    return u16(kind) + u32(len(data)) + data


def test_sections_that_cannot_be() -> None:
    own, other = identity("ed25519"), PrivateIdentity.generate("ed25519")
    good = _section(1, vec16(own.bundle.encode()) + write_private(own))
    assert SealedBackup.parse_untrusted(_with_sections(good + _section(7, b"x"))).open(SECRET).unknown == (7,)
    for sections in (
        b"",
        _section(2, b"account"),
        good + good,
        _section(2, b"account") + good,
        good + _section(0, b""),
        good[:-1],
        good + b"\0",
        _section(1, vec16(other.bundle.encode()) + write_private(own)),
        _section(1, b""),
    ):
        with pytest.raises(BackupRefused, match="opens, but"):
            SealedBackup.parse_untrusted(_with_sections(sections)).open(SECRET)


def test_nothing_secret_is_shown() -> None:
    own = Backup(identity("ed25519"), b"the account")
    shown = repr(own) + repr(SealedBackup.parse_untrusted(sealed())) + repr(SECRET)
    assert "account" not in shown
    assert "sealed" not in shown


# words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        " ".join(WORDS),
        "\n".join(WORDS).upper(),
        "\r\n".join(f"{number:2}. {word}" for number, word in enumerate(WORDS, 1)),
        "".join(f"{number:2} {word}\n" for number, word in enumerate(WORDS, 1)),
    ],
)
def test_words_are_read_as_they_were_printed(text: str) -> None:
    assert read_words_untrusted(text) == SECRET


def test_what_are_no_words_is_said_without_saying_them() -> None:
    swapped = [WORDS[1], WORDS[0], *WORDS[2:]]
    for words, said in (
        (WORDS[:-1], "recovery words are 24; these are 23"),
        ([*WORDS, "abandon"], "recovery words are 24; these are 25"),
        ([*WORDS[:6], "pa55word", *WORDS[7:]], "word 7 is not in the list"),
        (swapped, "two have changed places"),
        ([], "these are 0"),
    ):
        with pytest.raises(NotRecoveryWords, match=said) as caught:
            read_words_untrusted(" ".join(words))
        assert not set(words) & (set(WORDS) - {"one"}) & set(str(caught.value).split()), "a word is shown"
        assert "pa55word" not in str(caught.value)


def test_2000_characters_of_words_are_read_and_no_more() -> None:
    text = " ".join(WORDS)
    assert read_words_untrusted(text.ljust(2000)) == SECRET
    with pytest.raises(NotRecoveryWords, match="more than 2000 characters"):
        read_words_untrusted(text.ljust(2001))
