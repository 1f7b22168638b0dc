"""What is done in a run: steps of users and faults, made from the seed before anything starts.

A step has a number and a time; all that it chooses later comes from a generator of its own (`seeded`). So any of them
can be left out and the others stay as they are: that is how a failing run is made shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from .history import seeded

__all__ = ["FAULTS", "NAMES", "Plan", "Step", "make_plan", "seats_of"]

NAMES: Final = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")

_GAPS: Final = (0.0, 0.0, 0.0, 0.001, 0.02, 0.1, 0.3, 0.3, 1.0, 1.0, 2.0, 5.0)  # seconds between steps
_LONG_GAPS: Final = (15.0, 40.0)
_CLOSE: Final = 0.65  # of the steps are of the two
_FAULTY: Final = 0.33
_SIZES: Final = (8, 20, 60, 150, 600, 6000)  # characters of a text


@dataclass(frozen=True, slots=True)
class Step:
    """`who` is a seat ("alice/0": a user at a device) or "server"."""

    number: int
    at: float
    who: str
    verb: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        chosen = ", ".join(f"{name} {value}" for name, value in self.args.items())
        return f"[{self.number}] {self.verb}" + (f" ({chosen})" if chosen else "")


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    users: int
    steps: tuple[Step, ...]

    def only(self, numbers: Collection[int]) -> Plan:
        """The same run with these steps alone."""
        return Plan(self.seed, self.users, tuple(step for step in self.steps if step.number in numbers))


def seats_of(users: int) -> list[tuple[str, int]]:
    """(user, device). From three users on, the first has two devices."""
    seats = [(name, 0) for name in NAMES[:users]]
    return [*seats, (NAMES[0], 1)] if users > 2 else seats


Maker = Callable[[Random, list[str]], dict[str, Any]]


def _call(rng: Random, names: list[str]) -> dict[str, Any]:
    answer = rng.choice(("accept", "accept", "accept", "accept", "refuse", "ignore"))
    return {"to": rng.choice(names), "answer": answer, "after": rng.choice((0.0, 0.01, 0.2, 1.0, 4.0))}


def _say(rng: Random, names: list[str]) -> dict[str, Any]:
    """Who is in no chat calls first."""
    return {"to": rng.choice(names), "count": rng.choice((1, 1, 1, 2, 3, 6, 25, 70)), "size": rng.choice(_SIZES)}


def _write(rng: Random, names: list[str]) -> dict[str, Any]:
    """Whether the other is there or not."""
    return {"to": rng.choice(names), "count": rng.choice((1, 1, 1, 2, 3, 6, 25)), "size": rng.choice(_SIZES)}


_USER: Final[dict[str, tuple[int, Maker]]] = {
    "call": (22, _call),
    "say": (42, _say),
    "write": (24, _write),
    "accept": (3, lambda rng, names: {}),
    "refuse": (3, lambda rng, names: {}),
    "cancel": (4, lambda rng, names: {}),
    "redial": (3, _call),
    "leave": (6, lambda rng, names: {}),
    "list": (6, lambda rng, names: {"count": rng.choice((1, 1, 3, 30))}),
    "exit": (3, lambda rng, names: {}),
    "reconnect": (3, lambda rng, names: {}),
    "idle": (2, lambda rng, names: {"seconds": rng.choice((5.0, 30.0, 70.0))}),
}
"""verb: (weight, its arguments)"""


def _way(rng: Random) -> dict[str, Any]:
    return {"way": rng.choice(("up", "down")), "fresh": rng.random() < 0.25}


FAULTS: Final[dict[str, Maker]] = {
    "split": lambda rng, names: {"seconds": rng.choice((2.0, 20.0, 90.0)), "fresh": rng.random() < 0.4},
    "delay": lambda rng, names: (
        _way(rng) | {"by": rng.choice((0.005, 0.2, 1.5, 6.0)), "seconds": rng.choice((3.0, 30.0))}
    ),
    "cut": lambda rng, names: _way(rng) | {"after": rng.choice((0, 1, 4, 5, rng.randrange(400), rng.randrange(9000)))},
    "half-open": lambda rng, names: {"way": rng.choice(("up", "down", "both")), "fresh": rng.random() < 0.2},
    "reset": lambda rng, names: {},
    "restart": lambda rng, names: {"kind": rng.choice(("kill", "stop")), "down": rng.choice((0.0, 1.0, 8.0))},
    "slow": lambda rng, names: (
        {"window": rng.choice((600, 4000, 30_000)), "seconds": rng.choice((0.5, 4.0, 12.0, 20.0, 20.0))}
    ),
    "clock": lambda rng, names: (
        {"years": rng.choice((-20.0, -0.4, 0.3, 5.0, 60.0)), "at": rng.choice((*names, "")), "seconds": 8.0}
    ),
    "relay": lambda rng, names: (
        {"how": rng.choice(("flip", "replay", "again", "swap", "drop")), "count": rng.choice((1, 1, 2, 4))}
    ),
    "flip": lambda rng, names: _way(rng) | {"after": rng.choice((rng.randrange(200), rng.randrange(40_000)))},
    "full": lambda rng, names: {"how": rng.choice(("disk", "statement")), "seconds": rng.choice((0.0, 1.0, 8.0))},
}
"""What can go wrong, by name: the arguments of each."""


def make_plan(seed: int, users: int, count: int, faults: Collection[str]) -> Plan:
    """`count` steps, with any faults a third of them; most are about the same two users, so that things meet."""
    rng = seeded("plan", seed)
    seats = [f"{name}/{device}" for name, device in seats_of(users)]
    names = list(NAMES[:users])
    pair = rng.sample(names, 2)
    kinds = [name for name in FAULTS if name in faults]
    verbs, weights = list(_USER), [weight for weight, _ in _USER.values()]
    now, steps = 3.0, []
    for number in range(1, count + 1):
        now += rng.choice(_LONG_GAPS) if rng.random() < 0.03 else rng.choice(_GAPS)
        close = rng.random() < _CLOSE
        user, device = rng.choice(seats).split("/") if not close else (rng.choice(pair), "0")
        if kinds and rng.random() < _FAULTY:
            verb = rng.choice(kinds)
            args = FAULTS[verb](rng, names)
        else:
            (verb,) = rng.choices(verbs, weights)
            args = _USER[verb][1](rng, [name for name in (pair if close else names) if name != user])
        who = "server" if verb in ("restart", "full") else f"{user}/{device}"
        steps.append(Step(number, round(now, 3), who, verb, args))
    return Plan(seed, users, tuple(steps))
