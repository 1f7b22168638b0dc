"""The mailbox of a running server, by clients that are driven by hand (protocol §6.2, §9, §16)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.clock import DAY_MS, wall_ms
from messageapp.errors import ConnectionCut
from messageapp.server.disk import DiskWatch
from messageapp.server.mailbox import MAX_PREKEY_DAYS, PREKEYS_LOW
from messageapp.store.mailbox import open_mailbox, users_kept
from messageapp.wire.commands import Block, BlockOp, ByeReason, ErrorCode, Errors, Raw, parse_untrusted
from messageapp.wire.mail_forms import (
    MAX_BLOB,
    MAX_PREKEYS,
    Acknowledgement,
    MailRequest,
    PeerPrekey,
    PrekeyRequest,
    PrekeyState,
    PrekeyUpload,
    Stored,
)
from messageapp.wire.records import Kind
from messageapp.wire.states import Role
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.prekeys import Prekey, PrekeyKind
from support.mail import (
    MemoryBlocks,
    acknowledge,
    ask,
    deliveries,
    prekey,
    prekeys,
    send,
    take,
    upload,
)
from support.world import RawPeer, World, hold_back, identity, open_world, some_limits

ALICE, BOB, OTHER = (bytes([number]) * 16 for number in (1, 2, 3))
IDS = count(1)
KEPT_S = 30 * 86_400


def limits(**changes: Any) -> Any:
    return some_limits(**{"commands_per_second": 1e6, "commands_burst": 10**6, **changes})


async def both(world: World, *, prepared: bool = True) -> tuple[RawPeer, RawPeer]:
    """Alice and bob, bob with prekeys: one and the last-resort one."""
    alice, bob = await world.raw("alice", device=ALICE), await world.raw("bob", device=BOB)
    if prepared:
        assert await upload(bob, prekeys("bob", 1)) == Raw()
    return alice, bob


def code(answer: Any) -> int:
    assert isinstance(answer, Errors), answer
    return answer.code


def rows(world: World, table: str) -> int:
    assert world.mail is not None
    (found,) = world.mail.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return int(found)


# prekeys --------------------------------------------------------------------------------------------------------------


async def test_prekeys_are_kept_and_counted() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            bob = await world.raw("bob", device=BOB)
            assert await upload(bob, b"") == PrekeyState(0, 0, receives=False, kept_s=KEPT_S)
            last = prekey("bob", 0, last=True, days=40)
            data = b"".join(each.encode() for each in (last, prekey("bob", 1), prekey("bob", 2)))
            for _ in range(2):  # the same again changes nothing
                assert await upload(bob, data) == Raw()
                assert await upload(bob, b"") == PrekeyState(2, last.expires_ms, receives=True, kept_s=KEPT_S)
            newer = prekey("bob", 9, last=True, days=50)
            assert await upload(bob, newer.encode()) == Raw()
            assert await upload(bob, b"") == PrekeyState(2, newer.expires_ms, receives=True, kept_s=KEPT_S)
            assert rows(world, "prekeys") == 3, "a last-resort prekey takes the place of the one before"


async def test_a_prekey_is_given_once_and_the_last_resort_one_again_and_again() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world, prepared=False)
            sent = [prekey("bob", 0, last=True), prekey("bob", 1), prekey("bob", 2)]
            assert await upload(bob, b"".join(each.encode() for each in sent)) == Raw()
            found = [await take(alice, "BOB") for _ in range(4)]
            assert all(each.user == "bob" and each.device == BOB and each.proof == b"" for each in found)
            assert all(each.bundle == identity("bob").bundle.encode() for each in found)
            given = [Prekey.parse_untrusted(each.prekey) for each in found]
            assert [each.id for each in given] == [1, 2, 0, 0]
            for each in given:
                each.verify_untrusted(identity("bob").bundle, "bob", wall_ms())
            events = [parse_untrusted(Role.SERVER, await bob.receive()) for _ in range(2)]
            assert [each.one_time for each in events] == [1, 0], "told while few are left"
            await bob.nothing_new()


async def test_their_owner_is_told_when_20_are_left() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world, prepared=False)
            assert await upload(bob, prekeys("bob", PREKEYS_LOW + 2)) == Raw()
            await take(alice, "bob")
            await bob.nothing_new()
            await take(alice, "bob")
            state = parse_untrusted(Role.SERVER, await bob.receive())
            assert isinstance(state, PrekeyState)
            assert (state.one_time, state.receives) == (PREKEYS_LOW, True)


async def test_nothing_is_given_where_there_is_nothing() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, _ = await both(world, prepared=False)
            assert await upload(alice, prekeys("alice", 1)) == Raw()
            answers = [await take(alice, name) for name in ("bob", "alice", "nobody")]
            assert {(answer.code, answer.text) for answer in answers} == {(ErrorCode.NOT_AVAILABLE, "not available")}
            assert rows(world, "prekeys") == 2


async def test_an_expired_prekey_is_not_given_and_goes() -> None:
    with trio.fail_after(20):
        clock = [wall_ms()]
        async with open_world(mail={"wall_ms": lambda: clock[0]}) as world:
            alice, bob = await both(world, prepared=False)
            await upload(bob, prekey("bob", 1, days=1).encode() + prekey("bob", 2, last=True, days=2).encode())
            clock[0] += DAY_MS + 1000
            assert Prekey.parse_untrusted((await take(alice, "bob")).prekey).id == 2
            clock[0] += DAY_MS
            assert code(await take(alice, "bob")) == ErrorCode.NOT_AVAILABLE
            assert (await upload(bob, b"")).last_resort_ms == 0
            assert rows(world, "prekeys") == 2
            mailbox = world.server.mailbox
            assert mailbox is not None
            await mailbox.tidying.purge()
            assert rows(world, "prekeys") == 0


def _changed() -> dict[str, bytes]:
    good = prekey("bob", 5)
    twice = good.encode()
    return {
        "of another user": prekey("alice", 5, who=identity("bob")).encode(),
        "of another key": prekey("bob", 5, who=identity("alice")).encode(),
        "the signature of another": twice[:-1] + bytes([twice[-1] ^ 1]),
        "expired": prekey("bob", 5, days=-1).encode(),
        "in 91 days": prekey("bob", 5, days=MAX_PREKEY_DAYS + 1).encode(),
        "of no kind": twice[:4] + b"\x03" + twice[5:],
        "of another suite": twice[:45] + b"\x00\x02" + twice[47:],
        "cut": twice[:-1],
        "garbage behind": twice + b"\0",
        "41 of them": twice * (MAX_PREKEYS + 1),
    }


@pytest.mark.parametrize("what", list(_changed()))
async def test_a_prekey_that_is_not_right_changes_nothing(what: str) -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            _, bob = await both(world)
            bad = _changed()[what]
            for data in (bad, prekey("bob", 4).encode() + bad):  # a good one with it does not help, nor is it taken
                assert code(await upload(bob, data)) == ErrorCode.MALFORMED
            assert (await upload(bob, b"")).one_time == 1


async def test_40_prekeys_fit_one_upload_and_41_are_refused() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            bob = await world.raw("bob", device=BOB)
            assert await upload(bob, prekeys("bob", MAX_PREKEYS, last=False)) == Raw()
            assert (await upload(bob, b"")).one_time == MAX_PREKEYS
            assert code(await upload(bob, prekeys("bob", MAX_PREKEYS))) == ErrorCode.MALFORMED, (
                "with the last-resort one"
            )


async def test_what_an_owner_allows_may_be_more_than_can_be_told() -> None:
    with trio.fail_after(20):
        async with open_world(limits(prekeys=100_000, mail_days=100_000), mail=True) as world:
            bob = await world.raw("bob", device=BOB)
            assert world.mail is not None
            await upload(bob, prekeys("bob", 1))
            row = world.mail.execute(
                "SELECT folded, device, kind, key_id, expires_ms FROM prekeys WHERE kind = 1"
            ).fetchone()
            world.mail.execute(
                "WITH RECURSIVE n(id) AS (VALUES (2) UNION ALL SELECT id + 1 FROM n WHERE id < 70000)"
                " INSERT INTO prekeys (id, folded, device, kind, key_id, expires_ms, prekey)"
                " SELECT id, ?, ?, ?, ?, ?, x'' FROM n",
                row,
            )
            state = await upload(bob, b"")
            assert (state.one_time, state.kept_s) == (0xFFFF, 0xFFFFFFFF)


async def test_a_prekey_in_90_days_is_taken() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            bob = await world.raw("bob", device=BOB)
            assert await upload(bob, prekey("bob", 1, days=MAX_PREKEY_DAYS).encode()) == Raw()


async def test_more_one_time_prekeys_than_the_limit_are_refused() -> None:
    with trio.fail_after(20):
        async with open_world(limits(prekeys=3), mail=True) as world:
            bob = await world.raw("bob", device=BOB)
            assert await upload(bob, prekeys("bob", 3)) == Raw()
            answer = await upload(bob, prekey("bob", 7).encode())
            assert (answer.code, answer.text) == (ErrorCode.STORAGE, "more than 3 one-time prekeys")
            assert await upload(bob, prekey("bob", 3).encode()) == Raw(), "in the place of the one of that number"
            assert (await upload(bob, b"")).one_time == 3


async def test_uploads_and_questions_are_bounded_at_thirty_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(100):
        async with open_world(limits(), mail=True) as world:
            alice, bob = await both(world)
            for _ in range(30):
                assert isinstance(await take(alice, "bob"), PeerPrekey)
                assert isinstance(await upload(alice, b""), PrekeyState)
            assert code(await take(alice, "bob")) == ErrorCode.RATE
            assert code(await upload(alice, b"")) == ErrorCode.RATE
            assert isinstance(await upload(bob, b""), PrekeyState), "each user on its own"
            await trio.sleep(2)
            assert isinstance(await take(alice, "bob"), PeerPrekey)


async def test_what_an_old_key_has_signed_is_not_given() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            new = PrivateIdentity.generate("ed25519")
            world.directory.users["bob"] = new.bundle
            assert code(await take(alice, "bob")) == ErrorCode.NOT_AVAILABLE
            assert code(await upload(bob, prekey("bob", 8).encode())) == ErrorCode.MALFORMED
            assert await upload(bob, prekey("bob", 9, who=new).encode()) == Raw()
            assert rows(world, "prekeys") == 1, "the others are gone with that"


async def test_a_key_that_changes_while_the_disk_is_busy_is_not_given_with_an_old_prekey() -> None:
    with trio.fail_after(20):
        gate = trio.Event()
        gate.set()

        async def slowly(call: Any) -> Any:
            await gate.wait()
            return call()

        async with open_world(mail={"run": slowly}) as world:
            alice, _ = await both(world)
            gate = trio.Event()
            await alice.send("bndl", PrekeyRequest("bob"), identifier=5)
            await trio.testing.wait_all_tasks_blocked()
            world.directory.users["bob"] = PrivateIdentity.generate("ed25519").bundle
            gate.set()
            answer = parse_untrusted(Role.SERVER, await alice.receive())
            assert code(answer) == ErrorCode.NOT_AVAILABLE


# messages -------------------------------------------------------------------------------------------------------------


async def test_a_message_waits_until_it_is_acknowledged() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            await bob.close()
            ids = [os.urandom(16) for _ in range(3)]
            for number, identifier in enumerate(ids, 1):
                assert await send(alice, "bOb", b"sealed %d" % number, identifier) == Stored(identifier, number)
            for _ in range(2):  # again, for nothing was acknowledged
                bob = await world.raw("bob", device=BOB)
                found = await deliveries(bob, 3)
                assert [(each.sender, each.seq, each.id, each.blob) for each in found] == [
                    ("alice", number, identifier, b"sealed %d" % number) for number, identifier in enumerate(ids, 1)
                ]
                await bob.close()
            bob = await world.raw("bob", device=BOB)
            await deliveries(bob, 3)
            assert await acknowledge(bob, 1, 3, 3, 77) == Raw(), "what is not there is no error"
            await bob.close()
            bob = await world.raw("bob", device=BOB)
            assert [each.seq for each in await deliveries(bob, 1)] == [2]
            await acknowledge(bob, 2)
            assert rows(world, "mail") == 0
            assert await send(alice, "bob", b"next") == Stored((await deliveries(bob, 1))[0].id, 4), "never one twice"


async def test_who_is_online_gets_it_at_once_and_on_the_receiving_device_alone() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            second = await world.raw("bob", device=OTHER)
            assert (await send(alice, "bob", b"sealed")).seq == 1
            assert [each.blob for each in await deliveries(bob, 1)] == [b"sealed"]
            await second.nothing_new()
            await acknowledge(second, 1)
            assert rows(world, "mail") == 1, "only who got it can acknowledge it"


async def test_what_was_not_delivered_in_this_session_cannot_be_acknowledged() -> None:
    with trio.fail_after(20):
        async with open_world(limits(mail_window=1), mail=True) as world:
            alice, bob = await both(world)
            for _ in range(2):
                await send(alice, "bob", b"sealed")
            assert await acknowledge(bob, 2) == Raw()
            assert rows(world, "mail") == 2
            await acknowledge(bob, 1)
            assert [each.seq for each in await deliveries(bob, 2)] == [1, 2]


async def test_before_the_first_prekeys_messages_wait_for_the_device_that_will_be() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world, prepared=False)
            assert (await send(alice, "bob", b"early")).seq == 1
            await bob.nothing_new()
            await upload(bob, prekeys("bob", 1))
            assert [each.blob for each in await deliveries(bob, 1)] == [b"early"]


async def test_the_same_again_is_stored_once() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            identifier = os.urandom(16)
            assert [(await send(alice, "bob", b"sealed", identifier)).seq for _ in range(3)] == [1, 1, 1]
            assert rows(world, "mail") == 1
            carol = await world.raw("carol")
            assert (await send(carol, "bob", b"another's", identifier)).seq == 2, "ids are each sender's own"
            assert [each.blob for each in await deliveries(bob, 2)] == [b"sealed", b"another's"]


async def test_nobody_writes_to_strangers_or_oneself() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, _ = await both(world)
            for name in ("nobody", "alice", "ALICE"):
                assert code(await send(alice, name, b"sealed")) == ErrorCode.NOT_AVAILABLE
            assert rows(world, "mail") == 0


async def test_another_device_takes_the_mailbox_over() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, old = await both(world)
            for number in range(2):
                await send(alice, "bob", b"sealed %d" % number)
            first, _ = await deliveries(old, 2)
            await acknowledge(old, first.seq)
            new = await world.raw("bob", device=OTHER)
            assert await upload(new, prekeys("bob", 3)) == Raw()
            moved = await old.receive()
            assert (moved.kind, moved.verb) == (Kind.EVENT, b"prek")
            assert parse_untrusted(Role.SERVER, moved) == PrekeyState(0, 0, receives=False, kept_s=KEPT_S)
            assert [each.blob for each in await deliveries(new, 1)] == [b"sealed 1"], "what waits moves with it"
            await acknowledge(old, 2)
            assert rows(world, "mail") == 1, "the one before has no say any more"
            assert (await send(alice, "bob", b"later")).seq == 3
            assert [each.seq for each in await deliveries(new, 1)] == [3]
            await old.nothing_new()
            assert (await upload(new, b"")).one_time == 3
            assert not (await upload(old, b"")).receives
            assert (await take(alice, "bob")).device == OTHER, "prekeys of the one before are gone"


async def test_nothing_is_kept_of_who_has_left() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            await bob.close()
            await alice.ask("exit")
            await trio.testing.wait_all_tasks_blocked()
            mailbox = world.server.mailbox
            assert mailbox is not None
            assert mailbox._deliveries._windows == {}


# how much, how fast ---------------------------------------------------------------------------------------------------


async def test_64_messages_are_under_way_and_more_come_as_they_are_acknowledged() -> None:
    with trio.fail_after(30):
        async with open_world(limits(), mail=True) as world:
            alice, bob = await both(world)
            for number in range(150):
                assert (await send(alice, "bob", b"%d" % number)).seq == number + 1
            found = await deliveries(bob, 64)
            await bob.nothing_new()
            while len(found) < 150:
                batch = [each.seq for each in found[-40:]]
                await bob.send("ackm", Acknowledgement(tuple(batch)), identifier=99)
                found += [parse_untrusted(Role.SERVER, each) for each in await _until_reply(bob, 99)]
                found += await deliveries(bob, min(len(batch), 150 - len(found)))
            assert [each.blob for each in found] == [b"%d" % number for number in range(150)]


async def _until_reply(peer: RawPeer, identifier: int) -> list[Any]:
    before = []
    while (record := await peer._next()).kind is not Kind.REPLY or record.id != identifier:
        before.append(record)
    return before


async def test_half_a_mebibyte_is_under_way_and_one_message_always() -> None:
    with trio.fail_after(20):
        async with open_world(limits(), mail=True) as world:
            alice, bob = await both(world)
            for _ in range(6):
                await send(alice, "bob", bytes(MAX_BLOB))
            found = await deliveries(bob, 4)
            await bob.nothing_new()
            await acknowledge(bob, *(each.seq for each in found))
            assert len(await deliveries(bob, 2)) == 2
        async with open_world(limits(mail_window_bytes=1), mail=True) as world:
            alice, bob = await both(world)
            for _ in range(2):
                await send(alice, "bob", b"sealed")
            for seq in (1, 2):
                assert [each.seq for each in await deliveries(bob, 1)] == [seq]
                await bob.nothing_new()
                await acknowledge(bob, seq)


async def test_mail_never_ends_a_client_whose_queue_is_full(autojump_clock: trio.testing.MockClock) -> None:
    """Of a chat, as it happens: the mail waits at the server, and comes when there is room."""
    with trio.fail_after(100):
        async with open_world(limits(queue_frames=8), mail=True) as world:
            alice = await world.raw("alice", device=ALICE)
            near, far = world.connect_both()
            bob = await world.raw("bob", device=BOB, stream=near)
            assert await upload(bob, prekeys("bob", 1)) == Raw()
            await world.raw_chat(alice, "alice", bob, "bob")
            gate = hold_back(far)
            for _ in range(12):
                await alice.send("frwd", Raw(b"\x01chat"))
            for number in range(30):
                assert (await send(alice, "bob", b"%d" % number)).seq == number + 1
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            got: list[bytes] = []
            while len(got) < 30:
                record = await bob.receive()
                assert record.verb in (b"frwd", b"mail")
                if record.verb == b"mail":
                    got.append(parse_untrusted(Role.SERVER, record).blob)
            assert got == [b"%d" % number for number in range(30)]


async def test_a_session_that_is_gone_never_gets_the_mailbox_back(autojump_clock: trio.testing.MockClock) -> None:
    """Its queue was full when it was cut, so it was to be tried again; and the next session has the same device."""
    with trio.fail_after(100):
        async with open_world(limits(queue_frames=8), mail=True) as world:
            alice = await world.raw("alice", device=ALICE)
            near, far = world.connect_both()
            bob = await world.raw("bob", device=BOB, stream=near)
            assert await upload(bob, prekeys("bob", 1)) == Raw()
            hold_back(far)
            for number in range(30):
                await send(alice, "bob", b"%d" % number)
            await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(near)
            await trio.testing.wait_all_tasks_blocked()
            bob = await world.raw("bob", device=BOB)
            found = await deliveries(bob, 30)
            await acknowledge(bob, *(each.seq for each in found))
            await trio.sleep(1)
            await send(alice, "bob", b"the next")
            (last,) = await deliveries(bob, 1)
            assert last.blob == b"the next"


async def test_a_full_mailbox_is_told_and_has_room_again() -> None:
    with trio.fail_after(20):
        async with open_world(limits(mail_messages=3), mail=True) as world:
            alice, bob = await both(world)
            carol = await world.raw("carol")
            for sender in (alice, carol, alice):
                await send(sender, "bob", b"sealed")
            for sender in (alice, carol):
                answer = await send(sender, "bob", b"sealed")
                assert (answer.code, answer.text) == (ErrorCode.STORAGE, "the mailbox of bob is full")
            await deliveries(bob, 3)
            await acknowledge(bob, 2)
            assert (await send(carol, "bob", b"sealed")).seq == 4
            assert code(await send(carol, "bob", b"sealed")) == ErrorCode.STORAGE


async def test_a_mailbox_is_bounded_in_bytes_too() -> None:
    with trio.fail_after(20):
        async with open_world(limits(mail_bytes=1000), mail=True) as world:
            alice, bob = await both(world)
            assert (await send(alice, "bob", bytes(600))).seq == 1
            assert code(await send(alice, "bob", bytes(401))) == ErrorCode.STORAGE
            assert (await send(alice, "bob", bytes(400))).seq == 2
            await deliveries(bob, 2)
            await acknowledge(bob, 1)
            assert (await send(alice, "bob", bytes(600))).seq == 3


async def test_on_a_disk_that_is_nearly_full_nothing_is_stored_and_all_else_goes_on() -> None:
    with trio.fail_after(20):
        full = [False]
        async with open_world(mail={"disk_full": lambda: full[0]}) as world:
            alice, _ = await both(world)
            await send(alice, "bob", b"before")
            full[0] = True
            assert code(await send(alice, "bob", b"sealed")) == ErrorCode.DISK_FULL
            second = await world.raw("bob", device=BOB)
            assert len(await deliveries(second, 1)) == 1
            assert await acknowledge(second, 1) == Raw()
            assert rows(world, "mail") == 0
            full[0] = False
            assert (await send(alice, "bob", b"sealed")).seq == 2


def test_the_disk_is_full_at_95_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, used = [5.0], [94]
    monkeypatch.setattr("messageapp.server.disk.time.monotonic", lambda: clock[0])
    usage = type("Usage", (), {"used": property(lambda _: used[0]), "free": property(lambda _: 100 - used[0])})
    monkeypatch.setattr("messageapp.server.disk.shutil.disk_usage", lambda _: usage())
    watch = DiskWatch(tmp_path, 95)
    assert not watch()
    used[0] = 95
    assert not watch(), "looked at once a second"
    clock[0] += 1
    assert watch()
    used[0] = 94
    clock[0] += 1
    assert not watch()


async def test_when_the_disk_is_too_slow_who_sends_is_told() -> None:
    """The queue of changes is bounded; what the server itself has to write is not refused."""
    with trio.fail_after(20):
        gate = trio.Event()

        async def slowly(call: Any) -> Any:
            await gate.wait()
            return call()

        async with open_world(limits(mail_queue=5), mail={"run": slowly}) as world:
            alice = await world.raw("alice", device=ALICE)
            await world.raw("bob", device=BOB)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(7):
                await alice.send("send", MailRequest("bob", os.urandom(16), b"sealed"), identifier=number)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            answers = [await alice.receive() for _ in range(7)]
            refused = [parse_untrusted(Role.SERVER, each) for each in answers if each.verb == b"erro"]
            assert [each.code for each in refused] == [ErrorCode.RATE] * len(refused)
            assert 2 <= len(refused) < 7
            assert rows(world, "mail") == 7 - len(refused)


async def test_acknowledging_takes_no_token_and_sending_does(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(100):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            for _ in range(100):
                assert await acknowledge(bob, 1) == Raw()
            answers = [await send(alice, "bob", b"sealed") for _ in range(70)]
            assert code(answers[-1]) == ErrorCode.RATE


# blocks ---------------------------------------------------------------------------------------------------------------


async def test_who_is_blocked_sees_no_difference() -> None:
    """The same answers in the same order as a sender at a receiver who is away; nothing of it is kept or delivered."""
    with trio.fail_after(30):
        answers: dict[str, list[Any]] = {}
        for name in ("free", "blocked"):
            blocks = MemoryBlocks()
            if name == "blocked":
                blocks.pairs.add(("bob", "alice"))
            async with open_world(limits(mail_messages=4), mail=True, blocks=blocks) as world:
                alice, bob = await both(world)
                await bob.close()
                heard: list[Any] = []
                for number in (1, 1, 2, 3, 4, 5, 2):
                    heard.append(await send(alice, "bob", b"sealed %d" % number, bytes([number]) * 16))
                assert code(heard[-2]) == ErrorCode.STORAGE, "full with his own"
                heard.append((await take(alice, "bob")).user)
                answers[name] = heard
                bob = await world.raw("bob", device=BOB)
                if name == "blocked":
                    await bob.nothing_new()
                    assert world.mail is not None
                    assert {blob for (blob,) in world.mail.execute("SELECT blob FROM mail")} == {b""}
                    assert world.mail.execute("SELECT messages, bytes FROM devices").fetchall() == [(0, 0)]
                else:
                    assert len(await deliveries(bob, 4)) == 4
        assert answers["free"] == answers["blocked"]


async def test_a_sender_who_is_blocked_takes_no_room_and_no_prekey() -> None:
    with trio.fail_after(20):
        blocks = MemoryBlocks()
        async with open_world(limits(mail_messages=2), mail=True, blocks=blocks) as world:
            alice, bob = await both(world)
            carol = await world.raw("carol")
            blocks.pairs.add(("bob", "alice"))
            for _ in range(2):
                assert Prekey.parse_untrusted((await take(alice, "bob")).prekey).kind is PrekeyKind.LAST_RESORT
                await send(alice, "bob", b"sealed")
            await bob.nothing_new()
            assert Prekey.parse_untrusted((await take(carol, "bob")).prekey).kind is PrekeyKind.ONE_TIME
            bob.events.clear()
            await bob.receive()  # few prekeys
            for _ in range(2):
                assert isinstance(await send(carol, "bob", b"sealed"), Stored)
            assert len(await deliveries(bob, 2)) == 2


async def test_a_block_takes_away_what_waits_and_an_end_of_it_brings_nothing_back() -> None:
    with trio.fail_after(20):
        blocks = MemoryBlocks()
        async with open_world(mail=True, blocks=blocks) as world:
            alice, bob = await both(world)
            carol = await world.raw("carol")
            identifier = os.urandom(16)
            await send(alice, "bob", b"before")
            await send(carol, "bob", b"another's")
            assert (await deliveries(bob, 2))[0].blob == b"before"
            await ask(bob, "blck", Block(BlockOp.BLOCK, "ALICE"))
            await bob.ask("list")
            assert rows(world, "mail") == 1
            await send(alice, "bob", b"during", identifier)
            await ask(bob, "blck", Block(BlockOp.UNBLOCK, "alice"))
            await bob.ask("list")
            assert rows(world, "mail") == 1, "that something came is forgotten"
            assert isinstance(await send(alice, "bob", b"during", identifier), Stored)
            assert [each.blob for each in await deliveries(bob, 1)] == [b"during"]


async def test_who_blocks_does_not_write() -> None:
    with trio.fail_after(20):
        blocks = MemoryBlocks()
        blocks.pairs.add(("alice", "bob"))
        async with open_world(mail=True, blocks=blocks) as world:
            alice, _ = await both(world)
            answer = await send(alice, "bob", b"sealed")
            assert (answer.code, answer.text) == (ErrorCode.NOT_NOW, "you block bob; unblock bob first")


# what goes by itself --------------------------------------------------------------------------------------------------


async def test_what_belongs_to_a_user_who_is_gone_goes(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1000):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            await upload(alice, prekeys("alice", 1))
            await bob.close()
            await send(alice, "bob", b"sealed")
            world.directory.remove("bob")
            await trio.sleep(15)
            assert world.mail is not None
            assert users_kept(world.mail) == ["alice"]
            assert [rows(world, table) for table in ("prekeys", "mail", "devices")] == [2, 0, 1]
            world.directory.enrol("alice", PrivateIdentity.generate("ed25519").bundle)  # another key
            await trio.sleep(15)
            assert [rows(world, table) for table in ("prekeys", "mail", "devices")] == [0, 0, 1]


async def test_who_has_the_name_next_gets_nothing_of_the_one_before() -> None:
    """Also at once, before anything is tidied."""
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            await bob.close()
            await send(alice, "bob", b"for the one before")
            world.directory.remove("bob")
            world.directory.enrol("bob", identity("bob").bundle)
            bob = await world.raw("bob", device=BOB)
            await bob.nothing_new()
            assert await upload(bob, b"") == PrekeyState(1, (await upload(bob, b"")).last_resort_ms, False, KEPT_S)
            assert await upload(bob, prekeys("bob", 2, last=False)) == Raw()
            await bob.nothing_new()
            assert [rows(world, table) for table in ("prekeys", "mail")] == [2, 0]


async def test_after_thirty_days_a_message_goes() -> None:
    with trio.fail_after(20):
        clock = [wall_ms()]
        async with open_world(mail={"wall_ms": lambda: clock[0]}) as world:
            alice, bob = await both(world)
            await bob.close()
            await send(alice, "bob", b"old")
            clock[0] += 30 * DAY_MS
            await send(alice, "bob", b"new")
            mailbox = world.server.mailbox
            assert mailbox is not None
            await mailbox.tidying.purge()
            assert rows(world, "mail") == 2
            clock[0] += 1
            await mailbox.tidying.purge()
            assert world.mail is not None
            assert world.mail.execute("SELECT blob FROM mail").fetchall() == [(b"new",)]
            assert world.mail.execute("SELECT messages, bytes FROM devices").fetchall() == [(1, 3)]


# what goes wrong ------------------------------------------------------------------------------------------------------


async def test_a_server_without_a_mailbox_knows_none_of_the_verbs() -> None:
    with trio.fail_after(20):
        async with open_world() as world:
            alice = await world.raw("alice")
            for verb, argument in (
                ("prek", PrekeyUpload()),
                ("bndl", PrekeyRequest("bob")),
                ("send", MailRequest("bob", bytes(16), b"sealed")),
                ("ackm", Acknowledgement((1,))),
            ):
                assert code(await ask(alice, verb, argument)) == ErrorCode.UNKNOWN_VERB
            assert b"send" not in (await alice.ask("help")).argument


async def test_where_nothing_can_be_written_each_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    with trio.fail_after(20), closing(open_mailbox(tmp_path / "mail.db")) as database:
        async with open_world(mail={"database": database}) as world:
            alice, bob = await both(world)
            await send(alice, "bob", b"before")
            await deliveries(bob, 1)
            with closing(sqlite3.connect(tmp_path / "mail.db", isolation_level=None)) as spoiler:
                spoiler.execute("CREATE TRIGGER full BEFORE INSERT ON mail BEGIN SELECT RAISE(FAIL, 'disk full'); END")
                answer = await send(alice, "bob", b"sealed")
                assert (answer.code, answer.text) == (
                    ErrorCode.STORAGE,
                    "the mailbox cannot be written; try again later",
                )
                assert await acknowledge(bob, 1) == Raw(), "what needs no room goes on"
                spoiler.execute("DROP TRIGGER full")
            assert (await send(alice, "bob", b"sealed")).seq == 2
            assert [each.seq for each in await deliveries(bob, 1)] == [2]


async def test_a_shutdown_first_says_what_is_stored() -> None:
    """Who waits for `ackd` when it begins gets it, and then the goodbye."""
    with trio.fail_after(20):
        gate = trio.Event()

        async def slowly(call: Any) -> Any:
            await gate.wait()
            return call()

        async with open_world(mail={"run": slowly}) as world:
            alice = await world.raw("alice", device=ALICE)
            await world.raw("bob", device=BOB)
            await alice.send("send", MailRequest("bob", bytes(16), b"sealed"), identifier=5)
            await trio.testing.wait_all_tasks_blocked()
            world.server.shutdown()
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            first, second = await alice.receive(), await alice.receive()
            assert (first.verb, first.id) == (b"ackd", 5)
            assert parse_untrusted(Role.SERVER, second).reason == ByeReason.SHUTDOWN
            assert rows(world, "mail") == 1
            await world.served.wait()


async def test_what_ends_while_it_is_written_is_stored_all_the_same() -> None:
    with trio.fail_after(20):
        async with open_world(mail=True) as world:
            alice, bob = await both(world)
            await alice.send("send", MailRequest("bob", bytes(16), b"sealed"))
            await alice.close()
            assert [each.blob for each in await deliveries(bob, 1)] == [b"sealed"]
            with suppress(ConnectionCut):
                await alice.receive()


async def test_what_is_looked_for_while_all_is_acknowledged_is_not_left_lying(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One commit has the acknowledgement and a look for more, which still counts with the room of before."""
    gate = trio.Event()
    gate.set()

    async def run(call: Callable[[], Any]) -> Any:
        await gate.wait()
        await trio.lowlevel.checkpoint()
        return call()

    with trio.fail_after(60):
        async with open_world(limits(), mail={"run": run}) as world:
            alice, bob = await both(world)
            for _ in range(4):
                await send(alice, "bob", bytes(125_000))
            found = await deliveries(bob, 4)
            await trio.testing.wait_all_tasks_blocked()
            gate = trio.Event()  # the disk takes its time
            await alice.send("send", MailRequest("bob", os.urandom(16), bytes(100_000)), identifier=900)
            await trio.testing.wait_all_tasks_blocked()
            await bob.send("ackm", Acknowledgement(tuple(each.seq for each in found)), identifier=901)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            assert (await bob.receive()).verb == b"okay"
            assert (await alice.receive()).verb == b"ackd"
            await deliveries(bob, 1)
