"""One order for all that reaches a peer: direct sends, what the socket left over, and the writer's queue."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp.errors import RemoteProtocolError
from messageapp.limits import Limits
from messageapp.link import Link
from messageapp.server.outbox import Outbox
from messageapp.wire import records
from messageapp.wire.connection import Connection
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role, State
from support.pair import record_pair

LIMITS = Limits.from_mapping({"queue_frames": 8, "queue_bytes": 64 * 1024})


class Narrow(trio.abc.HalfCloseableStream):
    """A socket with room for so many bytes. `grant` makes more; `taken` is what the peer has by now."""

    def __init__(self, room: int) -> None:
        self.room, self.taken, self.direct, self.broken = room, b"", 0, False
        self._more = trio.Event()

    def grant(self, room: int) -> None:
        self.room += room
        self._more.set()
        self._more = trio.Event()

    def send_nowait(self, data: Any) -> int:
        """What a bare socket does."""
        if self.broken:
            raise trio.BrokenResourceError
        count = self._take(data)
        self.direct += count
        return count

    def receive_nowait(self, most: int) -> bytes | None:
        raise AssertionError

    def fileno(self) -> int:
        raise AssertionError

    def _take(self, data: Any) -> int:
        count = min(self.room, len(data))
        self.room -= count
        self.taken += bytes(data[:count])
        return count

    async def send_all(self, data: Any) -> None:
        await trio.lowlevel.checkpoint()
        while data := data[self._take(data) :]:
            await self._more.wait()

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise AssertionError

    async def send_eof(self) -> None:
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


M4 = encode_frame(FrameType.M4, b"welcome")


class Peer:
    """An outbox on a narrow socket, and what came out at the other end."""

    def __init__(self, room: int) -> None:
        self.stream = Narrow(room)
        self._end = Connection(Role.CLIENT)
        sealer, self._opener = record_pair(1)
        link = Link(self.stream, Role.SERVER)
        link.connection.state = State.M3_DONE
        link.connection.start_session(sealer, record_pair(2)[1], 0.0)
        self.link, self.outbox = link, Outbox(link, LIMITS)
        self.passed: list[tuple[bytes, int]] = []  # (verb, number) of all that the outbox took

    def event(self, number: int) -> bool:
        taken = self.outbox.put(numbered(Kind.EVENT, b"list", number, 1).pack())
        self.passed += [(b"list", number)] * taken
        return taken

    def relay(self, first: int, count: int, size: int) -> int:
        records = [numbered(Kind.REQUEST, b"frwd", number, size).pack() for number in range(first, first + count)]
        taken = self.outbox.relay(records)
        self.passed += [(b"frwd", number) for number in range(first, first + taken)]
        return taken

    def came(self) -> list[tuple[bytes, int]]:
        """Each opens only under the counter that is in turn, so this fails where the order is not that of sealing."""
        assert self.stream.taken.startswith(M4)
        end = Connection(Role.CLIENT)
        end.state = State.SESSION
        end.start_session(record_pair(2)[0], self._opener, 0.0)
        end.receive_data(self.stream.taken[len(M4) :])
        found = []
        while (record := end.next_record()) is not None:
            assert record.kind is Kind.EVENT
            found.append((record.verb, int.from_bytes(record.argument[:4], "big")))
        assert not end.mid_frame
        return found


def numbered(kind: Kind, verb: bytes, number: int, size: int) -> Record:
    return Record(kind, number, verb, number.to_bytes(4, "big") + bytes(size))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.just(0), st.just(0)),
        st.tuples(st.just("relay"), st.integers(1, 12), st.sampled_from([0, 300, 5000, 60_000])),
        st.tuples(st.just("grant"), st.sampled_from([1, 100, 289, 4000, 100_000]), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.just(0)),
        st.tuples(st.just("turn"), st.integers(0, 4), st.just(0)),
    ),
    max_size=30,
)


@given(st.sampled_from([0, 12, 500, 50_000, 10**7]), STEPS)
@settings(deadline=None)
def test_events_backlog_and_direct_sends_keep_one_order(room: int, steps: list[tuple[str, int, int]]) -> None:
    """However little the socket takes at a time, whoever runs when, and across key updates."""

    async def main() -> None:
        peer, numbers = Peer(room), itertools.count()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.outbox.write, M4)
                for step, amount, size in steps:
                    match step:
                        case "event":
                            peer.event(next(numbers))
                        case "relay":
                            taken = peer.relay(next(numbers) * 100, amount, size)
                            assert 0 <= taken <= amount
                        case "grant":
                            peer.stream.grant(amount)
                        case "turn":
                            for _ in range(amount):
                                await trio.lowlevel.checkpoint()
                        case "wait":
                            await trio.testing.wait_all_tasks_blocked()
                peer.outbox.close()
                peer.stream.grant(10**9)
        assert peer.came() == peer.passed

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(records, "UPDATE_AFTER_RECORDS", 3)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_an_idle_peer_gets_everything_at_once_and_without_its_writer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(10):
        peer = Peer(10**9)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.outbox.write, M4)
            await trio.testing.wait_all_tasks_blocked()
            assert peer.relay(0, 1000, 100) == 1000  # a queue takes 8 of them
            assert peer.event(1)
            assert peer.came() == peer.passed  # no other task has run
            nursery.cancel_scope.cancel()


async def test_before_m4_nobody_sends(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        peer = Peer(10**9)
        assert peer.relay(0, 100, 1) == LIMITS.queue_frames
        assert peer.stream.taken == b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.outbox.write, M4)
            await trio.testing.wait_all_tasks_blocked()
            assert peer.came() == peer.passed
            nursery.cancel_scope.cancel()


async def test_what_the_socket_left_over_goes_before_what_comes_later(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        peer = Peer(len(M4) + 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.outbox.write, M4)
            await trio.testing.wait_all_tasks_blocked()
            assert peer.relay(0, 2, 10) == 2
            assert peer.stream.direct == len(M4) + 100
            peer.stream.grant(10**9)  # room again, but the writer still has the rest in hand
            assert peer.event(7)
            assert peer.stream.direct == len(M4) + 100
            await trio.testing.wait_all_tasks_blocked()
            assert peer.came() == peer.passed == [(b"frwd", 0), (b"frwd", 1), (b"list", 7)]
            assert peer.relay(8, 1, 10) == 1  # idle again
            assert peer.stream.direct > len(M4) + 100
            nursery.cancel_scope.cancel()


async def test_a_full_queue_refuses_what_is_relayed_and_keeps_places_for_events(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(10):
        peer = Peer(0)
        assert peer.relay(0, 100, 1) == 8
        assert peer.relay(100, 1, 1) == 0
        assert [peer.event(number) for number in range(4)] == [True, True, False, False]
        peer.stream.grant(10**9)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.outbox.write, M4)
            await trio.testing.wait_all_tasks_blocked()
            assert peer.came() == peer.passed
            nursery.cancel_scope.cancel()


async def test_the_queue_is_bounded_by_bytes_and_an_empty_one_takes_any_record(
    autojump_clock: trio.testing.MockClock,
) -> None:
    peer = Peer(0)
    assert peer.relay(0, 3, 100_000) == 1
    assert peer.relay(1, 1, 1) == 0
    peer = Peer(0)
    assert peer.relay(0, 3, 30_000) == 2
    assert peer.event(9)


async def test_a_peer_that_is_gone_swallows_and_harms_nobody(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        peer = Peer(10**9)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.outbox.write, M4)
            await trio.testing.wait_all_tasks_blocked()
            peer.stream.broken = True
            for number in range(30):
                peer.relay(number, 1, 1)
                peer.event(number)
            nursery.cancel_scope.cancel()


async def test_a_session_that_its_reader_has_ended_sends_no_more(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        peer = Peer(10**9)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.outbox.write, M4)
            await trio.testing.wait_all_tasks_blocked()
            peer.link.connection.receive_data(encode_frame(FrameType.RECORD, bytes(300)))
            with pytest.raises(RemoteProtocolError):
                peer.link.connection.next_record()
            peer.event(1)
            assert peer.stream.taken == M4
            nursery.cancel_scope.cancel()
