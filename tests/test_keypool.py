"""The stock of temporary keys: bounded, never losing one, never giving one twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

import pytest
import trio
import trio.testing

from messageapp.keypool import RsaPool, open_pool


def stocked(size: int, keys: int) -> RsaPool:
    pool = RsaPool(size)
    for number in range(keys):
        pool.put(number)
    return pool


async def test_keys_come_in_order_and_once() -> None:
    pool = stocked(4, 3)
    assert len(pool) == 3
    assert pool.take_nowait() == 0
    with trio.fail_after(10):
        assert await pool.take() == 1
    assert pool.take_nowait() == 2
    assert pool.take_nowait() is None
    assert len(pool) == 0


async def test_who_waits_gets_the_next_key_in_turn(autojump_clock: trio.testing.MockClock) -> None:
    pool, got = stocked(4, 0), []

    async def wait(name: str) -> None:
        got.append((name, await pool.take()))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for name in ("first", "second"):
                nursery.start_soon(wait, name)
                await trio.testing.wait_all_tasks_blocked()
            pool.put("a")
            assert pool.take_nowait() is None, "it belongs to who waits"
            pool.put("b")
    assert sorted(name for name, _ in got) == ["first", "second"]
    assert sorted(key for _, key in got) == ["a", "b"]


async def test_a_canceled_wait_loses_no_key(autojump_clock: trio.testing.MockClock) -> None:
    pool = stocked(4, 0)
    with trio.fail_after(10):
        for _ in range(3):
            with trio.move_on_after(1):
                await pool.take()
        async with trio.open_nursery() as nursery:  # the key comes and the wait is canceled at the same moment
            nursery.start_soon(pool.take)
            await trio.testing.wait_all_tasks_blocked()
            pool.put("key")
            nursery.cancel_scope.cancel()
    assert len(pool) + 1 in (1, 2)
    left = pool.take_nowait()
    assert left in ("key", None), "given to the one who waited, or still there"
    pool.put("next")
    assert pool.take_nowait() == "next"


class Maker:
    """Counts what it made, and makes only when allowed."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.made = count(1)
        self.last = 0
        self.threads: set[str] = set()

    def __call__(self) -> int:
        self.allowed.acquire()
        self.threads.add(threading.current_thread().name)
        self.last = next(self.made)
        return self.last


def nothing(key: int) -> None:
    pass


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110 - a thread of its own makes it true
            await trio.sleep(0.001)


async def test_the_pool_fills_to_its_size_and_no_further() -> None:
    maker = Maker()
    for _ in range(100):
        maker.allowed.release()
    async with open_pool(5, maker, nothing) as pool:
        await until(lambda: len(pool) == 5)
        await trio.sleep(0.05)
        assert (len(pool), maker.last) == (5, 5)
        assert [pool.take_nowait() for _ in range(2)] == [1, 2]
        await until(lambda: len(pool) == 5)
        assert maker.last == 7
    assert maker.threads == {"rsa pool"}


async def test_an_empty_pool_keeps_nobody_but_who_waits() -> None:
    maker = Maker()
    async with open_pool(2, maker, nothing) as pool:
        assert pool.take_nowait() is None
        async with trio.open_nursery() as nursery:
            got = []

            async def wait() -> None:
                got.append(await pool.take())

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            maker.allowed.release()
            await until(lambda: got == [1])
        maker.allowed.release(5)


@pytest.mark.parametrize("filled", [True, False])
async def test_leaving_ends_the_thread_without_waiting_for_the_key_under_way(filled: bool) -> None:
    maker = Maker()
    before = set(threading.enumerate())
    with trio.fail_after(10):
        async with open_pool(1, maker, nothing) as pool:
            (thread,) = set(threading.enumerate()) - before
            if filled:
                maker.allowed.release()
                await until(lambda: len(pool) == 1)
    if not filled:
        assert thread.is_alive(), "it is still making the key, and nobody waits for that"
        maker.allowed.release()
    await trio.to_thread.run_sync(thread.join, 10)
    assert not thread.is_alive()
    assert maker.last == 1


def test_a_key_made_after_the_run_is_dropped_in_silence() -> None:
    maker = Maker()
    threads: list[threading.Thread] = []

    async def main() -> None:
        before = set(threading.enumerate())
        async with open_pool(1, maker, nothing):
            threads.extend(set(threading.enumerate()) - before)

    trio.run(main)
    maker.allowed.release()
    threads[0].join(10)
    assert not threads[0].is_alive()


async def test_a_key_is_prepared_in_the_thread_that_will_use_it_before_anybody_gets_it() -> None:
    """What OpenSSL makes at a key's first use, it makes for each thread."""
    maker, steps = Maker(), list[tuple[str, int, str]]()

    def prepare(key: int) -> None:
        steps.append(("prepared", key, threading.current_thread().name))

    maker.allowed.release(5)
    with trio.fail_after(10):
        async with open_pool(2, maker, prepare) as pool:
            for expected in (1, 2, 3):
                key = await pool.take()
                steps.append(("taken", key, threading.current_thread().name))
                assert key == expected
    here = threading.current_thread().name
    for key in (1, 2, 3):
        assert steps.index(("prepared", key, here)) < steps.index(("taken", key, here))
    assert maker.threads == {"rsa pool"}


async def test_real_keys_are_what_the_suites_take() -> None:
    with trio.fail_after(30):
        async with open_pool(1) as pool:
            key = await pool.take()
    assert (key.key_size, key.public_key().public_numbers().e) == (3072, 65537)
