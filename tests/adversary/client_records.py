"""Records that a server must not send, after a good login: the first one ends the client (protocol §5)."""

from __future__ import annotations

from collections.abc import Callable

from adversary.case import Case, Outcome, Seen
from adversary.client_rogue import Flip, cut, flip, longer
from adversary.client_world import FORGED, Stage
from interop.base import u
from interop.desk import Desk, to
from interop.peer import ALERT, EVENT, M1, M2, M4, RECORD, REPLY, REQUEST, Session, frame, read_frame
from interop.programs import Program

__all__ = ["CASES", "changed"]

_ORDER, _OPEN, _LONG = "a record is out of order", "a record did not open", "a frame is longer than allowed"
_TURN = "a frame is of a type that is not in turn"
_UPDATE, _KIND, _FORM = "a key update", "a server sends no such frame", "a record has not the form of one"
_CALL = to(FORGED, b"16 bytes of call")
Act = Callable[[Session], None]


def _forged(session: Session, kind: int = EVENT, verb: str = "reqt", argument: bytes = _CALL) -> bytes:
    """The body of the next record; shown, it would be a call of FORGED."""
    return session.record(kind, 0, verb, argument)


def _write(session: Session, body: bytes, kind: int = RECORD) -> None:
    session.sock.sendall(frame(kind, body))


def changed(change: Flip) -> Act:
    return lambda session: _write(session, change(_forged(session)))


def _replayed(session: Session) -> None:
    body = session.record(EVENT, 0, "cach", bytes(16))
    _write(session, body)
    _write(session, body)


def _dropped(session: Session) -> None:
    session.record(EVENT, 0, "cach", bytes(16))
    _write(session, _forged(session))


def _swapped(session: Session) -> None:
    first, second = (_forged(session) for _ in range(2))
    _write(session, second + b"")
    _write(session, first)


def _reflected(client: Program, desk: Desk) -> None:
    """What the client sends comes back, with the counter that is the next one."""
    client.say("list")
    read_frame(desk.session.sock, RECORD)
    desk.session.sock.sendall(read_frame(desk.session.sock, RECORD))


def _m4_again(session: Session) -> None:
    _write(session, _forged(session), M4)


def _old_key(session: Session) -> None:
    old = session.secrets["out"]
    session.update()
    session.secrets["out"] = old
    _write(session, _forged(session))


def _new_key_too_early(session: Session) -> None:
    session.advance("out")
    _write(session, _forged(session))


def _rkey(number: int, kind: int = EVENT, size: int = 4) -> Act:
    return lambda session: _write(session, session.record(kind, 0, "rkey", u(number, size)))


def _rkey_twice(session: Session) -> None:
    session.update()
    session.send(EVENT, 0, "rkey", u(1, 4))


def _sealed(plain: bytes) -> Act:
    """A good seal around a plaintext of another form."""
    return lambda session: _write(session, session.seal(plain))


def _no_pad_byte(session: Session) -> None:
    plain = u(EVENT, 1) + u(0, 4) + b"reqt" + _CALL
    _write(session, session.seal(plain[:-1] + b"\x01" + bytes(256 - len(plain))))


def _raw(data: bytes) -> Act:
    return lambda session: session.sock.sendall(data)


def _half(session: Session) -> None:
    session.sock.sendall(frame(RECORD, _forged(session))[:60])
    session.close()


def _case(name: str, line: str, act: Act, text: str) -> Case[Stage]:
    def run(_: Program, desk: Desk) -> None:
        act(desk.session)

    return Case(
        f"record/{name}", line, lambda stage: stage.ended_by(run), Outcome(Seen.EXIT, 5, detail=f"error: {text}")
    )


def _cut(stage: Stage, act: Act) -> Outcome:
    return stage.ended_by(lambda _, desk: act(desk.session))


_CUT = Outcome(Seen.EXIT, 5, detail="connection cut; the last messages may be missing")

CASES: tuple[Case[Stage], ...] = (
    *(_case(f"counter-byte-{at}", "record-flipped", changed(flip(at)), _ORDER) for at in (0, 1, 8)),
    _case("counter-byte-12", "record-counter-high", changed(flip(12)), _ORDER),
    _case("counter-byte-15", "record-counter-high", changed(flip(15, 0x80)), _ORDER),
    _case("counter-256-more", "record-counter-modulo", changed(flip(1)), _ORDER),
    _case("tag-first-byte", "record-flipped", changed(flip(16)), _OPEN),
    _case("tag-last-byte", "record-flipped", changed(flip(31, 0x80)), _OPEN),
    _case("ciphertext-first-byte", "record-flipped", changed(flip(32)), _OPEN),
    _case("ciphertext-last-byte", "record-flipped", changed(flip(-1)), _OPEN),
    _case("ciphertext-short", "record-flipped", changed(cut), _OPEN),
    _case("ciphertext-long", "record-flipped", changed(longer), _OPEN),
    _case("replayed", "record-replayed", _replayed, _ORDER),
    _case("dropped", "record-dropped", _dropped, _ORDER),
    _case("swapped", "record-swapped", _swapped, _ORDER),
    Case(
        "record/reflected",
        "record-reflected",
        lambda stage: stage.ended_by(_reflected),
        Outcome(Seen.EXIT, 5, detail=f"error: {_OPEN}"),
    ),
    _case("M4-again", "record-frame-type", _m4_again, _TURN),
    _case("old-key-after-rkey", "record-old-key", _old_key, _OPEN),
    _case("new-key-without-rkey", "record-old-key", _new_key_too_early, _OPEN),
    _case("rkey-0", "record-old-key", _rkey(0), _UPDATE),
    _case("rkey-2", "record-old-key", _rkey(2), _UPDATE),
    _case("rkey-twice", "record-old-key", _rkey_twice, _UPDATE),
    _case("rkey-short", "record-old-key", _rkey(1, size=3), _UPDATE),
    _case("rkey-as-request", "record-old-key", _rkey(1, REQUEST), _KIND),
    _case("rkey-as-reply", "record-old-key", _rkey(1, REPLY), _KIND),
    _case("no-pad-byte", "record-pad", _no_pad_byte, _FORM),
    _case("zeros", "record-pad", _sealed(bytes(256)), _FORM),
    _case("no-plaintext", "record-pad", _sealed(b""), _FORM),
    _case("no-verb", "record-length", _sealed(u(EVENT, 1) + u(0, 4) + b"req\x80"), _FORM),
    _case("kind-3", "record-form", lambda session: _write(session, _forged(session, 3)), _FORM),
    _case("31-bytes", "record-length", lambda session: _write(session, _forged(session)[:31]), _ORDER),
    _case("empty", "record-length", lambda session: _write(session, b""), _ORDER),
    _case("length-0", "record-length", _raw(bytes(5)), "a frame has no type"),
    _case("length-131073", "record-length", _raw(u(131_073, 4) + u(RECORD, 1)), _LONG),
    _case("length-2^32-1", "record-length", _raw(b"\xff" * 5), _LONG),
    *(
        _case(f"type-{kind}", "record-frame-type", _raw(frame(kind, bytes(64))), _TURN)
        for kind in (0, M1, M2, 0x11, 255)
    ),
    _case("alert", "alert", _raw(frame(ALERT, b"\1")), _TURN),
    Case("record/half-then-cut", "record-dropped", lambda stage: _cut(stage, _half), _CUT),
    Case("record/cut", "record-dropped", lambda stage: _cut(stage, Session.close), _CUT),
)
