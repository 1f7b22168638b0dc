"""The server: listeners, the sessions' common ground, and the order of ending.

shutdown() → stop accepting → byee to all → queues drain, at most `drain_seconds` → cancel the rest → return
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from typing import Final

import trio

from messageapp.clock import wall_ms
from messageapp.errors import UnusableSetup
from messageapp.keypool import KeySource
from messageapp.limits import Limits
from messageapp.wire.commands import ByeReason
from messageapp.wire.login import ServerOffer
from messageapp_keys.kem import CLASSIC, HYBRID, SWIFT, Suite
from messageapp_keys.primitives import Random
from messageapp_keys.standins import prepare_stand_ins

from .accepting import accept_until_cancelled
from .blocks import Blocks
from .connection import Connection
from .denial import RequestDenied
from .directory import Directory, DirectoryUnreadable
from .invites import Invites
from .keylog import ServerLog
from .mailbox import Mailbox
from .pump import Pump, open_pump
from .quota import AddressQuota
from .router import Router
from .turns import Turns

__all__ = ["SERVER_SUITES", "Server", "open_listeners"]

SERVER_SUITES: Final = (HYBRID, SWIFT, CLASSIC)
_CHECK_SECONDS: Final = 0.25  # how soon `user remove` in another process is noticed, and the log's growth is told
_OFFER_SECONDS: Final = 10.0  # how soon another certificate on disk is noticed
_TOLD_AT_ONCE: Final = 64  # sessions; then every other task has its turn
# A machine without IPv6 serves IPv4 alone.
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_log = logging.getLogger("messageapp.server")


class Server:
    """Everything that connections share. One per `serve`; `serve` runs until `shutdown` is called."""

    def __init__(
        self,
        *,
        offer: ServerOffer,
        directory: Directory,
        keys: KeySource,
        log: ServerLog | None = None,
        invites: Invites | None = None,
        blocks: Blocks | None = None,
        mailbox: Mailbox | None = None,
        limits: Limits | None = None,
        suites: Sequence[Suite] = SERVER_SUITES,
        changed_offer: Callable[[], ServerOffer | None] | None = None,
        random: Random = os.urandom,
        wall_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.offer = offer
        self._changed_offer = changed_offer  # asked in a thread, now and then
        self.directory = directory
        self.keys = keys
        self.log = log  # None: a server without a key log, which its clients tell their users
        self.invites = invites  # None: nobody can join by a code
        self.blocks = blocks  # None: nobody can block anybody
        self.mailbox = mailbox  # None: nothing is stored for who is away
        self.limits = limits or Limits()
        self.suites = tuple(suites)
        self.random = random
        self.wall_ms = wall_ms
        self.quota = AddressQuota(self.limits)
        self.turns = Turns()
        self.router = Router(directory, self.limits, log, blocks, mailbox)
        self.pump: Pump | None = None
        prepare_stand_ins()
        self._connections = 0
        self._requests = 0
        self._stop = trio.Event()

    def next_id(self) -> int:
        """A number for a request of ours."""
        self._requests = (self._requests + 1) & 0xFFFFFFFF
        return self._requests

    def shutdown(self) -> None:
        """Begin to end: returns at once, `serve` returns within `drain_seconds`."""
        self._stop.set()

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `shutdown`. Cancelling it ends everything without goodbyes. Closes the listeners."""
        with open_pump() as self.pump:
            await self._serve(listeners, task_status)
            self.pump = None

    async def _serve(
        self, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]], task_status: trio.TaskStatus[None]
    ) -> None:
        async with trio.open_nursery() as housekeeping:
            if self.pump is not None:
                housekeeping.start_soon(self.pump.run)
            housekeeping.start_soon(self._check_calls)
            housekeeping.start_soon(self._check_directory)
            if self._changed_offer is not None:
                housekeeping.start_soon(self._check_offer, self._changed_offer)
            if self.log is not None:
                housekeeping.start_soon(self._tell_heads, self.log)
            if self.log is not None or self.blocks is not None:
                housekeeping.start_soon(self.router.write)
            if self.mailbox is not None:
                housekeeping.start_soon(self.mailbox.run)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._accept, listeners, connections)
                    task_status.started()
                    await self._stop.wait()
                    accepting.cancel_scope.cancel()
                if self.mailbox is not None:  # who waits for `ackd` gets it
                    with trio.move_on_after(self.limits.drain_seconds):
                        await self.mailbox.drain()
                _log.info("stopping; saying goodbye")
                self.router.quiet = True
                for session in list(self.router.sessions()):
                    session.end(ByeReason.SHUTDOWN)
                connections.cancel_scope.deadline = trio.current_time() + self.limits.drain_seconds
            housekeeping.cancel_scope.cancel()

    async def _accept(self, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]], nursery: trio.Nursery) -> None:
        def serve(stream: trio.abc.Stream, address: str) -> None:
            nursery.start_soon(self.handle, stream, address)

        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(accept_until_cancelled, listener, serve)

    async def handle(self, stream: trio.abc.Stream, address: str) -> None:
        """One connection. The border: whatever goes wrong inside ends this connection and no other."""
        self._connections += 1
        number = self._connections
        try:
            await Connection(self, stream, number, address).run()
        except* Exception as group:
            # A bug of ours: its kind and place, never its text, which could hold a stranger's bytes.
            for error in _leaves(group):
                _log.error("#%d internal error: %s at %s", number, type(error).__name__, _place(error))

    async def _check_calls(self) -> None:
        while True:
            await trio.sleep(1)
            self.router.expire_calls()

    async def _check_directory(self) -> None:
        while True:
            await trio.sleep(_CHECK_SECONDS)
            try:
                if self.directory.changed():
                    self.router.end_unenrolled()
                    self.directory.acknowledge()
                    if self.mailbox is not None:
                        self.mailbox.tidying.directory_changed()
            except DirectoryUnreadable as error:
                _log.warning("%s; trying again", error)

    async def _check_offer(self, changed: Callable[[], ServerOffer | None]) -> None:
        """Logins from now on see another certificate where there is one; sessions keep what they logged in under."""
        while True:
            await trio.sleep(_OFFER_SECONDS)
            try:
                offer = await trio.to_thread.run_sync(changed)
            except UnusableSetup as error:
                _log.warning("the certificate stays as it is: %s", error)
                continue
            if offer is not None:
                self.offer = offer
                _log.info("the server has another certificate from now on")

    async def _tell_heads(self, log: ServerLog) -> None:
        """Every session learns of a new checkpoint, and of one that a witness has cosigned."""
        told = b""
        while True:
            try:
                note = log.note()
                behind = [] if note == told else [each for each in self.router.sessions() if each.checkpoint != note]
                for number, session in enumerate(behind, 1):
                    if session.ended is None:
                        session.event("klog", log.head(session.offer))
                        session.checkpoint = note
                    if number % _TOLD_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                told = note
            except (DirectoryUnreadable, RequestDenied) as error:  # denied: the log is gone
                _log.warning("%s; trying again", error)
            await trio.sleep(_CHECK_SECONDS)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"


async def open_listeners(host: str | None, port: int) -> list[trio.SocketListener]:
    """Listeners on every address of `host` (None: all of this machine), all on one port; port 0 picks it. `OSError`."""
    hosts = ["0.0.0.0", "::"] if host is None else [host]  # noqa: S104 - a server is there to be reached
    listeners: list[trio.SocketListener] = []
    try:
        for name in hosts:
            for *_, address in await trio.socket.getaddrinfo(
                name, port, type=trio.socket.SOCK_STREAM, flags=trio.socket.AI_PASSIVE
            ):
                chosen = port or (listeners[0].socket.getsockname()[1] if listeners else 0)
                try:
                    listeners += await trio.open_tcp_listeners(chosen, host=str(address[0]))
                except OSError as error:
                    if not (listeners and error.errno in _NO_SUCH_FAMILY):
                        raise
    except BaseException:
        for listener in listeners:
            await trio.aclose_forcefully(listener)
        raise
    return listeners
