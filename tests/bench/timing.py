"""`nox -s timing -- [--tries N]`: does the time of a failed login tell why it failed? A figure, never a verdict.

The real server's code as a process of its own, and the second peer, which fails at M3 in every way there is, in random
order. For each try: the processor time of the server's event loop from M3 to the end, and the time on the wall from M3
to the ALERT. For each pair of causes Welch's t; about 4.5 is where a difference begins to be more than chance
(Goodwill, Jun, Jaffe and Rohatgi, 2011). `cropped` leaves out the slowest tenth of all, where other programs show.

The temporary RSA key is one for all tries, or 10,000 of them would take an hour to make; nothing else is different.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(_ROOT / folder) for folder in ("tests", ".", "cli", "keys")]

import trio
from cryptography import x509

from bench.clients import OneKey
from bench.proc import first_line, machine, stop, tied_to_us
from faults.refusals import KINDS, People, answer, people
from interop.base import HYBRID, SWIFT, Identity
from messageapp.limits import Limits
from messageapp.server.directory import SqliteDirectory
from messageapp.server.garbage import keep_collections_short
from messageapp.server.serve import Server, open_listeners
from messageapp.server.setup import prepare_server
from messageapp.store.database import open_database
from messageapp.store.home import Home
from messageapp.store.users import add_user
from messageapp_keys.identity import IdentityBundle

__all__ = ["Samples", "main", "report", "welch"]

_KEYS: Final[Mapping[str, Sequence[str]]] = {
    "rsa": ("rsa3072",),
    "ed25519": ("ed25519",),
    "rsa+pq": ("rsa3072", "mldsa65"),
}
_WARM_UP: Final = 20
_START_SECONDS: Final = 60.0
_CROP: Final = 0.9
Samples = dict[str, list[float]]
"""What kind of failure took how many µs."""


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Welch's t of two samples of at least two values; 0 where neither varies nor differs."""
    difference = statistics.fmean(a) - statistics.fmean(b)
    spread = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
    return difference / spread if spread else math.copysign(math.inf, difference) if difference else 0.0


def cropped(samples: Samples) -> Samples:
    """Without what lies above one bound for all kinds."""
    bound = sorted(value for values in samples.values() for value in values)
    most = bound[int(_CROP * (len(bound) - 1))]
    return {kind: [value for value in values if value <= most] for kind, values in samples.items()}


def report(title: str, samples: Samples) -> str:
    """Medians, and t and the difference of medians for each pair."""
    kinds, clean = list(samples), cropped(samples)
    medians = {kind: statistics.median(samples[kind]) for kind in kinds}
    lines = [f"{title}, µs", f"{'':24}{'n':>7}{'median':>9}{'mean':>9}"]
    for kind in kinds:
        values = samples[kind]
        lines.append(f"{kind:24}{len(values):7}{medians[kind]:9.1f}{statistics.fmean(values):9.1f}")
    lines.append(f"\n{'pair':50}{'difference':>11}{'t':>8}{'cropped t':>11}")
    for at, one in enumerate(kinds):
        for other in kinds[at + 1 :]:
            ts = [welch(each[one], each[other]) if min(len(each[one]), len(each[other])) > 1 else math.nan
                  for each in (samples, clean)]  # fmt: skip
            difference = medians[one] - medians[other]
            lines.append(f"{one + ' – ' + other:50}{difference:11.1f}{ts[0]:8.1f}{ts[1]:11.1f}")
    return "\n".join(lines) + "\n"


def _loop_ns(pid: int) -> int:
    """Processor time of the event loop, once it rests."""
    path, last = f"/proc/{pid}/task/{pid}/schedstat", -1
    while True:
        now = int(Path(path).read_text().split()[0])
        if now == last:
            return now
        last = now
        time.sleep(0.0002)


def measure(pid: int, port: int, them: People, tries: int) -> tuple[Samples, Samples]:
    """(processor time, wall) of each kind of failure, in random order."""
    names = [kind for kind in KINDS if them.suite == HYBRID or "RSA" not in kind]
    processor: Samples = {kind: [] for kind in names}
    wall: Samples = {kind: [] for kind in names}
    for turn in range(-_WARM_UP, tries):
        for kind in random.sample(names, len(names)):
            login, start = KINDS[kind][1](them), [0, 0]

            def sending(body: bytes, real: Any = login.on_m3, start: list[int] = start) -> bytes:
                start[:] = _loop_ns(pid), time.perf_counter_ns()
                return bytes(real(body))

            def alerted(start: list[int] = start) -> None:
                start.append(time.perf_counter_ns())

            if answer(port, replace(login, on_m3=sending), alerted=alerted) != b"\x01":
                raise RuntimeError(f"{kind}: not the one answer")
            spent = _loop_ns(pid) - start[0]
            if turn >= 0:
                processor[kind].append(spent / 1e3)
                wall[kind].append((start[2] - start[1]) / 1e3)
    return processor, wall


# the server -----------------------------------------------------------------------------------------------------------


async def _serve(home: Home) -> None:
    offer, _ = prepare_server(home, [], datetime.now(UTC))
    database = open_database(home.directory, "server")
    many = 1_000_000
    limits = Limits.from_mapping({"connections_per_second": many, "connections_burst": many})
    server = Server(offer=offer, directory=SqliteDirectory(database), keys=OneKey(), limits=limits)
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_collections_short, lambda: server.router.session_count)
        await nursery.start(server.serve, listeners)
        sys.stdout.write(f"listening on 127.0.0.1:{listeners[0].socket.getsockname()[1]}\n")
        sys.stdout.flush()


@contextmanager
def _started(home: Path) -> Iterator[tuple[int, int]]:
    """(pid, port) of the server."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=tied_to_us(),
    )
    assert process.stdout is not None
    try:
        line = first_line(process.stdout, _START_SECONDS)
        if not line.startswith("listening on "):
            raise RuntimeError("the server did not start")
        yield process.pid, int(line.rpartition(":")[2])
    finally:
        stop(process, 5.0)
        process.stdout.close()


def _enrol(home: Path, *who: Identity) -> None:
    database = open_database(Home(home).directory, "server")
    try:
        for person in who:
            add_user(database, person.name, IdentityBundle.parse_untrusted(person.bundle), 0)
    finally:
        database.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s timing --", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=500, help="of each kind of failure, at least 2 (default 500)")
    parser.add_argument("--keys", choices=list(_KEYS), action="append", help="of the users; default: each in turn")
    parser.add_argument("--swift", action="store_true", help="no RSA in the key exchange: less noise, one kind less")
    parser.add_argument("--json", type=Path, help="keep every value")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.tries < 2:
        parser.error("--tries is at least 2")
    if options.serve is not None:
        trio.run(_serve, Home(options.serve))
        return 0
    if not Path("/proc/self/schedstat").exists():
        sys.stderr.write("this needs Linux: it reads the server's processor time from /proc\n")
        return 2
    kept: dict[str, Any] = {"machine": machine()}
    sys.stdout.write("t beyond ±4.5 begins to be more than chance; `cropped`: without the slowest tenth of all\n\n")
    for name in options.keys or list(_KEYS):
        with tempfile.TemporaryDirectory(prefix="messageapp-timing-") as folder:
            home = Path(folder)
            with _started(home) as (pid, port):
                ca = x509.load_pem_x509_certificate(Home(home).ca_certificate.read_bytes())
                them = people(ca, SWIFT if options.swift else HYBRID, *_KEYS[name])
                _enrol(home, them.enrolled)  # the removed one is not there any more
                processor, wall = measure(pid, port, them, options.tries)
        for what, samples in (("processor time of the server", processor), ("wall, M3 to ALERT", wall)):
            sys.stdout.write(report(f"users with {name} keys: {what}", samples) + "\n")
            sys.stdout.flush()
        kept[name] = {"processor": processor, "wall": wall}
    if options.json:
        options.json.write_text(json.dumps(kept) + "\n")
    return 0


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(str(_ROOT / folder) for folder in ("tests", ".", "cli", "keys"))
    sys.exit(main())
