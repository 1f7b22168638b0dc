"""The simulated network does what it says: where it cuts or flips, what a half-open peer sees, in what pieces."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from messageapp.sim.history import History, seeded
from messageapp.sim.streams import DirectStream, Wire


def wire(*, direct: bool = True) -> Wire:
    return Wire(History(trio.current_time), "alice/0#1", 7, direct=direct)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    found = b""
    while data := await stream.receive_some(100):
        found += data
    return found


async def test_bytes_arrive_in_order_and_then_the_end() -> None:
    with trio.fail_after(5):
        one = wire()
        one.up.split = one.down.split = seeded("pieces")
        await one.near.send_all(bytes(range(256)))
        await one.near.send_eof()
        assert await read_all(one.far) == bytes(range(256))


async def test_a_cut_is_after_exactly_so_many_bytes() -> None:
    with trio.fail_after(5):
        one = wire()
        one.up.cut_after = 5
        await one.near.send_all(b"abc")
        await one.near.send_all(b"defg")
        assert await read_all(one.far) == b"abcde"
        with pytest.raises(trio.BrokenResourceError):
            await one.near.send_all(b"h")


async def test_one_bit_is_flipped_and_it_is_known_when_it_was_read() -> None:
    with trio.fail_after(5):
        one = wire()
        one.up.flip_after = 8 * 3 + 1
        await one.near.send_all(b"aaaaa")
        assert await one.far.receive_some(3) == b"aaa"
        assert not one.up.spoilt
        assert await one.far.receive_some(3) == b"ca"
        assert one.up.spoilt


async def test_a_half_open_peer_hears_nothing_and_can_send_a_window(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1000):
        one = wire()
        one.up.lost = True
        one.up.window = 10
        await one.near.send_all(b"0123456789")
        with trio.move_on_after(50) as waiting:
            await one.near.send_all(b"x")
        assert waiting.cancelled_caught
        await one.near.aclose()
        with trio.move_on_after(50) as waiting:
            await one.far.receive_some(1)
        assert waiting.cancelled_caught
        await one.far.aclose()
        assert one.closed


async def test_a_reader_that_stalls_fills_the_window(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(100):
        one = wire()
        assert isinstance(one.far, DirectStream)
        one.down.window, one.down.stalled_until = 4, 20.0
        assert one.far.send_nowait(b"abcdef") == 4
        assert one.far.send_nowait(b"ef") == 0
        assert await one.near.receive_some() == b"abcd"
        assert trio.current_time() == 20.0
        assert one.far.send_nowait(b"ef") == 2


async def test_a_delay_keeps_the_order(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(100):
        one = wire()
        one.up.delay = 6.0
        await one.near.send_all(b"a")
        one.up.delay = 0.0
        await one.near.send_all(b"b")
        assert await one.far.receive_some() == b"ab"
        assert trio.current_time() == 6.0


@pytest.mark.parametrize("direct", [False, True])
async def test_closing_over_unread_bytes_resets(direct: bool) -> None:
    with trio.fail_after(5):
        one = wire(direct=direct)
        await one.far.send_all(b"goodbye")
        await one.near.send_all(b"never read")
        await one.far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await one.near.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await one.far.receive_some()


async def test_a_reset_wakes_both_ends() -> None:
    with trio.fail_after(5):
        one = wire()
        async with trio.open_nursery() as nursery:

            async def broken(stream: trio.abc.ReceiveStream) -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some(1)

            nursery.start_soon(broken, one.near)
            nursery.start_soon(broken, one.far)
            await trio.testing.wait_all_tasks_blocked()
            one.reset()
