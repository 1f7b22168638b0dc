"""One client for an account: two would answer for one device, and each would undo the other's sessions."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from messageapp.errors import UnusableSetup

from .home import Home, make_folder

__all__ = ["locked_account"]


@contextmanager
def locked_account(home: Home, user: str) -> Iterator[None]:
    """Alone with the account of `user` while the block runs; `UnusableSetup` names the process that has it.

    The lock ends with the process, however that ends. Its file stays: who removed it could let two in.
    """
    path = make_folder(home.account_folder(user)) / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnusableSetup(f"cannot use {path}: {(error.strerror or 'it cannot be opened').lower()}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            process = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            of = f" (process {process})" if process.isdecimal() else ""
            raise UnusableSetup(f"{user} is in use by another client of this home{of}; leave that first") from None
        with suppress(OSError):  # a full disk; the lock holds all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
