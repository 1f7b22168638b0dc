"""The wall clock in ms; what is tested at another time takes a function like it."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["DAY_MS", "wall_ms"]

DAY_MS: Final = 86_400_000


def wall_ms() -> int:
    """ms since 1970, UTC."""
    return time.time_ns() // 1_000_000
