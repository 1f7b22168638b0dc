"""The shortest history of a failure that can be found: steps are left out as long as the same invariant breaks."""

from __future__ import annotations

from collections.abc import Callable

from .plan import Plan
from .run import Result, run_plan

__all__ = ["shrink"]


def shrink(
    plan: Plan, result: Result, *, most: int = 400, run: Callable[[Plan], Result] = run_plan
) -> tuple[Plan, Result]:
    """A plan with fewer steps that breaks the same invariant, and its result; at most `most` runs.

    Delta debugging: ever smaller pieces are left out, until no single step can be. What comes behind the break goes
    first. `plan` must break one.
    """
    assert result.broken is not None  # noqa: S101 - what is asked for
    invariant = result.broken.invariant
    numbers = [step.number for step in plan.steps]
    runs = 0

    def without(gone: list[int]) -> bool:
        nonlocal numbers, result, runs
        kept = [number for number in numbers if number not in gone]
        runs += 1
        found = run(plan.only(kept))
        if found.broken is None or found.broken.invariant != invariant:
            return False
        numbers, result = kept, found
        return True

    without([step.number for step in plan.steps if step.at > result.seconds])
    size = max(1, len(numbers) // 2)
    while numbers and runs < most:
        smaller = False
        for start in reversed(range(0, len(numbers), size)):
            if runs < most and without(numbers[start : start + size]):
                smaller = True
        if size == 1 and not smaller:
            break
        size = max(1, size // 2) if not smaller or size > 1 else 1
    return plan.only(numbers), result
