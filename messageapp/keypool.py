"""Temporary RSA keys, made ahead by one low-priority thread (protocol §7).

Making an RSA-3072 key takes 120 to 560 ms of a core, so no stranger may be able to order one. The pool costs a constant
background work, never more; when it is empty, clients that offer `swift` get that, and the others wait a little.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import trio

from messageapp_keys.kem import generate_rsa, prepare_rsa

__all__ = ["KeySource", "RsaPool", "open_pool"]

_REST_SECONDS: Final = 1.0
_NICE: Final = 5  # with 19 a busy core gives it so little that it holds the interpreter's lock, and everybody waits


class KeySource(Protocol):
    """Where temporary RSA keys come from."""

    def take_nowait(self) -> Any | None: ...
    async def take(self) -> Any: ...


class RsaPool:
    """A bounded stock. `take_nowait` gives a key or None; `take` waits (cancellable; a key is never lost by that)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys: deque[Any] = deque()
        self._arrived_now = trio.Event()
        self._free = threading.Semaphore(size)
        self._arrived = trio.Semaphore(0)

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, key: Any) -> None:
        """In the trio thread."""
        self._keys.append(key)
        self._arrived_now.set()
        self._arrived_now = trio.Event()
        self._arrived.release()

    def take_nowait(self) -> Any | None:
        try:
            self._arrived.acquire_nowait()
        except trio.WouldBlock:
            return None
        return self._pop()

    async def take(self) -> Any:
        await self._arrived.acquire()
        return self._pop()

    async def stocked(self, count: int) -> None:
        """Wait until that many keys (at most the pool's size) lie ready."""
        while len(self._keys) < min(count, self._size):
            await self._arrived_now.wait()

    def _pop(self) -> Any:
        self._free.release()
        return self._keys.popleft()

    def fill(self, make: Callable[[], Any], deliver: Callable[[Any], None], stop: threading.Event) -> None:
        """The filler thread's loop: one key for every free place, until `stop`."""
        with contextlib.suppress(OSError, AttributeError):  # where threads cannot be lowered, the pool works as well
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            self._free.acquire()
            if stop.is_set():
                return
            try:
                key = make()
            except MemoryError:  # others give some back; without this thread there would be no more keys
                self._free.release()
                stop.wait(_REST_SECONDS)
                continue
            deliver(key)

    def wake(self) -> None:
        self._free.release()


@asynccontextmanager
async def open_pool(
    size: int, make: Callable[[], Any] = generate_rsa, prepare: Callable[[Any], None] = prepare_rsa
) -> AsyncIterator[RsaPool]:
    """A pool with its thread. Leaving ends the thread after the key that it is making, without waiting for it.

    `make` runs in the thread, then `prepare` in trio's, where the key will be used: a burst of logins finds it done.
    A thread of our own and not trio's, whose threads are lent to others afterwards with the low priority still on.
    """
    pool = RsaPool(size)
    token = trio.lowlevel.current_trio_token()
    stop = threading.Event()

    def deliver(key: Any) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # the server ended while the key was made
            token.run_sync_soon(take_in, key)

    def take_in(key: Any) -> None:
        prepare(key)
        pool.put(key)

    threading.Thread(target=pool.fill, args=(make, deliver, stop), name="rsa pool", daemon=True).start()
    try:
        yield pool
    finally:
        stop.set()
        pool.wake()
