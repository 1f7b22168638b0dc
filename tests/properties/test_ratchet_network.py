"""Two ratchets over a hostile network: it drops, delays, reorders, repeats, mixes and forges, and steals states.

And over two disks: programs end in mid-conversation, or a step could not be stored and is taken back.

Whatever it does: each message opens at most once and to what was sent; nothing that was not sent opens; what fails
changes nothing; the gaps that are shown are the gaps there are; a stolen state is worth nothing after a round trip.
"""

from __future__ import annotations

import copy
import os
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from messageapp.e2ee.ratchet import MAX_SKIPPED_CHAIN, Ratchet, Undecryptable
from support.pair import ratchets

HEADER = 2349


def stolen(of: Ratchet) -> Ratchet:
    """States are immutable; only the dict of skipped keys is shared and must be copied."""
    thief = copy.copy(of)
    thief._skipped = dict(of._skipped)
    return thief


class Network(RuleBasedStateMachine):
    """Every message is kept for ever: the network may deliver any of them again at any time."""

    @initialize()
    def start(self) -> None:
        self.ends = list(ratchets())
        self.sent: list[tuple[int, bytes, bytes]] = []  # (sender, text, message)
        self.opened: set[int] = set()
        self.missing = [0, 0]  # as reported to the layer above
        self.number = 0

    @rule(sender=st.integers(0, 1), extra=st.binary(max_size=8))
    def send(self, sender: int, extra: bytes) -> None:
        end = self.ends[sender]
        if not end.can_send:
            return
        text = b"%d from %d " % (self.number, sender) + extra
        self.number += 1
        self.sent.append((sender, text, end.encrypt(text, os.urandom)))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def deliver_any(self, data: st.DataObject) -> None:
        """Also again, late, or out of order."""
        self._deliver(data.draw(st.integers(0, len(self.sent) - 1)))

    @precondition(lambda self: self.sent)
    @rule()
    def deliver_newest(self) -> None:
        self._deliver(len(self.sent) - 1)

    @precondition(lambda self: len(self.opened) < len(self.sent))
    @rule()
    def deliver_oldest_waiting(self) -> None:
        self._deliver(min(set(range(len(self.sent))) - self.opened))

    def _deliver(self, index: int) -> None:
        sender, text, message = self.sent[index]
        receiver = 1 - sender
        end = self.ends[receiver]
        if index in self.opened:
            self._refused(end, message)
            return
        opened = end.decrypt_untrusted(message, 0.0)
        assert opened.plaintext == text
        self.opened.add(index)
        self.missing[receiver] += opened.missing - opened.late
        assert opened.late == any(i > index for i in self.opened if self.sent[i][0] == sender)

    def _refused(self, end: Ratchet, message: bytes) -> None:
        before = (end._state, dict(end._skipped))
        with pytest.raises(Undecryptable):
            end.decrypt_untrusted(message, 0.0)
        assert (end._state, end._skipped) == before

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), bit=st.integers(0, 7))
    def flip(self, data: st.DataObject, bit: int) -> None:
        sender, _, message = self.sent[data.draw(st.integers(0, len(self.sent) - 1))]
        changed = bytearray(message)
        changed[data.draw(st.integers(0, len(message) - 1))] ^= 1 << bit
        self._refused(self.ends[1 - sender], bytes(changed))

    @precondition(lambda self: len(self.sent) > 1)
    @rule(data=st.data(), cut=st.sampled_from([8, 41, 1225, 2313, 2333, HEADER, HEADER + 16]))
    def mix(self, data: st.DataObject, cut: int) -> None:
        """The beginning of one message on the end of another."""
        pick = st.integers(0, len(self.sent) - 1)
        sender, _, one = self.sent[data.draw(pick)]
        _, _, two = self.sent[data.draw(pick)]
        if one[:cut] + two[cut:] not in (one, two):
            self._refused(self.ends[1 - sender], one[:cut] + two[cut:])

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def reflect(self, data: st.DataObject) -> None:
        sender, _, message = self.sent[data.draw(st.integers(0, len(self.sent) - 1))]
        self._refused(self.ends[sender], message)

    @rule(garbage=st.binary(max_size=60), sealed=st.binary(max_size=30), to=st.integers(0, 1))
    def forge(self, garbage: bytes, sealed: bytes, to: int) -> None:
        self._refused(self.ends[to], garbage)
        self._refused(self.ends[to], b"chat id.\x02" + os.urandom(32 + 1184 + 1088) + bytes(36) + sealed)

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """From the bytes on the disk, which are all there is, and always the same."""
        end = self.ends[which]
        stored = end.encode()
        self.ends[which] = Ratchet.decode(stored, end.binding)
        assert self.ends[which].encode() == stored

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def a_step_that_is_not_stored(self, data: st.DataObject) -> None:
        """As if it had not been: whatever it was may be done again."""
        sender, text, message = self.sent[data.draw(st.integers(0, len(self.sent) - 1))]
        end = self.ends[1 - sender]
        before, stored = end.snapshot(), end.encode()
        for _ in range(2):
            with suppress(Undecryptable):
                assert end.decrypt_untrusted(message, 0.0).plaintext == text
            if end.can_send:
                end.encrypt(b"never sent", os.urandom)
            end.restore(before)
            assert end.encode() == stored

    @precondition(lambda self: self.ends[1].can_send)
    @rule(victim=st.integers(0, 1))
    def steal_and_heal(self, victim: int) -> None:
        """The thief listens only. With the peer's next turn the victim makes new keys; their round trip ends it."""
        thief = stolen(self.ends[victim])
        # The first two end turns under way, whose keys the thief may have.
        for sender in (1 - victim, victim, 1 - victim, victim, 1 - victim):
            self.send(sender, b"")
            self._deliver(len(self.sent) - 1)
        self._refused(thief, self.sent[-1][2])

    @invariant()
    def what_is_missing_is_what_is_kept(self) -> None:
        if not hasattr(self, "ends"):
            return
        for receiver in (0, 1):
            assert self.ends[receiver].skipped_count == self.missing[receiver]

    def teardown(self) -> None:
        """In the end the network delivers what it held back: every message opens, each once."""
        if not hasattr(self, "ends"):
            return
        for index in range(len(self.sent)):
            self._deliver(index)
        assert self.opened == set(range(len(self.sent)))
        assert [end.skipped_count for end in self.ends] == [0, 0]
        for _, _, message in self.sent:
            for end in self.ends:
                self._refused(end, message)


Network.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestNetwork = Network.TestCase


@pytest.mark.parametrize("seed", range(20))
def test_a_random_schedule_with_loss(seed: int) -> None:
    """Long runs, most of whose messages never arrive: what arrives opens, in any order, within the limits."""
    import random

    source = random.Random(seed)
    ends = ratchets()
    waiting: list[tuple[int, bytes, bytes]] = []
    lost = opened = 0
    for number in range(300):
        sender = source.randrange(2)
        if ends[sender].can_send:
            text = b"%d" % number
            waiting.append((sender, text, ends[sender].encrypt(text, os.urandom)))
        while waiting and source.random() < 0.4:
            sender, text, message = waiting.pop(source.randrange(len(waiting)))
            if source.random() < 0.3:
                lost += 1
                continue
            assert ends[1 - sender].decrypt_untrusted(message, float(number)).plaintext == text
            opened += 1
            with pytest.raises(Undecryptable):
                ends[1 - sender].decrypt_untrusted(message, float(number))
    assert opened > 50
    assert lost > 10
    assert sum(end.skipped_count for end in ends) <= lost + len(waiting) < MAX_SKIPPED_CHAIN
