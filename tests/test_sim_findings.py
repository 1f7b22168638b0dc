"""What the simulation has found, each as a test of its own."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
import trio
import trio.testing

from messageapp.client import session as client_session
from messageapp.client.client import State, open_client
from messageapp.client.events import MessageReceived, MessageUnreadable, NotDelivered
from messageapp.client.session import Session
from messageapp.errors import ConnectionCut, MessageAppError, RequestRefused, ServerNotAuthenticated
from messageapp.link import Link
from messageapp.server.connection import Connection
from messageapp.wire.commands import Call, ErrorCode, Errors
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from support.world import Pass, expect, hold_back, on_forward, open_world, settle, with_fake_server


async def test_the_clock_of_a_client_is_the_one_that_it_was_given() -> None:
    """The server's certificate was checked against another one."""
    with trio.fail_after(30):
        async with open_world() as world:
            year = int(datetime(2099, 1, 1, tzinfo=UTC).timestamp() * 1000)
            with pytest.raises(ServerNotAuthenticated, match="expired"):
                async with open_client(world.connect(), world.account("alice"), world.keys, wall_ms=lambda: year):
                    raise AssertionError


def _rounded(seconds: float) -> float:
    """A time t with t + seconds - t < seconds: floating-point numbers have such."""
    time = 100.0
    while time + seconds - time >= seconds:
        time = math.nextafter(time, math.inf) * 1.0001
    return time


async def test_a_client_gives_a_silent_server_up_when_it_is_time(autojump_clock: trio.testing.MockClock) -> None:
    """It looked again at once, without end as long as the clock stood still."""
    with trio.fail_after(1e6):
        heard = _rounded(client_session.DEAD_SECONDS)
        await trio.sleep_until(heard)
        ended: list[MessageAppError] = []

        async def at_end(error: MessageAppError) -> None:
            ended.append(error)

        near, _ = trio.testing.memory_stream_pair()
        session = Session(Link(near, Role.CLIENT), bytes, None, at_end)  # type: ignore[arg-type]
        session._heard = heard
        async with trio.open_nursery() as nursery:
            await trio.sleep_until(heard + client_session.DEAD_SECONDS)
            nursery.start_soon(session._keep_alive)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert [type(error) for error in ended] == [ConnectionCut]


async def test_a_server_gives_a_silent_client_up_when_it_is_time(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1e6):
        async with open_world() as world:
            connection = Connection(world.server, world.connect(), 1, "memory")
            connection._heard = _rounded(world.server.limits.dead_seconds)
            await trio.sleep_until(connection._heard + world.server.limits.dead_seconds)
            assert connection._due(None) is None  # type: ignore[arg-type]


async def test_what_is_said_after_exit_is_not_taken() -> None:
    """It was lost, and `Ended(None)` says that nothing is."""
    with trio.fail_after(30):
        async with open_world() as world, world.chat() as (alice, bob):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.exit)
                for _ in range(2):  # it has its turn in the first, or in the second after us
                    await trio.lowlevel.checkpoint()
                with pytest.raises(RequestRefused, match="logging off"):
                    await alice.say("wait!")
            told, _ = await settle(alice, bob)
            assert [type(event).__name__ for event in told] == ["Ended"]


async def test_what_is_held_at_an_exit_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chat became secure after `exit` was sent, and what was held went behind it."""
    with trio.fail_after(30):
        async with open_world() as world:
            near, far = world.connect_both()
            gates: list[trio.Event] = []

            def hold_c4(_: object, session: object, record: Record, pass_on: Pass) -> None:
                if record.argument[:1] == b"\4":
                    gates.append(hold_back(far))
                pass_on(record)

            on_forward(monkeypatch, hold_c4)
            async with world.client("alice", stream=near) as alice, world.client("bob") as bob:
                await alice.chat("bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                await trio.testing.wait_all_tasks_blocked()
                await alice.say("one")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(alice.exit)
                    await trio.testing.wait_all_tasks_blocked()
                    gates[0].set()
                told, _ = await settle(alice, bob)
                assert [event.text for event in told if isinstance(event, NotDelivered)] == ["one"]


async def test_nobody_is_called_while_an_answer_is_under_way() -> None:
    """The answer forgot the call; when that was taken, the client took the server for a liar and left."""
    with trio.fail_after(30):
        async with open_world() as world, with_fake_server(world, "bob") as (bob, server):
            await server.event("reqt", Call("alice", b"i" * 16))
            await expect(bob, "IncomingCall")
            async with trio.open_nursery() as nursery:

                async def accept() -> None:
                    with pytest.raises(RequestRefused, match="too late"):
                        await bob.accept()

                nursery.start_soon(accept)
                answer = await server.receive()
                with pytest.raises(RequestRefused, match="already answering alice"):
                    await bob.chat("alice")
                await server.send(Kind.REPLY, answer.id, "erro", Errors(ErrorCode.NOT_NOW, "too late"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bob.chat, "alice")
                assert (await server.receive()).verb == b"chat"
                nursery.cancel_scope.cancel()


async def test_what_was_held_is_given_back_when_the_session_ends_while_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply to `exch` and a goodbye came in one read: the texts went with the session."""
    with trio.fail_after(30):
        async with open_world() as world:
            near, far = world.connect_both()
            on_forward(monkeypatch, lambda *_: None)  # the keys are never agreed on
            async with world.client("alice", stream=near) as alice, world.client("bob") as bob:
                await alice.chat("bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                await expect(alice, "Keying")
                await alice.say("one")
                async with trio.open_nursery() as nursery:
                    gate = hold_back(far)
                    nursery.start_soon(alice.list_users)  # its reply keeps the writer, so the others go together
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(alice.leave)
                    await trio.testing.wait_all_tasks_blocked()
                    world.server.shutdown()
                    await trio.testing.wait_all_tasks_blocked()
                    gate.set()
                told, _ = await settle(alice, bob)
                assert [event.text for event in told if isinstance(event, NotDelivered)] == ["one"]


async def test_a_chat_that_is_cut_before_its_first_message_leaves_no_session_that_only_one_side_has(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The caller sent over it from then on, and nothing of that could be read before a new session was begun."""
    with trio.fail_after(300):
        async with open_world(mail=True) as world:
            async with world.client("alice") as alice, world.client("bob") as bob:
                await settle(alice, bob)
                await alice.write("bob", "so that they know each other")
                for _ in range(2):
                    await settle(alice, bob)

                def drop_hello(_: object, session: object, record: Record, pass_on: Pass) -> None:
                    if record.argument[:1] in b"\1\2\3\4":
                        pass_on(record)

                on_forward(monkeypatch, drop_hello)
                await alice.chat("bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                await expect(alice, "ChatSecure")
                assert bob.state is State.KEYING
            monkeypatch.undo()
            async with world.client("alice") as alice, world.client("bob") as bob:
                await alice.write("bob", "over the session of that chat")
                await settle(alice)
                (told,) = await settle(bob)
                assert [event.text for event in told if isinstance(event, MessageReceived)] == [
                    "over the session of that chat"
                ]
                assert not any(isinstance(event, MessageUnreadable) for event in told)
