"""Processes of the benchmark: what the kernel says about one (processor time by thread, memory), and how one is kept.

And what machine this is.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final

__all__ = [
    "Cpu",
    "cpu_of",
    "first_line",
    "machine",
    "many_files",
    "resident_kib",
    "settle",
    "stop",
    "tied_to_us",
    "wait_or_kill",
]

_TICK = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG: Final = 1


def wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> None:
    """For a process that has been told to end."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    process.terminate()
    wait_or_kill(process, seconds)


class Cpu:
    """Processor seconds so far: `loop` of the main thread, `others` of every other thread together.

    They are apart because the server's other thread makes temporary RSA keys in the background, whatever else happens.
    """

    __slots__ = ("loop", "others")

    def __init__(self, loop: float, others: float) -> None:
        self.loop, self.others = loop, others

    def since(self, earlier: Cpu) -> Cpu:
        return Cpu(self.loop - earlier.loop, self.others - earlier.others)


def _thread_seconds(task: Path) -> float:
    """From `schedstat` (nanoseconds) where the kernel keeps it, else `stat` (utime + stime, ticks of 10 ms)."""
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError, ValueError):
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK


def cpu_of(pid: int) -> Cpu:
    tasks = Path(f"/proc/{pid}/task")
    others = 0.0
    for task in tasks.iterdir():
        if task.name != str(pid):
            try:
                others += _thread_seconds(task)
            except OSError:
                continue  # the thread has just ended
    return Cpu(_thread_seconds(tasks / str(pid)), others)


def resident_kib(pid: int) -> int:
    """VmRSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise OSError("the kernel tells no VmRSS")


def settle(pid: int) -> None:
    """Until the event loop of the server does next to nothing, at most 3 s."""
    last = cpu_of(pid).loop
    for _ in range(30):
        time.sleep(0.1)
        now = cpu_of(pid).loop
        if now - last < 0.003:
            return
        last = now


def many_files() -> int:
    """Raise the limit on open files as far as it goes, for us and our children; what it is then."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def tied_to_us() -> Callable[[], None] | None:
    """For `preexec_fn`: the kernel kills the child when we end in whatever way. None where there is no such thing."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    return tie


def first_line(stream: IO[bytes], seconds: float) -> str:
    """The next line of a pipe that nobody else reads, without its end; what came of it after `seconds`."""
    end, data = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while b"\n" not in data and selector.select(max(0.0, end - time.monotonic())):
            part = os.read(stream.fileno(), 1 << 16)
            if not part:
                break
            data += part
    return data.decode(errors="replace").partition("\n")[0]


def machine() -> dict[str, str]:
    """CPU model, cores, memory, kernel, Python, libraries, and how busy it is already."""
    from cryptography.hazmat.backends.openssl import backend

    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{memory:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cryptography": f"{version('cryptography')} ({backend.openssl_version_text()})",
        "trio": version("trio"),
        "load at start": " ".join(f"{value:.1f}" for value in os.getloadavg()),
    }
