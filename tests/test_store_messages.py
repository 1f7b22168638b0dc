"""Messages and conversations in the account's database, against a model that is a list; the index stays in step."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from messageapp.errors import UnusableSetup
from messageapp.store import changes, conversations, messages, outbox
from messageapp.store.database import Database, transaction
from messageapp.store.search import Query, search_numbers
from messageapp.store.states import Cause, State
from support.accounts import KINDS, in_memory

SERVER = "chat.example"
WORDS = ("red", "green", "blue", "Größe", "ÄRGER")
PEERS = ("bob", "Carol")
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
ids = st.sampled_from([bytes([i]) * 16 for i in range(6)])
peers = st.sampled_from(PEERS)
numbers = st.integers(1, 25)


@dataclass
class Line:
    peer: str
    own: bool
    id: bytes
    text: str | None
    state: State
    expire_s: int
    expires_ms: int | None = None
    edits: list[str] = field(default_factory=list)
    reactions: dict[bool, str] = field(default_factory=dict)


class Naive(RuleBasedStateMachine):
    """Each rule does the same to the database and to `self.lines`."""

    kind: str

    @initialize()
    def open(self) -> None:
        self.database = in_memory(self.kind)
        self.lines: dict[int, Line] = {}
        self.read: dict[str, int] = {}
        self.places: dict[str, int] = {}
        self.now, self.last = 1000, 0

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()

    def place(self, peer: str) -> int:
        return conversations.conversation_of(self.database, SERVER, peer)

    def put(self, number: int | None, line: Line) -> None:
        known = any((one.peer, one.own, one.id) == (line.peer, line.own, line.id) for one in self.lines.values())
        assert (number is None) == known
        if number is not None:
            assert number > self.last, "no number comes twice"
            self.lines[number] = line
            self.last = number

    @rule(peer=peers, id=ids, text=texts, expire=st.sampled_from([0, 5]))
    def write(self, peer: str, id: bytes, text: str, expire: int) -> None:
        number = messages.add_own(self.database, self.place(peer), id, text, written_ms=self.now, expire_s=expire)
        self.put(number, Line(peer, True, id, text, State.QUEUED, expire))

    @rule(peer=peers, id=ids, text=st.none() | texts, expire=st.sampled_from([0, 5]))
    def receive(self, peer: str, id: bytes, text: str | None, expire: int) -> None:
        state = State.RECEIVED if text else State.UNREADABLE
        number = messages.add_received(
            self.database, self.place(peer), id, text, written_ms=1, now_ms=self.now, state=state, expire_s=expire
        )
        ends = self.now + 5000 if expire and text else None
        self.put(number, Line(peer, False, id, text, state, expire, ends))

    @rule(number=numbers, text=texts)
    def fill(self, number: int, text: str) -> None:
        line = self.lines.get(number)
        done = messages.fill(self.database, number, text, written_ms=2, now_ms=self.now, expire_s=5)
        assert done == (line is not None and line.state is State.UNREADABLE)
        if done and line:
            line.text, line.state, line.expires_ms = text, State.RECEIVED, self.now + 5000

    @rule(number=numbers, state=st.sampled_from([State.QUEUED, State.SENT, State.DELIVERED, State.READ, State.FAILED]))
    def advance(self, number: int, state: State) -> None:
        line = self.lines.get(number)
        if line is None or not line.own:
            return
        order = [State.DELIVERED, State.READ]
        back = line.state in order and (state not in order or order.index(state) < order.index(line.state))
        moved = messages.set_state(self.database, number, state, Cause.NONE, self.now)
        assert moved or back or line.state is state
        if not back:
            line.state = state
        if state not in (State.QUEUED, State.FAILED) and line.expire_s and line.expires_ms is None:
            line.expires_ms = self.now + 1000 * line.expire_s

    @rule(number=numbers, text=texts)
    def edit(self, number: int, text: str) -> None:
        line = self.lines.get(number)
        done = changes.edit_message(self.database, number, text, self.now)
        assert done == (line is not None and line.text is not None and line.text != text)
        if done and line and line.text:
            line.edits.append(line.text)
            line.text = text

    @rule(number=numbers, emoji=st.sampled_from(["", "👍", "👎"]), own=st.booleans())
    def react(self, number: int, emoji: str, own: bool) -> None:
        line = self.lines.get(number)
        if line is None:
            return
        assert changes.react(self.database, number, emoji, own=own) == (line.reactions.get(own, "") != emoji)
        line.reactions[own] = emoji

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        assert changes.delete_message(self.database, number) == (self.lines.pop(number, None) is not None)

    @rule(peer=peers)
    def forget(self, peer: str) -> None:
        gone = [number for number, line in self.lines.items() if line.peer == peer]
        assert changes.forget(self.database, SERVER, peer.upper()) == len(gone)
        for number in gone:
            del self.lines[number]
        self.read.pop(peer, None)

    @rule(seconds=st.integers(0, 6))
    def wait(self, seconds: int) -> None:
        self.now += 1000 * seconds
        ends = [line.expires_ms for line in self.lines.values() if line.expires_ms is not None]
        assert changes.next_expiry(self.database) == min(ends, default=None)
        gone = [number for number, line in self.lines.items() if line.expires_ms and line.expires_ms <= self.now]
        assert changes.purge_expired(self.database, self.now) == sorted(gone)
        for number in gone:
            del self.lines[number]

    @rule(peer=peers)
    def look(self, peer: str) -> None:
        mine = {number: line for number, line in self.lines.items() if line.peer == peer}
        new = [
            line.id
            for number, line in sorted(mine.items())
            if not line.own and number > self.read.get(peer, 0) and line.state is State.RECEIVED
        ]
        assert conversations.mark_read(self.database, self.place(peer)) == new
        self.read[peer] = max(self.read.get(peer, 0), *mine, 0)

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "database"):
            return
        unread = 0
        for peer in PEERS:
            mine = {number: line for number, line in sorted(self.lines.items()) if line.peer == peer}
            found = conversations.find_conversation(self.database, SERVER, peer.lower())
            if found is None:
                assert not mine
                continue
            new = [number for number, line in mine.items() if not line.own and number > self.read.get(peer, 0)]
            assert found.unread == len(new)
            unread += len(new)
            assert (found.last.number if found.last else None) == max(mine, default=None)
            self.compare(mine, messages.history(self.database, found.id, 100))
            self.compare(mine, list(messages.export(self.database, found.id)))
            assert messages.history(self.database, found.id, 3, 9) == [
                messages.find_message(self.database, SERVER, number) for number in [n for n in mine if n < 9][-3:]
            ]
        assert conversations.count_unread(self.database, SERVER) == unread
        for word in WORDS:
            hits = [n for n, line in self.lines.items() if line.text and word in line.text.split()]
            assert search_numbers(self.database, SERVER, Query(word.lower()), 100) == sorted(hits, reverse=True)
        # SQLite's own comparison of the index with the texts
        self.database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
        for table in ("versions", "reactions"):
            query = f"SELECT count(*) FROM {table} WHERE number NOT IN (SELECT number FROM messages)"  # noqa: S608
            assert self.database.execute(query).fetchone()[0] == 0

    @staticmethod
    def compare(lines: dict[int, Line], found: list[messages.Message]) -> None:
        assert [message.number for message in found] == list(lines)
        for message, line in zip(found, lines.values(), strict=True):
            reactions = tuple((own, line.reactions[own]) for own in (True, False) if line.reactions.get(own))
            assert (message.peer, message.own, message.id, message.text, message.state, message.expires_ms) == (
                line.peer,
                line.own,
                line.id,
                line.text,
                line.state,
                line.expires_ms,
            )
            assert (message.versions, message.reactions) == (len(line.edits), reactions)
            assert (message.edited_ms is not None) == bool(line.edits)


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_what_a_list_keeps(kind: str) -> None:
    machine = type("Machine", (Naive,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=30, deadline=None))


# one by one -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bob(database: Database) -> int:
    return conversations.conversation_of(database, SERVER, "bob")


def own(database: Database, conversation: int, text: str = "hello", id: int = 1) -> int:
    number = messages.add_own(database, conversation, bytes([id]) * 16, text, written_ms=10)
    assert number is not None
    return number


def test_a_name_is_shown_as_the_server_has_it(database: Database) -> None:
    number = conversations.conversation_of(database, SERVER, "BOB")
    assert conversations.conversation_of(database, SERVER, "bob") == number
    shown = conversations.find_conversation(database, SERVER, "boB")
    assert shown is not None
    assert shown.peer == "BOB"
    conversations.conversation_of(database, SERVER, "Bob", registered=True)
    shown = conversations.find_conversation(database, SERVER, "bob")
    assert shown is not None
    assert (shown.peer, shown.id) == ("Bob", number)


def test_servers_are_apart(database: Database, bob: int) -> None:
    number = own(database, bob, "secret")
    elsewhere = "other.example"
    assert conversations.conversation_of(database, elsewhere, "bob") != bob
    assert messages.find_message(database, elsewhere, number) is None
    assert messages.find_open(database, elsewhere) == []
    assert search_numbers(database, elsewhere, Query("secret"), 5) == []
    assert changes.forget(database, elsewhere, "bob") == 0
    assert messages.find_message(database, SERVER, number) is not None


def test_old_versions_are_kept_in_order_even_within_a_millisecond(database: Database, bob: int) -> None:
    number = own(database, bob, "one")
    for text in ("two", "three", "four"):
        assert changes.edit_message(database, number, text, 10)
    assert [version.text for version in changes.versions(database, number)] == ["one", "two", "three"]
    assert changes.versions(database, number)[0].from_ms == 10


def test_a_reply_names_the_number_of_what_it_answers(database: Database, bob: int) -> None:
    asked = own(database, bob, "where?")
    here = messages.add_received(database, bob, b"r" * 16, "here", written_ms=1, now_ms=2, reply_to=bytes([1]) * 16)
    lost = messages.add_received(database, bob, b"s" * 16, "what?", written_ms=1, now_ms=2, reply_to=b"?" * 16)
    answers = [messages.find_message(database, SERVER, number) for number in (here, lost) if number]
    assert [(one.reply_to, one.reply_id) for one in answers if one] == [(asked, bytes([1]) * 16), (None, b"?" * 16)]


def test_what_is_open_is_listed(database: Database, bob: int) -> None:
    listed = [own(database, bob, id=i) for i in range(5)]
    for number, state in zip(listed[1:], (State.SENT, State.FAILED, State.DELIVERED, State.READ), strict=True):
        messages.set_state(database, number, state, Cause.NONE, 11)
    assert [message.number for message in messages.find_open(database, SERVER)] == listed[:3]
    delivered = messages.find_open(database, SERVER, [State.DELIVERED])
    assert [message.number for message in delivered] == [listed[3]]


def test_conversations_are_ordered_by_their_last_message(database: Database, bob: int) -> None:
    for name in ("zoe", "carol", "Anna"):
        conversations.conversation_of(database, SERVER, name)
    own(database, conversations.conversation_of(database, SERVER, "carol"))
    own(database, bob)
    listed = conversations.list_conversations(database, SERVER)
    assert [one.peer for one in listed] == ["bob", "carol", "Anna", "zoe"]


def test_settings_of_a_conversation(database: Database, bob: int) -> None:
    conversations.save_draft(database, bob, "half a li")
    conversations.set_receipts(database, bob, True)
    assert conversations.set_expiry(database, bob, 60)
    assert not conversations.set_expiry(database, bob, 60)
    conversations.note_seen(database, SERVER, "BOB", 50)
    conversations.note_seen(database, SERVER, "bob", 40)
    conversations.note_seen(database, SERVER, "nobody", 40)
    found = conversations.find_conversation(database, SERVER, "bob")
    assert found is not None
    assert (found.draft, found.receipts, found.expire_s, found.seen_ms) == ("half a li", True, 60, 50)
    assert len(conversations.list_conversations(database, SERVER)) == 1


def test_forgetting_takes_everything_but_the_pin_and_the_sessions(database: Database, bob: int) -> None:
    number = own(database, bob)
    tables = {
        "sessions": "(server, peer, sid, key_id, own_key_id, made_ms, confirmed, confirms, state)"
        " VALUES (?, ?, x'01', x'', x'', 0, 0, 0, x'')",
        "held": "(server, peer, number, id, blob, ms) VALUES (?, ?, NULL, x'01', x'02', 0)",
        "heals": "(server, peer, id, asked, ms) VALUES (?, ?, x'01', 1, 0)",
        "pins": "(server, peer, bundle, verified, first_ms) VALUES (?, ?, x'', 0, 0)",
    }
    for table, rest in tables.items():
        for peer in ("bob", "carol"):
            database.execute(f"INSERT INTO {table} {rest}", (SERVER, peer))
    outbox.add(database, SERVER, "bob", b"n" * 16, now_ms=1, number=number, content=b"text")
    outbox.add(database, SERVER, "bob", b"m" * 16, now_ms=1, content=b"a note")
    assert changes.forget(database, SERVER, "Bob") == 1
    left = {table: database.execute(f"SELECT peer FROM {table}").fetchall() for table in tables}  # noqa: S608
    assert {table: [peer for (peer,) in rows] for table, rows in left.items()} == {
        "sessions": ["bob", "carol"],
        "held": ["carol"],
        "heals": ["carol"],
        "pins": ["bob", "carol"],
    }
    assert outbox.count(database, SERVER) == 0
    assert conversations.find_conversation(database, SERVER, "bob") is None
    assert own(database, conversations.conversation_of(database, SERVER, "bob")) == number + 1, "no number comes twice"


def test_with_a_message_goes_what_is_not_sent_of_it(database: Database, bob: int) -> None:
    number, other = own(database, bob), own(database, bob, id=2)
    rows = ((number, None), (None, number), (other, None), (None, other), (None, None))
    for id, (of, about) in enumerate(rows):
        outbox.add(database, SERVER, "bob", bytes([id]) * 16, now_ms=1, content=b"c", number=of, about=about)
    assert changes.delete_message(database, number)
    left = database.execute("SELECT number, about FROM outbox ORDER BY place").fetchall()
    assert left == [(other, None), (None, other), (None, None)]


def test_what_changes_a_message_waits_until_that_is_gone(database: Database, bob: int) -> None:
    number = own(database, bob)
    place = outbox.add(database, SERVER, "bob", bytes(16), now_ms=1, content=b"c", number=number, live=True)
    for id, about in enumerate((number, None), 1):
        outbox.add(database, SERVER, "bob", bytes([id]) * 16, now_ms=1, content=b"c", about=about)
    assert [row.about for row in outbox.due(database, SERVER, 2)] == [None]
    outbox.remove(database, place)
    assert [row.about for row in outbox.due(database, SERVER, 2)] == [number, None]


def test_a_step_that_fails_leaves_nothing(database: Database, bob: int) -> None:
    number = own(database, bob, "before")

    def step() -> None:
        with transaction(database):
            own(database, bob, "new", id=2)
            changes.edit_message(database, number, "after", 11)
            database.execute("SELECT * FROM nothing_of_this_name")

    with pytest.raises(UnusableSetup):
        step()
    assert [message.text for message in messages.history(database, bob, 9)] == ["before"]
    assert search_numbers(database, SERVER, Query("after new"), 9) == []
    database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")


def test_no_text_is_in_what_is_written_to_logs(database: Database, bob: int) -> None:
    number = own(database, bob, "a secret")
    conversations.save_draft(database, bob, "a secret")
    changes.edit_message(database, number, "another secret", 11)
    outbox.add(database, SERVER, "bob", b"n" * 16, now_ms=1, content=b"a secret", blob=b"a secret")
    shown = repr(
        [
            messages.history(database, bob, 9),
            conversations.list_conversations(database, SERVER),
            changes.versions(database, number),
            outbox.due(database, SERVER, 5),
        ]
    )
    assert "Version(" in shown
    assert "Waiting(" in shown
    assert "secret" not in shown
