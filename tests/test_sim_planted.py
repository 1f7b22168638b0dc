"""A simulation that finds nothing is worth nothing: bugs are planted, and it finds each and tells it in a few steps."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from click.testing import CliRunner

from messageapp.client.chat import Chat
from messageapp.client.conversations import Conversation
from messageapp.e2ee.ratchet import Undecryptable
from messageapp.e2ee.session import ChatSession, Received
from messageapp.link import Link
from messageapp.server.mailbox import Mailbox
from messageapp.server.outbox import Outbox
from messageapp.server.presence import Presence
from messageapp.server.router import Router
from messageapp.server.session import Session
from messageapp.sim.plan import FAULTS, Plan, make_plan
from messageapp.sim.run import Result, run_plan
from messageapp.sim.shrink import shrink
from messageapp.store import arrivals
from messageapp.wire.commands import ByeReason
from messageapp_cli.sim import sim

MOST_SEEDS = 200
Patch = pytest.MonkeyPatch


def replays_are_taken(patch: Patch) -> None:
    """The ratchet opens what it has opened before."""
    real, seen = ChatSession.open_untrusted, dict[bytes, Received]()

    def opened(self: ChatSession, message: bytes, now: float) -> Received:
        try:
            return seen.setdefault(message, real(self, message, now))
        except Undecryptable:
            if message in seen:
                return seen[message]
            raise

    patch.setattr(ChatSession, "open_untrusted", opened)


def a_full_queue_drops_without_a_word(patch: Patch) -> None:
    real = Outbox.relay

    def relay(self: Outbox, records: Sequence[Any]) -> int:
        real(self, records)
        return len(records)

    patch.setattr(Outbox, "relay", relay)


def a_queue_has_no_bounds(patch: Patch) -> None:
    def put(self: Outbox, packed: Any, *, always: bool = False) -> bool:
        self._pass_on((packed,))
        return True

    patch.setattr(Outbox, "_fitting", lambda self, records: records)
    patch.setattr(Outbox, "put", put)


def calls_outlive_their_sessions(patch: Patch) -> None:
    """Who is cut stays in his chat for the server."""
    real = Presence._apply
    patch.setattr(Presence, "_apply", lambda self, name, event: None if name == "gone" else real(self, name, event))


def held_texts_vanish(patch: Patch) -> None:
    async def give_back(self: Chat) -> None:
        self._left_over.clear()

    patch.setattr(Chat, "give_back", give_back)


def held_texts_go_to_the_next_peer(patch: Patch) -> None:
    real = Chat.drop

    def drop(self: Chat, conversation: Conversation, reason: str, *, cut: bool = False) -> bool:
        held, self._held = self._held, []
        dropped = real(self, conversation, reason, cut=cut)
        self._held = held
        return dropped

    patch.setattr(Chat, "drop", drop)


def the_rest_of_a_send_is_lost(patch: Patch) -> None:
    real = Link._rest
    patch.setattr(Link, "_rest", lambda self, data: real(self, data) if self._direct is None else real(self, data)[:0])


def gaps_are_not_told(patch: Patch) -> None:
    real = ChatSession.open_untrusted

    def opened(self: ChatSession, message: bytes, now: float) -> Received:
        found = real(self, message, now)
        return Received(found.envelope, 0, found.late)

    patch.setattr(ChatSession, "open_untrusted", opened)


def two_records_change_places(patch: Patch) -> None:
    """Those that came in a row: of each row the first two."""
    real = Outbox.relay

    def relay(self: Outbox, records: Sequence[Any]) -> int:
        return real(self, [*records[1::-1], *records[2:]])

    patch.setattr(Outbox, "relay", relay)


def who_loses_his_peer_is_too_old(patch: Patch) -> None:
    """The session of whoever talked with one that is cut ends too, for its age."""
    real = Router.leave

    def leave(self: Router, session: Session) -> None:
        peer = self._presence.chat_peer(session) if session.ended is None else None
        real(self, session)
        if peer is not None:
            peer.end(ByeReason.AGE)

    patch.setattr(Router, "leave", leave)


def nothing_is_stored(patch: Patch) -> None:
    """The server says that it has the message, and has not."""
    patch.setattr(Mailbox, "_add", lambda self, *arguments: 1)


def the_ratchet_is_not_stored(patch: Patch) -> None:
    """What is on the disk is where the session began."""
    real = ChatSession.encode
    known = dict[bytes, bytes]()
    patch.setattr(ChatSession, "encode", lambda self: known.setdefault(self.chat_id + self.user.encode(), real(self)))


def what_was_taken_in_is_not_known_again(patch: Patch) -> None:
    patch.setattr(arrivals, "was_seen", lambda *arguments: False)


Plant = Callable[[Patch], None]
PLANTED: list[tuple[Plant, tuple[str, ...], str, int]] = [
    (replays_are_taken, ("relay",), "no text twice|nothing waits|missing texts are counted", 5),
    (a_full_queue_drops_without_a_word, ("slow",), "none lost without a line|nothing waits", 4),
    (a_queue_has_no_bounds, ("slow",), "queues are bounded|no unexpected exception", 5),
    (calls_outlive_their_sessions, ("cut", "reset"), "both ends agree", 4),
    (held_texts_vanish, ("relay", "reset"), "none lost without a line", 5),
    (held_texts_go_to_the_next_peer, ("relay", "reset"), "texts reach whom|none lost|both ends|a story", 6),
    (the_rest_of_a_send_is_lost, ("split",), "nobody breaks|nobody is kept out|both ends agree|no session ends", 4),
    (gaps_are_not_told, ("relay",), "missing texts are counted|nothing waits", 5),
    (two_records_change_places, ("slow",), "texts come in order", 4),
    (two_records_change_places, tuple(FAULTS), "texts come in order", 4),
    (who_loses_his_peer_is_too_old, ("cut", "reset"), "no session ends without a reason", 4),
    (who_loses_his_peer_is_too_old, tuple(FAULTS), "no session ends without a reason", 4),
]
"""(the bug, the faults to try, what it breaks, steps that are enough to show it)"""
PLANTED_MAIL: list[tuple[Plant, tuple[str, ...], str, int]] = [
    (nothing_is_stored, (), "nothing waits", 2),
    (the_ratchet_is_not_stored, (), "out of step|nothing waits|no text twice|nothing acknowledged", 4),
    (what_was_taken_in_is_not_known_again, ("cut", "reset"), "out of step|no text twice", 5),
]
"""The same, of what the server stores, with two users."""


BEGIN: dict[Plant, int] = {
    replays_are_taken: 22,
    held_texts_vanish: 9,
    held_texts_go_to_the_next_peer: 9,
    a_queue_has_no_bounds: 28,
}
"""The seed to try first, where those before are known to show nothing, or at length."""


def find(faults: Sequence[str], users: int = 3, first: int = 1) -> tuple[int, Plan, Result]:
    for seed in range(first, first + MOST_SEEDS):
        plan = make_plan(seed, users, 25, faults)
        result = run_plan(plan)
        if result.broken is not None:
            return seed, plan, result
    raise AssertionError(f"not found with {MOST_SEEDS} seeds")


@pytest.mark.parametrize(
    ("plant", "faults", "breaks", "steps", "users"),
    [(*row, users) for rows, users in ((PLANTED, 3), (PLANTED_MAIL, 2)) for row in rows],
    ids=[row[0].__name__ for row in (*PLANTED, *PLANTED_MAIL)],
)
def test_a_planted_bug_is_found_and_told_shortly(
    monkeypatch: pytest.MonkeyPatch, plant: Plant, faults: tuple[str, ...], breaks: str, steps: int, users: int
) -> None:
    plant(monkeypatch)
    _, plan, result = find(faults, users, BEGIN.get(plant, 1))
    short, told = shrink(plan, result)
    assert told.broken is not None
    assert re.search(breaks, told.broken.invariant), told.broken
    assert len(short.steps) <= steps, "\n".join(told.lines)
    assert run_plan(short) == told
    monkeypatch.undo()
    assert run_plan(short).broken is None  # it was the bug


def test_a_failure_prints_its_history_and_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls_outlive_their_sessions(monkeypatch)
    seed, _, _ = find(("cut",))
    found = CliRunner().invoke(
        sim, ["--seed", str(seed), "--seeds", "3", "--steps", "25", "--faults", "cut"], standalone_mode=False
    )
    assert found.return_value == 1
    assert f"seed {seed} breaks an invariant, with " in found.output
    (command,) = re.findall("^replay: (.*)", found.output, re.MULTILINE)
    again = CliRunner().invoke(sim, shlex.split(command)[2:], standalone_mode=False)
    assert again.return_value == 1
    assert found.output.endswith(again.output)
    monkeypatch.undo()
    assert CliRunner().invoke(sim, shlex.split(command)[2:], standalone_mode=False).return_value == 0
