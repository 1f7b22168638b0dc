"""The load generator `generator.c`: building it, driving one run of it, checking what it received.

generator = build(folder, tls=False)
with driven(generator, job) as reins:        # connected and logged in, nothing sent yet
    result = reins.go()                      # the load; afterwards its connections are still open
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from .proc import first_line, tied_to_us, wait_or_kill

__all__ = ["GeneratorMissing", "Reins", "Result", "build", "driven", "generator_has_tls"]

_SOURCE: Final = Path(__file__).with_name("generator.c")
_LEAVE_SECONDS: Final = 5.0
_MARK: Final = b"this generator was built without TLS"


class GeneratorMissing(RuntimeError):
    """There is no C compiler, or it does not take the source; the text says what to install."""


def build(folder: Path, *, tls: bool) -> Path:
    """Compile into `folder`. With `tls`, OpenSSL is used where its headers are there, and else left out."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise GeneratorMissing("no C compiler for the load generator: apt install gcc libc6-dev libssl-dev")
    target = folder / "generator"
    plain = [compiler, "-O2", "-o", str(target), str(_SOURCE)]
    if tls and _compile([*plain, "-DWITH_TLS", "-lssl", "-lcrypto"]) == "":
        return target
    error = _compile(plain)
    if error:
        raise GeneratorMissing(f"the load generator does not compile (apt install gcc libc6-dev): {error}")
    return target


def _compile(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[0][:200]


def generator_has_tls(generator: Path) -> bool:
    return _MARK not in generator.read_bytes()


@dataclass(frozen=True, slots=True)
class Result:
    """One load. Times of a message are µs from the call of `send` to its last byte at the receiver."""

    messages: int
    seconds: float  # first send → last message received
    cpu: float  # seconds of the generator itself in that time
    p50: float
    p99: float
    max: float
    strange: int  # frames that were no message
    answers: int  # bytes that came to senders
    pairs: list[tuple[int, int, int]]  # sent, received, bytes received


class Reins:
    """A generator that is ready. `go`, or `start` … `stop` or `finish`, once. `RuntimeError` where the load fails."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process = process
        self._seconds = seconds

    def go(self) -> Result:
        self.start()
        return self.finish()

    def start(self) -> None:
        self._say(b"go\n")

    def stop(self) -> Result:
        """Nothing more is sent; what is under way still arrives."""
        self._say(b"stop\n")
        return self.finish()

    def finish(self) -> Result:
        found = _answer(self._process, self._seconds)
        pairs = [(int(sent), int(got), int(size)) for sent, got, size in found.pop("pairs")]
        del found["error"]
        return Result(**found, pairs=pairs)

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its last words say why
            self._process.stdin.write(line)
            self._process.stdin.flush()


@contextmanager
def driven(generator: Path, job: str, pass_fds: Sequence[int] = (), seconds: float = 60.0) -> Iterator[Reins]:
    """A generator up to its `ready`; it goes when this is left. `RuntimeError` where its logins fail."""
    with tempfile.NamedTemporaryFile("w", suffix=".job") as file:
        file.write(job)
        file.flush()
        process = subprocess.Popen(
            [str(generator), file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
            preexec_fn=tied_to_us(),
        )
        try:
            _keep_to_one_core(process.pid)
            if _answer(process, seconds) is not None:
                raise RuntimeError("the generator did not say that it is ready")
            yield Reins(process, seconds)
        finally:
            _end(process)


def _keep_to_one_core(pid: int) -> None:
    """The last one. Left alone, the kernel puts who sends and who receives on one core, and the two take turns there;
    the servers, whichever, may run where they like."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, {cores[-1]})


def _answer(process: subprocess.Popen[bytes], seconds: float) -> Any:
    """What the generator's next line says: None for `ready`, else the JSON."""
    stdout = process.stdout
    assert stdout is not None
    line = first_line(stdout, seconds)
    if line == "ready":
        return None
    try:
        found = json.loads(line)
    except ValueError:
        ended = process.poll()
        raise RuntimeError(
            f"the generator said nothing for {seconds:.0f} s" if ended is None else f"the generator ended with {ended}"
        ) from None
    if found["error"]:
        raise RuntimeError(found["error"])
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    streams: list[IO[bytes] | None] = [process.stdin, process.stdout]
    for stream in streams:
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
    wait_or_kill(process, _LEAVE_SECONDS)
