"""The mailbox of a server that is killed, or has no disk left: nothing that was acknowledged is lost or comes twice."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from random import Random

import pytest
import trio

from messageapp.clock import wall_ms
from messageapp.errors import ConnectionCut
from messageapp.store.users import add_user, remove_user
from messageapp.wire.commands import ErrorCode, Errors, Raw, parse_untrusted
from messageapp.wire.mail_forms import Delivery, MailRequest, Stored
from messageapp.wire.states import Role
from support.mail import acknowledge, dial_in, prekeys, send, upload
from support.processes import Site, open_site
from support.world import RawPeer, identity

ALICE, BOB = bytes([1]) * 16, bytes([2]) * 16
FAST = ("--limit", "commands_per_second=1000000", "--limit", "commands_burst=1000000")
UNDER_WAY = 32


def enrol(site: Site, *names: str) -> None:
    for name in names:
        site.tell_directory(add_user, name, identity(name).bundle, wall_ms())


def sound(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert (
            database.execute("SELECT messages FROM devices WHERE folded = 'bob'").fetchall()
            == database.execute("SELECT count(*) FROM mail WHERE folded = 'bob'").fetchall()
        )


async def _store_until(peer: RawPeer, acked: dict[bytes, int], waiting: dict[bytes, bytes], count: int) -> None:
    """Keep `UNDER_WAY` messages on their way, those that wait first, until `count` more are acknowledged."""
    goal = len(acked) + count
    for identifier, blob in list(waiting.items()):
        await peer.send("send", MailRequest("bob", identifier, blob))
    while len(acked) < goal:
        while len(waiting) < UNDER_WAY:
            identifier = os.urandom(16)
            waiting[identifier] = identifier * 20
            await peer.send("send", MailRequest("bob", identifier, waiting[identifier]))
        answer = parse_untrusted(Role.SERVER, await peer.receive())
        assert isinstance(answer, Stored), answer
        acked[answer.id] = answer.seq
        waiting.pop(answer.id, None)


async def _take_mail(peer: RawPeer, count: int) -> list[Delivery]:
    """So many messages, each acknowledged; then there are no more."""
    found: list[Delivery] = []
    while len(found) < count:
        peer.events.append(await peer._next())
        await peer.ask("list")
        batch = [parse_untrusted(Role.SERVER, record) for record in peer.events]
        peer.events.clear()
        found += batch
        assert await acknowledge(peer, *(each.seq for each in batch)) == Raw()
    await peer.nothing_new()
    return found


async def _read_to_the_end(peer: RawPeer, acked: dict[bytes, int], waiting: dict[bytes, bytes]) -> None:
    """What a server had said before it died."""
    with suppress(ConnectionCut):
        while True:
            answer = parse_untrusted(Role.SERVER, await peer.receive())
            if isinstance(answer, Stored):
                acked[answer.id] = answer.seq
                waiting.pop(answer.id, None)


@pytest.mark.parametrize(("seed", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (2, signal.SIGTERM)])
async def test_an_end_under_load_loses_nothing_acknowledged_and_doubles_nothing(
    seed: int, number: signal.Signals, tmp_path: Path
) -> None:
    random = Random(seed)
    acked: dict[bytes, int] = {}
    waiting: dict[bytes, bytes] = {}
    with trio.fail_after(60), open_site(tmp_path / "home", serving=False) as site:
        enrol(site, "alice", "bob")
        for _ in range(2):
            server = site.serve(*FAST)
            async with dial_in(site.home, site.port, "bob", BOB) as bob:
                assert await upload(bob, prekeys("bob", 1)) == Raw()
            async with dial_in(site.home, site.port, "alice", ALICE) as alice:
                await _store_until(alice, acked, waiting, random.randrange(1, 300))
                server.signal(number)
                await _read_to_the_end(alice, acked, waiting)
            server.process.wait(30)
            assert server.process.returncode == (-number if number is signal.SIGKILL else 0)
            sound(site.home.mail)
        site.serve(*FAST)
        async with dial_in(site.home, site.port, "alice", ALICE) as alice:
            for identifier, blob in waiting.items():  # the same bytes again
                assert isinstance(await send(alice, "bob", blob, identifier), Stored)
        async with dial_in(site.home, site.port, "bob", BOB) as bob:
            found = await _take_mail(bob, len(acked) + len(waiting))
        assert [each.seq for each in found] == sorted({each.seq for each in found})
        assert len({each.id for each in found}) == len(found), "one came twice"
        assert acked.keys() | waiting.keys() == {each.id for each in found}, "one is lost"
        assert all(acked.get(each.id, each.seq) == each.seq for each in found)
        assert all(each.blob == each.id * 20 for each in found)
        sound(site.home.mail)
        with closing(sqlite3.connect(site.home.mail)) as database:
            assert database.execute("SELECT count(*) FROM mail").fetchone() == (0,)


async def test_a_server_without_disk_says_so_and_goes_on_when_there_is_some(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        site = stack.enter_context(open_site(tmp_path / "home", serving=False))
        enrol(site, "alice", "bob")
        server = site.serve(*FAST)
        bob = await stack.enter_async_context(dial_in(site.home, site.port, "bob", BOB))
        assert await upload(bob, prekeys("bob", 1)) == Raw()
        alice = await stack.enter_async_context(dial_in(site.home, site.port, "alice", ALICE))
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, hard))
        for _ in range(3):
            refused = await send(alice, "bob", b"sealed")
            assert isinstance(refused, Errors)
            assert refused.code == ErrorCode.STORAGE
        assert (await alice.ask("list")).verb == b"list", "who is in stays in"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert isinstance(await send(alice, "bob", b"sealed"), Stored)
        assert [each.blob for each in await _take_mail(bob, 1)] == [b"sealed"]
        sound(site.home.mail)


async def test_a_user_removed_while_no_server_runs_leaves_nothing(tmp_path: Path) -> None:
    with trio.fail_after(60), open_site(tmp_path / "home", serving=False) as site:
        enrol(site, "alice", "bob")
        server = site.serve(*FAST)
        async with dial_in(site.home, site.port, "bob", BOB) as bob:
            assert await upload(bob, prekeys("bob", 1)) == Raw()
        async with dial_in(site.home, site.port, "alice", ALICE) as alice:
            await send(alice, "bob", b"sealed")
        server.kill()
        site.tell_directory(remove_user, "bob", wall_ms())
        site.serve(*FAST)
        with closing(sqlite3.connect(site.home.mail)) as database:
            while database.execute("SELECT count(*) FROM devices").fetchone() != (0,):  # noqa: ASYNC110 - its process
                await trio.sleep(0.02)
            for table in ("mail", "prekeys"):
                assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608
