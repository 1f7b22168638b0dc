"""A logged-in session at the server: requests, limits, silence, age, goodbyes, and faults of others."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.errors import ConnectionCut
from messageapp.limits import Limits
from messageapp.link import Link
from messageapp.server.connection import Connection
from messageapp.server.outbox import Outbox
from messageapp.server.router import Router
from messageapp.server.session import Session
from messageapp.wire.commands import Bye, ByeReason, Call, Echo, Errors, Invite, Left, Raw, parse_untrusted
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from support.world import RawPeer, World, hold_back, identity, open_world, read_to_end, some_limits


def read(record: Record) -> Any:
    return parse_untrusted(Role.SERVER, record)


async def goodbye(peer: RawPeer) -> ByeReason:
    """The reason of the `byee` that comes next; then the stream ends."""
    record = await peer.receive()
    assert record.verb == b"byee", record
    with pytest.raises(ConnectionCut):
        await peer.receive()
    return ByeReason(read(record).reason)


async def cut(peer: RawPeer) -> None:
    """The server closes without a word."""
    with pytest.raises(ConnectionCut):
        raise AssertionError(await peer.receive())


# requests ---------------------------------------------------------------------------------------------------------


async def test_every_request_gets_one_reply_with_its_id(autojump_clock: trio.testing.MockClock) -> None:
    requests: dict[str, tuple[Any, bytes]] = {
        "list": (None, b"list"),
        "help": (Raw(b"x"), b"help"),
        "ping": (Echo(b"12345678"), b"pong"),
        "chat": (Call("nobody", bytes(16)), b"erro"),
        "acpt": (Call("nobody", bytes(16)), b"erro"),
        "refu": (Call("nobody", bytes(16)), b"erro"),
        "cach": (Invite(bytes(16)), b"erro"),
        "exch": (Raw(b"x"), b"erro"),
        "frwd": (Raw(b"\5..."), b"erro"),
        "what": (Raw(b"?"), b"erro"),
    }
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            for number, (verb, (argument, _)) in enumerate(requests.items(), 100):
                await alice.send(verb, argument, identifier=number)
            for number, (verb, (_, answer)) in enumerate(requests.items(), 100):
                record = await alice.receive()
                assert (record.kind, record.id, record.verb) == (Kind.REPLY, number, answer), verb
            await alice.nothing_new()


async def test_ping_is_echoed_and_list_contains_the_asker(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            assert (await alice.ask("ping", Echo(b"abcdefgh"))).argument == b"abcdefgh"
            await alice.ask("chat", Call("bob", bytes(16)))
            await world.raw("carol")
            entries = {entry.user: entry.state for entry in read(await bob.ask("list")).entries}
            assert entries == {"alice": 4, "bob": 1, "carol": 0}


async def test_unknown_verbs_are_refused_and_the_session_lives(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            for verb in ("prek", "send", "klog", "LIST", "\0\0\0\0"):
                assert read(await alice.ask(verb)).code == 2
            await alice.nothing_new()


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("chat", b""),
        ("chat", b"\3bob" + bytes(15)),
        ("chat", b"\3bob" + bytes(17)),
        ("chat", b"\x11" + b"a" * 17 + bytes(16)),
        ("chat", b"\0" + bytes(16)),
        ("chat", b"\3b\x1bb" + bytes(16)),
        ("acpt", b"\3bob"),
        ("refu", b"\xff" + bytes(100)),
        ("cach", bytes(15)),
        ("exch", b"y"),
        ("exit", b"now"),
        ("list", b"all"),
        ("ping", bytes(7)),
        ("ping", bytes(9)),
    ],
)
async def test_malformed_arguments_are_refused_and_the_session_lives(
    autojump_clock: trio.testing.MockClock, verb: str, argument: bytes
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            assert read(await alice.ask(verb, Raw(argument))).code == 1
            await alice.nothing_new()


@pytest.mark.parametrize(
    ("kind", "verb", "argument"),
    [
        (Kind.REPLY, "list", b"x"),
        (Kind.REPLY, "pong", b"short"),
        (Kind.REPLY, "what", b""),
        (Kind.EVENT, "frwd", b"\5"),
        (Kind.EVENT, "exch", b"\0"),
        (Kind.EVENT, "byee", b"\0"),
        (Kind.EVENT, "what", b""),
        (Kind.REQUEST, "byee", b"\0"),
        (Kind.REQUEST, "pubk", b""),
        (Kind.REQUEST, "reqt", b""),
        (Kind.REQUEST, "erro", b""),
        (Kind.REQUEST, "okay", b""),
        (Kind.REQUEST, "pong", bytes(8)),
        (Kind.REQUEST, "rkey", bytes(4)),
        (Kind.EVENT, "rkey", bytes(4)),  # the key that is in use already
        (Kind.EVENT, "rkey", b"\0\0\0\2"),  # skips one
        (Kind.EVENT, "rkey", b"\1"),
    ],
)
async def test_a_frame_that_a_client_may_not_send_ends_its_session_alone(
    autojump_clock: trio.testing.MockClock, kind: Kind, verb: str, argument: bytes
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            await alice.send(verb, Raw(argument), kind=kind)
            await cut(alice)
            assert [session.user for session in world.server.router.sessions()] == ["bob"]
            await bob.nothing_new()


@pytest.mark.parametrize("what", ["alert", "m1", "m4", "m3", "unknown", "long", "not sealed", "flipped", "replayed"])
async def test_after_m4_anything_but_the_next_record_ends_the_session_without_a_word(
    autojump_clock: trio.testing.MockClock, what: str
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            await world.raw_chat(alice, "alice", bob, "bob")
            now = trio.current_time()
            good = alice.link.connection.send_record(Record(Kind.REQUEST, 1, b"list", b"x"), now)
            data = {
                "alert": encode_frame(FrameType.ALERT, b"\1"),
                "m1": encode_frame(FrameType.M1, bytes(100)),
                "m3": encode_frame(FrameType.M3, bytes(100)),
                "m4": encode_frame(FrameType.M4, good[5:]),
                "unknown": b"\0\0\0\2\x20\0",
                "long": (131_073).to_bytes(4, "big") + b"\x10",
                "not sealed": encode_frame(FrameType.RECORD, bytes(288)),
                "flipped": good[:-1] + bytes((good[-1] ^ 1,)),
                "replayed": good + good,
            }[what]
            await alice.link.send(data)
            await cut(alice)
            assert read(await bob.receive()) == Left(disconnected=True)
            await bob.nothing_new()


# rates ------------------------------------------------------------------------------------------------------------


async def test_commands_are_bounded_at_twenty_a_second_with_a_burst_of_sixty(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            verbs = [(await alice.ask("list")).verb for _ in range(70)]
            assert verbs == [b"list"] * 60 + [b"erro"] * 10
            assert read(await alice.ask("help")).code == 4
            assert (await alice.ask("ping", Echo(bytes(8)))).verb == b"pong", "pings are free"
            await trio.sleep(1)
            verbs = [(await alice.ask("list")).verb for _ in range(30)]
            assert verbs == [b"list"] * 20 + [b"erro"] * 10


async def test_calls_are_bounded_at_six_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(200):
        async with open_world() as world:
            alice = await world.raw("alice")
            codes = [read(await alice.ask("chat", Call("nobody", bytes(16)))).code for _ in range(8)]
            assert codes == [10] * 6 + [4] * 2
            await trio.sleep(10.01)
            codes = [read(await alice.ask("chat", Call("nobody", bytes(16)))).code for _ in range(2)]
            assert codes == [10, 4]


async def test_less_than_one_call_a_minute_is_still_one_now_and_then(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(500):
        async with open_world(some_limits(chats_per_minute=0.5)) as world:
            alice = await world.raw("alice")
            codes = [read(await alice.ask("chat", Call("nobody", bytes(16)))).code for _ in range(2)]
            assert codes == [10, 4]
            for _ in range(3):
                await trio.sleep(40.1)
                await alice.nothing_new()
            assert read(await alice.ask("chat", Call("nobody", bytes(16)))).code == 10


async def test_what_only_ends_something_is_never_too_many(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob, carol = [await world.raw(name) for name in ("alice", "bob", "carol")]

            async def use_up(peer: RawPeer) -> None:
                while (await peer.ask("list")).verb == b"list":
                    pass
                assert read(await peer.ask("list")).code == 4

            await world.raw_chat(alice, "alice", bob, "bob")
            await use_up(alice)
            assert (await alice.ask("exch")).verb == b"okay"
            assert (await bob.receive()).verb == b"exch"
            invite = os.urandom(16)
            assert (await bob.ask("chat", Call("carol", invite))).verb == b"reqt"
            assert (await carol.receive()).verb == b"reqt"
            await use_up(bob)
            assert (await bob.ask("cach", Invite(invite))).verb == b"okay"
            assert (await carol.receive()).verb == b"cach"
            await trio.sleep(1)
            assert (await bob.ask("chat", Call("carol", invite))).verb == b"reqt"
            assert (await carol.receive()).verb == b"reqt"
            await use_up(carol)
            assert (await carol.ask("refu", Call("bob", invite))).verb == b"okay"
            await use_up(carol)
            assert (await carol.ask("exit")).verb == b"byee"


async def test_logging_in_again_makes_nobody_faster(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            bob, rung, listed = await world.raw("bob"), 0, 0
            for _ in range(5):
                mallory, eve = await world.raw("mallory"), await world.raw("eve")
                for _ in range(3):
                    invite = os.urandom(16)
                    if (await mallory.ask("chat", Call("bob", invite))).verb == b"reqt":
                        rung += 1
                        await mallory.ask("cach", Invite(invite))
                for _ in range(30):
                    listed += (await eve.ask("list")).verb == b"list"
                for peer in (mallory, eve):
                    await peer.close()
                await trio.testing.wait_all_tasks_blocked()
            assert (rung, listed) == (6, 60)
            assert {record.verb for record in [await bob.receive() for _ in range(12)]} == {b"reqt", b"cach"}
            await bob.nothing_new()


async def test_texts_in_a_chat_are_not_bounded_by_the_rate_of_commands(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            await world.raw_chat(alice, "alice", bob, "bob")
            for number in range(200):
                await alice.send("frwd", Raw(b"\5%d" % number))
                assert (await bob.receive()).argument == b"\5%d" % number
            await alice.nothing_new()


# goodbyes ---------------------------------------------------------------------------------------------------------


async def test_exit_is_answered_by_byee_and_the_close(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            answer = await alice.ask("exit")
            assert (answer.verb, read(answer)) == (b"byee", Bye(ByeReason.EXIT))
            await cut(alice)
            assert list(world.server.router.sessions()) == []


async def test_what_follows_exit_is_not_served(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            records = [
                Record(Kind.REQUEST, 7, b"exit", b"x"),
                Record(Kind.REQUEST, 8, b"chat", Call("bob", bytes(16)).encode()),
            ]
            await alice.link.send_records(records)
            assert (await alice.receive()).id == 7
            await cut(alice)
            await bob.nothing_new()


async def test_shutdown_says_goodbye_to_all_and_returns(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, trio.open_nursery() as nursery:
            peers = [await world.raw(name) for name in ("alice", "bob", "carol")]
            await world.raw_chat(peers[0], "alice", peers[1], "bob")
            started = trio.current_time()
            world.server.shutdown()

            async def listen(peer: RawPeer) -> None:
                assert await goodbye(peer) is ByeReason.SHUTDOWN  # and nothing about the others leaving
                await peer.close()

            for peer in peers:
                nursery.start_soon(listen, peer)
            await world.served.wait()
            assert trio.current_time() - started < 1


async def test_shutdown_delivers_what_is_queued_before_the_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = world.connect_both()
            bob = await world.raw("bob", stream=near)
            alice = await world.raw("alice")
            await world.raw_chat(alice, "alice", bob, "bob")
            gate = hold_back(far)
            for number in range(50):
                await alice.send("frwd", Raw(bytes((5, number))))
            await trio.testing.wait_all_tasks_blocked()
            world.server.shutdown()
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            for number in range(50):
                assert (await bob.receive()).argument == bytes((5, number))
            assert await goodbye(bob) is ByeReason.SHUTDOWN


async def test_shutdown_ends_within_the_drain_time_whatever_clients_do(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = world.connect_both()
            await world.raw("alice", stream=near)  # never closes, never reads
            hold_back(far)
            await world.raw("bob")  # reads nothing
            world.connect()  # and a handshake under way
            await trio.testing.wait_all_tasks_blocked()
            started = trio.current_time()
            world.server.shutdown()
            await world.served.wait()
            assert trio.current_time() - started <= world.server.limits.drain_seconds


async def test_shutdown_accepts_nobody_any_more(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            world.server.shutdown()
            await world.served.wait()
            with pytest.raises(trio.BrokenResourceError):
                world.connect()


async def test_the_same_device_replaces_its_session_and_the_chat_peer_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            old, bob = await world.raw("alice", device=b"D" * 16), await world.raw("bob")
            await world.raw_chat(old, "alice", bob, "bob")
            new = await world.raw("alice", device=b"D" * 16)
            assert new.info.welcome.other_sessions == 0
            assert await goodbye(old) is ByeReason.REPLACED
            assert read(await bob.receive()) == Left(disconnected=True)
            await new.nothing_new()
            await world.raw_chat(bob, "bob", new, "alice")


async def test_a_half_open_connection_never_locks_a_user_out(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = world.connect_both()
            await world.raw("alice", stream=near, device=b"D" * 16)
            hold_back(far)
            new = await world.raw("alice", device=b"D" * 16)
            await new.nothing_new()
            assert len(list(world.server.router.sessions())) == 1


async def test_the_sixth_device_replaces_the_oldest(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            devices = [await world.raw("alice") for _ in range(5)]
            assert [device.info.welcome.other_sessions for device in devices] == [0, 1, 2, 3, 4]
            sixth = await world.raw("alice")
            assert sixth.info.welcome.other_sessions == 4
            assert await goodbye(devices[0]) is ByeReason.REPLACED
            for device in (*devices[1:], sixth):
                await device.nothing_new()


async def test_a_call_rings_on_all_devices_and_the_others_stop(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bobs = await world.raw("alice"), [await world.raw("bob") for _ in range(3)]
            await alice.ask("chat", Call("bob", b"I" * 16))
            for bob in bobs:
                assert read(await bob.receive()) == Call("alice", b"I" * 16)
            assert (await bobs[1].ask("acpt", Call("alice", b"I" * 16))).verb == b"pubk"
            for bob in (bobs[0], bobs[2]):
                record = await bob.receive()
                assert (record.verb, read(record)) == (b"cach", Invite(b"I" * 16))
                assert read(await bob.ask("acpt", Call("alice", b"I" * 16))).code == 3
            assert (await alice.receive()).verb == b"pubk"
            await alice.send("frwd", Raw(b"\1for the device that accepted"))
            assert (await bobs[1].receive()).argument == b"\1for the device that accepted"
            for bob in (bobs[0], bobs[2]):
                assert read(await bob.ask("frwd", Raw(b"\5from another device"))).code == 3
                await bob.nothing_new()
            await alice.nothing_new()


# silence and age --------------------------------------------------------------------------------------------------


async def test_a_ping_after_a_minute_of_silence_and_the_end_after_150_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(1000):
        async with open_world() as world:
            alice, started = await world.raw("alice"), trio.current_time()
            for minute in (60, 120):
                ping = await alice.receive()
                assert (ping.kind, ping.verb, len(ping.argument)) == (Kind.REQUEST, b"ping", 8)
                assert trio.current_time() - started == pytest.approx(minute)
            await cut(alice)
            assert trio.current_time() - started == pytest.approx(150)
            assert list(world.server.router.sessions()) == []


async def test_an_answered_ping_keeps_the_session(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10_000):
        async with open_world() as world:
            alice, started = await world.raw("alice"), trio.current_time()
            for minute in range(1, 21):
                ping = await alice.receive()
                assert trio.current_time() - started == pytest.approx(60 * minute)
                await alice.send("pong", Raw(ping.argument), kind=Kind.REPLY, identifier=ping.id)
            await alice.nothing_new()


async def test_bytes_that_never_make_a_record_are_silence(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1000):
        async with open_world() as world, trio.open_nursery() as nursery:
            alice, started = await world.raw("alice"), trio.current_time()

            async def drip() -> None:
                await alice.link.send(b"\0\1\0\0\x10")
                while True:
                    await trio.sleep(20)
                    await alice.link.send(b"\0")

            nursery.start_soon(drip)
            for _ in range(2):
                assert (await alice.receive()).verb == b"ping"
            await cut(alice)
            assert trio.current_time() - started == pytest.approx(150)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("silent_before", [False, True])
async def test_a_session_ends_at_its_age(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, silent_before: bool
) -> None:
    """Exactly then, also where a ping is due at the same moment, and without spinning until the peer has closed."""
    assert Limits().session_seconds == 24 * 3600
    ends: list[ByeReason] = []
    real = Session.end

    def end(self: Session, reason: ByeReason, reply_to: int | None = None) -> None:
        ends.append(reason)
        real(self, reason, reply_to)

    monkeypatch.setattr(Session, "end", end)
    with trio.fail_after(5000):
        async with open_world(some_limits(session_seconds=120 if silent_before else 3600)) as world:
            alice, started = await world.raw("alice"), trio.current_time()
            while (record := await alice.receive()).verb == b"ping":
                if not silent_before:
                    await alice.send("pong", Raw(record.argument), kind=Kind.REPLY, identifier=record.id)
            assert (record.verb, read(record)) == (b"byee", Bye(ByeReason.AGE))
            assert trio.current_time() - started == pytest.approx(world.server.limits.session_seconds)
            await cut(alice)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert ends == [ByeReason.AGE]


async def test_age_is_noticed_in_a_busy_session_too(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1000):
        async with open_world(some_limits(session_seconds=100)) as world:
            alice, started = await world.raw("alice"), trio.current_time()
            for _ in range(19):
                await trio.sleep(5)
                await alice.nothing_new()
            assert await goodbye(alice) is ByeReason.AGE
            assert trio.current_time() - started == pytest.approx(100)


# slow readers -----------------------------------------------------------------------------------------------------


async def stuck(world: World, name: str) -> tuple[RawPeer, Any]:
    """A peer whose connection takes nothing from now on; and the server's end of it."""
    near, far = world.connect_both()
    peer = await world.raw(name, stream=near)
    return peer, far


async def test_a_full_queue_is_told_to_the_sender_and_only_the_sender(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            bob, far = await stuck(world, "bob")
            alice, carol, dave = [await world.raw(name) for name in ("alice", "carol", "dave")]
            await world.raw_chat(alice, "alice", bob, "bob")
            await world.raw_chat(carol, "carol", dave, "dave")
            gate = hold_back(far)
            await alice.send("frwd", Raw(b"\5first"))  # the writer takes it and is stuck
            await trio.testing.wait_all_tasks_blocked()
            await alice.link.send_records([Record(Kind.REQUEST, n, b"frwd", b"\5") for n in range(300)])
            refused = [await alice.receive() for _ in range(44)]
            assert [record.id for record in refused] == list(range(256, 300))
            assert {read(record).code for record in refused} == {12}
            await alice.nothing_new()
            await carol.send("frwd", Raw(b"\5not affected"))
            assert (await dave.receive()).argument == b"\5not affected"
            gate.set()
            assert [len((await bob.receive()).argument) for _ in range(257)] == [6] + [1] * 256
            await bob.nothing_new()
            await alice.send("frwd", Raw(b"\5again"))
            assert (await bob.receive()).argument == b"\5again"


async def test_a_queue_is_bounded_in_bytes_too(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            bob, far = await stuck(world, "bob")
            alice = await world.raw("alice")
            await world.raw_chat(alice, "alice", bob, "bob")
            hold_back(far)
            await alice.send("frwd", Raw(b"\5first"))
            await trio.testing.wait_all_tasks_blocked()
            for number in range(12):
                await alice.send("frwd", Raw(bytes(100_000)), identifier=number + 1)
            refused = [await alice.receive() for _ in range(2)]
            assert [record.id for record in refused] == [11, 12]
            assert 10 <= world.server.limits.queue_bytes / 100_352 < 11  # so long is one with its padding
            await alice.nothing_new()


async def test_any_other_overflow_is_a_goodbye_to_the_slow_session(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(some_limits(queue_frames=10)) as world:
            bob, far = await stuck(world, "bob")
            alice = await world.raw("alice")
            await world.raw_chat(alice, "alice", bob, "bob")
            gate = hold_back(far)
            await bob.send("list")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(10 + 10 // 4 + 1):  # a quarter is kept for replies and events
                await bob.send("list")
            assert read(await alice.receive()) == Left(disconnected=True)
            await alice.nothing_new()
            gate.set()
            for _ in range(1 + 10 + 10 // 4):
                assert (await bob.receive()).verb == b"list"
            assert await goodbye(bob) is ByeReason.SLOW


async def test_a_peer_cannot_fill_the_places_kept_for_replies(autojump_clock: trio.testing.MockClock) -> None:
    """A flood of texts while bob's line is slow for a moment: bob's own request is still answered."""
    with trio.fail_after(60):
        async with open_world() as world:
            bob, far = await stuck(world, "bob")
            mallory = await world.raw("mallory")
            await world.raw_chat(mallory, "mallory", bob, "bob")
            gate = hold_back(far)
            await mallory.send("frwd", Raw(b"\5first"))
            await trio.testing.wait_all_tasks_blocked()
            await mallory.link.send_records([Record(Kind.REQUEST, n, b"frwd", b"\5x") for n in range(300)])
            await trio.testing.wait_all_tasks_blocked()
            await bob.send("list", identifier=77)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            verbs = [(await bob.receive()).verb for _ in range(257)]
            assert verbs == [b"frwd"] * 257
            answer = await bob.receive()
            assert (answer.kind, answer.id, answer.verb) == (Kind.REPLY, 77, b"list")
            await bob.nothing_new()


async def test_the_key_comes_before_what_follows_from_the_peers_end(autojump_clock: trio.testing.MockClock) -> None:
    """Telling alice of the acceptance ends her session, whose queue is full; bob hears that after the key."""
    with trio.fail_after(60):
        async with open_world(some_limits(queue_frames=10)) as world:
            alice, far = await stuck(world, "alice")
            bob, invite = await world.raw("bob"), os.urandom(16)
            assert (await alice.ask("chat", Call("bob", invite))).verb == b"reqt"
            assert (await bob.receive()).verb == b"reqt"
            hold_back(far)
            await alice.send("ping", Echo(bytes(8)))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(10 + 10 // 4):
                await alice.send("ping", Echo(bytes(8)))
            await trio.testing.wait_all_tasks_blocked()
            await bob.send("acpt", Call("alice", invite), identifier=5)
            key, end = await bob.receive(), await bob.receive()
            assert (key.kind, key.id, key.verb) == (Kind.REPLY, 5, b"pubk")
            assert (end.kind, end.verb) == (Kind.EVENT, b"exch")
            await bob.nothing_new()


async def test_a_peer_that_reads_nothing_for_fifteen_seconds_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            bob, far = await stuck(world, "bob")
            alice = await world.raw("alice")
            await world.raw_chat(alice, "alice", bob, "bob")
            hold_back(far)
            started = trio.current_time()
            await alice.send("frwd", Raw(b"\5"))
            assert read(await alice.receive()) == Left(disconnected=True)
            assert trio.current_time() - started == pytest.approx(15)


# the directory changes --------------------------------------------------------------------------------------------


async def test_a_removed_user_is_ended_within_a_second(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            devices = [await world.raw("alice") for _ in range(2)]
            bob, started = await world.raw("bob"), trio.current_time()
            await world.raw_chat(bob, "bob", devices[0], "alice")
            devices[1].events.append(await devices[1].receive())
            world.directory.remove("alice")
            assert await goodbye(devices[0]) is ByeReason.REMOVED
            assert trio.current_time() - started <= 1
            assert read(await bob.receive()) == Left(disconnected=True)
            await bob.nothing_new()
            assert [session.user for session in world.server.router.sessions()] == ["bob"]


async def test_sessions_with_a_former_key_are_ended(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            world.directory.enrol("alice", identity("alice's new key").bundle)
            assert await goodbye(alice) is ByeReason.REMOVED
            await bob.nothing_new()


async def test_sessions_with_a_former_key_are_ended_also_when_the_new_key_is_quicker(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The user logs in with the new key before the server looks for changes: the thief goes all the same."""
    with trio.fail_after(60):
        async with open_world() as world:
            thief = await world.raw("alice")
            world.directory.enrol("alice", identity("alice's new key").bundle)
            new_key = world.account("alice", identity=identity("alice's new key"), device="new")
            async with world.client("alice", identity=new_key.identity, device="new") as alice:
                assert await goodbye(thief) is ByeReason.REMOVED
                await trio.sleep(2)
                assert [entry.user for entry in (await alice.list_users()).entries] == ["alice"]
                assert len(list(world.server.router.sessions())) == 1


async def test_who_logged_in_with_a_key_that_was_replaced_meanwhile_is_not_present(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Between M3 and the session: whoever proved the old key must not stand there under the new one."""
    with trio.fail_after(60):
        async with open_world() as world:
            world.directory.enrol("alice", identity("alice").bundle)
            router = world.server.router
            link = Link(trio.testing.memory_stream_pair()[0], Role.SERVER)
            session = Session(1, "alice", bytes(16), Outbox(link, world.server.limits))
            assert router.join(session, identity("alice's former key").key_id) is None
            assert router.session_count == 0
            assert router.join(session, identity("alice").key_id) == 0
            assert router.session_count == 1
            router.leave(session)


async def test_other_changes_of_the_directory_end_nobody(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            world.directory.enrol("bob", identity("bob").bundle)
            await trio.sleep(2)
            await alice.nothing_new()


# faults and logs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyError, AssertionError, RuntimeError, OSError])
async def test_a_fault_inside_one_connection_leaves_the_others_working(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    real = Router._obey

    def obey(self: Router, session: Any, record: Record) -> None:
        if record.verb == b"help":
            raise error(f"the secret words of {session.user}")
        real(self, session, record)

    monkeypatch.setattr(Router, "_obey", obey)
    caplog.set_level(logging.DEBUG)
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob, carol = [await world.raw(name) for name in ("alice", "bob", "carol")]
            await world.raw_chat(alice, "alice", bob, "bob")
            await alice.send("help")
            await cut(alice)
            assert read(await bob.receive()) == Left(disconnected=True)
            for peer in (bob, carol, await world.raw("alice")):
                await peer.nothing_new()
    errors = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert [error.__name__ in entry.getMessage() for entry in errors] == [True]
    assert "secret" not in caplog.text
    assert errors[0].exc_info is None


async def test_a_good_record_before_a_damaged_one_is_no_fault_of_ours(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The reply to the good one may be on its way to the writer then. Tasks run in any order, so: several times."""
    caplog.set_level(logging.INFO)
    with trio.fail_after(60):
        async with open_world() as world:
            for _ in range(20):
                alice = await world.raw("alice")
                connection, now = alice.link.connection, trio.current_time()
                good = connection.send_record(Record(Kind.REQUEST, 7, b"list", b""), now)
                bad = connection.send_record(Record(Kind.REQUEST, 8, b"list", b""), now)
                await alice.link.send(good + bad[:-1] + bytes((bad[-1] ^ 1,)))
                await read_to_end(alice.link.stream)  # type: ignore[arg-type]
            await (await world.raw("bob")).nothing_new()
    assert "broke the protocol" in caplog.text
    assert [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.ERROR] == []


async def test_a_fault_during_the_login_leaves_the_others_working(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            bob = await world.raw("bob")

            def broken(name: str) -> object:
                raise ValueError(f"no such row: {name}")

            real = world.directory.find
            monkeypatch.setattr(world.directory, "find", broken)
            with pytest.RaisesGroup(ConnectionCut, flatten_subgroups=True, allow_unwrapped=True):
                await world.raw("alice")
            monkeypatch.setattr(world.directory, "find", real)
            await bob.nothing_new()
            await world.raw("alice")
            assert world.server.quota.under_way == 0
    assert "ValueError" in caplog.text
    assert "no such row" not in caplog.text


async def test_logs_name_nobody_and_show_nothing_of_what_is_said(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with trio.fail_after(1000):
        async with open_world() as world:
            async with world.chat("Alice-Jones", "Robert") as (alice, bob):
                await alice.say("the words that nobody sees")
                await bob.say("nor these")
                await alice.leave()
            stranger = world.connect()
            await stranger.send_all(encode_frame(FrameType.M1, b"MSGAPP evil\x1b[2Jwords"))
            await read_to_end(stranger)
            carol = await world.raw("Carol")
            await carol.ask("ev\x1b\n")
            await carol.ask("chat", Raw(b"\x05evil\n" + bytes(16)))
            await carol.send("list", kind=Kind.REPLY)
            await cut(carol)
            other = world.login("Robert")
            other._identity = identity("mallory")
            await trio.sleep(2)
    text = caplog.text.lower()
    assert "logged in" in text
    assert "frwd" in text
    for forbidden in ("alice", "robert", "carol", "words", "these", "memory", "evil", "\x1b", "jones"):
        assert forbidden not in text
    assert all("\n" not in entry.getMessage() for entry in caplog.records)


async def test_an_unknown_user_is_not_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with trio.fail_after(60):
        async with open_world() as world:
            world.directory.users.pop("nobody", None)
            real = world.directory.enrol
            world.directory.enrol = lambda name, bundle: None  # type: ignore[method-assign]
            with pytest.raises(Exception, match=r"."):
                await world.raw("nobody")
            world.directory.enrol = real  # type: ignore[method-assign]
    assert "no login" in caplog.text
    assert "nobody" not in caplog.text


# keys -------------------------------------------------------------------------------------------------------------


async def test_keys_are_updated_both_ways_in_a_running_session(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messageapp.wire.records.UPDATE_AFTER_RECORDS", 5)
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            await world.raw_chat(alice, "alice", bob, "bob")
            for number in range(100):
                await alice.send("frwd", Raw(b"\5to bob %d" % number))
                await bob.send("frwd", Raw(b"\5to alice %d" % number))
                assert (await bob.receive()).argument == b"\5to bob %d" % number
                assert (await alice.receive()).argument == b"\5to alice %d" % number
            for peer in (alice, bob):
                for direction in (peer.info.sealer, peer.info.opener):
                    assert direction.generation >= 15
                    assert direction.records_under_key <= 5


async def test_keys_are_updated_by_time(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10_000):
        async with open_world() as world, world.client("alice") as alice:
            await trio.sleep(3700)  # the client's own requests go on meanwhile
            await alice.list_users()
            assert alice.info.sealer.generation == 1
            assert alice.info.opener.generation == 1


async def test_many_records_in_one_write_and_one_record_in_many(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            now, connection = trio.current_time(), alice.link.connection
            data = b"".join(
                connection.send_record(Record(Kind.REQUEST, n, b"ping", os.urandom(8)), now) for n in range(200)
            )
            await alice.link.send(data)
            assert [(await alice.receive()).id for _ in range(200)] == list(range(200))
            for byte in connection.send_record(Record(Kind.REQUEST, 999, b"list", b"x"), now):
                await alice.link.send(bytes((byte,)))
            assert (await alice.receive()).id == 999


async def test_an_error_text_is_one_that_the_client_can_show(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            for verb in ("what", "exch", "chat"):
                answer = read(await alice.ask(verb))
                assert isinstance(answer, Errors)
                assert answer.text.isprintable()
                assert answer.text


async def test_who_has_been_told_goodbye_and_does_not_read_is_left_in_peace(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ping falls due while the goodbye waits: nothing is to be done then, and nothing is done again and again."""
    looked = 0
    real = Connection._due

    def due(self: Connection, session: Session) -> float | None:
        nonlocal looked
        looked += 1
        return real(self, session)

    monkeypatch.setattr(Connection, "_due", due)
    with trio.fail_after(300):
        async with open_world() as world:
            near, far = world.connect_both()
            alice = await world.raw("alice", stream=near)
            await trio.sleep(50)
            hold_back(far)
            next(iter(world.server.router.sessions())).end(ByeReason.REMOVED)
            looked = 0
            await trio.sleep(30)
            assert looked <= 3
            await alice.close()
