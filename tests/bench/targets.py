"""What a load can be sent through: our server, the bare relay, or nothing at all. And one measurement of one."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from messageapp.wire.commands import Raw, make
from messageapp.wire.records import Kind, padded_length
from messageapp_keys.kem import SWIFT

from .bare import READY, hello
from .generator import Result
from .proc import cpu_of, resident_kib
from .traffic import Carried, Lane, prepared
from .wire import Dialler, Session, start_chat

__all__ = ["Alone", "Bare", "Figures", "Ours", "Target", "check", "figures", "frame_size", "measure"]

_LOGINS_AT_ONCE = 8
_PATIENCE = 20.0
_NUMBER = 8


class Target(Protocol):
    """Pairs that are connected. `pid` is None where there is no server."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    def lanes(self, pairs: int, each: int, size: int) -> list[Lane]:
        """`each` messages with an argument of `size` bytes for each of the first `pairs` pairs."""

    def check(self, lane: int, received: bytes, sent: int) -> None:
        """The first `sent` messages of the last `lanes` came, once, in order, unchanged. `RuntimeError`."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One load through one target."""

    rate: float  # messages/s
    shares: dict[str, float | None]  # what a row says besides its value

    def figure(self, name: str) -> float:
        """`RuntimeError` where the target has no such figure."""
        found = self.shares[name]
        if found is None:
            raise RuntimeError(f"no figure {name}")
        return found


def measure(target: Target, generator: Path, *, pairs: int, each: int, size: int, load: str) -> Figures:
    """Carry `each` messages a pair and check every one. `RuntimeError` where one is lost, changed or out of order."""
    lanes = target.lanes(pairs, each, size)
    with prepared(generator, lanes, load) as carried:
        before = cpu_of(target.pid).loop if target.pid else 0.0
        result = carried.reins.go()
        spent = cpu_of(target.pid).loop - before if target.pid else 0.0
        check(target, carried, result)
    return figures(target.pid, result, spent)


def check(target: Target, carried: Carried, result: Result) -> None:
    """Every message that was sent came, once, in order, unchanged. `RuntimeError`."""
    if result.answers:
        raise RuntimeError(f"the senders were answered ({result.answers} bytes), so a queue was full")
    for lane, (sent, _, _) in enumerate(result.pairs):
        target.check(lane, carried.received(lane, result), sent)


def figures(pid: int | None, result: Result, spent: float) -> Figures:
    server = {"server": None, "cpu": None, "rss": None} if pid is None else _of_server(pid, result, spent)
    shares = {"load": result.cpu / result.seconds, "p50": result.p50, "p99": result.p99, **server}
    return Figures(result.messages / result.seconds, shares)


def _of_server(pid: int, result: Result, spent: float) -> dict[str, float | None]:
    return {
        "server": spent / result.seconds,
        "cpu": spent / result.messages * 1e6,
        "rss": resident_kib(pid) / 1024,
    }


class Ours:
    """Our server, with sealed records. Arguments are numbered, so that order is seen above the record layer too."""

    def __init__(self, name: str, home: Path, port: int, pid: int, pairs: int, first: int = 0) -> None:
        """The pairs are made of the users from `user{first}` on."""
        self.name, self.pid = name, pid
        self.dialler = Dialler(home, port)
        users = [f"user{first + i}" for i in range(2 * pairs)]
        sessions, _ = self.dialler.log_in(users, SWIFT, _LOGINS_AT_ONCE)
        sessions.sort(key=lambda session: int(session.user.removeprefix("user")))
        self._pairs = list(zip(sessions[::2], sessions[1::2], strict=True))
        for sender, receiver in self._pairs:
            start_chat(sender, receiver, os.urandom(16))
        self._filler = b""

    def lanes(self, pairs: int, each: int, size: int) -> list[Lane]:
        self._filler = os.urandom(size - _NUMBER)
        return [
            Lane(sender.sock, receiver.sock, [_sealed(sender, i, self._argument(i)) for i in range(each)])
            for sender, receiver in self._pairs[:pairs]
        ]

    def _argument(self, number: int) -> bytes:
        return number.to_bytes(_NUMBER, "big") + self._filler

    def check(self, lane: int, received: bytes, sent: int) -> None:
        """A key update among the records counted as a message in the generator; the last message is read here then."""
        session = self._pairs[lane][1]
        session.connection.receive_data(received)
        for number in range(sent):
            record = session.next()
            if record.verb != b"frwd" or record.argument != self._argument(number):
                what = "another message" if record.verb == b"frwd" else repr(record.verb)
                raise RuntimeError(f"{what} came where message {number} was to come")
        more = session.connection.next_record()
        if more is not None:
            raise RuntimeError(f"{more.verb!r} came after the last message")

    def close(self) -> None:
        for session in (session for pair in self._pairs for session in pair):
            session.close()


def _sealed(sender: Session, number: int, argument: bytes) -> bytes:
    return sender.seal(make(Kind.REQUEST, number + 1, "frwd", Raw(argument)))


class _Plain:
    """Frames that arrive as they were sent."""

    def __init__(self, name: str, pid: int | None) -> None:
        self.name, self.pid = name, pid
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self._sent, self._frame = b"", frame_size(0)

    def lanes(self, pairs: int, each: int, size: int) -> list[Lane]:
        body = frame_size(size) - 4
        filler = os.urandom(body - _NUMBER)
        messages = [body.to_bytes(4, "big") + i.to_bytes(_NUMBER, "big") + filler for i in range(each)]
        self._sent, self._frame = b"".join(messages), 4 + body
        return [Lane(*pair, messages) for pair in self.pairs[:pairs]]

    def check(self, lane: int, received: bytes, sent: int) -> None:
        if received != self._sent[: sent * self._frame]:
            raise RuntimeError(f"other bytes came ({len(received)}) than were sent ({sent * self._frame})")

    def close(self) -> None:
        for sock in (sock for pair in self.pairs for sock in pair):
            sock.close()


class Bare(_Plain):
    """The relay of `bare.py`, with frames as long as ours."""

    def __init__(self, name: str, port: int, pid: int, pairs: int) -> None:
        super().__init__(name, pid)
        for i in range(pairs):
            receiver, sender = (self._join(port, role, i) for role in (b"R", b"S"))
            self.pairs.append((sender, receiver))

    @staticmethod
    def _join(port: int, role: bytes, pair: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(hello(role, pair))
        if sock.recv(len(READY), socket.MSG_WAITALL) != READY:
            raise RuntimeError("the bare relay does not answer")
        return sock


class Alone(_Plain):
    """No server: the generator's senders are connected with its receivers, so its own limit is seen."""

    def __init__(self, name: str, pairs: int) -> None:
        super().__init__(name, None)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(pairs):
                sender = socket.create_connection(listener.getsockname(), _PATIENCE)
                sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                receiver, _ = listener.accept()
                self.pairs.append((sender, receiver))


def frame_size(argument: int) -> int:
    """Whole length of a sealed `frwd` record, with padding."""
    return 4 + 1 + 32 + padded_length(1 + 4 + 4 + argument + 1)
