"""The log gone through again: whose doing each entry is, the whole hashed anew, and the export that others read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from lies.world import LogWorld, new_identity, open_log_world
from messageapp.client.auditing import LogUnverified, entries_between, entries_of, recompute
from messageapp.client.client import Client
from messageapp.client.export import export_log
from messageapp.client.keys import change_key
from messageapp.client.lies import LogLied
from messageapp.errors import UnusableSetup
from messageapp.store.keylog import LogStore
from messageapp.store.users import writing_users
from messageapp_keys.keylog import Leaf
from support.tlog_reader import read_export
from support.world import SERVER_NAME, identity


def write(w: LogWorld, leaves: list[Leaf]) -> None:
    """As a server that writes what it likes."""
    with writing_users(w.directory.writing):
        LogStore(w.directory.writing).append([leaf.encode() for leaf in leaves])


def fill(w: LogWorld, size: int) -> None:
    """First entries of users who are nobody, up to `size` in all."""
    start = LogStore(w.directory.writing).size
    write(w, [Leaf(1, f"user{number}", 1, bytes([number % 256]) * 32) for number in range(start, size)])


async def history_of_bob(w: LogWorld) -> None:
    """As `KINDS` has it."""
    w.directory.enrol("bob", identity("bob").bundle)
    second = new_identity()
    async with w.client("bob") as bob:
        await change_key(bob, second)
    for make in (new_identity, None, new_identity):
        if make is None:
            w.directory.revoke("bob")
        else:
            w.directory.reset("bob", make().bundle)
    signed = LogStore(w.directory.writing).of_user("bob")[1][1]
    for signatures in (signed.signatures, ()):  # of another change, and none
        latest = LogStore(w.directory.writing).latest("bob")
        write(w, [Leaf.after(latest, 1, "bob", new_identity().key_id, 0, signatures)])


KINDS = ["enrolled", "signed", "reset", "revoked", "reset", "unexplained", "unexplained"]


@pytest.mark.parametrize("thin", [False, True])
async def test_whose_doing_each_entry_is(autojump_clock: trio.testing.MockClock, thin: bool) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w:
            await history_of_bob(w)
            async with w.client("alice", thin=thin) as alice:
                await alice.log.caught_up()
                entries = await entries_of(alice, "BOB")
                assert [entry.kind for entry in entries] == KINDS
                numbers = [entry.number for entry in entries]
                assert numbers == [0, 1, 2, 3, 4, 5, 6]
                assert [entry.leaf.version for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
                some = await entries_between(alice, 2, 4)
                assert [(entry.number, entry.kind) for entry in some] == [(2, "reset"), (3, "revoked")]
                assert await entries_of(alice, "nobody") == []


async def test_a_bundle_that_the_server_keeps_back(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w:
            await history_of_bob(w)
            w.directory.writing.execute("DELETE FROM bundles")
            async with w.client("alice") as alice:
                await alice.log.caught_up()
                kinds = [entry.kind for entry in await entries_of(alice, "bob")]
                assert kinds == ["enrolled", "unknown", "reset", "revoked", "reset", "unknown", "unexplained"]


@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 600])
async def test_an_independent_reader_takes_the_export(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, size: int, thin: bool
) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w:
            w.directory.enrol("alice", identity("alice").bundle)
            fill(w, size)
            async with w.client("alice", thin=thin) as alice:
                await alice.log.caught_up()
                await export_log(alice, alice.log.state(), tmp_path / "out")
            checkpoint, entries = read_export(tmp_path / "out")
            assert (checkpoint.origin, checkpoint.size) == (f"{SERVER_NAME}/msgapp-keys", size)
            assert entries == list(LogStore(w.directory.writing).encoded_leaves(0, size))


async def test_an_export_grows(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            for size in (200, 300, 600):
                fill(w, size)
                await trio.sleep(1)
                await alice.log.caught_up()
                await export_log(alice, alice.log.state(), tmp_path)
                assert len(read_export(tmp_path)[1]) == size


Damage = Callable[[Path], None]


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["tile/0/000", "tile/entries/000", "tile/0/001.p/44", "tile/1/000.p/1"])
async def test_an_export_of_another_history_is_not_continued(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, name: str
) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            fill(w, 300)
            await trio.sleep(1)
            await alice.log.caught_up()
            await export_log(alice, alice.log.state(), tmp_path)
            before = (tmp_path / "checkpoint").read_bytes()
            _flip(tmp_path / name)
            with pytest.raises(LogUnverified, match="another history") as caught:
                await export_log(alice, alice.log.state(), tmp_path)
            assert caught.value.exit_code == 3
            assert (tmp_path / "checkpoint").read_bytes() == before
            shutil.rmtree(tmp_path / "tile")
            await export_log(alice, alice.log.state(), tmp_path)
            read_export(tmp_path)


async def test_a_folder_with_something_else_is_left_alone(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            await alice.log.caught_up()
            for name in ("notes.txt", "log.vkey"):
                folder = tmp_path / name.partition(".")[0]
                folder.mkdir()
                (folder / name).write_text("mine")
                with pytest.raises(UnusableSetup, match="is not empty and no export of this log"):
                    await export_log(alice, alice.log.state(), folder)
                assert [file.name for file in folder.iterdir()] == [name]
                assert (folder / name).read_text() == "mine"
            (tmp_path / "file").write_text("")
            with pytest.raises(UnusableSetup, match="cannot make the folder"):
                await export_log(alice, alice.log.state(), tmp_path / "file")


async def followed(w: LogWorld, size: int, client: Client) -> None:
    fill(w, size)
    await trio.sleep(1)
    await client.log.caught_up()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE log_leaves SET leaf = x'00' WHERE number = 3", "entry 3 of the key log"),
        ("UPDATE log_leaves SET leaf = (SELECT leaf FROM log_leaves WHERE number = 4) WHERE number = 3", "entry 4 "),
        (
            "UPDATE log_leaves SET leaf = CAST(substr(leaf,1,8) || x'02' || substr(leaf, 10) AS BLOB) WHERE number=3",
            "do not make the root",
        ),
    ],
)
async def test_entries_that_are_not_those_of_the_checkpoint(
    autojump_clock: trio.testing.MockClock, damage: str, words: str
) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            await followed(w, 6, alice)
            state = alice.log.state()
            await recompute(alice, state)
            alice.account.trust.database.execute(damage)
            with pytest.raises(LogUnverified, match=words):
                await recompute(alice, state)


async def test_an_entry_that_is_missing(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            await followed(w, 6, alice)
            alice.account.trust.database.execute("DELETE FROM log_leaves WHERE number = 3")
            with pytest.raises(UnusableSetup, match="damaged"):
                await recompute(alice, alice.log.state())


async def test_a_root_that_is_another(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            await followed(w, 6, alice)
            with pytest.raises(LogUnverified, match="the 6 entries of the key log do not make the root"):
                await recompute(alice, replace(alice.log.state(), root=bytes(32)))


async def test_a_thin_client_proves_what_it_prints(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_log_world(monkeypatch) as w:
            w.directory.enrol("bob", identity("bob").bundle)
            async with w.client("alice", thin=True) as alice:
                await alice.log.caught_up()

                def forged(user: str, verb: str, argument: object) -> object:
                    if type(argument).__name__ == "LogInclusion":
                        other = Leaf(1, "bob", 1, new_identity().key_id)
                        return replace(argument, leaf=other.encode())  # type: ignore[type-var]
                    return argument

                w.liar.twist = forged
                with pytest.raises(LogLied):
                    await entries_of(alice, "bob")
