"""What waits to be sent: in order within a peer, no peer behind another, the same bytes once they are sealed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp.store import conversations, outbox
from messageapp.store.database import Database
from support.accounts import KINDS, in_memory

SERVER = "chat.example"


def put(database: Database, id: int, peer: str = "bob", server: str = SERVER, *, live: bool = False) -> int:
    return outbox.add(database, server, peer, bytes([id]) * 16, now_ms=id, content=b"c%d" % id, live=live)


def test_a_row_is_read_as_it_was_put(database: Database) -> None:
    conversations.conversation_of(database, SERVER, "Bob")
    place = outbox.add(database, SERVER, "bOB", b"i" * 16, now_ms=5, number=7, about=3, content=b"envelope", live=False)
    waiting = outbox.Waiting(place, SERVER, "Bob", b"i" * 16, 7, b"envelope", None, False, 5, 0, 0, 3)
    assert outbox.due(database, SERVER, 5) == [waiting]
    assert outbox.find(database, SERVER, "BOB", b"i" * 16) == waiting
    assert outbox.of_message(database, 7) == waiting
    assert outbox.of_message(database, 3) is None
    assert outbox.find(database, SERVER, "carol", b"i" * 16) is None


def test_an_id_is_there_once(database: Database) -> None:
    place = put(database, 1)
    outbox.seal(database, place, b"blob")
    assert put(database, 1) == place
    assert [(row.content, row.blob) for row in outbox.due(database, SERVER, 9)] == [(b"", b"blob")]
    assert put(database, 1, "carol") != place
    assert outbox.count(database, SERVER) == 2
    assert (outbox.count(database, SERVER, "BOB"), outbox.count(database, "other.example")) == (1, 0)


def test_what_is_sealed_stays_as_it_is(database: Database) -> None:
    place = put(database, 1)
    assert outbox.set_content(database, place, b"another")
    outbox.seal(database, place, b"first")
    outbox.seal(database, place, b"second")
    assert not outbox.set_content(database, place, b"late")
    (row,) = outbox.due(database, SERVER, 9)
    assert (row.content, row.blob) == (b"", b"first")
    assert outbox.remove(database, place)
    assert not outbox.remove(database, place)
    assert outbox.due(database, SERVER, 9) == []


def test_one_that_waits_holds_back_its_peer_only(database: Database) -> None:
    a, b, c, d = put(database, 1), put(database, 2, "carol"), put(database, 3, "BOB"), put(database, 4, "carol")
    outbox.postpone(database, a, 50)
    outbox.postpone(database, a, 100)
    assert [row.place for row in outbox.due(database, SERVER, 99)] == [b, d]
    assert [(row.place, row.tries) for row in outbox.due(database, SERVER, 100)] == [(a, 2), (b, 0), (c, 0), (d, 0)]
    assert [row.place for row in outbox.due(database, SERVER, 100, limit=2)] == [a, b]
    assert (outbox.next_due(database, SERVER, 99), outbox.next_due(database, SERVER, 100)) == (100, None)
    outbox.postpone(database, b, 70)
    assert outbox.next_due(database, SERVER, 0) == 70
    outbox.wake(database, SERVER, "Bob")
    assert [row.place for row in outbox.due(database, SERVER, 0)] == [a, c]
    outbox.wake(database, SERVER)
    assert [row.place for row in outbox.due(database, SERVER, 0)] == [a, b, c, d]


def test_a_message_is_tried_when_nothing_before_it_waits_any_more(database: Database) -> None:
    for id, peer in enumerate(("bob", "carol", "bob", "bob"), 1):
        outbox.add(database, SERVER, peer, bytes([id]) * 16, now_ms=1, number=id, content=b"c")
    assert outbox.held_until(database, 3) == outbox.held_until(database, 99) == 0
    outbox.postpone(database, 1, 500)
    outbox.postpone(database, 4, 900)
    assert [outbox.held_until(database, number) for number in (1, 2, 3, 4)] == [500, 0, 500, 900]


def test_what_is_said_in_a_chat_waits_until_that_is_over(database: Database) -> None:
    spoken, stored = put(database, 1, live=True), put(database, 2)
    other = put(database, 3, "carol", live=True)
    outbox.seal(database, spoken, b"said")
    outbox.postpone(database, other, 900)
    assert [row.place for row in outbox.due(database, SERVER, 9)] == [stored], "and holds nothing back"
    assert outbox.next_due(database, SERVER, 9) is None
    assert outbox.release_live(database, "other.example") == []
    (released,) = outbox.release_live(database, SERVER, "BOB")
    assert (released.place, released.blob) == (spoken, b"said")
    assert [(row.place, row.blob) for row in outbox.due(database, SERVER, 9)] == [(spoken, b"said"), (stored, None)]
    assert [row.place for row in outbox.release_live(database, SERVER)] == [other]
    assert outbox.release_live(database, SERVER) == []


ROWS = st.lists(st.tuples(st.sampled_from(["bob", "Bob", "carol"]), st.integers(0, 4), st.booleans()), max_size=12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(rows=ROWS, now=st.integers(0, 4))
def test_due_is_what_goes_through_them_one_by_one_finds(kind: str, rows: list[tuple[str, int, bool]], now: int) -> None:
    database = in_memory(kind)
    expected, blocked = [], set[str]()
    for id, (peer, next_ms, live) in enumerate(rows):
        place = put(database, id, peer, live=live)
        outbox.postpone(database, place, next_ms)
        if live:
            continue
        if next_ms > now:
            blocked.add(peer.lower())
        elif peer.lower() not in blocked:
            expected.append(place)
    assert [row.place for row in outbox.due(database, SERVER, now)] == expected
    later = [next_ms for _, next_ms, live in rows if not live and next_ms > now]
    assert outbox.next_due(database, SERVER, now) == min(later, default=None)
    database.close()
