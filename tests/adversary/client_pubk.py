"""`pubk` for no call, for another one, with keys that nobody may have, with another key than the pinned one (§6)."""

from __future__ import annotations

import os
from collections.abc import Callable

from adversary.case import Case, Outcome, Seen
from adversary.client_temporary import rsa_spki
from adversary.client_world import Stage
from interop.base import DER, ED25519, MLDSA65, PSS, Identity, new_private, u, vec
from interop.base import SPKI as PUBLIC
from interop.desk import Desk, to
from interop.peer import REPLY
from interop.programs import Program

__all__ = ["CASES", "Run", "case", "pubk"]

Run = Callable[[Program, Desk], None]
_STRANGER = "error: the server connects us with someone who was not called"
_KEY = "error: a peer's key has not the form of one"


def case(name: str, line: str, run: Run, text: str, code: int = 5) -> Case[Stage]:
    seen = Outcome(Seen.EXIT, code, detail=text)
    return Case(name, line, lambda stage: stage.ended_by(run), seen)


def pubk(desk: Desk, invite: bytes, role: int, user: str | None = None, bundle: bytes | None = None) -> bytes:
    me = desk.me
    head = invite + u(role, 1) + vec((user or me.name).encode(), 1)
    return head + vec(me.bundle if bundle is None else bundle, 2) + vec(me.pem(), 2) + vec(b"", 3)


def _out_of_the_blue(role: int) -> Run:
    return lambda _, desk: desk.event("pubk", pubk(desk, os.urandom(16), role))


def _called(role: int = 1, user: str | None = None, own_invite: bool = True, bundle: bytes | None = None) -> Run:
    """The client calls Carl; the `pubk` says something else."""

    def run(client: Program, desk: Desk) -> None:
        client.say("chat carl")
        invite = desk.take_call()
        desk.event("pubk", pubk(desk, invite if own_invite else os.urandom(16), role, user, bundle))

    return run


def _ringing(client: Program, desk: Desk) -> None:
    """Nobody has accepted."""
    invite = desk.ring()
    client.until("REQUEST TO CHAT FROM: <carl> ACCEPT?")
    desk.event("pubk", pubk(desk, invite, 2))


def _accepted(role: int = 2, user: str | None = None, own_invite: bool = True) -> Run:
    """The client accepts Carl's call; the `pubk` says something else."""

    def run(client: Program, desk: Desk) -> None:
        invite = desk.ring()
        client.until("REQUEST TO CHAT FROM: <carl> ACCEPT?")
        client.say("acpt carl")
        number, _ = desk.session.requested("acpt")
        argument = pubk(desk, invite if own_invite else os.urandom(16), role, user)
        desk.session.send(REPLY, number, "pubk", argument)

    return run


def _twice(client: Program, desk: Desk) -> None:
    client.say("chat carl")
    invite = desk.take_call()
    for _ in range(2):
        desk.event("pubk", pubk(desk, invite, 1))


def _another_call_accepted(client: Program, desk: Desk) -> None:
    """It rings anew under the user's fingers; the acceptance was for the first."""
    invite = desk.ring()
    client.until("REQUEST TO CHAT FROM: <carl> ACCEPT?")
    client.say("acpt carl")
    number, argument = desk.session.requested("acpt")
    assert argument == to("carl", invite)
    other = os.urandom(16)
    desk.event("reqt", to("mallory", other))
    desk.session.send(REPLY, number, "pubk", pubk(desk, other, 2, "mallory"))


def _bundle(*entries: tuple[int, bytes]) -> bytes:
    return u(len(entries), 1) + b"".join(u(alg, 2) + vec(spki, 2) for alg, spki in entries)


_CURVE, _LATTICE = (new_private(kind).public_key().public_bytes(DER, PUBLIC) for kind in ("ed25519", "mldsa65"))
_SMALL = rsa_spki((1 << 1023) | 1, 65537)
BUNDLES: dict[str, bytes] = {
    "empty": b"",
    "no-keys": _bundle(),
    "three-keys": _bundle((ED25519, _CURVE), (MLDSA65, _LATTICE), (ED25519, _CURVE)),
    "twice-the-same": _bundle((ED25519, _CURVE), (ED25519, _CURVE)),
    "mldsa-alone": _bundle((MLDSA65, _LATTICE)),
    "order": _bundle((MLDSA65, _LATTICE), (ED25519, _CURVE)),
    "rsa-1024": _bundle((PSS, _SMALL)),
    "rsa-e-3": _bundle((PSS, rsa_spki((1 << 3071) | 1, 3))),
    "other-algorithm": _bundle((PSS, _CURVE)),
    "longer-encoding": _bundle((PSS, rsa_spki((1 << 3071) | 1, 65537, long_form=True))),
    "trailing-byte": _bundle((ED25519, _CURVE)) + b"\0",
}


# ---- another key than the pinned one


def _meets_calling(client: Program, desk: Desk) -> None:
    client.say(f"chat {desk.me.name}")
    invite = desk.take_call()
    desk.event("pubk", desk.pubk(invite, 1))


def _meets_called(client: Program, desk: Desk) -> None:
    invite = desk.ring()
    client.until(f"REQUEST TO CHAT FROM: <{desk.me.name}> ACCEPT?")
    client.say(f"acpt {desk.me.name}")
    desk.accepted(invite)


def _meets_crossing(client: Program, desk: Desk) -> None:
    """Glare: the reply to `chat` is the `pubk`."""
    desk.ring()
    client.until("ACCEPT?")
    client.say(f"chat {desk.me.name}")
    number, argument = desk.session.requested("chat")
    desk.session.send(REPLY, number, "pubk", desk.pubk(argument[-16:], 1))


def _changed(name: str, meet: Callable[[Program, Desk], None]) -> Callable[[Stage], Outcome]:
    def do(stage: Stage) -> Outcome:
        other = Identity.make(name, "ed25519")
        client, desk = stage.logged_in(other)
        ((peer, server, bundle, _, _, first, how),) = stage.before["pins"]
        meet(client, desk)
        client.until("KEY CHANGED for")
        desk.left()  # and nothing of C1 to C4 before it
        client.say("exit")
        desk.exits()
        code = client.end()
        stage.before["pins"] = [(peer, server, bundle, other.bundle, 0, first, how)]
        return Outcome(Seen.EXIT, code, detail=stage.shown())

    return do


def _pinned(name: str, do: Callable[[Stage], Outcome]) -> Case[Stage]:
    return Case(f"pin/{name}", "pubk-pinned", do, Outcome(Seen.EXIT, 0, detail="The chat is blocked."))


CASES: tuple[Case[Stage], ...] = (
    case("pubk/caller-of-nobody", "pubk-call", _out_of_the_blue(1), _STRANGER),
    case("pubk/receiver-of-nobody", "pubk-call", _out_of_the_blue(2), _STRANGER),
    case("pubk/other-invite", "pubk-call", _called(own_invite=False), _STRANGER),
    case("pubk/other-user", "pubk-call", _called(user="mallory"), _STRANGER),
    case("pubk/own-user", "pubk-call", _called(user="ann"), _STRANGER),
    case("pubk/receiver-with-other-user", "pubk-call", _called(2, "mallory"), _STRANGER),
    case("pubk/nobody-accepted", "pubk-call", _ringing, _STRANGER),
    case("pubk/accepted-other-invite", "pubk-call", _accepted(own_invite=False), _STRANGER),
    case("pubk/accepted-other-user", "pubk-call", _accepted(user="mallory"), _STRANGER),
    case("pubk/accepted-as-caller", "pubk-call", _accepted(role=1), _STRANGER),
    case("pubk/another-call-accepted", "pubk-call", _another_call_accepted, _STRANGER),
    case("pubk/twice", "pubk-call", _twice, _STRANGER),
    *(case(f"pubk/bundle-{name}", "pubk-bundle", _called(bundle=bundle), _KEY) for name, bundle in BUNDLES.items()),
    _pinned("called", _changed("bob", _meets_calling)),
    _pinned("calling", _changed("bob", _meets_called)),
    _pinned("both-at-once", _changed("bob", _meets_crossing)),
    _pinned("in-capitals", _changed("BOB", _meets_called)),
)
