"""Requests of a logged-in user in the wrong form, kind or direction (protocol §6.1, §6.2)."""

from __future__ import annotations

import os
from collections.abc import Callable

from adversary.case import CLOSED, SESSION, Case, Outcome, erro
from adversary.server_world import World, after_request, still_answers
from interop.base import need, u, vec
from interop.calls import erro as read_erro
from interop.calls import to
from interop.peer import EVENT, RECORD, REPLY, REQUEST, frame

__all__ = ["CASES"]

Do = Callable[[World], Outcome]
INVITE = bytes(16)
MOST = 129_014  # bytes of the longest argument that a record takes

# verb → arguments that have not its form, each with a name
MALFORMED: dict[str, dict[str, bytes]] = {
    "chat": {
        "empty": b"",
        "x": b"x",
        "no-invite": b"\3bea",
        "invite-15-bytes": to("bea", bytes(15)),
        "invite-17-bytes": to("bea", bytes(17)),
        "name-beyond-the-end": b"\xffbea" + INVITE,
        "longest": bytes(MOST),
    },
    "acpt": {"empty": b"", "invite-15-bytes": to("bea", bytes(15)), "invite-17-bytes": to("bea", bytes(17))},
    "refu": {"empty": b"", "invite-15-bytes": to("bea", bytes(15)), "invite-17-bytes": to("bea", bytes(17))},
    "cach": {"empty": b"", "15-bytes": bytes(15), "17-bytes": bytes(17), "longest": bytes(MOST)},
    "ping": {"empty": b"", "7-bytes": bytes(7), "9-bytes": bytes(9), "longest": bytes(MOST)},
    "list": {"two-x": b"xx", "capital": b"X", "longest": b"x" * MOST},
    "help": {"text": b"me", "longest": b"x" * MOST},
    "exch": {"other": b"y", "zero": b"\0"},
    "exit": {"text": b"now", "zero": b"\0"},
    "klog": {
        "empty": b"",
        "x": b"x",
        "op-0": b"\0",
        "op-8": b"\x08",
        "head-and-more": b"\1\0",
        "range-cut": b"\2" + bytes(15),
        "range-and-more": b"\2" + bytes(17),
        "range-of-nothing": b"\2" + bytes(16),
        "range-beyond": b"\2" + bytes(8) + b"\xff" * 8,
        "inclusion-at-the-end": b"\3" + u(2**64 - 1, 8) * 2,
        "inclusion-in-nothing": b"\3" + bytes(16),
        "consistency-of-nothing": b"\4" + bytes(8) + u(1, 8),
        "consistency-backwards": b"\4" + u(2, 8) + u(1, 8),
        "key-31-bytes": b"\5" + bytes(31),
        "cosignature-garbage": b"\6" + vec(b"\xff" * 60_000, 2),
        "user-empty": b"\7\0",
        "user-escape": b"\7" + vec(b"\x1b]52;c;bea", 1),
        "longest": b"\6" + bytes(MOST - 1),
    },
    "blck": {
        "empty": b"",
        "x": b"x",
        "op-0": b"\0\3bea",
        "op-4": b"\4\3bea",
        "nobody": b"\1",
        "list-of-somebody": b"\3\3bea",
        "list-and-more": b"\3\0\0",
        "name-beyond-the-end": b"\1\xffbea",
        "name-and-more": b"\1\3bea\0",
        "longest": bytes(MOST),
    },
    "prek": {"x": b"x", "zeros": bytes(100), "longest": bytes(MOST)},
    "bndl": {
        "empty": b"",
        "x": b"x",
        "name-beyond-the-end": b"\xffbea",
        "name-and-more": b"\3bea\0",
        "longest": bytes(MOST),
    },
    "send": {
        "empty": b"",
        "id-15-bytes": b"\3bea" + bytes(15),
        "no-blob": b"\3bea" + bytes(16) + u(0, 3),
        "blob-cut": b"\3bea" + bytes(16) + u(2, 3) + b"x",
        "blob-and-more": b"\3bea" + bytes(16) + u(1, 3) + b"xx",
        "blob-too-long": b"\3bea" + bytes(16) + u(128_001, 3) + bytes(128_001),
        "longest": bytes(MOST),
    },
    "ackm": {"empty": b"", "7-bytes": bytes(7), "9-bytes": bytes(9), "1,025-numbers": bytes(8 * 1025)},
    "newk": {
        "empty": b"",
        "cut": vec(b"", 2) * 2 + b"\0",
        "and-more": vec(b"", 2) * 3 + b"\0",
        "of-nothing": vec(b"", 2) * 3,
        "long": vec(bytes(40_000), 2) * 3,
    },
}
NAMES: dict[str, bytes] = {
    "empty": b"",
    "17-bytes": b"a" * 17,
    "255-bytes": b"a" * 255,
    "NUL": b"be\0",
    "newline": b"bea\n",
    "escape": b"\x1b]52;c;bea",
    "space": b"be a",
    "utf8": "beä".encode(),
    "not-utf8": b"be\xff",
    "leading-dash": b"-bea",
    "trailing-dash": b"bea-",
}
UNKNOWN: dict[str, str] = {
    "letters": "what",
    "capitals": "LIST",
    "zeros": "\0\0\0\0",
    "escape": "\x1b[2J",
    "reserved-blob": "blob",
}
# verbs that a client must not send in this kind: (kind, verb, argument)
FORBIDDEN: dict[str, tuple[int, str, bytes]] = {
    **{
        f"request-{verb}": (REQUEST, verb, argument)
        for verb, argument in {
            "reqt": to("bea", INVITE),
            "pubk": INVITE + b"\1\3bea" + bytes(7),
            "byee": b"\0",
            "erro": b"\0\1\0",
            "okay": b"",
            "pong": bytes(8),
        }.items()
    },
    **{
        f"reply-{verb}": (REPLY, verb, argument)
        for verb, argument in {"okay": b"", "list": b"x", "erro": b"\0\1\0", "ping": bytes(8), "byee": b"\0"}.items()
    },
    **{
        f"event-{verb}": (EVENT, verb, argument)
        for verb, argument in {
            "list": b"x",
            "chat": to("bea", INVITE),
            "frwd": b"\5text",
            "exch": b"\0",
            "byee": b"\0",
            "ping": bytes(8),
            "pong": bytes(8),
        }.items()
    },
    "event-unknown": (EVENT, "what", b""),
    "reply-unknown": (REPLY, "what", b""),
    "reply-pong-malformed": (REPLY, "pong", bytes(7)),
    "kind-3": (3, "list", b"x"),
    "kind-255": (255, "list", b"x"),
}


def asks(verb: str, argument: bytes) -> Do:
    return lambda world: after_request(world, world.log_in("cid"), verb, argument)


def sends(kind: int, verb: str, argument: bytes) -> Do:
    def do(world: World) -> Outcome:
        session = world.log_in("cid")
        session.send(kind, 7, verb, argument)
        return world.ended(session)

    return do


def verb_not_ascii(world: World) -> Outcome:
    session = world.log_in("cid")
    session.sock.sendall(frame(RECORD, session.seal(b"\0\0\0\0\7\xff\xfe\xfd\xfc\x80" + bytes(246))))
    kind, number, verb, value = session.receive()
    need((kind, number) == (REPLY, 7), "the reply")
    still_answers(session)
    return erro(read_erro((verb, value))[0])


def pong_unasked(world: World) -> Outcome:
    """A pong that nobody asked for is heard, not answered."""
    session = world.log_in("cid")
    for number in (0, 1, 2**32 - 1):
        session.send(REPLY, number, "pong", os.urandom(8))
    still_answers(session)
    return SESSION


def ids_of_any_kind(world: World) -> Outcome:
    """The id is the client's to choose: 0, the largest, the same one twice. Each reply carries it."""
    session = world.log_in("cid")
    for number in (0, 2**32 - 1, 5, 5):
        session.send(REQUEST, number, "ping", u(number, 8))
        need(session.receive() == (REPLY, number, "pong", u(number, 8)), "the reply to that id")
    return SESSION


def many_at_once(world: World) -> Outcome:
    """Good and bad requests in one piece are answered in order, each once."""
    session = world.log_in("cid")
    verbs = ["what", "list", "ping", "exch", "chat"] * 8
    session.sock.sendall(
        b"".join(frame(RECORD, session.record(REQUEST, n, verb, b"x")) for n, verb in enumerate(verbs))
    )
    codes = {"what": 2, "ping": 1, "exch": 3, "chat": 1}
    for number, verb in enumerate(verbs):
        kind, got, answer, value = session.receive()
        need((kind, got) == (REPLY, number), "replies in order")
        need(answer == ("list" if verb == "list" else "erro"), f"{answer} to {verb}")
        need(verb == "list" or int.from_bytes(value[:2], "big") == codes[verb], f"code to {verb}")
    still_answers(session)
    return SESSION


def after_exit(world: World) -> Outcome:
    """What comes behind `exit` is not obeyed: its caller is gone, and nobody rings."""
    session, other = world.log_in("cid"), world.log_in("dan")
    session.sock.sendall(
        frame(RECORD, session.record(REQUEST, 1, "exit"))
        + frame(RECORD, session.record(REQUEST, 2, "chat", to("dan", os.urandom(16))))
        + frame(RECORD, session.record(REQUEST, 3, "list"))
    )
    need(session.receive() == (REPLY, 1, "byee", b"\0"), "byee to exit")
    still_answers(other)
    need(not other.events, "a call rang behind exit")
    return world.ended(session)


def records_after_byee(world: World) -> Outcome:
    """After `byee` came, even a record that does not open changes nothing."""
    session = world.log_in("cid")
    need(session.ask("exit") == ("byee", b"\0"), "byee to exit")
    session.sock.sendall(frame(RECORD, bytes(300)))
    return world.ended(session)


def exit_twice(world: World) -> Outcome:
    session = world.log_in("cid")
    session.sock.sendall(frame(RECORD, session.record(REQUEST, 1, "exit")))
    need(session.receive() == (REPLY, 1, "byee", b"\0"), "byee to exit")
    session.send(REQUEST, 2, "exit")
    return world.ended(session)


CASES: tuple[Case[World], ...] = (
    *(Case(f"commands/unknown-{name}", "command-verb", asks(verb, b"x"), erro(2)) for name, verb in UNKNOWN.items()),
    Case("commands/unknown-not-ascii", "command-verb", verb_not_ascii, erro(2)),
    Case("commands/unknown-longest", "command-verb", asks("what", bytes(MOST)), erro(2)),
    *(
        Case(f"commands/{verb}-{name}", "command-argument", asks(verb, argument), erro(1))
        for verb, rows in MALFORMED.items()
        for name, argument in rows.items()
    ),
    *(
        Case(f"commands/{verb}-name-{name}", "command-name", asks(verb, u(len(value), 1) + value + INVITE), erro(1))
        for verb in ("chat", "acpt", "refu")
        for name, value in NAMES.items()
    ),
    *(
        Case(f"commands/blck-{op}-name-{name}", "command-name", asks("blck", u(op, 1) + vec(value, 1)), erro(1))
        for op in (1, 2)
        for name, value in NAMES.items()
    ),
    *(Case(f"commands/{name}", "command-kind", sends(*row), CLOSED) for name, row in FORBIDDEN.items()),
    Case("commands/pong-unasked", "command-kind", pong_unasked, SESSION),
    Case("commands/ids-of-any-kind", "command-kind", ids_of_any_kind, SESSION),
    Case("commands/many-at-once", "command-argument", many_at_once, SESSION),
    Case("commands/behind-exit", "command-after-goodbye", after_exit, CLOSED),
    Case("commands/bad-record-behind-byee", "command-after-goodbye", records_after_byee, CLOSED),
    Case("commands/exit-twice", "command-after-goodbye", exit_twice, CLOSED),
)
