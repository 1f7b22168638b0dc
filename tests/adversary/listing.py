"""The tables of README.md, made from the cases. A test compares, and shows the right one where they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from adversary.case import Case, Outcome
from adversary.lines import LINES

__all__ = ["table", "written"]


def table(half: str, cases: Iterable[Case[Any]]) -> str:
    """One row a rule: where it stands, what is broken, how many cases of this half break it, what is seen then."""
    cases = list(cases)
    count = Counter(case.line for case in cases)
    rows = ["| | what is broken | cases | what must be seen |", "|---|---|---|---|"]
    for line in LINES:
        if half in line.halves:
            seen = dict.fromkeys(_shown(case.expected) for case in cases if case.line == line.slug)
            number = "–" if line.unbuilt else str(count[line.slug])
            rows.append(f"| {line.group} | {line.text} | {number} | {line.unbuilt or ', '.join(seen)} |")
    rows.append(f"| | **in all** | **{len(cases)}** | |")
    return "\n".join(rows)


def _shown(expected: Outcome) -> str:
    """Without the text for the user, which is long and stands with the case."""
    return str(replace(expected, detail=""))


def written(half: str) -> str:
    """That table as it stands in README.md."""
    text = (Path(__file__).parent / "README.md").read_text()
    return text.partition(f"<!-- {half} -->\n")[2].partition("\n<!-- end -->")[0]
