"""TCP_NODELAY for a server that has no setting for it: on its listening socket, from which connections inherit it."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path
from typing import Final

__all__ = ["without_nagle"]

_PIDFD_GETFD: Final = 438  # the same number on all architectures of Linux ≥ 5.6 but Alpha


def without_nagle(pid: int) -> bool:
    """Take each listening socket of the process, with pidfd_getfd(2), and set it. False where we are not let to.

    The right is that of a debugger: root, or the parent of the process with the same user; containers often deny it.
    """
    call, done = ctypes.CDLL(None, use_errno=True).syscall, False
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not os.readlink(entry).startswith("socket:"):
                continue
            descriptor = call(_PIDFD_GETFD, process, int(entry.name), 0)
            if descriptor < 0:
                return False
            with socket.socket(fileno=descriptor) as ours:  # a second descriptor: closing it leaves theirs open
                if ours.family == socket.AF_INET and ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    done = True
    finally:
        os.close(process)
    return done
