"""Every cause of the closed list: brought about by the real engine at the real server, and explained with a remedy."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from lies.world import open_log_world
from messageapp.client import causes, mailing, prekeys
from messageapp.client.causes import Context, explain
from messageapp.client.client import Client, open_client
from messageapp.client.events import MessageChanged
from messageapp.client.messages import Cause, Message, Messages, State
from messageapp.clock import DAY_MS, wall_ms
from messageapp.e2ee.envelope import Envelope
from messageapp.errors import ConnectionCut
from messageapp.wire.commands import ErrorCode, Errors
from messageapp.wire.mail_forms import PeerPrekey
from messageapp.wire.records import Kind
from messageapp_cli.commands import ROWS
from support.mail import MemoryBlocks, send, upload
from support.mail import prekeys as upload_of
from support.messaging import enrol
from support.world import SERVER_NAME, World, hold_back, identity, open_world, settle, some_limits, start_chat

Clock = trio.testing.MockClock


@pytest.fixture(autouse=True)
def _few_prekeys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred take a client half a second."""
    monkeypatch.setattr(prekeys, "ONE_TIME", 10)
    monkeypatch.setattr(prekeys, "REFILL", 5)


def shows(client: Client | Messages, number: int, state: State, cause: Cause, phrase: str, **known: Any) -> None:
    """The message is in that state for that cause, and `why` says so with `phrase`."""
    messages = client.messages if isinstance(client, Client) else client
    message = messages.message(number)
    assert (message.state, message.cause) == (state, cause)
    assert phrase in explain(message, Context(**{"now_ms": wall_ms(), "connected": True, **known}))


@asynccontextmanager
async def a_world(mail: Any = True, **changes: Any) -> AsyncIterator[World]:
    """A server that stores messages; bob has been there once, and is away."""
    with trio.fail_after(100_000):
        async with open_world(mail=mail, **changes) as world:
            await enrol(world, "bob")
            yield world


def stored_by(world: World, name: str) -> Messages:
    """What is on the disk of a client that is not running."""
    return Messages(world.trusts[name], SERVER_NAME, name, wall_ms, os.urandom)


def last(client: Client, peer: str) -> int:
    return client.messages.history(peer)[-1].number


# queued ---------------------------------------------------------------------------------------------------------------


async def test_waiting(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice:
        number = await alice.write("bob", "hello")
        shows(alice, number, State.QUEUED, Cause.WAITING, "waits for its turn")


async def test_not_connected(autojump_clock: Clock) -> None:
    async with a_world() as world:
        async with world.client("alice") as alice:
            await settle(alice)
            await alice.exit()
            number = alice.messages.write("bob", "hello")
            shows(alice, number, State.QUEUED, Cause.WAITING, "no connection to the server", connected=False)
        async with world.client("alice") as alice:
            await settle(alice)
            number = await alice.write("bob", "cut off before its turn")
            await alice._session.end(ConnectionCut())
        known = {"connected": False, "retry_s": 20.0}
        shows(stored_by(world, "alice"), number, State.QUEUED, Cause.NOT_CONNECTED, "the next try is in 20 s", **known)


async def test_no_prekeys(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice:
        world.directory.enrol("carol", identity("carol").bundle)
        for name in ("carol", "nobody"):
            number = await alice.write(name, "hello")
            await settle(alice)
            shows(alice, number, State.QUEUED, Cause.NO_PREKEYS, f"no key of {name}")


async def test_mailbox_full(autojump_clock: Clock) -> None:
    async with a_world(limits=some_limits(mail_messages=1)) as world, world.client("alice") as alice:
        await alice.write("bob", "one")
        number = await alice.write("bob", "two")
        await settle(alice)
        shows(alice, number, State.QUEUED, Cause.MAILBOX_FULL, "mailbox of bob is full")


async def test_server_disk_full(autojump_clock: Clock) -> None:
    async with a_world({"disk_full": lambda: True}) as world, world.client("alice") as alice:
        number = await alice.write("bob", "hello")
        await settle(alice)
        shows(alice, number, State.QUEUED, Cause.SERVER_DISK_FULL, "tell who runs the server")


async def test_busy(autojump_clock: Clock) -> None:
    async with a_world(limits=some_limits(bndls_per_minute=1)) as world:
        await enrol(world, "carol")
        async with world.client("alice") as alice:
            for name in ("bob", "carol"):
                await alice.write(name, "hello")
            async for event in alice.events:  # the clock jumps, and its turn comes
                if isinstance(event, MessageChanged) and event.cause == Cause.BUSY:
                    now = wall_ms()
                    shows(alice, event.number, State.QUEUED, Cause.BUSY, "in 5 s", now_ms=now, next_ms=now + 5000)
                    break


async def test_key_changed(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice:
        await alice.write("bob", "hello")
        await settle(alice)
        new = identity("bob's new key")
        world.directory.enrol("bob", new.bundle)
        async with world.client("bob", identity=new, device="new") as bob:
            await settle(bob)
        alice.mail.sessions.drop("bob")  # a session is begun anew: the server gives the other key
        number = await alice.write("bob", "are you it?")
        await settle(alice)
        shows(alice, number, State.QUEUED, Cause.KEY_CHANGED, "then: trust bob")


async def test_key_unchecked(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(100_000):
        async with open_log_world(monkeypatch, mail=True) as w:
            await enrol(w.world, "bob")
            other = identity("mallory").bundle.encode()

            def another_key(user: str, verb: str, argument: Any) -> Any:
                return replace(argument, bundle=other) if isinstance(argument, PeerPrekey) else argument

            w.liar.twist = another_key
            async with w.client("alice") as alice:
                number = await alice.write("bob", "hello")
                await settle(alice)
                await trio.sleep(60)
                shows(alice, number, State.QUEUED, Cause.KEY_UNCHECKED, "could not be checked in the key log")


async def test_log_alarm(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with alarmed(monkeypatch, "alice") as (_, alice):
        number = await alice.write("bob", "hello")
        await settle(alice)
        shows(alice, number, State.QUEUED, Cause.LOG_ALARM, "log accept", trouble=alice.log.alarm)


@asynccontextmanager
async def alarmed(monkeypatch: pytest.MonkeyPatch, victim: str) -> AsyncIterator[Any]:
    """The server has shown `victim` one history and now shows another; all have been there before."""
    with trio.fail_after(100_000):
        async with open_log_world(monkeypatch, mail=True) as w:
            await enrol(w.world, "alice", "bob")
            directory, other = w.fork("other")
            w.directory.enrol("carol", identity("carol").bundle)
            async with w.client(victim) as client:
                await client.log.caught_up()
            for name in ("dave", "erin"):
                directory.enrol(name, identity(name).bundle)
            w.liar.logs[victim] = other
            try:
                async with w.client(victim) as client:
                    await trio.sleep(60)
                    await settle(client)
                    assert client.log.alarm
                    yield w, client
            finally:
                directory.close()


async def test_blocked(autojump_clock: Clock) -> None:
    blocks = MemoryBlocks()
    blocks.pairs.add(("alice", "bob"))
    async with a_world(blocks=blocks) as world, world.client("alice") as alice:
        number = await alice.write("bob", "hello")
        await settle(alice)
        shows(alice, number, State.QUEUED, Cause.BLOCKED, "unblock bob")


async def test_no_mail(autojump_clock: Clock) -> None:
    async with a_world(mail=False) as world, world.client("alice") as alice:
        number = await alice.write("bob", "hello")
        await settle(alice)
        shows(alice, number, State.QUEUED, Cause.NO_MAIL, "chat bob")


@asynccontextmanager
async def cut_chat(world: World) -> AsyncIterator[tuple[Client, Client, int]]:
    """alice has said something in a chat with bob; it has not reached him."""
    near, far = world.connect_both()
    async with world.client("alice") as alice, world.client("bob", stream=near) as bob:
        await start_chat(alice, bob)
        await alice.say("first")
        await settle(alice, bob)
        hold_back(far)
        number = await alice.say("hello")
        await settle(alice)
        yield alice, bob, number


async def test_in_chat(autojump_clock: Clock) -> None:
    async with a_world() as world, cut_chat(world) as (alice, _, number):
        shows(alice, number, State.QUEUED, Cause.IN_CHAT, "said in the chat with bob")


# sent -----------------------------------------------------------------------------------------------------------------


async def test_at_server(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice:
        number = await alice.write("bob", "hello")
        await settle(alice)
        now = wall_ms()
        shows(alice, number, State.SENT, Cause.AT_SERVER, "keeps it until", kept_s=30 * 86_400)
        shows(alice, number, State.SENT, Cause.AT_SERVER, "last seen online at", seen_ms=now - DAY_MS)


async def test_unconfirmed(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice, world.client("bob") as bob:
        bob.mail.receipt = lambda ids: Envelope(os.urandom(16), 0)  # type: ignore[method-assign]  # an older client's
        await start_chat(alice, bob)
        number = await alice.say("hello")
        await bob.say("hi")
        await settle(alice, bob)
        shows(alice, number, State.SENT, Cause.UNCONFIRMED, "Ask bob if in doubt")


async def test_nothing_to_add(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice:
        number = await alice.write("bob", "hello")
        async with world.client("bob") as bob:
            await settle(alice, bob)
            shows(bob, last(bob, "alice"), State.RECEIVED, Cause.NONE, "on this disk")
        await settle(alice)
        shows(alice, number, State.DELIVERED, Cause.NONE, "on the disk of bob's client")


# failed ---------------------------------------------------------------------------------------------------------------


async def test_unknown_user(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice:
        await alice.write("bob", "hello")
        await settle(alice)
        world.directory.remove("bob")
        number = await alice.write("bob", "still there?")
        await settle(alice)
        shows(alice, number, State.FAILED, Cause.UNKNOWN_USER, f"retry {number}")


async def test_refused(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice:
        world.server.router._handlers[b"send"] = lambda session, identifier, request: session.tell(
            Kind.REPLY, identifier, "erro", Errors(ErrorCode.MALFORMED, "for no reason")
        )
        number = await alice.write("bob", "hello")
        await settle(alice)
        shows(alice, number, State.FAILED, Cause.REFUSED, f"retry {number}")


async def test_expired(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailing, "KEEP_SECONDS", 10.0)
    late = 0
    async with a_world() as world:
        account = world.account("alice")
        async with open_client(world.connect(), account, world.keys, wall_ms=lambda: wall_ms() + late) as alice:
            number = await alice.write("bob", "hello")
            await settle(alice)
            late = 31 * DAY_MS
            await trio.sleep(11)
            await settle(alice)
            shows(alice, number, State.FAILED, Cause.EXPIRED, "(30 days)", kept_s=30 * 86_400)


async def test_chat_cut(autojump_clock: Clock) -> None:
    async with a_world(mail=False) as world, cut_chat(world) as (alice, _, number):
        await alice.leave()
        await settle(alice)
        shows(alice, number, State.FAILED, Cause.CHAT_CUT, "another chat: chat bob")


# received and unreadable ----------------------------------------------------------------------------------------------


async def test_late(autojump_clock: Clock) -> None:
    async with a_world() as world:
        async with world.client("alice") as alice:
            for text in ("one", "two", "three"):
                await alice.write("bob", text)
                await settle(alice)
        assert world.mail is not None
        two, three = [seq for (seq,) in world.mail.execute("SELECT seq FROM mail ORDER BY seq").fetchall()[1:]]
        for old, new in ((two, 99), (three, two), (99, three)):  # they come in another order
            world.mail.execute("UPDATE mail SET seq = ? WHERE seq = ?", (new, old))
        async with world.client("bob") as bob:
            await settle(bob)
            assert [message.text for message in bob.messages.history("alice")] == ["one", "three", "two"]
            shows(bob, last(bob, "alice"), State.RECEIVED, Cause.LATE, "reported missing")


async def test_healed(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("alice") as alice:
        await alice.write("bob", "one")
        async with world.client("bob") as bob:
            await settle(alice, bob)
        world.trusts["bob"].execute("DELETE FROM sessions")  # of an older copy of the file, perhaps
        await alice.write("bob", "two")
        await settle(alice)
        async with world.client("bob") as bob:
            await settle(alice, bob)
            assert [message.text for message in bob.messages.history("alice")] == ["one", "two"]
            shows(bob, last(bob, "alice"), State.RECEIVED, Cause.HEALED, "could not be decrypted at first")


async def junk(world: World, times: int, *, prekeys: int) -> None:
    """Under alice's name bob gets what does not open, always with the same id; `prekeys` of hers are at the server."""
    peer = await world.raw("alice")
    if prekeys:
        await upload(peer, upload_of("alice", prekeys))
    for attempt in range(times):
        await send(peer, "bob", b"\1" + bytes([attempt]) * 3000, b"m" * 16)
        await trio.testing.wait_all_tasks_blocked()
    await peer.close()


async def test_asked_again(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("bob") as bob:
        await junk(world, 1, prekeys=5)
        await settle(bob)
        shows(bob, last(bob, "alice"), State.UNREADABLE, Cause.ASKED_AGAIN, "asked for it by itself")


async def test_cannot_ask(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("bob") as bob:
        await junk(world, 1, prekeys=0)
        await settle(bob)
        shows(bob, last(bob, "alice"), State.UNREADABLE, Cause.CANNOT_ASK, "cannot be asked for it now")


async def test_gave_up(autojump_clock: Clock) -> None:
    async with a_world() as world, world.client("bob") as bob:
        await junk(world, 4, prekeys=9)
        await settle(bob)
        shows(bob, last(bob, "alice"), State.UNREADABLE, Cause.GAVE_UP, "three times")


# held -----------------------------------------------------------------------------------------------------------------


async def test_held_key(autojump_clock: Clock) -> None:
    async with a_world() as world:
        async with world.client("alice") as alice, world.client("bob") as bob:
            await alice.write("bob", "one")
            await settle(alice, bob)
        new = identity("alice's new key")
        world.directory.enrol("alice", new.bundle)
        async with world.client("alice", identity=new, device="new") as alice, world.client("bob") as bob:
            await settle(alice, bob)
            await alice.write("bob", "two")
            await settle(alice, bob)
            shows(bob, last(bob, "alice"), State.HELD, Cause.HELD_KEY, "then: trust alice")


async def test_held_log(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with alarmed(monkeypatch, "bob") as (w, bob), w.client("alice") as alice:
        await alice.write("bob", "hello")
        await settle(alice, bob)
        shows(bob, last(bob, "alice"), State.HELD, Cause.HELD_LOG, "could not be checked")


# the list -------------------------------------------------------------------------------------------------------------


def test_every_cause_is_brought_about() -> None:
    """By a call of `shows` in one of the tests above."""
    shown = {
        node.args[3].attr
        for node in ast.walk(ast.parse(Path(__file__).read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "shows" and isinstance(node.args[3], ast.Attribute)
    }
    assert shown == {cause.name for cause in Cause}


# the sentences --------------------------------------------------------------------------------------------------------


def a_message(state: State, cause: Cause) -> Message:
    return Message(
        number=42,
        peer="bob",
        server=SERVER_NAME,
        id=bytes(16),
        own=state in (State.QUEUED, State.SENT, State.DELIVERED, State.READ, State.FAILED),
        text="a secret text",
        written_ms=1,
        stored_ms=1_700_000_000_000,
        state=state,
        cause=cause,
        changed_ms=1_700_000_000_000,
        reply_to=None,
        edited_ms=None,
        versions=0,
        reactions=(),
        expires_ms=None,
        expire_s=0,
        live=False,
        reply_id=None,
        conversation=1,
    )


@pytest.mark.parametrize("cause", Cause)
def test_a_sentence_for_whatever_state_and_whatever_is_known(cause: Cause) -> None:
    now = 1_700_000_000_000
    for state in State:
        for context in (
            Context(now),
            Context(now, connected=True, kept_s=0xFFFFFFFF, seen_ms=1, trouble="{peer} {}"),
            Context(now, retry_s=0.0, online=True, next_ms=now + 10**12, kept_s=1),
        ):
            told = explain(a_message(state, cause), context)
            assert told[-1].isalnum() or told[-1] == "."
            assert len(told) < 300
            assert "secret" not in told
            assert "{" not in told.replace("{peer} {}", "")
            assert explain(a_message(state, cause), context) == told


def test_states_without_a_cause_have_their_own_sentences() -> None:
    told = {explain(a_message(state, Cause.NONE), Context(0)) for state in State}
    assert len(told) == len(State)


@pytest.mark.parametrize("sentence", [*causes._SENTENCES.values(), *causes._PLAIN.values()])
def test_what_one_is_told_to_type_is_a_command(sentence: str) -> None:
    known = {command.name for command in ROWS} | {"messageapp"}
    assert set(re.findall(r": (\w+)", sentence)) <= known


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "1 s"), (45, "45 s"), (119, "119 s"), (120, "2 min"), (5400, "90 min"), (7200, "2 h"), (172_800, "2 days")],
)
def test_lengths_of_time(seconds: float, shown: str) -> None:
    assert causes._length(seconds) == shown


async def test_a_sent_message_that_a_peer_who_was_there_does_not_take(autojump_clock: Clock) -> None:
    """As the blocked see it, who are not told."""
    blocks = MemoryBlocks()
    blocks.pairs.add(("bob", "alice"))
    async with a_world(blocks=blocks) as world, world.client("alice") as alice:
        number = await alice.write("bob", "hello")
        await settle(alice)
        sent_ms = alice.messages.message(number).changed_ms

        def says(phrase: str, **known: Any) -> None:
            shows(alice, number, State.SENT, Cause.AT_SERVER, phrase, **known)

        says("bob is online; that is a matter of seconds", online=True)
        minutes = sent_ms + 120_000
        for was_there in ({"online": True}, {"seen_ms": sent_ms + 1}):
            says("bob may not take messages from you. Ask bob another way", now_ms=minutes, **was_there)
            says(f"retry {number}", now_ms=minutes, **was_there)
        says("was last seen online at", now_ms=minutes, seen_ms=sent_ms - 1)
        says("was last seen online at", now_ms=minutes, seen_ms=sent_ms + 1, connected=False)
