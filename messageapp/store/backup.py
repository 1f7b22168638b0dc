"""What of a home goes into a backup, and back from one (protocol §15.1)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from messageapp.errors import UnusableSetup
from messageapp_keys.backup import MAX_BACKUP, Backup, BackupRefused, SealedBackup
from messageapp_keys.databasekey import DatabaseKey, seal_database_key
from messageapp_keys.keystore import SealedIdentity, seal_identity

from .accounts import KIND, open_account_database, unlock
from .database import Database, apply_schemas, newest_schema, schemas, stored
from .home import Home, read_at_most, write_file
from .identities import changing_identity, find_next, unseal
from .lock import locked_account
from .sealed import copy_rows, create_sealed

__all__ = ["check_free", "make_backup", "read_backup", "restore"]

LEFT_OUT: Final = frozenset({"device", "sessions", "prekeys", "starts", "outbox", "held"})
"""Of the one machine that has it: a second one that used it would break its sessions and put it off the server."""
_SETTLED: Final = (  # what was under way there is not under way here, and can be asked for anew
    "UPDATE messages SET state = 'failed', cause = 'gave-up' WHERE state = 'queued'",
    "UPDATE messages SET state = 'unreadable', cause = 'cannot-ask' WHERE state = 'held'",
)


def make_backup(home: Home, sealed: SealedIdentity, passphrase: str) -> Backup:
    """The identity, and the account's database as it is at one moment, but for what is `LEFT_OUT`.

    Takes a moment (Argon2id). `LoginRefused` for a wrong passphrase. `UnusableSetup` also while a change of the key is
    not finished: the backup would hold the wrong one.
    """
    if find_next(home, sealed.user) is not None:
        raise UnusableSetup("a change of your key is not finished; finish it first: messageapp keys rotate")
    if not any(path.exists() for path in (home.account(sealed.user), home.trust(sealed.user))):
        return Backup(unseal(sealed, passphrase))
    identity, key = unlock(home, sealed, passphrase)
    with closing(open_account_database(home, sealed.user, key)) as database:
        return Backup(identity, _copy_account(database))


@stored("the account")
def _copy_account(database: Database) -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        apply_schemas(copy, schemas(KIND))
        database.execute("BEGIN")  # one moment of it, whatever a client writes meanwhile
        copy.execute("BEGIN")
        copy_rows(database, copy, LEFT_OUT)
        for statement in _SETTLED:
            copy.execute(statement)
        copy.execute("COMMIT")
        database.execute("COMMIT")
        return copy.serialize()


def read_backup(path: Path) -> SealedBackup:
    """`UnusableSetup` for a file that is none of ours, damaged, or of a newer version."""
    try:
        return SealedBackup.parse_untrusted(read_at_most(path, MAX_BACKUP))
    except BackupRefused as error:
        raise UnusableSetup(f"{path}: {error}") from None


def check_free(home: Home, user: str) -> None:
    """`UnusableSetup` where the home has an identity or an account of `user`: nothing is overwritten."""
    for what, path in (
        ("an identity", home.identity(user)),
        ("an identity", home.next_identity(user)),
        ("an account", home.account(user)),
        ("an account", home.trust(user)),
        ("a part of an account", home.account_key(user)),
        # SQLite would play what a client that was killed has left of another file into the restored one.
        *(("a part of an account", Path(f"{home.account(user)}{end}")) for end in ("-wal", "-shm", "-journal")),
    ):
        if path.exists():
            raise UnusableSetup(
                f"there is {what} {user} already: {path}; it is not overwritten. Use another --home, or move it away"
            )


def restore(home: Home, user: str, backup: Backup, passphrase: str) -> Path:
    """Write account and identity; the path of the identity. `UnusableSetup`, and then neither is there.

    Takes a moment (Argon2id). The account comes first: an identity without its pins would trust whomever it meets.
    """
    check_free(home, user)
    with closing(_read_account(backup.account)) as account:
        sealed = seal_identity(user, backup.identity, passphrase)
        key = DatabaseKey.generate()
        sealed_key = seal_database_key(key, [passphrase])
        with locked_account(home, user), changing_identity(home, user):
            check_free(home, user)
            try:
                if backup.account:
                    write_file(home.account_key(user), sealed_key)
                    create_sealed(home.account(user), KIND, key, lambda target: copy_rows(account, target))
                write_file(home.identity(user), sealed)
            except BaseException:
                home.account(user).unlink(missing_ok=True)
                home.account_key(user).unlink(missing_ok=True)
                raise
    return home.identity(user)


def _read_account(data: bytes) -> sqlite3.Connection:
    """In memory, its schema current. Under the tag, but perhaps of another version: looked at before all else."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        whole, version = True, 1
        if data:
            database.deserialize(data)
            whole = database.execute("PRAGMA quick_check").fetchone() == ("ok",)
            (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > newest_schema(KIND):
            raise UnusableSetup("the account in this backup is of a newer MessageApp: install that first")
        if not whole or version < 1:
            raise sqlite3.DatabaseError
        apply_schemas(database, schemas(KIND))
    except sqlite3.Error:
        database.close()
        raise UnusableSetup("the backup opens, but the account in it cannot be used") from None
    except BaseException:
        database.close()
        raise
    return database
