"""One connection at the server: a nursery with reader, writer and keep-alive (protocol §4 to §7).

    accept → quota → M1 → temporary key → M2 → M3 → M4 → session ─┬─ reader      records in, through the router
                                                                  ├─ writer      outbox → records out, all at once
                                                                  └─ keep-alive  ping, silence, age

Whichever of the three ends first ends the connection, except that a goodbye is still written: `Session.end` closes the
outbox, and the writer, not the reader, is then the last. Only the writer sends. Nobody else's state is touched from
here but through the router, which never waits.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Final, Protocol

import trio

from messageapp.errors import ConnectionCut, MessageAppError, RemoteProtocolError
from messageapp.keypool import KeySource
from messageapp.limits import Limits
from messageapp.link import Link
from messageapp.wire.commands import ByeReason, Echo, make
from messageapp.wire.frames import FrameType
from messageapp.wire.login import AcceptedLogin, ServerLogin, ServerOffer, Welcome, m4_frame
from messageapp.wire.messages import Alert
from messageapp.wire.records import Kind
from messageapp.wire.states import Role
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.kem import CLASSIC, Suite, TemporaryKey
from messageapp_keys.primitives import Random

from .directory import Directory, DirectoryUnreadable
from .quota import AddressQuota
from .router import Router
from .session import Session

__all__ = ["Common", "Connection", "Refused"]

ALERT_BUSY: Final = 2
ALERT_SLOW: Final = 4
_RETRY_SECONDS: Final = 5
_LINGER_SECONDS: Final = 1.0  # closing over unread bytes would reset the connection and eat our last words
_log = logging.getLogger("messageapp.server")


class Common(Protocol):
    """What all connections share; `serve.Server` is it."""

    offer: ServerOffer
    directory: Directory
    keys: KeySource
    limits: Limits
    suites: tuple[Suite, ...]
    random: Random
    wall_ms: Callable[[], int]
    quota: AddressQuota
    router: Router
    dummy_bundle: IdentityBundle

    def next_id(self) -> int: ...


class Refused(MessageAppError):
    """a login did not come about; `alert` goes to the client"""

    def __init__(self, alert: Alert | None, why: str) -> None:
        super().__init__(why)
        self.alert = alert


class Connection:
    """Serves one stream from accept to close. `run` returns when it is over; it closes the stream."""

    def __init__(self, server: Common, stream: trio.abc.Stream, number: int, address: str) -> None:
        self._server = server
        self._link = Link(stream, Role.SERVER)
        self._number = number
        self._address = address
        self._heard = 0.0
        self._bytes = 0

    async def run(self) -> None:
        server, good = self._server, False
        if not server.quota.begin(self._address, trio.current_time()):
            _log.info("#%d closed: too many connections", self._number)
            await trio.aclose_forcefully(self._link.stream)
            return
        try:
            try:
                accepted = await self._login()
                good = True
            finally:
                server.quota.end(self._address, trio.current_time(), good=good)
            await self._session(accepted)
        except Refused as refused:
            _log.info("#%d no login", self._number)
            _log.debug("#%d no login: %s", self._number, refused)
            await self._say_no(refused.alert)
        finally:
            await trio.aclose_forcefully(self._link.stream)

    # login ------------------------------------------------------------------------------------------------------------

    async def _login(self) -> AcceptedLogin:
        """Raises `Refused`. Every time-out of the handshake is here."""
        limits = self._server.limits
        try:
            with trio.fail_after(limits.handshake_seconds):
                with trio.fail_after(limits.m1_seconds):
                    m1 = await self._link.receive_frame()
                login = ServerLogin(m1, self._server.offer, self._server.suites)
                if self._server.router.session_count >= limits.sessions:
                    raise Refused(Alert(ALERT_BUSY, _RETRY_SECONDS), "all sessions taken")
                temporary = await self._temporary_key(login)
                await self._link.send_frame(FrameType.M2, login.offer(temporary, self._server.random))
                m3 = await self._link.receive_frame()
                return login.accept_untrusted(m3, self._server.directory.find, self._server.dummy_bundle)
        except trio.TooSlowError:
            raise Refused(Alert(ALERT_SLOW), "too slow") from None
        except ConnectionCut:
            raise Refused(None, "connection cut") from None
        except DirectoryUnreadable:
            raise Refused(Alert(ALERT_BUSY, _RETRY_SECONDS), "the directory of users cannot be read") from None
        except RemoteProtocolError as error:
            why = getattr(error, "cause", str(error))
            raise Refused(None if error.alert is None else Alert(error.alert), why) from None

    async def _temporary_key(self, login: ServerLogin) -> TemporaryKey:
        keys = self._server.keys
        rsa_key = keys.take_nowait() if login.suites[0].needs_rsa else None
        suite: Suite = login.choose(rsa_ready=rsa_key is not None)
        if suite.needs_rsa and rsa_key is None:
            with trio.move_on_after(self._server.limits.pool_wait_seconds):
                rsa_key = await keys.take()
            if rsa_key is None:
                raise Refused(Alert(ALERT_BUSY, _RETRY_SECONDS), "no temporary key ready")
        return TemporaryKey.generate(suite, rsa_key)

    async def _say_no(self, alert: Alert | None) -> None:
        """One ALERT where the protocol allows one, never waiting for a peer that does not read."""
        if alert is None:
            return
        data = self._link.connection.alert(alert)
        with trio.move_on_after(_LINGER_SECONDS), contextlib.suppress(ConnectionCut):
            await self._link.send(data)
            await self._link.half_close()
            while True:
                await self._link.receive_ignored()

    # session ----------------------------------------------------------------------------------------------------------

    async def _session(self, accepted: AcceptedLogin) -> None:
        server, limits = self._server, self._server.limits
        session = Session(self._number, accepted.username, accepted.device, limits)
        try:
            others = server.router.join(session, accepted.key_id)
        except DirectoryUnreadable:
            raise Refused(Alert(ALERT_BUSY, _RETRY_SECONDS), "the directory of users cannot be read") from None
        if others is None:  # removed between M3 and here
            raise Refused(None, "no longer enrolled")
        self._heard = trio.current_time()
        try:
            welcome = Welcome(server.offer.names[0], server.wall_ms(), other_sessions=others)
            frame = m4_frame(accepted.sealer, welcome)
            self._link.connection.start_session(accepted.sealer, accepted.opener, trio.current_time())
            _log.info("#%d logged in (%s)", self._number, accepted.suite.name)
            if accepted.suite is CLASSIC:
                _log.warning("#%d uses the classic suite: no protection against a later quantum computer", self._number)
            async with trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                nursery.start_soon(self._writer, session, scope, frame)
                nursery.start_soon(self._reader, session, scope)
                nursery.start_soon(self._keep_alive, session, scope)
        finally:
            server.router.leave(session)
            _log.info("#%d closed", self._number)

    async def _reader(self, session: Session, scope: trio.CancelScope) -> None:
        """Until the peer is gone or breaks the protocol; while a goodbye is being written, it only reads on."""
        try:
            while True:
                for record in await self._link.receive_records():
                    self._bytes += len(record.argument)
                    if session.ended is None:
                        self._server.router.receive(session, record)
                self._heard = trio.current_time()
        except ConnectionCut:
            scope.cancel()
        except RemoteProtocolError as error:
            _log.info("#%d broke the protocol", self._number)
            _log.debug("#%d broke the protocol: %s", self._number, error)
            scope.cancel()

    async def _writer(self, session: Session, scope: trio.CancelScope, m4: bytes) -> None:
        """M4, then everything queued with one send each time; ends the connection once the closed queue is empty."""
        try:
            with trio.fail_after(self._server.limits.write_seconds):
                await self._link.send_frame(FrameType.M4, m4)
            while True:
                records = await session.outbox.take_all()
                self._bytes += sum(len(record.argument) for record in records)
                with trio.fail_after(self._server.limits.write_seconds):
                    await self._link.send_records(records)
        except trio.EndOfChannel:
            with contextlib.suppress(ConnectionCut):
                await self._link.half_close()
            await trio.sleep(_LINGER_SECONDS)  # the reader ends this earlier, when the peer closes too
        except ConnectionCut:
            pass
        except trio.TooSlowError:
            _log.info("#%d does not read", self._number)
        scope.cancel()

    async def _keep_alive(self, session: Session, scope: trio.CancelScope) -> None:
        limits = self._server.limits
        born = pinged = trio.current_time()
        while True:
            now = trio.current_time()
            if now - self._heard >= limits.dead_seconds:
                _log.info("#%d is silent", self._number)
                scope.cancel()
            elif session.ended is None and (
                now - born >= limits.session_seconds or self._bytes >= limits.session_bytes
            ):
                session.end(ByeReason.AGE)
            elif now - max(self._heard, pinged) >= limits.ping_seconds:
                session.outbox.put(make(Kind.REQUEST, self._server.next_id(), "ping", Echo(self._server.random(8))))
                pinged = now
            due = min(self._heard + limits.dead_seconds, max(self._heard, pinged) + limits.ping_seconds)
            await trio.sleep_until(due if session.ended is not None else min(due, born + limits.session_seconds))
