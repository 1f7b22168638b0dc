"""The stored sessions: which one sends, which still receive, and a disk that fails (protocol §10.2, §16)."""

from __future__ import annotations

import pytest

from messageapp.client.sessions import SESSIONS, Sessions, StoredSession
from messageapp.e2ee.envelope import Envelope
from messageapp.errors import UnusableSetup
from support.mail_ends import SERVER, End, two_ends


async def _ends() -> tuple[End, End, StoredSession]:
    alice, bob = await two_ends()
    return alice, bob, alice.start(bob)[0]


def _seal(end: End, stored: StoredSession) -> bytes:
    with end.sessions.changing(stored):
        return stored.session.seal_envelope(Envelope(bytes(16), 0, "text"))


async def test_a_session_is_the_same_after_a_restart() -> None:
    alice, bob, stored = await _ends()
    first = _seal(alice, stored)
    alice.restart()
    again = alice.sessions.newest("BOB", bob.identity.key_id)
    assert again is not None
    assert again is not stored
    assert (again.sid, again.device, again.key_id, again.made_ms) == (
        stored.sid,
        stored.device,
        bob.identity.key_id,
        stored.made_ms,
    )
    assert (again.confirmed, again.confirms) == (False, False)
    assert again is alice.sessions.by_sid("bob", first[:8]) is alice.sessions.newest("bob", bob.identity.key_id)
    second = _seal(alice, again)
    counter = slice(8 + 1 + 32 + 1184 + 1088, 8 + 1 + 32 + 1184 + 1088 + 16)
    assert (first[counter][0], second[counter][0]) == (0, 1)


async def test_the_newest_sends_and_four_older_ones_receive() -> None:
    alice, bob, first = await _ends()
    made = [first] + [alice.start(bob)[0] for _ in range(SESSIONS)]
    assert [each.made_ms for each in made] == sorted({each.made_ms for each in made})  # in one millisecond, all of them
    for _ in range(2):
        newest = alice.sessions.newest("bob", bob.identity.key_id)
        assert newest is not None
        assert newest.sid == made[-1].sid
        assert alice.sessions.by_sid("bob", first.sid) is None
        assert all(alice.sessions.by_sid("bob", each.sid) is not None for each in made[1:])
        assert alice.count("sessions") == SESSIONS
        alice.restart()


async def test_a_session_under_another_key_does_not_send() -> None:
    alice, bob, stored = await _ends()
    assert alice.sessions.newest("bob", bytes(32)) is None
    other = Sessions(alice.database, SERVER, "alice", bytes(32), alice.random)
    assert other.newest("bob", bob.identity.key_id) is None
    assert other.by_sid("bob", stored.sid) is None
    assert alice.sessions.by_sid("carol", stored.sid) is None


async def test_a_retired_session_receives_and_goes_first() -> None:
    alice, bob, stored = await _ends()
    alice.sessions.retire("Bob")
    assert alice.sessions.newest("bob", bob.identity.key_id) is None
    assert alice.sessions.by_sid("bob", stored.sid) is stored
    alice.ms -= 1000  # the clock was set back
    later = alice.start(bob)[0]
    assert later.made_ms > stored.made_ms
    assert alice.sessions.newest("bob", bob.identity.key_id) is later
    for _ in range(SESSIONS - 1):
        alice.start(bob)
    assert alice.sessions.by_sid("bob", stored.sid) is None


async def test_to_drop_leaves_nothing() -> None:
    alice, _, stored = await _ends()
    alice.sessions.drop("Bob")
    assert alice.sessions.by_sid("bob", stored.sid) is None
    assert alice.count("sessions") == 0


async def test_a_session_that_cannot_be_read_is_none() -> None:
    alice, bob, stored = await _ends()
    alice.database.inner.execute("UPDATE sessions SET state = x'01'")
    alice.restart()
    assert alice.sessions.newest("bob", bob.identity.key_id) is None
    assert alice.sessions.by_sid("bob", stored.sid) is None


async def test_what_fails_at_any_statement_has_not_happened_in_memory_either() -> None:
    alice, bob, stored = await _ends()

    def change() -> None:
        with alice.sessions.step():
            with alice.sessions.changing(stored):
                stored.session.seal_envelope(Envelope(bytes(16), 0, "text"))
                stored.confirmed = stored.confirms = True
            with alice.sessions.changing(stored):
                stored.session.seal_envelope(Envelope(bytes(16), 0, "another"))
            alice.sessions.retire("bob")
            for _ in range(SESSIONS):
                alice.start(bob)

    bob.prekeys_served *= SESSIONS * 100
    before, state, at = alice.database.dump(), stored.session.encode(), 0
    while True:
        at += 1
        alice.database.fail_at = alice.database.statements + at
        try:
            change()
        except UnusableSetup:
            alice.database.fail_at = None
            assert alice.database.dump() == before
            assert stored.session.encode() == state
            assert (stored.confirmed, stored.confirms) == (False, False)
            assert alice.sessions.newest("bob", bob.identity.key_id) is stored
            assert list(alice.sessions._cache) == [("bob", stored.sid)]  # none that is not on the disk
            continue
        break
    alice.database.fail_at = None
    assert at > 20
    assert alice.count("sessions") == SESSIONS
    assert alice.sessions.by_sid("bob", stored.sid) is None


async def test_whoever_catches_a_failure_inside_a_step_goes_on_with_what_was_before() -> None:
    alice, _, stored = await _ends()
    state = stored.session.encode()

    def fail() -> None:
        with alice.sessions.changing(stored):
            stored.session.seal_envelope(Envelope(bytes(16), 0, "text"))
            raise KeyError

    with alice.sessions.step():
        with pytest.raises(KeyError):
            fail()
        assert stored.session.encode() == state
    (on_disk,) = alice.database.inner.execute("SELECT state FROM sessions").fetchone()
    assert on_disk == state


async def test_a_secret_is_in_no_representation() -> None:
    alice, _, stored = await _ends()
    shown = repr(stored) + repr(alice.sessions)
    assert stored.session.encode().hex()[80:] not in shown
    assert len(shown) < 1000
