"""A stream on a bare non-blocking socket.

`trio.SocketStream` costs a relayed message about as much as the cryptography: it tries, waits and checks for
cancellation around every call. Here reading waits once and takes what there is, and `send_nowait` waits for nothing.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import Final

import trio

__all__ = ["BareSocketStream"]

Buffer = bytes | bytearray | memoryview

_WOULD_BLOCK: Final = (BlockingIOError, InterruptedError)
_MOST: Final = 262_144
_UNSENT: Final = 262_144  # what the kernel may hold back for a peer that reads slowly; else it grows to megabytes
# One for all sockets, which one thread reads: no other task runs between `recv_into` and the copy. A fresh buffer of
# this size for every read would cost more than all the rest of the call.
_shared: Final = memoryview(bytearray(_MOST))


class BareSocketStream(trio.abc.HalfCloseableStream):
    """One task may receive while another sends. Closing wakes both with `trio.ClosedResourceError`."""

    __slots__ = ("_closed", "_ended", "_sending", "_socket")

    def __init__(self, stream: trio.SocketStream | socket.socket) -> None:
        """Takes the socket over, out of `stream` where it is in one, which is of no use afterwards."""
        if isinstance(stream, socket.socket):
            self._socket = stream
        else:
            sock = stream.socket
            self._socket = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        with contextlib.suppress(OSError, AttributeError):  # a local socket has no such options, nor every system
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        self._socket.setblocking(False)
        self._closed = self._ended = self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has arrived, at most `max_bytes`; b"" at the end. Waits first, so nobody who always has something to
        say keeps others from their turn. Cancelling loses nothing."""
        most = _MOST if max_bytes is None else min(index(max_bytes), _MOST)
        if most < 1:
            raise ValueError("max_bytes must be at least 1")
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._socket)
            if (data := self.receive_nowait(most)) is not None:
                return data

    def receive_nowait(self, most: int = _MOST) -> bytes | None:
        """What has arrived, b"" at the end, None for nothing yet. Errors as those of `receive_some`."""
        try:
            return bytes(_shared[: self._socket.recv_into(_shared, most)])
        except _WOULD_BLOCK:
            return None
        except OSError as error:
            raise self._failed(error) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def send_nowait(self, data: Buffer) -> int:
        """How many bytes the socket took, 0 if it is full. `trio.BrokenResourceError`, `trio.ClosedResourceError`."""
        try:
            return self._socket.send(data)
        except _WOULD_BLOCK:
            return 0
        except OSError as error:
            raise self._failed(error, closed=self._ended) from None

    async def send_all(self, data: Buffer) -> None:
        """Cancelling may have sent a part."""
        with memoryview(data) as view, self._alone():
            sent = self.send_nowait(view)
            if sent == len(view):
                await trio.lowlevel.checkpoint()
            while sent < len(view):
                await self._wait_writable()
                sent += self.send_nowait(view[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        with self._alone():
            await self._wait_writable()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        with self._alone():
            self._ended = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """`aclose` without a checkpoint."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    async def _wait_writable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self._socket)

    def _failed(self, error: OSError, *, closed: bool = False) -> Exception:
        return trio.ClosedResourceError() if closed or self._closed else trio.BrokenResourceError(error.strerror)
