"""Connections in memory: a `Wire` is two `Pipe`s with a stream at either end.

Some streams have the protocol of bare sockets (`DirectStream`), so that the server also sends and reads without
waiting; `Waiting` stands for the server's epoll then.
"""

from __future__ import annotations

import trio

from messageapp.server.pump import Act
from messageapp_keys.primitives import Buffer

from .history import History
from .pipes import WINDOW, Pipe

__all__ = ["DirectStream", "SimStream", "Waiting", "Wire"]


class Wire:
    """A connection: `up` to the server, `down` to the client."""

    def __init__(self, history: History, name: str, number: int, *, direct: bool) -> None:
        self.name, self.direct = name, direct
        self.faults: set[str] = set()  # their verbs
        self.rival = False  # an older connection of the same device was still there
        self.up, self.down = Pipe(history, f"{name} up"), Pipe(history, f"{name} down")
        self.near = SimStream(self.down, self.up)
        self.far = DirectStream(self.up, self.down, number) if direct else SimStream(self.up, self.down)

    @property
    def seat(self) -> str:
        return self.name.partition("#")[0]

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        return self.up, self.down

    @property
    def effects(self) -> set[str]:
        """The faults that did something: a cut or a flip may still wait for its byte."""
        done = {
            "cut": any(pipe.was_cut for pipe in self.pipes),
            "flip": any(pipe.flipped_at is not None for pipe in self.pipes),
        }
        return {verb for verb in self.faults if done.get(verb, True)}

    @property
    def closed(self) -> bool:
        return self.near.closed and self.far.closed

    def reset(self) -> None:
        for pipe in self.pipes:
            pipe.reset()


class SimStream(trio.abc.HalfCloseableStream):
    """One end, as `sockets.BareSocketStream` behaves."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self.closed = False
        self._incoming, self._outgoing = incoming, outgoing

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            await trio.lowlevel.checkpoint()
            if (data := self._receive(max_bytes or WINDOW)) is not None:
                return data
            await self.wait_readable()

    async def wait_readable(self) -> None:
        await self._incoming.wait_readable()

    def _receive(self, most: int) -> bytes | None:
        self._check()
        return self._incoming.give(most)

    def _send(self, data: Buffer) -> int:
        self._check()
        return self._outgoing.take(data)

    def _check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError

    async def send_all(self, data: Buffer) -> None:
        view = memoryview(data)
        await trio.lowlevel.checkpoint()
        while view:
            view = view[self._send(view) :]
            if view:
                await trio.lowlevel.checkpoint()
                await self._outgoing.wait_writable()

    async def wait_send_all_might_not_block(self) -> None:
        await self._outgoing.wait_writable()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self._outgoing.end()

    async def aclose(self) -> None:
        self.shut()
        await trio.lowlevel.checkpoint()

    def shut(self) -> None:
        """As TCP does: closing over unread bytes resets the connection."""
        if self.closed:
            return
        self.closed = self._incoming.reader_closed = True
        if self._incoming.unread and not self._outgoing.lost:
            self._outgoing.reset()
        self._outgoing.end()
        self._incoming.changed()


class DirectStream(SimStream):
    """Also reads and sends without waiting: what the server uses on its sockets. `number` is its descriptor."""

    def __init__(self, incoming: Pipe, outgoing: Pipe, number: int) -> None:
        super().__init__(incoming, outgoing)
        self._number = number

    def receive_nowait(self, most: int) -> bytes | None:
        return self._receive(most)

    def send_nowait(self, data: Buffer) -> int:
        return self._send(data)

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        self.shut()


class Waiting:
    """In the place of the server's `Pump`, which needs real descriptors: acts whenever there is something to read."""

    def __init__(self, streams: dict[int, DirectStream]) -> None:
        self._streams = streams

    async def run(self) -> None:
        await trio.sleep_forever()

    async def serve(self, descriptor: int, act: Act) -> None:
        stream = self._streams[descriptor]
        while True:
            await stream.wait_readable()
            await trio.lowlevel.checkpoint()
            act(trio.current_time())
