"""Strangers at the door: stalling, garbage, floods, and what a failed login tells (protocol §4, §7)."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from messageapp.errors import ConnectionCut
from messageapp.limits import Limits
from messageapp.link import Link
from messageapp.server.directory import DirectoryUnreadable
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.messages import M1, M3, Alert
from messageapp.wire.states import Role
from messageapp_keys.kem import CLASSIC, HYBRID, SWIFT
from support.world import SERVER_NAME, World, hold_back, identity, open_world, read_to_end, server_offer, some_limits

FORMAT, BUSY, NO_OFFER, SLOW = 1, 2, 3, 4


def alert(code: int, retry: int | None = None) -> bytes:
    return encode_frame(FrameType.ALERT, Alert(code, retry).encode())


async def half_login(world: World) -> tuple[Link, bytes]:
    """After M2; and the M3 that would be right."""
    link, login = Link(world.connect(), Role.CLIENT), world.login("alice")
    await link.send_frame(FrameType.M1, login.start())
    return link, login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC))


async def test_a_stall_at_every_byte_of_m1_ends_after_five_seconds(autojump_clock: trio.testing.MockClock) -> None:
    answers: dict[int, bytes] = {}
    with trio.fail_after(60):
        limits = some_limits(handshakes=1000, handshakes_crowded=1000)
        async with open_world(limits) as world, trio.open_nursery() as nursery:
            m1 = world.login("alice").start()

            async def stall(count: int) -> None:
                stream = world.connect()
                await stream.send_all(m1[:count])
                started = trio.current_time()
                answers[count] = await read_to_end(stream)
                assert trio.current_time() - started == pytest.approx(5)

            for count in range(len(m1)):
                nursery.start_soon(stall, count)
    assert answers == dict.fromkeys(range(len(m1)), alert(SLOW))


async def test_a_stall_at_every_byte_of_m3_ends_after_ten_seconds(autojump_clock: trio.testing.MockClock) -> None:
    answers: dict[int, bytes] = {}
    with trio.fail_after(60):
        async with open_world(some_limits(handshakes=10_000, handshakes_crowded=10_000)) as world:
            _, m3 = await half_login(world)
            async with trio.open_nursery() as nursery:

                async def stall(count: int) -> None:
                    link, started = Link(world.connect(), Role.CLIENT), trio.current_time()
                    await link.send_frame(FrameType.M1, world.login("alice").start())
                    await link.receive_frame()
                    await link.send(m3[:count])
                    answers[count] = await read_to_end(link.stream)  # type: ignore[arg-type]
                    assert trio.current_time() - started == pytest.approx(10)

                for count in range(len(m3)):
                    nursery.start_soon(stall, count)
    assert answers == dict.fromkeys(range(len(m3)), alert(SLOW))


async def test_one_byte_every_four_seconds_does_not_hold_a_place(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            stream, started = world.connect(), trio.current_time()
            async with trio.open_nursery() as nursery:

                async def drip() -> None:
                    for byte in world.login("alice").start():
                        await stream.send_all(bytes((byte,)))
                        await trio.sleep(4)

                nursery.start_soon(drip)
                assert await read_to_end(stream) == alert(SLOW)
                assert trio.current_time() - started <= 6
                nursery.cancel_scope.cancel()
            assert world.server.quota.under_way == 0


async def test_a_client_that_does_not_read_m2_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = world.connect_both()
            hold_back(far)
            await near.send_all(world.login("alice").start())
            started = trio.current_time()
            await read_to_end(near)
            assert trio.current_time() - started <= 12


GARBAGE = {
    "http": (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", SLOW),  # a length of 1.2 GB
    "tls": (bytes.fromhex("1603010200010001fc0303") + bytes(500), SLOW),
    "ssh": (b"SSH-2.0-OpenSSH_9.9\r\n", SLOW),
    "length 0": (bytes(5), SLOW),
    "length 4097": ((4097).to_bytes(4, "big") + b"\1", SLOW),
    "length 2^32-1": (b"\xff\xff\xff\xff", SLOW),
    "M2 first": (encode_frame(FrameType.M2, bytes(100)), FORMAT),
    "M3 first": (encode_frame(FrameType.M3, bytes(100)), FORMAT),
    "M4 first": (encode_frame(FrameType.M4, bytes(100)), FORMAT),
    "a record first": (encode_frame(FrameType.RECORD, bytes(300)), FORMAT),
    "an alert first": (encode_frame(FrameType.ALERT, b"\1"), FORMAT),
    "an unknown type": (b"\0\0\0\2\x77\0", FORMAT),
    "an empty M1": (encode_frame(FrameType.M1, b""), FORMAT),
    "an M1 of zeros": (encode_frame(FrameType.M1, bytes(4095)), FORMAT),
    "two bytes of a version 1": (encode_frame(FrameType.M1, b"\x25alice"), FORMAT),
}


@pytest.mark.parametrize("case", GARBAGE)
async def test_garbage_gets_one_alert_and_the_close(autojump_clock: trio.testing.MockClock, case: str) -> None:
    data, code = GARBAGE[case]
    with trio.fail_after(60):
        async with open_world() as world:
            stream = world.connect()
            await stream.send_all(data)
            assert await read_to_end(stream) == alert(code)
            assert (await world.raw("alice")).info.welcome.other_sessions == 0


def m1_body(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "random": bytes(32),
        "versions": (2,),
        "suites": (SWIFT.code,),
        "sigalgs": (0x0403,),
        "server": SERVER_NAME,
        "username": "alice",
    }
    return M1(**(fields | changes)).encode()  # type: ignore[arg-type]


BAD_M1 = {
    "no suite in common": (m1_body(suites=(0x0A0A, 0x7777)), NO_OFFER),
    "no version in common": (m1_body(versions=(1, 3)), NO_OFFER),
    "no signature algorithm in common": (m1_body(sigalgs=(0x0804,)), NO_OFFER),
    "a trailing byte": (m1_body() + b"\0", FORMAT),
    "a username of 17": (m1_body(username="a" * 17), FORMAT),
    "a username of 255": (m1_body(username="a" * 255), FORMAT),
    "a username with NUL": (m1_body(username="al\0ice"), FORMAT),
    "a username with a letter of another alphabet": (m1_body(username="älice"), FORMAT),
    "no username": (m1_body(username=""), FORMAT),
    "hidden user with a name": (m1_body(flags=1), FORMAT),
    "a short device": (m1_body(tlvs={1: b"short"}), FORMAT),
    "no suites": (m1_body(suites=()), FORMAT),
    "17 suites": (m1_body(suites=(SWIFT.code,) * 17), FORMAT),
}


@pytest.mark.parametrize("case", BAD_M1)
async def test_a_bad_m1_gets_one_alert(autojump_clock: trio.testing.MockClock, case: str) -> None:
    body, code = BAD_M1[case]
    with trio.fail_after(60):
        async with open_world() as world:
            stream = world.connect()
            await stream.send_all(encode_frame(FrameType.M1, body))
            assert await read_to_end(stream) == alert(code)
            assert world.keys.taken == 0, "a key leaves the pool only for a whole, valid M1"


async def test_a_good_m1_is_answered_by_m2(autojump_clock: trio.testing.MockClock) -> None:
    """The fields above are otherwise right."""
    with trio.fail_after(60):
        async with open_world() as world:
            link = Link(world.connect(), Role.CLIENT)
            await link.send_frame(FrameType.M1, encode_frame(FrameType.M1, m1_body()))
            assert (await link.receive_frame()).type is FrameType.M2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), after_m2=st.booleans())
def test_no_bytes_of_a_stranger_do_more_than_end_the_connection(data: bytes, after_m2: bool) -> None:
    async def main() -> None:
        with trio.fail_after(100):
            async with open_world() as world:
                link = Link(world.connect(), Role.CLIENT)
                if after_m2:
                    link, _ = await half_login(world)
                await link.send(data)
                answer = await read_to_end(link.stream)  # type: ignore[arg-type]
                assert answer in (alert(FORMAT), alert(SLOW))
                await world.raw("bob")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# what a failed login tells ----------------------------------------------------------------------------------------


async def failed_login(world: World, name: str, who: str, server: str = SERVER_NAME, flip: int | None = None) -> bytes:
    """What the server answers to M3, up to the close."""
    login = world.login(name)
    login._identity = identity(who)
    login._server = server
    link = Link(world.connect(), Role.CLIENT)
    await link.send_frame(FrameType.M1, login.start())
    m3 = bytearray(login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC)))
    if flip is not None:
        m3[flip] ^= 1
    await link.send_frame(FrameType.M3, bytes(m3))
    return await read_to_end(link.stream)  # type: ignore[arg-type]


async def test_all_failures_of_m3_look_alike(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            for name in ("alice", "Bob"):
                world.directory.enrol(name, identity(name).bundle)
            answers = {
                "unknown user": await failed_login(world, "nobody", "alice"),
                "wrong key": await failed_login(world, "alice", "mallory"),
                "another user's key": await failed_login(world, "alice", "Bob"),
                "another spelling": await failed_login(world, "bob", "Bob"),
                "broken encapsulation": await failed_login(world, "alice", "alice", flip=40),
                "broken seal": await failed_login(world, "alice", "alice", flip=-1),
            }
            assert answers == dict.fromkeys(answers, alert(FORMAT))
            assert list(world.server.router.sessions()) == []
            await world.raw("alice")


async def test_the_same_m3_does_not_work_twice(autojump_clock: trio.testing.MockClock) -> None:
    """Replayed on another connection, and on its own."""
    with trio.fail_after(60):
        async with open_world() as world:
            world.directory.enrol("alice", identity("alice").bundle)
            login, link = world.login("alice"), Link(world.connect(), Role.CLIENT)
            await link.send_frame(FrameType.M1, login.start())
            m3 = login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC))
            await link.send_frame(FrameType.M3, m3)
            assert (await link.receive_frame()).type is FrameType.M4
            other = Link(world.connect(), Role.CLIENT)
            await other.send_frame(FrameType.M1, login.start())
            await other.receive_frame()
            await other.send_frame(FrameType.M3, m3)
            assert await read_to_end(other.stream) == alert(FORMAT)  # type: ignore[arg-type]
            await link.send(m3)
            assert await read_to_end(link.stream) == b""  # type: ignore[arg-type]


async def test_the_server_says_nothing_before_a_whole_m1(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            stream = world.connect()
            await stream.send_all(world.login("alice").start()[:-1])
            with trio.move_on_after(4.9) as waiting:
                await stream.receive_some(1)
            assert waiting.cancelled_caught


# too many ---------------------------------------------------------------------------------------------------------


async def test_too_many_handshakes_of_one_address_are_closed_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(some_limits(handshakes_per_address=3)) as world:
            held = [world.connect() for _ in range(3)]
            await trio.testing.wait_all_tasks_blocked()
            started = trio.current_time()
            assert await read_to_end(world.connect()) == b""
            assert trio.current_time() == started
            await held[0].aclose()
            await trio.testing.wait_all_tasks_blocked()
            await world.raw("alice")


async def test_too_many_handshakes_in_all_are_closed_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(some_limits(handshakes=5)) as world:
            for _ in range(5):
                world.connect()
            await trio.testing.wait_all_tasks_blocked()
            assert await read_to_end(world.connect()) == b""
            await trio.sleep(7)  # they stall and are gone
            await world.raw("alice")


async def test_too_many_connections_a_second_are_closed_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        limits = some_limits(connections_per_second=5, connections_burst=20)
        async with open_world(limits) as world:
            for _ in range(20):
                await world.connect().aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert await read_to_end(world.connect()) == b""
            await trio.sleep(0.21)
            await world.raw("alice")


async def test_logged_in_sessions_do_not_count_as_handshakes(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(some_limits(handshakes_per_address=1)) as world:
            for name in ("alice", "bob", "carol"):
                await world.raw(name)
            assert world.server.quota.under_way == 0


async def test_a_full_server_is_busy(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(some_limits(sessions=2)) as world:
            alice, _ = await world.raw("alice"), await world.raw("bob")
            stream = world.connect()
            await stream.send_all(world.login("carol").start())
            assert await read_to_end(stream) == alert(BUSY, 5)
            await stream.aclose()
            await alice.close()
            await trio.testing.wait_all_tasks_blocked()
            await world.raw("carol")


def test_the_limits_of_the_protocol_are_the_defaults() -> None:
    limits = Limits()
    assert (limits.handshakes, limits.handshakes_per_address, limits.sessions) == (128, 8, 4096)
    assert (limits.m1_seconds, limits.handshake_seconds, limits.pool_wait_seconds) == (5, 10, 3)
    assert (limits.connections_per_second, limits.connections_burst, limits.sessions_per_user) == (5, 20, 5)
    assert (limits.queue_frames, limits.queue_bytes, limits.write_seconds) == (256, 1 << 20, 15)
    assert (limits.ping_seconds, limits.dead_seconds, limits.ring_seconds) == (60, 150, 60)


# many at once ------------------------------------------------------------------------------------------------------


async def test_a_storm_of_logins_is_served(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(600):
        limits = some_limits(handshakes=1000, handshakes_crowded=1000)
        async with open_world(limits) as world, trio.open_nursery() as nursery:
            names = [f"user{number}" for number in range(100)]
            for name in names:
                world.directory.enrol(name, identity("alice").bundle)

            async def log_in(name: str) -> None:
                login, link = world.login(name), Link(world.connect(), Role.CLIENT)
                login._identity = identity("alice")
                await link.send_frame(FrameType.M1, login.start())
                m2 = await link.receive_frame()
                await link.send_frame(FrameType.M3, login.receive_m2_untrusted(m2, datetime.now(UTC)))
                login.receive_m4_untrusted(await link.receive_frame())

            for name in names:
                nursery.start_soon(log_in, name)
            await trio.testing.wait_all_tasks_blocked()
            assert {session.user for session in world.server.router.sessions()} == set(names)


async def test_the_time_in_line_is_not_the_clients(autojump_clock: trio.testing.MockClock) -> None:
    """Twelve seconds pass while others compute, which is more than all it has; it may take six all the same."""
    with trio.fail_after(60):
        async with open_world() as world:
            crowd = [world.connect() for _ in range(5)]  # a few alone would not stand in line
            await trio.testing.wait_all_tasks_blocked()
            await world.server.turns.take()
            link, login = Link(world.connect(), Role.CLIENT), world.login("alice")
            world.directory.enrol("alice", identity("alice").bundle)
            await link.send_frame(FrameType.M1, login.start())
            await trio.sleep(12)
            crowd += [world.connect() for _ in range(5)]  # the first have given up
            await world.server.turns.give_back()
            m3 = login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC))
            await trio.sleep(6)
            await link.send_frame(FrameType.M3, m3)
            login.receive_m4_untrusted(await link.receive_frame())


async def test_a_client_does_not_get_more_time_than_it_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            crowd = [world.connect() for _ in range(5)]
            await trio.testing.wait_all_tasks_blocked()
            await world.server.turns.take()
            link, started = Link(world.connect(), Role.CLIENT), trio.current_time()
            await link.send_frame(FrameType.M1, world.login("alice").start())
            await trio.sleep(4)
            await world.server.turns.give_back()
            await link.receive_frame()
            assert await read_to_end(link.stream) == alert(SLOW)  # type: ignore[arg-type]
            assert trio.current_time() - started == pytest.approx(14)
            assert len(crowd) == 5


async def test_a_few_do_not_stand_in_line(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            await world.server.turns.take()
            started = trio.current_time()
            await world.raw("alice")
            assert trio.current_time() == started


# the pool ---------------------------------------------------------------------------------------------------------


async def test_an_empty_pool_moves_default_clients_to_swift_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            assert (await world.raw("alice", suites=(HYBRID, SWIFT))).info.suite is HYBRID
            world.keys.empty = True
            started = trio.current_time()
            assert (await world.raw("alice", suites=(HYBRID, SWIFT))).info.suite is SWIFT
            assert trio.current_time() == started


@pytest.mark.parametrize("suite", [CLASSIC, HYBRID], ids=lambda suite: suite.name)
async def test_a_client_that_insists_on_rsa_waits_three_seconds(
    autojump_clock: trio.testing.MockClock, suite: object
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            world.keys.empty = True
            stream, started = world.connect(), trio.current_time()
            await stream.send_all(world.login("alice", suites=(suite,)).start())  # type: ignore[arg-type]
            assert await read_to_end(stream) == alert(BUSY, 5)
            assert trio.current_time() - started == pytest.approx(3, abs=0.2)


async def test_a_client_that_insists_on_rsa_gets_a_key_that_comes_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, trio.open_nursery() as nursery:
            world.keys.empty = True

            async def refill() -> None:
                await trio.sleep(2)
                world.keys.empty = False

            nursery.start_soon(refill)
            assert (await world.raw("alice", suites=(CLASSIC,))).info.suite is CLASSIC
            assert trio.current_time() >= 2


async def test_classic_alone_is_refused_where_the_server_does_not_take_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world(suites=(HYBRID, SWIFT)) as world:
            stream = world.connect()
            await stream.send_all(world.login("alice", suites=(CLASSIC,)).start())
            assert await read_to_end(stream) == alert(NO_OFFER)


async def test_the_servers_best_suite_is_taken_whatever_the_order_of_the_offers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            assert (await world.raw("alice", suites=(CLASSIC, SWIFT, HYBRID))).info.suite is HYBRID
            assert (await world.raw("alice", suites=(CLASSIC, SWIFT))).info.suite is SWIFT


# the directory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", [0, 1])
async def test_an_unreadable_directory_is_busy_not_a_refusal(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    """Whether reading fails for M3 or a moment later; and the server lives on."""
    with trio.fail_after(60):
        async with open_world() as world:
            world.directory.enrol("alice", identity("alice").bundle)
            real, count = world.directory.find, [0]

            def unreadable(name: str) -> object:
                count[0] += 1
                if count[0] > reads:
                    raise DirectoryUnreadable
                return real(name)

            monkeypatch.setattr(world.directory, "find", unreadable)
            link, m3 = await half_login(world)
            await link.send_frame(FrameType.M3, m3)
            answer = await read_to_end(link.stream)  # type: ignore[arg-type]
            assert answer == alert(BUSY, 5)
            monkeypatch.setattr(world.directory, "find", real)
            await world.raw("alice")


async def test_a_user_removed_during_the_login_does_not_get_in(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            world.directory.enrol("alice", identity("alice").bundle)
            real, count = world.directory.find, [0]

            def once(name: str) -> object:
                count[0] += 1
                return real(name) if count[0] == 1 else None

            monkeypatch.setattr(world.directory, "find", once)
            link, m3 = await half_login(world)
            await link.send_frame(FrameType.M3, m3)
            await read_to_end(link.stream)  # type: ignore[arg-type]
            assert list(world.server.router.sessions()) == []


async def test_a_connection_cut_during_the_login_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            for count in (0, 1, 5, 60):
                stream = world.connect()
                await stream.send_all(world.login("alice").start()[:count])
                await stream.aclose()
            link, _ = await half_login(world)
            await link.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert world.server.quota.under_way == 0
            assert world.server.router.session_count == 0


async def test_a_login_for_another_server_name_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    """A name that the certificate does not have: the login was meant for someone else."""
    with trio.fail_after(60):
        async with open_world() as world:
            world.directory.enrol("alice", identity("alice").bundle)
            login = world.login("alice")
            body = M1.parse_untrusted(login.start()[5:])
            frame = encode_frame(
                FrameType.M1,
                M1(body.random, body.versions, body.suites, body.sigalgs, "other.example", "alice").encode(),
            )
            login._m1, link = frame, Link(world.connect(), Role.CLIENT)
            await link.send_frame(FrameType.M1, frame)
            m2 = await link.receive_frame()
            m3 = login.receive_m2_untrusted(m2, datetime.now(UTC))  # signs SERVER_NAME, not the name of M1
            await link.send_frame(FrameType.M3, m3)
            assert await read_to_end(link.stream) == alert(FORMAT)  # type: ignore[arg-type]
            assert "other.example" not in server_offer().names


async def test_an_m3_that_is_not_one(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            for body, code in (
                (b"", FORMAT),
                (os.urandom(64), FORMAT),
                (M3(b"", b"").encode(), FORMAT),
                (M3(bytes(1120), bytes(16)).encode(), FORMAT),
                (M3(bytes(1120), bytes(7000)).encode(), FORMAT),
                (bytes(8192), SLOW),
            ):
                link, _ = await half_login(world)
                await link.send(encode_frame(FrameType.M3, body))
                assert await read_to_end(link.stream) == alert(code)  # type: ignore[arg-type]


async def test_an_alert_of_a_client_is_out_of_turn(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            link, _ = await half_login(world)
            await link.send(alert(1))
            assert await read_to_end(link.stream) == alert(FORMAT)  # type: ignore[arg-type]
            with pytest.raises(ConnectionCut):
                await link.receive_frame()
