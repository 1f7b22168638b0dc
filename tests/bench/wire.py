"""Clients of the load generator: the real protocol on plain sockets, with as little else as possible."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from messageapp.wire.commands import Argument, Call, make, parse_untrusted
from messageapp.wire.connection import Connection
from messageapp.wire.frames import FrameType
from messageapp.wire.login import ClientLogin
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_keys.kem import Suite

from .world import Identities, authority

__all__ = ["Dialler", "Session", "start_chat"]

_PATIENCE = 20.0
_READ = 1 << 18


@dataclass(slots=True)
class Session:
    """A logged-in connection. `ask` and `next` block; a measurement takes `sock` for itself."""

    user: str
    sock: socket.socket
    connection: Connection
    number: int = 0

    def seal(self, record: Record) -> bytes:
        return self.connection.send_record(record, 0.0)

    def send(self, verb: str, argument: Argument) -> int:
        self.number += 1
        self.sock.settimeout(_PATIENCE)
        self.sock.sendall(self.seal(make(Kind.REQUEST, self.number, verb, argument)))
        return self.number

    def next(self) -> Record:
        while (record := self.connection.next_record()) is None:
            self.sock.settimeout(_PATIENCE)
            data = self.sock.recv(_READ)
            if not data:
                raise ConnectionError(f"the server closed the connection of {self.user}")
            self.connection.receive_data(data)
        return record

    def ask(self, verb: str, argument: Argument, wanted: str) -> Any:
        self.send(verb, argument)
        return self.expect(wanted)

    def expect(self, wanted: str) -> Any:
        record = self.next()
        if record.verb.decode() != wanted:
            raise RuntimeError(f"{record.verb!r} {record.argument[:40]!r} came where {wanted} was to come")
        return parse_untrusted(Role.SERVER, record)

    def close(self) -> None:
        self.sock.close()


def start_chat(a: Session, b: Session, invite: bytes) -> None:
    """`b` accepts a call of `a`; afterwards `frwd` goes between them."""
    a.ask("chat", Call(b.user, invite), "reqt")
    b.expect("reqt")
    b.ask("acpt", Call(a.user, invite), "pubk")
    a.expect("pubk")


@dataclass(slots=True)
class _Attempt:
    user: str
    login: ClientLogin
    connection: Connection
    sock: socket.socket


class Dialler:
    """Logs users in, several at a time."""

    def __init__(self, home: Path, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._authority = authority(home)
        self._identities = Identities(home)
        self.cpu = 0.0  # our own processor seconds in the last `log_in`, from the first connect to the last M4

    def _prepare(self, user: str, suite: Suite) -> tuple[str, ClientLogin, bytes]:
        login = ClientLogin(
            username=user,
            identity=self._identities.of(user),
            authority=self._authority,
            server=self._address[0],
            suites=[suite],
            random=os.urandom,
            device=user.encode().ljust(16, b"\0")[:16],
        )
        return user, login, login.start()

    def log_in(self, users: Sequence[str], suite: Suite, at_once: int) -> tuple[list[Session], float]:
        """(sessions, seconds from the first connect to the last M4). Raises for any login that fails."""
        waiting = [self._prepare(user, suite) for user in reversed(users)]
        done: list[Session] = []
        began, own = time.perf_counter(), time.process_time()
        with selectors.DefaultSelector() as selector:
            for _ in range(min(at_once, len(waiting))):
                self._begin(selector, *waiting.pop())
            while selector.get_map():
                ready = selector.select(_PATIENCE)
                if not ready:
                    raise TimeoutError(f"no login came about for {_PATIENCE:.0f} s")
                for key, _ in ready:
                    session = _step(key.data, suite)
                    if session is not None:
                        selector.unregister(key.fileobj)
                        done.append(session)
                        if waiting:
                            self._begin(selector, *waiting.pop())
            seconds, self.cpu = time.perf_counter() - began, time.process_time() - own
        return done, seconds

    def _begin(self, selector: selectors.BaseSelector, user: str, login: ClientLogin, m1: bytes) -> None:
        sock = socket.create_connection(self._address, _PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt = _Attempt(user, login, Connection(Role.CLIENT), sock)
        sock.sendall(attempt.connection.send_frame(FrameType.M1, m1))
        selector.register(sock, selectors.EVENT_READ, attempt)


def _step(attempt: _Attempt, suite: Suite) -> Session | None:
    data = attempt.sock.recv(_READ)
    if not data:
        raise ConnectionError("the server closed the connection during a login")
    connection = attempt.connection
    connection.receive_data(data)
    frame = connection.next_frame()
    if frame is None:
        return None
    if frame.type is FrameType.M2:
        m3 = attempt.login.receive_m2_untrusted(frame, datetime.now(UTC))
        attempt.sock.sendall(connection.send_frame(FrameType.M3, m3))
        return None
    if frame.type is not FrameType.M4:
        raise RuntimeError(f"the login of {attempt.user} ended with {frame.type.name} {frame.body.hex()}")
    result = attempt.login.receive_m4_untrusted(frame)
    if result.suite is not suite:
        raise RuntimeError(f"the server took {result.suite.name}")
    connection.start_session(result.sealer, result.opener, 0.0)
    return Session(attempt.user, attempt.sock, connection)
