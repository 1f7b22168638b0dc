"""Live checks of a peer who does not keep to them: the run is over with a line, nothing is shown, the chat goes on."""

from __future__ import annotations

import os
from collections.abc import Callable

from adversary.case import Case, Outcome
from adversary.client_live import Live
from adversary.client_ratchet import Do, case
from interop.base import tlv, u
from interop.chat import RATCHET
from interop.sas import commitment

__all__ = ["CASES"]

_OUT_OF_TURN = "error: live check with bob: the other side is out of turn"
_BAD = "error: a message from bob could not be decrypted; nothing of it is shown"


def _send(live: Live, step: int, data: bytes) -> None:
    live.deliver(live.ratchet.text(None, tlv(7, u(step, 1) + data)))


def _answer(live: Live) -> bytes:
    """TLV 7 of the client's next message."""
    return live.ratchet.open(live.desk.forwarded(RATCHET))[7]


def _checked(do: Callable[[Live], None], *, spends: bool = False) -> Do:
    def run(live: Live) -> Outcome:
        do(live)
        seen = live.goes_on()
        assert "LIVE CHECK with" not in seen.detail
        live.spent = spends
        return seen

    return run


def _asks(live: Live) -> bytes:
    """Bob asks; the value that he has committed to."""
    r_a = os.urandom(32)
    _send(live, 1, commitment(r_a))
    assert _answer(live)[:1] == b"\x02"
    return r_a


def _another_opening(live: Live) -> None:
    _asks(live)
    _send(live, 3, os.urandom(32))


def _too_early(live: Live) -> None:
    """An answer before anything was opened."""
    _asks(live)
    _send(live, 4, b"\x01")


def _reflected(live: Live) -> None:
    live.client.say("/verify live")
    asked = _answer(live)
    _send(live, asked[0], asked[1:])


def _too_many(live: Live) -> None:
    for _ in range(3):
        _asks(live)
        _send(live, 2, bytes(32))
    _send(live, 1, bytes(32))


def _one(step: int, data: bytes) -> Do:
    return _checked(lambda live: _send(live, step, data))


CASES: tuple[Case[Live], ...] = (
    case("reply-first", "check-turn", _one(2, bytes(32)), _OUT_OF_TURN, "check"),
    case("opening-first", "check-turn", _one(3, bytes(32)), _OUT_OF_TURN, "check"),
    case("answer-first", "check-turn", _one(4, b"\x01"), _OUT_OF_TURN, "check"),
    case("not-first", "check-turn", _one(4, b"\x00"), _OUT_OF_TURN, "check"),
    case("answer-too-early", "check-turn", _checked(_too_early), _OUT_OF_TURN, "check"),
    case("another-opening", "check-turn", _checked(_another_opening), "had committed to; somebody may cheat", "check"),
    case("own-commitment", "check-turn", _checked(_reflected), "sent our own commitment back", "check"),
    case("step-9", "ratchet-plaintext", _one(9, bytes(32)), _BAD, "check"),
    case("answer-2", "ratchet-plaintext", _one(4, b"\x02"), _BAD, "check"),
    case("commitment-of-31", "ratchet-plaintext", _one(1, bytes(31)), _BAD, "check"),
    case("a-fourth", "check-turn", _checked(_too_many, spends=True), "asked for more", "check-limit"),
)
