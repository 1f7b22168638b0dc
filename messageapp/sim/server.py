"""The real server on simulated streams, and the malicious relay inside it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import trio

from messageapp.limits import Limits
from messageapp.server.denial import RequestDenied
from messageapp.server.directory import Directory
from messageapp.server.mailbox import Mailbox
from messageapp.server.pump import Pump
from messageapp.server.router import Router
from messageapp.server.serve import Server
from messageapp.server.session import Session
from messageapp.wire.records import Packed, Record

from .history import History, seeded
from .ledger import Ledger
from .streams import DirectStream, SimStream, Waiting, Wire

__all__ = ["Listener", "LogWatch", "SimServer", "Tricks", "reading_log"]

_LATER: Final = 3  # messages after which one is sent again


@dataclass(slots=True)
class Tricks:
    """What the relay is to do with the next messages of each user, and what it holds back. It outlives a restart."""

    seed: int
    history: History
    ledger: Ledger
    waiting: dict[str, deque[tuple[int, str]]] = field(default_factory=dict)  # user: (step, how)
    held: dict[str, list[tuple[int, Record]]] = field(default_factory=dict)  # user: (after so many more, message)

    def add(self, user: str, step: int, how: str, count: int) -> None:
        self.waiting.setdefault(user, deque()).extend([(step, how)] * count)

    def clear(self) -> None:
        self.waiting.clear()
        self.held.clear()

    def idle(self, user: str) -> bool:
        return not (self.waiting.get(user) or self.held.get(user))

    def play(self, user: str, record: Record, invite: bytes) -> tuple[list[Record], list[Record]]:
        """What is sent on in the place of this one; and of those before, what is due now. `invite` names the chat."""
        step, how = self.waiting[user].popleft() if self.waiting.get(user) else (0, "")
        passed = [record]
        if how:
            self.history.note("relay", f"{how} a message of {user}")
            self.ledger.tamper(user, record.argument, invite)
        match how:
            case "flip":
                place, bit = divmod(seeded("flip", self.seed, step, user).randrange(8 * len(record.argument)), 8)
                changed = bytearray(record.argument)
                changed[place] ^= 1 << bit
                passed = [Record(record.kind, record.id, record.verb, bytes(changed))]
            case "replay":
                passed = [record, record]
            case "drop":
                passed = []
        held = self.held.get(user, [])
        due = [message for left, message in held if left <= 1]
        self.held[user] = [(left - 1, message) for left, message in held if left > 1]
        for message in due:
            self.ledger.tamper(user, message.argument, invite)
        if how == "swap":
            passed = []
            self.held[user].append((1, record))
        elif how == "again":
            self.held[user].append((_LATER, record))
        return passed, due


class Relay(Router):
    def __init__(self, directory: Directory, limits: Limits, tricks: Tricks, mailbox: Mailbox | None) -> None:
        super().__init__(directory, limits, mailbox=mailbox)
        self._tricks = tricks

    def _forward(self, session: Session, records: list[Packed]) -> None:
        if self._tricks.idle(session.user):
            super()._forward(session, records)
            return
        invite = self._invite(session)
        for packed in records:
            passed, late = self._tricks.play(session.user, Record.unpack(packed), invite)
            for record in passed:
                super()._forward(session, [record.pack()])
            peer = self._presence.chat_peer(session)
            if peer is not None:  # unasked for: nobody is told what becomes of these, whose ids may be others' by now
                peer.outbox.relay([record.pack() for record in late])

    def _turn_down(self, session: Session, record: Record, denied: RequestDenied) -> None:
        self._tricks.ledger.turn_down(session.user, record.argument, self._invite(session))
        super()._turn_down(session, record, denied)

    def _invite(self, session: Session) -> bytes:
        """Of the chat that this session is in."""
        entry = self._presence.find(session.user)
        if entry is None or entry.bond is None or self._presence.chat_peer(session) is None:
            return b""
        return entry.bond.invite


class SimServer(Server):
    """`wires` are those of the streams that it may be given."""

    def __init__(self, wires: dict[SimStream, Wire], tricks: Tricks, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.router = Relay(self.directory, self.limits, tricks, self.mailbox)
        self.served: dict[int, Wire] = {}  # by the number in the log
        self._wires = wires
        self._direct: dict[int, DirectStream] = {}

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.pump = cast(Pump, Waiting(self._direct))
        await self._serve(listeners, task_status)
        self.pump = None

    async def handle(self, stream: trio.abc.Stream, address: str) -> None:
        assert isinstance(stream, SimStream)  # noqa: S101 - the listener's
        self.served[self._connections + 1] = self._wires[stream]
        if isinstance(stream, DirectStream):
            self._direct[stream.fileno()] = stream
        await super().handle(stream, address)


class Listener(trio.abc.Listener[trio.abc.Stream]):
    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[SimStream](1000)
        self.closed = False

    def connect(self, stream: SimStream) -> None:
        self._send.send_nowait(stream)

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        """Who was not accepted yet is told."""
        self.closed = True
        while self._receive.statistics().current_buffer_used:
            self._receive.receive_nowait().shut()
        self._send.close()
        self._receive.close()
        await trio.lowlevel.checkpoint()


class LogWatch(logging.Handler):
    """Reads the server's log: an internal error is a bug, a broken protocol needs somebody who broke it."""

    def __init__(self, history: History, wire: Callable[[int], Wire]) -> None:
        super().__init__(logging.INFO)
        self._history, self._wire = history, wire

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._history.trace("log", text)
        if record.levelno >= logging.ERROR:
            self._history.breaks("no unexpected exception", text)
        elif "broke the protocol" in text:
            wire = self._wire(int(text[1 : text.index(" ")]))
            if wire.up.flipped_at is None:
                self._history.breaks("nobody breaks the protocol", f"{wire.name}: {text}")


@contextmanager
def reading_log(watch: LogWatch) -> Iterator[None]:
    logger = logging.getLogger("messageapp.server")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(watch)
    try:
        yield
    finally:
        logger.removeHandler(watch)
        logger.setLevel(level)
        logger.propagate = propagate
