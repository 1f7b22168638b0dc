"""Records that come again, elsewhere, or behind and before others (protocol §5)."""

from __future__ import annotations

import os

from adversary.case import CLOSED, SESSION, Case, Outcome
from adversary.server_records import flipped, little, record, sealed
from adversary.server_world import TimedSocket, World, still_answers
from interop.base import need
from interop.calls import states, to
from interop.peer import RECORD, REPLY

__all__ = ["CASES"]


def replayed(world: World) -> Outcome:
    session = world.log_in("cid")
    data = record(session, verb="ping", argument=bytes(8))
    session.sock.sendall(data)
    need(session.receive() == (REPLY, 1, "pong", bytes(8)), "pong")
    session.sock.sendall(data)
    return world.ended(session)


def replayed_later(world: World) -> Outcome:
    """A record of an earlier session of the same user."""
    first = world.log_in("cid")
    data = record(first, verb="ping", argument=bytes(8))
    first.sock.sendall(data)
    need(first.receive() == (REPLY, 1, "pong", bytes(8)), "pong")
    world.log_off(first)
    session = world.log_in("cid")
    session.sock.sendall(data)
    return world.ended(session)


def of_another_user(world: World) -> Outcome:
    """The next record of dan's session in cid's."""
    other, session = world.log_in("dan"), world.log_in("cid")
    session.sock.sendall(sealed(other))
    return world.ended(session)


def reflected(world: World) -> Outcome:
    """The server's own record, of the same counter as the one that is due."""
    session = world.log_in("cid")
    still_answers(session)
    assert isinstance(session.sock, TimedSocket)
    answer = session.sock.came[-(5 + 32 + 256) :]
    need(answer[4] == RECORD and answer[5:21] == little(1) == little(session.counters["out"]), "the answer's counter")
    session.sock.sendall(answer)
    return world.ended(session)


def behind_a_good_one(world: World) -> Outcome:
    """A call and a bad record in one piece: the call counts, and ends with its caller."""
    session, other, invite = world.log_in("cid"), world.log_in("dan"), os.urandom(16)
    session.sock.sendall(record(session, verb="chat", argument=to("dan", invite)) + flipped(40)(session))
    seen = world.ended(session)
    need(other.event("reqt") == to("cid", invite) and other.event("cach") == invite, "the call and its end")
    need(states(other) == {"dan": 0, "onlooker": 0}, "nobody is called any more")
    return seen


def after_a_bad_one(world: World) -> Outcome:
    """Nothing behind a bad record is obeyed, not even a whole and right one."""
    session, other = world.log_in("cid"), world.log_in("dan")
    bad = flipped(40)(session)
    session.counters["out"] -= 1  # the counter that is due, if the bad one does not count
    session.sock.sendall(bad + record(session, verb="chat", argument=to("dan", bytes(16))))
    seen = world.ended(session)
    still_answers(other)
    need(not other.events, "the call behind the bad record rang")
    return seen


def at_any_padding(world: World) -> Outcome:
    """Lengths that no sender of ours makes are taken, down to no zeros at all and up to the frame's limit."""
    session = world.log_in("cid")
    for size in (18, 19, 255, 257, 300, 4097, 131_072 - 33):
        need(session.ask("ping", bytes(8), size) == ("pong", bytes(8)), f"padded to {size}")
    return SESSION


CASES: tuple[Case[World], ...] = (
    Case("records/replayed", "record-replayed", replayed, CLOSED),
    Case("records/replayed-in-a-new-session", "record-replayed", replayed_later, CLOSED),
    Case("records/of-another-user", "record-reflected", of_another_user, CLOSED),
    Case("records/reflected", "record-reflected", reflected, CLOSED),
    Case("records/behind-a-good-one", "record-flipped", behind_a_good_one, CLOSED),
    Case("records/nothing-after-a-bad-one", "record-flipped", after_a_bad_one, CLOSED),
    Case("records/any-padding", "record-pad", at_any_padding, SESSION),
)
