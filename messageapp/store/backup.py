"""What of a home goes into a backup, and back from one (protocol §15.1)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from messageapp.errors import UnusableSetup
from messageapp_keys.backup import MAX_BACKUP, Backup, BackupRefused, SealedBackup
from messageapp_keys.keystore import seal_identity

from .database import newest_schema, open_database, stored
from .home import Home, read_at_most, write_file
from .identities import changing_identity, find_next

__all__ = ["check_free", "copy_account", "read_backup", "restore"]


@stored("the account")
def copy_account(home: Home, user: str) -> bytes:
    """The account's database as bytes, all of one moment; empty where there is none.

    Without the id of this device: two machines that both say it would put each other off the server.
    `UnusableSetup` also while a change of the key is not finished: the backup would hold the wrong one.
    """
    if find_next(home, user) is not None:
        raise UnusableSetup("a change of your key is not finished; finish it first: messageapp keys rotate")
    path = home.trust(user)
    if not path.exists():
        return b""
    with (
        closing(open_database(path, "account")) as database,
        closing(sqlite3.connect(":memory:", isolation_level=None)) as copy,
    ):
        database.backup(copy)
        copy.execute("DELETE FROM device")
        copy.execute("VACUUM")  # nothing of what was deleted stays in free pages
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
        ("an account", home.trust(user)),
        # SQLite would play what a client that was killed has left of another file into the restored one.
        *(("a part of an account", Path(f"{home.trust(user)}{end}")) for end in ("-wal", "-shm", "-journal")),
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
    if backup.account:
        _check_account(backup.account)
    sealed = seal_identity(user, backup.identity, passphrase)
    with changing_identity(home, user):
        check_free(home, user)
        account = home.trust(user)
        if backup.account:
            write_file(account, backup.account)
        try:
            write_file(home.identity(user), sealed)
        except BaseException:
            account.unlink(missing_ok=True)
            raise
    return home.identity(user)


def _check_account(data: bytes) -> None:
    """Under the tag, but perhaps of another version; it is looked at before anything is written."""
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            whole = database.execute("PRAGMA quick_check").fetchone() == ("ok",)
            (version,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        whole, version = False, 0
    if version > newest_schema("account"):
        raise UnusableSetup("the account in this backup is of a newer MessageApp: install that first")
    if not whole or version < 1:
        raise UnusableSetup("the backup opens, but the account in it cannot be used")
