"""Commands that a server must not send: what ends the client, and what it must pass over (protocol §6)."""

from __future__ import annotations

from adversary.case import SESSION, Case, Outcome
from adversary.client_live import Live
from adversary.client_pubk import Run, case, pubk
from adversary.client_world import FORGED, Stage
from interop.base import tlv, u, vec
from interop.chat import C1
from interop.desk import Desk, to
from interop.peer import EVENT, REPLY, REQUEST
from interop.programs import Program

__all__ = ["CASES", "LIVE"]

_UNREADABLE = "error: the server sent what cannot be read"
_KIND = "error: a server sends no such frame"
_MISFIT = "error: the server's reply does not fit the request"


def _sends(kind: int, number: int, verb: str, argument: bytes = b"") -> Run:
    return lambda _, desk: desk.session.send(kind, number, verb, argument)


# ---- replies


def _answered(say: str, verb: str, answer: str, argument: bytes) -> Run:
    """The client asks, and gets a reply of another kind."""

    def run(client: Program, desk: Desk) -> None:
        desk.session.roster = b""
        if say.startswith("acpt"):
            desk.ring()
            client.until("ACCEPT?")
        client.say(say)
        while (message := desk.session.receive())[2] != verb:
            desk.session.send(REPLY, message[1], "list", b"")
        desk.session.send(REPLY, message[1], answer, argument)

    return run


_ENTRY = vec(b"bob", 1) + b"\0"
_TERMINAL = vec(f"{FORGED}\x1b[2J".encode(), 1) + b"\0"
_BYES = {1: "is shutting down", 2: "logged in again on this device", 3: "reached its age limit",
         4: "too slow in reading", 5: "was removed from the server", 0: "said goodbye", 99: "said goodbye"}  # fmt: skip

CASES: tuple[Case[Stage], ...] = (
    case("reply/chat-list", "reply-misfit", _answered("chat carl", "chat", "list", _ENTRY), _MISFIT),
    case("reply/chat-okay", "reply-misfit", _answered("chat carl", "chat", "okay", b""), _MISFIT),
    case("reply/acpt-okay", "reply-misfit", _answered("acpt carl", "acpt", "okay", b""), _MISFIT),
    case("reply/list-okay", "reply-misfit", _answered("list", "list", "okay", b""), _MISFIT),
    case("reply/list-cut", "reply-unreadable", _answered("list", "list", "list", _ENTRY[:-1]), _UNREADABLE),
    case("reply/list-terminal", "reply-unreadable", _answered("list", "list", "list", _TERMINAL), _UNREADABLE),
    case("reply/erro-short", "reply-unreadable", _answered("chat carl", "chat", "erro", b"\0"), _UNREADABLE),
    case("reply/unknown-verb", "reply-unreadable", _sends(REPLY, 1, "zzzz"), _UNREADABLE),
    case("request/unknown-verb", "request-of-server", _sends(REQUEST, 1, "zzzz"), _UNREADABLE),
    case("request/ping-short", "request-of-server", _sends(REQUEST, 1, "ping", bytes(7)), _UNREADABLE),
    case("request/list", "request-of-server", _sends(REQUEST, 1, "list", b"x"), _KIND),
    case("request/reqt", "request-of-server", _sends(REQUEST, 1, "reqt", to(FORGED, bytes(16))), _KIND),
    case("request/frwd", "request-of-server", _sends(REQUEST, 1, "frwd", b"\1"), _KIND),
    case("event/chat", "event-kind", _sends(EVENT, 0, "chat", to(FORGED, bytes(16))), _KIND),
    case("event/list", "event-kind", _sends(EVENT, 0, "list", _ENTRY), _KIND),
    case("event/pong", "event-kind", _sends(EVENT, 0, "pong", bytes(8)), _KIND),
    case("event/ping", "event-kind", _sends(EVENT, 0, "ping", bytes(8)), _KIND),
    case("reply/frwd", "event-kind", _sends(REPLY, 1, "frwd", b"\1"), _KIND),
    case("reply/exch", "event-kind", _sends(REPLY, 1, "exch", b"\0"), _KIND),
    *(case(f"byee/{reason}", "byee", _sends(EVENT, 0, "byee", u(reason, 1)), text) for reason, text in _BYES.items()),
)

# ---- what is passed over: one client for all


def _passes(name: str, *events: tuple[str, bytes], kind: int = EVENT, number: int = 0, text: str = "") -> Case[Live]:
    def do(live: Live) -> Outcome:
        for verb, argument in events:
            live.desk.session.send(kind, number, verb, argument)
        return live.goes_on()

    return Case(f"passed/{name}", "event-unreadable", do, SESSION)


def _reply_of_nobody(name: str, verb: str, argument: bytes) -> Case[Live]:
    return _passes(f"reply-{name}", (verb, argument), kind=REPLY, number=0xFFFFFFFF)


def _pubk_without_request(live: Live) -> Outcome:
    live.desk.session.send(REPLY, 0xFFFFFFFF, "pubk", pubk(live.desk, bytes(16), 1))
    return live.goes_on()


def _pem_of_another(live: Live) -> Outcome:
    """The PEM in `pubk` is for people; the bundle counts, and with it the exchange goes on to C1."""
    live.client.say("chat carl")
    invite = live.desk.take_call()
    me, other = live.desk.me, live.stage.people.mallory
    head = invite + u(1, 1) + vec(b"carl", 1) + vec(me.bundle, 2)
    live.desk.event("pubk", head + vec(other.pem(), 2) + vec(b"", 3))
    c1 = live.desk.forwarded(C1)
    assert me.key_id in c1
    assert other.key_id not in c1
    live.desk.event("exch", b"\0")
    live.client.until("carl left the chat")
    return live.goes_on()


_INVITE = bytes(16)
LIVE: tuple[Case[Live], ...] = (
    _passes("unknown-verbs", *((verb, b"?") for verb in ("zzzz", "prek", "klog", "mail", "blob"))),
    _passes("reqt-short", ("reqt", to(FORGED, _INVITE[1:]))),
    _passes("reqt-long", ("reqt", to(FORGED, _INVITE + b"\0"))),
    _passes("reqt-name-17", ("reqt", to(FORGED + 11 * "a", _INVITE))),
    _passes("reqt-name-empty", ("reqt", to("", _INVITE))),
    _passes("reqt-name-hyphen", ("reqt", to("-" + FORGED, _INVITE))),
    _passes("reqt-name-terminal", ("reqt", to(FORGED + "\x1b[2J", _INVITE))),
    _passes("reqt-name-bidi", ("reqt", to("\u202e" + FORGED, _INVITE))),
    _passes("cach-of-nothing", ("cach", _INVITE), ("cach", b"")),
    _passes("refu-of-nothing", ("refu", to(FORGED, _INVITE)), ("refu", b"")),
    _passes("exch-without-chat", ("exch", b"\0"), ("exch", b"\1"), ("exch", b"\2"), ("exch", b"")),
    _passes("frwd-without-chat", *(("frwd", u(kind, 1) + bytes(64)) for kind in range(7)), ("frwd", b"")),
    _passes("pubk-unreadable", ("pubk", b""), ("pubk", _INVITE + b"\3"), ("pubk", _INVITE + b"\1" + vec(b"carl", 1))),
    _passes("erro", ("erro", u(12, 2) + vec(FORGED.encode(), 1)), ("erro", b"")),
    _passes("okay", ("okay", vec(FORGED.encode(), 1) + tlv(1, bytes(8)))),
    _passes("byee-without-reason", ("byee", b"")),
    _passes("largest-record", ("zzzz", bytes(129_014))),
    _reply_of_nobody("okay", "okay", b""),
    _reply_of_nobody("erro", "erro", u(12, 2) + vec(FORGED.encode(), 1)),
    _reply_of_nobody("list", "list", vec(FORGED.encode(), 1) + b"\0"),
    _reply_of_nobody("reqt", "reqt", to(FORGED, _INVITE)),
    _reply_of_nobody("pong", "pong", bytes(8)),
    Case("passed/reply-pubk", "pubk-call", _pubk_without_request, SESSION),
    Case("passed/pem-of-another", "pubk-bundle", _pem_of_another, SESSION),
)
