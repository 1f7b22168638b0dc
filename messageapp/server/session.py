"""A logged-in session and its outbox: the bounded queue between all who have something for it and its one writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from messageapp.limits import Limits
from messageapp.wire.commands import Argument, Bye, ByeReason, make
from messageapp.wire.records import Kind, Record

__all__ = ["Outbox", "Session"]


_KEPT: Final = 4  # replies and events have a quarter of the queue on top, for themselves


class Outbox:
    """Records on their way to one peer. Bounded by frames and by bytes; `put` never waits."""

    def __init__(self, limits: Limits) -> None:
        self._frames, self._most_bytes = limits.queue_frames, limits.queue_bytes
        # One place more than `put` fills: a goodbye still fits behind a full queue.
        self._send, self._receive = trio.open_memory_channel[Record](self._frames + self._frames // _KEPT + 1)
        self._queued_frames = 0
        self._queued_bytes = 0

    def put(self, record: Record, *, forwarded: bool = False, always: bool = False) -> bool:
        """False where the queue is full or closed. What a peer sends (`forwarded`) cannot take the places kept for
        replies and events; `always` is for the goodbye alone."""
        extra = 0 if forwarded else 1
        full = self._queued_frames >= self._frames + extra * (self._frames // _KEPT) or self._queued_bytes + len(
            record.argument
        ) > self._most_bytes + extra * (self._most_bytes // _KEPT)
        if full and not always and self._queued_frames:
            return False
        try:
            self._send.send_nowait(record)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.WouldBlock):
            return False
        self._queued_frames += 1
        self._queued_bytes += len(record.argument)
        return True

    def close(self) -> None:
        """Nothing more comes in; the writer takes what is there and ends."""
        self._send.close()

    async def take_all(self) -> list[Record]:
        """Everything queued, at least one; `trio.EndOfChannel` when closed and empty."""
        records = [await self._receive.receive()]
        try:
            while True:
                records.append(self._receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        self._queued_frames -= len(records)
        self._queued_bytes -= sum(len(record.argument) for record in records)
        return records


@dataclass(eq=False)
class Session:
    """`number` is what logs show. `ended` is the goodbye's reason once one was said."""

    number: int
    user: str
    device: bytes
    limits: Limits
    outbox: Outbox = field(init=False)
    ended: ByeReason | None = None
    on_end: Callable[[Session], None] = lambda session: None

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.limits)

    def tell(self, kind: Kind, identifier: int, verb: str, argument: Argument | None = None) -> None:
        """Queue a reply or event. A session that cannot even take these has fallen behind for good: `byee` 4."""
        if not self.outbox.put(make(kind, identifier, verb, argument)):
            self.end(ByeReason.SLOW)

    def event(self, verb: str, argument: Argument | None = None) -> None:
        self.tell(Kind.EVENT, 0, verb, argument)

    def end(self, reason: ByeReason, reply_to: int | None = None) -> None:
        """Say goodbye (as the reply to `exit` where `reply_to` names it) and close the queue, which the writer empties.

        Only the first reason counts. `on_end` takes the session out of presence at once, not only when its connection
        is closed.
        """
        if self.ended is None:
            self.ended = reason
            kind, identifier = (Kind.EVENT, 0) if reply_to is None else (Kind.REPLY, reply_to)
            self.outbox.put(make(kind, identifier, "byee", Bye(reason)), always=True)
            self.outbox.close()
            self.on_end(self)
