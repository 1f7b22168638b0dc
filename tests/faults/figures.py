"""How much is tried, and what was measured on the way.

`python -m pytest tests/test_faults_*.py` is the short form. `nox -s faults -- --long` tries more, and prints a table.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.proc import Cpu, cpu_of, resident_kib

__all__ = [
    "LONG",
    "SEED",
    "Cpu",
    "cpu_of",
    "descriptors",
    "eventually",
    "note",
    "percentiles",
    "resident_kib",
    "seeded",
    "short_or_long",
    "table",
]

LONG = os.environ.get("MESSAGEAPP_FAULTS_LONG") == "1"
SEED = int(os.environ.get("MESSAGEAPP_FAULTS_SEED", "1"))
_rows: list[tuple[str, str]] = []


def short_or_long(short: int, long: int) -> int:
    return long if LONG else short


def seeded(what: str) -> random.Random:
    """The same in every run with the same seed, whichever tests run beside it."""
    return random.Random(f"{SEED} {what}")


def note(what: str, value: float | str, unit: str = "") -> None:
    """A figure for the table; also in the output of a test that fails."""
    shown = value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    _rows.append((what, f"{shown} {unit}".strip()))
    print(f"{what}: {shown} {unit}")


def table() -> str:
    width = max((len(what) for what, _ in _rows), default=0)
    return "".join(f"{what:{width}}  {value}\n" for what, value in _rows)


def percentiles(what: str, seconds: Sequence[float]) -> None:
    """p50, p99 and the longest, in ms."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    values = statistics.median(ordered), p99, ordered[-1]
    note(what, " / ".join(f"{value * 1e3:.1f}" for value in values), f"ms (p50 / p99 / longest of {len(ordered)})")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def eventually(what: str, holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """For what the kernel tells of another process, which announces nothing."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
