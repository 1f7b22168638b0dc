"""The home folder: where everything lies, and files that are whole or not there (folders 0700, files 0600).

One home may hold a server and several users:

    ca/ca.pem  ca/ca.key            the certificate authority
    ca/cross.pem                    its certificate by the authority before it, for clients that have that one
    ca/crl.pem                      its revocation list, once there is one
    ca/old-N.pem  ca/old-N.crl      authorities before it, without their keys; the last list of each, if it had one
    ca/next/                        what a command is about to put in place, all at once
    server/server.pem  server.key   the server's certificate chain and key
    server/directory.db             the enrolled users and the key log
    server/mail.db                  what waits for users who are away: prekeys, encrypted messages
    server/log.key                  the key that signs the checkpoints of the key log
    server/address                  HOST:PORT where it listens, which join codes say
    server.toml                     the server's settings (optional)
    identities/NAME.key             private identities, sealed with a passphrase
    identities/NAME.next            the next one of a user, while it is made known to the servers
    accounts/NAME/account.db        all that one user's client keeps, encrypted: messages, sessions, pins, key logs
    accounts/NAME/account.key       its key, sealed with the passphrase of the identity
    accounts/NAME/lock              held by the one client that uses the account
    accounts/NAME/trust.db          what stood in the place of account.db before that, until it is moved in there
    accounts/NAME/evidence/         checkpoints with which a server was caught at a lie
    accounts/NAME/witness.key       the key of this account's witness (`messageapp log witness`)
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from messageapp.errors import UnusableSetup
from messageapp_keys.names import check_username, fold

__all__ = [
    "Home",
    "read_at_most",
    "read_public",
    "read_secret",
    "replace_file",
    "sync_folder",
    "write_file",
    "write_outside",
]


def _why(error: OSError) -> str:
    return (error.strerror or "it cannot be used").lower()


def make_folder(path: Path) -> Path:
    """The folder; it and those above it are made with mode 0700 where missing. `UnusableSetup` where that cannot be."""
    try:
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in (*reversed(missing), path):  # with `parents=True` those above would be open to all
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UnusableSetup(f"cannot make the folder {path}: {_why(error)}") from None
    return path


def write_file(path: Path, data: bytes, *, replace: bool = False) -> None:
    """A new file with mode 0600, complete or absent: temporary file beside it, synced, then renamed.

    Without `replace` an existing file is an error, also against a second process at the same moment.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)  # fails where `path` exists
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise UnusableSetup(f"{path} exists already; it is not overwritten") from None
    except OSError as error:
        raise UnusableSetup(f"cannot write {path}: {_why(error)}") from None


def replace_file(path: Path, new: Path) -> None:
    """`new`, in the same folder, becomes `path`: at any moment that is the one or the other. `UnusableSetup`."""
    try:
        os.replace(new, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UnusableSetup(f"cannot replace {path}: {_why(error)}") from None


def write_outside(path: Path, data: bytes) -> None:
    """A new file of mode 0600 where the user wants it, also on a medium that knows no links; its folder must be there.

    `UnusableSetup`, and no file, where it cannot be written whole.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UnusableSetup(f"{path} exists already; it is not overwritten") from None
    except OSError as error:
        raise UnusableSetup(f"cannot write {path}: {_why(error)}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UnusableSetup(f"cannot write {path}: {_why(error)}") from None


def sync_folder(folder: Path) -> None:
    """A new name is on disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_public(path: Path) -> bytes:
    """A file that anybody may read; `UnusableSetup` where it cannot be."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableSetup(f"cannot read {path}: {_why(error)}") from None


def read_at_most(path: Path, limit: int) -> bytes:
    """As `read_public`, but of a larger file only `limit + 1` bytes: enough to see that it is."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise UnusableSetup(f"cannot read {path}: {_why(error)}") from None


def read_secret(path: Path) -> bytes:
    """As `read_public`, but refuses a file that others than its owner can read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UnusableSetup(f"cannot read {path}: {_why(error)}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UnusableSetup(f"{path} can be read by others; make it yours alone: chmod 600 {path}")
    return read_public(path)


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @property
    def ca_certificate(self) -> Path:
        return self.path / "ca" / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.path / "ca" / "ca.key"

    @property
    def ca_cross(self) -> Path:
        return self.path / "ca" / "cross.pem"

    @property
    def ca_crl(self) -> Path:
        return self.path / "ca" / "crl.pem"

    @property
    def ca_next(self) -> Path:
        return self.path / "ca" / "next"

    @property
    def server_certificate(self) -> Path:
        return self.path / "server" / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.path / "server" / "server.key"

    @property
    def directory(self) -> Path:
        return self.path / "server" / "directory.db"

    @property
    def mail(self) -> Path:
        return self.path / "server" / "mail.db"

    @property
    def log_key(self) -> Path:
        return self.path / "server" / "log.key"

    @property
    def address(self) -> Path:
        return self.path / "server" / "address"

    @property
    def server_settings(self) -> Path:
        return self.path / "server.toml"

    def identity(self, user: str) -> Path:
        return self.path / "identities" / f"{fold(check_username(user))}.key"

    def next_identity(self, user: str) -> Path:
        return self.identity(user).with_suffix(".next")

    def identities(self) -> list[Path]:
        return sorted((self.path / "identities").glob("[!.]*.key"))

    def account_folder(self, user: str) -> Path:
        return self.path / "accounts" / fold(check_username(user))

    def account(self, user: str) -> Path:
        return self.account_folder(user) / "account.db"

    def account_key(self, user: str) -> Path:
        return self.account_folder(user) / "account.key"

    def trust(self, user: str) -> Path:
        """Where the account lay before it was encrypted."""
        return self.account_folder(user) / "trust.db"
