"""The adapter between frames and a stream: pieces, lumps, ends."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trio
import trio.testing

from messageapp.errors import ConnectionCut, RemoteProtocolError
from messageapp.link import Link
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.records import Kind, Record, RecordOpener, RecordSealer
from messageapp.wire.states import Role, State
from messageapp_keys.types import TrafficSecret

M1 = encode_frame(FrameType.M1, b"body")


def pair() -> tuple[trio.StapledStream, Link]:  # type: ignore[type-arg]
    near, far = trio.testing.memory_stream_pair()
    return near, Link(far, Role.SERVER)


async def test_a_frame_in_any_pieces(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        for cut in range(len(M1) + 1):
            near, link = pair()
            async with trio.open_nursery() as nursery:

                async def send(pieces: Iterable[bytes], near: trio.abc.SendStream = near) -> None:
                    for piece in pieces:
                        await near.send_all(piece)
                        await trio.testing.wait_all_tasks_blocked()

                nursery.start_soon(send, [piece for piece in (M1[:cut], M1[cut:]) if piece])
                assert (await link.receive_frame()).body == b"body"


@pytest.mark.parametrize("count", [0, 1, 4, 5, len(M1) - 1])
async def test_the_end_of_the_stream_is_a_cut_wherever_it_comes(
    autojump_clock: trio.testing.MockClock, count: int
) -> None:
    with trio.fail_after(10):
        near, link = pair()
        await near.send_all(M1[:count])
        await near.aclose()
        with pytest.raises(ConnectionCut):
            await link.receive_frame()


async def test_sending_to_someone_who_is_gone_is_a_cut(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        near, link = pair()
        await near.aclose()
        with pytest.raises(ConnectionCut):
            await link.send(b"x")
        with pytest.raises(ConnectionCut):
            await link.receive_ignored()


async def test_a_stream_that_we_closed_ourselves_is_a_cut(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        _, link = pair()
        await link.stream.aclose()
        for act in (link.receive_frame, link.receive_ignored, lambda: link.send(b"x")):
            with pytest.raises(ConnectionCut):
                await act()


async def test_half_closing_leaves_the_other_half(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        near, link = pair()
        await link.half_close()
        assert await near.receive_some(10) == b""
        await near.send_all(M1)
        assert (await link.receive_frame()).type is FrameType.M1


def session() -> tuple[trio.StapledStream, Link, RecordSealer]:  # type: ignore[type-arg]
    """A server's link in a session, and what the client seals with."""
    near, link = pair()
    secret = bytes(range(32))
    link.connection.state = State.SESSION
    link.connection.start_session(
        RecordSealer(TrafficSecret(secret), "alice"), RecordOpener(TrafficSecret(secret), "alice"), 0.0
    )
    return near, link, RecordSealer(TrafficSecret(secret), "alice")


def sealed(sealer: RecordSealer, *numbers: int) -> bytes:
    return b"".join(
        encode_frame(FrameType.RECORD, sealer.seal(Record(Kind.REQUEST, n, b"ping", bytes(8)))) for n in numbers
    )


async def test_records_of_one_read_come_together(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        near, link, sealer = session()
        data = sealed(sealer, *range(100))
        await near.send_all(data[:-1])
        assert [record.id for record in await link.receive_records()] == list(range(99))
        await near.send_all(data[-1:])
        assert [record.id for record in await link.receive_records()] == [99]


async def test_good_records_before_a_broken_one_are_given_and_then_it_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whatever came well is served, also where the next byte of the same read breaks the protocol."""
    with trio.fail_after(10):
        near, link, sealer = session()
        await near.send_all(sealed(sealer, 0, 1, 2) + encode_frame(FrameType.RECORD, bytes(300)) + sealed(sealer, 3))
        assert [record.id for record in await link.receive_records()] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(RemoteProtocolError):
                await link.receive_records()


async def test_sending_after_a_broken_record_is_a_cut(autojump_clock: trio.testing.MockClock) -> None:
    """The writer may still answer the good record when the reader has found the broken one: that is no bug of ours."""
    with trio.fail_after(10):
        near, link, sealer = session()
        await near.send_all(sealed(sealer, 0) + encode_frame(FrameType.RECORD, bytes(300)))
        (record,) = await link.receive_records()
        with pytest.raises(ConnectionCut):
            await link.send_records([Record(Kind.REPLY, record.id, b"pong", record.argument)])
        with pytest.raises(RemoteProtocolError):
            await link.receive_records()


async def test_a_key_update_alone_is_not_a_record(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        near, link, sealer = session()
        await near.send_all(
            encode_frame(FrameType.RECORD, sealer.seal(Record(Kind.EVENT, 0, b"rkey", (1).to_bytes(4, "big"))))
        )
        sealer.update()
        with trio.move_on_after(1) as waiting:
            await link.receive_records()
        assert waiting.cancelled_caught
        await near.send_all(sealed(sealer, 7))
        assert [record.id for record in await link.receive_records()] == [7]


async def test_a_canceled_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        near, link, sealer = session()
        data = sealed(sealer, 1, 2)
        for place in range(0, len(data), 50):
            await near.send_all(data[place : place + 50])
            if place + 50 < len(data) // 2:
                with trio.move_on_after(0.1):
                    await link.receive_records()
        assert [record.id for record in await link.receive_records()] == [1, 2]


async def test_records_queued_together_are_sent_with_one_call(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        near, link, _ = session()
        await link.send_records([Record(Kind.EVENT, 0, b"frwd", bytes(10)) for _ in range(20)])
        data = bytes(await near.receive_some(1_000_000))
        assert len(data) == 20 * (5 + 32 + 256)
