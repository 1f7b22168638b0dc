"""Rows of measurements: what a job hands back, how runs are put together, the table."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Row", "Rows", "Table", "run_job"]


@dataclass(slots=True)
class Row:
    """One figure of one run. `server` and `load` are the shares of a core that either side used meanwhile."""

    label: str
    unit: str
    value: float | None = None
    server: float | None = None
    load: float | None = None
    error: str = ""


class Rows:
    """What a job fills."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(
        self, label: str, unit: str, value: float, *, server: float | None = None, load: float | None = None
    ) -> None:
        self.rows.append(Row(label, unit, value, server, load))

    @contextmanager
    def part(self, label: str) -> Iterator[None]:
        """What fails inside becomes a row that says so, and the job goes on with the next part."""
        try:
            yield
        except Exception as error:  # a benchmark reports its failures, of any kind
            self.rows.append(Row(label, "", error=_told(error)))


def _told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:200]


def run_job(jobs: dict[str, Callable[[dict[str, Any], Rows], None]]) -> None:
    """Main of a job's process: one JSON object from stdin, JSON rows to stdout."""
    job: dict[str, Any] = json.load(sys.stdin)
    rows = Rows()
    with rows.part(str(job["name"])):
        jobs[job["name"]](job, rows)
    fields = Row.__slots__
    json.dump([{name: getattr(row, name) for name in fields} for row in rows.rows], sys.stdout)


@dataclass(slots=True)
class _Line:
    unit: str = ""
    values: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Table:
    """All runs. Lines stand in the order in which they first came."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], _Line] = {}

    def add(self, group: str, row: Row) -> None:
        line = self._lines.setdefault((group, row.label), _Line())
        line.unit = line.unit or row.unit
        if row.error:
            line.errors.append(row.error)
        if row.value is not None:
            line.values.append(row.value)
        if row.server is not None:
            line.server.append(row.server)
        if row.load is not None:
            line.load.append(row.load)

    @property
    def failed(self) -> bool:
        return not self._lines or any(line.errors for line in self._lines.values())

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {"group": group, "row": label, **{name: getattr(line, name) for name in _Line.__slots__}}
            for (group, label), line in self._lines.items()
        ]

    def text(self) -> str:
        cells = [["", "unit", "median", "min", "max", "server", "load"]]
        above = ""
        for (group, label), line in self._lines.items():
            if group != above:
                cells.append([group])
                above = group
            if line.values:
                spread = [
                    _number(value) for value in (statistics.median(line.values), min(line.values), max(line.values))
                ]
                cells.append([f"  {label}", line.unit, *spread, _share(line.server), _share(line.load)])
            cells += [[f"  {label}: FAILED: {error}"] for error in line.errors]
        widths = [max(len(row[i]) for row in cells if len(row) > 1) for i in range(len(cells[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=False))
            ).rstrip()
            if len(row) > 1
            else row[0]
            for row in cells
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _share(values: list[float]) -> str:
    return f"{statistics.median(values):.0%}" if values else ""
