"""Identities on disk: sealed key files of this home."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from messageapp.errors import LoginRefused, UnusableSetup
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keystore import KeyFileCorrupt, SealedIdentity, WrongPassphrase, seal_identity
from messageapp_keys.names import BadUsername

from .home import Home, make_folder, read_secret, replace_file, write_file

__all__ = [
    "changing_identity",
    "drop_next",
    "find_identity",
    "find_next",
    "list_identities",
    "save_identity",
    "save_next",
    "take_next",
    "unseal",
]


def _parse(path: Path) -> SealedIdentity:
    try:
        return SealedIdentity.parse_untrusted(read_secret(path))
    except KeyFileCorrupt as error:
        raise UnusableSetup(f"{path}: {error}") from None


def find_identity(home: Home, user: str | None) -> SealedIdentity:
    """The identity of `user`, or the only one of the home. `UnusableSetup` with what to do where there is none."""
    if user is None:
        paths = home.identities()
        if not paths:
            raise UnusableSetup(f"there is no identity in {home.path} yet; make one: messageapp keygen NAME")
        if len(paths) > 1:
            names = ", ".join(path.stem for path in paths)
            raise UnusableSetup(f"there are several identities ({names}); choose one with --user NAME")
        return _parse(paths[0])
    try:
        path = home.identity(user)
    except BadUsername as error:
        raise UnusableSetup(str(error)) from None
    if not path.exists():
        raise UnusableSetup(f"there is no identity {user} in {home.path}; make it: messageapp keygen {user}")
    return _parse(path)


def list_identities(home: Home) -> list[SealedIdentity]:
    return [_parse(path) for path in home.identities()]


def save_identity(home: Home, user: str, identity: PrivateIdentity, passphrase: str) -> Path:
    """Seal and write; `UnusableSetup` where there is one of that name. Takes a moment (Argon2id)."""
    path = home.identity(user)
    if path.exists():
        raise UnusableSetup(f"there is an identity {user} already: {path}; it is not overwritten")
    write_file(path, seal_identity(user, identity, passphrase))
    return path


@contextmanager
def changing_identity(home: Home, user: str) -> Iterator[None]:
    """Alone in changing the key of `user`: what one process takes away, another may have shown a server.

    `UnusableSetup` where another process does. The lock goes with this one.
    """
    folder = make_folder(home.account_folder(user))
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UnusableSetup(f"the key of {user} is being changed by another process") from None
        yield
    finally:
        os.close(handle)


def find_next(home: Home, user: str) -> SealedIdentity | None:
    """The identity that a change of key has made and that may be known to a server already. `UnusableSetup`."""
    path = home.next_identity(user)
    return _parse(path) if path.exists() else None


def save_next(home: Home, user: str, identity: PrivateIdentity, passphrase: str) -> None:
    """On disk when this returns. `UnusableSetup` where there is one. Takes a moment (Argon2id)."""
    write_file(home.next_identity(user), seal_identity(user, identity, passphrase))


def take_next(home: Home, user: str) -> None:
    """The next identity is the user's from now on; the one before is gone. `UnusableSetup`."""
    replace_file(home.identity(user), home.next_identity(user))


def drop_next(home: Home, user: str) -> None:
    """Only where no server has been shown it."""
    with suppress(OSError):  # a later change takes it then
        home.next_identity(user).unlink(missing_ok=True)


def unseal(sealed: SealedIdentity, passphrase: str) -> PrivateIdentity:
    """Takes a moment (Argon2id). A wrong passphrase is `LoginRefused`: it is known before a byte is sent."""
    try:
        return sealed.unseal(passphrase)
    except WrongPassphrase:
        raise LoginRefused(f"wrong passphrase for {sealed.user}") from None
    except KeyFileCorrupt as error:
        raise UnusableSetup(f"the key file of {sealed.user} is damaged: {error}") from None
