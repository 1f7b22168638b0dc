"""Requests in the wrong state, and in the calls and chats of others (protocol §6.2 to §6.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from adversary.case import Case, Outcome, erro
from adversary.server_world import World, after_request, still_answers
from interop.base import need, tlv
from interop.calls import bind, ring, states, to
from interop.peer import Session

__all__ = ["CASES", "LONGEST", "Do", "untouched"]

Do = Callable[[World], Outcome]
LONGEST = b"\5" + bytes(129_013)


class Three(NamedTuple):
    """ann has called dan, or talks with him; cid is the one who misbehaves."""

    ann: Session
    dan: Session
    cid: Session
    invite: bytes


def alone(verb: str, argument: bytes = b"x") -> Do:
    """In no call and no chat."""
    return lambda world: after_request(world, world.log_in("cid"), verb, argument)


def untouched(world: World, sessions: tuple[Session, ...], before: dict[str, int]) -> None:
    """Nobody's state changed and nobody was told anything."""
    need(states(world.onlooker) == before, "states of the others")
    for session in sessions:
        still_answers(session)
        need(not session.events, f"{session.user.decode()} was told {session.events}")


def _meanwhile(
    begin: Callable[[Session, Session], bytes],
    goes_on: Callable[[Three], None],
    verb: str,
    argument: Callable[[Three], bytes],
    who: str,
) -> Do:
    """Between ann and dan something has begun, `who` asks, and it goes on."""

    def do(world: World) -> Outcome:
        ann, dan, cid = (world.log_in(name) for name in ("ann", "dan", "cid"))
        three = Three(ann, dan, cid, begin(ann, dan))
        before = states(world.onlooker)
        asker: Session = getattr(three, who)
        seen = after_request(world, asker, verb, argument(three))
        untouched(world, (ann, dan, cid), before)
        goes_on(three)
        return seen

    return do


def _can_be_taken(three: Three) -> None:
    need(three.dan.ask("acpt", to("ann", three.invite))[0] == "pubk", "dan takes the call")
    three.ann.event("pubk")


def _can_be_talked_in(three: Three) -> None:
    three.ann.relay(5, b"go on")
    need(three.dan.event("frwd") == b"\5go on", "the chat goes on")


def calling(verb: str, argument: Callable[[Three], bytes], who: str = "cid") -> Do:
    """While ann's call rings at dan, `who` asks; the call rings on, and dan can still take it."""
    return _meanwhile(ring, _can_be_taken, verb, argument, who)


def talking(verb: str, argument: Callable[[Three], bytes], who: str = "cid") -> Do:
    """While ann and dan talk, `who` asks; the chat goes on."""
    return _meanwhile(bind, _can_be_talked_in, verb, argument, who)


def from_another_session(verb: str, argument: bytes = b"x") -> Do:
    """While ann and dan talk, another session of ann asks for what belongs to the one that talks."""

    def do(world: World) -> Outcome:
        ann, dan = world.log_in("ann", tlvs=tlv(1, b"a" * 16)), world.log_in("dan")
        other = world.log_in("ann", tlvs=tlv(1, b"b" * 16))
        bind(ann, dan)
        before = states(world.onlooker)
        seen = after_request(world, other, verb, argument)
        untouched(world, (ann, dan, other), before)
        dan.relay(5, b"go on")
        need(ann.event("frwd") == b"\5go on" and not other.events, "the chat goes on where it was")
        return seen

    return do


def other_invite(name: str) -> Callable[[Three], bytes]:
    return lambda three: to(name, bytes(15) + bytes([three.invite[15] ^ 1]))


def right_invite(name: str) -> Callable[[Three], bytes]:
    return lambda three: to(name, three.invite)


def just(argument: bytes) -> Callable[[Three], bytes]:
    return lambda _: argument


NOT_NOW = erro(3)

CASES: tuple[Case[World], ...] = (
    *(
        Case(f"calls/{verb}-alone", "command-state", alone(verb, argument), NOT_NOW)
        for verb, argument in (
            ("frwd", b"\5text"), ("exch", b"x"), ("acpt", to("dan", bytes(16))),
            ("refu", to("dan", bytes(16))), ("cach", bytes(16)),
        )
    ),
    Case("calls/frwd-empty-alone", "command-state", alone("frwd", b""), NOT_NOW),
    Case("calls/frwd-longest-alone", "command-state", alone("frwd", LONGEST), NOT_NOW),
    # while a call rings
    *(
        Case(f"calls/{who}-{verb}-while-ringing", "command-state", calling(verb, argument, who), NOT_NOW)
        for who, verb, argument in (
            ("ann", "frwd", just(b"\5early")),
            ("dan", "frwd", just(b"\5early")),
            ("ann", "exch", just(b"x")),
            ("dan", "exch", just(b"x")),
            ("ann", "chat", right_invite("cid")),
            ("ann", "acpt", right_invite("dan")),
            ("dan", "chat", right_invite("cid")),
            ("dan", "cach", lambda three: three.invite),
        )
    ),
    Case("calls/acpt-of-ones-own-call", "command-state", calling("acpt", right_invite("ann"), "ann"), NOT_NOW),
    Case("calls/refu-of-ones-own-call", "command-state", calling("refu", right_invite("dan"), "ann"), NOT_NOW),
    *(
        Case(f"calls/{verb}-other-{what}", "command-other-call", calling(verb, argument, who), NOT_NOW)
        for verb, what, who, argument in (
            ("acpt", "invite", "dan", other_invite("ann")),
            ("acpt", "name", "dan", right_invite("cid")),
            ("acpt", "spelling", "dan", right_invite("Ann")),
            ("acpt", "name-oneself", "dan", right_invite("dan")),
            ("refu", "invite", "dan", other_invite("ann")),
            ("refu", "name", "dan", right_invite("cid")),
            ("cach", "invite", "ann", just(bytes(16))),
        )
    ),
    *(
        Case(f"calls/third-{verb}-while-ringing", "command-third", calling(verb, argument), NOT_NOW)
        for verb, argument in (
            ("acpt", right_invite("ann")),
            ("refu", right_invite("ann")),
            ("cach", lambda three: three.invite),
            ("exch", just(b"x")),
            ("frwd", just(b"\5text")),
        )
    ),
    # while two talk
    *(
        Case(f"calls/third-{verb}-while-talking", "command-third", talking(verb, argument), NOT_NOW)
        for verb, argument in (
            ("frwd", just(b"\5text")),
            ("exch", just(b"x")),
            ("acpt", right_invite("ann")),
            ("refu", right_invite("dan")),
            ("cach", lambda three: three.invite),
        )
    ),
    *(
        Case(f"calls/{who}-{verb}-while-talking", "command-state", talking(verb, argument, who), NOT_NOW)
        for who, verb, argument in (
            ("ann", "chat", right_invite("cid")),
            ("dan", "chat", right_invite("ann")),
            ("dan", "acpt", right_invite("ann")),
            ("dan", "refu", right_invite("ann")),
            ("ann", "cach", lambda three: three.invite),
        )
    ),
    *(
        Case(f"calls/second-session-{verb}", "command-third", from_another_session(verb, argument), NOT_NOW)
        for verb, argument in (("frwd", b"\5text"), ("exch", b"x"), ("cach", bytes(16)), ("chat", to("dan", bytes(16))))
    ),
)  # fmt: skip
