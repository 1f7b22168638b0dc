"""Ratchet messages in a chat that is secure: what is not a new message of the peer changes nothing (protocol §10)."""

from __future__ import annotations

import copy
from collections.abc import Callable

from adversary.case import Case, Outcome, Seen
from adversary.client_live import Live
from adversary.client_rogue import Flip, cut, flip, longer
from adversary.client_world import FORGED
from interop.chat import C1, C2, C3, C4, HEADER

__all__ = ["CASES", "Do", "case"]

_BAD = "error: a message from bob could not be decrypted; nothing of it is shown"
Do = Callable[[Live], Outcome]
PARTS = {"sid": 0, "version": 8, "dh": 9, "ek": 41, "ct": 1225, "counter": 2313, "counter-high": 2328, "pn": 2332,
         "salt": 2333, "tag": 2349, "text": 2365, "end": -1}  # fmt: skip


def _changed(change: Flip) -> Do:
    """The changed message first, then as it was: it must be shown once."""

    def do(live: Live) -> Outcome:
        text, message = live.text()
        live.deliver(change(message))
        live.deliver(message)
        live.client.until(f"<bob> {text}")
        return live.goes_on()

    return do


def _mixed(first: int, second: int) -> Do:
    """The header of one message on the body of another; both come as they were afterwards."""

    def do(live: Live) -> Outcome:
        two = [live.text(), live.text()]
        live.deliver(two[first][1][:HEADER] + two[second][1][HEADER:])
        for text, message in two:
            live.deliver(message)
            live.client.until(f"<bob> {text}")
        return live.goes_on()

    return do


def _replayed(live: Live) -> Outcome:
    _, message = live.text()
    live.deliver(message)
    live.deliver(message)
    return live.goes_on()


def _replayed_later(live: Live) -> Outcome:
    """After a turn of both."""
    _, message = live.text()
    live.deliver(message)
    live.proof()
    live.deliver(message)
    return live.goes_on()


def _late_twice(live: Live) -> Outcome:
    """One that was skipped and came late, again."""
    (late, skipped), (_, message) = live.text(), live.text()
    live.deliver(message)
    live.deliver(skipped)
    live.client.until(f"<bob> {late} (late)")
    live.deliver(skipped)
    return live.goes_on()


def _reflected(live: Live) -> Outcome:
    """What the client said, back to it."""
    live.deliver(live.last)
    return live.goes_on()


def _rolled_back(live: Live) -> Outcome:
    """Bob goes back to a state of before, and sends: the same number, another salt."""
    before = copy.copy(live.ratchet)
    live.proof()
    live.deliver(before.text(FORGED))
    return live.goes_on()


def _rolled_back_at_once(live: Live) -> Outcome:
    before = copy.copy(live.ratchet)
    text, message = live.text()
    live.deliver(message)
    live.client.until(f"<bob> {text}")
    live.deliver(before.text(FORGED))
    return live.goes_on()


def _dropped(live: Live) -> Outcome:
    live.text()
    return live.goes_on()


def _reordered(live: Live) -> Outcome:
    (late, skipped), (text, message) = live.text(), live.text()
    live.deliver(message)
    live.client.until(f"<bob> {text}")
    live.deliver(skipped)
    live.client.until(f"<bob> {late} (late)")
    return live.goes_on()


def _a_thousand_and_one(live: Live) -> Outcome:
    """1,000 may be missing, 1,001 not; both are real messages."""
    many = [live.text() for _ in range(1002)]
    live.deliver(many[1001][1])
    for number in (1000, 0, 1001):
        text, message = many[number]
        live.deliver(message)
        live.client.until(f"<bob> {text}")
    return _and_no_more_of_it(live)


def _two_thousand_and_one(live: Live) -> Outcome:
    """2,000 kept in a chat, not one more."""
    for _ in range(2):
        many = [live.text() for _ in range(1001)]
        live.deliver(many[1000][1])
        live.client.until(f"<bob> {many[1000][0]}")
        live.proof()
    (held, first), (beyond, second) = live.text(), live.text()
    live.deliver(second)
    live.deliver(first)
    live.client.until(f"<bob> {held}")
    live.deliver(second)
    live.client.until(f"<bob> {beyond}")
    return _and_no_more_of_it(live)


def _and_no_more_of_it(live: Live) -> Outcome:
    """A chat in which so much is kept is no place for other cases."""
    seen = live.goes_on()
    live.spent = True
    return seen


def _other_type(kind: int) -> Do:
    def do(live: Live) -> Outcome:
        _, message = live.text()
        live.desk.forward(kind, message)
        return live.goes_on()

    return do


def _nothing(live: Live) -> Outcome:
    live.desk.event("frwd", b"")
    return live.goes_on()


def case(name: str, line: str, do: Do, text: str = _BAD, group: str = "ratchet") -> Case[Live]:
    return Case(f"{group}/{name}", line, do, Outcome(Seen.SESSION, detail=text))


CASES: tuple[Case[Live], ...] = (
    *(case(f"changed-{name}", "ratchet-flipped", _changed(flip(at))) for name, at in PARTS.items()),
    case("changed-cut", "ratchet-flipped", _changed(cut)),
    case("changed-longer", "ratchet-flipped", _changed(longer)),
    case("changed-header-alone", "ratchet-flipped", _changed(lambda message: message[:HEADER])),
    case("changed-tag-alone", "ratchet-flipped", _changed(lambda message: message[: HEADER + 16])),
    case("changed-empty", "ratchet-flipped", _changed(lambda _: b"")),
    case("header-of-the-first-on-the-second", "chat-header", _mixed(0, 1)),
    case("header-of-the-second-on-the-first", "chat-header", _mixed(1, 0)),
    case("replayed", "ratchet-replayed", _replayed),
    case("replayed-after-a-turn", "ratchet-replayed", _replayed_later),
    case("late-twice", "ratchet-replayed", _late_twice),
    case("reflected", "ratchet-replayed", _reflected),
    case("rolled-back", "chat-rolled-back", _rolled_back),
    case("rolled-back-at-once", "chat-rolled-back", _rolled_back_at_once),
    case("dropped", "ratchet-order", _dropped, "error: 1 message from bob did not arrive"),
    case("reordered", "ratchet-order", _reordered, "error: 1 message from bob did not arrive"),
    *(case(f"type-{kind}", "chat-turn", _other_type(kind)) for kind in (0, C1, C2, C3, C4, 6, 255)),
    case("nothing", "chat-turn", _nothing),
    # A group of their own: they count what is kept, also of the cases before them.
    case("1001", "chat-skipped", _a_thousand_and_one, group="skipped"),
    case("2001", "chat-skipped", _two_thousand_and_one, group="skipped"),
)
