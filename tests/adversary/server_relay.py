"""Users who misbehave within a chat: what reaches the peer, and how the chat ends (protocol §6.2, §6.3)."""

from __future__ import annotations

from collections.abc import Callable

from adversary.case import CLOSED, SESSION, Case, Outcome, erro
from adversary.server_calls import LONGEST, Do, untouched
from adversary.server_world import World, after_request
from interop.base import need, u
from interop.calls import bind, states
from interop.calls import erro as read_erro
from interop.peer import EVENT, RECORD, REPLY, REQUEST, Session, frame

__all__ = ["CASES"]


def relayed(body: bytes) -> Do:
    """Whatever is in it: the peer gets exactly these bytes, nobody else anything."""

    def do(world: World) -> Outcome:
        cid, dan, ann = (world.log_in(name) for name in ("cid", "dan", "ann"))
        bind(cid, dan)
        cid.send(REQUEST, 7, "frwd", body)
        need(dan.event("frwd") == body, "the same bytes")
        untouched(world, (cid, dan, ann), {"ann": 0, "cid": 2, "dan": 2, "onlooker": 0})
        return SESSION

    return do


def breaks_in_chat(make: Callable[[Session], bytes]) -> Do:
    """cid breaks the protocol within a chat: he is gone, and dan is told and goes on."""

    def do(world: World) -> Outcome:
        cid, dan = world.log_in("cid"), world.log_in("dan")
        bind(cid, dan)
        cid.sock.sendall(make(cid))
        seen = world.ended(cid)
        need(dan.event("exch") == b"\1", "the peer is told")
        untouched(world, (dan,), {"dan": 0, "onlooker": 0})
        return seen

    return do


def bad_record(session: Session) -> bytes:
    return frame(RECORD, session.seal(bytes(256)))


def forbidden_event(session: Session) -> bytes:
    return frame(RECORD, session.record(EVENT, 0, "frwd", b"\5text"))


def reply_frwd(session: Session) -> bytes:
    return frame(RECORD, session.record(REPLY, 1, "frwd", b"\5text"))


def after_leaving(world: World) -> Outcome:
    """What follows `exch` in the same piece does not reach the peer."""
    cid, dan = world.log_in("cid"), world.log_in("dan")
    bind(cid, dan)
    cid.sock.sendall(
        frame(RECORD, cid.record(REQUEST, 8, "exch")) + frame(RECORD, cid.record(REQUEST, 9, "frwd", b"\5late"))
    )
    need(cid.receive() == (REPLY, 8, "okay", b""), "okay to exch")
    kind, number, verb, value = cid.receive()
    need((kind, number) == (REPLY, 9) and dan.event("exch") == b"\0", "exch")
    untouched(world, (cid, dan), {"cid": 0, "dan": 0, "onlooker": 0})
    return erro(read_erro((verb, value))[0])


def after_the_peer_left(world: World) -> Outcome:
    cid, dan, ann = (world.log_in(name) for name in ("cid", "dan", "ann"))
    bind(cid, dan)
    need(dan.ask("exch") == ("okay", b"") and cid.event("exch") == b"\0", "exch")
    bind(dan, ann)
    before = states(world.onlooker)
    seen = after_request(world, cid, "frwd", b"\5into the next chat")
    untouched(world, (cid, dan, ann), before)
    return seen


def cut_in_a_chat(world: World) -> Outcome:
    """A peer who vanishes in the middle of a record: the other is told, nothing of the half record arrives."""
    cid, dan = world.log_in("cid"), world.log_in("dan")
    bind(cid, dan)
    cid.sock.sendall(frame(RECORD, cid.record(REQUEST, 1, "frwd", LONGEST))[:100_000])
    world.open.remove(cid)
    cid.close()
    need(dan.event("exch") == b"\1", "the peer is told")
    untouched(world, (dan,), {"dan": 0, "onlooker": 0})
    return SESSION


CASES: tuple[Case[World], ...] = (
    *(
        Case(f"relay/{what}", "command-in-chat", relayed(body), SESSION)
        for what, body in (("empty", b""), ("unknown-type", b"\xff" + bytes(99)), ("pad-bytes", b"\x80" * 300),
                           ("zeros", bytes(1000)), ("longest", LONGEST), ("a-whole-record", frame(RECORD, bytes(300))))
    ),
    Case("relay/bad-record-in-chat", "command-in-chat", breaks_in_chat(bad_record), CLOSED),
    Case("relay/event-frwd-in-chat", "command-kind", breaks_in_chat(forbidden_event), CLOSED),
    Case("relay/reply-frwd-in-chat", "command-kind", breaks_in_chat(reply_frwd), CLOSED),
    Case("relay/oversized-in-chat", "command-in-chat", breaks_in_chat(lambda _: u(131_073, 4)), CLOSED),
    Case("relay/cut-in-chat", "command-in-chat", cut_in_a_chat, SESSION),
    Case("relay/frwd-behind-exch", "command-state", after_leaving, erro(3)),
    Case("relay/frwd-into-the-next-chat", "command-third", after_the_peer_left, erro(3)),
)  # fmt: skip
