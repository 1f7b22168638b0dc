"""Messages through the server: throughput with so many pairs and so many in flight, and latency at light load.

Everything is sealed before the clock starts, and opened and checked after it has stopped: between the two the generator
only moves bytes.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from messageapp.wire.commands import Raw, make
from messageapp.wire.records import Kind
from messageapp_keys.kem import SWIFT

from .proc import cpu_of
from .rows import Rows
from .wire import Dialler, Session, start_chat

__all__ = ["relay"]

_READ: Final = 1 << 20
_PATIENCE: Final = 30.0
_LOGINS_AT_ONCE: Final = 8


@dataclass(slots=True)
class _Pair:
    sender: Session
    receiver: Session
    frames: list[bytes] = field(default_factory=list)
    sent: int = 0
    got: int = 0  # bytes
    chunks: list[bytes] = field(default_factory=list)
    left: memoryview = field(default_factory=lambda: memoryview(b""))  # what the socket did not take yet

    def prepare(self, argument: bytes, count: int) -> None:
        sender = self.sender
        self.frames = [sender.seal(make(Kind.REQUEST, i + 1, "frwd", Raw(argument))) for i in range(count)]
        self.sent = self.got = 0
        self.chunks = []
        for session in (self.sender, self.receiver):
            session.sock.setblocking(False)

    def push(self, count: int) -> None:
        """Hand the next `count` frames to the socket, with one call."""
        batch = b"".join(self.frames[self.sent : self.sent + count])
        self.sent += count
        self.left = memoryview(bytes(self.left) + batch) if self.left else memoryview(batch)
        self.flush()

    def flush(self) -> None:
        try:
            self.left = self.left[self.sender.sock.send(self.left) :]
        except BlockingIOError:
            return

    def check(self, argument: bytes) -> None:
        """Every message came, once, in order, as it was sent. Raises `RuntimeError`."""
        connection = self.receiver.connection
        connection.receive_data(b"".join(self.chunks))
        count = 0
        while (record := connection.next_record()) is not None:
            if record.verb != b"frwd" or record.argument != argument:
                raise RuntimeError(f"{record.verb!r} came where frwd was to come")
            count += 1
        if count != len(self.frames):
            raise RuntimeError(f"{count} of {len(self.frames)} messages came")


def relay(job: dict[str, Any], rows: Rows) -> None:
    pid, most = int(job["pid"]), max(int(pairs) for pairs in job["pairs"])
    pairs = _make_pairs(job, most)
    sizes: dict[str, int] = job["sizes"]
    for name, size in sizes.items():
        argument = os.urandom(size)
        for count in job["pairs"]:
            for flight in job["in_flight"]:
                plural = "pair" if count == 1 else "pairs"
                label = f"{name}: {count} {plural}, {flight} in flight each"
                with rows.part(label):
                    total = int(job["messages"][str(flight)])
                    _throughput(pid, pairs[:count], argument, max(flight, total // count), flight, label, rows)
    argument = os.urandom(next(iter(sizes.values())))
    with rows.part("latency"):
        _latency(pid, pairs[0], argument, int(job["latency_messages"]), rows)


def _make_pairs(job: dict[str, Any], count: int) -> list[_Pair]:
    dialler = Dialler(Path(job["home"]), job["port"])
    sessions, _ = dialler.log_in([f"user{i}" for i in range(2 * count)], SWIFT, _LOGINS_AT_ONCE)
    sessions.sort(key=lambda session: int(session.user.removeprefix("user")))
    pairs = [_Pair(sessions[i], sessions[i + 1]) for i in range(0, len(sessions), 2)]
    for pair in pairs:
        start_chat(pair.sender, pair.receiver, os.urandom(16))
    return pairs


def _throughput(
    pid: int, pairs: Sequence[_Pair], argument: bytes, each: int, flight: int, label: str, rows: Rows
) -> None:
    for pair in pairs:
        pair.prepare(argument, each)
    frame = len(pairs[0].frames[0])  # relayed frames are as long as the sender's
    with selectors.DefaultSelector() as selector:
        for pair in pairs:
            selector.register(pair.receiver.sock, selectors.EVENT_READ, pair)
        server, own, began = cpu_of(pid), time.process_time(), time.perf_counter()
        end = time.monotonic() + _PATIENCE
        for pair in pairs:
            pair.push(flight)
        open_pairs = len(pairs)
        while open_pairs:
            stuck = [pair for pair in pairs if pair.left]
            for pair in stuck:
                pair.flush()
            ready = selector.select(0.001 if stuck else 1.0)
            if time.monotonic() > end:
                missing = sum(each * frame - pair.got for pair in pairs)
                raise TimeoutError(f"after {_PATIENCE:.0f} s {missing // frame} messages had not come")
            for key, _ in ready:
                if _receive(key.data, frame, each):
                    selector.unregister(key.fileobj)
                    open_pairs -= 1
        seconds, busy = time.perf_counter() - began, time.process_time() - own
        spent = cpu_of(pid).since(server).loop
    for pair in pairs:
        pair.check(argument)
    total = each * len(pairs)
    rows.add(label, "messages/s", total / seconds, server=spent / seconds, load=busy / seconds)
    rows.add(f"{label}, server CPU", "µs/message", spent / total * 1e6)


def _receive(pair: _Pair, frame: int, each: int) -> bool:
    """Take what came, and send one message for each that is complete now. True when all have come."""
    data = pair.receiver.sock.recv(_READ)
    if not data:
        raise ConnectionError("the server closed the connection of a receiver")
    pair.chunks.append(data)
    before = pair.got // frame
    pair.got += len(data)
    complete = pair.got // frame
    more = min(complete - before, each - pair.sent)
    if more > 0:
        pair.push(more)
    return complete >= each


def _latency(pid: int, pair: _Pair, argument: bytes, count: int, rows: Rows) -> None:
    """From `send` at the sender to the whole frame at the receiver, a message every 5 ms."""
    pair.prepare(argument, count)
    frame = len(pair.frames[0])
    taken: list[float] = []
    with selectors.DefaultSelector() as selector:
        selector.register(pair.receiver.sock, selectors.EVENT_READ)
        due = time.perf_counter()
        server, own, began = cpu_of(pid), time.process_time(), due
        for i in range(count):
            due += 0.005
            time.sleep(max(0.0, due - time.perf_counter()))
            start = time.perf_counter()
            pair.push(1)
            while pair.got < frame * (i + 1):
                if not selector.select(_PATIENCE):
                    raise TimeoutError("a message did not come")
                _receive(pair, frame, 0)
            taken.append(time.perf_counter() - start)
        seconds, busy = time.perf_counter() - began, time.process_time() - own
        spent = cpu_of(pid).since(server).loop
    pair.check(argument)
    taken.sort()
    shares = {"server": spent / seconds, "load": busy / seconds}
    rows.add("one-way latency at 200 messages/s, p50", "ms", taken[count // 2] * 1e3, **shares)
    rows.add("one-way latency at 200 messages/s, p99", "ms", taken[count * 99 // 100] * 1e3, **shares)
