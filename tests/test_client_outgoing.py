"""What waits to be sent: in which order, how much at once, as which bytes, and why not (protocol §16)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import pytest
import trio
import trio.testing

from messageapp.client import events as ev
from messageapp.client.mailing import DELIVERIES
from messageapp.client.messages import State
from messageapp.client.outgoing import SENDS, STARTS
from messageapp.errors import RemoteProtocolError
from messageapp.store.states import Cause
from messageapp.wire.commands import ErrorCode
from messageapp.wire.mail_forms import Delivery
from messageapp_keys.identity import PrivateIdentity
from support.mail_desk import KEPT_S, MailDesk, at_desk, wall_ms
from support.messaging import state, waiting
from support.world import open_world, settle

_Prepare = Callable[[MailDesk], None]


def _send(code: ErrorCode) -> _Prepare:
    return lambda desk: desk.refuses.update(bob=code)


def _bundle(code: ErrorCode) -> _Prepare:
    return lambda desk: desk.no_prekeys.update(bob=code)


REFUSALS: dict[str, tuple[_Prepare, State, Cause]] = {
    "no prekeys": (_bundle(ErrorCode.NOT_AVAILABLE), State.QUEUED, Cause.NO_PREKEYS),
    "too many questions": (_bundle(ErrorCode.RATE), State.QUEUED, Cause.BUSY),
    "full mailbox": (_send(ErrorCode.STORAGE), State.QUEUED, Cause.MAILBOX_FULL),
    "full disk": (_send(ErrorCode.DISK_FULL), State.QUEUED, Cause.SERVER_DISK_FULL),
    "too many messages": (_send(ErrorCode.RATE), State.QUEUED, Cause.BUSY),
    "we block him": (_send(ErrorCode.NOT_NOW), State.QUEUED, Cause.BLOCKED),
    "unknown user": (_send(ErrorCode.NOT_AVAILABLE), State.FAILED, Cause.UNKNOWN_USER),
    "refused": (_send(ErrorCode.MALFORMED), State.FAILED, Cause.REFUSED),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_says_why_and_one_peers_trouble_is_nobody_elses(
    autojump_clock: trio.testing.MockClock, name: str
) -> None:
    prepare, expected, cause = REFUSALS[name]
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            prepare(desk)
            first = await alice.write("bob", "first")
            carols = await alice.write("carol", "to somebody else")
            (events,) = await settle(alice)
            assert state(alice, first) == (expected, cause)
            assert ev.MessageChanged(first, "bob", expected, cause) in events
            assert state(alice, carols) == (State.SENT, Cause.AT_SERVER)
            if expected is State.FAILED:
                assert waiting(alice) == 0, "it is not tried again"
                alice.messages.retry(first)
            desk.refuses.clear()
            desk.no_prekeys.clear()
            alice.mail.poke("bob")
            await settle(alice)
            assert state(alice, first) == (State.SENT, Cause.AT_SERVER)
            assert waiting(alice) == 0


SHORT: Final = 480.0


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours and days take minutes: the rest of the world runs on, and each hour of it costs seconds."""
    for name in ("outgoing.MAX_RETRY_SECONDS", "mailing.KEEP_SECONDS", "mailing.UPKEEP_SECONDS"):
        monkeypatch.setattr(f"messageapp.client.{name}", SHORT)


@pytest.mark.usefixtures("_quick")
async def test_what_waits_is_tried_again_later_and_later(autojump_clock: trio.testing.MockClock) -> None:
    """MAX_RETRY_SECONDS at most; the fixture makes it short."""
    with trio.fail_after(1e6):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            desk.no_prekeys["bob"] = ErrorCode.NOT_AVAILABLE
            number = await alice.write("bob", "first")
            await trio.sleep(4 * SHORT)
            gaps = [round(after - before, -1) for before, after in pairwise(desk.asked_at)]
            assert gaps[:5] == [60, 120, 240, SHORT, SHORT]
            desk.no_prekeys.clear()
            await trio.sleep(SHORT + 1)
            assert state(alice, number) == (State.SENT, Cause.AT_SERVER)


@pytest.mark.usefixtures("_quick")
async def test_a_clock_that_is_set_back_holds_up_nothing(autojump_clock: trio.testing.MockClock) -> None:
    ahead_ms = 10 * 86_400_000
    with trio.fail_after(1e6):
        async with (
            open_world() as world,
            at_desk(world, "alice", wall_ms=lambda: wall_ms() + ahead_ms) as (alice, desk),
        ):
            desk.no_prekeys["bob"] = ErrorCode.NOT_AVAILABLE
            number = await alice.write("bob", "first")
            await settle(alice)
            desk.no_prekeys.clear()
            ahead_ms = 0
            await trio.sleep(SHORT)
            assert state(alice, number) == (State.SENT, Cause.AT_SERVER)


@pytest.mark.usefixtures("_quick")
async def test_the_prekeys_are_looked_at_once_a_day(autojump_clock: trio.testing.MockClock) -> None:
    """UPKEEP_SECONDS; the fixture makes it short."""
    with trio.fail_after(1e6):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            await settle(alice)
            before = len(desk.looks)
            await trio.sleep(2 * SHORT + 1)
            assert len(desk.looks) == before + 2


async def test_four_prekeys_are_asked_for_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            names = ["bob", "carol", "dave", "eve", "frank", "grace"]
            desk.silent.update(names)
            for name in names:
                await alice.write(name, "hello")
            await settle(alice)
            assert len(desk.asked) == STARTS


async def test_a_server_that_sends_more_than_was_acknowledged_is_left(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, _):
            for seq in range(DELIVERIES):
                alice.mail.hear(Delivery("bob", seq, bytes(16), b"?"))
            with pytest.raises(RemoteProtocolError):
                alice.mail.hear(Delivery("bob", DELIVERIES, bytes(16), b"?"))


async def test_a_peer_whose_prekey_does_not_come_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            desk.silent.add("bob")
            stuck = [await alice.write("bob", f"text {number}") for number in range(100)]
            await settle(alice)
            sent = [await alice.write(name, "hello") for name in ("carol", "dave")]
            await settle(alice)
            assert [state(alice, number)[0] for number in sent] == [State.SENT] * 2
            assert {state(alice, number) for number in stuck} == {(State.QUEUED, Cause.WAITING)}
            assert sorted(desk.asked) == ["bob", "carol", "dave"]


async def test_sixteen_are_under_way_and_they_are_in_order(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            desk.holds = True
            numbers = [await alice.write("bob", f"text {number}") for number in range(40)]
            await settle(alice)
            numbers.append(await alice.write("bob", "one more"))
            await settle(alice)
            assert len(desk.sent) == 1, "what follows the beginning of a session waits for it to be stored"
            await desk.answer()
            await settle(alice)
            assert len(desk.sent) == 1 + SENDS
            await desk.answer(3)
            await settle(alice)
            assert len(desk.sent) == 1 + SENDS + 3
            while desk.held:
                await desk.answer()
                await settle(alice)
            ids = [alice.messages.message(number).id for number in numbers]
            assert [request.id for request in desk.sent] == ids
            assert waiting(alice) == 0


async def test_after_a_cut_the_same_bytes_are_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            async with at_desk(world, "alice") as (alice, desk):
                desk.holds = True
                first = await alice.write("bob", "first")
                await settle(alice)
                await desk.answer()
                numbers = [first] + [await alice.write("bob", f"text {number}") for number in range(20)]
                await settle(alice)
                before = {request.id: request.blob for request in desk.sent}
                assert len(before) == 1 + SENDS
            async with at_desk(world, "alice") as (alice, desk):
                await settle(alice)
                after = {request.id: request.blob for request in desk.sent}
                assert len(after) == 20, "all but the first, which the server has"
                assert {id: blob for id, blob in after.items() if id in before} == {
                    id: blob for id, blob in before.items() if id in after
                }
                assert {state(alice, number) for number in numbers} == {(State.SENT, Cause.AT_SERVER)}


async def test_what_is_queued_without_a_connection_says_so_and_goes_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            async with at_desk(world, "alice") as (alice, desk):
                desk.silent.add("bob")
                before = await alice.write("bob", "before the end")
                await alice.exit()
                after = await alice.write("bob", "after the end")
                assert state(alice, before) == state(alice, after) == (State.QUEUED, Cause.NOT_CONNECTED)
            async with at_desk(world, "alice") as (alice, desk):
                await settle(alice)
                assert state(alice, before) == state(alice, after) == (State.SENT, Cause.AT_SERVER)


async def test_another_key_than_the_pinned_one_gets_nothing_until_it_is_trusted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            trust, server = alice.account.trust, alice.server_name
            trust.pin_first("bob", server, PrivateIdentity.generate("ed25519").bundle)
            number = await alice.write("bob", "for the real bob")
            (events,) = await settle(alice)
            assert state(alice, number) == (State.QUEUED, Cause.KEY_CHANGED)
            (changed,) = [event for event in events if isinstance(event, ev.KeyChanged)]
            assert not desk.sent
            trust.accept_offered("bob", server, changed.new_number[:10])
            alice.mail.poke("bob")
            await settle(alice)
            assert state(alice, number) == (State.SENT, Cause.AT_SERVER)


async def test_a_server_without_storage(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            number = await alice.write("bob", "hello")
            await settle(alice)
            assert state(alice, number) == (State.QUEUED, Cause.NO_MAIL)
            assert alice.mail.status().absent


@pytest.mark.usefixtures("_quick")
async def test_what_the_server_has_kept_for_too_long_has_failed(autojump_clock: trio.testing.MockClock) -> None:
    """Looked at every KEEP_SECONDS, which the fixture makes short; the server may be an hour late with deleting."""
    ahead_ms = 0
    with trio.fail_after(1e6):
        async with open_world() as world, at_desk(world, "alice", wall_ms=lambda: wall_ms() + ahead_ms) as (alice, _):
            number = await alice.write("bob", "hello")
            await settle(alice)
            ahead_ms = KEPT_S * 1000
            await trio.sleep(SHORT + 1)
            assert state(alice, number) == (State.SENT, Cause.AT_SERVER), "it may be delivered at the last moment"
            ahead_ms += 3_600_000
            await trio.sleep(SHORT + 1)
            assert state(alice, number) == (State.FAILED, Cause.EXPIRED)


async def test_a_server_that_confirms_another_message_ends_the_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            desk.holds = True
            number = await alice.write("bob", "hello")
            await settle(alice)
            record, request = desk.held[0]
            desk.held[0] = (record, type(request)(request.to, bytes(16), request.blob))
            await desk.answer()
            events: list[Any] = (await settle(alice))[0]
            assert isinstance(events[-1], ev.Ended)
            assert state(alice, number) == (State.QUEUED, Cause.NOT_CONNECTED)
