"""Taking in connections: as plain sockets, whatever the system says."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.server.accepting import accept_until_cancelled
from messageapp.sockets import BareSocketStream
from support.world import MemoryListener

Taken = list[tuple[trio.abc.Stream, str]]


@asynccontextmanager
async def accepting(host: str = "127.0.0.1") -> AsyncIterator[tuple[Any, Taken]]:
    """(address, what was accepted)."""
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    taken: Taken = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_until_cancelled, listener, lambda *each: taken.append(each))
            try:
                yield listener.socket.getsockname(), taken
            finally:
                nursery.cancel_scope.cancel()
                for stream, _ in taken:
                    assert isinstance(stream, BareSocketStream)
                    stream.close()


async def dial(address: Any) -> socket.socket:
    return await trio.to_thread.run_sync(lambda: socket.create_connection(address[:2], 10))


async def until(count: int, taken: Taken) -> None:
    while len(taken) < count:  # noqa: ASYNC110 - the kernel makes it true
        await trio.sleep(0.001)


async def test_a_connection_is_served_with_the_address_of_its_peer() -> None:
    async with accepting() as (address, taken):
        with await dial(address) as client:
            await until(1, taken)
            stream, peer = taken[0]
            assert isinstance(stream, BareSocketStream)
            assert peer == client.getsockname()[0] == "127.0.0.1"
            assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not os.get_blocking(stream._socket.fileno())
            await stream.send_all(b"hello")
            assert await trio.to_thread.run_sync(client.recv, 5) == b"hello"
            client.sendall(b"you")
            assert await stream.receive_some(10) == b"you"


async def test_ipv6_addresses_are_told_as_they_are() -> None:
    try:
        async with accepting("::1") as (address, taken):
            with await dial(address):
                await until(1, taken)
                assert taken[0][1] == "::1"
    except OSError:
        pytest.skip("this machine has no IPv6")


async def test_all_that_wait_are_taken_one_by_one() -> None:
    async with accepting() as (address, taken):
        clients = [await dial(address) for _ in range(20)]
        await until(20, taken)
        for client in clients:
            client.close()
    assert len(taken) == 20


async def test_cancelling_closes_the_listener() -> None:
    async with accepting() as (address, _):
        pass
    with pytest.raises(ConnectionRefusedError):
        await dial(address)


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ECONNABORTED, False), (errno.EPROTO, False)]
)
async def test_what_the_system_refuses_now_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, told: bool
) -> None:
    """Above all too many open files: the server must live until some are closed, and say so once."""
    real, failures = socket.socket.accept, [number] * 3

    def accept(self: socket.socket) -> Any:
        if failures:
            raise OSError(failures.pop(), os.strerror(number))
        return real(self)

    caplog.set_level(logging.INFO, "messageapp.server")
    monkeypatch.setattr(socket.socket, "accept", accept)
    async with accepting() as (address, taken):
        with await dial(address):
            await until(1, taken)
    assert failures == []
    line = f"cannot accept connections now: {os.strerror(number).lower()}"
    assert caplog.messages == ([line] if told else [])


async def test_streams_that_are_no_sockets_are_of_one_host() -> None:
    listener, taken = MemoryListener(), Taken()
    near, far = trio.testing.memory_stream_pair()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_until_cancelled, listener, lambda *each: taken.append(each))
            listener.send.send_nowait(far)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert taken == [(far, "memory")]
    with pytest.raises(trio.BrokenResourceError):
        listener.send.send_nowait(near)
