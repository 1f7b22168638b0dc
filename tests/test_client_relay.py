"""The relay is the attacker: whatever it does, no wrong and no double text is ever shown (protocol §8, §10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from messageapp.client.client import Client, State
from messageapp.client.events import (
    ChatFailed,
    ChatOver,
    ChatSecure,
    Missing,
    NotDelivered,
    TextReceived,
    UndecryptableText,
)
from messageapp.server import presence
from messageapp.server.router import Router
from messageapp.wire.records import Kind, Record
from support.messaging import of
from support.world import Pass, World, expect, identity, on_forward, open_world, settle, start_chat

EXCHANGE = ("C1", "C2", "C3", "C4", "first message")


class Relay:
    """Takes the place of the server's relay. `change` gives what is passed on in the place of one content, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.change: Callable[[bytes], Sequence[bytes]] = lambda content: (content,)
        self.seen: list[bytes] = []
        self.peers: dict[str, Any] = {}

        def forward(router: Router, session: Any, record: Record, pass_on: Pass) -> None:
            peer = router._presence.chat_peer(session)
            if peer is None:
                pass_on(record)
                return
            self.seen.append(record.argument)
            self.peers[session.user] = peer
            for content in self.change(record.argument):
                pass_on(Record(Kind.REQUEST, record.id, b"frwd", content))

        on_forward(monkeypatch, forward)

    def push(self, sender: str, content: bytes) -> None:
        """To the peer of `sender`, out of nothing."""
        self.peers[sender].outbox.put(Record(Kind.EVENT, 0, b"frwd", content).pack())

    def nth(self, number: int, change: Callable[[bytes], Sequence[bytes]]) -> None:
        """Change only the `number`-th content from now, counting from 0."""
        start = len(self.seen)

        def once(content: bytes) -> Sequence[bytes]:
            return change(content) if len(self.seen) - 1 - start == number else (content,)

        self.change = once


def flip(position: int, bit: int = 1) -> Callable[[bytes], Sequence[bytes]]:
    def change(content: bytes) -> Sequence[bytes]:
        data = bytearray(content)
        data[position % len(data)] ^= bit
        return (bytes(data),)

    return change


def texts(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextReceived)]


# inside a chat ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 8, 9, 10, 41, 42, 1225, 1226, 2313, 2314, 2329, 2330, 2334, 2350, 2366, -1])
async def test_a_changed_message_is_never_shown_as_a_text(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    """One bit in each field of type, header, tag and ciphertext."""
    relay = Relay(monkeypatch)
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.say("before")
            await trio.testing.wait_all_tasks_blocked()
            relay.nth(0, flip(position))
            await alice.say("changed on the way")
            await alice.say("after")
            events = (await settle(bob))[0]
            assert texts(events) == ["before", "after"]
            assert len(of(events, UndecryptableText)) == 1
            assert [event.count for event in of(events, Missing)] == [1]
            await bob.say("the chat lives")
            assert texts((await settle(alice))[0]) == ["the chat lives"]


async def test_a_dropped_message_is_counted(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.say("one")
            await trio.testing.wait_all_tasks_blocked()
            relay.change = lambda content: ()
            for _ in range(3):
                await alice.say("dropped")
            await settle()
            relay.change = lambda content: (content,)
            await alice.say("five")
            events = (await settle(bob))[0]
            assert events == [of(events, TextReceived)[0], Missing("alice", 3), of(events, TextReceived)[1]]
            assert texts(events) == ["one", "five"]


async def test_messages_dropped_at_the_end_of_a_turn_are_counted(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.say("one")
            await trio.testing.wait_all_tasks_blocked()
            relay.change = lambda content: ()
            await alice.say("dropped")
            await settle()
            relay.change = lambda content: (content,)
            await bob.say("a turn")
            await settle()
            await alice.say("in a new turn")
            events = (await settle(bob))[0]
            assert texts(events) == ["one", "in a new turn"]
            assert [event.count for event in of(events, Missing)] == [1]


async def test_a_replayed_message_is_shown_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            relay.change = lambda content: (content, content, content)
            await alice.say("once")
            await bob.say("and back")
            await settle()
            relay.change = lambda content: (content,)
            for content in list(relay.seen):
                relay.push("alice", content)
                relay.push("bob", content)
            told = await settle(alice, bob)
            assert [texts(events) for events in told] == [["and back"], ["once"]]
            assert not of(told[0] + told[1], Missing)
            assert all(event.peer for event in of(told[0] + told[1], UndecryptableText))
            await alice.say("twice is another text")
            assert texts((await settle(bob))[0]) == ["twice is another text"]


async def test_a_reflected_message_is_not_the_peers(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.say("to bob")
            await bob.say("to alice")
            await settle(alice, bob)
            relay.push("bob", relay.seen[-2])  # alice's own text to alice
            relay.push("alice", relay.seen[-1])
            told = await settle(alice, bob)
            assert [[type(event) for event in events] for events in told] == [[UndecryptableText]] * 2


async def test_swapped_messages_are_shown_with_what_was_missing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            relay.change = lambda content: ()
            start = len(relay.seen)
            for number in range(4):
                await alice.say(f"text {number}")
            await settle()
            for content in reversed(relay.seen[start:]):
                relay.push("alice", content)
            events = (await settle(bob))[0]
            assert texts(events) == ["text 3", "text 2", "text 1", "text 0"]
            assert [event.count for event in of(events, Missing)] == [3]
            assert [event.late for event in of(events, TextReceived)] == [False, True, True, True]


async def test_a_message_of_another_chat_is_not_shown(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an earlier chat of the same two, and of another pair."""
    relay = Relay(monkeypatch)
    with trio.fail_after(60):
        async with (
            open_world() as world,
            world.client("carol") as carol,
            world.client("dave") as dave,
            world.chat() as (alice, bob),
        ):
            await alice.say("of the first chat")
            await settle()
            first = relay.seen[-1]
            await alice.leave()
            await expect(bob, "ChatOver")
            await start_chat(alice, bob)
            await start_chat(carol, dave)
            await carol.say("of another pair")
            await settle()
            for content in (first, relay.seen[-1]):
                relay.push("alice", content)
            assert [type(event) for event in (await settle(bob))[0]] == [UndecryptableText] * 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=100),
        st.builds(lambda kind, data: bytes((kind,)) + data, st.integers(0, 9), st.binary(max_size=3000)),
    )
)
def test_nothing_out_of_thin_air_is_a_text(content: bytes) -> None:
    async def main() -> None:
        with trio.fail_after(100), pytest.MonkeyPatch.context() as monkeypatch:
            relay = Relay(monkeypatch)
            async with open_world() as world, world.chat() as (alice, bob):
                relay.push("alice", content)
                assert [type(event) for event in (await settle(bob))[0]] == [UndecryptableText]
                await alice.say("still here")
                assert texts((await settle(bob))[0]) == ["still here"]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_relay_does_every_text_is_one_that_was_sent_and_comes_once(data: st.DataObject) -> None:
    """Any mixture of dropping, replaying, holding back, changing; both ways, over several turns."""

    async def main() -> None:
        with trio.fail_after(1000), pytest.MonkeyPatch.context() as monkeypatch:
            relay = Relay(monkeypatch)
            async with open_world() as world, world.chat() as (alice, bob):
                got: dict[str, list[str]] = {"alice": [], "bob": []}
                sent: dict[str, list[str]] = {"alice": [], "bob": []}
                people: dict[str, Client] = {"alice": alice, "bob": bob}

                def change(content: bytes) -> Sequence[bytes]:
                    match data.draw(st.integers(0, 5)):
                        case 0:
                            return ()
                        case 1:
                            return (content, content)
                        case 2:
                            return flip(data.draw(st.integers(0, 3000)), 1 << data.draw(st.integers(0, 7)))(content)
                        case 3:
                            return (data.draw(st.sampled_from(relay.seen)), content)
                    return (content,)

                relay.change = change
                for number in range(data.draw(st.integers(1, 12))):
                    who = data.draw(st.sampled_from(("alice", "bob")))
                    await people[who].say(f"{who} {number}")
                    sent[who].append(f"{who} {number}")
                    for name, events in zip(people, await settle(*people.values()), strict=True):
                        got[name] += texts(events)
                assert alice.state is bob.state is State.CHAT
                for receiver, sender in (("alice", "bob"), ("bob", "alice")):
                    assert len(set(got[receiver])) == len(got[receiver])
                    assert set(got[receiver]) <= set(sent[sender])

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# during the exchange ----------------------------------------------------------------------------------------------


async def call(alice: Client, bob: Client) -> None:
    await alice.chat("bob")
    await expect(bob, "IncomingCall")
    await bob.accept()


async def fails_for_both_and_works_again(world: World, relay: Relay, alice: Client, bob: Client) -> None:
    await call(alice, bob)
    for client in (alice, bob):
        if client.state is State.KEYING:
            await client.say("held")
    await trio.sleep(35)  # where a message is missing, patience ends the exchange
    told = await settle(alice, bob)
    assert alice.state is bob.state is State.ONLINE
    for events in told:
        assert of(events, ChatFailed) or of(events, ChatOver)
        assert not of(events, TextReceived)
        held = {event.text for event in of(events, NotDelivered)}
        assert held <= {"held"}
    assert sum(bool(of(events, ChatSecure)) for events in told) <= 1, "at most the side that has seen all it needs"
    relay.change = lambda content: (content,)
    await start_chat(alice, bob)
    await alice.say("works")
    await bob.say("again")
    assert [texts(events) for events in await settle(alice, bob)] == [["again"], ["works"]]


@pytest.mark.parametrize("step", range(5), ids=EXCHANGE)
@pytest.mark.parametrize("position", [0, 1, 40, 0.3, 0.6, 0.9, -1], ids=str)
async def test_a_changed_exchange_fails_on_both_sides(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, step: int, position: float
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(200):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:

            def change(content: bytes) -> Sequence[bytes]:
                at = position if isinstance(position, int) else int(position * len(content))
                return flip(at)(content)

            relay.nth(step, change)
            await fails_for_both_and_works_again(world, relay, alice, bob)


SHAPES: dict[str, Callable[[bytes], Sequence[bytes]]] = {
    "dropped": lambda content: (),
    "truncated": lambda content: (content[:-1],),
    "extended": lambda content: (content + b"\0",),
    "empty": lambda content: (b"",),
    "type alone": lambda content: (content[:1],),
    "of another type": lambda content: (bytes((content[0] % 5 + 1,)) + content[1:],),
    "of no type": lambda content: (b"\x63" + content[1:],),
}


@pytest.mark.parametrize(
    ("step", "shape"),
    [(step, shape) for step in range(5) for shape in SHAPES if (step, shape) != (4, "dropped")],
    ids=lambda value: EXCHANGE[value] if isinstance(value, int) else value,
)
async def test_a_misshapen_exchange_fails_on_both_sides(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, step: int, shape: str
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(200):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:
            relay.nth(step, SHAPES[shape])
            await fails_for_both_and_works_again(world, relay, alice, bob)


async def test_a_dropped_first_message_is_missing_once_the_next_came(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(200):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:
            relay.nth(4, lambda content: ())
            await call(alice, bob)
            await expect(alice, "ChatSecure")
            assert bob.state.name == "KEYING"
            await alice.say("the second")
            events = (await settle(bob))[0]
            assert [type(event) for event in events[-3:]] == [ChatSecure, Missing, TextReceived]
            assert alice.state is bob.state is State.CHAT


@pytest.mark.parametrize("step", range(3), ids=EXCHANGE[:3])
async def test_a_doubled_message_of_the_exchange_fails_on_both_sides(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(200):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:
            relay.nth(step, lambda content: (content, content))
            await fails_for_both_and_works_again(world, relay, alice, bob)


@pytest.mark.parametrize("step", range(5), ids=EXCHANGE)
async def test_an_exchange_of_an_earlier_call_cannot_be_replayed(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    relay = Relay(monkeypatch)
    with trio.fail_after(200):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:
            await start_chat(alice, bob)
            earlier = relay.seen[step]
            await alice.leave()
            await settle(alice, bob)
            relay.nth(step, lambda content: (earlier,))
            await fails_for_both_and_works_again(world, relay, alice, bob)


async def test_both_sides_show_the_same_number_only_when_nobody_is_between(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server hands out a key of its own to alice: her exchange with bob fails, and no key is pinned."""
    real: Any = presence.Presence._connect

    def connect(self: Any, *arguments: Any) -> Any:
        return [
            replace(message, argument=replace(message.argument, bundle=identity("server").bundle.encode()))
            if message.verb == "pubk" and message.session.user == "alice"
            else message
            for message in real(self, *arguments)
        ]

    with trio.fail_after(200):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:
            monkeypatch.setattr(presence.Presence, "_connect", connect)
            await call(alice, bob)
            told = await settle(alice, bob)
            assert not of(told[0] + told[1], ChatSecure)
            assert alice.state is bob.state is State.ONLINE
            assert alice.account.trust.pin("bob", "chat.example") is None
