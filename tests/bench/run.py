"""`nox -s bench -- [--quick] [--runs N] [--json FILE] [--profile]`: figures of this machine, see docs/performance.md.

Starts the real server as a process on the loopback and puts it under load from a second process. Bounded in count and
time; ends by itself; whatever happens, the server goes with it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import pstats
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT / "tests"))
if importlib.util.find_spec("messageapp_cli") is None:  # not installed: straight from the checkout
    sys.path[:0] = [str(_ROOT), str(_ROOT / "cli"), str(_ROOT / "keys")]

from bench.local import message_size  # noqa: E402
from bench.proc import machine  # noqa: E402
from bench.rows import Row, Table  # noqa: E402
from bench.world import RunningServer, enrol, start_server, tied_to_us, wait_for_pool  # noqa: E402

_JOB_SECONDS: Final = 240.0
_POOL_SECONDS: Final = 120.0
_RSA_USERS: Final = 64
FULL: Final[dict[str, Any]] = {
    "runs": 3,
    "pool": 32,
    "alone": 20,
    "swift_logins": 300,
    "pairs": [1, 20, 200],
    "messages": {"1": 3000, "32": 12_800},
    "latency_messages": 500,
    "idle": 500,
    "chats": 6,
    "texts": 2000,
    "repeats": 5,
}
QUICK: Final[dict[str, Any]] = {
    "runs": 1,
    "pool": 8,
    "alone": 5,
    "swift_logins": 60,
    "pairs": [1, 20],
    "messages": {"1": 600, "32": 3200},
    "latency_messages": 200,
    "idle": 100,
    "chats": 3,
    "texts": 500,
    "repeats": 3,
}


class _Stopped(BaseException):
    """A signal came."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Figures of this machine.")
    parser.add_argument("--quick", action="store_true", help="one run with small counts, under a minute")
    parser.add_argument("--runs", type=int, help="how often everything is measured (default 3)")
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), help="where the figures go as JSON")
    parser.add_argument("--profile", action="store_true", help="only the relay, with the server under cProfile")
    options = parser.parse_args()
    if not Path("/proc/self/stat").exists():
        _tell("this needs Linux: it reads the server's processor time and memory from /proc\n")
        return 2
    counts = dict(QUICK if options.quick else FULL)
    counts["runs"] = max(1, min(20, options.runs or counts["runs"]))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix="messageapp-bench-") as folder:
            home = Path(folder)
            enrol(home, max(2 * max(counts["pairs"]), counts["idle"] + 20), _RSA_USERS)
            if options.profile:
                return _profile(home, counts)
            return _measure(home, counts, options.json)
    except _Stopped:
        _tell("stopped\n")
        return 130


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _measure(home: Path, counts: dict[str, Any], path: Path) -> int:
    about, began = machine(), time.monotonic()
    for name, value in about.items():
        _say(f"{name}: {value}\n")
    size = message_size()
    table = Table()
    for run in range(counts["runs"]):
        _tell(f"run {run + 1} of {counts['runs']}\n")
        for group, rows in _one_run(home, counts, size):
            for row in rows:
                table.add(group, row)
    seconds = time.monotonic() - began
    _say(f"runs: {counts['runs']}, {seconds:.0f} s in all; a chat message with a text of 100 bytes: {size:,} bytes\n\n")
    _say(table.text() + "\n")
    document = {"machine": about, "counts": counts, "message_bytes": size, "seconds": seconds, "rows": table.as_json()}
    path.write_text(json.dumps(document, indent=1) + "\n")
    _tell(f"{path} written\n")
    return int(table.failed)


def _one_run(home: Path, counts: dict[str, Any], size: int) -> Iterator[tuple[str, list[Row]]]:
    """Every group once; a server of its own for each that needs one. What fails becomes a row."""
    logins = "logins, RSA-3072 users"
    pool = counts["pool"]
    for suite in ("classic", "hybrid"):
        job = {
            "name": "logins",
            "suite": suite,
            "count": pool,
            "note": f", burst of {pool} from a full pool",
            "alone": 0,
        }
        yield logins, _with_server(home, job, rsa_pool=pool)
    job = {"name": "logins", "suite": "swift", "count": counts["swift_logins"], "note": "", "alone": counts["alone"]}
    yield logins, _with_server(home, job)
    job = {
        "name": "relay",
        "pairs": counts["pairs"],
        "in_flight": [1, 32],
        "messages": counts["messages"],
        "sizes": {f"{size:,} bytes": size, "100 bytes": 100},
        "latency_messages": counts["latency_messages"],
    }
    yield "relay", _with_server(home, job)
    yield "memory", _with_server(home, {"name": "memory", "count": counts["idle"]})
    job = {"name": "clients", "chats": counts["chats"], "texts": counts["texts"]}
    yield "two clients and the server", _with_server(home, job)
    yield "in the library", _run("bench.local", {"name": "layers", "texts": counts["texts"]})
    yield "in the library", _run("bench.local", {"name": "keys", "repeats": counts["repeats"]})


def _with_server(home: Path, job: dict[str, Any], *, rsa_pool: int = 1) -> list[Row]:
    label = f"{job['name']} {job.get('suite', '')}".strip()
    try:
        with start_server(home, {}, rsa_pool=rsa_pool) as server:
            wait_for_pool(server.pid, _POOL_SECONDS)
            return _load(home, server, job)
    except (RuntimeError, OSError) as error:
        return [Row(label, "", error=f"{type(error).__name__}: {error}")]


def _load(home: Path, server: RunningServer, job: dict[str, Any]) -> list[Row]:
    return _run(
        "bench.load", {**job, "home": str(home), "port": server.port, "pid": server.pid, "rsa_users": _RSA_USERS}
    )


def _run(module: str, job: dict[str, Any]) -> list[Row]:
    """One job in a process of its own; a row with the error where it gives nothing."""
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
        preexec_fn=tied_to_us(),
    )
    try:
        out, _ = process.communicate(json.dumps(job).encode(), _JOB_SECONDS)
        return [Row(**row) for row in json.loads(out)]
    except subprocess.TimeoutExpired:
        return [Row(job["name"], "", error=f"not done after {_JOB_SECONDS:.0f} s")]
    except ValueError:
        return [Row(job["name"], "", error=f"the job's process ended with {process.returncode}")]
    finally:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    given = os.environ.get("PYTHONPATH")
    paths = [path for path in sys.path if path.startswith(str(_ROOT))] + ([given] if given else [])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _profile(home: Path, counts: dict[str, Any]) -> int:
    """Where the server's time goes while it relays. cProfile slows small functions most: read shares, not times."""
    size = message_size()
    job = {"name": "relay", "pairs": [20], "in_flight": [32], "messages": {"32": 12_800}, "latency_messages": 1}
    found = home / "relay.prof"
    with start_server(home, {}, before=["-m", "cProfile", "-o", str(found)]) as server:
        rows = _load(home, server, {**job, "sizes": {f"{size:,} bytes": size}})
    table = Table()
    for row in rows:
        table.add("relay under cProfile", row)
    _say(table.text() + "\n\n")
    statistics = pstats.Stats(str(found), stream=sys.stdout)
    statistics.strip_dirs().sort_stats("tottime").print_stats(25)
    return int(table.failed)


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(text)
        sys.stdout.flush()


def _tell(text: str) -> None:
    sys.stderr.write(text)


if __name__ == "__main__":
    os.environ.update(PYTHONPATH=_environment()["PYTHONPATH"])
    sys.exit(main())
