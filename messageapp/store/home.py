"""The home folder: where everything lies, and files that are whole or not there (folders 0700, files 0600).

One home may hold a server and several users:

    ca/ca.pem  ca/ca.key            the certificate authority
    server/server.pem  server.key   the server's certificate chain and key
    server/directory.db             the enrolled users
    server.toml                     the server's settings (optional)
    identities/NAME.key             private identities, sealed with a passphrase
    accounts/NAME/trust.db          pins of peers and servers of one user
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from messageapp.errors import UnusableSetup
from messageapp_keys.names import check_username, fold

__all__ = ["Home", "read_public", "read_secret", "write_file"]


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
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise UnusableSetup(f"{path} exists already; it is not overwritten") from None
    except OSError as error:
        raise UnusableSetup(f"cannot write {path}: {_why(error)}") from None


def _sync_folder(folder: Path) -> None:
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
    def server_certificate(self) -> Path:
        return self.path / "server" / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.path / "server" / "server.key"

    @property
    def directory(self) -> Path:
        return self.path / "server" / "directory.db"

    @property
    def server_settings(self) -> Path:
        return self.path / "server.toml"

    def identity(self, user: str) -> Path:
        return self.path / "identities" / f"{fold(check_username(user))}.key"

    def identities(self) -> list[Path]:
        return sorted((self.path / "identities").glob("[!.]*.key"))

    def trust(self, user: str) -> Path:
        return self.path / "accounts" / fold(check_username(user)) / "trust.db"
