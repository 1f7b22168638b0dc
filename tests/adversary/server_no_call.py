"""Calls that cannot begin, and answers to calls that are over (protocol §6.3)."""

from __future__ import annotations

import os

from adversary.case import Case, Outcome, erro
from adversary.server_calls import Do, untouched
from adversary.server_world import World, after_request
from interop.base import need
from interop.calls import bind, ring, to
from interop.calls import erro as read_erro

__all__ = ["CASES"]

NOT_NOW, NOT_AVAILABLE = erro(3), erro(10)


# ---- nobody to be had


def calls(name: str) -> Do:
    """cid calls somebody who is not to be had, while ann talks with dan; all get one text."""

    def do(world: World) -> Outcome:
        ann, dan, cid = (world.log_in(who) for who in ("ann", "dan", "cid"))
        bind(ann, dan)
        nobody = read_erro(cid.ask("chat", to("nobody", os.urandom(16))))
        need(read_erro(cid.ask("chat", to(name, os.urandom(16)))) == nobody, "one text for all")
        untouched(world, (ann, dan, cid), {"ann": 2, "dan": 2, "cid": 0, "onlooker": 0})
        return erro(nobody[0])

    return do


def calls_who_rings(world: World) -> Outcome:
    """Neither who calls nor who is called can be called by a third, with the same text as nobody."""
    ann, dan, cid = (world.log_in(who) for who in ("ann", "dan", "cid"))
    nobody = read_erro(cid.ask("chat", to("nobody", os.urandom(16))))
    invite = ring(ann, dan)
    for name in ("ann", "dan"):
        need(read_erro(cid.ask("chat", to(name, invite))) == nobody, "one text for all")
    untouched(world, (ann, dan, cid), {"ann": 4, "dan": 1, "cid": 0, "onlooker": 0})
    return erro(nobody[0])


def glare_with_a_wrong_name(world: World) -> Outcome:
    """Called by dan, cid calls ann instead: that is no answer to dan."""
    ann, dan, cid = (world.log_in(name) for name in ("ann", "dan", "cid"))
    ring(dan, cid)
    seen = after_request(world, cid, "chat", to("ann", os.urandom(16)))
    untouched(world, (ann, dan, cid), {"ann": 0, "cid": 1, "dan": 4, "onlooker": 0})
    return seen


# ---- calls that are over


def after_cancel(verb: str) -> Do:
    def do(world: World) -> Outcome:
        cid, dan = world.log_in("cid"), world.log_in("dan")
        invite = ring(dan, cid)
        need(dan.ask("cach", invite) == ("okay", b"") and cid.event("cach") == invite, "cach")
        seen = after_request(world, cid, verb, to("dan", invite))
        untouched(world, (cid, dan), {"cid": 0, "dan": 0, "onlooker": 0})
        return seen

    return do


def after_refusal(world: World) -> Outcome:
    cid, dan = world.log_in("cid"), world.log_in("dan")
    invite = ring(dan, cid)
    need(cid.ask("refu", to("dan", invite)) == ("okay", b"") and dan.event("refu") == to("cid", invite), "refu")
    seen = after_request(world, cid, "acpt", to("dan", invite))
    untouched(world, (cid, dan), {"cid": 0, "dan": 0, "onlooker": 0})
    return seen


def accepts_twice(world: World) -> Outcome:
    cid, dan = world.log_in("cid"), world.log_in("dan")
    invite = bind(dan, cid)
    seen = after_request(world, cid, "acpt", to("dan", invite))
    untouched(world, (cid, dan), {"cid": 2, "dan": 2, "onlooker": 0})
    return seen


def old_invite(world: World) -> Outcome:
    """The invite of an earlier call does not answer a later one."""
    cid, dan = world.log_in("cid"), world.log_in("dan")
    old = ring(dan, cid)
    need(dan.ask("cach", old) == ("okay", b"") and cid.event("cach") == old, "cach")
    ring(dan, cid)
    seen = after_request(world, cid, "acpt", to("dan", old))
    untouched(world, (cid, dan), {"cid": 1, "dan": 4, "onlooker": 0})
    return seen


def same_invite_again(world: World) -> Outcome:
    """A caller may use an invite again; the server does not mix up the two calls."""
    cid, ann, dan = world.log_in("cid"), world.log_in("ann"), world.log_in("dan")
    invite = ring(cid, dan)
    need(cid.ask("cach", invite) == ("okay", b"") and dan.event("cach") == invite, "cach")
    need(cid.ask("chat", to("ann", invite)) == ("reqt", to("ann", invite)), "reqt")
    need(ann.event("reqt") == to("cid", invite), "the second call rings")
    seen = after_request(world, dan, "acpt", to("cid", invite))
    untouched(world, (cid, ann, dan), {"cid": 4, "ann": 1, "dan": 0, "onlooker": 0})
    return seen


CASES: tuple[Case[World], ...] = (
    *(
        Case(f"calls/chat-{what}", "command-unavailable", calls(name), NOT_AVAILABLE)
        for what, name in (("nobody", "Nobody"), ("offline", "eve"), ("oneself", "cid"), ("talking", "ann"),
                           ("other-spelling", "ANN"))
    ),
    Case("calls/chat-ringing", "command-unavailable", calls_who_rings, NOT_AVAILABLE),
    Case("calls/acpt-canceled", "command-other-call", after_cancel("acpt"), NOT_NOW),
    Case("calls/refu-canceled", "command-other-call", after_cancel("refu"), NOT_NOW),
    Case("calls/acpt-refused", "command-other-call", after_refusal, NOT_NOW),
    Case("calls/acpt-twice", "command-other-call", accepts_twice, NOT_NOW),
    Case("calls/acpt-earlier-invite", "command-other-call", old_invite, NOT_NOW),
    Case("calls/acpt-same-invite-elsewhere", "command-other-call", same_invite_again, NOT_NOW),
    Case("calls/chat-another-while-called", "command-state", glare_with_a_wrong_name, NOT_NOW),
)  # fmt: skip
