"""What peers, other users and servers try with stored messages (protocol §9, §16): each line was a fault once."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client.incoming import BATCH_BYTES
from messageapp.client.outgoing import SENDS
from messageapp.client.resending import MAX_QUEUED, NOTHING_LEFT
from messageapp.e2ee import agreement
from messageapp.e2ee.envelope import MAX_IDS, Envelope
from messageapp.e2ee.offline import MESSAGE, START
from messageapp.server.mailbox import Mailbox
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.changes import PURGED_AT_ONCE, purge_expired
from messageapp.store.conversations import conversation_of
from messageapp.store.database import transaction
from messageapp.store.states import Cause, State
from messageapp.wire.commands import ErrorCode, Raw, parse_untrusted
from messageapp.wire.mail_forms import Acknowledgement, Delivery, PrekeyState
from messageapp.wire.records import Kind
from messageapp.wire.states import Role
from messageapp_keys.prekeys import Prekey, PrekeyKind
from support.mail import deliveries, prekeys, send, upload
from support.mail_desk import KEPT_S, at_desk, wall_ms
from support.mail_ends import SERVER, End, two_ends
from support.world import RawPeer, World, open_world, settle, some_limits

ALICE, BOB = b"\1" * 16, b"\2" * 16
HOUR_MS = 3_600_000


async def known_ends() -> tuple[End, End]:
    """Bob has a message of alice's."""
    alice, bob = await two_ends()
    await bob.take([alice.note(bob, text="hello")])
    return alice, bob


async def raw_ends(world: World) -> tuple[RawPeer, RawPeer]:
    alice, bob = await world.raw("alice", device=ALICE), await world.raw("bob", device=BOB)
    assert await upload(bob, prekeys("bob", 1)) == Raw()
    return alice, bob


# floods ---------------------------------------------------------------------------------------------------------------


async def test_what_a_flood_of_junk_left_no_room_to_ask_for_has_not_been_asked_for_in_vain() -> None:
    with trio.fail_after(60):
        alice, bob = await known_ends()
        for _ in range(25):
            await bob.take([alice.deliver(bob, os.urandom(16), b"\1" + os.urandom(3000)) for _ in range(64)])
        bob.ms += 2 * HOUR_MS
        bob.incoming.healing.ask_again()
        causes = Counter(each.cause for each in bob.history("alice") if each.state is State.UNREADABLE)
        assert causes[Cause.GAVE_UP] == 0
        assert causes[Cause.ASKED_AGAIN] == 6 * 64 + MAX_IDS
        assert causes[Cause.CANNOT_ASK] == 25 * 64 - 6 * 64 - MAX_IDS


async def test_open_messages_are_found_without_going_through_all() -> None:
    _, bob = await known_ends()
    plans: list[Any] = []
    execute = bob.database.execute

    def explained(sql: str, parameters: Any = (), /) -> Any:
        if sql.startswith("SELECT"):
            plans.extend(bob.database.inner.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())
        return execute(sql, parameters)

    bob.database.execute = explained  # type: ignore[method-assign]
    rows.find_open(bob.database, SERVER, (State.QUEUED,))
    assert any("INDEX messages_open" in row[-1] for row in plans), plans
    assert not any(row[-1].startswith("SCAN m") for row in plans), plans


# the window of a session ----------------------------------------------------------------------------------------------


async def test_acknowledging_the_same_again_and_again_takes_nobodys_place_in_the_queue() -> None:
    with trio.fail_after(20):
        gate = trio.Event()
        gate.set()

        async def slowly(call: Any) -> Any:
            await gate.wait()
            return call()

        async with open_world(some_limits(mail_queue=5), mail={"run": slowly}) as world:
            alice, bob = await raw_ends(world)
            await send(alice, "bob", b"sealed")
            (waits,) = await deliveries(bob, 1)
            gate = trio.Event()
            for number in range(50):  # these take no token
                await bob.send("ackm", Acknowledgement((waits.seq,)), identifier=100 + number)
            await trio.testing.wait_all_tasks_blocked()
            mailbox: Mailbox | None = world.server.mailbox
            assert mailbox is not None
            assert len(mailbox._commits._waiting) <= 1
            gate.set()


async def test_an_acknowledgement_that_finds_a_full_queue_does_not_end_what_comes() -> None:
    """The client does not say it again: its window would stay full for as long as the session lasts."""
    with trio.fail_after(20):
        gate = trio.Event()
        gate.set()

        async def slowly(call: Any) -> Any:
            await gate.wait()
            return call()

        async with open_world(some_limits(mail_queue=2, mail_window=1), mail={"run": slowly}) as world:
            alice, bob = await raw_ends(world)
            for text in (b"first", b"second"):
                await send(alice, "bob", text)
            (first,) = await deliveries(bob, 1)
            gate = trio.Event()
            for number in range(6):
                await alice.send("prek", identifier=number)
                await trio.testing.wait_all_tasks_blocked()
            await bob.send("ackm", Acknowledgement((first.seq,)), identifier=9)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            found = [await bob.receive() for _ in range(2)]
            assert (found[0].kind, found[0].verb) == (Kind.REPLY, b"okay")
            second = parse_untrusted(Role.SERVER, found[1])
            assert isinstance(second, Delivery)
            assert second.blob == b"second"


async def test_requests_for_what_we_never_wrote_do_not_make_us_send_without_end() -> None:
    with trio.fail_after(60):
        alice, bob = await known_ends()
        for _ in range(MAX_QUEUED // NOTHING_LEFT + 5):
            await bob.take([alice.note(bob, resend=tuple(os.urandom(16) for _ in range(NOTHING_LEFT)))])
        assert MAX_QUEUED <= outbox.count(bob.database, SERVER, "alice") < MAX_QUEUED + NOTHING_LEFT + MAX_IDS // 64
        bob.post(alice)
        await bob.take([alice.note(bob, resend=(os.urandom(16),))])
        assert len(bob.waiting("alice")) == 1, "the next one is answered"


async def test_a_server_that_says_it_has_no_prekeys_fills_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messageapp.client.prekeys.MOST_ONE_TIME", 150)
    monkeypatch.setattr("messageapp.client.prekeys.MOST_LAST_RESORT", 3)
    with trio.fail_after(60):
        _, bob = await two_ends()
        uploaded: list[Prekey] = []

        async def upload_all(made: Sequence[Prekey]) -> None:
            uploaded.extend(made)

        for _ in range(5):
            bob.ms += 1
            await bob.prekeys.upkeep(PrekeyState(0, 0, True, 30 * 86_400), upload_all)
        bob.ms += 1
        await bob.prekeys.upkeep(PrekeyState(100, uploaded[-101].expires_ms, True, 30 * 86_400), upload_all)
        kept = Counter(
            int(kind) for (kind,) in bob.database.execute("SELECT kind FROM prekeys WHERE made_ms < ?", (bob.ms,))
        )
        assert kept == {PrekeyKind.ONE_TIME: 150, PrekeyKind.LAST_RESORT: 3}
        assert all(bob.prekeys.find(each.id) is not None for each in uploaded[-100:]), "the newest stay"


# what a later step relies on ------------------------------------------------------------------------------------------


async def test_a_deleted_first_message_takes_its_session_with_it(autojump_clock: trio.testing.MockClock) -> None:
    """The peer never saw how that session began, and could read nothing that is said in it."""
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            desk.refuses["bob"] = ErrorCode.STORAGE
            number = await alice.write("bob", "first")
            await settle(alice)
            alice.messages.delete(number)
            desk.refuses.clear()
            await alice.write("bob", "second")
            await settle(alice)
            assert [request.blob[0] for request in desk.sent] == [START, START]
            await alice.write("bob", "third")
            await settle(alice)
            assert desk.sent[-1].blob[0] == MESSAGE


async def test_two_starts_of_one_number_do_not_close_the_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 bits can be sought. What cannot be stored is never acknowledged, and would end every session to come."""
    with trio.fail_after(60):
        alice, bob = await two_ends()
        real = agreement.Finished.derive

        def derive(*arguments: Any) -> Any:
            made = real(*arguments)
            return replace(made, secrets=replace(made.secrets, chat_id=bytes(8)))

        monkeypatch.setattr(agreement.Finished, "derive", derive)
        await bob.take([alice.note(bob, text="one")])
        alice.sessions.drop("bob")
        await bob.take([alice.note(bob, text="two")])
        assert bob.texts("alice") == ["one", None]


async def test_a_command_beside_the_client_leaves_alone_what_that_has_queued(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            desk.holds = True
            number = await alice.write("bob", "hello")
            await settle(alice)
            async with world.client("alice", device="", enrol=False) as beside:
                beside.mail._beside = True
                await beside.exit()
            found = alice.messages.message(number)
            assert (found.state, found.cause) == (State.QUEUED, Cause.WAITING)


async def test_each_task_that_waits_for_a_poke_hears_it_where_there_is_no_storage(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What says that the server stores nothing, and what deletes messages in time, wait for the same."""
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            await settle(alice)
            numbers = []
            for word in ("one", "two", "three"):
                numbers.append(await alice.write("bob", word))
                await settle(alice)
            causes = {alice.messages.message(number).cause for number in numbers}
            assert causes == {Cause.NO_MAIL}


async def test_in_short_sessions_too_it_is_told_what_the_server_has_deleted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ahead_ms = 0
    with trio.fail_after(60):
        async with open_world() as world:
            async with at_desk(world, "alice") as (alice, _):
                number = await alice.write("bob", "hello")
                await settle(alice)
            ahead_ms = 1000 * KEPT_S + 2 * HOUR_MS
            async with at_desk(world, "alice", wall_ms=lambda: wall_ms() + ahead_ms) as (alice, _):
                await settle(alice)
                found = alice.messages.message(number)
                assert (found.state, found.cause) == (State.FAILED, Cause.EXPIRED)


async def test_what_has_had_its_time_goes_in_portions(autojump_clock: trio.testing.MockClock) -> None:
    """Each word of it is overwritten: all at once would hold up the keep-alive, and the server would hang up."""
    with trio.fail_after(60):
        _, bob = await known_ends()
        of = conversation_of(bob.database, SERVER, "alice")
        numbers = [
            rows.add_received(bob.database, of, os.urandom(16), text, written_ms=1, now_ms=1, expire_s=1)
            for text in ["x" * 60_000, "y" * 60_000, *["short"] * 20]
        ]
        assert purge_expired(bob.database, 2000, PURGED_AT_ONCE) == numbers[:1]
        assert purge_expired(bob.database, 2000, PURGED_AT_ONCE) == numbers[1:2]
        assert purge_expired(bob.database, 2000, PURGED_AT_ONCE) == numbers[2:]
        assert purge_expired(bob.database, 2000, PURGED_AT_ONCE) == []
        async with open_world() as world, at_desk(world, "alice") as (alice, _):
            await settle(alice)
            database = alice.account.trust.database
            of = conversation_of(database, alice.server_name, "bob")
            for _ in range(3):
                rows.add_received(
                    database, of, os.urandom(16), "x" * PURGED_AT_ONCE, written_ms=1, now_ms=1, expire_s=1
                )
            commits: list[str] = []
            assert isinstance(database, sqlite3.Connection)
            database.set_trace_callback(commits.append)
            alice.mail.poke()
            await settle(alice)
            database.set_trace_callback(None)
            assert alice.messages.history("bob") == []
            deletions = [sql for sql in commits if sql == "COMMIT" or sql.startswith("DELETE FROM messages")]
            assert "DELETE DELETE" not in " ".join(sql.split()[0] for sql in deletions), "another's turn in between"


async def test_long_messages_are_taken_in_one_after_the_other() -> None:
    with trio.fail_after(60):
        alice, bob = await known_ends()
        texts = [f"{number} " + "x" * 60_000 for number in range(13)]
        began = 0
        execute = bob.database.execute

        def counted(sql: str, parameters: Any = (), /) -> Any:
            nonlocal began
            began += sql == "BEGIN IMMEDIATE"
            return execute(sql, parameters)

        sent = [alice.note(bob, text=text) for text in texts]
        bob.database.execute = counted  # type: ignore[method-assign]
        await bob.take(sent[:1])
        one, began = began, 0
        await bob.take(sent[1:])
        assert 2 * BATCH_BYTES < 12 * 60_000
        assert began >= one + 2, (one, began)
        assert bob.texts("alice") == ["hello", *texts]


async def test_a_stolen_key_gets_nothing_of_what_its_owner_had_confirmed() -> None:
    """The server knows the ids of all messages; who has the peer's key as well could have them all said again."""
    with trio.fail_after(60):
        alice, bob = await known_ends()
        confirmed = bob.messages.write("alice", "of last year")
        await alice.take(bob.post(alice))
        await bob.take(alice.post(bob))
        assert bob.messages.message(confirmed).state is State.DELIVERED
        unconfirmed = bob.messages.write("alice", "not yet")
        bob.post(alice)
        ids = [bob.messages.message(number).id for number in (confirmed, unconfirmed)]
        alice.sessions.drop("bob")  # the thief begins anew
        await bob.take([alice.note(bob, resend=tuple(ids))])
        assert [note.text for note in bob.notes("alice") if note.text is not None] == ["not yet"]


async def test_thousands_that_wait_for_one_peer_hold_up_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            for peer in ("mallory", "carol"):
                await alice.write(peer, "begins a session")
            await settle(alice)
            desk.sent.clear()
            database = alice.account.trust.database
            with transaction(database):
                for _ in range(300):
                    note = Envelope(os.urandom(16), 1)
                    outbox.add(database, alice.server_name, "mallory", note.id, now_ms=1, content=note.encode())
            await alice.write("carol", "hello")
            await settle(alice)
            assert len(desk.sent) == 301
            assert [request.to for request in desk.sent].index("carol") < 2 * SENDS
