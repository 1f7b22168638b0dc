"""`messageapp keys backup` and `messageapp keys restore`: an identity and what it trusts, in one sealed file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import click

from .options import UsernameType, ask_passphrase, home_option, passphrase_option

__all__ = ["backup", "restore"]

_SECTIONS: Final = "it holds section {} of a newer MessageApp; that is left out"

backup_passphrase_option = click.option(
    "--backup-passphrase-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Read the passphrase of the backup from the first line of FILE.",
)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--user", type=UsernameType(), help="Which identity of this home. Default: the only one.")
@click.option("--words", is_flag=True, help="Seal it with 24 words, which are shown once, instead of a passphrase.")
@backup_passphrase_option
@passphrase_option
@home_option
def backup(
    file: str, user: str | None, words: bool, backup_passphrase_file: str | None, passphrase_file: str | None, home: Any
) -> None:
    """Write your identity, your messages, and whom and which servers you trust, to FILE, sealed.

    A new machine takes it with `messageapp keys restore FILE`. What waits to be sent is not in it.
    A key that was changed or revoked later makes an older backup useless: make a new one then.
    """
    from messageapp.errors import UnusableSetup
    from messageapp.store.backup import make_backup
    from messageapp.store.home import write_outside
    from messageapp.store.identities import changing_identity, find_identity
    from messageapp_keys.backup import BackupRefused, recovery_words, seal_backup
    from messageapp_keys.types import RecoverySecret

    from .hardening import forbid_core_dumps
    from .main import complain

    forbid_core_dumps()
    if words and backup_passphrase_file is not None:
        raise click.UsageError("--words takes the place of a passphrase of the backup")
    path = Path(file)
    if path.exists():
        raise UnusableSetup(f"{path} exists already; it is not overwritten")
    secret: str | RecoverySecret
    with changing_identity(home, find_identity(home, user).user):
        sealed = find_identity(home, user)
        held = make_backup(home, sealed, ask_passphrase(passphrase_file, f"passphrase for {sealed.user}"))
    if words:
        secret = RecoverySecret(os.urandom(RecoverySecret.SIZE))
    else:
        secret = ask_passphrase(backup_passphrase_file, "new passphrase for the backup", twice=True)
    try:
        data = seal_backup(sealed.user, held, secret)
    except BackupRefused as error:
        raise UnusableSetup(str(error)) from None
    if isinstance(secret, RecoverySecret):  # first: a file whose words nobody has seen is of no use
        complain("write these 24 words on paper; they are shown this once. With the file they are your identity")
        click.echo("\n".join(f"{number:2} {word}" for number, word in enumerate(recovery_words(secret), 1)))
    write_outside(path, data)
    complain(f"{sealed.user}: sealed in {path}")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--words-file", metavar="FILE", type=click.Path(dir_okay=False), help="Read the 24 words from FILE.")
@backup_passphrase_option
@passphrase_option
@home_option
def restore(
    file: str, words_file: str | None, backup_passphrase_file: str | None, passphrase_file: str | None, home: Any
) -> None:
    """Take an identity and its account out of the backup FILE, and seal the identity with a new passphrase.

    Asks for the passphrase of the backup, or for its 24 words. Nothing of this home is overwritten.
    """
    from messageapp.errors import LoginRefused, UnusableSetup
    from messageapp.store import backup as stored
    from messageapp_keys.backup import BackupRefused, WrongBackupKey
    from messageapp_keys.fingerprint import key_fingerprint

    from .hardening import forbid_core_dumps
    from .main import complain

    forbid_core_dumps()
    sealed = stored.read_backup(Path(file))
    stored.check_free(home, sealed.user)
    secret: Any
    if sealed.takes_words:
        if backup_passphrase_file is not None:
            raise UnusableSetup(f"{file} opens with 24 words; use --words-file FILE, or type them")
        secret, wrong = _ask_words(words_file), "these words are of another backup (or the file was changed)"
    else:
        if words_file is not None:
            raise UnusableSetup(f"{file} opens with a passphrase, not with words")
        secret = ask_passphrase(backup_passphrase_file, "passphrase of the backup")
        wrong = "the passphrase of the backup is wrong (or the file was changed)"
    try:
        opened = sealed.open(secret)
    except WrongBackupKey:
        raise LoginRefused(wrong) from None
    except BackupRefused as error:
        raise UnusableSetup(f"{file}: {error}") from None
    for number in opened.unknown:
        complain(_SECTIONS.format(number))
    passphrase = ask_passphrase(passphrase_file, f"new passphrase for {sealed.user}", twice=True)
    path = stored.restore(home, sealed.user, opened, passphrase)
    click.echo(f"{sealed.user}: {opened.identity.bundle.kind} {key_fingerprint(opened.identity.key_id)}")
    complain(f"sealed in {path}" + ("" if opened.account else "; the backup holds no account: it had none yet"))


def _ask_words(file: str | None) -> Any:
    """From the file or the terminal, where they are not shown. `UnusableSetup`; `LoginRefused` for what are none."""
    from messageapp.errors import LoginRefused, UnusableSetup
    from messageapp.store.home import read_at_most
    from messageapp_keys.backup import MAX_WORDS_TEXT, WORDS, NotRecoveryWords, read_words_untrusted

    try:
        if file is not None:
            return read_words_untrusted(read_at_most(Path(file), 4 * MAX_WORDS_TEXT).decode("utf-8", "replace"))
        try:
            with open("/dev/tty", "r+b", buffering=0):
                pass
        except OSError:
            raise UnusableSetup("no terminal to ask for the words; use --words-file FILE") from None
        import getpass

        typed = ""
        while len(typed.split()) < WORDS and len(typed) <= MAX_WORDS_TEXT:
            line = getpass.getpass(f"the 24 words, from number {len(typed.split()) + 1} on: ")
            if not line.strip():
                break
            typed += f" {line}"
        return read_words_untrusted(typed)
    except NotRecoveryWords as error:
        raise LoginRefused(str(error)) from None
