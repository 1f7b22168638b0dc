"""Prekeys and stored messages of a user who misbehaves (protocol §9.2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from adversary.case import SESSION, Case, Outcome, erro
from adversary.server_world import World, after_request, still_answers
from interop.base import SWIFT, need, now_ms, tlv, u, vec
from interop.calls import erro as read_erro
from interop.offline import LAST_RESORT, Prekey, acknowledge, held, send, take, upload
from interop.peer import Session

__all__ = ["CASES"]

Do = Callable[[World], Outcome]
DAY = 86_400_000


def receiver(world: World, who: str = "dan") -> Session:
    """Logged in on the device that receives, which has nothing to take."""
    session = world.log_in(who, tlvs=tlv(1, who.encode().ljust(16, b".")))
    upload(session, Prekey(world.people[who], 1, now_ms() + DAY, LAST_RESORT))
    return session


def uploads(**wrong: Any) -> Do:
    """One good prekey and one that is not: none is taken."""

    def do(world: World) -> Outcome:
        cid = world.people["cid"]
        choices: dict[str, Any] = {"expires": now_ms() + DAY, **wrong}
        if "key_of" in choices:
            choices["key_id"] = world.people[choices.pop("key_of")].key_id
        bad, good = Prekey(cid, 7, **choices), Prekey(cid, 8, now_ms() + DAY)
        session = world.log_in("cid")
        outcome = after_request(world, session, "prek", good.bytes + bad.bytes)
        need(held(session).one_time == 0, "a good prekey with a bad one was taken")
        return outcome

    return do


def another_signs(world: World) -> Outcome:
    """Somebody else's prekey, as he has it from the server."""
    theirs = Prekey(world.people["dan"], 7, now_ms() + DAY)
    return after_request(world, world.log_in("cid"), "prek", theirs.bytes)


def too_many(world: World) -> Outcome:
    made = [Prekey(world.people["cid"], number, now_ms() + DAY) for number in range(101)]
    cid = world.log_in("cid")
    for start in (0, 34, 67):
        upload(cid, *made[start : start + (34 if start == 0 else 33)])
    outcome = after_request(world, cid, "prek", made[100].bytes)
    need(held(cid).one_time == 100, "more prekeys than there may be")
    return outcome


def others_acknowledged(world: World) -> Outcome:
    """Neither somebody else nor another device of the user takes a message off the server's disk."""
    dan, cid = receiver(world), world.log_in("cid")
    seq = send(cid, "dan", os.urandom(16), b"sealed")
    mail = take(dan)
    need(mail.seq == seq, "seq")
    second = world.log_in("dan", tlvs=tlv(1, os.urandom(16)))
    for session in (cid, second):
        acknowledge(session, mail)
    world.log_off(dan)
    dan = world.log_in("dan", tlvs=tlv(1, b"dan".ljust(16, b".")))
    need(take(dan) == mail, "the message is still there")
    acknowledge(dan, mail)
    return SESSION


def ahead(world: World) -> Outcome:
    """Numbers of messages that are yet to come: they come all the same."""
    dan, cid = receiver(world), world.log_in("cid")
    seq = send(cid, "dan", os.urandom(16), b"one")
    need(dan.ask("ackm", b"".join(u(seq + number, 8) for number in range(1, 1000))) == ("okay", b""), "ackm")
    need(send(cid, "dan", os.urandom(16), b"two") == seq + 1, "seq")
    found = [take(dan), take(dan)]
    need([mail.blob for mail in found] == [b"one", b"two"], "both come")
    acknowledge(dan, *found)
    return SESSION


def same_id(world: World) -> Outcome:
    """The id of a message that waits, with other bytes: the first ones stay."""
    dan, cid = receiver(world), world.log_in("cid")
    identifier = os.urandom(16)
    need(send(cid, "dan", identifier, b"one") == send(cid, "dan", identifier, b"two"), "one seq")
    mail = take(dan)
    need(mail.blob == b"one" and mail.sender == "cid", "what came first")
    acknowledge(dan, mail)
    still_answers(dan)
    need(not dan.events, "a second copy came")
    return SESSION


def too_fast(world: World) -> Outcome:
    """31 in a row: the last one is refused, others' are not."""
    session, asked = world.log_in("ann"), to_name("eve")
    for _ in range(30):
        need(read_erro(session.ask("bndl", asked))[0] == 10, "too early")
    outcome = after_request(world, session, "bndl", asked)
    need(read_erro(world.log_in("dan").ask("bndl", asked))[0] == 10, "another user is answered")
    return outcome


def to_name(name: str) -> bytes:
    return vec(name.encode(), 1)


WRONG: dict[str, dict[str, Any]] = {
    "of-another-user": {"user": "dan"},
    "of-nobody": {"user": "nobody"},
    "in-capitals": {"user": "CID"},
    "of-another-key": {"key_of": "dan"},
    "expired": {"expires": now_ms() - 1000},
    "expired-in-1970": {"expires": 0},
    "in-91-days": {"expires": now_ms() + 91 * DAY},
    "for-ever": {"expires": 2**64 - 1},
    "signed-as-C2": {"label": b"MessageApp v2, chat key offer (C2)"},
    "suite-hybrid": {"suite": SWIFT - 1},
    "suite-unknown": {"suite": 0xFFFF},
    "kind-0": {"kind": 0},
    "kind-3": {"kind": 3},
    "changed-when-signed": {"on_core": lambda core: core[:20] + bytes([core[20] ^ 1]) + core[21:]},
    "short-key": {"temp_pub": bytes(1215)},
    "short-ratchet": {"ratchet": bytes(1217)},
}

CASES: tuple[Case[World], ...] = (
    *(Case(f"mail/prekey-{name}", "mail-prekey", uploads(**wrong), erro(1)) for name, wrong in WRONG.items()),
    Case("mail/prekey-that-another-signed", "mail-prekey", another_signs, erro(1)),
    Case("mail/101-prekeys", "mail-room", too_many, erro(20)),
    Case("mail/acknowledged-by-others", "mail-others", others_acknowledged, SESSION),
    Case("mail/acknowledged-ahead", "mail-others", ahead, SESSION),
    Case("mail/another-with-the-same-id", "mail-others", same_id, SESSION),
    *(
        Case(
            f"mail/send-to-{name or 'oneself'}",
            "mail-nobody",
            lambda world, name=name: after_request(  # type: ignore[misc]
                world, world.log_in("cid"), "send", to_name(name or "cid") + bytes(16) + vec(b"sealed", 3)
            ),
            erro(10),
        )
        for name in ("", "nobody", "CID")
    ),
    *(
        Case(
            f"mail/bndl-of-{name or 'oneself'}",
            "mail-nobody",
            lambda world, name=name: after_request(world, world.log_in("cid"), "bndl", to_name(name or "cid")),  # type: ignore[misc]
            erro(10),
        )
        for name in ("", "nobody", "eve")
    ),
    Case("mail/31-bndl", "mail-rate", too_fast, erro(4)),
)
