"""M4 that does not open or says something else, and ALERTs in place of M2 and M4 (protocol §4.5, §7.1)."""

from __future__ import annotations

from collections.abc import Callable

from adversary.case import Case, Outcome, Seen
from adversary.client_rogue import Flip, Plan, Rogue, cut, flip, longer
from adversary.client_world import Stage
from interop.base import pad, tlv, u, vec
from interop.peer import ALERT, EVENT, M4, RECORD, REPLY, REQUEST, Session, frame

__all__ = ["CASES"]

_NO_PROOF = "the server did not prove that it has the session key"
_FOREIGN = "what answers there does not speak MessageApp"
_NAME = vec(b"localhost", 1)


def _m4(kind: int = EVENT, number: int = 0, verb: str = "okay", argument: Flip = bytes) -> Callable[..., bytes]:
    """A record with a good seal around something else."""
    return lambda server, session: frame(M4, session.record(kind, number, verb, argument(server.welcome())))


def _changed(change: Flip) -> Callable[..., bytes]:
    return lambda server, session: frame(M4, change(session.record(EVENT, 0, "okay", server.welcome())))


def _text(text: bytes) -> Flip:
    return lambda welcome: vec(text, 1) + welcome[21:]


def _only(*tlvs: bytes) -> Flip:
    return lambda _: vec(b"User Login Complete!", 1) + b"".join(tlvs)


def _second_counter(server: Rogue, session: Session) -> bytes:
    session.counters["out"] = 1
    return frame(M4, session.record(EVENT, 0, "okay", server.welcome()))


def _own_direction(server: Rogue, session: Session) -> bytes:
    """Sealed under the key of the client's direction: what a reflection would be."""
    session.secrets["out"] = session.secrets["in"]
    return frame(M4, session.record(EVENT, 0, "okay", server.welcome()))


def _next_key(server: Rogue, session: Session) -> bytes:
    session.advance("out")
    return frame(M4, session.record(EVENT, 0, "okay", server.welcome()))


def _other_user(server: Rogue, session: Session) -> bytes:
    session.user = b"bob"
    return frame(M4, session.record(EVENT, 0, "okay", server.welcome()))


def _unpadded(server: Rogue, session: Session) -> bytes:
    return frame(M4, session.seal(u(EVENT, 1) + u(0, 4) + b"okay" + server.welcome()))


def _padded_beyond(server: Rogue, session: Session) -> bytes:
    plain = u(EVENT, 1) + u(0, 4) + b"okay" + server.welcome()
    return frame(M4, session.seal(pad(plain, 4096)))


TIME, LIMITS, NAME = tlv(1, bytes(8)), tlv(2, u(1, 4)), tlv(5, _NAME)


def _case(name: str, line: str, m4: Callable[[Rogue, Session], bytes], text: str = _NO_PROOF) -> Case[Stage]:
    plan = Plan(m4=m4)
    return Case(f"m4/{name}", line, lambda stage: stage.login(plan), Outcome(Seen.EXIT, 3, detail=text))


def _alert(when: str, body: bytes, code: int, text: str, name: str = "") -> Case[Stage]:
    sent = frame(ALERT, body)
    plan = Plan(m2=lambda _: sent) if when == "M1" else Plan(m4=lambda *_: sent)
    seen = Outcome(Seen.EXIT, code, detail=text)
    return Case(f"alert/{name or body[0]}-after-{when}", "alert", lambda stage: stage.login(plan), seen)


def _no_weaker_try(stage: Stage) -> Outcome:
    """ALERT 3 must not bring a second connection with other offers."""
    server = stage.server(Plan(m2=lambda _: frame(ALERT, b"\3"), hang_up=True))
    client = stage.client(server)
    sock, _ = server.accept_m1()
    sock.sendall(frame(ALERT, b"\3"))
    sock.close()
    code = client.end()
    server.listener.settimeout(0.05)  # the client is gone: whatever it tried is waiting here
    try:
        server.listener.accept()[0].close()
    except TimeoutError:
        return Outcome(Seen.EXIT, code, detail=stage.shown())
    return Outcome(Seen.SESSION)


_ALERTS = ((b"\1", 4, "the server refused the login"), (b"\2\0\5", 5, "is busy; try again in 5 seconds"),
           (b"\3", 3, "takes none of the versions or suites offered"), (b"\4", 5, "too slow or too large"))  # fmt: skip

CASES: tuple[Case[Stage], ...] = (
    _case("counter-changed", "m4-seal", _changed(flip(0))),
    _case("tag-changed", "m4-seal", _changed(flip(16))),
    _case("ciphertext-changed", "m4-seal", _changed(flip(-1))),
    _case("short", "m4-seal", _changed(cut)),
    _case("long", "m4-seal", _changed(longer)),
    _case("no-ciphertext", "m4-seal", _changed(lambda body: body[:32])),
    _case("empty", "m4-seal", _changed(lambda _: b"")),
    _case("counter-1", "m4-seal", _second_counter),
    _case("key-of-the-other-direction", "m4-seal", _own_direction),
    _case("next-key", "m4-seal", _next_key),
    _case("for-another-user", "m4-seal", _other_user),
    _case("no-padding", "m4-form", _unpadded),
    _case("as-request", "m4-form", _m4(kind=REQUEST)),
    _case("as-reply", "m4-form", _m4(kind=REPLY)),
    _case("id-1", "m4-form", _m4(number=1)),
    _case("other-verb", "m4-form", _m4(verb="help")),
    _case("other-text", "m4-form", _m4(argument=_text(b"User Login Complete?"))),
    _case("no-text", "m4-form", _m4(argument=lambda _: b"")),
    _case("no-time", "m4-form", _m4(argument=_only(LIMITS, NAME))),
    _case("no-limits", "m4-form", _m4(argument=_only(TIME, NAME))),
    _case("no-name", "m4-form", _m4(argument=_only(TIME, LIMITS))),
    _case("name-twice", "m4-form", _m4(argument=_only(TIME, LIMITS, NAME, NAME))),
    _case("short-time", "m4-form", _m4(argument=_only(tlv(1, bytes(7)), LIMITS, NAME))),
    _case("long-others", "m4-form", _m4(argument=_only(TIME, LIMITS, tlv(4, bytes(5)), NAME))),
    _case("tlv-cut", "m4-form", _m4(argument=lambda welcome: welcome + b"\0")),
    _case("name-of-another", "m4-name", _m4(argument=_only(TIME, LIMITS, tlv(5, vec(b"elsewhere.example", 1))))),
    _case("name-in-capitals", "m4-name", _m4(argument=_only(TIME, LIMITS, tlv(5, vec(b"LOCALHOST", 1))))),
    _case("name-and-more", "m4-name", _m4(argument=_only(TIME, LIMITS, tlv(5, _NAME + b"\0")))),
    Case(
        "m4/name-other-than-before",
        "m4-name",
        lambda stage: stage.login(Plan(canonical="127.0.0.1")),
        Outcome(Seen.EXIT, 3, detail="the server calls itself 127.0.0.1 now and localhost before"),
    ),
    _case(
        "as-RECORD", "record-frame-type", lambda s, e: frame(RECORD, e.record(EVENT, 0, "okay", s.welcome())), _FOREIGN
    ),
    _case("length-4097", "m4-seal", lambda *_: u(4097, 4) + u(M4, 1), _FOREIGN),
    *(_alert(when, body, code, text) for body, code, text in _ALERTS for when in ("M1", "M3")),
    _alert("M1", b"\2", 5, "the server is busy", "2-without-retry"),
    _alert("M1", b"\x63", 5, "the server gave up", "unknown"),
    _alert("M1", b"", 3, _FOREIGN, "empty"),
    _alert("M3", b"\1\0", 3, _FOREIGN, "two-bytes"),
    Case("alert/no-weaker-try", "alert", _no_weaker_try, Outcome(Seen.EXIT, 3, detail=_ALERTS[2][2])),
)
