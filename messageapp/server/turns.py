"""Whose turn it is to compute: one login's cryptography a scheduler pass, however many come at once.

trio runs every task that is ready before it looks at the sockets again. Of five hundred logins that arrive together a
hundred can be ready at once, each with up to 2 ms of work, and all that the others send would lie there meanwhile. So
each such piece of work takes a turn, and the turn is passed on from one pass to the next, first come, first served.
"""

from __future__ import annotations

import trio

__all__ = ["Turns"]


class Turns:
    """A lock whose next holder runs in the next pass of the scheduler, not in the same.

    await turns.take()
    try:
        compute()
    finally:
        await turns.give_back()
    """

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._taken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def take(self) -> None:
        """Wait in line. Cancellable; a turn is never lost by that."""
        if self._taken:
            await self._waiting.park()  # who gives the turn back hands it over
        self._taken = True

    async def give_back(self) -> None:
        """Not cancellable; takes one pass at most."""
        if not self._waiting:
            await trio.lowlevel.cancel_shielded_checkpoint()
        if self._waiting:
            self._waiting.unpark()
        else:
            self._taken = False
