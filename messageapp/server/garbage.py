"""Python's cycle collector, kept short while thousands are logged in.

A full collection walks every object that is alive: with 5,000 sessions some 300,000 of them, a tenth of a second in
which nobody's message moves. There is nothing to find among them, since a session leaves no cycles behind (a test holds
that); reference counts free it. So what lives is moved out of the collector's sight, at the start and whenever many
sessions have come.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

import trio

__all__ = ["keep_collections_short"]

_THRESHOLD: Final = 10_000  # net new objects until the youngest generation is looked at; Python's own is 700
_SESSIONS: Final = 256  # so many new ones until the next freeze: they bound what one collection walks
_CHECK_SECONDS: Final = 1.0


async def keep_collections_short(session_count: Callable[[], int]) -> None:
    """Runs until it is cancelled, and then leaves the collector as it was. For a process that is a server."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_THRESHOLD, *before[1:])
    frozen = 0
    try:
        while True:
            await trio.sleep(_CHECK_SECONDS)
            frozen = min(frozen, session_count())
            if session_count() - frozen >= _SESSIONS:
                gc.collect(1)  # what is garbage already would be frozen with the rest
                gc.freeze()
                frozen = session_count()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
