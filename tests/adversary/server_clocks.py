"""Too slow, too many, too much: against a server with short clocks and low rates (protocol §7.2, §7.3)."""

from __future__ import annotations

import os
import select
import socket

from adversary.case import ALERT_4, SESSION, Case, Outcome, erro
from adversary.server_m1 import m1
from adversary.server_world import TimedSocket, World, answer_on, still_answers
from interop.base import need
from interop.calls import bind, states, to
from interop.calls import erro as read_erro
from interop.peer import M1, M2, M3, RECORD, REPLY, REQUEST, frame, read_frame

__all__ = ["CASES"]


def drips(world: World, sock: TimedSocket, data: bytes) -> Outcome:
    """One byte after another, each long before the last is due, until the server has had enough."""
    for byte in data:
        if select.select([sock], [], [], 0.05)[0]:
            break
        sock.sendall(bytes([byte]))
    return answer_on(sock)


def nothing(world: World) -> Outcome:
    return answer_on(world.connect())


def slow_m1(world: World) -> Outcome:
    return drips(world, world.connect(), frame(M1, m1()))


def half_m1(world: World) -> Outcome:
    sock = world.connect()
    sock.sendall(frame(M1, m1())[:40])
    return answer_on(sock)


def three_bytes(world: World) -> Outcome:
    sock = world.connect()
    sock.sendall(frame(M1, m1())[:3])
    return answer_on(sock)


def waiting_for_m3(world: World, data: bytes) -> TimedSocket:
    sock = world.connect()
    sock.sendall(frame(M1, m1()))
    read_frame(sock, M2)
    sock.sendall(data)
    return sock


def no_m3(world: World) -> Outcome:
    return answer_on(waiting_for_m3(world, b""))


def half_m3(world: World) -> Outcome:
    return answer_on(waiting_for_m3(world, frame(M3, bytes(1500))[:700]))


def slow_m3(world: World) -> Outcome:
    return drips(world, waiting_for_m3(world, b""), frame(M3, bytes(1500)))


def no_close(world: World) -> Outcome:
    """Who does not close after an ALERT is closed for: a byte sent much later finds nobody."""
    sock = world.connect()
    sock.sendall(bytes(4))
    seen = answer_on(sock)
    while not select.select([], [], [sock], 0)[2]:  # the server lingers for a second
        try:
            sock.sendall(b"x")
        except ConnectionError:
            return seen
        world.left()
        select.select([], [], [], 0.05)
    return seen


def too_many_calls(world: World) -> Outcome:
    """The third call of a minute, for whomever; a new login buys none."""
    session = world.log_in("cid")
    codes = [read_erro(session.ask("chat", to("nobody", os.urandom(16))))[0] for _ in range(3)]
    need(codes == [10, 10, 4], f"codes {codes}")
    world.log_off(session)
    again, dan = world.log_in("cid"), world.log_in("dan")
    code, _ = read_erro(again.ask("chat", to("dan", os.urandom(16))))
    still_answers(dan)
    need(not dan.events, "a call above the rate rang")
    return erro(code)


def too_many_commands(world: World) -> Outcome:
    """Sixty at once of a user who may have forty; what only ends something still works."""
    session = world.log_in("dan")
    session.sock.sendall(b"".join(frame(RECORD, session.record(REQUEST, n, "help")) for n in range(60)))
    answers = [session.receive() for _ in range(60)]
    need([(kind, number) for kind, number, _, _ in answers] == [(REPLY, n) for n in range(60)], "one reply each")
    refused = [read_erro((verb, value))[0] for _, _, verb, value in answers if verb == "erro"]
    need(10 <= len(refused) <= 20 and set(refused) == {4}, f"{len(refused)} of 60 refused")
    still_answers(session)
    return erro(refused[0])


def reads_nothing(world: World) -> Outcome:
    """A peer who does not read: his partner is told which message was dropped, and the onlooker is still served."""
    bea, ann = world.log_in("bea", receive_buffer=4096), world.log_in("ann")
    bind(ann, bea)
    body, sent = b"\5" + os.urandom(100_000), 0
    while True:
        ann.send(REQUEST, 7000 + sent, "frwd", body)
        ann.send(REQUEST, 1, "ping", bytes(8))
        kind, number, verb, value = ann.receive()
        if verb == "erro":
            break
        sent += 1
    need((kind, number) == (REPLY, 7000 + sent), "the one that was dropped")
    need(ann.receive()[2] == "pong", "pong")
    need(states(world.onlooker) == {"ann": 2, "bea": 2, "onlooker": 0}, "others are served")
    for _ in range(sent):
        need(bea.event("frwd") == body, "what was not dropped comes whole")
    ann.relay(5, b"room again")
    need(bea.event("frwd") == b"\5room again", "room again")
    return erro(read_erro((verb, value))[0])


def split_anyhow(world: World) -> Outcome:
    """A whole session whose every byte comes alone is slow, not wrong."""
    session = world.log_in("ann")
    session.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in frame(RECORD, session.record(REQUEST, 1, "ping", bytes(8))):
        session.sock.sendall(bytes([byte]))
    need(session.receive() == (REPLY, 1, "pong", bytes(8)), "pong")
    return SESSION


CASES: tuple[Case[World], ...] = (
    Case("clocks/nothing", "m1-half", nothing, ALERT_4),
    Case("clocks/m1-byte-by-byte", "m1-slow", slow_m1, ALERT_4),
    Case("clocks/m1-half-then-silence", "m1-half", half_m1, ALERT_4),
    Case("clocks/m1-three-bytes-of-length", "m1-half", three_bytes, ALERT_4),
    Case("clocks/m3-never", "m3-turn", no_m3, ALERT_4),
    Case("clocks/m3-half-then-silence", "m3-turn", half_m3, ALERT_4),
    Case("clocks/m3-byte-by-byte", "m3-turn", slow_m3, ALERT_4),
    Case("clocks/stays-after-the-alert", "m1-length", no_close, ALERT_4),
    Case("clocks/record-byte-by-byte", "record-length", split_anyhow, SESSION),
    Case("clocks/too-many-calls", "command-rate", too_many_calls, erro(4)),
    Case("clocks/too-many-commands", "command-rate", too_many_commands, erro(4)),
    Case("clocks/reads-nothing", "command-slow-reader", reads_nothing, erro(12)),
)
