"""A session leaves no cycles behind, so its memory comes back although the collector never looks at it."""

from __future__ import annotations

import gc
import os
from collections import Counter

import trio
import trio.testing

from messageapp.server import garbage
from messageapp.wire.commands import Nothing, make
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.records import Kind
from support.world import World, dial, open_world, read_to_end

CLIENTS = 6


async def visit(world: World, rounds: int) -> None:
    """Sessions over real sockets that begin, say something and end."""
    for number in range(rounds):
        peer = await world.raw("alice", stream=await dial(world), device=os.urandom(16))
        await peer.ask("list", Nothing())
        match number % 3:
            case 1:
                await peer.ask("exit", Nothing())
            case 2:  # a good record, and in the same read one that breaks the protocol
                good = peer.link.connection.send_record(make(Kind.REQUEST, 1, "list"), trio.current_time())
                await peer.link.send(good + encode_frame(FrameType.RECORD, bytes(300)))
                await read_to_end(peer.link.stream)  # type: ignore[arg-type]
        await peer.close()
    while world.server.router.session_count:
        await trio.lowlevel.checkpoint()


async def test_a_session_leaves_no_cycles() -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            await visit(world, 3)
            gc.collect()
            gc.disable()
            try:
                await visit(world, CLIENTS)
                await trio.testing.wait_all_tasks_blocked()
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                left = Counter(type(found).__name__ for found in gc.garbage)
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert {name: count for name, count in left.items() if count >= CLIENTS // 3} == {}


async def test_the_collector_is_spared_as_sessions_come_and_left_as_it_was(
    autojump_clock: trio.testing.MockClock,
) -> None:
    before, count = gc.get_threshold(), 0
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(garbage.keep_collections_short, lambda: count)
            await trio.sleep(0.1)
            first = gc.get_freeze_count()
            assert first > 0
            assert gc.get_threshold()[0] > before[0]
            newer = [[number] for number in range(10_000)]
            await trio.sleep(5)
            assert gc.get_freeze_count() <= first
            count = 300
            await trio.sleep(2)
            assert gc.get_freeze_count() >= first + len(newer)
            nursery.cancel_scope.cancel()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
