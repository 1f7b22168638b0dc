"""A witness cosigns one history only, and remembers which before anybody hears of it (protocol §12.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from lies.world import LogWorld, open_log_world
from messageapp.client.asking import ASK_SECONDS, RATE_SECONDS, RATE_TRIES, LogQuestions, LogUnavailable
from messageapp.client.client import Client
from messageapp.client.lies import Lie, LogLied
from messageapp.client.witness import Witness, cosign_newest, open_witness
from messageapp.errors import RequestRefused, UnusableSetup
from messageapp.store.database import open_database
from messageapp.store.logs import accept_alarm
from messageapp.store.witness import find_cosigned, open_witness_key, save_cosigned
from messageapp.wire.commands import ErrorCode
from messageapp_keys.notes import Checkpoint, LogKey
from support.tlog_reader import cosigned_at, read_checkpoint
from support.world import SERVER_NAME, identity

WHEN = 1_800_000_000
WITNESS = Witness("example.org/witness", LogKey.generate())


async def cosign(client: Client, witness: Witness = WITNESS) -> Checkpoint | None:
    return await cosign_newest(client, witness, WHEN)


def cosignatures(w: LogWorld) -> list[int]:
    """As somebody else reads the checkpoint that the server shows."""
    vkey = w.log_key.verifier(f"{SERVER_NAME}/msgapp-keys").encode()
    return cosigned_at(read_checkpoint(w.log.note(), vkey), WITNESS.verifier.encode())


def enrol(w: LogWorld, *names: str) -> None:
    for name in names:
        w.directory.enrol(name, identity(name).bundle)


async def test_each_checkpoint_is_cosigned_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world(witnesses=[WITNESS.verifier]) as w, w.client("eve") as eve:
            first = await cosign(eve)
            assert first is not None
            assert first.size == 1
            assert cosignatures(w) == [WHEN]
            await trio.sleep(1)
            await eve.log.caught_up()
            assert await cosign(eve) is None
            enrol(w, "alice", "bob")
            assert cosignatures(w) == []
            await trio.sleep(1)
            second = await cosign(eve)
            assert second is not None
            assert second.size == 3
            assert cosignatures(w) == [WHEN]


async def test_after_a_restart_nothing_is_cosigned_twice(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world(witnesses=[WITNESS.verifier]) as w:
            async with w.client("eve") as eve:
                assert await cosign(eve)
            async with w.client("eve") as eve:
                assert await cosign(eve) is None


async def test_a_witness_that_the_server_does_not_know(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("eve") as eve:
            with pytest.raises(UnusableSetup) as caught:
                await cosign(eve)
            assert f'witnesses = ["{WITNESS.verifier.encode()}"]' in str(caught.value)


async def test_a_log_that_grew_meanwhile_is_no_refusal(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_log_world(witnesses=[WITNESS.verifier]) as w, w.client("eve") as eve:
            send = eve.log.ask.cosign

            async def late(line: bytes) -> None:
                enrol(w, "alice")
                await send(line)

            await eve.log.caught_up()
            monkeypatch.setattr(eve.log.ask, "cosign", late)
            assert await cosign(eve) is None
            monkeypatch.undo()
            await trio.sleep(1)
            done = await cosign(eve)
            assert done is not None
            assert done.size == 2


@pytest.mark.parametrize(
    ("names", "lie"),
    [
        (("carol",), Lie.ROLLBACK),  # 2 entries after 3
        (("carol", "dave"), Lie.FORK),  # of the same size
        (("carol", "dave", "frank"), Lie.FORK),
    ],
)
async def test_a_second_history_is_never_cosigned(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], lie: Lie
) -> None:
    """Also when the user has accepted it: the witness has a memory of its own."""
    with trio.fail_after(60):
        async with open_log_world(monkeypatch, witnesses=[WITNESS.verifier]) as w:
            async with w.client("eve") as eve:
                await eve.log.caught_up()
                directory, fork = w.fork("fork")
                fork._witnesses = {WITNESS.name: WITNESS.verifier}
                enrol(w, "alice", "bob")
                await trio.sleep(1)
                assert await cosign(eve)
                before = find_cosigned(eve.account.trust.database, SERVER_NAME)
                accept_alarm(eve.account.trust.database, SERVER_NAME, keep=False)
            for name in names:
                directory.enrol(name, identity(name).bundle)
            w.liar.logs["eve"] = fork
            async with w.client("eve") as eve:
                with pytest.raises(LogLied) as caught:
                    await cosign(eve)
                assert caught.value.lie is lie
                assert caught.value.exit_code == 3
                assert caught.value.stored == before
                assert caught.value.shown == fork.note()
                assert find_cosigned(eve.account.trust.database, SERVER_NAME) == before
                assert fork.note().count(WITNESS.name.encode()) == 0
            directory.close()


async def test_what_is_cosigned_is_stored_before_it_is_sent(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in between: the same is cosigned again."""
    with trio.fail_after(60):
        async with open_log_world(witnesses=[WITNESS.verifier]) as w, w.client("eve") as eve:
            await eve.log.caught_up()
            seen: list[bytes] = []

            async def crash(line: bytes) -> None:
                seen.append(find_cosigned(eve.account.trust.database, SERVER_NAME))
                raise LogUnavailable

            monkeypatch.setattr(eve.log.ask, "cosign", crash)
            with pytest.raises(LogUnavailable):
                await cosign(eve)
            assert seen == [w.log.note()]
            assert cosignatures(w) == []
            monkeypatch.undo()
            done = await cosign(eve)
            assert done is not None
            assert done.size == 1
            assert cosignatures(w) == [WHEN]


async def test_another_process_with_the_same_key_goes_first(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_log_world(witnesses=[WITNESS.verifier]) as w, w.client("eve") as eve:
            await cosign(eve)
            enrol(w, "alice")
            await trio.sleep(1)
            await eve.log.caught_up()
            database, ask = eve.account.trust.database, eve.log.ask.consistency

            async def slow(old: int, new: int) -> tuple[bytes, ...]:
                before = find_cosigned(database, SERVER_NAME)
                assert save_cosigned(database, SERVER_NAME, before, eve.log.note())
                proof: tuple[bytes, ...] = await ask(old, new)
                return proof

            monkeypatch.setattr(eve.log.ask, "consistency", slow)
            assert await cosign(eve) is None
            assert cosignatures(w) == []


def test_only_what_continues_is_stored(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db", "account")
    assert find_cosigned(database, "s") == b""
    assert save_cosigned(database, "s", b"", b"one")
    assert not save_cosigned(database, "s", b"", b"two")
    assert find_cosigned(database, "s") == b"one"
    assert save_cosigned(database, "s", b"one", b"two")
    assert find_cosigned(database, "other") == b""
    database.close()


async def test_a_stored_checkpoint_that_is_damaged_stops_the_witness(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world(witnesses=[WITNESS.verifier]) as w, w.client("eve") as eve:
            await cosign(eve)
            eve.account.trust.database.execute("UPDATE cosigned SET note = x'00'")
            enrol(w, "alice")
            await trio.sleep(1)
            with pytest.raises(UnusableSetup, match="what was cosigned last is damaged"):
                await cosign(eve)


def test_the_key_is_made_once_and_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "accounts" / "eve" / "witness.key"
    first = open_witness(path, "example.org/witness")
    again = open_witness(path, "example.org/other")
    assert first.verifier == again.verifier
    assert again.name == "example.org/witness"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb"])
def test_a_name_that_no_witness_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnusableSetup, match="cannot be the name of a witness"):
        open_witness_key(tmp_path / "witness.key", name)
    assert not (tmp_path / "witness.key").exists()


@pytest.mark.parametrize("content", [b"", b"name: x\n", b"\xff\n", b"name: a b\nx", b"garbage"])
def test_a_key_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "witness.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UnusableSetup, match="is no key of a witness"):
        open_witness_key(path, "x")
    path.chmod(0o644)
    with pytest.raises(UnusableSetup, match="can be read by others"):
        open_witness_key(path, "x")


async def test_sending_waits_for_its_turn_and_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    sent: list[float] = []

    def questions(refusals: int, *, silent: bool = False) -> LogQuestions:
        async def request(verb: str, argument: object) -> None:
            sent.append(trio.current_time())
            if len(sent) <= refusals:
                raise RequestRefused(ErrorCode.RATE, "slower")
            if silent:
                await trio.sleep_forever()

        return LogQuestions(request)

    with trio.fail_after(1000):
        await questions(2).cosign(b"line\n")
        assert [round(at - sent[0]) for at in sent] == [0, RATE_SECONDS, 2 * RATE_SECONDS]
        sent.clear()
        with pytest.raises(LogUnavailable, match="takes no more cosignatures"):
            await questions(10**9).cosign(b"line\n")
        assert len(sent) == RATE_TRIES
        sent.clear()
        began = trio.current_time()
        with pytest.raises(LogUnavailable, match="does not answer"):
            await questions(0, silent=True).cosign(b"line\n")
        assert trio.current_time() - began == ASK_SECONDS
