"""Another server as a process of its own in a folder of its own, and what the kernel says about all its processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .peers_base import HOST, Launch, Peer, Place
from .peers_certificate import make_certificate
from .proc import cpu_of, many_files, resident_kib, stop, tied_to_us

__all__ = ["Server", "running"]

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_OTHER_USER: Final = ("nobody", "nogroup")  # some of them refuse to be root


@dataclass(frozen=True, slots=True)
class Server:
    """One that answers on `port`. Sums are over all threads of all of its processes."""

    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds so far."""
        total = 0.0
        for pid in _family(self.pid):
            with suppress(OSError):
                spent = cpu_of(pid)
                total += spent.loop + spent.others
        return total

    def resident_kib(self) -> int:
        total = 0
        for pid in _family(self.pid):
            with suppress(OSError):
                total += resident_kib(pid)
        return total


@contextmanager
def running(peer: Peer, home: Path, *, tls: bool, users: int) -> Iterator[Server]:
    """The server, up and empty, with `users` enrolled; it and its folder go when this is left, whatever happens.

    Under root it runs as nobody, in a folder in the system's folder for such. `RuntimeError` where it does not start
    or has ended by itself.
    """
    many_files()
    as_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="messageapp-peer-", dir=None if as_root else home) as name:
        folder = Path(name)
        certificate, key = make_certificate(folder)
        port = _free_port()
        launch = peer.prepare(Place(folder, port, tls, certificate, key, users))
        if as_root:
            _hand_over(folder)
        with (folder / "output").open("wb") as output:
            user, group = _OTHER_USER if as_root else (None, None)
            process = subprocess.Popen(
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={**os.environ, **launch.environment},
                user=user,
                group=group,
                extra_groups=[] if as_root else None,
                preexec_fn=tied_to_us(),  # after the change of user, which would undo it
            )
        try:
            _wait(process, launch, port)
            yield Server(process.pid, port)
            if process.poll() is not None:
                raise RuntimeError(f"it ended by itself with {process.returncode}")
        except RuntimeError as error:
            raise RuntimeError(f"{error}; its last words: {_last_words(folder)}") from None
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _hand_over(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, *_OTHER_USER)


def _wait(process: subprocess.Popen[bytes], launch: Launch, port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"it did not start, and ended with {process.returncode}")
        if launch.ready is None or launch.ready.exists():
            with suppress(OSError), socket.create_connection((HOST, port), 1.0):
                return
        time.sleep(0.05)
    raise RuntimeError(f"it did not start within {_START_SECONDS:.0f} s")


def _family(pid: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    below = _family(process.pid)[1:]
    stop(process, _STOP_SECONDS)
    for pid in below:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _last_words(folder: Path) -> str:
    """Of its logs and its output, without lines that only decorate."""
    said = []
    for path in (*folder.glob("*log"), folder / "output"):
        lines = path.read_text(errors="replace").splitlines()
        said += [line.strip()[:100] for line in lines if any(map(str.isalnum, line))][-2:]
    return " / ".join(said) or "none"
