"""A disk that fails, or a client that dies, at any statement while messages are taken in (protocol §16, rules 2 and 4).

Afterwards either everything of the batch is there or nothing; and when the server delivers it again, everything once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from messageapp.client import events as ev
from messageapp.clock import DAY_MS
from messageapp.errors import UnusableSetup
from messageapp.store.states import State
from messageapp.store.trust import Pin
from messageapp.wire.mail_forms import Delivery, PrekeyState
from messageapp_keys.prekeys import Prekey, PrekeyKind
from support.mail_ends import SERVER, End, two_ends
from support.world import identity


async def _first_contact() -> tuple[End, End, list[Delivery]]:
    """Under a one-time prekey, with what follows."""
    alice, bob = await two_ends()
    number = alice.messages.write("bob", "helo")
    alice.messages.write("bob", "a second one")
    sent = alice.post(bob)
    alice.messages.edit(number, "hello")
    alice.messages.react(number, "!")
    alice.messages.set_expiry("bob", 600)
    return alice, bob, sent + alice.post(bob)


async def _last_resort() -> tuple[End, End, list[Delivery]]:
    alice, bob = await two_ends()
    bob.prekeys_served = [each for each in bob.prekeys_served if each.kind is PrekeyKind.LAST_RESORT]
    alice.messages.write("bob", "one")
    return alice, bob, alice.post(bob)


async def _among_others() -> tuple[End, End, list[Delivery]]:
    """In a session that both have: texts, receipts, junk, and a request for something that was lost."""
    alice, bob = await two_ends()
    alice.messages.write("bob", "before")
    await alice.exchange(bob)
    bob.messages.write("alice", "lost")
    (lost,) = bob.post(alice)
    bob.messages.write("alice", "not lost")
    await alice.take(bob.post(alice))
    sent = [alice.deliver(bob, b"j" * 16, b"\1junk"), alice.note(bob, resend=(lost.id,))]
    alice.messages.write("bob", "after")
    return alice, bob, sent + alice.post(bob)


async def _healing() -> tuple[End, End, list[Delivery]]:
    """What was asked for comes, over a new session."""
    alice, bob = await two_ends()
    alice.messages.write("bob", "before")
    await alice.exchange(bob)
    bob.sessions.drop("alice")
    alice.messages.write("bob", "found again")
    await bob.take(alice.post(bob))
    await alice.take(bob.post(alice))
    return alice, bob, alice.post(bob)


async def _held() -> tuple[End, End, list[Delivery]]:
    alice, bob = await two_ends()
    await bob.take([alice.note(bob, text="before")])
    pin = bob.trust.pin("alice", SERVER)
    assert pin is not None
    bob.trust.block_pin(pin, "reset", identity("alice's new key").bundle)
    return alice, bob, [alice.note(bob, text="later"), alice.note(bob, receipts=())]


STORIES = {
    "first contact": _first_contact,
    "last resort": _last_resort,
    "among others": _among_others,
    "healing": _healing,
    "held": _held,
}


def _outcome(end: End) -> list[Any]:
    """What the user and the peer can tell of it."""
    lines = [(each.number, each.text, each.state, each.cause, each.reactions) for each in end.history("alice")]
    notes = [(note.receipts, note.resend, note.text) for note in end.notes("alice")]
    counts = [end.count(table) for table in ("sessions", "prekeys", "starts", "seen", "held", "heals", "pins")]
    return [lines, notes, counts]


def _warm(end: End, pin: Pin | None) -> None:
    """Sessions are in memory, as after the messages before."""
    if pin is not None:
        end.sessions.newest("alice", pin.bundle.key_id)


def _told(events: Sequence[ev.Event]) -> list[str]:
    return [repr(event) for event in events]


@pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies"])
@pytest.mark.parametrize("story", STORIES)
async def test_all_or_nothing_and_once(story: str, dies: bool) -> None:
    with trio.fail_after(120):
        alice, bob, sent = await STORIES[story]()
        untouched, known = bob.twin(), bob.trust.pin("alice", SERVER)
        smooth = bob.twin()
        _warm(smooth, known)
        before_statements = smooth.database.statements
        told = _told((await smooth.take(sent)).events)
        statements = smooth.database.statements - before_statements
        assert statements > 10
        for at in range(1, statements + 1, 4 if dies else 1):
            end = untouched.twin()
            _warm(end, known)
            before = end.database.dump()
            with end.failing(at), pytest.raises(UnusableSetup):
                await end.take(sent)
            assert end.database.dump() == before, at
            if dies:
                end.restart()
            assert _told((await end.take(sent)).events) == told, at
            assert _outcome(end) == _outcome(smooth), at
            if at % 8 == 1:  # and the sessions of both go on
                other = alice.twin()
                if story != "held":
                    end.messages.write("alice", "still here")
                    await end.exchange(other)
                    assert end.history("alice")[-1].state is State.DELIVERED, at
                assert (await end.take(sent)).texts == 0


async def test_opening_what_was_held_is_all_or_nothing_too() -> None:
    with trio.fail_after(60):
        alice, bob = await two_ends()
        bob.log.unavailable = True
        await bob.take([alice.note(bob, text="one"), alice.note(bob, receipts=()), alice.note(bob, text="two")])
        bob.log.unavailable = False
        smooth = bob.twin()
        before_statements = smooth.database.statements
        told = _told((await smooth.incoming.reconsider()).events)
        statements = smooth.database.statements - before_statements
        assert smooth.texts("alice") == ["one", "two"]
        undone = 0
        for at in range(1, statements + 1):
            end = bob.twin()
            before = end.database.dump()
            with end.failing(at), pytest.raises(UnusableSetup):
                await end.incoming.reconsider()
            if end.database.dump() == before:  # else all is done, and only the look whether there is more has failed
                undone += 1
                assert _told((await end.incoming.reconsider()).events) == told, at
            assert _outcome(end) == _outcome(smooth), at
        assert 8 > statements - undone > 0


async def test_a_new_number_is_shown_with_the_first_text_whatever_failed_before() -> None:
    with trio.fail_after(60):
        alice, bob = await two_ends()
        await bob.take([alice.note(bob, receipts=())])  # pins the key, and shows nothing
        sent = [alice.note(bob, text="one"), alice.note(bob, text="two")]
        events: list[ev.Event] = []
        at = 0
        while not events:
            at += 1
            try:
                with bob.failing(at):
                    events = (await bob.take(sent)).events
            except UnusableSetup:
                continue
        assert at > 20
        firsts = [event.first for event in events if isinstance(event, ev.MessageReceived)]
        assert firsts == [alice.identity.bundle, None]


async def test_prekeys_are_on_disk_before_the_server_has_them() -> None:
    with trio.fail_after(60):
        at = 0
        while True:
            at += 1
            end = End("alice")
            served: list[Prekey] = []

            async def upload(prekeys: Sequence[Prekey], end: End = end, served: list[Prekey] = served) -> None:
                for each in prekeys:
                    assert end.prekeys.find(each.id) is not None
                served += prekeys

            state = PrekeyState(51, 0, True, 30 * DAY_MS)
            try:
                with end.failing(at):
                    await end.prekeys.upkeep(state, upload)
            except UnusableSetup:
                end.restart()
                for each in served:
                    found = end.prekeys.find(each.id)
                    assert found is not None
                    assert found.public == each
                continue
            break
        assert at > 10
        assert len(served) == 1
