"""What a user interface asks of its messages: what is written, shown and queued; what is refused, with a sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp.client.messages import Cause, Messages, MessagesRefused, State, envelope_of
from messageapp.client.queries import MAX_TERMS, parse_query
from messageapp.e2ee.envelope import MAX_EMOJI_BYTES, MAX_IDS, Envelope
from messageapp.errors import MessageTooLong
from messageapp.store import messages, outbox
from messageapp.store.conversations import conversation_of
from messageapp.store.database import Database
from messageapp.store.search import Query
from support.accounts import in_memory

SERVER = "chat.example"
T0 = 1_700_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alice(database: Database, clock: Clock) -> Messages:
    return Messages(database, SERVER, "alice", clock, os.urandom)


def came(database: Database, text: str | None = "hello", peer: str = "bob", id: bytes = b"") -> int:
    number = messages.add_received(
        database,
        conversation_of(database, SERVER, peer),
        id or os.urandom(16),
        text,
        written_ms=T0 - 5,
        now_ms=T0,
        state=State.UNREADABLE if text is None else State.RECEIVED,
    )
    assert number is not None
    return number


def queued(database: Database) -> list[Envelope]:
    """What would be sealed now, in order."""
    return [Envelope.parse_untrusted(row.content) for row in outbox.due(database, SERVER, T0 + 10**9)]


def sent(database: Database, number: int, state: State = State.SENT) -> None:
    row = outbox.of_message(database, number)
    assert row is not None
    outbox.remove(database, row.place)
    messages.set_state(database, number, state, Cause.NONE, T0 + 1)


# writing --------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_queued_as_an_envelope(alice: Messages, database: Database, clock: Clock) -> None:
    number = alice.write("Bob", "se\u0301e you")
    message = alice.message(number)
    assert (message.peer, message.own, message.text, message.state, message.cause) == (
        "Bob",
        True,
        "sée you",  # in NFC
        State.QUEUED,
        Cause.WAITING,
    )
    assert (message.written_ms, message.stored_ms, message.changed_ms) == (T0, T0, T0)
    assert queued(database) == [Envelope(message.id, T0, "sée you")]
    row = outbox.of_message(database, number)
    assert row is not None
    assert (row.peer, row.id, row.number, row.live, row.blob) == ("Bob", message.id, number, False, None)
    assert alice.pending() == [message]
    assert alice.history("bOb") == [message]


def test_a_reply_and_a_timer_are_in_the_envelope(alice: Messages, database: Database) -> None:
    asked = came(database, "where?", id=b"q" * 16)
    alice.set_expiry("bob", 60)
    number = alice.write("bob", "here", reply_to=asked)
    message = alice.message(number)
    assert (message.reply_to, message.reply_id, message.expire_s, message.expires_ms) == (asked, b"q" * 16, 60, None)
    timer, text = queued(database)
    assert (timer.text, timer.expire_s) == (None, 60)
    assert text == Envelope(message.id, T0, "here", reply_to=b"q" * 16, expire_s=60) == envelope_of(message)


def test_a_text_said_in_a_chat_waits_there(alice: Messages, database: Database) -> None:
    number = alice.write("bob", "hi", live=True)
    message, row = alice.message(number), outbox.of_message(database, number)
    assert (message.live, message.cause) == (True, Cause.IN_CHAT)
    assert row is not None
    assert row.live
    assert queued(database) == []


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda m: m.write("alice", "x"), "that is you"),
        (lambda m: m.write("ALICE", "x"), "that is you"),
        (lambda m: m.write("no name", "x"), "a username has"),
        (lambda m: m.write("", "x"), "a username has"),
        (lambda m: m.write("bob", " \n"), "there is no text"),
        (lambda m: m.write("bob", "x", reply_to=99), "there is no message 99"),
        (lambda m: m.write("carol", "x", reply_to=1), "message 1 is of the conversation with bob"),
        (lambda m: m.edit(99, "x"), "there is no message 99"),
        (lambda m: m.edit(2, "x"), "message 2 is bob's: only own ones can be edited"),
        (lambda m: m.edit(1, ""), "there is no text"),
        (lambda m: m.react(3, "👍"), "message 3 cannot be read yet"),
        (lambda m: m.react(1, "👍" * 17), "at most 64 bytes"),
        (lambda m: m.react(1, "a b"), "one emoji"),
        (lambda m: m.react(1, " "), "one emoji"),
        (lambda m: m.react(99, "👍"), "there is no message 99"),
        (lambda m: m.retry(2), "message 2 is bob's: there is nothing to try again"),
        (lambda m: m.retry(4), "message 4 is delivered: there is nothing to try again"),
        (lambda m: m.delete(99), "there is no message 99"),
        (lambda m: m.message(0), "there is no message 0"),
        (lambda m: m.versions(99), "there is no message 99"),
        (lambda m: m.forget("carol"), "there is no conversation with carol"),
        (lambda m: m.export("carol"), "there is no conversation with carol"),
        (lambda m: m.set_expiry("bob", -1), "cannot be kept for such a time"),
        (lambda m: m.set_expiry("bob", 1 << 32), "cannot be kept for such a time"),
        (lambda m: m.set_expiry("alice", 60), "that is you"),
        (lambda m: m.set_receipts("a b", True), "a username has"),
        (lambda m: m.save_draft("alice", "x"), "that is you"),
        (lambda m: m.search("  "), "search for what"),
        (lambda m: m.search("x in:carol"), "there is no conversation with carol"),
        (lambda m: m.search("x in:"), "there is no conversation with"),
        (lambda m: m.search("x from:carol"), "there is no conversation with carol"),
        (lambda m: m.search("x before:2026-02-30"), "takes a day, like before:2026-01-31"),
        (lambda m: m.search("x after:"), "takes a day, like after:2026-01-31"),
        (lambda m: m.search("x " * (MAX_TERMS + 1)), f"{MAX_TERMS} are looked up"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(
    alice: Messages, database: Database, act: Callable[[Messages], Any], sentence: str
) -> None:
    alice.write("bob", "first")
    came(database)
    came(database, None)
    sent(database, alice.write("bob", "fourth"), State.DELIVERED)

    def everything() -> list[Any]:
        return [alice.conversations(), alice.history("bob"), outbox.due(database, SERVER, T0)]

    before = everything()
    with pytest.raises(MessagesRefused, match=sentence):
        act(alice)
    assert everything() == before
    assert not database.in_transaction


def test_a_text_that_is_too_long_is_refused(alice: Messages) -> None:
    alice.write("bob", "x" * 65_535)
    with pytest.raises(MessageTooLong):
        alice.write("bob", "x" * 65_536)
    assert len(alice.history("bob")) == 1


# changing -------------------------------------------------------------------------------------------------------------


def test_an_edit_before_sealing_is_sent_in_place(alice: Messages, database: Database) -> None:
    number = alice.write("bob", "helo")
    alice.edit(number, "hello")
    message = alice.message(number)
    assert (message.text, message.versions, message.edited_ms) == ("hello", 1, T0)
    assert [version.text for version in alice.versions(number)] == ["helo"]
    assert queued(database) == [Envelope(message.id, T0, "hello")]


def test_an_edit_of_what_is_under_way_is_a_note_about_it(alice: Messages, database: Database, clock: Clock) -> None:
    number = alice.write("bob", "helo")
    row = outbox.of_message(database, number)
    assert row is not None
    outbox.seal(database, row.place, b"sealed")
    clock.now += 7
    alice.edit(number, "hello")
    alice.edit(number, "hello")  # the same again changes nothing
    (kept,) = outbox.due(database, SERVER, clock.now)
    assert (kept.number, kept.blob) == (number, b"sealed"), "the note waits behind it"
    outbox.remove(database, kept.place)
    (note,) = outbox.due(database, SERVER, clock.now)
    assert (note.number, note.about) == (None, number)
    envelope = Envelope.parse_untrusted(note.content)
    assert (envelope.text, envelope.edits, envelope.time_ms) == ("hello", kept.id, T0 + 7)
    assert envelope.id == note.id != kept.id
    alice.delete(number)
    assert outbox.count(database, SERVER) == 0, "the new text goes with the message"


def test_a_failed_message_is_edited_and_tried_again(alice: Messages, database: Database, clock: Clock) -> None:
    number = alice.write("bob", "helo")
    sent(database, number, State.FAILED)
    alice.edit(number, "hello")
    assert queued(database) == []
    clock.now += 50
    alice.retry(number)
    message = alice.message(number)
    assert (message.state, message.cause, message.changed_ms) == (State.QUEUED, Cause.WAITING, clock.now)
    assert queued(database) == [Envelope(message.id, T0, "hello")], "the same id and time: nothing is shown twice"


def test_retry_tries_a_waiting_one_now(alice: Messages, database: Database) -> None:
    number = alice.write("bob", "hello")
    row = outbox.of_message(database, number)
    assert row is not None
    outbox.postpone(database, row.place, T0 + 99)
    assert outbox.due(database, SERVER, T0) == []
    assert alice.next_try(number) == T0 + 99
    alice.retry(number)
    assert alice.next_try(number) == 0
    assert [one.place for one in outbox.due(database, SERVER, T0)] == [row.place]


@pytest.mark.parametrize("word", ["hello", "3", "ok!", "nö", "日本"])
def test_a_reaction_is_no_word(alice: Messages, database: Database, word: str) -> None:
    number = came(database)
    with pytest.raises(MessagesRefused, match="a reaction is an emoji and no word"):
        alice.react(number, word)
    assert alice.message(number).reactions == ()


def test_a_reaction_is_shown_and_told(alice: Messages, database: Database) -> None:
    number = came(database, id=b"q" * 16)
    alice.react(number, "👍")
    alice.react(number, "👍")
    assert alice.message(number).reactions == ((True, "👍"),)
    alice.react(number, "")
    alice.react(number, "")
    assert alice.message(number).reactions == ()
    assert [envelope.react for envelope in queued(database)] == [(b"q" * 16, "👍"), (b"q" * 16, "")]
    alice.react(number, "👍" * (MAX_EMOJI_BYTES // 4))
    alice.delete(number)
    assert queued(database) == []


def test_what_is_deleted_is_not_sent(alice: Messages, database: Database) -> None:
    number = alice.write("bob", "hello")
    alice.delete(number)
    assert queued(database) == []
    assert alice.history("bob") == alice.pending() == alice.search("hello") == []


def test_forget_counts(alice: Messages, database: Database) -> None:
    alice.write("bob", "hello")
    came(database)
    kept = alice.write("carol", "hello")
    assert alice.forget("BOB") == 2
    assert [one.peer for one in alice.conversations()] == ["carol"]
    assert [one.number for one in alice.search("hello")] == [kept]
    assert len(queued(database)) == 1


# of a conversation ----------------------------------------------------------------------------------------------------


def test_what_was_read_is_told_only_to_whom_that_is_on_for(alice: Messages, database: Database) -> None:
    came(database)
    assert (alice.unread("bob"), alice.unread(), alice.unread("carol")) == (1, 1, 0)
    assert (alice.mark_read("bob"), alice.mark_read("bob"), alice.mark_read("carol")) == (1, 0, 0)
    assert (alice.unread("bob"), alice.unread()) == (0, 0)
    assert queued(database) == [], "off at first"
    alice.set_receipts("bob", True)
    ids = [os.urandom(16) for _ in range(MAX_IDS + 1)]
    for id in ids:
        came(database, id=id)
    came(database, None)
    assert alice.mark_read("bob") == len(ids) + 1
    first, second = queued(database)
    assert (first.read, second.read) == (tuple(ids[:MAX_IDS]), tuple(ids[MAX_IDS:])), "not what could not be read"
    assert first.text is second.text is None
    alice.set_receipts("bob", False)
    came(database)
    alice.mark_read("bob")
    assert len(queued(database)) == 2


def test_a_timer_is_told_when_it_changes(alice: Messages, database: Database, clock: Clock) -> None:
    for seconds in (60, 60, 0):
        alice.set_expiry("bob", seconds)
    assert [envelope.expire_s for envelope in queued(database)] == [60, 0]


def test_a_timer_has_32_bits(alice: Messages, database: Database) -> None:
    alice.set_expiry("bob", 4_294_967_295)
    assert [envelope.expire_s for envelope in queued(database)] == [4_294_967_295]
    with pytest.raises(MessagesRefused):
        alice.set_expiry("bob", 4_294_967_296)


def test_time_runs_from_when_a_message_is_sent(alice: Messages, database: Database, clock: Clock) -> None:
    alice.set_expiry("bob", 60)
    number = alice.write("bob", "hello")
    clock.now = T0 + 10**9
    assert alice.purge() == []
    messages.set_state(database, number, State.SENT, Cause.AT_SERVER, T0 + 500)
    messages.set_state(database, number, State.DELIVERED, Cause.NONE, T0 + 900)
    assert alice.message(number).expires_ms == T0 + 60_500
    clock.now = T0 + 60_499
    assert alice.purge() == []
    clock.now = T0 + 60_500
    assert alice.purge() == [number]
    assert alice.history("bob") == []


def test_drafts(alice: Messages) -> None:
    alice.save_draft("bob", "half a l")
    alice.save_draft("carol", "lone \ud800 surrogate")
    assert (alice.draft("BOB"), alice.draft("carol"), alice.draft("dave")) == ("half a l", "lone ? surrogate", "")
    alice.save_draft("bob", "")
    alice.save_draft("dave", "")
    assert alice.draft("bob") == ""
    assert {one.peer for one in alice.conversations()} == {"bob", "carol"}, "no draft makes no conversation"


def test_history_goes_back_in_pages(alice: Messages) -> None:
    numbers = [alice.write("bob", f"text {i}") for i in range(30)]
    assert [one.number for one in alice.history("bob")] == numbers[-20:]
    assert [one.number for one in alice.history("bob", 20, before=numbers[10])] == numbers[:10]
    assert alice.history("bob", 0) == alice.history("carol") == []
    assert [one.number for one in alice.export("bob")] == numbers


# search ---------------------------------------------------------------------------------------------------------------


def midnight(day: str) -> int:
    return int(datetime.fromisoformat(day).timestamp() * 1000)  # local time


@pytest.mark.parametrize(
    ("typed", "query"),
    [
        ("red house", Query("red house")),
        ("red in:bob", Query("red", 1)),
        ("in:bob", Query("", 1)),
        ("from:me red", Query("red", None, True)),
        ("red from:Bob", Query("red", 1, False)),
        ("red in:bob from:bob", Query("red", 1, False)),
        ("from:me in:carol", Query("", 2, True)),
        ("red in:bob blue", Query("red   blue", 1)),
        ("a before:2026-01-31", Query("a", before_ms=midnight("2026-01-31"))),
        ("a after:2026-01-31", Query("a", after_ms=midnight("2026-01-31"))),
        ("before:2026-01-31 before:2026-02-01", Query("", before_ms=midnight("2026-02-01"))),
        ('"in:bob"', Query('"in:bob"')),
        ("within:bob", Query("within:bob")),
    ],
)
def test_a_query_is_read(typed: str, query: Query) -> None:
    places = {"bob": 1, "carol": 2}
    found = parse_query(typed, "alice", lambda name: places[name.lower()])
    assert replace(found, text=" ".join(found.text.split())) == replace(query, text=" ".join(query.text.split()))


def test_so_many_words_are_looked_up_at_a_time(alice: Messages) -> None:
    number = alice.write("bob", "word")
    assert [one.number for one in alice.search("word " * MAX_TERMS)] == [number]
    with pytest.raises(MessagesRefused, match="32 are looked up"):
        alice.search("word " * (MAX_TERMS + 1))


def test_nothing_is_from_one_in_the_conversation_with_another() -> None:
    with pytest.raises(MessagesRefused, match="in:bob is from:carol"):
        parse_query("in:bob from:carol", "alice", {"bob": 1, "carol": 2}.__getitem__)


def test_search_finds_what_is_written_and_changed(alice: Messages, database: Database) -> None:
    mine, theirs = alice.write("bob", "the red invoice"), came(database, "your invoice")
    assert [one.number for one in alice.search("invoice")] == [theirs, mine]
    assert [one.number for one in alice.search("invoice from:me")] == [mine]
    assert [one.number for one in alice.search("invoice from:bob")] == [theirs]
    assert [one.number for one in alice.search("in:bob before:2100-01-01", 1)] == [theirs]
    assert alice.search("invoice after:2100-01-01") == []
    alice.edit(mine, "the red bill")
    assert [one.number for one in alice.search("invoice")] == [theirs]


@settings(max_examples=150, deadline=None)
@given(typed=st.text(alphabet='ab "*():-inFrom0123\0\ud800', max_size=30) | st.text(max_size=30))
def test_whatever_is_typed_is_found_or_refused(typed: str) -> None:
    database = in_memory("plain")
    alice = Messages(database, SERVER, "alice", lambda: T0, os.urandom)
    alice.write("bob", "a b in from")
    for text in (typed, f"in:{typed}", f"before:{typed}", f"a after:{typed} from:bob"):
        with suppress(MessagesRefused):
            alice.search(text)
    database.close()


def test_what_is_deleted_is_overwritten(alice: Messages, database: Database) -> None:
    assert database.execute("PRAGMA secure_delete").fetchone() == (1,)
    (version,) = database.execute("SELECT sqlite_version()").fetchone()
    (rows,) = database.execute("SELECT count(*) FROM words_config WHERE k = 'secure-delete' AND v = 1").fetchone()
    assert rows == (tuple(map(int, version.split(".")[:2])) >= (3, 42)), "words in the index too, where SQLite can"
