"""Bounded search for attacks on the handshakes, in Maude; prints a table of every query and its verdict.

    python tests/models/search.py            the table
    python tests/models/search.py p03 sigma  queries whose name begins so, each with the steps of its attack

The messages, the intruder and the queries are in docs/models/intruder.maude, the honest roles in report.maude and
messageapp.maude. A scenario says which honest threads run; every order of their steps and every message that the
intruder can make for them is tried, to the end. docs/models/README.md says what that shows and what not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import maude

try:
    from models.scenarios import QUERIES, Query, Scenario
except ImportError:  # run as a program: the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from models.scenarios import QUERIES, Query, Scenario

MODELS: Final = Path(__file__).resolve().parents[2] / "docs" / "models"
FILES: Final = ("intruder.maude", "report.maude", "messageapp.maude")
_SHOWN: Final = 110  # characters of a term in a trace


@dataclass(frozen=True, slots=True)
class Explored:
    """All states that a scenario can reach, and the first (so shortest) way to each alarm."""

    states: int
    seconds: float
    attacks: dict[str, tuple[str, ...]]  # alarm → steps


@cache
def _load() -> None:
    maude.init(advise=False)
    for name in FILES:
        if not maude.load(str(MODELS / name)):
            raise RuntimeError(f"Maude does not take {name}")


@cache
def _module(scenario_model: str, without: frozenset[str]) -> Any:
    """REPORT, or MESSAGEAPP with some of its safeguards taken away."""
    _load()
    if scenario_model == "REPORT":
        return maude.getModule("REPORT")
    name = "-".join(("MESSAGEAPP", *sorted(without), "MODEL"))
    gone = " ".join(f"eq with({safeguard}) = false ." for safeguard in sorted(without))
    maude.input(f"mod {name} is including MESSAGEAPP . {gone} eq with(F:Safeguard) = true [owise] . endm")
    return maude.getModule(name)


def _parts(term: Any) -> list[str]:
    """Of a set of any kind: its elements, sorted."""
    if str(term.symbol()) != "__":
        return [str(term)]
    return sorted(str(part) for part in term.arguments())


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 2] + " …"


def _steps(path: list[Any]) -> Iterator[str]:
    """What each step does: its rule, the thread that moved, what it claims, what the intruder hears."""
    for before, rule, after in zip(path[0::2], path[1::2], path[2::2], strict=False):
        knows, threads, _, claims = before.arguments()
        new_knows, new_threads, _, new_claims = after.arguments()
        staying = _parts(new_threads)
        moved = next((thread for thread in _parts(threads) if thread not in staying), "")
        yield f"{rule.getLabel()}: {_short(moved)}"
        had = _parts(claims)
        yield from (f"    claims {_short(claim)}" for claim in _parts(new_claims) if claim not in had)
        heard = _parts(next(iter(knows.arguments())))
        now = _parts(next(iter(new_knows.arguments())))
        yield from (f"    heard  {_short(message)}" for message in now if message not in heard)


def _alarms(module: Any, state: Any) -> set[str]:
    function = module.findSymbol("alarms", [module.findSort("State").kind()], module.findSort("Alarms").kind())
    verdict = function.makeTerm([state])
    verdict.reduce()
    return set(str(verdict).split()) - {"fine"}


def _state(module: Any, text: str) -> Any:
    state = module.parseTerm(text)
    if state is None:
        raise RuntimeError(f"not a state: {text}")
    state.reduce()
    return state


def judge(state: str) -> set[str]:
    """The alarms of one state of MESSAGEAPP."""
    module = _module("MESSAGEAPP", frozenset())
    return _alarms(module, _state(module, state))


@cache
def explore(scenario: Scenario) -> Explored:
    """Every reachable state. Raises `RuntimeError` where the scenario is not a term of the model."""
    module = _module(scenario.model, scenario.without)
    start = _state(module, scenario.initial())
    states, began, attacks = 0, time.process_time(), dict[str, tuple[str, ...]]()
    for state, _, path, _ in start.search(maude.ANY_STEPS, module.parseTerm("X:State")):
        states += 1
        for alarm in _alarms(module, state) - attacks.keys():
            attacks[alarm] = tuple(_steps(path()))
    return Explored(states, time.process_time() - began, attacks)


def found(query: Query) -> bool:
    """Does what the query asks for happen?"""
    return query.alarm in explore(query.scenario).attacks


def main(names: list[str]) -> int:
    """`names`: beginnings of names of queries."""
    for name in names:
        if not any(query.name.startswith(name) for query in QUERIES):
            print(f"there is no query {name}; the queries are {', '.join(dict.fromkeys(one.name for one in QUERIES))}")
            return 2
    wrong = 0
    print("| query | what | expected | found | states | s |\n|---|---|---|---|---|---|")
    for query in QUERIES:
        if names and not query.name.startswith(tuple(names)):
            continue
        result = explore(query.scenario)
        seen = query.alarm in result.attacks
        wrong += seen is not query.expected
        words = ["no", "yes"]
        row = (query.name, query.words, words[query.expected], words[seen], result.states, f"{result.seconds:.1f}")
        print("|", *" | ".join(map(str, row)).split("\n"), "|")
        if names and seen:
            print("\n".join(f"    {step}" for step in result.attacks[query.alarm]))
    print(f"{wrong} not as expected" if wrong else "all as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
