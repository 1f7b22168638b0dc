"""One connection at the server: a nursery with reader and writer (protocol §4 to §7).

    accept → quota → M1 → temporary key → M2 → M3 → M4 → session ─┬─ reader  records in, through the router; ping, age
                                                                  └─ writer  outbox → records out, all at once

Whichever of the two ends first ends the connection, except that a goodbye is still written: `Session.end` closes the
outbox, and the writer, not the reader, is then the last. Nobody else's state is touched from here but through the
router, which never waits.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import Final

import trio

from messageapp.errors import ConnectionCut, RemoteProtocolError
from messageapp.link import Link
from messageapp.wire.commands import ByeReason, Echo
from messageapp.wire.frames import FrameType
from messageapp.wire.login import AcceptedLogin, Welcome, m4_frame
from messageapp.wire.records import Kind, Packed
from messageapp.wire.states import Role
from messageapp_keys.kem import CLASSIC

from .directory import DirectoryUnreadable
from .handshake import Common, Refused, busy, log_in
from .outbox import Outbox
from .session import Session

__all__ = ["Connection"]

_LINGER_SECONDS: Final = 1.0  # closing over unread bytes would reset the connection and eat our last words
_log = logging.getLogger("messageapp.server")


class Connection:
    """Serves one stream from accept to close. `run` returns when it is over; it closes the stream."""

    def __init__(self, server: Common, stream: trio.abc.Stream, number: int, address: str) -> None:
        self._server = server
        self._link = Link(stream, Role.SERVER)
        self._number = number
        self._address = address
        self._born = self._heard = self._pinged = 0.0
        self._bytes = 0

    async def run(self) -> None:
        server, good = self._server, False
        if not server.quota.begin(self._address, trio.current_time()):
            _log.info("#%d closed: too many connections", self._number)
            await self._link.close()
            return
        try:
            try:
                accepted = await log_in(server, self._link)
                good = True
            finally:
                server.quota.end(self._address, trio.current_time(), good=good)
            await self._session(accepted)
        except Refused as refused:
            _log.info("#%d no login", self._number)
            _log.debug("#%d no login: %s", self._number, refused)
            await self._say_no(refused)
        finally:
            await self._link.close()

    async def _say_no(self, refused: Refused) -> None:
        """One ALERT, or the reason in M4, where the protocol allows it; never waiting for a peer that does not read."""
        connection = self._link.connection
        if refused.m4:
            data = connection.send_frame(FrameType.M4, refused.m4)
        elif refused.alert is not None:
            data = connection.alert(refused.alert)
        else:
            return
        with trio.move_on_after(_LINGER_SECONDS), contextlib.suppress(ConnectionCut):
            await self._link.send(data)
            await self._link.half_close()
            while True:
                await self._link.receive_ignored()

    # session ----------------------------------------------------------------------------------------------------------

    async def _session(self, accepted: AcceptedLogin) -> None:
        server = self._server
        outbox = Outbox(self._link, server.limits)
        session = Session(self._number, accepted.username, accepted.device, outbox, accepted.offer)
        try:
            session.checkpoint = b"" if server.log is None else server.log.note()
            others = server.router.join(session, accepted.key_id)
        except DirectoryUnreadable:
            raise busy("the directory of users cannot be read") from None
        if others is None:  # removed between M3 and here
            raise Refused(None, "no longer enrolled")
        self._born = self._heard = self._pinged = trio.current_time()
        try:
            name = accepted.offer.names[0]
            welcome = Welcome(name, server.wall_ms(), other_sessions=others, checkpoint=session.checkpoint)
            frame = m4_frame(accepted.sealer, welcome)
            self._link.connection.start_session(accepted.sealer, accepted.opener, trio.current_time())
            _log.info("#%d logged in (%s)", self._number, accepted.suite.name)
            if accepted.suite is CLASSIC:
                _log.warning("#%d uses the classic suite: no protection against a later quantum computer", self._number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._writer, outbox, nursery.cancel_scope, frame)
                await self._reader(session)
                nursery.cancel_scope.cancel()
        finally:
            server.router.leave(session)
            _log.info("#%d closed", self._number)

    async def _reader(self, session: Session) -> None:
        """Until the peer is gone, breaks the protocol or is silent; while a goodbye is being written, it only reads on.

        One scope whose deadline moves serves for ping, silence and age: nothing of it costs a record anything.
        """
        try:
            while (due := self._due(session)) is not None:
                with trio.CancelScope(deadline=due):
                    await self._receive(session)
        except ConnectionCut:
            pass
        except RemoteProtocolError as error:
            _log.info("#%d broke the protocol", self._number)
            _log.debug("#%d broke the protocol: %s", self._number, error)

    async def _receive(self, session: Session) -> None:
        link, pump = self._link, self._server.pump
        if records := link.received():
            self._act_on(session, records, trio.current_time())
        if pump is not None and link.direct:
            await pump.serve(link.fileno(), partial(self._read_once, session))
        while True:
            self._act_on(session, await link.receive_packed(), trio.current_time())

    def _read_once(self, session: Session, now: float) -> None:
        if records := self._link.receive_packed_nowait():
            self._act_on(session, records, now)
            self._link.raise_broken()

    def _act_on(self, session: Session, records: list[Packed], now: float) -> None:
        self._heard = now
        self._bytes += sum(map(len, records))
        if session.ended is None:
            self._server.router.receive(session, records)

    async def _writer(self, outbox: Outbox, scope: trio.CancelScope, m4: bytes) -> None:
        """Ends the connection when it ends: after the goodbye, or because the peer is gone or does not read."""
        try:
            await outbox.write(m4)
            with contextlib.suppress(ConnectionCut):
                await self._link.half_close()
            await trio.sleep(_LINGER_SECONDS)  # the reader ends this earlier, when the peer closes too
        except ConnectionCut:
            pass
        except trio.TooSlowError:
            _log.info("#%d does not read", self._number)
        scope.cancel()

    def _due(self, session: Session) -> float | None:
        """Ping or say goodbye where it is time, and when to look again; None for a peer that is silent for too long."""
        limits, now = self._server.limits, trio.current_time()
        dead, old = self._heard + limits.dead_seconds, self._born + limits.session_seconds
        if now >= dead:
            _log.info("#%d is silent", self._number)
            return None
        if session.ended is None:
            if now >= old or self._bytes + session.outbox.sent_bytes >= limits.session_bytes:
                session.end(ByeReason.AGE)
            elif now >= max(self._heard, self._pinged) + limits.ping_seconds:
                session.tell(Kind.REQUEST, self._server.next_id(), "ping", Echo(self._server.random(8)))
                self._pinged = now
        if session.ended is not None:
            return dead
        return min(dead, old, max(self._heard, self._pinged) + limits.ping_seconds)
