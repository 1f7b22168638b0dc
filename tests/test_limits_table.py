"""docs/limits.md has every limit of the program with its value, and for each a test that goes up to it and beyond."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest

from messageapp.limits import Limits, limit_rows
from messageapp.wire.frames import FRAME_LIMITS, FrameType

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "limits.md").read_text("utf-8")
PACKAGES = {"messageapp": ROOT, "messageapp_cli": ROOT / "cli", "messageapp_keys": ROOT / "keys"}
SIMULATION = ("messageapp.sim.", "messageapp_cli.sim.")  # a tool for tests: nobody else meets its numbers
ROW = re.compile(
    r"^\| (?P<name>[^|]+) \| (?P<value>[^|]*) \| (?P<unit>[^|]*) \| (?P<why>[^|]+) \| `(?P<test>[^|`]+)` \|$"
)


@dataclass(frozen=True, slots=True)
class Row:
    name: str  # dotted, of a constant; or words
    value: str
    why: str
    test: str

    @property
    def named(self) -> bool:
        return self.name.startswith("`")

    @property
    def number(self) -> float:
        return float(self.value.replace(",", "").removesuffix(" days"))


ROWS = [
    Row(found["name"], found["value"], found["why"], found["test"])
    for line in PAGE.splitlines()
    if (found := ROW.match(line))
]
LISTED = {row.name.strip("`"): row for row in ROWS if row.named}
NO_LIMITS = set(re.findall(r"`(messageapp[\w.]+)`", PAGE.partition("## Numbers that are no limits")[2]))


def _constants() -> Iterator[tuple[str, float | timedelta]]:
    """Every number that has a name at the top of a module."""
    for package, folder in PACKAGES.items():
        for path in sorted((folder / package).rglob("*.py")):
            module = ".".join(path.relative_to(folder).with_suffix("").parts)
            for name in sorted(_assigned(ast.parse(path.read_text("utf-8")))):
                if f"{module}.{name}".startswith(SIMULATION):
                    continue
                value = getattr(importlib.import_module(module), name)
                if isinstance(value, int | float | timedelta) and not isinstance(value, bool):
                    yield f"{module}.{name}", value


def _assigned(tree: ast.Module) -> set[str]:
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


@cache
def known() -> dict[str, float | timedelta]:
    """Every limit that the program has by name."""
    found = {name: value for name, value in _constants() if name not in NO_LIMITS}
    found |= {f"messageapp.limits.Limits.{entry.name}": getattr(Limits(), entry.name) for entry in fields(Limits)}
    return found | {f"messageapp.wire.frames.FRAME_LIMITS.{kind.name}": FRAME_LIMITS[kind] for kind in FrameType}


@cache
def functions(file: str) -> dict[str, str]:
    """The source of each test of a file, with its decorators."""
    text = (ROOT / "tests" / file).read_text("utf-8")
    lines = text.splitlines()
    return {
        node.name: "\n".join(
            lines[min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1 : node.end_lineno]
        )
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_limit_is_on_the_page_and_nothing_else() -> None:
    assert sorted(LISTED) == sorted(known())
    assert len(LISTED) == sum(row.named for row in ROWS)
    assert PAGE.count("\n| ") == len(ROWS) + PAGE.count("\n| limit "), "a row that is not of the form of one"


def test_what_is_said_to_be_no_limit_is_there() -> None:
    assert {name for name, _ in _constants()} >= NO_LIMITS
    assert not NO_LIMITS & set(LISTED)


@pytest.mark.parametrize("name", sorted(LISTED))
def test_the_value_is_the_programs(name: str) -> None:
    value, row = known()[name], LISTED[name]
    if isinstance(value, timedelta):
        assert row.value == f"{value.days} days"
        return
    assert row.value == (f"{value:,.0f}" if value == int(value) else f"{value:,}")


def test_the_owners_limits_have_the_programs_reasons() -> None:
    assert {name: LISTED[f"messageapp.limits.Limits.{name}"].why for name, _, _, why in limit_rows()} == {
        name: why for name, _, _, why in limit_rows()
    }


@pytest.mark.parametrize("row", ROWS, ids=[row.name.strip("`") for row in ROWS])
def test_the_test_is_there_and_speaks_of_its_limit(row: Row) -> None:
    file, name = row.test.split("::")
    source = functions(file)[name]
    assert name.startswith("test_")
    words = re.findall(r"\w+", source)
    numbers = {f"{row.number:_.0f}", f"{row.number:.0f}"} if row.number == int(row.number) else {f"{row.number}"}
    spoken = {"FRAME_LIMITS"} if "FRAME_LIMITS" in row.name else {row.name.strip("`").rpartition(".")[2]}
    assert (spoken | numbers) & set(words) or f"{row.number}" in source, source
