"""Many clients for the price of one start: a process that has loaded the program, and forks itself for each of them.

Each is a process with streams, memory and an exit code of its own; only the loading of modules, nine tenths of what a
refused login costs, is shared. With MESSAGEAPP_TESTS_EXEC set every client is started from nothing instead.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

from interop.programs import Program, RealClient, environment

__all__ = ["ForkedClient", "Forks"]

_LOADED = ("main", "connect", "hardening", "loading", "plain", "render", "repl")


_PATIENCE = 20.0  # seconds


class Child:
    """What `Program` needs of a child process."""

    def __init__(self, pid: int, stdin: int, stdout: int, status: int) -> None:
        self.pid, self.status = pid, status
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb")
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked client", timeout or 0)
            self.returncode = int.from_bytes(os.read(self.status, 4), "big", signed=True)
            os.close(self.status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None and not select.select([self.status], [], [], 0)[0]:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that forks; ended by `close`."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            path = os.pathsep.join([environment()["PYTHONPATH"], str(Path(__file__).parents[1])])
            words = [sys.executable, "-m", "adversary.client_forks", str(theirs.fileno())]
            env = {**environment(), "PYTHONPATH": path}
            self.process = subprocess.Popen(words, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def start(self, words: tuple[str, ...], stderr: int) -> Child:
        (stdin, to_child), (from_child, stdout), (status, told) = os.pipe(), os.pipe(), os.pipe()
        socket.send_fds(self.ours, [json.dumps(words).encode()], [stdin, stdout, stderr, told])
        for each in (stdin, stdout, told):
            os.close(each)
        pid = int.from_bytes(os.read(status, 4), "big")
        assert pid, "the process that forks has ended"
        return Child(pid, to_child, from_child, status)

    def close(self) -> None:
        """It ends when it hears no more of us and its clients have ended; what takes too long is killed."""
        self.ours.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class ForkedClient(RealClient):
    def __init__(self, forks: Forks, home: Path, port: int, ca: Path, *words: object) -> None:
        self.forks = forks
        super().__init__(home, port, ca, *words)

    def start(self, *words: object) -> Program.Child:
        if "MESSAGEAPP_TESTS_EXEC" in os.environ:
            return super().start(*words)
        return self.forks.start(tuple(map(str, words)), self.errors.fileno())


def _client(request: bytes, fds: list[int]) -> None:
    """In the first fork: the second one is the client, this one waits for it and tells its exit code."""
    *streams, told = fds
    pid = os.fork()
    if pid:
        for each in streams:
            os.close(each)
        os.write(told, pid.to_bytes(4, "big"))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(told, code.to_bytes(4, "big", signed=True))
        os._exit(0)
    os.close(told)
    for number, each in enumerate(streams):
        os.dup2(each, number)
        os.close(each)
    from messageapp_cli.main import main

    main(json.loads(request))


def _serve(control: socket.socket) -> None:
    import importlib

    for name in (*(f"messageapp_cli.{part}" for part in _LOADED), "messageapp.client.client", "messageapp.keypool",
                 "messageapp.store.identities"):  # fmt: skip
        importlib.import_module(name)
    first_forks: set[int] = set()
    while True:
        request, fds, _, _ = socket.recv_fds(control, 65536, 4)
        first_forks -= {pid for pid in first_forks if os.waitpid(pid, os.WNOHANG if request else 0)[0]}
        if not request:
            return
        pid = os.fork()
        if not pid:
            control.close()
            _client(request, fds)
        first_forks.add(pid)
        for each in fds:
            os.close(each)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        _serve(given)
