"""Sessions over real sockets: what the server does differently there must not show."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.link import Link
from messageapp.server.router import Router
from messageapp.wire.commands import ByeReason, Echo, Left, Raw, make, parse_untrusted
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from support.world import RawPeer, World, dial, identity, open_world, read_to_end, some_limits

SIZES = [0, 1, 300, 2526, 9000, 66_000, 129_014]


class People:
    """Whoever logs in; all their sockets are closed in the end."""

    def __init__(self, world: World) -> None:
        self.world, self._stack = world, AsyncExitStack()

    async def log_in(self, name: str) -> RawPeer:
        stream = await self._stack.enter_async_context(await dial(self.world))
        return await self.world.raw(name, stream=stream)


@asynccontextmanager
async def people(**changes: Any) -> AsyncIterator[People]:
    async with open_world(some_limits(**changes)) as world:
        found = People(world)
        async with found._stack:
            yield found


async def test_messages_of_all_sizes_both_ways_arrive_once_and_in_order() -> None:
    with trio.fail_after(60):
        async with people() as us, trio.open_nursery() as nursery:
            alice, bob = await us.log_in("alice"), await us.log_in("bob")
            await us.world.raw_chat(alice, "alice", bob, "bob")
            texts = [os.urandom(SIZES[number % len(SIZES)]) for number in range(70)]

            async def say(peer: RawPeer) -> None:
                for text in texts:
                    await peer.send("frwd", Raw(text))

            async def hear(peer: RawPeer) -> None:
                for text in texts:
                    record = await peer.receive()
                    assert (record.kind, record.verb) == (Kind.EVENT, b"frwd")
                    assert record.argument == text

            for peer in (alice, bob):
                nursery.start_soon(say, peer)
                nursery.start_soon(hear, peer)


async def test_many_in_one_write_come_out_in_the_order_of_events_and_messages() -> None:
    """Direct sends, replies and the peer's leaving, in one lump."""
    with trio.fail_after(60):
        async with people() as us:
            alice, bob = await us.log_in("alice"), await us.log_in("bob")
            await us.world.raw_chat(alice, "alice", bob, "bob")
            lump = [make(Kind.REQUEST, number, "frwd", Raw(b"%d" % number)) for number in range(600)]
            lump[300:300] = [make(Kind.REQUEST, 5000, "ping", Echo(bytes(8)))]
            await alice.link.send_records([*lump, make(Kind.REQUEST, 6000, "exch"), lump[0]])
            assert [(await bob.receive()).argument for _ in range(600)] == [b"%d" % number for number in range(600)]
            assert parse_untrusted(Role.SERVER, await bob.receive()) == Left(disconnected=False)
            assert [(await alice.receive()).verb for _ in range(3)] == [b"pong", b"okay", b"erro"]


async def test_a_fault_of_ours_ends_one_connection_and_leaves_the_others_working(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Router._obey

    def obey(self: Router, session: Any, record: Record) -> None:
        if record.verb == b"help":
            raise KeyError(f"the secret words of {session.user}")
        real(self, session, record)

    monkeypatch.setattr(Router, "_obey", obey)
    with trio.fail_after(60):
        async with people() as us:
            alice, bob = await us.log_in("alice"), await us.log_in("bob")
            await us.world.raw_chat(alice, "alice", bob, "bob")
            await alice.send("help")
            assert parse_untrusted(Role.SERVER, await bob.receive()) == Left(disconnected=True)
            await bob.nothing_new()
            await (await us.log_in("alice")).nothing_new()
    errors = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert ["KeyError" in entry.getMessage() for entry in errors] == [True]
    assert "secret" not in caplog.text


async def test_good_records_before_a_damaged_one_are_served_and_then_it_is_over() -> None:
    with trio.fail_after(60):
        async with people() as us:
            alice, bob = await us.log_in("alice"), await us.log_in("bob")
            await us.world.raw_chat(alice, "alice", bob, "bob")
            now, connection = trio.current_time(), alice.link.connection
            good = connection.send_record(make(Kind.REQUEST, 7, "frwd", Raw(b"good")), now)
            bad = connection.send_record(make(Kind.REQUEST, 8, "frwd", Raw(b"bad")), now)
            await alice.link.send(good + bad[:-1] + bytes((bad[-1] ^ 1,)))
            assert (await bob.receive()).argument == b"good"
            assert parse_untrusted(Role.SERVER, await bob.receive()) == Left(disconnected=True)
            await read_to_end(alice.link.stream)  # type: ignore[arg-type]
            await bob.nothing_new()


async def test_a_peer_that_reads_nothing_delays_nobody_and_its_senders_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with trio.fail_after(60):
        async with people(write_seconds=1) as us:
            alice, bob, carol = [await us.log_in(name) for name in ("alice", "bob", "carol")]
            await us.world.raw_chat(alice, "alice", bob, "bob")
            refused = 0
            for number in range(400):  # some 40 MB, far more than sockets and queue hold
                await alice.send("frwd", Raw(bytes(100_000)), identifier=number)
            while not refused:
                refused += (await alice.receive()).verb == b"erro"
            await carol.nothing_new()
            while (record := await alice.receive()).verb == b"erro":
                refused += 1
            assert parse_untrusted(Role.SERVER, record) == Left(disconnected=True)  # bob was dropped
            await carol.nothing_new()


async def test_goodbyes_come_over_sockets_too() -> None:
    with trio.fail_after(60):
        async with people() as us:
            alice = await us.log_in("alice")
            us.world.server.shutdown()
            assert parse_untrusted(Role.SERVER, await alice.receive()).reason == ByeReason.SHUTDOWN
            await read_to_end(alice.link.stream)  # type: ignore[arg-type]
            await alice.close()
            await us.world.served.wait()


async def test_a_record_before_m4_ends_the_connection_and_is_no_fault_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """M3 and a record in one segment: whoever does that has not waited for the server's proof."""
    with trio.fail_after(60):
        async with people() as us:
            us.world.directory.enrol("alice", identity("alice").bundle)
            async with await dial(us.world) as stream:
                link, login = Link(stream, Role.CLIENT), us.world.login("alice")
                await link.send_frame(FrameType.M1, login.start())
                m3 = login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC))
                await link.send(m3 + encode_frame(FrameType.RECORD, bytes(300)))
                assert await read_to_end(stream) == b""  # type: ignore[arg-type]
            await (await us.log_in("bob")).nothing_new()
    assert not [entry for entry in caplog.records if entry.levelno >= logging.ERROR]


async def test_many_pings_in_one_write_are_all_answered_and_others_are_served() -> None:
    with trio.fail_after(60):
        async with people() as us, trio.open_nursery() as nursery:
            mallory, alice = await us.log_in("mallory"), await us.log_in("alice")
            pings = [make(Kind.REQUEST, number, "ping", Echo(bytes(8))) for number in range(3000)]
            answered: list[int] = []

            async def hear() -> None:
                answered.extend([(await mallory.receive()).id for _ in pings])

            nursery.start_soon(mallory.link.send_records, pings)
            nursery.start_soon(hear)
            for _ in range(20):
                await alice.nothing_new()
        assert answered == list(range(3000))
