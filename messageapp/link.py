"""The one adapter between `wire.Connection` and a trio stream."""

from __future__ import annotations

from typing import Final

import trio

from .errors import ConnectionCut, RemoteProtocolError
from .wire.connection import Connection
from .wire.frames import Frame, FrameType
from .wire.records import Record
from .wire.states import Role, State

__all__ = ["Link"]

_LOGIN_READ: Final = 8192  # before login little is read, so little is held
_SESSION_READ: Final = 65_536


class Link:
    """A connection on a stream. One task receives and one sends; the owner closes.

    A cancelled `send` has lost the stream (part of a frame may be out): the owner must close then.
    """

    def __init__(self, stream: trio.abc.Stream, role: Role) -> None:
        self.stream = stream
        self.connection = Connection(role)
        self._broken: RemoteProtocolError | None = None

    async def receive_frame(self) -> Frame:
        """The next frame of the login. `ConnectionCut` at the end of the stream; `RemoteProtocolError`."""
        while (frame := self.connection.next_frame()) is None:
            self.connection.receive_data(await self._read(_LOGIN_READ))
        return frame

    async def receive_records(self) -> list[Record]:
        """At least one record: all that one wake-up brought. `ConnectionCut` at the end of the stream.

        Good records before a broken one are given first; the next call raises for the broken one.
        """
        if self._broken is not None:
            raise self._broken
        records: list[Record] = []
        while not records:
            try:
                while (record := self.connection.next_record()) is not None:
                    records.append(record)
            except RemoteProtocolError as error:
                if not records:
                    raise
                self._broken = error
            if not records:
                self.connection.receive_data(await self._read(_SESSION_READ))
        return records

    async def _read(self, most: int) -> bytes:
        try:
            data = await self.stream.receive_some(most)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionCut from None
        if not data:
            raise ConnectionCut
        return bytes(data)

    async def receive_ignored(self) -> None:
        """Read and forget; `ConnectionCut` at the end."""
        await self._read(_LOGIN_READ)

    async def half_close(self) -> None:
        """We are done sending; the peer may still speak."""
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            try:
                await self.stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ConnectionCut from None

    async def send_frame(self, kind: FrameType, frame: bytes) -> None:
        await self.send(self.connection.send_frame(kind, frame))

    async def send_records(self, records: list[Record]) -> None:
        """Seal all and send them with one call. `ConnectionCut` where receiving has broken the connection already."""
        if self.connection.state is not State.SESSION:
            raise ConnectionCut
        now = trio.current_time()
        await self.send(b"".join([self.connection.send_record(record, now) for record in records]))

    async def send(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionCut from None
