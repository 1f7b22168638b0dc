"""`messageapp passwd`: another passphrase for an identity and its account (protocol §15.2)."""

from __future__ import annotations

import os
from typing import Any

import click

from .options import (
    NEW_PASSPHRASE_VARIABLE,
    UsernameType,
    ask_new_passphrase,
    ask_passphrase,
    home_option,
    new_passphrase_option,
    passphrase_option,
)

__all__ = ["passwd"]


@click.command()
@click.option("--user", type=UsernameType(), help="Which identity of this home. Default: the only one.")
@new_passphrase_option
@passphrase_option
@home_option
def passwd(user: str | None, new_passphrase_file: str | None, passphrase_file: str | None, home: Any) -> None:
    """Change the passphrase that opens your identity and your messages.

    Leave your client first. Keys stay what they are, and nobody else notices. Backups keep the passphrase that they
    have. If it is interrupted, run it again with the same two passphrases; until then one of them opens everything.
    """
    from messageapp.store.accounts import change_passphrase, check_passphrase
    from messageapp.store.identities import find_identity
    from messageapp.store.lock import locked_account

    from .hardening import forbid_core_dumps
    from .main import complain

    forbid_core_dumps()
    sealed = find_identity(home, user)
    with locked_account(home, sealed.user):
        pass  # a client that runs is told of before anything is typed
    old = ask_passphrase(passphrase_file, f"passphrase for {sealed.user}")
    if new_passphrase_file is None and NEW_PASSPHRASE_VARIABLE not in os.environ:
        check_passphrase(home, sealed.user, old)  # before anybody types a new one, twice
    new = ask_new_passphrase(new_passphrase_file, f"new passphrase for {sealed.user}")
    change_passphrase(home, sealed.user, old, new)
    complain(f"{sealed.user}: the passphrase is changed")
