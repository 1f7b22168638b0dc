"""`python tests/bench/plot.py RESULTS.json FOLDER`: the pictures of docs/performance.md, as SVG.

relay.svg: messages a second through every server of the results; scaling.svg: CPU of a message by users logged in.
"""

from __future__ import annotations

import importlib
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any, Final

# Not installed where types are checked: only `--plot` needs it.
plt: Final[Any] = importlib.import_module("matplotlib.pyplot")

_LOADS: Final = ("20 pairs, 1 in flight each", "20 pairs, 32 in flight each")
_COLOURS: Final = ("#4477aa", "#cc6677")


def main(results: Path, folder: Path) -> None:
    document = json.loads(results.read_text())
    plt.switch_backend("svg")
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "messageapp", "font.size": 9})
    folder.mkdir(exist_ok=True)
    _relay(document, folder / "relay.svg")
    _scaling(document, folder / "scaling.svg")


def _median(rows: list[dict[str, Any]], group: str, label: str, field: str = "values") -> float | None:
    for row in rows:
        if row["group"] == group and row["row"] == label and row[field]:
            return float(statistics.median(row[field]))
    return None


def _relay(document: dict[str, Any], path: Path) -> None:
    rows, sealed = document["rows"], f"{document['message_bytes']:,} bytes"
    groups = list(dict.fromkeys(row["group"] for row in rows))
    bars = [
        ("this server, end-to-end encrypted chat", "relay", sealed),
        ("this server, 100 bytes", "relay", "100 bytes"),
    ]
    bars += [
        (group.replace("relay of ", "… step: "), group, "100 bytes")
        for group in groups
        if group != "relay" and "÷" not in group
    ]
    found = []
    for name, group, size in bars:
        rates = [_median(rows, group, f"{size}: {load}") or 0.0 for load in _LOADS]
        if all(rates) and "generator" not in name:
            found.append((name, rates))
    height = 0.36
    figure, axes = plt.subplots(figsize=(8.2, 0.42 * len(found) + 1.2))
    for place, (_, rates) in enumerate(reversed(found)):
        for turn, rate in enumerate(rates):
            axes.barh(place + height * (0.5 - turn), rate, height, color=_COLOURS[turn])
            axes.text(rate, place + height * (0.5 - turn), f" {rate:,.0f}", va="center", fontsize=7)
    axes.set_yticks(range(len(found)), [name for name, _ in reversed(found)])
    axes.set_xscale("log")
    axes.set_xlabel("messages a second, 20 pairs (logarithmic); medians")
    axes.set_xlim(right=2 * max(max(rates) for _, rates in found))
    axes.legend([plt.Rectangle((0, 0), 1, 1, color=colour) for colour in _COLOURS], ["1 in flight", "32 in flight"])
    _save(figure, path)


def _scaling(document: dict[str, Any], path: Path) -> None:
    found: dict[int, list[tuple[int, float]]] = {}
    for row in document["rows"]:
        match = re.fullmatch(r"20 pairs, (\d+) in flight each, of ([\d,]+) users: CPU ÷ with 50 users", row["row"])
        if match and row["values"]:
            users = int(match[2].replace(",", ""))
            found.setdefault(int(match[1]), []).append((users, statistics.median(row["values"])))
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    for (flight, points), colour in zip(sorted(found.items()), _COLOURS, strict=False):
        axes.plot(*zip(*sorted(points), strict=True), marker="o", color=colour, label=f"{flight} in flight")
    axes.axhspan(0.85, 1.15, color="#dddddd", zorder=0)
    axes.set_xscale("log")
    axes.set_ylim(0, 2)
    axes.set_xlabel("users logged in (logarithmic)")
    axes.set_ylabel("CPU of a message, with 50 users = 1")
    axes.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
