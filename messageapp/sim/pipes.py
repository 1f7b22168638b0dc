"""One direction of a connection in memory, on which everything can go wrong that goes wrong with TCP."""

from __future__ import annotations

import random
from collections import deque
from typing import Final

import trio

from messageapp_keys.primitives import Buffer

from .history import History

__all__ = ["WINDOW", "Pipe"]

WINDOW: Final = 262_144
_PIECES: Final = (1, 2, 3, 5, 21, 40, 289, 1400, 5000)  # 21: a frame's head and its counter


class Pipe:
    """Holds what was sent until the receiver takes it, at most `window` bytes. Faults are its fields.

    The end of the stream is an empty part.
    """

    def __init__(self, history: History, name: str) -> None:
        self.name = name
        self.window = WINDOW
        self.delay = 0.0
        self.stalled_until = 0.0
        self.split: random.Random | None = None
        self.lost = False  # half-open: bytes vanish
        self.broken = False
        self.reader_closed = False
        self.cut_after: int | None = None  # bytes
        self.was_cut = False
        self.flip_after: int | None = None  # bits
        self.sent = self.given = 0  # bytes
        self.flipped_at: int | None = None
        self._history = history
        self._parts: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._ready = 0.0
        self._ended = False
        self._changed = trio.Event()

    def changed(self) -> None:
        """Wake whoever waits at either end."""
        self._changed.set()
        self._changed = trio.Event()

    @property
    def unread(self) -> int:
        return 0 if self.lost else self._size

    @property
    def spoilt(self) -> bool:
        """Has the receiver got a byte that was flipped?"""
        return self.flipped_at is not None and self.given > self.flipped_at

    def take(self, data: Buffer) -> int:
        """How many bytes are taken from the sender now. `trio.BrokenResourceError`."""
        if self.broken or self._ended or (self.reader_closed and not self.lost):
            raise trio.BrokenResourceError
        count = max(0, min(len(data), self.window - self._size))
        if self.split is not None and count > 1 and self.split.random() < 0.5:
            count = min(count, self.split.choice(_PIECES))
        if count:
            self._carry(bytes(data[:count]))
        return count

    def _carry(self, part: bytes) -> None:
        start, self.sent = self.sent, self.sent + len(part)
        if self.lost:
            self._size += len(part)
            return
        part = self._flip(start, part)
        cut, self.cut_after = self.cut_after, None if self.cut_after is None else self.cut_after - len(part)
        if cut is not None and cut <= len(part):
            self._put(part[:cut])
            self.end()
            self.was_cut = True
            self._history.note("network", f"{self.name} is cut at byte {start + cut}")
            return
        self._put(part)

    def _flip(self, start: int, part: bytes) -> bytes:
        if self.flip_after is None:
            return part
        place, bit = divmod(self.flip_after, 8)
        if place >= len(part):
            self.flip_after -= 8 * len(part)
            return part
        self.flip_after, self.flipped_at = None, start + place
        self._history.note("network", f"{self.name}: bit {bit} of byte {start + place} is flipped")
        return part[:place] + bytes((part[place] ^ 1 << bit,)) + part[place + 1 :]

    def _put(self, part: bytes) -> None:
        self._ready = max(self._ready, trio.current_time() + self.delay)
        self._parts.append((self._ready, part))
        self._size += len(part)
        self.changed()

    def end(self) -> None:
        """What was sent arrives, then the end."""
        if not self._ended:
            self._ended = True
            if not self.lost:
                self._put(b"")
            self.changed()

    def reset(self) -> None:
        """Nothing more arrives, and either end is told."""
        self.broken = True
        self.changed()

    def give(self, most: int) -> bytes | None:
        """What has arrived, b"" at the end, None for nothing yet. `trio.BrokenResourceError`."""
        now = trio.current_time()
        if self.broken:
            raise trio.BrokenResourceError
        if self.wait_until() > now:
            return None
        if self.split is not None:
            most = min(most, self.split.choice(_PIECES))
        found = b""
        while len(found) < most and self._parts and self._parts[0][0] <= now and self._parts[0][1]:
            ready, part = self._parts.popleft()
            room = most - len(found)
            found += part[:room]
            if room < len(part):
                self._parts.appendleft((ready, part[room:]))
        self._size -= len(found)
        self.given += len(found)
        self._history.trace(self.name, self.given)
        self.changed()
        return found

    def wait_until(self) -> float:
        """When there may be something to take."""
        return max(self._parts[0][0], self.stalled_until) if self._parts else float("inf")

    async def wait_readable(self) -> None:
        while not (self.broken or self.reader_closed) and self.wait_until() > trio.current_time():
            with trio.move_on_at(self.wait_until()):
                await self._changed.wait()

    async def wait_writable(self) -> None:
        while self._size >= self.window and not (self.broken or self._ended or (self.reader_closed and not self.lost)):
            await self._changed.wait()
