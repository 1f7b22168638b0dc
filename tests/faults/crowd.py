"""Honest people by the dozen or the thousand: keys, logins from any loopback address, chats of bare records."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from bench.wire import Session, start_chat
from messageapp.store.users import add_user, writing_users
from messageapp.wire.commands import Raw
from messageapp.wire.connection import Connection
from messageapp.wire.frames import Frame, FrameType
from messageapp.wire.login import ClientLogin
from messageapp.wire.states import Role
from messageapp_keys.certificate import load_certificate_untrusted
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import SWIFT
from support.processes import Site

from .figures import descriptors, eventually

__all__ = ["Crowd", "number_of", "said"]

_PATIENCE = 20.0
_READ = 1 << 18
_STILL = 10  # looks at the number of descriptors, each the same


class Crowd:
    """`count` enrolled users `p0`, `p1` … of a site. `log_in` raises where the server does not let one in."""

    def __init__(self, site: Site, count: int, prefix: str = "p") -> None:
        self._site = site
        self._prefix = prefix
        self._keys = [PrivateIdentity.generate("ed25519") for _ in range(count)]
        self._authority = load_certificate_untrusted(site.home.ca_certificate.read_bytes())

        def enrol(database: sqlite3.Connection) -> None:
            with writing_users(database):  # a lock first: the new server may write too
                for number, keys in enumerate(self._keys):
                    add_user(database, f"{prefix}{number}", keys.bundle, 0)

        site.tell_directory(enrol)

    def login(self, number: int) -> ClientLogin:
        return ClientLogin(
            username=f"{self._prefix}{number}",
            identity=self._keys[number],
            authority=self._authority,
            server="127.0.0.1",
            suites=[SWIFT],
            random=os.urandom,
            device=number.to_bytes(16, "big"),
        )

    def m1(self) -> bytes:
        """A whole M1 frame of somebody; nobody has its answer."""
        return self.login(0).start()

    def log_in(self, number: int, address: str = "127.0.0.1", receive_buffer: int = 0) -> Session:
        login, connection = self.login(number), Connection(Role.CLIENT)
        sock = socket.socket()
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.bind((address, 0))
            sock.settimeout(_PATIENCE)
            sock.connect(("127.0.0.1", self._site.port))
            sock.sendall(connection.send_frame(FrameType.M1, login.start()))
            m3 = login.receive_m2_untrusted(_frame(sock, connection, FrameType.M2), datetime.now(UTC))
            sock.sendall(connection.send_frame(FrameType.M3, m3))
            done = login.receive_m4_untrusted(_frame(sock, connection, FrameType.M4))
        except BaseException:
            sock.close()
            raise
        connection.start_session(done.sealer, done.opener, 0.0)
        return Session(f"{self._prefix}{number}", sock, connection)

    def timed(self, number: int, address: str = "127.0.0.1") -> float:
        """Seconds of a login, from the connection to M4; it logs out at once."""
        began = time.perf_counter()
        session = self.log_in(number, address)
        seconds = time.perf_counter() - began
        session.close()
        return seconds

    def at_rest(self) -> int:
        """How many descriptors the server has when nobody is there, and all its own are open: after a first login."""
        server = self._site.server
        assert server is not None
        self.timed(0)
        server.until_err(lambda log: log.count(" logged in (") == log.count(" closed"))
        counts = [0]

        def stands_still() -> bool:
            counts.append(descriptors(server.process.pid))
            return len(counts) > _STILL and len(set(counts[-_STILL:])) == 1

        eventually("the first one has gone", stands_still)
        return counts[-1]

    @contextmanager
    def chat(self, one: int, other: int, address: str = "127.0.0.1") -> Iterator[tuple[Session, Session]]:
        """Two of them, the server's relay between them."""
        a, b = self.log_in(one, address), self.log_in(other, address)
        try:
            start_chat(a, b, os.urandom(16))
            yield a, b
        finally:
            a.close()
            b.close()


def _frame(sock: socket.socket, connection: Connection, wanted: FrameType) -> Frame:
    while (frame := connection.next_frame()) is None:
        data = sock.recv(_READ)
        if not data:
            raise ConnectionError("the server closed the connection during a login")
        connection.receive_data(data)
    if frame.type is not wanted:
        raise ConnectionError(f"{frame.type.name} {frame.body.hex()} where {wanted.name} was to come")
    return frame


def said(number: int, size: int = 100) -> Raw:
    """The argument of a `frwd` with that number in it."""
    return Raw(b"\x05" + number.to_bytes(8, "big") + bytes(size))


def number_of(argument: bytes) -> int:
    return int.from_bytes(argument[1:9], "big")
