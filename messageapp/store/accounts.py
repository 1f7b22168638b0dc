"""An account of this home, from its passphrase on: the identity, the key of its database, the database.

    identity, key = unlock(home, sealed, passphrase)
    with closing(open_account_database(home, user, key)) as database: ...

Both are stretched from one passphrase with a salt each, at the same time in two threads.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Final

from messageapp.errors import LoginRefused, UnusableSetup
from messageapp_keys.databasekey import DatabaseKey, SealedDatabaseKey, seal_database_key
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keystore import (
    DEFAULT_COST,
    Argon2Cost,
    KeyFileCorrupt,
    SealedIdentity,
    WrongPassphrase,
    seal_identity,
)

from .database import apply_schemas, check_version, schemas
from .home import Home, read_secret, write_file
from .identities import changing_identity, find_identity, find_next, unseal
from .lock import locked_account
from .sealed import SealedDatabase, copy_rows, create_sealed, open_sealed

__all__ = [
    "KIND",
    "change_passphrase",
    "check_passphrase",
    "database_key",
    "find_database_key",
    "open_account_database",
    "unlock",
]

KIND: Final = "account"


def find_database_key(home: Home, user: str) -> SealedDatabaseKey | None:
    """The key file of the account's database, unopened; None where there is none. `UnusableSetup`."""
    path = home.account_key(user)
    if not path.exists():
        if home.account(user).exists():
            raise UnusableSetup(f"{path} is missing, and nothing else opens {home.account(user)}; restore a backup")
        return None
    try:
        return SealedDatabaseKey.parse_untrusted(read_secret(path))
    except KeyFileCorrupt as error:
        raise UnusableSetup(f"{path}: {error}") from None


def unlock(home: Home, sealed: SealedIdentity, passphrase: str) -> tuple[PrivateIdentity, DatabaseKey]:
    """The identity and the key of the account's database, which is made the first time. Takes a moment (Argon2id).

    `LoginRefused` for a wrong passphrase, `UnusableSetup` for files that are damaged or do not belong together.
    """
    outcome: list[DatabaseKey | UnusableSetup | MemoryError] = []

    def open_key() -> None:
        try:
            outcome.append(database_key(home, sealed.user, passphrase, sealed.cost))
        except (UnusableSetup, MemoryError) as error:
            outcome.append(error)

    if not home.account_key(sealed.user).exists():
        identity = unseal(sealed, passphrase)  # first: a wrong passphrase must not seal anything
        return identity, database_key(home, sealed.user, passphrase, sealed.cost)
    thread = Thread(target=open_key, name="database key")
    thread.start()
    try:
        identity = unseal(sealed, passphrase)
    finally:
        thread.join()
    (key,) = outcome
    if not isinstance(key, DatabaseKey):
        raise key
    return identity, key


def database_key(home: Home, user: str, passphrase: str, cost: Argon2Cost = DEFAULT_COST) -> DatabaseKey:
    """The key of the account's database; where there is none, a new one, on disk, as hard to guess at as `cost` says.

    Takes a moment (Argon2id). `UnusableSetup`, also for another passphrase than that of the key file.
    """
    found = find_database_key(home, user)
    if found is None:
        key = DatabaseKey.generate()
        try:
            write_file(home.account_key(user), seal_database_key(key, [passphrase], cost=cost))
        except UnusableSetup:
            found = find_database_key(home, user)
            if found is None:
                raise
        else:
            return key
    try:
        return found.open(passphrase)
    except WrongPassphrase:
        raise _other_passphrase(home, user) from None


def _other_passphrase(home: Home, user: str) -> UnusableSetup:
    return UnusableSetup(
        f"{home.account_key(user)} has another passphrase than the identity {user}; put back the two files that belong "
        "together, or restore a backup"
    )


def open_account_database(home: Home, user: str, key: DatabaseKey) -> SealedDatabase:
    """The account's database; one from before it was encrypted (`trust.db`) is moved in. `UnusableSetup`."""
    path, old = home.account(user), home.trust(user)
    if old.exists() and not path.exists():
        with closing(_read_old(old)) as source:
            create_sealed(path, KIND, key, lambda target: copy_rows(source, target))
    database = open_sealed(path, KIND, key)
    if old.exists():  # only now: it can be read where it is
        for name in (*(f"trust.db{end}" for end in ("-wal", "-shm", "-journal")), "trust.before-*.db", "trust.db"):
            for left in old.parent.glob(name):
                with suppress(OSError):  # the next time, then
                    left.unlink()
    return database


def _read_old(path: Path) -> sqlite3.Connection:
    """A copy in memory, its schema current; the file stays as it is. `UnusableSetup`."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            copy = sqlite3.connect(":memory:", isolation_level=None)
            try:
                (whole,) = file.execute("PRAGMA quick_check(1)").fetchone()
                if whole != "ok":
                    raise sqlite3.DatabaseError(whole)
                file.backup(copy)
                check_version(copy, path, schemas(KIND))
                apply_schemas(copy, schemas(KIND))
            except BaseException:
                copy.close()
                raise
            return copy
    except (OSError, sqlite3.Error) as error:
        raise UnusableSetup(f"cannot use {path}: {str(error).lower()}") from None


def change_passphrase(home: Home, user: str, old: str, new: str) -> None:
    """Seal the identity of `user`, the next one if its key is being changed, and the database's key with `new`.

    Each file is replaced as a whole, and the database's key opens with both while that goes on: wherever it is
    interrupted, one of the two passphrases opens identity and database, and doing the same again finishes it. Takes
    seconds (Argon2id). `LoginRefused`: `old` is wrong. `UnusableSetup`, also while a client uses the account.
    """
    with locked_account(home, user), changing_identity(home, user):
        sealed, following, wrapped = find_identity(home, user), find_next(home, user), find_database_key(home, user)
        identity = _unseal_either(sealed, old, new)
        next_identity = None if following is None else _unseal_either(following, old, new)
        path = home.account_key(user)
        key = None
        if wrapped is not None:
            key = _open_either(home, user, wrapped, old, new)
            write_file(path, seal_database_key(key, [old, new]), replace=True)
        if next_identity is not None:
            write_file(home.next_identity(user), seal_identity(sealed.user, next_identity, new), replace=True)
        write_file(home.identity(user), seal_identity(sealed.user, identity, new), replace=True)
        if key is not None:
            write_file(path, seal_database_key(key, [new]), replace=True)


def check_passphrase(home: Home, user: str, passphrase: str) -> None:
    """`LoginRefused` unless it opens the identity; or the database's key, as the old one does while a change of it is
    not finished."""
    try:
        unseal(find_identity(home, user), passphrase)
    except LoginRefused:
        wrapped = find_database_key(home, user)
        if wrapped is not None:
            with suppress(WrongPassphrase):
                wrapped.open(passphrase)
                return
        raise


def _unseal_either(sealed: SealedIdentity, old: str, new: str) -> PrivateIdentity:
    """With `new` only where a change that was interrupted has been there already."""
    try:
        return unseal(sealed, old)
    except LoginRefused as wrong:
        try:
            return unseal(sealed, new)
        except LoginRefused:
            raise wrong from None


def _open_either(home: Home, user: str, wrapped: SealedDatabaseKey, old: str, new: str) -> DatabaseKey:
    for passphrase in (old, new):
        with suppress(WrongPassphrase):
            return wrapped.open(passphrase)
    raise _other_passphrase(home, user)
