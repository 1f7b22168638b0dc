"""The real programs as child processes, with a deadline on every line that is waited for."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Protocol, Self

from cryptography import x509

from interop.base import PEM, Identity
from interop.peer import WAIT, Authority, Login, Session, log_in

ROOT = Path(__file__).parents[2]
PASSPHRASE = "four words in a row"
PATIENCE = 60.0  # for a program to start, or to end, on a busy machine
PATIENT = {"connections_per_second": 1000, "connections_burst": 1000, "commands_per_second": 1000, "rsa_pool": 4,
           "commands_burst": 1000, "chats_per_minute": 1000, "handshakes_per_address": 100,
           "pool_wait_seconds": 60, "handshake_seconds": 60}  # fmt: skip


def environment() -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "cli", "keys"))
    return {**os.environ, "PYTHONPATH": path, "MESSAGEAPP_PASSPHRASE": PASSPHRASE}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "messageapp_cli.main", *map(str, words)]


def run(*words: object) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(
        command(*words), env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Program:
    """A child whose standard output is read by a thread, line by line."""

    class Child(Protocol):
        """What is used of a `subprocess.Popen`."""

        stdin: IO[bytes] | None
        stdout: IO[bytes] | None

        def wait(self, timeout: float | None = None) -> int: ...
        def send_signal(self, sig: int, /) -> None: ...
        def kill(self) -> None: ...

    def __init__(self, *words: object) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.child = self.start(*words)
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.seen: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def start(self, *words: object) -> Program.Child:
        return subprocess.Popen(
            command(*words),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.put(line.decode().rstrip("\n"))
        self.lines.put(None)

    def say(self, *lines: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write("".join(line + "\n" for line in lines).encode())
        self.child.stdin.flush()

    def until(self, wanted: str) -> str:
        """The next line that contains `wanted`; fails when none comes in time."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE)
            except queue.Empty:
                line = None
            assert line is not None, f"no line with {wanted!r} after {self.seen}, {self.complaints()}"
            self.seen.append(line)
            if wanted in line:
                return line

    def complaints(self) -> str:
        """Its standard error so far."""
        return os.pread(self.errors.fileno(), 100_000, 0).decode()

    def end(self) -> int:
        """Its exit code, after it ended by itself."""
        code = self.child.wait(PATIENCE)
        self.reader.join(WAIT)
        while (line := self.lines.get_nowait()) is not None:
            self.seen.append(line)
        self.lines.put(None)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.wait(WAIT)
        self.reader.join(WAIT)
        self.errors.close()
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue


class RealServer(Program):
    """`serve` on a free port, with limits that do not get in the way of tests."""

    def __init__(self, home: Path, **limits: float) -> None:
        self.home = home
        words = [f"--limit={name}={value}" for name, value in {**PATIENT, **limits}.items()]
        super().__init__("serve", 0, "--host", "127.0.0.1", "--home", home, *words)
        try:
            self.port = int(self.until("listening on").rsplit(":", 1)[1])
        except BaseException:
            self.__exit__()
            raise
        self.ca_file = home / "ca" / "ca.pem"
        self.ca = x509.load_pem_x509_certificate(self.ca_file.read_bytes())

    def enrol(self, *people: Identity) -> None:
        for who in people:
            file = self.home / f"{who.name}.public.pem"
            file.write_bytes(who.pem())
            run("user", "add", who.name, file, "--home", self.home)

    def log_in(self, who: Identity, **choices: object) -> Session:
        return log_in(self.port, Login(who, self.ca, **choices))  # type: ignore[arg-type]

    def stop(self) -> None:
        self.child.send_signal(signal.SIGTERM)


class RealClient(Program):
    """`connect --plain` of the identity that lies in `home`."""

    def __init__(self, home: Path, port: int, ca: Path, *words: object) -> None:
        super().__init__("connect", "127.0.0.1", port, "--plain", "--home", home, "--ca", ca, *words)


class Home:
    """A home with one identity, made once and copied for every test, so that no pins are left over."""

    def __init__(self, made: Path, name: str) -> None:
        self.made, self.name = made, name
        run("keygen", name, "--home", made)
        self.pem = run("keys", "export", name, "--home", made)

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.made, to)
        return to


def write_ca(authority: Authority, folder: Path) -> Path:
    file = folder / "interop-ca.pem"
    file.write_bytes(authority.ca.public_bytes(PEM))
    return file
