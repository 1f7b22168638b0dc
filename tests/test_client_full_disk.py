"""A client whose disk takes nothing for a while: said once, nothing lost, everything once (protocol §16)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client import events as ev
from messageapp.client import prekeys
from messageapp.client.client import Client
from messageapp.client.client import State as Where
from messageapp.client.outgoing import STORE_SECONDS
from messageapp.errors import CannotStore, UnusableSetup
from messageapp.store.database import transaction
from messageapp.store.states import State
from messageapp_keys.identity import IdentityBundle
from support.mail_desk import wall_ms
from support.mail_ends import FailingDatabase
from support.world import World, open_world, settle, start_chat

FULL = "database or disk is full"
ONE_TIME = 4  # prekeys
LONG = 120.0  # on the test's clock: longer than whatever is tried again waits


class Disk(FailingDatabase):
    """While it is full, nothing that changes something comes to the end of its transaction."""

    reason = ""  # while it is full

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.early = early  # it fails at the first change, not only at the end
        self._before = 0

    def _count(self, sql: str) -> None:
        if sql.startswith("BEGIN"):
            self._before = self.inner.total_changes
        alone = sql.startswith(("INSERT", "UPDATE", "DELETE")) and not self.in_transaction
        if self.reason and (alone or (sql == "COMMIT" and self.inner.total_changes != self._before)):
            raise sqlite3.OperationalError(self.reason)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        found = super().execute(sql, parameters)
        if self.reason and self.early and self.inner.total_changes != self._before and self.in_transaction:
            raise sqlite3.OperationalError(self.reason)
        return found

    @contextmanager
    def full(self, reason: str = FULL) -> Iterator[None]:
        self.reason = reason
        try:
            yield
        finally:
            self.reason = ""


@dataclass
class Two:
    """Alice, and bob on a small disk."""

    world: World
    disk: Disk
    alice: Client
    bob: Client
    told: dict[str, list[ev.Event]] = field(default_factory=lambda: {"alice": [], "bob": []})

    async def rest(self, seconds: float = 0) -> None:
        """Until nothing happens any more, and so long."""
        await trio.sleep(seconds)
        found = await settle(self.alice, self.bob)
        for name, events in zip(self.told, found, strict=True):
            self.told[name] += events

    def of(self, name: str, kind: type[Any]) -> list[Any]:
        return [event for event in self.told[name] if isinstance(event, kind)]

    def shown(self, name: str) -> list[str]:
        return [each.text for each in self.told[name] if isinstance(each, ev.TextReceived | ev.MessageReceived)]

    def check(self, **texts: list[str]) -> None:
        """The sessions go on; each of these came once, is stored once, and confirmed."""
        assert (self.alice.ended, self.bob.ended) == (None, None)
        ends = {"alice": (self.alice, "bob"), "bob": (self.bob, "alice")}
        for name, wanted in texts.items():
            client, peer = ends[name]
            sender, _ = ends[peer]
            assert sorted(self.shown(name)) == sorted(wanted)
            stored = client.messages.history(peer, 100)
            assert sorted(str(each.text) for each in stored if not each.own) == sorted(wanted)
            sent = [each for each in sender.messages.history(name, 100) if each.own]
            assert sorted(str(each.text) for each in sent) == sorted(wanted)
            assert {each.state for each in sent} <= {State.DELIVERED}


@pytest.fixture(autouse=True)
def few_prekeys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prekeys, "ONE_TIME", ONE_TIME)
    monkeypatch.setattr(prekeys, "REFILL", ONE_TIME // 2)


@pytest.fixture(params=[True, False], ids=["at a change", "at the end"])
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    made = Disk(request.param)
    yield made
    made.close()


@asynccontextmanager
async def two(disk: Disk, *, fresh: bool = False) -> AsyncIterator[Two]:
    """Both are there, and have written to each other before unless it is `fresh`."""
    with trio.fail_after(10_000):
        async with open_world(mail={"wall_ms": wall_ms}) as world:
            world.trusts["bob"] = disk  # type: ignore[assignment]
            async with world.client("alice", wall_ms=wall_ms) as alice, world.client("bob", wall_ms=wall_ms) as bob:
                found = Two(world, disk, alice, bob)
                await found.rest(1)
                if not fresh:
                    await alice.write("bob", "before")
                    await found.rest(1)
                    await bob.write("alice", "before, too")
                    await found.rest(1)
                yield found


BEFORE = {"bob": ["before"], "alice": ["before, too"]}


# what the user says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["say", "write"])
@pytest.mark.parametrize("reason", [FULL, "disk I/O error"])
async def test_a_text_that_cannot_be_stored_is_not_sent(
    disk: Disk, way: str, reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(disk) as both:
        bob = both.bob
        await start_chat(both.alice, bob)
        for text in ("one", "two"):
            with disk.full(reason), pytest.raises(CannotStore) as caught:
                await (bob.say(text) if way == "say" else bob.write("alice", text))
            assert str(caught.value) == f"not sent: cannot use the account's database: {reason}"
        await both.rest()
        assert bob.state is Where.CHAT
        assert both.shown("alice") == BEFORE["alice"]
        await (bob.say("three") if way == "say" else bob.write("alice", "three"))
        await both.rest()
        assert not both.of("alice", ev.Missing), "nothing of the ratchet was used up"
        both.check(alice=[*BEFORE["alice"], "three"], bob=BEFORE["bob"])


async def test_mail_that_cannot_be_stored_is_not_sent(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    async with two(disk) as both:
        with disk.full(), pytest.raises(CannotStore, match=r"^not sent: "):
            await both.bob.write("alice", "one")
        await both.bob.write("alice", "two")
        await both.rest()
        both.check(alice=[*BEFORE["alice"], "two"], bob=BEFORE["bob"])


async def test_what_is_queued_is_not_said_to_be_lost(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    """The disk is full just after the text was stored: it is not typed again."""
    async with two(disk) as both:
        write = both.bob.messages.write

        def then_full(*arguments: Any, **others: Any) -> int:
            number = write(*arguments, **others)
            disk.reason = FULL
            return number

        both.bob.messages.write = then_full  # type: ignore[method-assign]
        assert await both.bob.write("alice", "one") > 0
        await both.rest(LONG)
        disk.reason = ""
        await both.rest(LONG)
        assert len(both.of("bob", ev.StorageTrouble)) == 1
        both.check(alice=[*BEFORE["alice"], "one"], bob=BEFORE["bob"])


async def test_texts_held_for_the_chat_are_given_back(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    """The disk is full when the chat is secure already, and what was typed meanwhile is to be sent."""
    async with two(disk) as both:
        alice, bob = both.alice, both.bob
        await alice.chat("bob")
        await both.rest()
        await bob.accept()
        await bob.say("too early")
        pin_first = bob.account.trust.pin_first

        def then_full(*arguments: Any) -> Any:
            found = pin_first(*arguments)
            disk.reason = FULL
            return found

        bob.account.trust.pin_first = then_full  # type: ignore[method-assign, assignment]
        await both.rest()
        disk.reason = ""
        (back,) = both.of("bob", ev.NotDelivered)
        assert (back.peer, back.text) == ("alice", "too early")
        assert FULL in back.reason
        await bob.say("again")
        await both.rest()
        assert bob.state is Where.CHAT
        both.check(alice=[*BEFORE["alice"], "again"], bob=BEFORE["bob"])


# what comes in a chat -------------------------------------------------------------------------------------------------


async def test_a_live_text_that_cannot_be_stored_comes_by_mail(
    disk: Disk, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(disk) as both:
        await start_chat(both.alice, both.bob)
        await both.rest()
        with disk.full():
            for text in ("one", "two", "three"):
                await both.alice.say(text)
                await both.rest()
            assert both.bob.state is Where.CHAT
            assert both.shown("bob") == BEFORE["bob"]
            (trouble,) = both.of("bob", ev.StorageTrouble)
            assert FULL in trouble.reason
        await both.alice.say("four")
        await both.rest()
        assert both.shown("bob") == [*BEFORE["bob"], "four"]
        assert [each.count for each in both.of("bob", ev.Missing)] == [3]
        with disk.full():
            await both.alice.say("five")
            await both.rest()
        assert len(both.of("bob", ev.StorageTrouble)) == 2, "it had gone well meanwhile"
        await both.alice.leave()
        await both.rest(LONG)
        both.check(bob=[*BEFORE["bob"], "one", "two", "three", "four", "five"], alice=BEFORE["alice"])


async def test_a_chat_that_ends_on_a_full_disk(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    """What bob said last has no receipt; that it goes by mail can only be stored later."""
    async with two(disk) as both:
        await start_chat(both.alice, both.bob)
        await both.rest()
        receive, both.alice._keying.receive = both.alice._keying.receive, _deaf  # type: ignore[method-assign]
        await both.bob.say("the last word")
        await both.rest()
        both.alice._keying.receive = receive  # type: ignore[method-assign]
        with disk.full():
            await both.alice.leave()
            await both.rest(LONG)
            assert both.bob.state is Where.ONLINE
            assert len(both.of("bob", ev.ChatOver)) == 1
            assert len(both.of("bob", ev.StorageTrouble)) == 1
        await both.rest(LONG)
        both.check(alice=[*BEFORE["alice"], "the last word"], bob=BEFORE["bob"])


async def _deaf(content: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def test_leaving_on_a_full_disk(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    async with two(disk) as both:
        await start_chat(both.alice, both.bob)
        await both.rest()
        with disk.full():
            await both.alice.say("are you there?")
            await both.rest()
            await both.bob.leave()
            await both.rest()
            assert both.bob.state is Where.ONLINE
            await both.bob.list_users()
        await both.rest(LONG)
        both.check(bob=[*BEFORE["bob"], "are you there?"], alice=BEFORE["alice"])


@pytest.mark.parametrize("fresh", [False, True], ids=["known", "never met"])
@pytest.mark.parametrize("caller", ["alice", "bob"])
async def test_no_chat_begins_on_a_full_disk(
    disk: Disk, caller: str, fresh: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Its first message cannot be stored, nor the key of who was never met. With room again it begins."""
    async with two(disk, fresh=fresh) as both:
        ends = (both.alice, both.bob) if caller == "alice" else (both.bob, both.alice)
        with disk.full():
            await ends[0].chat(ends[1].account.user)
            await both.rest()
            await ends[1].accept()
            await both.rest()
            assert (both.alice.state, both.bob.state) == (Where.ONLINE, Where.ONLINE)
            (failed,) = both.of("bob", ev.ChatFailed)
            assert (failed.peer, FULL in failed.reason) == ("alice", True)
            assert (both.bob.account.trust.pin("alice", both.bob.server_name) is None) == fresh
        await start_chat(*ends)
        await both.bob.say("now")
        await both.rest()
        both.check(alice=[*([] if fresh else BEFORE["alice"]), "now"], bob=[] if fresh else BEFORE["bob"])


async def test_a_changed_key_that_cannot_be_noted(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """No chat, and the session goes on."""
    async with two(disk) as both:
        bob = both.bob

        def refuse(peer: str, server: str, bundle: IdentityBundle, how: str = "") -> bool:
            raise CannotStore(FULL)

        await both.alice.chat("bob")
        await both.rest()
        with monkeypatch.context() as patch:
            patch.setattr(bob.account.trust, "judge", refuse)
            await bob.accept()
            await both.rest()
        assert [each.reason for each in both.of("bob", ev.ChatFailed)] == [FULL]
        assert bob.state is Where.ONLINE
        both.check(**BEFORE)


async def test_a_receipt_that_cannot_be_stored_goes_with_the_next(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(disk) as both:
        await start_chat(both.alice, both.bob)
        await both.rest()
        live = both.bob._chat.live
        assert live is not None
        hear = live.hear_untrusted

        def then_full(content: bytes) -> Any:
            heard = hear(content)
            disk.reason = FULL
            return heard

        with monkeypatch.context() as patch:
            patch.setattr(live, "hear_untrusted", then_full)
            await both.alice.say("one")
            await both.rest()
        disk.reason = ""
        await both.alice.say("two")
        await both.rest()
        assert both.bob.state is Where.CHAT
        both.check(bob=[*BEFORE["bob"], "one", "two"], alice=BEFORE["alice"])


# what the server has stored -------------------------------------------------------------------------------------------


async def test_mail_that_comes_to_a_full_disk(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    async with two(disk) as both:
        assert both.world.mail is not None
        texts = [f"text {number}" for number in range(5)]
        with disk.full():
            for text in texts:
                await both.alice.write("bob", text)
                await both.rest(LONG)
            assert both.world.mail.execute("SELECT count(*) FROM mail WHERE folded = 'bob'").fetchone() == (5,)
            assert both.shown("bob") == BEFORE["bob"]
            assert len(both.of("bob", ev.StorageTrouble)) == 1
        await both.rest(STORE_SECONDS + 1)
        both.check(bob=[*BEFORE["bob"], *texts], alice=BEFORE["alice"])
        assert both.world.mail.execute("SELECT count(*) FROM mail").fetchone() == (0,)


@pytest.mark.parametrize("known", [True, False])
async def test_what_waits_in_the_outbox_of_a_full_disk(
    disk: Disk, known: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """To somebody with whom there is a session, and to somebody whose prekey has to be asked for."""
    async with two(disk, fresh=not known) as both:
        both.bob.messages.write("alice", "waits")
        with disk.full():
            both.bob.mail.poke()
            await both.rest(3 * LONG)
            assert both.shown("alice") == (BEFORE["alice"] if known else [])
            assert len(both.of("bob", ev.StorageTrouble)) == 1
            assert both.world.mail is not None
            left = both.world.mail.execute("SELECT count(*) FROM prekeys WHERE folded = 'alice'").fetchone()
        await both.rest(LONG)
        both.check(alice=[*(BEFORE["alice"] if known else []), "waits"], bob=BEFORE["bob"] if known else [])
        if not known:
            assert left == (1 + ONE_TIME,), "none was taken in vain"


async def test_a_reply_of_the_server_that_cannot_be_noted(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    """The message is at the server; the client can only note it when there is room."""
    async with two(disk) as both:
        seal = both.bob.mail.outgoing._seal

        def then_full(*arguments: Any) -> Any:
            found = seal(*arguments)
            disk.reason = FULL
            return found

        both.bob.mail.outgoing._seal = then_full  # type: ignore[method-assign, assignment]
        number = await both.bob.write("alice", "on its way")
        await both.rest(LONG)
        both.bob.mail.outgoing._seal = seal  # type: ignore[method-assign]
        assert both.shown("alice") == [*BEFORE["alice"], "on its way"]
        assert not [each for each in both.of("bob", ev.MessageChanged) if each.number == number]
        disk.reason = ""
        await both.rest(LONG)
        both.check(alice=[*BEFORE["alice"], "on its way"], bob=BEFORE["bob"])


async def test_prekeys_are_made_when_there_is_room(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    """Also where they were uploaded and only that could not be noted: the server is asked before more are made."""
    with trio.fail_after(10_000):
        async with open_world(mail={"wall_ms": wall_ms}) as world:
            world.trusts["bob"] = disk  # type: ignore[assignment]
            async with world.client("bob", wall_ms=wall_ms) as bob:
                disk.reason = FULL
                await trio.sleep(LONG)
                disk.reason = ""
                await trio.sleep(LONG)
                (events,) = await settle(bob)
                assert len([each for each in events if isinstance(each, ev.StorageTrouble)]) == 1
                assert world.mail is not None
                assert world.mail.execute("SELECT count(*) FROM prekeys").fetchone() == (1 + ONE_TIME,)
                upload = bob.mail._upload

                async def then_full(prekeys: Any) -> None:
                    await upload(prekeys)
                    disk.reason = FULL

                world.mail.execute("DELETE FROM prekeys")
                bob.mail._upload = then_full  # type: ignore[method-assign]
                bob.mail.hear_state(await bob.mail._ask_state())
                await trio.sleep(1)
                bob.mail._upload = upload  # type: ignore[method-assign]
                disk.reason = ""
                await trio.sleep(LONG)
                assert world.mail.execute("SELECT count(*) FROM prekeys").fetchone() == (1 + ONE_TIME,)
                assert bob.ended is None


async def test_a_full_disk_from_the_login_on(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    async with two(disk) as both, both.world.client("carol", wall_ms=wall_ms) as carol:
        await carol.write("bob", "hello")
        await settle(carol)
        await both.bob.exit()
        await both.rest()
        number = both.bob.messages.write("carol", "queued")
        await carol.write("bob", "again")
        await settle(carol)
        with disk.full():
            async with both.world.client("bob", wall_ms=wall_ms) as bob:
                await trio.sleep(LONG)
                assert bob.ended is None
                assert {each.user for each in (await bob.list_users()).entries} == {"alice", "bob", "carol"}
                disk.reason = ""
                await trio.sleep(LONG)
                events, carols = await settle(bob, carol)
                assert [each.text for each in events if isinstance(each, ev.MessageReceived)] == ["again"]
                assert [each.text for each in carols if isinstance(each, ev.MessageReceived)] == ["queued"]
                assert len([each for each in events if isinstance(each, ev.StorageTrouble)]) == 1
                assert bob.messages.message(number).state is State.DELIVERED


# a file that is damaged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sqlite3.OperationalError(FULL), CannotStore),
        (sqlite3.OperationalError("disk I/O error"), CannotStore),
        (sqlite3.OperationalError("database is locked"), CannotStore),
        (sqlite3.DatabaseError("database disk image is malformed"), UnusableSetup),
        (sqlite3.OperationalError("no such table: messages"), UnusableSetup),
    ],
)
def test_what_passes_and_what_does_not(error: sqlite3.Error, kind: type[UnusableSetup]) -> None:
    with Disk(early=True).inner as database, pytest.raises(UnusableSetup) as caught, transaction(database):
        raise error
    assert type(caught.value) is kind
    database.close()


async def test_a_damaged_file_ends_the_session(disk: Disk, autojump_clock: trio.testing.MockClock) -> None:
    async with two(disk) as both:
        with disk.full("database disk image is malformed"):
            await both.alice.write("bob", "one")
            await both.rest()
            (ended,) = both.of("bob", ev.Ended)
            said = "cannot use the account's database: database disk image is malformed; the file is damaged: "
            assert str(ended.error) == f"{said}put back a copy of it, or move it away"
