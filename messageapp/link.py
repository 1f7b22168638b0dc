"""The one adapter between `wire.Connection` and a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, cast

import trio

from messageapp_keys.primitives import Buffer

from .errors import ConnectionCut, RemoteProtocolError
from .wire.connection import Connection
from .wire.frames import Frame, FrameType
from .wire.records import Packed, Record
from .wire.states import Role, State

__all__ = ["Link"]

_LOGIN_READ: Final = 8192  # before login little is read, so little is held
_SESSION_READ: Final = 98_304  # 32 messages of a chat; with much more one session would hold up the others


class _Direct(Protocol):
    """A stream that also reads and sends without waiting, as `sockets.BareSocketStream`."""

    def send_nowait(self, data: Buffer) -> int: ...
    def receive_nowait(self, most: int) -> bytes | None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Link:
    """A connection on a stream. One task receives and one sends; the owner closes.

    A cancelled `send` has lost the stream (part of a frame may be out): the owner must close then.
    """

    def __init__(self, stream: trio.abc.Stream, role: Role) -> None:
        self.stream = stream
        self.connection = Connection(role)
        # Asking whether it has the protocol would be a fiftieth of what a login costs.
        self._direct = cast(_Direct, stream) if hasattr(stream, "receive_nowait") else None
        self._broken = ""  # what comes behind the records that were given last: text, as an error keeps its frames

    async def receive_frame(self) -> Frame:
        """The next frame of the login. `ConnectionCut` at the end of the stream; `RemoteProtocolError`."""
        while (frame := self.connection.next_frame()) is None:
            self.connection.receive_data(await self._read(_LOGIN_READ))
        return frame

    async def receive_records(self) -> list[Record]:
        """`receive_packed`, taken apart."""
        return [Record.unpack(packed) for packed in await self.receive_packed()]

    async def receive_packed(self) -> list[Packed]:
        """At least one record: all that one wake-up brought. `ConnectionCut` at the end of the stream.

        Good records before a broken one are given first; the next call raises for the broken one.
        """
        records = self.received()
        while not records:
            self.connection.receive_data(await self._read(_SESSION_READ))
            records = self.received()
        return records

    def receive_packed_nowait(self) -> list[Packed]:
        """What one read brings that does not wait; may be nothing. Only where `direct`; else as `receive_packed`."""
        assert self._direct is not None  # noqa: S101 - the caller has looked
        try:
            data = self._direct.receive_nowait(_SESSION_READ)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionCut from None
        if data is None:
            return []
        if not data:
            raise ConnectionCut
        self.connection.receive_data(data)
        return self.received()

    def received(self) -> list[Packed]:
        """The whole records that are there without reading. `RemoteProtocolError` where there is a broken one alone."""
        self.raise_broken()
        records: list[Packed] = []
        try:
            records.extend(self.connection.packed_records())
        except RemoteProtocolError as error:
            if not records:
                raise
            self._broken = str(error)
        return records

    def raise_broken(self) -> None:
        """`RemoteProtocolError` where something broken came behind the records that were given last."""
        if self._broken:
            raise RemoteProtocolError(self._broken)

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

    async def close(self) -> None:
        """At once, whatever was still to be sent."""
        if self._direct is not None:
            self._direct.close()
        else:
            await trio.aclose_forcefully(self.stream)

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
        await self.send(self.seal([record.pack() for record in records]))

    def seal(self, records: Sequence[Packed]) -> bytes:
        """The bytes to send next. `ConnectionCut` where receiving has broken the connection already."""
        if self.connection.state is not State.SESSION:
            raise ConnectionCut
        return self.connection.send_packed(records, trio.current_time())

    async def send(self, data: Buffer) -> None:
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionCut from None

    @property
    def direct(self) -> bool:
        """May the calls be used that do not wait?"""
        return self._direct is not None

    def fileno(self) -> int:
        """Only where `direct`."""
        assert self._direct is not None  # noqa: S101 - the caller has looked
        return self._direct.fileno()

    def send_nowait(self, records: Sequence[Packed]) -> Buffer:
        """What of their bytes the socket did not take now. Only while nobody is in `send`. `ConnectionCut`."""
        return self._rest(self.seal(records))

    def send_frame_nowait(self, kind: FrameType, frame: bytes) -> Buffer:
        """As `send_nowait`; all of it where not `direct`."""
        if self.connection.state is State.ERROR:
            raise ConnectionCut
        return self._rest(self.connection.send_frame(kind, frame))

    def _rest(self, data: bytes) -> Buffer:
        if self._direct is None:
            return data
        try:
            sent = self._direct.send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionCut from None
        return b"" if sent == len(data) else memoryview(data)[sent:]
