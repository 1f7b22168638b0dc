"""`nox -s bench -- [--quick] [--only GROUP] …`: figures of this machine, see docs/performance.md.

Starts the real server as a process on the loopback and puts it under load from other processes. Bounded in count and
time; ends by itself; whatever happens, the servers go with it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT / "tests"))
sys.path[:0] = [str(_ROOT), str(_ROOT / "cli"), str(_ROOT / "keys")]  # this checkout, whatever is installed

from bench.groups import GROUPS, RSA_USERS, Bench
from bench.local import message_size
from bench.proc import machine, many_files
from bench.profiling import profile
from bench.rows import Row, Table
from bench.world import enrol

FULL: Final[dict[str, Any]] = {
    "quick": False,
    "runs": 3,
    "pool": 32,
    "alone": 20,
    "swift_logins": 600,
    "storm": 500,
    "pairs": [1, 20, 200],
    "messages": {"1": 8000, "32": 40_000},
    "latency_messages": 400,
    "users": [10, 100, 1000, 5000],
    "scaling_messages": {"1": 1500, "32": 5000},
    "turns": 5,
    "longer": 10,
    "large_messages": 600,
    "idle": 500,
    "mail": 10_000,
    "restart": 200,
    "chats": 6,
    "texts": 2000,
    "repeats": 5,
    "leaves": 1_000_000,
    "replay": 50_000,
    "stored": 100_000,
}
QUICK: Final[dict[str, Any]] = {
    "quick": True,
    "runs": 1,
    "pool": 8,
    "alone": 5,
    "swift_logins": 100,
    "storm": 100,
    "pairs": [1, 20],
    "messages": {"1": 1500, "32": 8000},
    "latency_messages": 100,
    "users": [10, 300],
    "scaling_messages": {"1": 500, "32": 1500},
    "turns": 3,
    "longer": 10,
    "large_messages": 150,
    "idle": 100,
    "mail": 2000,
    "restart": 50,
    "chats": 3,
    "texts": 500,
    "repeats": 3,
    "leaves": 20_000,
    "replay": 5000,
    "stored": 10_000,
}
_OTHERS: Final = 1500  # users that the logins take, beside the pairs
_FILES_LEFT: Final = 500


class _Stopped(BaseException):
    """A signal came."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if not Path("/proc/self/stat").exists():
        _tell("this needs Linux: it reads the server's processor time and memory from /proc\n")
        return 2
    counts = copy.deepcopy(QUICK if options.quick else FULL)
    counts["runs"] = max(1, min(20, options.runs or counts["runs"]))
    files = many_files() - _FILES_LEFT
    for users in [users for users in counts["users"] if users > files]:
        _tell(f"skipped: {users:,} users, more than open files allow\n")
        counts["users"].remove(users)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix="messageapp-bench-") as folder:
            home = Path(folder)
            enrol(home, max(2 * max(counts["pairs"]), counts["idle"] + 20, *counts["users"], _OTHERS), RSA_USERS)
            bench = Bench(home, counts, message_size(), tuple(options.against), options.peers)
            if options.profile:
                text, good = profile(bench, options.profile)
                _say(text)
                return int(not good)
            return _measure(bench, options.only or [name for name in GROUPS if name != "peers"], options.json)
    except _Stopped:
        _tell("stopped\n")
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Figures of this machine.")
    parser.add_argument("--quick", action="store_true", help="one run with small counts, under a minute")
    parser.add_argument("--runs", type=int, help="how often everything is measured (default 3)")
    parser.add_argument("--only", action="append", choices=list(GROUPS), help="this group of rows; may be repeated")
    parser.add_argument("--peers", action="store_true", help="other servers too, those that are installed")
    parser.add_argument(
        "--against",
        type=_checkout,
        metavar="DIR",
        action="append",
        default=[],
        help="the relay of another checkout too, in turn; may be repeated",
    )
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), help="where the figures go as JSON")
    parser.add_argument(
        "--profile",
        nargs="?",
        const="cprofile",
        choices=["cprofile", "py-spy"],
        help="only the relay, with the server under cProfile, or watched by py-spy",
    )
    options = parser.parse_args(arguments)
    if options.only and "peers" in options.only:
        options.peers = True
    return options


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "cli" / "messageapp_cli").is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of this project")
    return path


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _measure(bench: Bench, names: list[str], path: Path) -> int:
    about, began = machine(), time.monotonic()
    for name, value in about.items():
        _say(f"{name}: {value}\n")
    if bench.peers and "peers" not in names:
        names = [*names, "peers"]
    table = Table()
    for run in range(bench.counts["runs"]):
        ours: dict[str, Row] = {}
        for name in names:
            _tell(f"run {run + 1} of {bench.counts['runs']}: {name}\n")
            for group, rows in GROUPS[name](bench):
                for row in rows:
                    table.add(group, row)
                    if (row.group or group) == "relay":
                        ours[row.label] = row
                    elif name == "peers":
                        _compare(table, ours, f"{bench.size:,} bytes", group, row)
    seconds, runs = time.monotonic() - began, bench.counts["runs"]
    _say(f"runs: {runs}, {seconds:.0f} s in all; a chat message with a text of 100 bytes: {bench.size:,} bytes\n\n")
    _say(table.text() + "\n")
    document = {
        "machine": about,
        "counts": bench.counts,
        "groups": names,
        "against": [path.name for path in bench.against],
        "message_bytes": bench.size,
        "seconds": seconds,
        "rows": table.as_json(),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    _tell(f"{path} written\n")
    return int(table.failed)


def _compare(table: Table, ours: dict[str, Row], sealed: str, group: str, theirs: Row) -> None:
    """Our rate by theirs: with as many bytes, and with what a chat sends for such a text, end-to-end encrypted."""
    plain, _, load = theirs.label.partition(":")
    for size in (plain, sealed):
        own = ours.get(f"{size}:{load}")
        if own is not None and own.value and theirs.value:
            table.add(f"relay ÷ {group}", Row(f"{size}:{load}", "ratio", own.value / theirs.value))


def _environment() -> dict[str, str]:
    given = os.environ.get("PYTHONPATH")
    paths = [path for path in sys.path if path.startswith(str(_ROOT))] + ([given] if given else [])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(text)
        sys.stdout.flush()


def _tell(text: str) -> None:
    sys.stderr.write(text)


if __name__ == "__main__":
    os.environ.update(PYTHONPATH=_environment()["PYTHONPATH"])
    sys.exit(main())
