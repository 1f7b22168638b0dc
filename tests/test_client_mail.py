"""Messages through the server's storage, between real clients: the way, and every state on it (protocol §9, §16)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from lies.world import open_log_world
from messageapp.client import events as ev
from messageapp.client.client import open_client
from messageapp.client.messages import State
from messageapp.client.online import REFRESH_SECONDS
from messageapp.client.starting import CONFIRM_SECONDS
from messageapp.errors import UnusableSetup
from messageapp.store.states import Cause
from messageapp.wire.commands import ByeReason, Invite
from support.mail import MemoryBlocks
from support.mail_desk import wall_ms
from support.messaging import enrol, of, state, texts
from support.world import hold_back, open_world, settle, some_limits


async def test_a_message_to_who_is_away_is_there_at_his_login(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                number = await alice.write("bob", "see you tomorrow")
                assert state(alice, number) == (State.QUEUED, Cause.WAITING)
                (events,) = await settle(alice)
                assert state(alice, number) == (State.SENT, Cause.AT_SERVER)
                assert [event.peer for event in of(events, ev.KeyPinned)] == ["bob"]
                alice.messages.set_receipts("bob", True)
                async with world.client("bob") as bob:
                    bobs, alices = await settle(bob, alice)
                    (received,) = of(bobs, ev.MessageReceived)
                    assert (received.peer, received.text, received.healed) == ("alice", "see you tomorrow", False)
                    assert received.first is not None, "the number is shown to who is written to, too"
                    assert state(alice, number) == (State.DELIVERED, Cause.NONE)
                    bob.messages.set_receipts("alice", True)
                    assert bob.messages.mark_read("alice") == 1
                    bob.mail.poke()
                    await settle(bob, alice)
                    assert state(alice, number) == (State.READ, Cause.NONE)
                    answer = await bob.write("alice", "till then", reply_to=received.number)
                    alices = (await settle(alice))[0]
                    (event,) = of(alices, ev.MessageReceived)
                    assert (event.text, event.reply_to) == ("till then", number)
                    await settle(bob, alice)
                    assert state(bob, answer) == (State.DELIVERED, Cause.NONE)


async def test_who_leaves_at_once_is_reachable_and_has_sent(autojump_clock: trio.testing.MockClock) -> None:
    """A script's `msg` and `exit`, and somebody who joins and leaves."""
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            async with world.client("bob") as bob:
                await bob.exit()
            async with world.client("alice") as alice:
                number = await alice.write("bob", "one line")
                await alice.exit()
                assert state(alice, number) == (State.SENT, Cause.AT_SERVER)


async def test_who_has_no_prekeys_yet_gets_it_when_he_has(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(600):
        async with open_world(mail=True) as world:
            world.account("bob")  # enrolled, and never there
            async with world.client("alice", wall_ms=wall_ms) as alice:
                number = await alice.write("bob", "are you there?")
                await settle(alice)
                assert state(alice, number) == (State.QUEUED, Cause.NO_PREKEYS)
                async with world.client("bob", wall_ms=wall_ms) as bob:
                    await trio.sleep(REFRESH_SECONDS + 1)
                    assert texts(bob, "alice") == ["are you there?"]
                assert state(alice, number)[0] is State.DELIVERED


async def test_two_who_write_at_the_same_time_understand_each_other(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob", "alice")
            async with world.client("alice") as alice, world.client("bob") as bob:
                await settle(alice, bob)
                numbers = [(one, await one.write(other, "hello")) for one, other in ((alice, "bob"), (bob, "alice"))]
                for _ in range(3):
                    await settle(alice, bob)
                numbers += [(one, await one.write(other, "again")) for one, other in ((alice, "bob"), (bob, "alice"))]
                for _ in range(3):
                    await settle(alice, bob)
                assert texts(alice, "bob").count("hello") == texts(bob, "alice").count("again") == 2
                assert {state(client, number)[0] for client, number in numbers} == {State.DELIVERED}


async def test_a_long_queue_arrives_whole_and_in_order(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(600):
        async with open_world(some_limits(commands_burst=10_000), mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                many = [f"text {number}" for number in range(200)]
                numbers = [await alice.write("bob", text) for text in many]
                await settle(alice)
                assert {state(alice, number) for number in numbers} == {(State.SENT, Cause.AT_SERVER)}
                async with world.client("bob") as bob:
                    _, told = await settle(alice, bob)
                    assert [event.text for event in of(told, ev.MessageReceived)] == many
                    assert bob.mail.status().received == 200
                    await settle(alice, bob)
                    assert {state(alice, number)[0] for number in numbers} == {State.DELIVERED}
                    assert world.mail is not None
                    assert world.mail.execute("SELECT count(*) FROM mail").fetchone() == (0,), "all acknowledged"


async def test_a_key_that_the_log_does_not_confirm_gets_nothing(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(600):
        async with open_log_world(mail=True) as w:
            async with w.client("bob") as bob:
                await settle(bob)
            mailbox = w.world.server.mailbox
            assert mailbox is not None
            honest, mailbox._proof_of = mailbox._proof_of, lambda user: b""
            async with w.client("alice") as alice:
                await alice.log.caught_up()
                number = await alice.write("bob", "for bob")
                await settle(alice)
                assert state(alice, number) == (State.QUEUED, Cause.KEY_UNCHECKED)
                mailbox._proof_of = honest
                alice.mail.poke("bob")
                await settle(alice)
                assert state(alice, number) == (State.SENT, Cause.AT_SERVER)


async def test_a_log_that_is_never_read_to_its_end_is_waited_for_so_long(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(600):
        async with open_log_world(mail=True) as w:
            async with w.client("bob") as bob:
                await settle(bob)
            async with w.client("alice") as alice:
                await alice.log.caught_up()
                monkeypatch.setattr(alice.log, "check", lambda *_, **__: False)
                number = await alice.write("bob", "for bob")
                await trio.sleep(CONFIRM_SECONDS - 1)
                assert state(alice, number) == (State.QUEUED, Cause.WAITING)
                await trio.sleep(2)
                assert state(alice, number) == (State.QUEUED, Cause.KEY_UNCHECKED)


async def test_while_the_log_is_not_to_be_trusted_nothing_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(600):
        async with open_log_world(mail=True) as w:
            for name in ("alice", "bob"):
                async with w.client(name) as client:
                    await client.log.caught_up()
                    await settle(client)
                    if name == "alice":
                        client.log.log.raise_alarm("fork: seen before")
            async with w.client("alice") as alice:
                number = await alice.write("bob", "for bob")
                await settle(alice)
                assert state(alice, number) == (State.QUEUED, Cause.LOG_ALARM)


async def test_a_client_beside_the_accounts_own_leaves_the_mail_alone(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                await alice.write("bob", "for the account's own client")
                await settle(alice)
            account = replace(world.account("bob"), device=bytes(16))
            async with open_client(world.connect(), account, world.keys) as beside:
                (told,) = await settle(beside)
                assert not of(told, ev.MessageReceived)
            async with world.client("bob") as bob:
                (told,) = await settle(bob)
                assert len(of(told, ev.MessageReceived)) == 1
                assert not of(told, ev.MailMoved)


async def test_the_mailbox_moves_to_the_device_that_logs_in(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("bob") as old:
                await settle(old)
                async with world.client("bob", device=" second") as new:
                    olds, news = await settle(old, new)
                    assert of(olds, ev.MailMoved) == [ev.MailMoved(to_us=False)]
                    assert not of(news, ev.MailMoved), "it never had it before"
            async with world.client("bob") as old:
                (olds,) = await settle(old)
                assert of(olds, ev.MailMoved) == [ev.MailMoved(to_us=True)]


async def test_a_full_disk_ends_the_session_and_loses_nothing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice, world.client("bob") as bob:
                await settle(alice, bob)

                def full(*_: Any, **__: Any) -> None:
                    raise UnusableSetup("cannot use the account's database: database or disk is full")

                monkeypatch.setattr("messageapp.store.messages.add_received", full)
                await alice.write("bob", "still there")
                _, told = await settle(alice, bob)
                assert isinstance(told[-1], ev.Ended)
                assert isinstance(told[-1].error, UnusableSetup)
                monkeypatch.undo()
            async with world.client("bob") as bob:
                await settle(bob)
                assert texts(bob, "alice") == ["still there"]


@pytest.mark.parametrize("known", [False, True])
async def test_what_a_block_has_swallowed_arrives_by_retry_afterwards(
    autojump_clock: trio.testing.MockClock, known: bool
) -> None:
    """The first message of a session, and one of a session that bob has."""
    with trio.fail_after(600):
        async with open_world(mail=True, blocks=MemoryBlocks()) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice, world.client("bob") as bob:
                if known:
                    await alice.write("bob", "before")
                    await settle(alice, bob)
                await bob.block("alice")
                number = await alice.write("bob", "now?")
                await settle(alice, bob)
                assert state(alice, number) == (State.SENT, Cause.AT_SERVER), "the block stays hidden"
                assert "now?" not in texts(bob, "alice")
                alice.messages.retry(number)
                alice.mail.poke("bob")
                await settle(alice, bob)
                assert state(alice, number) == (State.SENT, Cause.AT_SERVER)
                await bob.unblock("alice")
                await settle(alice, bob)
                await trio.sleep(REFRESH_SECONDS)
                await settle(alice, bob)
                alice.messages.retry(number)
                assert state(alice, number) == (State.QUEUED, Cause.WAITING)
                alice.mail.poke("bob")
                events = (await settle(bob, alice))[0]
                await settle(alice, bob)
                assert state(alice, number) == (State.DELIVERED, Cause.NONE)
                assert texts(bob, "alice")[-1] == "now?"
                assert not of(events, ev.MessageUnreadable), "it is sealed for a session that bob has"


async def test_a_sent_message_that_is_tried_again_is_shown_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(600):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                number = await alice.write("bob", "once")
                await settle(alice)
                alice.messages.retry(number)
                alice.mail.poke("bob")
                await settle(alice)
                assert state(alice, number) == (State.SENT, Cause.AT_SERVER)
                later = await alice.write("bob", "later")
                await settle(alice)
                async with world.client("bob") as bob:
                    events = (await settle(bob, alice))[0]
                    assert [each.text for each in of(events, ev.MessageReceived)] == ["once", "later"]
                    assert not of(events, ev.MessageUnreadable)
                    await settle(bob, alice)
                assert {state(alice, each)[0] for each in (number, later)} == {State.DELIVERED}


async def test_what_comes_with_the_end_of_a_session_is_told_in_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody hears of it in this one: so it is not taken in, either."""
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                near, far = world.connect_both()
                async with world.client("bob", stream=near) as bob:
                    await settle(bob)
                    await alice.write("bob", "first")
                    await settle(alice, bob)
                    gate = hold_back(far)
                    (session,) = [each for each in world.server.router.sessions() if each.user == "bob"]
                    session.event("cach", Invite(bytes(16)))
                    await settle()
                    await alice.write("bob", "second")
                    await settle(alice)
                    session.end(ByeReason.AGE)
                    gate.set()
                    (told,) = await settle(bob)
                async with world.client("bob") as bob:
                    (told_later,) = await settle(bob)
                    assert texts(bob, "alice") == ["first", "second"]
                    assert [event.text for event in of(told + told_later, ev.MessageReceived)] == ["second"]
