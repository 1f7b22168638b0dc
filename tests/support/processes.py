"""MessageApp as whole processes: a server and clients with real sockets, pipes and homes, everything bounded in time.

Keys are cheap here (Ed25519 and P-256, a light Argon2id), so that the processes' own work is what takes the time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric import ec

from messageapp.clock import wall_ms
from messageapp.store.accounts import open_account_database, unlock
from messageapp.store.database import open_database
from messageapp.store.home import Home, write_file
from messageapp.store.identities import find_identity
from messageapp.store.sealed import SealedDatabase
from messageapp.store.users import add_user, remove_user
from messageapp_keys.authority import make_ca, make_server_certificate, private_key_pem
from messageapp_keys.certificate_reading import certificate_pem
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keystore import Argon2Cost, seal_identity

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # for any one step; a loaded machine is slow, a hanging test is no test
PASSPHRASE = "correct horse"
LIGHT = Argon2Cost(kib=8, passes=1)
OPEN_LIMITS = (
    "rsa_pool=1",
    "connections_per_second=1000",
    "connections_burst=1000",
    "handshakes_per_address=100",
    "chats_per_minute=1000",
)
_GREETING = "User Login Complete!"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "messageapp_cli.main", *arguments]


def environment(home: Path, **changes: str) -> dict[str, str]:
    """Works in a bare checkout as well as installed."""
    paths = [str(ROOT / folder) for folder in (".", "cli", "keys")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESSAGEAPP_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "MESSAGEAPP_HOME": str(home),
        "MESSAGEAPP_PASSPHRASE": PASSPHRASE,
        "MESSAGEAPP_DEBUG": "1",  # a failing test says where
        "TERM": "dumb",
        **changes,
    }


def run(home: Path, *arguments: str, stdin: str | bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end. Whatever goes wrong, no traceback is shown."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    raw = subprocess.run(
        command(*arguments), input=data, capture_output=True, env=environment(home, **env), timeout=SECONDS, check=False
    )
    done = subprocess.CompletedProcess(raw.args, raw.returncode, raw.stdout.decode(), raw.stderr.decode())
    assert "Traceback" not in done.stderr, done.stderr
    assert "internal error" not in done.stderr, done.stderr
    return done


class Program:
    """A running command. `until*` wait until something was seen; what was read is kept in `out` and `err`.

    Both pipes are read by threads all the time, so that no program ever waits for its test.
    """

    def __init__(self, home: Path, *arguments: str, **env: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home, **env),
        )
        self._raw = {"out": b"", "err": b""}
        self._taken = 0  # complete lines of stdout that `until` has passed
        self._changed = threading.Condition()
        pipes = (("out", self.process.stdout), ("err", self.process.stderr))
        self._threads = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for thread in self._threads:
            thread.start()

    @property
    def out(self) -> str:
        return self._raw["out"].decode()

    @property
    def err(self) -> str:
        return self._raw["err"].decode()

    @property
    def lines(self) -> list[str]:
        return self.out.split("\n")[:-1]

    def send(self, *lines: str) -> None:
        self.send_bytes("".join(f"{line}\n" for line in lines).encode())

    def send_bytes(self, data: bytes) -> None:
        stdin = self._stdin()
        stdin.write(data)
        stdin.flush()

    def until(self, start: str) -> str:
        """The next line of stdout that begins with `start`; those before it are passed over."""
        found: list[str] = []

        def look() -> bool:
            lines = self.lines
            while self._taken < len(lines) and not found:
                if lines[self._taken].startswith(start):
                    found.append(lines[self._taken])
                self._taken += 1
            return bool(found)

        self._until(look, start)
        return found[0]

    def until_err(self, holds: Callable[[str], bool]) -> None:
        """Until it holds of all of stderr."""
        self._until(lambda: holds(self.err), holds.__name__)

    def finish(self, *, close: bool = True) -> int:
        """Close stdin, read to the end; the exit code."""
        if close:
            with suppress(BrokenPipeError):
                self._stdin().close()
        code = self.process.wait(SECONDS)
        for thread in self._threads:
            thread.join(SECONDS)
        assert "Traceback" not in self.err, self.err
        assert "internal error" not in self.err, self.err
        return code

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def close(self) -> None:
        self.kill()
        for thread in self._threads:
            thread.join(SECONDS)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        while data := os.read(pipe.fileno(), 65_536):
            with self._changed:
                self._raw[name] += data
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _until(self, holds: Callable[[], bool], wanted: str) -> None:
        deadline = time.monotonic() + SECONDS
        with self._changed:
            while not holds():
                alive = any(thread.is_alive() for thread in self._threads)
                left = deadline - time.monotonic()
                if not alive or left <= 0:
                    state = "does not go on" if alive else "ended"
                    raise AssertionError(f"the program {state} without {wanted!r}\nout:\n{self.out}\nerr:\n{self.err}")
                self._changed.wait(min(left, 1.0))  # a thread that ends notifies just before


class Site:
    """A home with a certificate authority, users and their keys, and the programs that run there."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.path = folder
        self.home = Home(folder)
        self.port = 0
        self.server: Program | None = None
        self._clients: list[Program] = []
        self._stack = stack

    def start(self, *arguments: str, home: Path | None = None, **env: str) -> Program:
        program = Program(home or self.path, *arguments, **env)
        self._stack.callback(program.close)
        return program

    def serve(self, *options: str, port: int = 0) -> Program:
        limits = [part for limit in OPEN_LIMITS for part in ("--limit", limit)]
        server = self.start("serve", str(port), "--host", "127.0.0.1", *limits, *options)
        self.port = int(server.until("listening on ").rpartition(":")[2])
        self.server = server
        return server

    def enrol(self, *names: str) -> None:
        """New identities in this home, known to the server at once."""
        for name in names:
            identity = PrivateIdentity.generate("ed25519")
            save(self.home, name, identity)
            self.tell_directory(add_user, name, identity.bundle, wall_ms())

    def tell_directory(self, change: Any, *arguments: Any) -> None:
        database = open_database(self.home.directory, "server")
        try:
            change(database, *arguments)
        finally:
            database.close()

    def remove(self, name: str) -> None:
        self.tell_directory(remove_user, name, wall_ms())

    def run(self, *arguments: str, stdin: str | bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
        return run(self.path, *arguments, stdin=stdin, **env)

    def connect(self, name: str, *options: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
        """A client that reads `stdin` and ends."""
        return self.run("connect", "127.0.0.1", str(self.port), "--user", name, *options, stdin=stdin)

    def client(self, name: str, *options: str, home: Path | None = None) -> Program:
        """A client that has logged in."""
        client = self.start("connect", "127.0.0.1", str(self.port), "--user", name, *options, home=home)
        self._clients.append(client)
        client.until(_GREETING)
        return client

    def end_clients(self) -> None:
        """Kill those that still run, and wait until the server knows."""
        while self._clients:
            self._clients.pop().close()
        if self.server is not None and self.server.process.poll() is None:
            self.server.until_err(_nobody_is_there)

    def chat(self, caller: Program, caller_name: str, receiver: Program, receiver_name: str) -> None:
        """From the command prompt to a secure chat."""
        caller.send(f"chat {receiver_name}")
        receiver.until(f"REQUEST TO CHAT FROM: <{caller_name}> ACCEPT?")
        receiver.send("acpt")
        caller.until(f"CHAT IS SECURE! with {receiver_name}")
        receiver.until(f"CHAT IS SECURE! with {caller_name}")


def _nobody_is_there(log: str) -> bool:
    return log.count(" logged in (") == log.count(" closed")


def save(home: Home, name: str, identity: PrivateIdentity) -> None:
    write_file(home.identity(name), seal_identity(name, identity, PASSPHRASE, cost=LIGHT))


def open_account(home: Home, name: str, passphrase: str = PASSPHRASE) -> SealedDatabase:
    """The account's database, as its client opens it."""
    _, key = unlock(home, find_identity(home, name), passphrase)
    return open_account_database(home, name, key)


def write_certificates(
    home: Home, *, names: Sequence[str] = ("localhost", "127.0.0.1", "::1"), when: datetime | None = None
) -> None:
    """A CA and a server certificate, as a first start makes them but with keys that are made at once. `when` is the
    moment at which the server certificate is made."""
    now = datetime.now(UTC)
    ca_key, ca = make_ca(now, key=ec.generate_private_key(ec.SECP256R1()))
    write_file(home.ca_key, private_key_pem(ca_key))
    write_file(home.ca_certificate, certificate_pem(ca).encode())
    key, leaf = make_server_certificate(ca_key, ca, list(names), when or now, ec.generate_private_key(ec.SECP256R1()))
    write_file(home.server_key, private_key_pem(key))
    write_file(home.server_certificate, certificate_pem(leaf).encode())


@contextmanager
def open_site(folder: Path, *names: str, serving: bool = True) -> Iterator[Site]:
    """A site with those users; leaving kills every program of it."""
    with ExitStack() as stack:
        site = Site(folder, stack)
        write_certificates(site.home)
        site.enrol(*names)
        if serving:
            site.serve()
        yield site
