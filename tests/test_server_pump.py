"""Readers that wait at the pump: they get their turn, their errors, and nobody else's."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.server import pump as pump_module
from messageapp.server.pump import Pump, open_pump

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="the system has no epoll")


class Ends:
    """Socket pairs: `near` is written to by the test, `far` is what a reader has."""

    def __init__(self, count: int) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        self.near, self.far = [near for near, _ in pairs], [far for _, far in pairs]
        for end in (*self.near, *self.far):
            end.setblocking(False)

    def close(self) -> None:
        for end in (*self.near, *self.far):
            end.close()


@asynccontextmanager
async def pumping(count: int) -> AsyncIterator[tuple[Pump, Ends, trio.Nursery]]:
    ends = Ends(count)
    try:
        with open_pump() as pump:
            assert pump is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump.run)
                yield pump, ends, nursery
                nursery.cancel_scope.cancel()
    finally:
        ends.close()


async def test_each_reader_is_told_of_its_own_socket() -> None:
    with trio.fail_after(10):
        async with pumping(3) as (pump, ends, nursery):
            send, receive = trio.open_memory_channel[tuple[int, bytes]](10)
            for number, far in enumerate(ends.far):
                nursery.start_soon(
                    pump.serve, far.fileno(), lambda _, n=number, s=far: send.send_nowait((n, s.recv(100)))
                )
            await trio.testing.wait_all_tasks_blocked()
            for number in (2, 0, 1, 2):
                ends.near[number].send(b"to %d" % number)
                assert await receive.receive() == (number, b"to %d" % number)


async def test_what_an_act_raises_is_raised_in_its_reader_and_in_no_other() -> None:
    with trio.fail_after(10):
        async with pumping(2) as (pump, ends, nursery):
            send, receive = trio.open_memory_channel[bytes](10)
            nursery.start_soon(pump.serve, ends.far[1].fileno(), lambda _: send.send_nowait(ends.far[1].recv(100)))

            def fail(_: float) -> None:
                raise KeyError("mine")

            await trio.testing.wait_all_tasks_blocked()
            ends.near[0].send(b"x")
            with pytest.raises(KeyError, match="mine"):
                await pump.serve(ends.far[0].fileno(), fail)
            ends.near[1].send(b"still served")
            assert await receive.receive() == b"still served"


async def test_who_was_cancelled_is_not_called_any_more_and_may_come_again() -> None:
    with trio.fail_after(10):
        async with pumping(1) as (pump, ends, _):
            called = Counter[str]()

            def act(name: str) -> None:
                called[name] += 1
                ends.far[0].recv(100)
                raise EOFError

            with trio.CancelScope() as scope:
                scope.cancel()
                await pump.serve(ends.far[0].fileno(), lambda _: act("cancelled before"))
            with trio.move_on_after(0.01):
                await pump.serve(ends.far[0].fileno(), lambda _: act("timed out"))
            ends.near[0].send(b"x")
            with pytest.raises(EOFError):
                await pump.serve(ends.far[0].fileno(), lambda _: act("third"))
            assert called == {"third": 1}


async def test_the_end_of_a_stream_is_something_to_read() -> None:
    with trio.fail_after(10):
        async with pumping(1) as (pump, ends, _):

            def act(_: float) -> None:
                if not ends.far[0].recv(100):
                    raise EOFError

            ends.near[0].shutdown(socket.SHUT_WR)
            with pytest.raises(EOFError):
                await pump.serve(ends.far[0].fileno(), act)


async def test_who_always_has_something_to_say_keeps_nobody_from_his_turn() -> None:
    """More sockets than one pass serves, all always readable: all are served, and other tasks run meanwhile."""
    count = 200
    with trio.fail_after(20):
        async with pumping(count) as (pump, ends, nursery):
            called, turns = Counter[int](), 0
            for number, far in enumerate(ends.far):
                ends.near[number].send(b"never read")

                def act(_: float, n: int = number) -> None:
                    called[n] += 1

                nursery.start_soon(pump.serve, far.fileno(), act)
            while min(called.values(), default=0) < 3 or len(called) < count:
                await trio.lowlevel.checkpoint()
                turns += 1
            assert turns >= 3
            assert max(called.values()) <= 3 * min(called.values())


class Polled:
    """An epoll that says how many descriptors each pass asked for and got."""

    def __init__(self, real: select.epoll) -> None:
        self._real = real
        self.passes: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        found = self._real.poll(timeout, most)
        self.passes.append((most, len(found)))
        return found


async def test_a_pass_is_of_64_sockets_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "_TURN_SECONDS", 10.0)
    ends = Ends(pump_module._PASS + 1)
    with trio.fail_after(20), contextlib.closing(ends), select.epoll() as real:
        polled, acts = Polled(real), Counter[int]()
        pump = Pump(polled)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            for number, far in enumerate(ends.far):
                ends.near[number].send(b"never read")
                nursery.start_soon(pump.serve, far.fileno(), lambda _, n=number: acts.update([n]))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(pump.run)
            while len(acts) < len(ends.far):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert {most for most, _ in polled.passes} == {pump_module._PASS} == {64}
    assert max(found for _, found in polled.passes) == 64


async def test_a_long_act_ends_the_turn_and_the_others_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "_TURN_SECONDS", -1.0)  # every act takes too long
    with trio.fail_after(20):
        async with pumping(5) as (pump, ends, nursery):
            order: list[int] = []
            for number, far in enumerate(ends.far):
                ends.near[number].send(b"never read")
                nursery.start_soon(pump.serve, far.fileno(), lambda _, n=number: order.append(n))
            seen = 0
            while len(order) < 15:
                await trio.lowlevel.checkpoint()
                assert len(order) <= seen + 2  # one a turn, of which at most two lie between ours
                seen = len(order)
            assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5))


async def test_the_pump_closes_its_descriptor() -> None:
    with trio.fail_after(10):
        async with pumping(1) as (pump, _, _nursery):
            assert pump._epoll.fileno() >= 0
        assert pump._epoll.closed
