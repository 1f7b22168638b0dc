"""The real server, its users, and what an onlooker sees: the world in which a case against the server takes place."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from adversary.case import CLOSED, DEADLINE, SESSION, Outcome, Seen
from adversary.case import erro as refused
from interop.base import HYBRID, SWIFT, Identity, need
from interop.calls import erro, secure, states, talk
from interop.peer import ALERT, WAIT, Alert, Closed, Login, Session, log_in_on, read_exactly
from interop.programs import RealServer

__all__ = ["STRICT", "TimedSocket", "World", "after_login", "after_request", "answer_on", "make_people"]

KINDS = {
    "ann": ("rsa2048",),
    "bea": ("ed25519",),  # honest whenever a case is over
    "cid": ("ed25519",),
    "dan": ("rsa2048", "mldsa65"),
    "eve": ("ed25519",),  # never online
    "onlooker": ("ed25519",),
}
STRICT = {"m1_seconds": 0.8, "handshake_seconds": 1.5, "commands_per_second": 1, "commands_burst": 40,
          "chats_per_minute": 2, "queue_frames": 4}  # fmt: skip
LOGGED = re.compile(
    rb"messageapp: (made a .*|\S+Z #\d+ "
    rb"(logged in \((hybrid|swift|classic)\)|no login|broke the protocol|closed|uses the classic suite: .*))\n"
)
"""All that a server may say of these cases: connection numbers, no names, nothing that a stranger sent."""


class TimedSocket(socket.socket):
    """Every wait ends when the case's time is over. `came` keeps what came, for whoever wants to send it back."""

    def __init__(self, world: World) -> None:
        super().__init__(socket.AF_INET)
        self.world, self.came = world, b""

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.settimeout(self.world.left())
        data = super().recv(size, flags)
        self.came += data
        return data

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        self.settimeout(self.world.left())
        super().sendall(data, flags)


class World:
    """One server for many cases, each within `case()`."""

    def __init__(self, server: RealServer, people: dict[str, Identity]) -> None:
        self.server, self.people = server, people
        self.open: list[Session] = []  # of the case, and still logged in
        self.until = 0.0
        self.read = 0  # of what the server logged

    @contextmanager
    def watched(self) -> Iterator[None]:
        """An onlooker is there, and what is stored stays as it is."""
        stored = self.stored()
        with ExitStack() as self.sockets:
            self.onlooker = self.log_in("onlooker")
            yield
        need(self.stored() == stored, "the directory changed")

    @contextmanager
    def case(self) -> Iterator[None]:
        """Everybody else's world stays what it was, and an honest user logs in and asks."""
        self.clock(WAIT)
        before = states(self.onlooker)
        with ExitStack() as self.sockets:
            self.open = []
            self.clock()
            yield
            for session in list(self.open):
                self.log_off(session)
            need(before == {"onlooker": 0}, f"before the case there was {before}")
            honest = self.log_in("bea")
            self.clock(WAIT)
            need(states(honest) == {**before, "bea": 0}, "what an honest user sees")
            self.log_off(honest)
        need(states(self.onlooker) == before, "what the onlooker sees")
        need(not self.onlooker.events, f"the onlooker was told {self.onlooker.events}")
        self.check_log()

    def check_log(self) -> None:
        logged = os.pread(self.server.errors.fileno(), 100_000, self.read)
        whole = logged[: logged.rfind(b"\n") + 1]  # the last line may be seen while it is being written
        self.read += len(whole)
        for line in whole.splitlines(keepends=True):
            need(LOGGED.fullmatch(line) is not None, f"the server logged {line!r}")

    def stored(self) -> list[tuple[object, ...]]:
        """The server's directory."""
        file = self.server.home / "server" / "directory.db"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            return database.execute("SELECT * FROM users ORDER BY folded").fetchall()

    def clock(self, seconds: float = DEADLINE) -> None:
        """The case has so many seconds from now."""
        self.until = time.monotonic() + seconds

    def left(self) -> float:
        left = self.until - time.monotonic()
        need(left > 0, "the time of the case is over")
        return left

    def connect(self, receive_buffer: int = 0) -> TimedSocket:
        sock = self.sockets.enter_context(TimedSocket(self))
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(self.left())
        sock.connect(("127.0.0.1", self.server.port))
        return sock

    def login(self, who: str | Identity, **choices: object) -> Login:
        """Swift unless the case says otherwise: it costs least and waits for no RSA key."""
        person = self.people[who] if isinstance(who, str) else who
        return Login(person, self.server.ca, **{"suites": (SWIFT,), **choices})  # type: ignore[arg-type]

    def log_in(self, who: str | Identity, receive_buffer: int = 0, **choices: object) -> Session:
        """A whole login. The time of the case begins anew behind it: it prepares what is then broken."""
        self.clock(WAIT)
        session = log_in_on(self.connect(receive_buffer), self.login(who, **choices))
        self.open.append(session)
        self.clock()
        return session

    def log_off(self, session: Session) -> None:
        """`exit`; returns when the server has forgotten the session."""
        need(session.ask("exit") == ("byee", b"\0"), "byee to exit")
        need(self.ended(session) == CLOSED, "the end after byee")

    def ended(self, session: Session) -> Outcome:
        """CLOSED if the server has ended it without a word."""
        outcome = answer_on(session.sock)
        self.open.remove(session)
        session.close()
        return outcome

    def honest_chat(self) -> None:
        """Two honest users talk, end to end, through the same server."""
        with ExitStack() as self.sockets:
            a, b = self.log_in("ann", suites=(HYBRID, SWIFT)), self.log_in("bea")
            self.clock(WAIT)
            talk(a, b, secure(a, b, self.people["ann"], self.people["bea"]))
            need(a.ask("exch") == ("okay", b"") and b.event("exch") == b"\0", "the end of an honest chat")
            self.log_off(a)
            self.log_off(b)


# ---- what a case saw


def answer_on(sock: socket.socket) -> Outcome:
    """ALERT and the end, or the end without a word; anything else is a failure."""
    try:
        head = read_exactly(sock, 5)
    except Closed as end:
        need("after 0" in str(end), "half a frame before the end")
        return CLOSED
    size = int.from_bytes(head[:4], "big")
    need(head[4] == ALERT and size in (2, 4), f"a frame {head.hex()} instead of an ALERT")
    return alert_and_end(sock, Alert(read_exactly(sock, size - 1)))


def alert_and_end(sock: socket.socket, alert: Alert) -> Outcome:
    need(answer_on(sock) == CLOSED, "something came after the ALERT")
    return Outcome(Seen.ALERT, alert.code, alert.retry)


def after_login(world: World, who: str | Identity, **choices: object) -> Outcome:
    """What a login leads to. A whole one is SESSION."""
    how = world.login(who, **choices)
    encapsulating = how.encapsulating

    def in_time(suite: int, temp_pub: bytes) -> tuple[bytes, bytes]:
        world.clock()  # before M2 the server may have made an RSA key, which is no part of the case
        return encapsulating(suite, temp_pub)

    how.encapsulating = in_time
    world.clock(3 * WAIT)
    sock = world.connect()
    try:
        world.open.append(log_in_on(sock, how))
    except Alert as alert:
        return alert_and_end(sock, alert)
    except Closed:
        return CLOSED
    return SESSION


def after_request(world: World, session: Session, verb: str, argument: bytes = b"x") -> Outcome:
    """`erro` with its code, or another reply, if the session then still answers."""
    answer = session.ask(verb, argument)
    outcome = refused(erro(answer)[0]) if answer[0] == "erro" else Outcome(Seen.SESSION, detail=answer[0])
    still_answers(session)
    return outcome


def still_answers(session: Session) -> None:
    echo = os.urandom(8)
    need(session.ask("ping", echo) == ("pong", echo), "pong")


def make_people() -> dict[str, Identity]:
    return {name: Identity.make(name, *kinds) for name, kinds in KINDS.items()}
