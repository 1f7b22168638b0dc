"""The prompt of an account whose server is away from the start: what works, what says so, and what follows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from messageapp.client.login import Account
from messageapp.client.unconnected import Unconnected
from messageapp.errors import CannotConnect, LoginRefused, ServerNotAuthenticated
from messageapp.store import messages as rows
from messageapp.store.states import Cause, State
from messageapp_cli.console import EndOfInput
from messageapp_cli.reconnect import Connections
from support.fake_console import settled
from support.site import Person, Site, open_site, sit_down
from support.world import SERVER_NAME

GREETING = [
    f"not connected to {SERVER_NAME}: nobody listens there",
    "What you write waits on this disk until then; conversations, history and search work.",
]
NOT_NOW = "error: not connected; trying again in 1 s"
# What asks the server. `verify live` and the like need a chat, and there is none.
ASKS = ["list", "chat bob", "acpt", "refu", "cach", "block bob", "unblock bob", "blocked"]


@asynccontextmanager
async def open_away() -> AsyncIterator[tuple[Site, Account]]:
    """A server that stores messages and is away, and alice, who has been there and has written to bob."""
    async with open_site(mail=True) as site:
        account = site.account("alice")
        async with sit_down(site, "bob"), sit_down(site, account) as alice:
            await trio.sleep(1)
            assert (await alice.type("msg bob first"))[0] == "#1 to bob"
            await trio.sleep(1)
            assert alice.repl.screen().known == ("bob",)
            await alice.type("exit")
        await site.stop()
        yield site, account


@asynccontextmanager
async def open_alice(site: Site, account: Account, *, plain: bool = False) -> AsyncIterator[Person]:
    async with sit_down(site, account, plain=plain, unconnected=partial(Unconnected, account, SERVER_NAME)) as alice:
        assert alice.new()[: len(GREETING)] == GREETING
        yield alice


@pytest.mark.parametrize("plain", [True, False])
async def test_what_lies_on_this_disk_works_without_the_server(
    autojump_clock: trio.testing.MockClock, plain: bool
) -> None:
    with trio.fail_after(10_000):
        async with open_away() as (site, account), open_alice(site, account, plain=plain) as alice:
            assert alice.repl.prompt() == "[SERVER-COMMAND]-> "
            state = "reconnecting in 1 s (2nd try): nobody listens there"
            assert alice.repl.toolbar() == f"{state} · alice@{SERVER_NAME} · help lists the commands"
            assert await alice.type("history bob") == ["#1 <alice> first (delivered)"]
            assert await alice.type("search first") == ["#1 to bob <alice> first"]
            assert await alice.type("msg bob second") == ["#2 to bob"]
            assert await alice.type("why 2") == [
                "#2 to bob, queued: There is no connection to the server; the next try is in 1 s."
                " It is on this disk and is sent then."
            ]
            assert "  #2 to bob  queued" in "".join(await alice.type("pending"))
            assert "1 queued" in alice.repl.toolbar()
            assert "bob is not verified" in await alice.type("verify bob")
            assert "error: no key of carol is known yet; chat first" in await alice.type("verify carol")
            await alice.type("to bob")
            assert alice.repl.prompt() == "[CHAT bob]-> "
            assert [one.text for one in alice.repl.complete("/hist")] == ["history "]
            await alice.type("third", "/exit", "delete 2")
            assert "#3" in "".join(await alice.type("pending"))
            assert [line.partition(":")[0] for line in await alice.type("status")] == ["reconnecting in 1 s (2nd try)"]


@pytest.mark.parametrize("line", ASKS)
async def test_what_asks_the_server_says_that_it_is_away(autojump_clock: trio.testing.MockClock, line: str) -> None:
    with trio.fail_after(10_000):
        async with open_away() as (site, account), open_alice(site, account) as alice:
            assert await alice.type(line) == [NOT_NOW]
            assert not alice.left


async def test_what_was_written_meanwhile_is_sent_when_the_server_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(10_000):
        async with open_away() as (site, account), open_alice(site, account) as alice:
            await alice.type("msg bob while you were away")
            await trio.sleep(300)
            async with site.back(), sit_down(site, "bob") as bob:
                told = await alice.type("reconnect")
                assert told[0].startswith("server certificate: subject ")
                assert "User Login Complete!" in told
                await trio.sleep(15)
                assert alice.new() == ["connected: 0 lost, 0 received"]
                assert "alice: while you were away  — 2 unread, to alice" in bob.new()
                assert await alice.type("history bob 1") == ["#2 <alice> while you were away (delivered)"]
                # From now on it is a connection like any other.
                await site.stop()
                assert alice.new() == ["connection lost; trying again"]
            await alice.type("exit")
            assert alice.left


async def test_messages_vanish_in_time_without_the_server(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10_000):
        async with open_away() as (site, account), open_alice(site, account) as alice:
            database = account.trust.database
            assert rows.find_message(database, SERVER_NAME, 1) is not None
            database.execute("UPDATE messages SET expires_ms = 1 WHERE number = 1")
            await trio.sleep(2)
            assert rows.find_message(database, SERVER_NAME, 1) is None
            assert await alice.type("why 1") == ["error: there is no message 1"]


async def test_a_crash_before_leaves_nothing_that_looks_under_way(autojump_clock: trio.testing.MockClock) -> None:
    """A message that a client was about to send when it was killed is explained as what it is."""
    with trio.fail_after(10_000):
        async with open_away() as (site, account), open_alice(site, account) as alice:
            await alice.type("msg bob second")
            rows.set_state(account.trust.database, 2, State.QUEUED, Cause.BUSY, 0)
            assert "There is no connection to the server" in "".join(await alice.type("why 2"))


@pytest.mark.parametrize("error", [LoginRefused(), ServerNotAuthenticated()])
async def test_what_only_the_user_can_mend_ends_it(
    autojump_clock: trio.testing.MockClock, error: LoginRefused | ServerNotAuthenticated
) -> None:
    with trio.fail_after(10_000):
        async with open_away() as (site, account):
            async with open_alice(site, account) as alice:
                site.error = error
                await trio.sleep(5)
                assert alice.new() == [f"error: {error}"]
                assert alice.left
                assert alice.error is error
            async with trio.open_nursery() as nursery:  # and at the first try no prompt comes at all
                connections = Connections(nursery, site.opening(account), unconnected=lambda _: pytest.fail("a prompt"))
                with pytest.raises(type(error)):
                    await connections.first()


async def test_leaving_before_the_server_came_is_an_error_for_who_started_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(10_000):
        async with open_away() as (site, account), open_alice(site, account) as alice:
            alice.console.put(EndOfInput())
            await settled()
            assert alice.left
            assert isinstance(alice.error, CannotConnect)
