"""The benchmark's users, and the server as a process of its own that never outlives us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from messageapp.store.database import open_database
from messageapp.store.home import Home, write_file
from messageapp.store.users import add_user
from messageapp_keys.certificate import Certificate, load_certificate_untrusted
from messageapp_keys.identity import PrivateIdentity

from .proc import cpu_of, first_line, stop, tied_to_us

__all__ = ["LIMITS", "Identities", "RunningServer", "authority", "enrol", "start_bare", "start_server", "wait_for_pool"]

# One address plays all the users here, and pings would be counted as messages.
LIMITS: Final = {
    "connections_per_second": 1_000_000,
    "connections_burst": 1_000_000,
    "handshakes_per_address": 4096,
    "handshakes": 4096,
    "handshakes_crowded": 4096,
    "sessions": 6000,
    "commands_per_second": 1_000_000,
    "commands_burst": 1_000_000,
    "chats_per_minute": 1_000_000,
    "ping_seconds": 3000,
    "dead_seconds": 6000,
}
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_USERS: Final = "bench-users.json"


def enrol(home: Path, count: int, rsa_count: int) -> None:
    """`user0` … with an Ed25519 key each, `rsa0` … with one RSA-3072 key between them (the default kind of key)."""
    shared = PrivateIdentity.generate()
    users = {f"user{i}": PrivateIdentity.generate("ed25519") for i in range(count)}
    users |= {f"rsa{i}": shared for i in range(rsa_count)}
    database = open_database(Home(home).directory, "server")
    database.execute("BEGIN")
    for name, who in users.items():
        add_user(database, name, who.bundle, 0)
    database.execute("COMMIT")
    database.close()
    stored = {name: [[kind, der.hex()] for kind, der in who.pkcs8()] for name, who in users.items()}
    write_file(home / _USERS, json.dumps(stored).encode())


class Identities:
    """`Identities(home).of(name)`: the private keys of a user of the benchmark."""

    def __init__(self, home: Path) -> None:
        self._stored: dict[str, list[tuple[int, str]]] = json.loads((home / _USERS).read_text())

    def of(self, name: str) -> PrivateIdentity:
        return PrivateIdentity.from_pkcs8([(kind, bytes.fromhex(der)) for kind, der in self._stored[name]])


def authority(home: Path) -> Certificate:
    return load_certificate_untrusted(Home(home).ca_certificate.read_bytes())


@dataclass(frozen=True, slots=True)
class RunningServer:
    pid: int
    port: int


@contextmanager
def start_server(
    home: Path,
    limits: Mapping[str, float],
    *,
    before: Sequence[str] = (),
    rsa_pool: int = 1,
    checkout: Path | None = None,
    port: int = 0,
) -> Iterator[RunningServer]:
    """`messageapp serve` on a port of the loopback (0: a free one); `before` goes between `python` and `-m` (a
    profiler).

    With `checkout` the server is that of another checkout. Leaving stops it with SIGTERM, and kills it where that does
    not help. `RuntimeError` where it does not start.
    """
    chosen = {**LIMITS, "rsa_pool": rsa_pool, **limits}
    options = ["--host=127.0.0.1", f"--home={home}", *(f"--limit={name}={value}" for name, value in chosen.items())]
    environment = dict(os.environ)
    if checkout is not None:
        environment["PYTHONPATH"] = os.pathsep.join(str(checkout / folder) for folder in (".", "cli", "keys"))
    with _started(
        [*before, "-m", "messageapp_cli.main", "serve", str(port), *options], home / "server.log", environment
    ) as server:
        yield server


@contextmanager
def start_bare(form: str, folder: Path) -> Iterator[RunningServer]:
    """The relay of `bare.py` as a process of its own."""
    with _started(["-m", "bench.bare", form], folder / "bare.log", dict(os.environ)) as server:
        yield server


@contextmanager
def _started(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[RunningServer]:
    """A Python process that says `listening on HOST:PORT`."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", *command],  # or the current folder would come before another checkout
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            preexec_fn=tied_to_us(),
        )
    try:
        assert process.stdout is not None
        line = first_line(process.stdout, _START_SECONDS)
        address = line.removeprefix("listening on ").strip()
        if address == line.strip() or process.poll() is not None:
            raise RuntimeError(f"the server did not start: {_tail(log)}")
        yield RunningServer(process.pid, int(address.rpartition(":")[2]))
        if process.poll() is not None:
            raise RuntimeError(f"the server ended by itself with {process.returncode}: {_tail(log)}")
    finally:
        stop(process, _STOP_SECONDS)
        assert process.stdout is not None
        process.stdout.close()


def _tail(log: Path) -> str:
    """The last line of the server's log."""
    return (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:200]


_RESTING = 0.005
"""Seconds of processor time: far below what a key takes, above what looking for another certificate does."""


def wait_for_pool(pid: int, seconds: float) -> None:
    """Until the thread that makes RSA keys rests, so the pool is full. `TimeoutError`."""
    end, seen, since = time.monotonic() + seconds, -1.0, 0.0
    while time.monotonic() < end:
        now, busy = time.monotonic(), cpu_of(pid).others
        if busy - seen > _RESTING:
            seen, since = busy, now
        elif now - since > 1.0 and busy > 0:  # a starved thread of low priority also stands still, but not for long
            return
        time.sleep(0.1)
    raise TimeoutError("the pool of RSA keys did not fill")
