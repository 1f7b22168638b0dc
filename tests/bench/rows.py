"""Rows of measurements: what a job hands back, how runs are put together, the table."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Final

__all__ = ["Row", "Rows", "Table", "run_job"]


@dataclass(slots=True)
class Row:
    """One figure of one run, and what belongs to it. A `group` of its own takes the row out of that of its job."""

    label: str
    unit: str
    value: float | None = None
    server: float | None = None  # share of a core that the server used: ours by its event loop, others by all threads
    load: float | None = None  # share of a core that the load generator used
    error: str = ""
    cpu: float | None = None  # µs of the server for one message or login, counted the same way
    p50: float | None = None  # µs, one way
    p99: float | None = None
    rss: float | None = None  # MiB of the server
    group: str = ""


_FIGURES: Final = ("value", "server", "load", "cpu", "p50", "p99", "rss")


class Rows:
    """What a job fills. `group` is that of the rows that follow ("": the job's)."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.group = ""

    def add(self, label: str, unit: str, value: float, **figures: float | None) -> None:
        self.rows.append(Row(label, unit, value, group=self.group, **figures))  # type: ignore[arg-type]  # names of floats

    @contextmanager
    def part(self, label: str) -> Iterator[None]:
        """What fails inside becomes a row that says so, and the job goes on with the next part."""
        try:
            yield
        except Exception as error:  # a benchmark reports its failures, of any kind
            self.rows.append(Row(label, "", error=_told(error), group=self.group))


def _told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]


def run_job(jobs: dict[str, Callable[[dict[str, Any], Rows], None]]) -> None:
    """Main of a job's process: one JSON object from stdin, JSON rows to stdout."""
    job: dict[str, Any] = json.load(sys.stdin)
    rows = Rows()
    with rows.part(str(job["name"])):
        jobs[job["name"]](job, rows)
    names = [entry.name for entry in fields(Row)]
    json.dump([{name: getattr(row, name) for name in names} for row in rows.rows], sys.stdout)


@dataclass(slots=True)
class _Line:
    unit: str = ""
    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _FIGURES})
    errors: list[str] = field(default_factory=list)

    def median(self, name: str) -> float | None:
        return statistics.median(self.figures[name]) if self.figures[name] else None


class Table:
    """All runs. Groups, and the lines of each, stand in the order in which they first came."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, _Line]] = {}

    def add(self, group: str, row: Row) -> None:
        line = self._groups.setdefault(row.group or group, {}).setdefault(row.label, _Line())
        line.unit = line.unit or row.unit
        if row.error:
            line.errors.append(row.error)
        for name in _FIGURES:
            figure = getattr(row, name)
            if figure is not None:
                line.figures[name].append(figure)

    @property
    def failed(self) -> bool:
        lines = [line for group in self._groups.values() for line in group.values()]
        return not lines or any(line.errors for line in lines)

    def as_json(self) -> list[dict[str, Any]]:
        """One object a line; every list has a figure for each run, in the order of the runs."""
        return [
            {
                "group": group,
                "row": label,
                "unit": line.unit,
                "values": line.figures["value"],
                **{name: line.figures[name] for name in _FIGURES[1:]},
                "errors": line.errors,
            }
            for group, lines in self._groups.items()
            for label, line in lines.items()
        ]

    def text(self) -> str:
        head = ["", "unit", "median", "min", "max", "server", "load", "CPU µs", "p50 µs", "p99 µs", "RSS MiB"]
        cells = [head]
        for group, lines in self._groups.items():
            cells.append([group])
            for label, line in lines.items():
                if line.figures["value"]:
                    cells.append([f"  {label}", line.unit, *_numbers(line)])
                cells += [[f"  {label}: FAILED: {error}"] for error in line.errors]
        widths = [max(len(row[i]) for row in cells if len(row) > 1) for i in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=False))
            ).rstrip()
            if len(row) > 1
            else row[0]
            for row in cells
        )


def _numbers(line: _Line) -> list[str]:
    values = line.figures["value"]
    spread = [_number(value) for value in (statistics.median(values), min(values), max(values))]
    shares = ["" if (share := line.median(name)) is None else f"{share:.0%}" for name in ("server", "load")]
    rest = ["" if (figure := line.median(name)) is None else _number(figure) for name in _FIGURES[3:]]
    return [*spread, *shares, *rest]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
