"""Messages through the server: throughput with so many pairs and so many in flight, and latency at light load.

Everything is sealed before the clock starts, and opened and checked after it has stopped: between the two the generator
only moves bytes. All targets of a run take turns with each load, so that what they are compared by is a minute old at
most.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .rows import Rows
from .targets import Alone, Bare, Figures, Ours, Target, measure
from .traffic import closed, paced

__all__ = ["relay"]

_BYTES: Final = 64 << 20  # prepared for one load at most, and as much again for what comes back
_LIGHT: Final = 5000  # µs between messages
_OURS: Final = "relay"
_ALONE: Final = "the load generator alone, no server between"


def relay(job: dict[str, Any], rows: Rows) -> None:
    generator, most = Path(job["generator"]), max(job["pairs"])
    targets = _targets(job, most, rows)
    for name, size in job["sizes"].items():
        for pairs in job["pairs"]:
            for flight in job["in_flight"]:
                label = f"{name}: {pairs} {'pair' if pairs == 1 else 'pairs'}, {flight} in flight each"
                each = max(flight, int(min(job["messages"][str(flight)], _BYTES // (size + 300)) // pairs))

                def load(
                    target: Target, pairs: int = pairs, each: int = each, size: int = size, flight: int = flight
                ) -> Figures:
                    return measure(target, generator, pairs=pairs, each=each, size=size, load=closed(flight))

                _in_turn(targets, label, load, rows)
        if job["latency_messages"]:

            def light(target: Target, size: int = size) -> Figures:
                each = int(job["latency_messages"])
                return measure(target, generator, pairs=1, each=each, size=size, load=paced(_LIGHT))

            _in_turn(targets, f"{name}: 1 pair, {1_000_000 // _LIGHT} messages/s", light, rows, rate=False)


def _targets(job: dict[str, Any], pairs: int, rows: Rows) -> list[Target]:
    home = Path(job["home"])
    found: list[Target] = []
    for given in job["targets"]:
        with rows.part(given["name"]):
            if given["kind"] == "ours":
                found.append(Ours(given["name"], home, given["port"], given["pid"], pairs))
            elif given["kind"] == "bare":
                found.append(Bare(given["name"], given["port"], given["pid"], pairs))
            else:
                found.append(Alone(given["name"], pairs))
    return found


def _in_turn(
    targets: list[Target], label: str, load: Callable[[Target], Figures], rows: Rows, *, rate: bool = True
) -> None:
    """The same load through each; then the first in relation to every other. Without `rate` the value is p50."""
    found: dict[str, Figures] = {}
    for target in targets:
        rows.group = target.name
        with rows.part(label):
            figures = found[target.name] = load(target)
            if rate:
                rows.add(label, "messages/s", figures.rate, **figures.shares)
            else:
                rows.add(f"{label}, p50", "µs one way", figures.figure("p50"), **figures.shares)
    first = targets[0].name
    for target in targets[1:]:
        if target.pid is not None and target.name in found and first in found:
            rows.group = f"{first} ÷ {target.name}"
            one, other = found[first], found[target.name]
            rows.add(f"{label}, server CPU", "ratio", one.figure("cpu") / other.figure("cpu"))
            if rate:
                rows.add(f"{label}, messages/s", "ratio", one.rate / other.rate)
            else:
                rows.add(f"{label}, p50", "ratio", one.figure("p50") / other.figure("p50"))
    rows.group = ""
