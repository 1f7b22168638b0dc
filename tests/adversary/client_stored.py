"""Prekeys that are not what they say, and stored messages that are not, or no longer, good (protocol §9, §10).

Each case ends with a good start of Bob; or (`prekey/…`: of Carl, with whom there is no session yet) with what was typed
still waiting, and nothing sealed for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from adversary.case import Case, Outcome, Seen
from adversary.client_live import Live
from adversary.client_postbox import DAY, Postbox
from adversary.client_ratchet import Do
from adversary.client_rogue import Flip, flip
from adversary.client_world import FORGED
from interop.base import Identity, now_ms, tlv
from interop.offline import Offline, Prekey, Read

__all__ = ["CASES", "delivered", "wrong_prekey"]

_UNREADABLE = "from bob cannot be read yet"
_NOBODY = "The server has no key of carl to encrypt for"


def _post(live: Live, peer: str = "bob") -> Postbox:
    """The postbox of this client, which has uploaded its prekeys."""
    if live.post is None:
        people = live.stage.people
        live.post = Postbox(live.desk.session, people.ann, getattr(people, peer), live.desk.server)
        live.post.ready()
    return live.post


# Towards the sender -----------------------------------------------------------------------------------------------


def wrong_prekey(make: Callable[[Live], Prekey]) -> Do:
    """`bndl` gives it, with Carl's real bundle."""

    def do(live: Live) -> Outcome:
        post = _post(live, "carl")
        post.give = lambda: make(live)
        live.client.say("msg carl hello")
        number = live.client.until(" to carl").partition(" ")[0]
        post.until(lambda: post.asked > 0)
        why = ""
        while _NOBODY not in why:  # until the reply was looked at
            post.until(lambda pings=post.pings: post.pings > pings)  # type: ignore[misc]
            live.client.say(f"why {number[1:]}")
            why = live.client.until(f"{number} to carl, ")
        assert post.sent == []
        live.client.say(f"delete {number[1:]}")
        seen = live.goes_on()
        live.spent = True
        return seen

    return do


def written_over_a_good_prekey(live: Live) -> None:
    post = _post(live, "carl")
    live.client.say("msg carl hello")
    post.until(lambda: bool(post.sent))
    read, prekey, people = Read.blob(post.sent[0]), post.given[0], live.stage.people
    chat = Offline(people.carl, "ann", people.ann.bundle, live.desk.server, read.invite, False)
    chat.accept(read, prekey)
    ratchet = chat.ratchet()
    found = ratchet.open(read.message)
    assert found[3] == b"hello"
    live.client.until("This is the first message to carl")
    post.deliver(b"\1" + ratchet.text("well", tlv(4, found[1]), tlv(9, found[1])))
    live.client.until("<carl> well")
    live.client.say("history carl 2")
    live.client.until("hello (delivered)")


def _carls(**wrong: object) -> Do:
    return wrong_prekey(lambda live: Prekey(live.stage.people.carl, **({"number": 1, "expires": _later()} | wrong)))  # type: ignore[arg-type]


def _later() -> int:
    return now_ms() + DAY


def _of_mallory(live: Live) -> Prekey:
    return Prekey(live.stage.people.mallory, 1, _later(), user="carl")


def _signed_by_mallory(live: Live) -> Prekey:
    people = live.stage.people
    return Prekey(Identity("carl", people.mallory.keys), 1, _later(), key_id=people.carl.key_id)


def _low_order(live: Live) -> Prekey:
    good = Prekey(live.stage.people.carl, 1, _later())
    return Prekey(good.me, 1, _later(), temp_pub=bytes(32) + good.temporary.public()[32:])


def _coefficients(live: Live) -> Prekey:
    return Prekey(live.stage.people.carl, 1, _later(), temp_pub=bytes([9]) * 32 + b"\xff" * 1184)


def _ratchet(live: Live) -> Prekey:
    return Prekey(live.stage.people.carl, 1, _later(), ratchet=bytes(32) + b"\xff" * 1184)


# Towards the receiver ---------------------------------------------------------------------------------------------


def delivered(live: Live, blob: bytes, unreadable: bool) -> None:
    """It is acknowledged whatever it is; `unreadable` where a line says so."""
    _post(live).deliver(blob)
    if unreadable:
        live.client.until(_UNREADABLE)


def _good(live: Live, *, last: bool = False) -> tuple[Offline, bytes]:
    """A start of Bob with a text that was not shown yet, delivered and shown: (start, blob)."""
    post = _post(live)
    assert post.last is not None
    start = post.start(post.last if last else post.one_time.pop())
    live.ratchet = start.ratchet()
    live.stage.secrets += [start.prk, live.ratchet.rk, live.ratchet.cks]
    before = copy.copy(live.ratchet)
    text, message = live.text()
    blob = start.blob(message)
    post.deliver(blob)
    live.client.until(f"<bob> {text}")
    live.before = before
    return start, blob


def _goes_on(live: Live) -> Outcome:
    _good(live)
    return live.goes_on()


def _used_twice(live: Live) -> Outcome:
    """Two starts over one one-time prekey: the server, or Bob, has kept it."""
    post = _post(live)
    prekey = post.one_time[-1]
    _good(live)
    again = post.start(prekey)
    delivered(live, again.blob(again.ratchet().text(FORGED)), unreadable=True)
    return _goes_on(live)


def _unknown_number(live: Live) -> Outcome:
    post = _post(live)
    start = post.start(post.one_time[-1], number=0x7FFFFFFF)
    delivered(live, start.blob(start.ratchet().text(FORGED)), unreadable=True)
    return _goes_on(live)


def _other_number(live: Live) -> Outcome:
    """The number of one prekey, the keys of another."""
    post = _post(live)
    start = post.start(post.one_time[-1], number=post.one_time[0].number)
    delivered(live, start.blob(start.ratchet().text(FORGED)), unreadable=True)
    return _goes_on(live)


def _replayed(*, last: bool) -> Do:
    def do(live: Live) -> Outcome:
        _, blob = _good(live, last=last)
        delivered(live, blob, unreadable=False)
        return _goes_on(live)

    return do


def _replayed_with_another_message(live: Live) -> Outcome:
    """Bob's client was rolled back to before its first message: the same C1 and C3, another text."""
    start, _ = _good(live, last=True)
    delivered(live, start.blob(live.before.text(FORGED)), unreadable=True)
    return _goes_on(live)


def _parts_of_two(part: str) -> Do:
    """C1 of one start, C3 of another."""

    def do(live: Live) -> Outcome:
        post = _post(live)
        start, other = post.start(post.one_time[-1]), post.start(post.one_time[-1])
        message = start.ratchet().text(FORGED)
        setattr(start, part, getattr(other, part))
        delivered(live, start.blob(message), unreadable=True)
        return _goes_on(live)

    return do


def _changed(part: str, change: Flip) -> Do:
    """By the server; a one-time prekey must serve again after that."""

    def do(live: Live) -> Outcome:
        post = _post(live)
        start = post.start(post.one_time[-1])
        read = Read.blob(start.blob(start.ratchet().text(FORGED)))
        parts = {"c1": read.c1, "c3": read.c3, "message": read.message}
        parts[part] = change(parts[part])
        start.c1, start.c3 = parts["c1"], parts["c3"]
        delivered(live, start.blob(parts["message"]), unreadable=True)
        return _goes_on(live)

    return do


def _other_start(**wrong: Any) -> Do:
    def do(live: Live) -> Outcome:
        post = _post(live)
        start = post.start(post.one_time[-1], **wrong)
        delivered(live, start.blob(start.ratchet().text(FORGED)), unreadable=True)
        return _goes_on(live)

    return do


def _other_blob(blob: bytes) -> Do:
    def do(live: Live) -> Outcome:
        delivered(live, blob, unreadable=True)
        return _goes_on(live)

    return do


def _rolled_back(live: Live) -> Outcome:
    """Bob goes back to before his first message, and goes on: the same number, another salt."""
    _good(live)
    delivered(live, b"\1" + live.before.text(FORGED), unreadable=True)
    return _goes_on(live)


def _a_thousand_and_one(live: Live) -> Outcome:
    _good(live)
    many = [live.text() for _ in range(1002)]
    delivered(live, b"\1" + many[1001][1], unreadable=True)
    for number in (1000, 0, 1001):
        text, message = many[number]
        delivered(live, b"\1" + message, unreadable=False)
        live.client.until(f"<bob> {text}")
    seen = live.goes_on()
    live.spent = True
    return seen


def _case(name: str, line: str, do: Do, text: str = _UNREADABLE) -> Case[Live]:
    return Case(f"{'prekey' if text is _NOBODY else 'stored'}/{name}", line, do, Outcome(Seen.SESSION, detail=text))


CASES: tuple[Case[Live], ...] = (
    _case("expired", "chat-prekey", _carls(expires=1), _NOBODY),
    _case("of-another-user", "chat-prekey", _carls(user="dora"), _NOBODY),
    _case("of-another-spelling", "chat-prekey", _carls(user="Carl"), _NOBODY),
    _case("of-another-key", "chat-prekey", wrong_prekey(_of_mallory), _NOBODY),
    _case("signed-by-another", "chat-prekey", wrong_prekey(_signed_by_mallory), _NOBODY),
    _case("label-of-c2", "chat-prekey", _carls(label=b"MessageApp v2, chat key offer (C2)"), _NOBODY),
    _case("changed", "chat-prekey", _carls(on_core=flip(3)), _NOBODY),
    _case("low-order", "chat-temporary", wrong_prekey(_low_order), _NOBODY),
    _case("coefficients", "chat-temporary", wrong_prekey(_coefficients), _NOBODY),
    _case("ratchet", "ratchet-keys", wrong_prekey(_ratchet), _NOBODY),
    _case("used-twice", "chat-prekey", _used_twice),
    _case("unknown-number", "chat-prekey", _unknown_number),
    _case("other-number", "chat-prekey", _other_number),
    _case("replayed", "chat-prekey", _replayed(last=False), ""),
    _case("replayed-on-the-last-resort", "chat-last-resort", _replayed(last=True), ""),
    _case("c3-replayed-with-another-message", "chat-last-resort", _replayed_with_another_message),
    _case("c1-of-another", "chat-fields", _parts_of_two("c1")),
    _case("c3-of-another", "chat-fields", _parts_of_two("c3")),
    _case("c1-changed", "chat-fields", _changed("c1", flip(8))),
    _case("c1-tlv-changed", "chat-fields", _changed("c1", flip(-1))),
    _case("c3-changed", "chat-fields", _changed("c3", flip(40))),
    _case("c3-sealed-changed", "chat-fields", _changed("c3", flip(-1))),
    _case("message-changed", "ratchet-flipped", _changed("message", flip(-1))),
    _case("other-suite", "chat-suite", _other_start(suites=(2,))),
    _case("other-server", "chat-fields", _other_start(server="other.example.org")),
    _case("other-receiver", "chat-third-user", _other_start(peer="carl")),
    _case("no-blob", "ratchet-plaintext", _other_blob(b"\0")),
    _case("unknown-kind", "ratchet-plaintext", _other_blob(b"\3" + bytes(3000))),
    _case("short-message", "ratchet-flipped", _other_blob(b"\1short")),
    _case("unknown-session", "ratchet-sealed", _other_blob(b"\1" + bytes(3000))),
    _case("rolled-back", "chat-rolled-back", _rolled_back),
    _case("1001", "chat-skipped", _a_thousand_and_one),
)
