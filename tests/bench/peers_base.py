"""What the benchmark knows of another server: how it is started, how one logs in, what a message is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["END", "HOST", "TEXT", "Launch", "Peer", "Place", "found"]

HOST = "127.0.0.1"
END = "(ended)"
TEXT = "x" * (100 - len(END)) + END  # 100 bytes; no byte that a protocol would escape


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is to live: an empty folder of its own, one port of the loopback, PEM files, users `user0` …"""

    folder: Path
    port: int
    tls: bool
    certificate: Path
    key: Path
    users: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that stays in the foreground. It is up when its port answers and, where given, `ready` is there."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Path | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """`prepare` writes the configuration and the users; `login(i)` is what user i sends and what it then waits for.

    `message(i)` goes from anybody to user i; the receiver gets `delimiter` once in each message and in nothing else.
    """

    name: str
    program: str
    package: str  # of Debian and Ubuntu
    prepare: Callable[[Place], Launch]
    login: Callable[[int], Sequence[tuple[bytes, bytes]]]
    message: Callable[[int], bytes]
    delimiter: bytes
    lacks_no_delay: bool = False  # has no setting for TCP_NODELAY: measured as it is, and with it set from outside


def found(program: str) -> str | None:
    """Its path; daemons are often not in the PATH of a user."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
