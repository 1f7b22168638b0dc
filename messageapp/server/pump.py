"""Reading for all sessions at once, where the system has epoll.

A task that waits for its socket costs trio two switches, a registration with the kernel and some seventy calls for each
message that comes alone: more than all that is done with the message. So the readers of all sessions wait here, and
their sockets are in one epoll of the pump's own, on which trio waits once. What a reader would do when it wakes (read,
open, route: nothing that waits) is done in its place. The reader itself wakes when that raises, and it is the reader
that then ends its connection, as it is the reader's scope that is cancelled and times out.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import outcome
import trio

__all__ = ["Act", "Pump", "open_pump"]

Act = Callable[[float], None]
"""Reads once from its socket, without waiting. Gets the time of the pass (trio's clock)."""

_PASS: Final = 64  # sockets asked for at a time
_TURN_SECONDS: Final = 0.002  # then every other task has its turn, and the rest comes before those that are ready anew


class Pump:
    """`run` is a task of the server; `serve` is what a reader awaits."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._readers: dict[int, tuple[Act, trio.lowlevel.Task]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        readers, epoll = self._readers, self._epoll
        ready: deque[int] = deque()
        while True:
            if ready:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(epoll.fileno())
                # The kernel gives those that were ready longest first, and each is read once, so all get their turn.
                ready.extend([descriptor for descriptor, _ in epoll.poll(0, _PASS)])
            now, end = trio.current_time(), time.perf_counter() + _TURN_SECONDS
            while ready:
                descriptor = ready.popleft()
                reader = readers.get(descriptor)
                if reader is None:  # gone since; and whoever has its number by now finds nothing to read
                    continue
                act, task = reader
                try:
                    act(now)
                except Exception as error:
                    self._forget(descriptor)
                    trio.lowlevel.reschedule(task, outcome.Error(error))
                if time.perf_counter() > end:
                    break

    async def serve(self, descriptor: int, act: Act) -> None:
        """Call `act` whenever there is something to read (or the end). Returns never; raises what `act` raised.

        Cancelling it is safe at any time: nothing has been read that was not acted upon. The socket must stay open
        meanwhile.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._readers[descriptor] = act, trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._forget(descriptor)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _forget(self, descriptor: int) -> None:
        del self._readers[descriptor]
        with suppress(OSError):  # closed already, and so out of the epoll
            self._epoll.unregister(descriptor)


@contextmanager
def open_pump() -> Iterator[Pump | None]:
    """None where the system has no epoll: readers then wait for themselves."""
    if not hasattr(select, "epoll"):
        yield None
        return
    with select.epoll() as epoll:
        yield Pump(epoll)
