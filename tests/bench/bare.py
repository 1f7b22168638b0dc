"""The yardstick: a relay in trio without cryptography, users or states. `python -m bench.bare naive|best`.

Both forms have what every server of this kind has: a nursery per connection, a reader and a writer task, a memory
channel between them. Frames are `u32 length | body`; the first of a connection is `S` or `R` and the number of a pair,
answered by an empty frame; what S sends then goes to R.

    naive   the writer sends one frame after the other
    best    the reader hands on all frames of a wake-up without waiting, the writer sends all that is queued at once
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import trio

__all__ = ["READY", "hello"]

READY: Final = bytes(4)
_READ: Final = 65_536
_QUEUE: Final = 256


def hello(role: bytes, pair: int) -> bytes:
    """The first frame of a connection. `role` is b"S" or b"R"."""
    body = role + str(pair).encode()
    return len(body).to_bytes(4, "big") + body


class _Frames:
    """Whole frames out of a byte stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        buffer += data
        found, start = [], 0
        while len(buffer) - start >= 4:
            end = start + 4 + int.from_bytes(buffer[start : start + 4], "big")
            if end > len(buffer):
                break
            found.append(bytes(buffer[start:end]))
            start = end
        del buffer[:start]
        return found


class _Relay:
    def __init__(self, form: str) -> None:
        self._best = form == "best"
        self._channels: dict[bytes, trio.MemorySendChannel[bytes]] = {}

    async def serve(self, stream: trio.SocketStream) -> None:
        send, receive = trio.open_memory_channel[bytes](_QUEUE)
        try:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._best_writer if self._best else self._naive_writer, stream, receive)
                await self._read(stream, send)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # a peer that is gone ends its own connection only

    async def _read(self, stream: trio.SocketStream, own: trio.MemorySendChannel[bytes]) -> None:
        frames, number = _Frames(), b""
        while data := await stream.receive_some(_READ):
            for frame in frames.feed(data):
                if not number:
                    number = frame[5:]
                    if frame[4:5] == b"R":
                        self._channels[number] = own
                    await own.send(READY)
                elif self._best:
                    try:
                        self._channels[number].send_nowait(frame)
                    except trio.WouldBlock:
                        await self._channels[number].send(frame)
                else:
                    await self._channels[number].send(frame)

    @staticmethod
    async def _naive_writer(stream: trio.SocketStream, queue: trio.MemoryReceiveChannel[bytes]) -> None:
        async for frame in queue:
            await stream.send_all(frame)

    @staticmethod
    async def _best_writer(stream: trio.SocketStream, queue: trio.MemoryReceiveChannel[bytes]) -> None:
        async for frame in queue:
            waiting = [frame]
            try:
                while True:
                    waiting.append(queue.receive_nowait())
            except trio.WouldBlock:
                await stream.send_all(b"".join(waiting))


async def _main(form: str, say: Callable[[str], object]) -> None:
    relay = _Relay(form)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
    host, port = listeners[0].socket.getsockname()[:2]
    say(f"listening on {host}:{port}\n")
    await trio.serve_listeners(relay.serve, listeners)


if __name__ == "__main__":

    def _say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    trio.run(_main, sys.argv[1], _say)
