"""A stranger with many connections, as a process of its own: `with flood(…) as stranger: …; stranger.end()`.

It keeps so many open that say nothing, a part of an M1, a whole one, or noise; what the server closes is opened again.
It ends by itself after its time, and with the process that began it.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(_ROOT / folder) for folder in ("tests", ".", "cli", "keys")]

from bench.proc import first_line, tied_to_us

__all__ = ["Stranger", "flood"]

_ANSWER_SECONDS: Final = 30.0
_STEP: Final = 0.02


class Stranger:
    """`until_held` waits for so many open connections; `end` stops it and gives what it counted."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def until_open(self) -> dict[str, int]:
        """Its connections are open; what it counted so far."""
        return self._answer()

    def end(self) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = first_line(self._process.stdout, _ANSWER_SECONDS)
        found: dict[str, int] = json.loads(line)
        return found


@contextmanager
def flood(
    port: int, m1: bytes, kinds: Sequence[str], *, count: int, rate: int, seconds: float, network: int, hosts: int = 100
) -> Iterator[Stranger]:
    """`count` connections at a time, at most `rate` new ones a second, from the addresses 127.`network`.0.1 and on.

    `kinds` of nothing, half, m1, noise and gone (closed at once) take turns.
    """
    job = {
        "port": port,
        "m1": m1.hex(),
        "kinds": list(kinds),
        "count": count,
        "rate": rate,
        "seconds": seconds,
        "network": network,
        "hosts": hosts,
    }
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=tied_to_us(),
    )
    try:
        yield Stranger(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


class _Many:
    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        m1 = bytes.fromhex(job["m1"])
        self._says = {"nothing": b"", "half": m1[: len(m1) // 2], "m1": m1, "noise": os.urandom(64), "gone": b""}
        self._selector = selectors.DefaultSelector()
        self._opened = self._refused = self._closed = self._alerts = self._most = 0

    def run(self) -> None:
        began, said = time.monotonic(), False
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        while (now := time.monotonic()) < began + self._job["seconds"]:
            self._open_more(now - began)
            for key, _ in self._selector.select(_STEP):
                if key.fileobj is sys.stdin:
                    self._say()
                    return
                self._hear(key.fileobj)  # type: ignore[arg-type]
            if not said and self._opened >= self._job["count"]:
                said = True
                self._say()
        self._say()
        sys.stdin.read()

    @property
    def _held(self) -> int:
        return len(self._selector.get_map()) - 1

    def _open_more(self, elapsed: float) -> None:
        allowed = min(self._job["count"] - self._held, int(elapsed * self._job["rate"]) + 1 - self._opened)
        for _ in range(max(0, allowed)):
            self._opened += 1
            number = self._opened % self._job["hosts"]
            kind = self._job["kinds"][self._opened % len(self._job["kinds"])]
            sock = socket.socket()
            try:
                sock.bind((f"127.{self._job['network']}.{number // 250}.{number % 250 + 1}", 0))
                sock.settimeout(1.0)
                sock.connect(("127.0.0.1", self._job["port"]))
                sock.sendall(self._says[kind])
            except OSError:
                self._refused += 1
                sock.close()
                continue
            if kind == "gone":
                sock.close()
                continue
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)
        self._most = max(self._most, self._held)

    def _hear(self, sock: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = sock.recv(65_536)
        self._alerts += data[4:5] == b"\x1f"
        if not data:
            self._closed += 1
            self._selector.unregister(sock)
            sock.close()

    def _say(self) -> None:
        counts = {"opened": self._opened, "refused": self._refused, "closed": self._closed, "alerts": self._alerts,
                  "held": self._held, "most": self._most}  # fmt: skip
        sys.stdout.write(json.dumps(counts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _Many(json.loads(sys.argv[1])).run()
