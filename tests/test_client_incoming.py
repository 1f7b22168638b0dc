"""Stored messages that come in: opened once, answered once, and what is wrong with them (protocol §9.3, §16)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import trio

from messageapp.client import events as ev
from messageapp.client import incoming
from messageapp.client.healing import AGAIN_MS, HEAL_TRIES, HEALS_PER_HOUR
from messageapp.client.resending import _RECENT_MS, CHANGES, NOTHING_LEFT
from messageapp.clock import DAY_MS
from messageapp.e2ee.offline import split_blob_untrusted
from messageapp.e2ee.ratchet import sid_of_untrusted
from messageapp.errors import UnusableSetup
from messageapp.store import outbox
from messageapp.store.states import Cause, State
from messageapp.wire.mail_forms import Delivery
from messageapp_keys.prekeys import PrekeyKind
from support.mail_ends import SERVER, End, two_ends
from support.world import identity


async def test_a_first_message_comes_with_the_key_that_was_pinned_for_it_and_is_confirmed() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        number = alice.messages.write("bob", "see you tomorrow")
        taken = await bob.take(alice.post(bob))
        (event,) = taken.events
        assert event == ev.MessageReceived("alice", 1, "see you tomorrow", alice.ms, first=alice.identity.bundle)
        assert (taken.queued, taken.texts) == (True, 1)
        assert bob.trust.pin("alice", "chat.example").bundle == alice.identity.bundle  # type: ignore[union-attr]
        assert bob.log.heard == [("alice", b"a checkpoint")]
        assert bob.count("prekeys") == 4  # the one-time prekey is used up
        taken = await alice.take(bob.post(alice))
        assert taken.events == [ev.MessageChanged(number, "bob", State.DELIVERED, Cause.NONE)]
        assert alice.line("bob") == (State.DELIVERED, Cause.NONE, "see you tomorrow")
        assert not alice.waiting()
        assert not bob.waiting()


async def test_two_write_to_each_other_over_one_session_that_outlives_both_clients() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        for round in range(4):
            for writer, reader in ((alice, bob), (bob, alice)):
                writer.messages.write(reader.name, f"{writer.name} {round}")
                await writer.exchange(reader)
                writer.restart()
                reader.restart()
        said = [f"{who} {round}" for round in range(4) for who in ("alice", "bob")]
        assert alice.texts("bob") == bob.texts("alice") == said
        assert {message.state for message in alice.history("bob")} == {State.DELIVERED, State.RECEIVED}
        assert alice.count("sessions") == bob.count("sessions") == 1
        (row,) = alice.database.inner.execute("SELECT confirmed, confirms FROM sessions")
        assert row == (1, 1)


# twice ---------------------------------------------------------------------------------------------------------------


async def test_the_same_bytes_again_are_shown_once_and_confirmed_again() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        alice.messages.write("bob", "once")
        sent = alice.post(bob)
        await bob.take(sent)
        for again in (sent, sent * 2):
            taken = await bob.take(again)
            assert taken.events == []
            assert bob.texts("alice") == ["once"]
        receipts = [note.receipts for note in bob.notes("alice")]
        assert receipts == [(sent[0].id,)] * 3
        assert bob.count("sessions") == 1


async def test_the_same_id_in_other_bytes_is_shown_once_and_confirmed_again() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        first = alice.note(bob, text="once")
        again = alice.note(bob, id=first.id, text="once")
        assert first.blob != again.blob
        taken = await bob.take([first, again])
        assert len(taken.events) == taken.texts == 1
        assert [note.receipts for note in bob.notes("alice")] == [(first.id,)]


async def test_what_was_heard_in_a_chat_is_known_when_it_comes_by_mail() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        await bob.take([alice.note(bob, text="first")])
        again = alice.note(bob, text="said in a chat")
        message = again.blob[1:]
        stored = bob.sessions.by_sid("alice", sid_of_untrusted(message))
        assert stored is not None
        with bob.sessions.changing(stored):
            received = stored.session.open_untrusted(message, bob.ms / 1000)
            effects = bob.incoming.apply(stored, "alice", received, message, live=True)
        assert effects.confirm == [again.id]
        assert effects.events == [ev.TextReceived("alice", "said in a chat", bob.ms, False, 2)]
        taken = await bob.take([again])
        assert (taken.events, taken.texts) == ([], 0)
        assert bob.notes("alice")[-1].receipts == (again.id,)
        assert bob.texts("alice") == ["first", "said in a chat"]


# what does not open --------------------------------------------------------------------------------------------------


async def test_a_message_of_a_session_that_is_lost_is_asked_for_and_shown_in_its_place() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        alice.messages.write("bob", "one")
        await alice.exchange(bob)
        bob.sessions.drop("alice")
        alice.ms += 1000
        alice.messages.write("bob", "two")
        alice.messages.write("bob", "three")
        taken = await bob.take(alice.post(bob))
        assert taken.events == [ev.MessageUnreadable("alice", 2), ev.MessageUnreadable("alice", 3)]
        assert bob.line("alice") == (State.UNREADABLE, Cause.ASKED_AGAIN, None)
        (note,) = bob.notes("alice")  # one request for both
        assert note.resend == tuple(message.id for message in alice.history("bob")[1:])
        bob.messages.write("alice", "meanwhile")  # goes over the new session, too
        await alice.take(bob.post(alice))
        bob.ms += 5000
        taken = await bob.take(alice.post(bob))
        assert [event for event in taken.events if isinstance(event, ev.MessageReceived)] == [
            ev.MessageReceived("alice", 2, "two", alice.ms, healed=True),
            ev.MessageReceived("alice", 3, "three", alice.ms, healed=True),
        ]
        assert bob.texts("alice") == ["one", "two", "three", "meanwhile"]
        assert bob.history("alice")[1].cause is Cause.HEALED
        await bob.exchange(alice)
        assert {message.state for message in alice.history("bob") if message.own} == {State.DELIVERED}
        (asked,) = bob.database.inner.execute("SELECT count(*) FROM heals WHERE id <> x''").fetchone()
        assert asked == 0


async def test_the_same_unreadable_bytes_again_ask_for_nothing_more() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        junk = alice.deliver(bob, bytes(16), b"\1junk")
        await bob.take([junk])
        taken = await bob.take([junk, junk])
        assert (taken.events, len(bob.notes("alice"))) == ([], 1)


@pytest.mark.parametrize(
    "blob", [b"\0", b"\1", b"\2", b"\3junk", b"\1" + bytes(3000), b"\2\0\0\0\0\0\0", b"\2" + bytes(5000)]
)
async def test_junk_has_a_line_of_its_own_and_stops_nothing(blob: bytes) -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        taken = await bob.take([alice.deliver(bob, bytes(16), blob), alice.note(bob, text="good")])
        assert [type(event) for event in taken.events] == [ev.MessageUnreadable, ev.MessageReceived]
        assert bob.texts("alice") == [None, "good"]


async def test_a_prekey_serves_once() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        served = list(bob.prekeys_served)
        first = alice.note(bob, text="first")
        alice.sessions.drop("bob")
        bob.prekeys_served = served  # the server gives the same one once more
        second = alice.note(bob, text="second")
        await bob.take([first, second])
        assert bob.texts("alice") == ["first", None]
        await bob.exchange(alice)  # asked for: but nobody has that text in his messages
        assert bob.texts("alice") == ["first"]


async def test_a_start_on_the_last_resort_prekey_is_taken_once_whatever_stands_behind_it() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        bob.prekeys_served = [each for each in bob.prekeys_served if each.kind is PrekeyKind.LAST_RESORT]
        first = alice.note(bob, text="first")
        other = alice.note(bob, text="behind it")
        await bob.take([first])
        assert bob.count("starts") == 1
        parts = split_blob_untrusted(first.blob)
        replayed = first.blob[: -len(parts.message)] + other.blob[1:]  # the same C1 and C3 before another message
        bob.restart()
        await bob.take([alice.deliver(bob, bytes(16), replayed)])
        assert bob.texts("alice") == ["first", None]
        assert (bob.count("starts"), bob.count("sessions")) == (1, 1)
        await bob.take([other])
        assert bob.texts("alice") == ["first", None, "behind it"]
        second = alice.twin()
        second.sessions.drop("bob")
        await bob.take([second.note(bob, text="another start")])
        assert (bob.count("starts"), bob.count("sessions")) == (2, 2)


async def test_a_start_that_opens_but_for_its_message_uses_up_nothing() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        good = alice.note(bob, text="first")
        before = bob.count("prekeys")
        bad = good.blob[:-1] + bytes((good.blob[-1] ^ 1,))
        await bob.take([alice.deliver(bob, bytes(16), bad)])
        assert (bob.count("prekeys"), bob.count("sessions"), bob.count("pins")) == (before, 0, 0)
        await bob.take([good])
        assert bob.texts("alice") == [None, "first"]


async def test_a_session_that_is_damaged_on_the_disk_heals() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        alice.messages.write("bob", "one")
        await alice.exchange(bob)
        bob.database.inner.execute("UPDATE sessions SET state = zeroblob(9)")
        bob.restart()
        alice.messages.write("bob", "two")
        await alice.exchange(bob)
        assert bob.texts("alice") == ["one", "two"]
        assert bob.line("alice")[:2] == (State.RECEIVED, Cause.HEALED)


async def test_with_another_own_key_old_sessions_and_prekeys_are_none() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        alice.messages.write("bob", "one")
        await alice.exchange(bob)
        alice.messages.write("bob", "in the old session")
        bob.identity = identity("bob's new key")
        bob.restart()
        alice.trust.move_pin(alice.trust.pin("bob", SERVER), bob.identity.bundle)  # type: ignore[arg-type]
        old = bob.prekeys_served[:]
        bob.prekeys_served = []
        await bob.publish()
        assert not {each.id for each in old} & {each.id for each in bob.prekeys_served}
        assert alice.sessions.newest("bob", bob.identity.key_id) is None
        sealed_before = identity("bob")
        bob.identity, new = sealed_before, bob.identity
        late = alice.note(bob, text="to the old key")
        bob.identity = new
        await bob.take([late])
        assert bob.line("alice") == (State.UNREADABLE, Cause.ASKED_AGAIN, None)
        await alice.exchange(bob)
        assert bob.texts("alice") == ["one", "in the old session"]  # and what was no row at Alice's is gone


async def test_what_a_pin_was_moved_from_opens_nothing_any_more_and_is_asked_for() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        alice.messages.write("bob", "one")
        await alice.exchange(bob)
        alice.messages.write("bob", "two")
        under_old = alice.post(bob)
        new = identity("alice's new key")
        bob.trust.move_pin(bob.trust.pin("alice", SERVER), new.bundle)  # type: ignore[arg-type]
        await bob.take(under_old)
        assert bob.line("alice") == (State.UNREADABLE, Cause.ASKED_AGAIN, None)
        alice.identity, alice.prekeys_served = new, []
        alice.restart()
        await alice.publish()
        await bob.exchange(alice)
        assert bob.line("alice") == (State.RECEIVED, Cause.HEALED, "two")


async def test_a_message_under_somebody_elses_name_is_not_opened() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        carol = End("carol")
        await carol.publish()
        bob.log.keys["carol"] = carol.identity.bundle
        start, message = alice.note(bob, text="mine"), alice.note(bob, text="mine, too")
        await bob.take([replace(start, sender="carol"), replace(message, sender="carol")])
        assert bob.texts("carol") == [None, None]
        assert bob.count("pins") == 0
        await bob.take([start, message])
        assert bob.texts("alice") == ["mine", "mine, too"]


async def test_what_comes_from_oneself_is_dropped() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        letter = alice.note(bob, text="let me in")
        before = bob.database.dump()
        taken = await bob.take([replace(letter, sender="bob")])
        assert (taken.events, taken.queued) == ([], False)
        assert bob.database.dump() == before


# limits of healing ---------------------------------------------------------------------------------------------------


async def test_one_message_is_asked_for_three_times() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        for attempt in range(HEAL_TRIES + 2):
            junk = bytes((attempt,)) * 3000
            await bob.take([alice.deliver(bob, b"m" * 16, b"\1" + junk)])
            bob.ms += 3_600_000
        assert [note.resend for note in bob.notes("alice")] == [(b"m" * 16,)] * HEAL_TRIES
        assert bob.line("alice") == (State.UNREADABLE, Cause.GAVE_UP, None)
        bob.ms += 10 * DAY_MS
        assert bob.incoming.healing.ask_again() == []


async def test_junk_makes_six_new_sessions_an_hour_and_no_more() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        for each in range(HEALS_PER_HOUR + 3):
            id = bytes((each,)) * 16
            await bob.take([alice.deliver(bob, id, b"\1" + id * 200)])
        assert len(bob.notes("alice")) == HEALS_PER_HOUR
        causes = [message.cause for message in bob.history("alice")]
        assert causes == [Cause.ASKED_AGAIN] * HEALS_PER_HOUR + [Cause.CANNOT_ASK] * 3
        bob.restart()
        assert bob.incoming.healing.ask_again() == []  # not in this hour
        bob.ms += 3_600_000
        events = bob.incoming.healing.ask_again()
        assert events == [
            ev.MessageChanged(number, "alice", State.UNREADABLE, Cause.ASKED_AGAIN)
            for number in range(HEALS_PER_HOUR + 1, HEALS_PER_HOUR + 4)
        ]
        (*_, note) = bob.notes("alice")
        assert note.resend == tuple(bytes((each,)) * 16 for each in range(HEALS_PER_HOUR, HEALS_PER_HOUR + 3))
        assert bob.incoming.healing.ask_again() == []  # it is under way


async def test_what_was_asked_for_and_does_not_come_is_asked_for_again_after_a_day() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        await bob.take([alice.deliver(bob, b"m" * 16, b"\1junk")])
        bob.post(alice)  # and is lost
        bob.ms += AGAIN_MS - 1
        assert bob.incoming.healing.ask_again() == []
        assert not bob.waiting()
        bob.ms += 1
        bob.incoming.healing.ask_again()
        assert [note.resend for note in bob.notes("alice")] == [(b"m" * 16,)]


async def test_a_line_says_when_nobody_can_be_asked() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        await bob.take([alice.deliver(bob, b"m" * 16, b"\1junk")])
        healing = bob.incoming.healing
        for possible, cause in ((False, Cause.CANNOT_ASK), (True, Cause.ASKED_AGAIN)):
            events = healing.note_asking("alice", possible=possible)
            assert events == [ev.MessageChanged(1, "alice", State.UNREADABLE, cause)]
            assert bob.line("alice") == (State.UNREADABLE, cause, None)
            assert healing.note_asking("alice", possible=possible) == []
        assert healing.ask_again() == []
        assert len(bob.notes("alice")) == 1


# what an envelope may say --------------------------------------------------------------------------------------------


async def test_a_resend_request_gives_only_what_was_to_this_very_peer() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        alice.messages.write("carol", "for carol alone")
        alice.messages.write("bob", "for bob")
        alice.messages.write("bob", "deleted")
        (to_carol,) = alice.waiting("carol")
        sent = alice.post(bob)
        alice.messages.delete(alice.history("bob")[1].number)
        await bob.take(sent)
        asked = (to_carol.id, sent[0].id, sent[1].id, b"?" * 16)
        await alice.take([bob.note(alice, resend=asked)])
        answers = {note.id: note.text for note in alice.notes("bob") if not note.receipts}
        assert answers == {to_carol.id: None, sent[0].id: "for bob", sent[1].id: None, b"?" * 16: None}
        assert alice.waiting("carol") == [to_carol]
        again = next(note for note in alice.notes("bob") if note.id == sent[0].id)
        assert again.time_ms == alice.history("bob")[0].written_ms
        taken = await bob.take(alice.post(bob))
        assert bob.texts("alice") == ["for bob", "deleted"]  # what Bob has stays as it is
        assert taken.events == []


async def test_what_waits_already_is_not_sent_twice_because_it_is_asked_for() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        alice.messages.write("bob", "waits")
        (row,) = alice.waiting("bob")
        await alice.take([bob.note(alice, resend=(row.id,) * 3)])
        assert [waiting.id for waiting in alice.waiting("bob")] == [row.id]


async def test_a_request_for_a_thousand_strange_ids_is_answered_in_part() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        await alice.take([bob.note(alice, resend=tuple(number.to_bytes(16) for number in range(1000)))])
        assert len(alice.waiting("bob")) == NOTHING_LEFT


@pytest.mark.parametrize("kind", ["receipts", "read"])
async def test_a_receipt_counts_only_from_whom_the_message_was_to(kind: str) -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        number = alice.messages.write("carol", "for carol alone")
        (row,) = alice.waiting("carol")
        taken = await alice.take([bob.note(alice, **{kind: (row.id,)})])
        assert taken.events == []
        assert alice.messages.message(number).state is State.QUEUED
        assert alice.waiting("carol") == [row]


async def test_what_is_read_is_never_less_again() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        number = alice.messages.write("bob", "hello")
        (sent,) = alice.post(bob)
        taken = await alice.take([bob.note(alice, read=(sent.id,)), bob.note(alice, receipts=(sent.id,))])
        assert taken.events == [ev.MessageChanged(number, "bob", State.READ, Cause.NONE)]
        assert alice.messages.message(number).state is State.READ


async def test_a_receipt_ends_what_still_waits_to_be_sent() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        number = alice.messages.write("bob", "said in a chat", live=True)
        row = outbox.of_message(alice.database, number)
        assert row is not None
        await alice.take([bob.note(alice, receipts=(row.id,))])
        assert outbox.of_message(alice.database, number) is None
        assert alice.messages.message(number).state is State.DELIVERED


async def test_replies_changes_reactions_and_timers_are_shown_as_such() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        first = alice.messages.write("bob", "tee at four")
        await alice.exchange(bob)
        bob.messages.write("alice", "which tee?", reply_to=1)
        alice.messages.edit(first, "tea at four")
        alice.messages.react(first, "🍵")
        alice.messages.set_expiry("bob", 60)
        taken = await bob.take(alice.post(bob))
        assert taken.events == [
            ev.MessageEdited("alice", 1, "tea at four"),
            ev.Reacted("alice", 1, "🍵"),
            ev.TimerChanged("alice", 60, by_us=False),
        ]
        taken = await alice.take(bob.post(alice))
        (event,) = taken.events
        assert isinstance(event, ev.MessageReceived)
        assert (event.text, event.reply_to) == ("which tee?", first)
        alice.messages.write("bob", "gone in a minute")
        await bob.take(alice.post(bob))
        assert [(message.text, message.expire_s) for message in bob.history("alice")] == [
            ("tea at four", 0),
            ("which tee?", 0),
            ("gone in a minute", 60),
        ]
        assert bob.history("alice")[2].expires_ms == bob.ms + 60_000
        alice.messages.react(first, "")
        taken = await bob.take(alice.post(bob))
        assert taken.events == [ev.Reacted("alice", 1, "")]


async def test_nobody_changes_what_he_has_not_written_to_us() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        own = alice.messages.write("bob", "mine")
        to_carol = alice.messages.write("carol", "to carol")
        ids = [alice.messages.message(number).id for number in (own, to_carol)]
        notes = [bob.note(alice, text="changed", edits=id) for id in ids]
        notes.append(bob.note(alice, react=(ids[1], "x")))
        taken = await alice.take(notes)
        assert taken.events == []
        assert [alice.messages.message(number).text for number in (own, to_carol)] == ["mine", "to carol"]
        assert alice.messages.message(to_carol).reactions == ()


@pytest.mark.parametrize("time_ms", [0, 2**63, 2**64 - 1])
async def test_a_clock_may_say_what_it_likes(time_ms: int) -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        taken = await bob.take([alice.note(bob, text="when?", time_ms=time_ms, expire_s=2**32 - 1)])
        (event,) = taken.events
        assert isinstance(event, ev.MessageReceived)
        assert event.time_ms == bob.history("alice")[0].written_ms == min(time_ms, 253_402_300_799_999)


async def test_messages_without_an_id_are_all_shown() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        await bob.take([alice.note(bob, id=bytes(16), text=text) for text in ("one", "two")])
        assert bob.texts("alice") == ["one", "two"]


async def test_a_note_that_could_not_be_read_leaves_no_line_behind() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        bob.messages.write("alice", "hello")
        await bob.exchange(alice)
        receipt = alice.note(bob, receipts=(b"r" * 16,))
        bob.sessions.drop("alice")
        await bob.take([receipt])
        assert bob.texts("alice") == ["hello", None]
        await bob.exchange(alice)
        assert bob.texts("alice") == ["hello"]


async def test_what_a_lost_note_has_said_is_said_again() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        bob.messages.write("alice", "hello")
        number = alice.messages.write("bob", "hi")
        await bob.exchange(alice)
        seen = bob.messages.write("alice", "seen?")
        await alice.take(bob.post(alice))
        alice.post(bob)  # its receipt
        alice.messages.edit(number, "hi there")
        alice.messages.react(alice.history("bob")[0].number, "!")
        alice.messages.set_expiry("bob", 60)
        alice.messages.set_receipts("bob", True)
        alice.messages.mark_read("bob")
        lost = alice.post(bob)
        bob.sessions.drop("alice")
        await bob.take(lost)
        assert {message.text for message in bob.history("alice")} == {"hello", "hi", "seen?", None}
        await bob.exchange(alice)
        assert bob.texts("alice") == ["hello", "hi there", "seen?"]
        assert bob.messages.message(seen).state is State.READ
        assert bob.history("alice")[1].reactions == ((False, "!"),)
        conversation = bob.messages.conversation("alice")
        assert conversation is not None
        assert conversation.expire_s == 60


async def test_so_many_changes_are_said_again() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        for each in range(CHANGES + 2):
            number = alice.messages.write("bob", f"{each}")
            alice.post(bob)
            alice.messages.edit(number, f"{each}, changed")
            alice.messages.react(number, "!")
            alice.post(bob)
        await alice.take([bob.note(alice, resend=(b"?" * 16,))])
        again = [note for note in alice.notes("bob") if note.edits or note.react]
        assert len(again) == 2 * CHANGES
        assert again[0].text == f"{CHANGES + 1}, changed"
        alice.post(bob)
        alice.ms += _RECENT_MS
        await alice.take([bob.note(alice, resend=(b"!" * 16,))])
        assert not [note for note in alice.notes("bob") if note.edits]


# held ----------------------------------------------------------------------------------------------------------------


async def test_what_comes_under_a_key_that_is_not_accepted_waits_for_it_in_order() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        alice.messages.write("bob", "one")
        await alice.exchange(bob)
        new = identity("alice's new key")
        pin = bob.trust.pin("alice", SERVER)
        assert pin is not None
        bob.trust.block_pin(pin, "reset", new.bundle)
        alice.identity = new
        alice.restart()
        await alice.publish()
        sent = [alice.note(bob, text=text) for text in ("two", "three")] + [alice.note(bob, receipts=())]
        taken = await bob.take(sent)
        assert taken.events == [ev.MessageHeld("alice", number) for number in (2, 3, 4)]
        assert bob.line("alice") == (State.HELD, Cause.HELD_KEY, None)
        assert not bob.waiting()  # no receipt: nobody has read them
        assert (await bob.take(sent)).events == []  # known
        taken = await bob.incoming.reconsider()
        assert (taken.events, bob.count("held")) == ([], 3)
        number = bob.trust.number("alice", SERVER, new.bundle)
        bob.trust.accept_offered("alice", SERVER, number[:10])
        bob.restart()
        taken = await bob.incoming.reconsider("Alice")
        assert [event.text for event in taken.events if isinstance(event, ev.MessageReceived)] == ["two", "three"]
        assert bob.texts("alice") == ["one", "two", "three"]
        assert bob.count("held") == 0
        assert [note.receipts for note in bob.notes("alice")] == [(sent[0].id, sent[1].id)]


async def test_without_a_log_another_key_is_offered_and_the_message_held() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends(kept=False)
        alice.messages.write("bob", "one")
        await alice.exchange(bob)
        alice.identity = identity("alice's new key")
        alice.restart()
        await alice.publish()
        letter = alice.note(bob, text="two")
        taken = await bob.take([letter])  # whoever wrote it: the server has the old key for Alice
        assert taken.events == [ev.MessageUnreadable("alice", 2)]
        bob.log.keys["alice"] = alice.identity.bundle
        alice.sessions.drop("bob")
        taken = await bob.take([alice.note(bob, text="three"), alice.note(bob, text="four")])
        assert [type(event) for event in taken.events] == [ev.KeyChanged, ev.MessageHeld, ev.MessageHeld]
        pin = bob.trust.pin("alice", SERVER)
        assert pin is not None
        assert pin.offered == alice.identity.bundle


async def test_who_is_not_pinned_waits_until_the_log_can_be_read() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        bob.log.unavailable = True
        sent = [alice.note(bob, text=text) for text in ("one", "two")]
        taken = await bob.take(sent)
        assert taken.events == [ev.MessageHeld("alice", number) for number in (1, 2)]
        assert bob.line("alice") == (State.HELD, Cause.HELD_LOG, None)
        bob.log.unavailable = False
        taken = await bob.take([alice.note(bob, text="three")])
        assert taken.events == [ev.MessageHeld("alice", 3)]  # it would not open before the start
        taken = await bob.incoming.reconsider()
        assert [event.text for event in taken.events if isinstance(event, ev.MessageReceived)] == [
            "one",
            "two",
            "three",
        ]
        assert isinstance(taken.events[0], ev.MessageReceived)
        assert taken.events[0].first == alice.identity.bundle


async def test_a_held_line_is_that_of_the_text_whatever_id_the_server_gave_it() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        bob.log.unavailable = True
        await bob.take([replace(alice.note(bob, text=text), id=text.encode() * 4) for text in ("one1", "two2")])
        bob.log.unavailable = False
        await bob.incoming.reconsider()
        assert bob.texts("alice") == ["one1", "two2"]


async def test_after_an_alarm_everything_is_held() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        await bob.take([alice.note(bob, text="one")])
        bob.log.alarm = "fork"
        taken = await bob.take([alice.note(bob, text="two")])
        assert taken.events == [ev.MessageHeld("alice", 2)]
        assert (await bob.incoming.reconsider()).events == []
        bob.log.alarm = ""
        assert len((await bob.incoming.reconsider()).events) == 1
        assert bob.texts("alice") == ["one", "two"]


async def test_a_key_that_the_log_has_replaced_opens_nothing() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        await bob.take([alice.note(bob, text="one")])
        bob.log.old = {alice.identity.key_id}
        await bob.take([alice.note(bob, text="two")])
        assert bob.line("alice") == (State.HELD, Cause.HELD_LOG, None)


async def test_so_much_is_held_and_the_rest_asked_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MAX_HELD", 2)
    with trio.fail_after(30):
        alice, bob = await two_ends()
        bob.log.unavailable = True
        for text in ("one", "two", "three"):
            alice.messages.write("bob", text)
        await bob.take(alice.post(bob))
        assert [message.cause for message in bob.history("alice")] == [Cause.HELD_LOG] * 2 + [Cause.CANNOT_ASK]
        bob.log.unavailable = False
        taken = await bob.incoming.reconsider()
        assert taken.queued
        assert taken.events[-1] == ev.MessageChanged(3, "alice", State.UNREADABLE, Cause.ASKED_AGAIN)
        await bob.exchange(alice)
        assert bob.texts("alice") == ["one", "two", "three"]


# together ------------------------------------------------------------------------------------------------------------


async def test_two_who_begin_at_the_same_time_come_to_use_one_session_that_turns() -> None:
    with trio.fail_after(30):
        alice, bob = await two_ends()
        for end, other in ((alice, bob), (bob, alice)):
            end.messages.write(other.name, "first")
        crossing = alice.post(bob), bob.post(alice)
        await bob.take(crossing[0])
        await alice.take(crossing[1])
        assert alice.count("sessions") == bob.count("sessions") == 2
        await alice.exchange(bob)
        used, keys = set(), set()
        for round in range(3):
            for end, other in ((alice, bob), (bob, alice)):
                end.restart()
                sent = end.note(other, text=f"{round}")
                message = split_blob_untrusted(sent.blob).message
                used.add(sid_of_untrusted(message))
                keys.add(message[9:41])
                await other.take([sent])
        assert len(used) == 1
        assert len(keys) == 6


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_fails_on_the_way_everything_arrives_once(seed: int) -> None:
    """Disks that fail, clients that die, deliveries that come twice, sessions that are lost, both writing at once."""
    dice = random.Random(seed)
    with trio.fail_after(120):
        alice, bob = await two_ends()
        written: dict[str, list[str]] = {"alice": [], "bob": []}
        mailboxes: dict[str, list[Delivery]] = {"alice": [], "bob": []}
        for step in range(60):
            end, other = dice.choice([(alice, bob), (bob, alice)])
            end.ms += dice.randrange(600_000)
            match dice.choice(["write", "write", "write", "send", "send", "take", "take", "take", "die", "lose"]):
                case "write":
                    end.messages.write(other.name, f"{end.name} {step}")
                    written[end.name].append(f"{end.name} {step}")
                case "send":
                    mailboxes[other.name] += end.post(other)
                case "take":
                    waiting = mailboxes[end.name]
                    part = waiting[: dice.randrange(len(waiting) + 1)]
                    try:
                        with end.failing(dice.randrange(1, 200)):
                            await end.take(part)
                    except UnusableSetup:
                        continue
                    if dice.random() < 0.7:  # else `ackm` is lost
                        del waiting[: len(part)]
                case "die":
                    end.restart()
                case "lose" if step < 40:
                    end.sessions.drop(other.name)
        for _ in range(20):
            for end, other in ((alice, bob), (bob, alice)):
                end.ms += 3_600_000
                end.incoming.healing.ask_again()
                await end.take(mailboxes[end.name])
                mailboxes[end.name] = []
                mailboxes[other.name] += end.post(other)
        for end, other in ((alice, bob), (bob, alice)):
            assert sorted(
                filter(None, (message.text for message in end.history(other.name) if not message.own))
            ) == sorted(written[other.name])
            assert {message.state for message in end.history(other.name)} <= {State.DELIVERED, State.RECEIVED}
