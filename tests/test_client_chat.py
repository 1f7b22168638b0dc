"""Calls and chats between real clients: held texts, changed keys, trust, races, stalls."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client.chat import HELD_TEXTS
from messageapp.client.client import Client, State
from messageapp.client.events import (
    CallCanceled,
    CallRefused,
    ChatFailed,
    ChatOver,
    ChatSecure,
    IncomingCall,
    KeyChanged,
    Keying,
    MessageChanged,
    NotDelivered,
    TextReceived,
)
from messageapp.client.keying import KEYING_SECONDS
from messageapp.client.session import QUEUE
from messageapp.client.trust import TRUST_DIGITS, TrustRefused, changed_digits
from messageapp.errors import MessageTooLong, RequestRefused
from messageapp.link import Link
from messageapp.server.router import Router
from messageapp.wire.records import Record
from messageapp_keys.fingerprint import _digest
from messageapp_keys.kem import HYBRID, SWIFT
from support.world import (
    Pass,
    World,
    by_key_id,
    expect,
    hold_back,
    identity,
    on_forward,
    open_world,
    settle,
    start_chat,
)

SERVER = "chat.example"


@asynccontextmanager
async def people(world: World, *names: str) -> Any:
    async with trio.open_nursery() as nursery:
        clients: dict[str, Client] = {}
        done = trio.Event()

        async def live(name: str, task_status: trio.TaskStatus[None]) -> None:
            async with world.client(name) as client:
                clients[name] = client
                task_status.started()
                await done.wait()

        for name in names:
            await nursery.start(lambda name=name, *, task_status: live(name, task_status))
        yield [clients[name] for name in names]
        done.set()


def texts(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextReceived)]


def watch_sends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Link, list[Record]]]:
    """What goes out from now on, send by send, at every client."""
    sends: list[tuple[Link, list[Record]]] = []
    send_records = Link.send_records

    async def send(link: Link, records: list[Record]) -> None:
        sends.append((link, list(records)))
        await send_records(link, records)

    monkeypatch.setattr(Link, "send_records", send)
    return sends


def pinned_number(of: Client, peer: Client) -> str:
    pin = of.account.trust.pin(peer.account.user, of.server_name)
    assert pin is not None
    return of.account.trust.number(peer.account.user, of.server_name, pin.bundle)


# calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("called", ["nobody", "offline", "busy", "alice", "BOB"])
async def test_who_is_not_available_is_one_answer(autojump_clock: trio.testing.MockClock, called: str) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "busy", "bob") as (alice, busy, bob):
            world.directory.enrol("offline", identity("offline").bundle)
            await start_chat(busy, bob)
            with pytest.raises(RequestRefused, match=f"^{called} is not available$"):
                await alice.chat(called)
            assert alice.state is State.ONLINE


async def test_a_call_rings_for_a_minute_then_both_are_told(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(200):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            started = trio.current_time()
            await alice.chat("bob")
            assert await expect(bob, "IncomingCall") == IncomingCall("alice")
            assert (alice.peer, bob.peer, bob.caller) == ("bob", "alice", "alice")
            assert await expect(alice, "CallRefused") == CallRefused("bob", unanswered=True)
            assert await expect(bob, "CallCanceled") == CallCanceled("alice", unanswered=True)
            assert 60 <= trio.current_time() - started <= 61.1
            assert alice.state is bob.state is State.ONLINE
            await start_chat(bob, alice)


async def test_a_refused_call(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.refuse()
            assert await settle(alice, bob) == [[CallRefused("bob")], []]
            assert alice.state is bob.state is State.ONLINE
            with pytest.raises(RequestRefused, match="nobody is calling"):
                await bob.refuse()
            await start_chat(alice, bob)


async def test_a_canceled_call(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await alice.chat("bob")
            assert await alice.cancel() == "bob"
            assert await settle(alice, bob) == [[], [IncomingCall("alice"), CallCanceled("alice")]]
            with pytest.raises(RequestRefused, match="nobody is calling"):
                await bob.accept()
            with pytest.raises(RequestRefused, match="no call to cancel"):
                await alice.cancel()
            await start_chat(alice, bob)


async def test_without_a_call_or_a_chat_nothing_can_be_done(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice") as (alice,):
            for request in (alice.accept, alice.refuse, alice.cancel, alice.leave, lambda: alice.say("hello")):
                with pytest.raises(RequestRefused):
                    await request()
            assert await settle(alice) == [[]]


async def test_one_call_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob", "carol") as (alice, bob, carol):
            await alice.chat("bob")
            with pytest.raises(RequestRefused, match="already calling bob"):
                await alice.chat("carol")
            with pytest.raises(RequestRefused):
                await bob.chat("carol")
            assert (alice.state, bob.state, carol.state) == (State.CALLING, State.RINGING, State.ONLINE)
            await bob.accept()
            await expect(alice, "ChatSecure")


@pytest.mark.parametrize("accept_first", [True, False])
async def test_accepting_and_canceling_at_once_ends_in_one_state(
    autojump_clock: trio.testing.MockClock, accept_first: bool
) -> None:
    """Whichever the server sees first counts, for both."""
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            refused: list[str] = []

            async def attempt(who: str, request: Any) -> None:
                try:
                    await request()
                except RequestRefused:
                    refused.append(who)

            requests = [("bob", bob.accept), ("alice", alice.cancel)]
            async with trio.open_nursery() as nursery:
                for who, request in requests if accept_first else reversed(requests):
                    nursery.start_soon(attempt, who, request)
                    if accept_first:
                        await trio.lowlevel.checkpoint()
                        await trio.lowlevel.checkpoint()
            await settle(alice, bob)
            assert len(refused) == 1
            assert alice.state is bob.state is (State.CHAT if refused == ["alice"] else State.ONLINE)
            if alice.state is State.ONLINE:
                await start_chat(bob, alice)


@pytest.mark.parametrize("smaller_first", [True, False])
@pytest.mark.parametrize("crossing", [True, False])
async def test_two_who_call_each_other_are_connected(
    autojump_clock: trio.testing.MockClock, smaller_first: bool, crossing: bool
) -> None:
    """One call after the other, or both before either was heard of."""
    names = by_key_id("alice", "bob")
    with trio.fail_after(60):
        async with open_world() as world, people(world, *names) as pair:
            first, second = pair if smaller_first else reversed(pair)
            rings: list[bool] = []

            async def call(caller: Client, peer: Client) -> None:
                rings.append(await caller.chat(peer.account.user))

            if crossing:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(call, first, second)
                    nursery.start_soon(call, second, first)
            else:
                await call(first, second)
                await expect(second, "IncomingCall")
                await call(second, first)
            secure = [await expect(first, "ChatSecure"), await expect(second, "ChatSecure")]
            assert secure[0].first
            assert secure[1].first
            assert pinned_number(first, second) == pinned_number(second, first)
            assert sorted(rings) == [False, True]
            await first.say("one chat")
            assert (await expect(second, "TextReceived")).text == "one chat"
            await second.leave()
            await expect(first, "ChatOver")
            assert first.state is second.state is State.ONLINE


@pytest.mark.parametrize("who", ["caller", "called"])
async def test_a_user_who_vanishes_while_it_rings(autojump_clock: trio.testing.MockClock, who: str) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            async with world.client("bob") as bob:
                caller, called = (bob, alice) if who == "caller" else (alice, bob)
                await caller.chat(called.account.user)
                await expect(called, "IncomingCall")
            told = "CallCanceled" if who == "caller" else "CallRefused"
            assert (await expect(alice, told)).peer == "bob"
            assert alice.state is State.ONLINE


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("who", ["caller", "called"])
async def test_a_user_who_vanishes_from_a_chat(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, who: str, secure: bool
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            if not secure:
                monkeypatch.setattr(Router, "_forward", lambda self, session, records: None)
            async with world.client("bob") as bob:
                caller, called = (bob, alice) if who == "caller" else (alice, bob)
                await caller.chat(called.account.user)
                await expect(called, "IncomingCall")
                await called.accept()
                await expect(alice, "ChatSecure" if secure else "Keying")
                if not secure:
                    await alice.say("held")
            if not secure:
                assert (await expect(alice, "NotDelivered")).text == "held"
            assert await expect(alice, "ChatOver") == ChatOver("bob", by_us=False, disconnected=True, secure=secure)
            assert alice.state is State.ONLINE


# texts ------------------------------------------------------------------------------------------------------------


async def test_texts_typed_while_the_keys_are_made_come_in_order_once_secure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            typed = [f"typed {number}" for number in range(HELD_TEXTS)]
            for client in (alice, bob):
                await expect(client, "Keying")
                for text in typed:
                    await client.say(text)
                with pytest.raises(RequestRefused, match="too much is waiting"):
                    await client.say("one more")
            told = await settle(alice, bob)
            for events in told:
                assert texts(events) == typed
                assert isinstance(events[0], ChatSecure)
            await alice.say("later")
            assert (await expect(bob, "TextReceived")).text == "later"


async def test_what_is_said_in_one_go_is_sent_at_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says so much by hand; a bot does, and the held texts."""
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await start_chat(alice, bob)
            await settle(alice, bob)
            sends = watch_sends(monkeypatch)
            for number in range(2 * QUEUE):
                await alice.say(str(number))
            said = texts((await settle(alice, bob))[1])
            assert said == [str(number) for number in range(2 * QUEUE)]
            assert max(len(records) for link, records in sends if link is alice._session._link) == QUEUE


async def test_a_text_said_while_the_held_ones_go_out_comes_after_them(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is stuck just when the chat becomes secure."""
    gates = []
    with trio.fail_after(60):
        async with open_world() as world, world.client("bob") as bob:
            near, _ = world.connect_both()

            def forward(router: Router, session: Any, record: Record, pass_on: Pass) -> None:
                if record.argument[:1] == b"\4":
                    gates.append(hold_back(near))
                pass_on(record)

            on_forward(monkeypatch, forward)
            async with world.client("alice", stream=near) as alice, trio.open_nursery() as nursery:
                await alice.chat("bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                await expect(alice, "Keying")
                typed = [f"held {number}" for number in range(90)]
                for text in typed:
                    await alice.say(text)
                await expect(alice, "ChatSecure")
                nursery.start_soon(alice.say, "last")
                await trio.testing.wait_all_tasks_blocked()
                gates[0].set()
                assert texts((await settle(bob))[0]) == [*typed, "last"]


async def test_held_texts_never_reach_another_peer(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meant for bob, typed while the keys are made, then left: carol's chat comes next."""
    real = Router._forward
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob", "carol") as (alice, bob, carol):
            monkeypatch.setattr(Router, "_forward", lambda self, session, records: None)
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            await expect(alice, "Keying")
            await alice.say("for bob alone")
            await alice.leave()
            assert (await settle(alice))[0] == [
                NotDelivered("bob", "for bob alone", "the chat did not become secure"),
                ChatOver("bob", by_us=True, disconnected=False),
            ]
            monkeypatch.setattr(Router, "_forward", real)
            await start_chat(alice, carol)
            await alice.say("for carol")
            assert texts((await settle(carol))[0]) == ["for carol"]


@pytest.mark.parametrize("how", ["the peer leaves", "the exchange fails"])
async def test_nothing_is_held_any_more_once_a_chat_has_failed(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Also where the user interface is behind, so that the client waits while it gives back what was held."""
    monkeypatch.setattr(Router, "_forward", lambda self, session, records: None)
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob), trio.open_nursery() as nursery:
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            await expect(alice, "Keying")
            await alice.say("held")
            monkeypatch.setattr(alice, "_to_ui", behind := trio.open_memory_channel[Any](0)[0])
            if how == "the peer leaves":
                await bob.leave()
            else:
                nursery.start_soon(alice._chat.fail, "it did")
            await trio.testing.wait_all_tasks_blocked()
            assert behind.statistics().tasks_waiting_send == 1
            with pytest.raises(RequestRefused, match="there is no chat"):
                await alice.say("would wait for the next one")
            assert not alice._chat._held
            nursery.cancel_scope.cancel()


async def test_a_cancelled_acceptance_keeps_nobody_from_calling(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await bob.chat("alice")
            await expect(alice, "IncomingCall")
            with trio.CancelScope() as scope:
                scope.cancel()
                await alice.accept()
            await bob.cancel()
            await expect(alice, "CallCanceled")
            await start_chat(alice, bob)


async def test_a_peer_that_leaves_gives_the_held_texts_back(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Router, "_forward", lambda self, session, records: None)
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            await expect(alice, "Keying")
            await alice.say("held")
            await bob.leave()
            events = (await settle(alice))[0]
            assert [type(event) for event in events] == [NotDelivered, ChatOver]


async def test_too_long_a_text_is_refused_with_the_limit_and_the_chat_lives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            for text in ("x" * 65_536, "ä" * 32_768, "𝄞" * 16_384):
                with pytest.raises(MessageTooLong, match="65,535"):
                    await alice.say(text)
            longest = "x" * 65_535
            await alice.say(longest)
            await alice.say("ä" * 32_767)
            assert texts((await settle(bob))[0]) == [longest, "ä" * 32_767]


async def test_too_long_a_text_is_refused_also_while_the_keys_are_made(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            await expect(alice, "Keying")
            with pytest.raises(MessageTooLong):
                await alice.say("x" * 65_536)
            await alice.say("short")
            assert texts((await settle(alice, bob))[1]) == ["short"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "\0", "line\nline\r\n", "\x1b[31mred", "e\u0301", "\ud800", "👩‍👩‍👧‍👦", "\u202eevil", "x" * 40_000],
)
async def test_every_text_arrives_as_it_is(autojump_clock: trio.testing.MockClock, text: str) -> None:
    """Apart from normalisation; making it safe to show is the user interface's."""
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.say(text)
            expected = {"e\u0301": "\u00e9", "\ud800": "?"}.get(text, text)
            assert texts((await settle(bob))[0]) == [expected]


async def test_texts_sent_by_many_tasks_at_once_all_arrive_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):

            async def talk(client: Client, number: int) -> None:
                for line in range(10):
                    await client.say(f"{number} {line}")

            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(talk, alice, number)
                    nursery.start_soon(talk, bob, number)
            told = await settle(alice, bob)
            everything = sorted(f"{number} {line}" for number in range(10) for line in range(10))
            for events in told:
                heard = (TextReceived, MessageChanged)
                assert all(isinstance(event, heard) for event in events), "nothing missing or undecryptable"
                assert sorted(texts(events)) == everything
                for number in range(10):
                    mine = [text for text in texts(events) if text.startswith(f"{number} ")]
                    assert mine == [f"{number} {line}" for line in range(10)]


async def test_a_text_that_crosses_the_peers_leaving_is_given_back(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bob.leave)
                await trio.lowlevel.checkpoint()
                nursery.start_soon(alice.say, "too late")
            events, others = await settle(alice, bob)
            delivered = texts(others) == ["too late"]
            given_back = [event.text for event in events if isinstance(event, NotDelivered)] == ["too late"]
            assert delivered != given_back


async def test_the_chat_takes_the_best_suite_that_both_have(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            for accepts, expected in (((HYBRID, SWIFT), "hybrid"), ((SWIFT,), "swift")):
                async with world.client("bob", accept_chat=accepts) as bob:
                    await alice.chat("bob")
                    await expect(bob, "IncomingCall")
                    await bob.accept()
                    assert (await expect(alice, "ChatSecure")).suite == expected == alice.chat_suite
                    await alice.leave()
                await settle(alice)


# stalling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [0, 1, 2, 3, 4])
async def test_a_peer_that_stalls_in_the_exchange_is_dropped_after_thirty_seconds(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    """After none, C1, C2, C3 or C4 (then only the caller believes that the chat stands)."""
    real, count = Router._forward, [0]

    def forward(router: Router, session: Any, record: Record, pass_on: Pass) -> None:
        count[0] += 1
        if count[0] <= passes:
            pass_on(record)

    with trio.fail_after(200):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            on_forward(monkeypatch, forward)
            started = trio.current_time()
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            if passes == 4:
                await expect(alice, "ChatSecure")
            else:
                await alice.say("held")
            assert (await expect(bob, "ChatFailed")).peer == "alice" if passes == 4 else True
            if passes < 4:
                first = await expect(alice, "NotDelivered")
                assert first.text == "held"
            await trio.sleep(1)
            assert KEYING_SECONDS - 1 <= trio.current_time() - started <= KEYING_SECONDS + 2
            assert alice.state is bob.state is State.ONLINE
            await settle(alice, bob)
            monkeypatch.setattr(Router, "_forward", real)
            await start_chat(alice, bob)
            await alice.say("works again")
            assert texts((await settle(bob))[0]) == ["works again"]


async def test_a_chat_that_became_secure_in_time_is_not_dropped_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(1000):
        async with open_world() as world, world.chat() as (alice, bob):
            await trio.sleep(500)
            assert alice.state is bob.state is State.CHAT
            await alice.leave()
            await expect(bob, "ChatOver")
            await start_chat(bob, alice)
            await trio.sleep(100)
            assert alice.state is bob.state is State.CHAT


# trust ------------------------------------------------------------------------------------------------------------


async def changed_key(world: World) -> None:
    """alice and bob have chatted, alice has verified bob; then bob has another key."""
    async with world.chat() as (alice, _):
        alice.account.trust.verify("bob", SERVER)
    world.directory.enrol("bob", identity("bob's new key").bundle)


@pytest.mark.parametrize("who_calls", ["alice", "bob"])
async def test_a_changed_key_blocks_the_chat_until_it_is_trusted(
    autojump_clock: trio.testing.MockClock, who_calls: str
) -> None:
    with trio.fail_after(100):
        async with open_world() as world:
            await changed_key(world)
            new = identity("bob's new key")
            async with world.client("alice") as alice, world.client("bob", identity=new) as bob:
                trust = alice.account.trust
                caller, called = (alice, bob) if who_calls == "alice" else (bob, alice)

                async def call() -> None:
                    await caller.chat(called.account.user)
                    await expect(called, "IncomingCall")
                    await called.accept()

                await call()
                told, others = await settle(alice, bob)
                (changed,) = [event for event in told if isinstance(event, KeyChanged)]
                assert changed.old_number == trust.number("bob", SERVER, identity("bob").bundle)
                assert changed.new_number == trust.number("bob", SERVER, new.bundle)
                assert changed.old_number != changed.new_number
                assert not any(isinstance(event, ChatSecure | TextReceived) for event in told + others)
                assert alice.state is bob.state is State.ONLINE
                assert trust.pin("bob", SERVER).bundle == identity("bob").bundle  # type: ignore[union-attr]

                with pytest.raises(TrustRefused):
                    trust.verify("bob", SERVER)
                right = changed_digits(changed.old_number, changed.new_number)[:TRUST_DIGITS]
                halves = [
                    number[at : at + TRUST_DIGITS]
                    for number in (changed.old_number, changed.new_number)
                    for at in (0, 30)
                ]
                assert halves.count(right) == 1
                wrongs = [half for half in halves if half not in (right, changed.new_number[:TRUST_DIGITS])]
                for wrong in (*wrongs, "", "0" * 9, right[:-1], right + "0", "x" * 10):
                    with pytest.raises(TrustRefused):
                        trust.accept_offered("bob", SERVER, wrong)
                await call()
                told, others = await settle(alice, bob)
                assert not any(isinstance(event, ChatSecure) for event in told + others), "still blocked"

                assert trust.accept_offered("bob", SERVER, right).verified is False
                await call()
                secure = await expect(alice, "ChatSecure")
                assert (secure.first, secure.verified) == (False, False)
                await bob.say("it is me")
                assert (await expect(alice, "TextReceived")).text == "it is me"


async def test_another_spelling_of_a_known_name_is_no_new_peer(autojump_clock: trio.testing.MockClock) -> None:
    """A server that lists `Bob` for `bob` would otherwise be rid of the pin."""
    with trio.fail_after(60):
        async with open_world() as world:
            async with world.chat():
                pass
            world.directory.remove("bob")
            new = identity("bob's new key")
            async with world.client("alice") as alice, world.client("Bob", identity=new) as bob:
                await alice.chat("Bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                told, _ = await settle(alice, bob)
                assert [type(event) for event in told] == [KeyChanged]
                assert alice.state is State.ONLINE
                assert alice.account.trust.pin("bob", SERVER).bundle == identity("bob").bundle  # type: ignore[union-attr]


@pytest.mark.parametrize("who_calls", ["alice", "bob"])
async def test_a_key_that_was_remembered_meanwhile_is_the_one_that_counts(
    autojump_clock: trio.testing.MockClock, who_calls: str
) -> None:
    """While the keys are made another client of alice pins another key of bob, at its own first chat."""
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            caller, called = (alice, bob) if who_calls == "alice" else (bob, alice)
            world.keys.empty = True
            await caller.chat(called.account.user)
            await expect(called, "IncomingCall")
            await called.accept()
            await expect(alice, "Keying")
            await alice.say("not for everybody")
            other = identity("bob's other key").bundle
            world.account("alice").trust.pin_first("bob", SERVER, other)
            world.keys.empty = False
            assert (await expect(alice, "NotDelivered")).text == "not for everybody"
            assert (await expect(alice, "ChatFailed")).peer == "bob"
            told, others = await settle(alice, bob)
            assert not any(isinstance(event, ChatSecure | TextReceived) for event in told)
            assert not any(isinstance(event, TextReceived) for event in others)
            assert alice.state is bob.state is State.ONLINE
            pin = alice.account.trust.pin("bob", SERVER)
            assert pin is not None
            assert (pin.bundle, pin.offered) == (other, identity("bob").bundle)


async def test_verified_never_returns_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    """The old key is back: the chat works, but what was verified must be verified again."""
    with trio.fail_after(100):
        async with open_world() as world:
            await changed_key(world)
            async with world.client("alice") as alice:
                async with world.client("bob", identity=identity("bob's new key")) as bob:
                    await alice.chat("bob")
                    await expect(bob, "IncomingCall")
                    await bob.accept()
                    await expect(alice, "KeyChanged")
                await trio.sleep(1)
                world.directory.enrol("bob", identity("bob").bundle)
                async with world.client("bob") as bob:
                    await alice.chat("bob")
                    await expect(bob, "IncomingCall")
                    await bob.accept()
                    secure = await expect(alice, "ChatSecure")
                    assert (secure.first, secure.verified) == (False, False)
                    assert alice.account.trust.pin("bob", SERVER).offered is None  # type: ignore[union-attr]
                    with pytest.raises(TrustRefused, match="has not changed"):
                        alice.account.trust.accept_offered("bob", SERVER, "0" * TRUST_DIGITS)


async def test_verify_marks_the_next_chat(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(100):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            with pytest.raises(TrustRefused, match="chat first"):
                alice.account.trust.verify("bob", SERVER)
            seen = []
            for _ in range(3):
                await alice.chat("bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                secure = await expect(alice, "ChatSecure")
                seen.append((secure.first, secure.verified))
                assert (await expect(bob, "ChatSecure")).verified is False, "each verifies for oneself"
                alice.account.trust.verify("bob", SERVER)
                await alice.leave()
                await expect(bob, "ChatOver")
            assert seen == [(True, False), (False, True), (False, True)]


async def test_our_half_of_the_number_is_made_while_it_rings(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            _digest.cache_clear()
            await alice.chat("bob")
            assert _digest.cache_info().currsize == 1
            assert await settle(alice, bob) == [[], [IncomingCall("alice")]]
            assert _digest.cache_info().currsize == 2
            await bob.accept()
            await settle(alice, bob)
            made = _digest.cache_info().misses
            assert pinned_number(alice, bob) == pinned_number(bob, alice)
            assert _digest.cache_info().misses == made == 2


async def test_a_key_is_pinned_only_once_the_peer_has_proved_to_hold_it(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Router, "_forward", lambda self, session, records: None)
    with trio.fail_after(100):
        async with open_world() as world, people(world, "alice", "bob") as (alice, bob):
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            await trio.sleep(40)
            told, _ = await settle(alice, bob)
            assert [type(event) for event in told] == [Keying, ChatFailed]
            assert alice.account.trust.pin("bob", SERVER) is None
            assert bob.account.trust.pin("alice", SERVER) is None


async def test_pins_are_kept_by_server(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(100):
        async with open_world() as world, world.chat() as (alice, _):
            assert alice.account.trust.pin("bob", SERVER) is not None
            assert alice.account.trust.pin("bob", "other.example") is None
            assert alice.account.trust.judge("bob", "other.example", identity("mallory").bundle)


@pytest.mark.parametrize(("own", "old", "new"), [("1", "2", "3"), ("2", "1", "3"), ("2", "3", "1"), ("3", "1", "2")])
def test_the_digits_to_type_are_those_of_the_new_key(own: str, old: str, new: str) -> None:
    """Wherever the sorting of the halves puts it."""
    before, after = ("".join(sorted((own * 30, other * 30))) for other in (old, new))
    assert changed_digits(before, after) == new * 30
