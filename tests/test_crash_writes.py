"""Each statement of a database fails in its turn, as on a full disk: of a client's, and of the server's mailbox.

Two users write to each other, away, there, and in a chat. Whatever fails is said clearly, nothing that was acknowledged
is lost or comes twice, and with room again everything goes its way. Here a few statements fail, all of them in
`nox -s crash -- --writes`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from crash.figures import chosen
from messageapp.client import events as ev
from messageapp.client import prekeys
from messageapp.client.client import Client
from messageapp.client.client import State as Where
from messageapp.errors import MessageAppError, UnusableSetup
from messageapp.server import mailbox
from messageapp.store.mailbox import open_mailbox
from messageapp.store.states import State
from support.mail_desk import wall_ms
from support.mail_ends import FailingDatabase
from support.world import World, open_world, settle, some_limits

FULL = "database or disk is full"
LOOK_SECONDS = 0.1
SECONDS = 3000.0  # on the test's clock: the longest that a message waits for its next try is below
BROKEN_FOR = (1, 5)  # statements in a row


class FullForAWhile(FailingDatabase):
    """So many statements in a row fail, from `fail_at` on."""

    most = 1

    def _count(self, sql: str) -> None:
        if sql.startswith("ROLLBACK"):
            return
        self.statements += 1
        if self.fail_at is not None and self.fail_at <= self.statements < self.fail_at + self.most:
            raise sqlite3.OperationalError(FULL)


@dataclass
class User:
    """Who writes what is in `plan`, in order, and logs in again whenever the session is over."""

    world: World
    name: str
    peer: str
    plan: list[str]
    calls: bool = False
    wrote: list[str] = field(default_factory=list)
    shown: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    chats: int = 0
    seen_sent: set[int] = field(default_factory=set)
    client: Client | None = None

    async def live(self) -> None:
        while True:
            try:
                async with self.world.client(self.name, wall_ms=wall_ms) as client, trio.open_nursery() as nursery:
                    self.client = client
                    nursery.start_soon(self._write, client)
                    await self._watch(client, nursery)
                    nursery.cancel_scope.cancel()
            except* MessageAppError as group:
                self.errors += [str(error) for error in _leaves(group)]
            await trio.sleep(LOOK_SECONDS)

    async def _watch(self, client: Client, nursery: trio.Nursery) -> None:
        async for event in client.events:
            match event:
                case ev.MessageReceived() | ev.TextReceived():
                    self.shown[event.text] += 1
                case ev.MessageChanged(number=number, state="sent" | "delivered"):
                    self.seen_sent.add(number)
                case ev.IncomingCall():
                    nursery.start_soon(self._try, client.accept)
                case ev.Ended(error=error):
                    self.errors.append(str(error))
                case ev.StorageTrouble(reason):
                    self.errors.append(reason)
                case (
                    ev.MessageUnreadable() | ev.UndecryptableText()
                ):  # held it may be, while its sender has no prekeys yet
                    raise AssertionError(event)
                case ev.ChatSecure():
                    self.chats += 1

    async def _write(self, client: Client) -> None:
        while self.plan:
            match self.plan[0]:
                case "call":
                    while client.state is not Where.CHAT and client.ended is None:
                        if client.state is Where.ONLINE:
                            await self._try(lambda: client.chat(self.peer))
                        await trio.sleep(LOOK_SECONDS)
                case "leave":
                    await self._try(client.leave)
                case text:
                    try:
                        await client.write(self.peer, text)
                    except UnusableSetup as error:
                        self.errors.append(str(error))
                        await trio.sleep(LOOK_SECONDS)
                        continue  # it says that nothing was sent: the user tries again
                    self.wrote.append(text)
            if client.ended is not None and self.plan[0] == "call":
                return
            self.plan.pop(0)
            await trio.sleep(LOOK_SECONDS)

    async def _try(self, act: Any) -> None:
        try:
            await act()
        except UnusableSetup as error:
            self.errors.append(str(error))
        except MessageAppError:
            pass

    def at_rest(self) -> bool:
        client = self.client
        try:
            return not self.plan and client is not None and client.ended is None and not client.messages.pending()
        except UnusableSetup:  # it was this statement that failed
            return False


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [leaf for each in group.exceptions for leaf in (_leaves(each) if hasattr(each, "exceptions") else [each])]


@dataclass
class Evening:
    """One run; `at` is the first statement that fails, `most` how many do."""

    world: World
    alice: User = field(init=False)
    bob: User = field(init=False)

    def __post_init__(self) -> None:
        self.alice = User(self.world, "alice", "bob", ["a1", "a2", "call", "a3", "a4", "leave", "a5", "a6"])
        self.bob = User(self.world, "bob", "alice", ["b1", "b2", "b3", "b4"])

    async def run(self) -> None:
        async with self.world.client("bob", wall_ms=wall_ms):  # so that there are prekeys
            await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.alice.live)
            await trio.sleep(1)  # what alice writes first waits at the server
            nursery.start_soon(self.bob.live)
            await self._until_rest()
            await self._a_last_one_each()
            nursery.cancel_scope.cancel()

    def check(self) -> None:
        for one, other in ((self.alice, self.bob), (self.bob, self.alice)):
            self._check(one, other)

    async def _a_last_one_each(self) -> None:
        for user in (self.alice, self.bob):
            user.plan.append(f"the last of {user.name}")
            assert user.client is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(user._write, user.client)
        await self._until_rest()

    async def _until_rest(self) -> None:
        while not (self.alice.at_rest() and self.bob.at_rest()):  # noqa: ASYNC110 - as a person looks
            await trio.sleep(LOOK_SECONDS)

    def _check(self, sender: User, receiver: User) -> None:
        assert sender.client is not None
        assert receiver.client is not None
        own = [each for each in sender.client.messages.history(receiver.name, 1000) if each.own]
        theirs = [each for each in receiver.client.messages.history(sender.name, 1000) if not each.own]
        assert [each.text for each in own] == sender.wrote, "what was refused is not there, all else is"
        assert {each.state for each in own} <= {State.DELIVERED, State.READ}
        assert sender.seen_sent <= {each.number for each in own}
        assert sorted(str(each.text) for each in theirs) == sorted(sender.wrote), "each once"
        assert {each.id: each.text for each in theirs} == {each.id: each.text for each in own}
        assert max(receiver.shown.values()) == 1
        assert set(receiver.shown) <= set(sender.wrote)


@pytest.fixture(autouse=True)
def few_prekeys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prekeys, "ONE_TIME", 4)
    monkeypatch.setattr(prekeys, "REFILL", 2)


@contextmanager
def failing_database(kind: str, at: int | None, most: int, tmp: Any) -> Iterator[FullForAWhile]:
    if kind == "account":
        database = FullForAWhile()
    else:
        source = open_mailbox(tmp / f"mail-{at}-{most}.db")
        database = FullForAWhile(source)
        source.close()
    database.fail_at, database.most = at, most
    try:
        yield database
    finally:
        database.close()


async def evening(kind: str, at: int | None, most: int, tmp: Any) -> tuple[Evening, int]:
    """(what happened, how many statements there were)"""
    with failing_database(kind, at, most, tmp) as database:
        options: dict[str, Any] = {"database": database} if kind == "mail" else {}
        async with open_world(mail={"wall_ms": wall_ms, **options}) as world:
            if kind == "account":
                world.trusts["alice"] = database  # type: ignore[assignment]
            found = Evening(world)
            with trio.fail_after(SECONDS):
                await found.run()
            statements, database.fail_at = database.statements, None
            found.check()
            return found, statements


@pytest.mark.parametrize("most", BROKEN_FOR)
@pytest.mark.parametrize("kind", ["account", "mail"])
async def test_each_statement_fails_once(
    kind: str, most: int, tmp_path: Any, autojump_clock: trio.testing.MockClock
) -> None:
    smooth, statements = await evening(kind, None, 0, tmp_path)
    assert (smooth.alice.errors, smooth.bob.errors) == ([], [])
    assert (smooth.alice.chats, smooth.bob.chats) == (1, 1)
    assert statements > 100
    told = 0
    for at in chosen(f"{kind} {most}", statements):
        found, _ = await evening(kind, at, most, tmp_path)
        said = found.alice.errors + found.bob.errors
        assert all(FULL in each for each in said), (at, said)
        told += bool(said)
    assert bool(told) == (kind == "account"), "a client's user is told; for the server each is tried again"


async def _enrol(world: World, *names: str) -> None:
    for name in names:
        async with world.client(name, wall_ms=wall_ms) as client:
            await settle(client)


async def test_mail_that_cannot_be_read_at_a_login_comes_when_it_can(
    tmp_path: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """The session stayed without its mail to its end."""
    with failing_database("mail", None, 4, tmp_path) as database, trio.fail_after(SECONDS):
        async with open_world(mail={"wall_ms": wall_ms, "database": database}) as world:
            await _enrol(world, "bob")
            async with world.client("alice", wall_ms=wall_ms) as alice:
                await alice.write("bob", "hello")
                await settle(alice)
            database.fail_at = database.statements + 1
            async with world.client("bob", wall_ms=wall_ms) as bob:
                async for event in bob.events:
                    if isinstance(event, ev.MessageReceived):
                        break
                assert event.text == "hello"  # type: ignore[union-attr]


async def test_what_the_server_could_not_delete_comes_again_and_is_not_shown_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Nor does it take a place of the window: everything else comes."""

    def failing(*arguments: Any, **others: Any) -> None:
        raise sqlite3.OperationalError(FULL)

    with trio.fail_after(SECONDS):
        async with open_world(some_limits(mail_window=4), mail={"wall_ms": wall_ms}) as world:
            await _enrol(world, "bob")
            async with world.client("alice", wall_ms=wall_ms) as alice:
                texts = [f"text {number}" for number in range(10)]
                for text in texts:
                    await alice.write("bob", text)
                await settle(alice)
            with monkeypatch.context() as patch:
                patch.setattr(mailbox, "drop_seqs", failing)
                async with world.client("bob", wall_ms=wall_ms) as bob:
                    assert await _shown(bob) == texts
            assert world.mail is not None
            waiting = "SELECT count(*) FROM mail WHERE folded = 'bob'"
            assert world.mail.execute(waiting).fetchone() == (10,)
            async with world.client("bob", wall_ms=wall_ms) as bob:
                assert await _shown(bob) == []
            assert world.mail.execute(waiting).fetchone() == (0,)


async def _shown(client: Client) -> list[str]:
    (events,) = await settle(client)
    return [event.text for event in events if isinstance(event, ev.MessageReceived)]
