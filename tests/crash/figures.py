"""How much is tried: a little in every test run, all of it in `nox -s crash`."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Final

__all__ = ["ALL", "SEED", "chosen"]

ALL: Final = os.environ.get("MESSAGEAPP_CRASH_ALL") == "1"
SEED: Final = int(os.environ.get("MESSAGEAPP_CRASH_SEED", "1"))
_FEW: Final = 8


def chosen(what: str, count: int) -> Sequence[int]:
    """Of 1 … `count`: all, or a few that depend on the seed."""
    if ALL:
        return range(1, count + 1)
    return sorted(random.Random(f"{SEED} {what}").sample(range(1, count + 1), min(_FEW, count)))
