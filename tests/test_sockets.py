"""The bare socket stream does all that trio asks of a stream, and waits for nobody where it says so."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from messageapp.sockets import BareSocketStream

Pair = tuple[BareSocketStream, BareSocketStream]


async def pair() -> Pair:
    near, far = trio.socket.socketpair()
    return BareSocketStream(trio.SocketStream(near)), BareSocketStream(trio.SocketStream(far))


async def clogged() -> Pair:
    near, far = await pair()
    for stream in (near, far):
        while stream.send_nowait(bytes(65_536)):
            pass
    return near, far


async def tcp() -> Pair:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return BareSocketStream(near), BareSocketStream(await listener.accept())


@pytest.mark.parametrize("make", [pair, tcp])
async def test_it_is_a_stream_as_trio_wants_them(make: object) -> None:
    with trio.fail_after(30):
        await trio.testing.check_half_closeable_stream(make, clogged)  # type: ignore[arg-type]


async def test_send_nowait_takes_what_fits_and_never_waits() -> None:
    with trio.fail_after(30):
        near, far = await pair()
        assert near.send_nowait(b"hello") == 5
        assert await far.receive_some() == b"hello"
        sent = 0
        while taken := near.send_nowait(bytes(100_000)):
            sent += taken
        assert sent > 0
        got = 0
        while got < sent:
            got += len(await far.receive_some())
        assert near.send_nowait(b"again") == 5
        for stream in (near, far):
            await stream.aclose()


async def test_a_long_message_arrives_whole_while_the_reader_reads_little() -> None:
    with trio.fail_after(30):
        near, far = await tcp()
        data = bytes(range(256)) * 8192
        got = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, data)
            while len(got) < len(data):
                piece = await far.receive_some(70_000)
                assert 0 < len(piece) <= 70_000
                got += piece
        assert got == data
        for stream in (near, far):
            await stream.aclose()


async def test_what_was_read_stays_although_the_buffer_is_shared() -> None:
    with trio.fail_after(30):
        (a, b), (c, d) = await pair(), await pair()
        await a.send_all(b"first")
        await c.send_all(b"other")
        kept = [await b.receive_some(), await d.receive_some()]
        assert kept == [b"first", b"other"]
        for stream in (a, b, c, d):
            await stream.aclose()


async def test_a_peer_that_is_gone_or_a_socket_that_is_closed_says_so() -> None:
    with trio.fail_after(30):
        near, far = await pair()
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            near.send_nowait(b"x")
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            near.send_nowait(b"x")


async def test_a_reset_is_a_broken_stream() -> None:
    with trio.fail_after(30):
        near, far = await tcp()
        far._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        await near.aclose()


async def test_cancelling_a_read_loses_nothing() -> None:
    with trio.fail_after(30):
        near, far = await pair()
        with trio.move_on_after(0.01):
            await far.receive_some()
        await near.send_all(b"still here")
        assert await far.receive_some() == b"still here"
        for stream in (near, far):
            await stream.aclose()
