"""Blocks at the running server, by hand and by real clients at their prompts (protocol §6.2)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from messageapp.client import events as ev
from messageapp.client.client import State
from messageapp.errors import RequestRefused, UnusableSetup
from messageapp.server.blocks import Blocks
from messageapp.store.blocks import MAX_BLOCKS, blocked_by
from messageapp.store.database import open_database
from messageapp.store.users import add_user
from messageapp.wire.commands import Block, BlockOp, Call, ErrorCode, parse_untrusted
from messageapp.wire.records import Record
from messageapp.wire.states import Role
from support.fake_console import open_stage, settled
from support.world import MemoryDirectory, RawPeer, World, expect, open_world, settle, some_limits

T = TypeVar("T")


class Site:
    def __init__(self, path: Path) -> None:
        self.database = open_database(path, "server")
        self.broken = False
        self.blocks = Blocks(self.database, self.write, lambda: 5)

    async def write(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """At once: the clock stands still."""
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise UnusableSetup("disk full")
        return act(self.database)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whoever logs in is enrolled in the file too."""
    made = Site(tmp_path / "directory.db")
    real = MemoryDirectory.enrol

    def enrol(self: MemoryDirectory, name: str, bundle: Any) -> None:
        add_user(made.database, name, bundle, 1)
        real(self, name, bundle)

    monkeypatch.setattr(MemoryDirectory, "enrol", enrol)
    with closing(made.database):
        yield made


@asynccontextmanager
async def serving(site: Site, **limits: Any) -> AsyncIterator[World]:
    async with open_world(some_limits(chats_per_minute=1000, **limits), blocks=site.blocks) as world:
        yield world


def read(record: Record) -> Any:
    return parse_untrusted(Role.SERVER, record)


async def blck(peer: RawPeer, op: BlockOp, user: str = "") -> Any:
    """The text of the answer: the code of a refusal, the list, or nothing."""
    record = await peer.ask("blck", Block(op, user))
    answer = read(record)
    return answer.code if record.verb == b"erro" else getattr(answer, "users", b"")


async def call(peer: RawPeer, user: str) -> tuple[bytes, bytes]:
    record = await peer.ask("chat", Call(user, os.urandom(16)))
    return record.verb, record.argument


async def test_the_blocked_sees_what_he_sees_of_who_is_offline(
    autojump_clock: trio.testing.MockClock, site: Site
) -> None:
    with trio.fail_after(60):
        async with serving(site) as world:
            alice, bob, carol = [await world.raw(name) for name in ("alice", "bob", "carol")]
            assert await blck(alice, BlockOp.BLOCK, "bob") == b""
            assert await blck(alice, BlockOp.LIST) == ("bob",)
            assert await blck(bob, BlockOp.LIST) == ()
            blocked, listed = await call(bob, "alice"), (await bob.ask("list")).argument
            assert {entry.user for entry in read(await carol.ask("list")).entries} == {"alice", "bob", "carol"}
            assert {entry.user for entry in read(await alice.ask("list")).entries} == {"alice", "bob", "carol"}
            await alice.nothing_new()
            await alice.close()
            await trio.testing.wait_all_tasks_blocked()
            assert blocked == await call(bob, "alice") == await call(bob, "nobody")
            assert listed == (await bob.ask("list")).argument
            assert bob.events == []


async def test_a_block_stays_over_logins_and_ends_with_unblock(
    autojump_clock: trio.testing.MockClock, site: Site
) -> None:
    with trio.fail_after(60):
        async with serving(site) as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            await blck(alice, BlockOp.BLOCK, "BOB")
            await alice.close()
            await bob.close()
        async with serving(site) as world:
            world.directory.enrol = lambda *_: None  # type: ignore[method-assign]
            world.directory.users = {name: identity_bundle(name) for name in ("alice", "bob")}
            alice, bob = await world.raw("alice"), await world.raw("bob")
            assert (await call(bob, "alice"))[0] == b"erro"
            verb, argument = await call(alice, "bob")
            assert (verb, argument[4:].decode()) == (b"erro", "ou block bob; unblock bob first")
            assert await blck(alice, BlockOp.UNBLOCK, "bob") == b""
            assert (await call(bob, "alice"))[0] == b"reqt"


def identity_bundle(name: str) -> Any:
    from support.world import identity

    return identity(name).bundle


async def test_a_call_of_the_blocked_stops_ringing_as_one_that_nobody_answered(
    autojump_clock: trio.testing.MockClock, site: Site
) -> None:
    """Also where the client does not refuse it first."""
    with trio.fail_after(60):
        async with serving(site) as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            assert (await call(bob, "alice"))[0] == b"reqt"
            assert (await alice.receive()).verb == b"reqt"
            await blck(alice, BlockOp.BLOCK, "bob")
            assert (await bob.receive()).verb == b"refu"
            assert (await alice.receive()).verb == b"cach"
            assert read(await alice.ask("acpt", Call("bob", bytes(16)))).code == ErrorCode.NOT_NOW


async def test_what_cannot_be_blocked(autojump_clock: trio.testing.MockClock, site: Site) -> None:
    with trio.fail_after(60):
        async with serving(site) as world:
            alice = await world.raw("alice")
            assert await blck(alice, BlockOp.BLOCK, "Alice") == ErrorCode.NOT_AVAILABLE
            assert await blck(alice, BlockOp.BLOCK, "nobody") == ErrorCode.NOT_AVAILABLE
            assert await blck(alice, BlockOp.UNBLOCK, "nobody") == ErrorCode.NOT_AVAILABLE
            rows = [("alice", f"{'u' * 10}{number:06}", 1) for number in range(MAX_BLOCKS)]
            site.database.executemany("INSERT INTO blocks VALUES (?, ?, ?)", rows)
            await world.raw("bob")
            assert await blck(alice, BlockOp.BLOCK, "bob") == ErrorCode.NOT_NOW
            assert len(await blck(alice, BlockOp.LIST)) == MAX_BLOCKS, "the longest list fits one record"
            site.broken = True
            assert await blck(alice, BlockOp.UNBLOCK, rows[0][1]) == ErrorCode.STORAGE
            assert len(blocked_by(site.database, "alice")) == MAX_BLOCKS


async def test_changes_are_bounded_at_thirty_a_minute(autojump_clock: trio.testing.MockClock, site: Site) -> None:
    """`blocks_per_minute`; asking for the list is not a change."""
    with trio.fail_after(60):
        async with serving(site, commands_burst=1000) as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            for number in range(30):
                op = BlockOp.UNBLOCK if number % 2 else BlockOp.BLOCK
                assert await blck(alice, op, "bob") == b""
            assert await blck(alice, BlockOp.BLOCK, "bob") == ErrorCode.RATE
            assert await blck(alice, BlockOp.LIST) == ()
            assert await blck(bob, BlockOp.BLOCK, "alice") == b""
            await trio.sleep(2.1)
            assert await blck(alice, BlockOp.BLOCK, "bob") == b""


async def test_where_the_directory_cannot_be_read_nobody_gets_through(
    autojump_clock: trio.testing.MockClock, site: Site
) -> None:
    with trio.fail_after(60):
        async with serving(site) as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            site.database.execute("ALTER TABLE blocks RENAME TO lost")
            assert int.from_bytes((await call(bob, "alice"))[1][:2], "big") == ErrorCode.STORAGE
            assert read(await bob.ask("list")).code == ErrorCode.STORAGE
            assert await blck(bob, BlockOp.LIST) == ErrorCode.STORAGE
            assert alice.events == []
            site.database.execute("ALTER TABLE lost RENAME TO blocks")
            assert (await call(bob, "alice"))[0] == b"reqt"


async def test_a_server_without_blocks_says_so(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            with pytest.raises(RequestRefused, match="this server cannot block users"):
                await alice.block("bob")
            raw = await world.raw("bob")
            assert await blck(raw, BlockOp.LIST) == ErrorCode.UNKNOWN_VERB
            assert b"blck" not in (await raw.ask("help")).argument


# the client -----------------------------------------------------------------------------------------------------------


async def test_blocking_the_peer_ends_what_there_is(autojump_clock: trio.testing.MockClock, site: Site) -> None:
    """A chat is left, a call refused or taken back, before the server hears of the block."""
    with trio.fail_after(60):
        async with serving(site) as world, world.chat() as (alice, bob):
            await alice.block("BOB")
            assert [type(event) for event in (await settle(alice))[0]] == [ev.ChatOver]
            over = await expect(bob, "ChatOver")
            assert (over.by_us, over.disconnected) == (False, False)
            await alice.unblock("bob")
            await bob.chat("alice")
            await expect(alice, "IncomingCall")
            await alice.block("bob")
            assert await expect(bob, "CallRefused") == ev.CallRefused("alice", unanswered=False)
            await alice.unblock("bob")
            await alice.chat("bob")
            await alice.block("bob")
            await expect(bob, "CallCanceled")
            assert alice.state is bob.state is State.ONLINE
            assert await alice.blocked() == ("bob",)
            with pytest.raises(RequestRefused, match="you block bob; unblock bob first"):
                await alice.chat("bob")
            with pytest.raises(RequestRefused, match="alice is not available"):
                await bob.chat("alice")


async def test_blocking_somebody_else_leaves_the_chat_alone(autojump_clock: trio.testing.MockClock, site: Site) -> None:
    with trio.fail_after(60):
        async with serving(site) as world, world.chat() as (alice, bob), world.client("carol"):
            await alice.block("carol")
            assert alice.state is bob.state is State.CHAT


async def test_another_device_in_the_chat_learns_that_it_is_over(
    autojump_clock: trio.testing.MockClock, site: Site
) -> None:
    with trio.fail_after(60):
        async with (
            serving(site) as world,
            world.chat() as (alice, bob),
            world.client("alice", device="2") as other,
        ):
            await other.block("bob")
            for one in (alice, bob):
                assert not (await expect(one, "ChatOver")).by_us


TRANSCRIPT = """
alice logs in
bob logs in
alice> blocked
alice| You block nobody.
alice> block nobody
alice| error: there is no user nobody
alice> block
alice| error: usage: block USER
alice> block alice
alice| error: nobody blocks oneself
alice> unblock bob
alice| error: bob is not blocked
bob> chat alice
bob| Request sent to alice
alice| REQUEST TO CHAT FROM: <bob> ACCEPT?
alice> acpt
alice| CHAT IS SECURE! with bob
alice| This is the first chat with bob; the key is remembered from now on.
alice| safety number with bob:
alice|   …
alice|   …
alice| Compare it with bob by another way (in person, on the telephone), then: /verify confirm
bob| CHAT IS SECURE! with alice
bob| This is the first chat with alice; the key is remembered from now on.
bob| safety number with alice:
bob|   …
bob|   …
bob| Compare it with alice by another way (in person, on the telephone), then: /verify confirm
alice? /block b => /block bob
alice> /block bob
alice| You left the chat with bob
alice| bob is blocked, and is not told; unblock bob ends it
bob| alice left the chat
bob> chat alice
bob| alice is not available
bob> list
bob| Online users:
bob| bob
alice> list
alice| Online users:
alice| alice
alice| bob
alice> blocked
alice| Blocked users:
alice| bob
alice> chat bob
alice| error: you block bob; unblock bob first
alice> unblock bob
alice| bob is not blocked any more
bob> chat alice
bob| Request sent to alice
alice| REQUEST TO CHAT FROM: <bob> ACCEPT?
"""


async def test_at_the_prompt(site: Site) -> None:
    with trio.fail_after(60):
        async with open_stage(blocks=site.blocks) as stage:
            await settled()
            await stage.perform(TRANSCRIPT)
