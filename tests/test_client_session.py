"""A client's session: how it ends in every state, and a server that does not behave."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client.client import EXIT_SECONDS, PARTING_SECONDS, Client, State
from messageapp.client.events import Ended, Keying, NotDelivered
from messageapp.errors import (
    ConnectionCut,
    MessageAppError,
    RemoteProtocolError,
    RequestRefused,
    ServerGoodbye,
    UnusableSetup,
)
from messageapp.server.router import Router
from messageapp.wire.commands import Bye, Call, Echo, Errors, Invite, Left, ListEntry, Listing, PeerKey, Raw, make
from messageapp.wire.records import Kind
from support.world import (
    FakeServer,
    World,
    expect,
    hold_back,
    identity,
    open_world,
    settle,
    some_limits,
    start_chat,
    with_fake_server,
)

STATES = ("ONLINE", "CALLING", "RINGING", "KEYING", "CHAT")


@asynccontextmanager
async def in_state(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(alice in that state, bob, the server's end of alice's connection)."""
    near, far = world.connect_both()
    async with world.client("alice", stream=near) as alice, world.client("bob") as bob:
        match State[name]:
            case State.CALLING:
                await alice.chat("bob")
            case State.RINGING:
                await bob.chat("alice")
                await expect(alice, "IncomingCall")
            case State.KEYING:
                monkeypatch.setattr(Router, "_forward", lambda self, session, records: None)
                await alice.chat("bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                await expect(alice, "Keying")
            case State.CHAT:
                await start_chat(alice, bob)
        assert alice.state is State[name]
        yield alice, bob, far


@pytest.mark.parametrize("state", STATES)
async def test_a_cut_ends_the_session_in_every_state(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    with trio.fail_after(2000):
        async with open_world() as world, in_state(world, state, monkeypatch) as (alice, bob, far):
            await trio.aclose_forcefully(far)
            ended = await expect(alice, "Ended")
            assert type(ended.error) is ConnectionCut
            assert "last messages may be missing" in str(ended.error)
            with pytest.raises(MessageAppError):
                await alice.list_users()
            with pytest.raises(MessageAppError):
                await alice.chat("bob")
            with pytest.raises(MessageAppError):
                await alice.say("into the void")
            await alice.exit()
            await trio.sleep(1000)  # nothing that still runs falls over
            told = {
                "CALLING": "CallCanceled",
                "RINGING": "CallRefused",
                "KEYING": "ChatOver",
                "CHAT": "ChatOver",
            }.get(state)
            if told is not None:
                assert await expect(bob, told)
            assert bob.state is State.ONLINE


@pytest.mark.parametrize("state", STATES)
async def test_silence_ends_the_session_in_every_state(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """The line is dead, and comes alive after the client gave up."""
    with trio.fail_after(2000):
        limits = some_limits(write_seconds=1e6)
        async with open_world(limits) as world, in_state(world, state, monkeypatch) as (alice, _, far):
            started, gate = trio.current_time(), hold_back(far)
            ended = await expect(alice, "Ended")
            assert type(ended.error) is ConnectionCut
            assert trio.current_time() - started == pytest.approx(150, abs=11)
            gate.set()
            await trio.sleep(300)


async def test_all_pending_requests_get_the_error(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Router, "receive", lambda self, session, records: None)
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = world.connect_both()
            async with world.client("alice", stream=near) as alice, trio.open_nursery() as nursery:
                errors = []

                async def ask(request: Any) -> None:
                    with pytest.raises(ConnectionCut) as caught:
                        await request()
                    errors.append(caught)

                nursery.start_soon(ask, alice.list_users)
                nursery.start_soon(ask, lambda: alice.chat("bob"))
                await trio.testing.wait_all_tasks_blocked()
                await trio.aclose_forcefully(far)
                await expect(alice, "Ended")
            assert len(errors) == 2


async def test_who_waits_for_a_full_queue_is_woken_by_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """The connection takes nothing more, more texts are sent than the queue holds, then it is cut."""
    with trio.fail_after(600):
        async with open_world() as world:
            near, far = world.connect_both()
            async with world.client("alice", stream=near) as alice, world.client("bob") as bob:
                await start_chat(alice, bob)
                near.send_stream.send_all_hook = trio.sleep_forever
                sent = []

                async def say_much() -> None:
                    for number in range(1000):
                        await alice.say(f"text {number}")
                        sent.append(number)

                async def talk() -> None:
                    with pytest.raises(ConnectionCut):
                        await say_much()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(talk)
                    await trio.testing.wait_all_tasks_blocked()
                    assert 0 < len(sent) < 1000
                    await trio.aclose_forcefully(far)
                assert type((await expect(alice, "Ended")).error) is ConnectionCut


@pytest.mark.parametrize(
    ("reason", "words"),
    [(1, "shutting down"), (2, "logged in again"), (3, "age limit"), (4, "too slow"), (5, "removed"), (77, "goodbye")],
)
async def test_every_goodbye_is_told_in_words(autojump_clock: trio.testing.MockClock, reason: int, words: str) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await server.event("byee", Bye(reason))
            error = (await expect(alice, "Ended")).error
            assert isinstance(error, ServerGoodbye)
            assert error.reason == reason
            assert words in str(error)


async def test_our_own_exit_is_no_error(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            await alice.exit()
            assert await expect(alice, "Ended") == Ended(None)


async def test_exit_waits_a_little_only(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, _):
            started = trio.current_time()
            await alice.exit()
            assert trio.current_time() - started == pytest.approx(EXIT_SECONDS + PARTING_SECONDS)
            await ends_with(alice, ConnectionCut)
            assert trio.current_time() - started == pytest.approx(EXIT_SECONDS + PARTING_SECONDS)


@pytest.mark.parametrize("code", [2, 4])
async def test_an_exit_that_is_refused_ends_the_session_all_the_same(
    autojump_clock: trio.testing.MockClock, code: int
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.exit)
                asked = await server.receive()
                assert asked.verb == b"exit"
                await server.send(Kind.REPLY, asked.id, "erro", Errors(code, "not now"))
            await ends_with(alice, ConnectionCut)


async def test_a_cut_in_the_place_of_a_goodbye_is_not_a_clean_end(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever cuts the connection after our `exit` may have kept the last messages back."""
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.exit)
                assert (await server.receive()).verb == b"exit"
                await trio.aclose_forcefully(server.link.stream)
            await ends_with(alice, ConnectionCut)


async def test_exit_is_no_command_that_can_be_too_many(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            for _ in range(60):
                with contextlib.suppress(RequestRefused):
                    await alice.list_users()
            with pytest.raises(RequestRefused, match="too many commands"):
                await alice.list_users()
            started = trio.current_time()
            await alice.exit()
            assert await expect(alice, "Ended") == Ended(None)
            assert trio.current_time() == started


async def test_held_texts_are_given_back_when_the_session_ends(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, in_state(world, "KEYING", monkeypatch) as (alice, _, far):
            await alice.say("first")
            await alice.say("second")
            await trio.aclose_forcefully(far)
            for text in ("first", "second"):
                event = await expect(alice, "NotDelivered")
                assert isinstance(event, NotDelivered)
                assert (event.peer, event.text) == ("bob", text)
            await expect(alice, "Ended")


# a server that does not behave ------------------------------------------------------------------------------------


async def ends_with(client: Client, kind: type[MessageAppError]) -> None:
    error = (await expect(client, "Ended")).error
    assert type(error) is kind, error


async def test_what_is_of_later_versions_is_passed_over(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await server.event("news", Raw(b"of another time"))
            await server.event("\0\1\x1b\n", Raw())
            await server.event("reqt", Raw(b"malformed"))
            await server.event("exch", Raw(b"\7"))
            await server.event("erro", Errors(3, "unasked"))
            await server.event("okay", Raw(b"unasked"))
            await server.event("frwd", Raw(b"\1no chat"))
            await server.event("cach", Invite(bytes(16)))
            await server.event("refu", Call("bob", bytes(16)))
            await server.event("exch", Left(disconnected=False))
            await server.send(Kind.REPLY, 4_000_000, "okay")
            assert await settle(alice) == [[]]
            assert alice.state is State.ONLINE
            await server.send(Kind.REQUEST, 1, "ping", Echo(bytes(8)))
            assert (await server.receive()).verb == b"pong"


@pytest.mark.parametrize(
    ("kind", "verb", "argument"),
    [
        (Kind.REQUEST, "chat", Call("bob", bytes(16))),
        (Kind.REQUEST, "what", Raw()),
        (Kind.REQUEST, "ping", Raw(b"short")),
        (Kind.REPLY, "what", Raw()),
        (Kind.REPLY, "list", Raw(b"\xff")),
        (Kind.REPLY, "list", Raw(b"\4e\x1b[2\0")),
        (Kind.EVENT, "list", Listing(())),
        (Kind.EVENT, "acpt", Call("bob", bytes(16))),
        (Kind.EVENT, "exit", Raw()),
        (Kind.EVENT, "rkey", Raw(bytes(4))),
    ],
)
async def test_what_a_server_may_not_send_ends_the_session(
    autojump_clock: trio.testing.MockClock, kind: Kind, verb: str, argument: Any
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await server.send(kind, 1, verb, argument)
            await ends_with(alice, RemoteProtocolError)


@pytest.mark.parametrize("request_", ["list", "chat", "cach", "acpt", "refu"])
async def test_a_reply_that_does_not_fit_ends_the_session_and_who_asked_is_told(
    autojump_clock: trio.testing.MockClock, request_: str
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            if request_ == "cach":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(alice.chat, "bob")
                    asked = await server.receive()
                    await server.send(Kind.REPLY, asked.id, "reqt", Call("bob", asked.argument[-16:]))
            if request_ in ("acpt", "refu"):
                await server.event("reqt", Call("bob", bytes(16)))
                await expect(alice, "IncomingCall")

            request: Any = {
                "list": alice.list_users,
                "chat": lambda: alice.chat("bob"),
                "cach": alice.cancel,
                "acpt": alice.accept,
                "refu": alice.refuse,
            }[request_]

            async def ask() -> None:
                with pytest.raises(RemoteProtocolError):
                    await request()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                if request_ == "list":  # the next id is known: one list was asked for at the start
                    await server.send(Kind.REPLY, 2, "pong", Echo(bytes(8)))
                else:
                    asked = await server.receive()
                    await server.send(Kind.REPLY, asked.id, "pong", Echo(bytes(8)))
                await ends_with(alice, RemoteProtocolError)


@pytest.mark.parametrize("role", [True, False])
@pytest.mark.parametrize("known", ["nobody", "calling another", "rung by another", "another invite"])
async def test_a_server_that_connects_us_with_someone_else(
    autojump_clock: trio.testing.MockClock, role: bool, known: str
) -> None:
    """`rung by another`, `another invite`: the call there is was accepted."""

    async def accept(alice: Client) -> None:
        with contextlib.suppress(RemoteProtocolError):
            await alice.accept()

    with trio.fail_after(60):
        async with (
            open_world() as world,
            with_fake_server(world, "alice") as (alice, server),
            trio.open_nursery() as accepted,
        ):
            invite = bytes(16)
            if known == "calling another" or (known == "another invite" and role):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(alice.chat, "bob")
                    asked = await server.receive()
                    invite = asked.argument[-16:]
                    await server.send(Kind.REPLY, asked.id, "reqt", Call("bob", invite))
            elif known != "nobody":
                await server.event("reqt", Call("bob", invite))
                await expect(alice, "IncomingCall")
                accepted.start_soon(accept, alice)
                assert (await server.receive()).verb == b"acpt"
            peer = "bob" if known == "another invite" else "mallory"
            if known == "another invite":
                invite = b"another " * 2
            await server.event("pubk", PeerKey(invite, role, peer, identity(peer).bundle.encode()))
            await ends_with(alice, RemoteProtocolError)
            assert alice.account.trust.pin(peer, "chat.example") is None


async def accepting(alice: Client, server: FakeServer, name: str, key: bytes) -> None:
    """`name` calls, alice accepts, and the server answers with that key."""
    await server.event("reqt", Call(name, bytes(16)))
    await expect(alice, "IncomingCall")

    async def accept() -> None:
        with contextlib.suppress(RemoteProtocolError):
            await alice.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        asked = await server.receive()
        await server.send(Kind.REPLY, asked.id, "pubk", PeerKey(bytes(16), False, name, key))


async def test_a_second_peer_inside_a_chat(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await accepting(alice, server, "bob", identity("bob").bundle.encode())
            await expect(alice, "Keying")
            await server.event("reqt", Call("carol", bytes(16)))
            await server.event("pubk", PeerKey(bytes(16), False, "carol", identity("carol").bundle.encode()))
            await ends_with(alice, RemoteProtocolError)


@pytest.mark.parametrize("waiting", ["at once", "once it was shown", "accepted before", "another was accepted"])
async def test_no_chat_begins_that_the_user_has_not_accepted(
    autojump_clock: trio.testing.MockClock, waiting: str
) -> None:
    """The server sends a call and, in the user's place, its acceptance."""
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            if waiting in ("accepted before", "another was accepted"):
                name = "mallory" if waiting == "accepted before" else "bob"
                await accepting(alice, server, name, identity(name).bundle.encode())
                await expect(alice, "Keying")
                await server.event("exch", Left(disconnected=False))
                await expect(alice, "ChatOver")
            invite = os.urandom(16)
            await server.event("reqt", Call("mallory", invite))
            if waiting == "once it was shown":
                await expect(alice, "IncomingCall")
            await server.event("pubk", PeerKey(invite, False, "mallory", identity("mallory").bundle.encode()))
            (told,) = await settle(alice)
            assert not any(isinstance(event, Keying) for event in told), told
            assert isinstance(told[-1], Ended)
            assert type(told[-1].error) is RemoteProtocolError
            assert alice.peer is None


@pytest.mark.parametrize("request_", ["list", "exit", "ping", "nothing"])
async def test_a_key_as_the_reply_to_anything_else_begins_no_chat(
    autojump_clock: trio.testing.MockClock, request_: str
) -> None:
    with trio.fail_after(100):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            key = PeerKey(bytes(16), False, "mallory", identity("mallory").bundle.encode())
            await server.event("reqt", Call("mallory", bytes(16)))
            await expect(alice, "IncomingCall")
            identifier = 4_000_000
            async with trio.open_nursery() as nursery:
                if request_ == "exit":
                    nursery.start_soon(alice.exit)
                while request_ != "nothing" and identifier == 4_000_000:
                    for record in await server.link.receive_records():  # by hand: `receive` answers by itself
                        if record.verb == request_.encode():
                            identifier = record.id
                await server.send(Kind.REPLY, identifier, "pubk", key)
                await trio.testing.wait_all_tasks_blocked()
                assert alice.state in (State.RINGING, State.ONLINE)
                assert alice.peer in (None, "mallory")
                (told,) = await settle(alice)
                assert not any(isinstance(event, Keying) for event in told), told


async def test_a_key_that_is_none(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await accepting(alice, server, "bob", b"\1\2\3")
            await ends_with(alice, RemoteProtocolError)


async def test_a_stranger_cannot_be_ourselves(autojump_clock: trio.testing.MockClock) -> None:
    """Our own name and key as the peer's: whatever comes of it, no chat."""
    with trio.fail_after(100):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await accepting(alice, server, "alice", identity("alice").bundle.encode())
            await settle(alice)
            assert alice.state is not State.CHAT


async def test_damaged_pins_end_the_session_with_the_reason(autojump_clock: trio.testing.MockClock) -> None:
    """Never a chat with a key that cannot be compared, and never a new pin in the place of a damaged one."""
    with trio.fail_after(60):
        async with open_world() as world:
            async with world.chat():
                pass
            world.trusts["alice"].execute("UPDATE pins SET bundle = x'0102'")
            async with world.client("alice") as alice, world.client("bob") as bob:
                await alice.chat("bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                await ends_with(alice, UnusableSetup)
            assert world.trusts["alice"].execute("SELECT bundle FROM pins").fetchall() == [(b"\1\2",)]


async def test_a_file_of_pins_that_cannot_be_written_ends_the_session_with_the_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:
            world.trusts["alice"].execute("PRAGMA query_only = 1")
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            await ends_with(alice, UnusableSetup)
            with pytest.raises(sqlite3.Error):
                world.trusts["alice"].execute("DELETE FROM pins")


async def test_a_ping_of_the_server_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (_, server):
            echo = os.urandom(8)
            await server.send(Kind.REQUEST, 77, "ping", Echo(echo))
            answer = await server.receive()
            assert (answer.kind, answer.id, answer.verb, answer.argument) == (Kind.REPLY, 77, b"pong", echo)


async def test_who_is_online_is_kept_fresh(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(100):
        async with open_world() as world, world.client("alice") as alice:
            await settle(alice)
            assert alice.online == {"alice": 0}
            async with world.client("bob"):
                await trio.sleep(3)
                assert alice.online == {"alice": 0}
                alice.want_refresh()
                await settle(alice)
                assert alice.online == {"alice": 0, "bob": 0}
            await trio.sleep(11)
            assert alice.online == {"alice": 0}


async def test_a_refusal_is_told_with_its_text_and_the_session_lives(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):

            async def ask() -> None:
                with pytest.raises(RequestRefused) as caught:
                    await alice.chat("bob")
                assert (caught.value.code, str(caught.value)) == (4, "wait a little")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                asked = await server.receive()
                await server.send(Kind.REPLY, asked.id, "erro", Errors(4, "wait a little"))
            assert alice.state is State.ONLINE
            assert ListEntry("x", 0).user == "x"


async def test_an_old_refusal_does_not_take_a_new_call_away(autojump_clock: trio.testing.MockClock) -> None:
    """We refuse bob, who has hung up already; carol calls before the server's answer is here."""
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await server.event("reqt", Call("bob", b"b" * 16))
            await expect(alice, "IncomingCall")

            async def refuse() -> None:
                with pytest.raises(RequestRefused):
                    await alice.refuse()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(refuse)
                asked = await server.receive()
                await server.event("cach", Invite(b"b" * 16))
                await server.event("reqt", Call("carol", b"c" * 16))
                await server.send(Kind.REPLY, asked.id, "erro", Errors(3, "not now"))
            assert (alice.state, alice.caller) == (State.RINGING, "carol")


async def test_leaving_a_chat_that_the_server_refuses_keeps_it(autojump_clock: trio.testing.MockClock) -> None:
    """For the server the chat goes on: to believe otherwise would leave the peer talking to nobody."""
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await accepting(alice, server, "bob", identity("bob").bundle.encode())
            await expect(alice, "Keying")
            await alice.say("held")

            async def leave() -> None:
                with pytest.raises(RequestRefused) as caught:
                    await alice.leave()
                assert (caught.value.code, str(caught.value)) == (4, "too many commands; wait a little")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                asked = await server.receive()
                assert asked.verb == b"exch"
                await server.send(Kind.REPLY, asked.id, "erro", Errors(4, "too many commands; wait a little"))
            assert await settle(alice) == [[]]
            assert (alice.state, alice.peer) == (State.KEYING, "bob")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.leave)
                await server.send(Kind.REPLY, (await server.receive()).id, "okay")
            assert alice.state is State.ONLINE


async def test_a_good_record_before_a_damaged_one_ends_the_session_in_good_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The reply to the good one may be on its way to the writer then. Tasks run in any order, so: several times."""
    with trio.fail_after(60):
        async with open_world(some_limits()) as world:
            for _ in range(20):
                async with with_fake_server(world, "alice") as (alice, server):
                    connection, now = server.link.connection, trio.current_time()
                    good = connection.send_record(make(Kind.REQUEST, 7, "ping", Echo(bytes(8))), now)
                    bad = connection.send_record(make(Kind.EVENT, 0, "erro", Errors(1, "x")), now)
                    await server.link.send(good + bad[:-1] + bytes((bad[-1] ^ 1,)))
                    await ends_with(alice, RemoteProtocolError)
