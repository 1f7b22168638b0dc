"""What is on its way to one peer: the queue, its bounds, and the one writer.

Whoever has something for a peer whose writer is idle sends it himself, with one call that does not wait (`_idle`: the
writer waits, nothing is queued, all that was sealed is at the socket). What the socket does not take, and all that
comes before that is out, goes through the memory channel to the writer. Records are sealed in the order in which they
were put, and sent in that order: nobody else sends while the writer is not idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from messageapp.errors import ConnectionCut
from messageapp.limits import Limits
from messageapp.link import Link
from messageapp.wire.frames import FrameType
from messageapp.wire.records import Packed, relay
from messageapp_keys.primitives import Buffer

__all__ = ["Outbox"]

_KEPT: Final = 4  # replies and events have a quarter of the queue on top, for themselves


@dataclass(frozen=True, slots=True)
class _Rest:
    """Sealed bytes that the socket did not take at once. Always the first in the queue."""

    data: Buffer


class Outbox:
    """Records for one peer, bounded by count and by bytes. `put` and `relay` never wait; `write` is a task's."""

    __slots__ = (
        "_closed",
        "_idle",
        "_limits",
        "_link",
        "_queued_bytes",
        "_queued_count",
        "_receive",
        "_send",
        "sent_bytes",
    )

    def __init__(self, link: Link, limits: Limits) -> None:
        self._link, self._limits = link, limits
        # One place more than `put` fills: a goodbye still fits behind a full queue.
        most = limits.queue_frames + limits.queue_frames // _KEPT + 1
        self._send, self._receive = trio.open_memory_channel[Packed | _Rest](most)
        self._queued_count = 0
        self._queued_bytes = 0
        self._idle = False  # until M4 is out
        self._closed = False
        self.sent_bytes = 0  # of packed records

    def put(self, packed: Packed, *, always: bool = False) -> bool:
        """A reply or an event. False where the queue is full; `always` is for the goodbye alone."""
        limits = self._limits
        if (
            not always
            and self._queued_count
            and (
                self._queued_count >= limits.queue_frames + limits.queue_frames // _KEPT
                or self._queued_bytes + len(packed) > limits.queue_bytes + limits.queue_bytes // _KEPT
            )
        ):
            return False
        self._pass_on((packed,))
        return True

    def offer(self, packed: Packed) -> bool:
        """What can wait elsewhere. False where the queue is full; it cannot take the places that `put` has on top."""
        if not self._fitting((packed,)):
            return False
        self._pass_on((packed,))
        return True

    def relay(self, records: Sequence[Packed]) -> int:
        """Requests `frwd` of the peer of the chat. How many were taken; the others found the queue full.

        They cannot take the places that `put` has on top.
        """
        taken = 0
        while taken < len(records) and (fitting := self._fitting(records[taken:])):
            relay(fitting)
            self._pass_on(fitting)
            taken += len(fitting)
        return taken

    def _fitting(self, records: Sequence[Packed]) -> Sequence[Packed]:
        """The first of the records, as many as find room now."""
        room = self._limits.queue_frames - self._queued_count
        room_bytes = self._limits.queue_bytes - self._queued_bytes
        if len(records) <= room and sum(map(len, records)) <= room_bytes:
            return records
        end = 0
        while end < min(room, len(records)):
            room_bytes -= len(records[end])
            if room_bytes < 0 and (self._queued_count or end):  # an empty queue takes one of any size
                break
            end += 1
        return records[:end]

    def _pass_on(self, records: Sequence[Packed]) -> None:
        self.sent_bytes += sum(map(len, records))
        try:
            if not self._idle:
                for packed in records:
                    self._queue(packed, len(packed))
            elif rest := self._link.send_nowait(records):
                self._idle = False
                self._queue(_Rest(rest), len(rest))
        except (ConnectionCut, trio.BrokenResourceError, trio.ClosedResourceError):
            self._idle = False  # nobody is there any more; the reader sees that too, and ends the connection

    def _queue(self, item: Packed | _Rest, size: int) -> None:
        self._send.send_nowait(item)
        self._queued_count += 1
        self._queued_bytes += size

    def close(self) -> None:
        """Nothing more comes in; the writer sends what is queued and ends."""
        self._idle, self._closed = False, True
        self._send.close()

    async def write(self, m4: bytes) -> None:
        """Send M4, then what is queued, all that is there with one call. Returns when it is closed and empty.

        `ConnectionCut`; `trio.TooSlowError` when the peer takes nothing for `write_seconds`.
        """
        if rest := self._link.send_frame_nowait(FrameType.M4, m4):
            with trio.fail_after(self._limits.write_seconds):
                await self._link.send(rest)
        while True:
            try:
                data = await self._take_all()
            except trio.EndOfChannel:
                return
            with trio.fail_after(self._limits.write_seconds):
                await self._link.send(data)

    async def _take_all(self) -> Buffer:
        """The bytes of everything queued, at least one record; `trio.EndOfChannel` when closed and empty."""
        self._idle = not self._queued_count and not self._closed and self._link.direct
        records: list[Packed] = []
        rest: Buffer = b""
        item = await self._receive.receive()
        try:
            while True:
                if isinstance(item, _Rest):
                    rest = item.data
                else:
                    records.append(item)
                item = self._receive.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            self._queued_count = self._queued_bytes = 0
        sealed = self._link.seal(records) if records else b""
        return b"".join((rest, sealed)) if rest and sealed else rest or sealed
