"""A plan, run: the same plan gives the same history, in every process.

trio's clock is simulated, and its scheduler takes its order from the seed. For the latter trio has a switch, made for
Hypothesis; a trio without it cannot be used here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from unittest.mock import patch

import trio
import trio._core._run as scheduler
import trio.testing

from messageapp.errors import UnusableSetup

from .history import Broken, History
from .plan import Plan
from .spies import spying
from .world import LIMITS, World

__all__ = ["Result", "run_plan"]

_SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"


@dataclass(frozen=True, slots=True)
class Result:
    """`digest` is over all that happened; `seconds` is the time in the simulation."""

    broken: Broken | None
    digest: str
    lines: tuple[str, ...]
    seconds: float
    shown: int  # texts


def run_plan(plan: Plan) -> Result:
    """`UnusableSetup` where this version of trio cannot be made to repeat a schedule."""
    source = _schedule_source()
    clock = trio.testing.MockClock(autojump_threshold=0)
    history = History(clock.current_time)
    world = World(plan, history)
    try:
        with _scheduled(source, plan.seed), spying(history, world.ledger, LIMITS):
            trio.run(world.run, clock=clock)
    except Exception as error:
        for leaf in _leaves(error):
            history.breaks("no unexpected exception", f"{type(leaf).__name__}: {leaf} at {_place(leaf)}")
    finally:
        world.close()
    shown = sum(text.shown for text in world.ledger.texts.values())
    return Result(history.broken, history.digest(), tuple(history.lines), clock.current_time(), shown)


def _schedule_source() -> random.Random:
    """What trio shuffles its tasks with."""
    source = getattr(scheduler, "_r", None)
    if not hasattr(scheduler, _SWITCH) or not isinstance(source, random.Random):
        raise UnusableSetup(f"trio {trio.__version__} cannot repeat a schedule; a simulation needs trio 0.35")
    return source


@contextmanager
def _scheduled(source: random.Random, seed: int) -> Iterator[None]:
    before = source.getstate()
    source.seed(f"schedule/{seed}")
    try:
        with patch.object(scheduler, _SWITCH, True):
            yield
    finally:
        source.setstate(before)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
