"""Turns: one a pass of the scheduler, in line, none lost."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from messageapp.server.turns import Turns


class Passes(trio.abc.Instrument):
    """Counts how often trio looked at the sockets."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def take_turns(turns: Turns, count: int, done: list[tuple[int, int]], passes: Passes) -> None:
    async def one(number: int) -> None:
        await turns.take()
        try:
            done.append((number, passes.count))
        finally:
            await turns.give_back()

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)


async def test_however_many_are_ready_one_a_pass_has_its_turn() -> None:
    passes, done = Passes(), list[tuple[int, int]]()
    trio.lowlevel.add_instrument(passes)
    try:
        with trio.fail_after(10):
            await take_turns(Turns(), 100, done, passes)
    finally:
        trio.lowlevel.remove_instrument(passes)
    assert sorted(number for number, _ in done) == list(range(100))
    assert len({when for _, when in done}) == 100


async def test_one_after_the_other_is_not_the_same_pass_either() -> None:
    """Nobody is in line when the first gives back, and the second is ready in that very pass."""
    turns, passes, done = Turns(), Passes(), list[tuple[int, int]]()
    trio.lowlevel.add_instrument(passes)
    try:
        with trio.fail_after(10):
            for _ in range(20):
                await take_turns(turns, 2, done, passes)
    finally:
        trio.lowlevel.remove_instrument(passes)
    assert len({when for _, when in done}) == 40


async def test_who_came_first_is_served_first() -> None:
    turns, got = Turns(), list[int]()

    async def one(number: int) -> None:
        await turns.take()
        got.append(number)
        await turns.give_back()

    with trio.fail_after(10):
        await turns.take()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(one, number)
                await trio.testing.wait_all_tasks_blocked()
            assert got == []
            await turns.give_back()
    assert got == list(range(10))


async def test_others_run_between_two_turns() -> None:
    turns, order, end = Turns(), list[str](), trio.Event()

    async def relay() -> None:
        while not end.is_set():
            order.append("relay")
            await trio.lowlevel.checkpoint()

    async def one() -> None:
        await turns.take()
        order.append("turn")
        await turns.give_back()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay)
            async with trio.open_nursery() as logins:
                for _ in range(50):
                    logins.start_soon(one)
            end.set()
    assert order.count("turn") == 50
    runs = "".join("t" if each == "turn" else "r" for each in order).split("r")
    assert max(map(len, runs)) <= 2, "two, where one pass ended with a turn and the next began with one"


async def test_a_cancelled_wait_loses_no_turn() -> None:
    turns, got = Turns(), list[str]()

    async def one(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await turns.take()
            try:
                got.append(name)
                await trio.lowlevel.checkpoint()
            finally:
                await turns.give_back()

    with trio.fail_after(10):
        await turns.take()
        scopes = [trio.CancelScope() for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for index, scope in enumerate(scopes):
                nursery.start_soon(one, str(index), scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes[1].cancel()  # in the middle of the line
            await trio.testing.wait_all_tasks_blocked()
            await turns.give_back()
            scopes[0].cancel()  # it was just handed the turn
        assert got == ["0", "2", "3"]
        await turns.take()


async def test_a_turn_is_given_back_whatever_happens() -> None:
    turns = Turns()

    async def fails() -> None:
        await turns.take()
        try:
            raise ZeroDivisionError
        finally:
            await turns.give_back()

    async def swallow(step: Any) -> None:
        try:
            await step()
        except ZeroDivisionError:
            return

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(swallow, fails)
        await turns.take()
