"""Coming back after the connection was lost: the pauses, what is tried again and what ends, many clients at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from messageapp.client import events as ev
from messageapp.client.client import Client
from messageapp.client.login import Account
from messageapp.client.trust import Trust
from messageapp.errors import (
    CannotConnect,
    ConnectionCut,
    LoginRefused,
    MessageAppError,
    RemoteProtocolError,
    ServerBusy,
    ServerGoodbye,
    ServerNotAuthenticated,
    UnusableSetup,
)
from messageapp.sim.materials import memory_database
from messageapp.store.states import Cause, State
from messageapp.wire.commands import Bye, ByeReason
from messageapp.wire.joining import Invitation
from messageapp_cli.console import EndOfInput, Interrupt
from messageapp_cli.reconnect import (
    FIRST_SECONDS,
    GOOD_SECONDS,
    LONGEST_SECONDS,
    Backoff,
    Connections,
    lost_by,
    returning,
)
from messageapp_cli.repl import Repl
from messageapp_keys.joincode import JoinCode
from messageapp_keys.kem import SWIFT
from messageapp_keys.types import InviteSecret
from support.fake_console import FakeConsole, settled
from support.site import Person, longest, open_site, sit_down
from support.world import SERVER_NAME, World, authority, hold_back, open_world, with_fake_server

LONGEST_EACH = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


CUT = "connection cut; the last messages may be missing"
RESUMED = "resumed: 0 lost, {} received"


# pauses ---------------------------------------------------------------------------------------------------------------


def test_the_pauses_double_up_to_a_minute() -> None:
    backoff = Backoff(longest)
    assert [backoff.next() for _ in LONGEST_EACH] == LONGEST_EACH
    assert (FIRST_SECONDS, LONGEST_SECONDS) == (1, 60)
    backoff.tries = 10**9
    assert backoff.next() == 60
    backoff.reset()
    assert [backoff.next() for _ in range(3)] == LONGEST_EACH[:3]


@given(st.integers(1, 10_000))
def test_each_pause_is_drawn_from_the_whole_of_it(tries: int) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    backoff = Backoff(uniform, tries)
    assert backoff.next() == 0
    assert drawn == [(0.0, LONGEST_EACH[min(tries, 9)])]
    assert backoff.tries == tries + 1


def test_no_two_clients_keep_step() -> None:
    """The generator that is really used: pauses differ, and lie in all parts of what they may be."""
    pauses = [Backoff(tries=9).next() for _ in range(1000)]
    assert len(set(pauses)) > 990
    tenths = Counter(int(pause / 6) for pause in pauses)
    assert set(tenths) <= set(range(10))
    assert all(tenths[part] > 50 for part in range(10))


# one client after the other -------------------------------------------------------------------------------------------


@dataclass
class Server:
    """Openings that come to what the test says: an error, or a client (a number)."""

    outcomes: list[MessageAppError | int]
    asked: list[float] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    takes: float = 0.0  # seconds for each login

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[Client]:
        assert not self.open, "two clients at once"
        self.asked.append(trio.current_time())
        await trio.sleep(self.takes)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, MessageAppError):
            raise outcome
        self.open.append(outcome)
        try:
            yield cast(Client, outcome)
        finally:
            await trio.lowlevel.cancel_shielded_checkpoint()
            self.open.remove(outcome)

    def pauses(self) -> list[float]:
        """Between the tries after the first login."""
        return [later - earlier for earlier, later in zip(self.asked[1:], self.asked[2:], strict=False)]


@asynccontextmanager
async def connections_to(
    *outcomes: MessageAppError | int, uniform: Callable[[float, float], float] = longest
) -> AsyncIterator[tuple[Connections, Server]]:
    """Logged in once."""
    server = Server([1, *outcomes])
    async with trio.open_nursery() as nursery:
        connections = Connections(nursery, server.opening, Backoff(uniform))
        assert await connections.first() == cast(Client, 1)
        assert server.open == [1]
        yield connections, server
        nursery.cancel_scope.cancel()
    assert server.open == []


async def test_the_first_try_is_made_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10_000):
        async with connections_to(2) as (connections, server):
            await trio.sleep(GOOD_SECONDS)
            assert (connections.lost, connections.text) == (False, "")
            lost = trio.current_time()
            assert await connections.again() == cast(Client, 2)
            assert server.asked[1] == lost
            assert server.open == [2]
            assert (connections.lost, connections.text) == (False, "")


async def test_each_later_try_waits_for_its_pause(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10_000):
        errors = [CannotConnect("nobody listens"), ServerBusy(), *[CannotConnect() for _ in range(7)]]
        async with connections_to(*errors, 2) as (connections, server):
            await trio.sleep(GOOD_SECONDS)
            await connections.again()
            assert server.pauses() == pytest.approx(LONGEST_EACH[1:])


async def test_only_a_good_session_starts_the_pauses_anew(autojump_clock: trio.testing.MockClock) -> None:
    """A server that lets us in and cuts us off at once is not asked again and again without a pause."""
    with trio.fail_after(10_000):
        async with connections_to(2, 3, 4, 5, 6) as (connections, server):
            await connections.again()
            await connections.again()
            await connections.again()
            assert server.pauses() == pytest.approx([1.0, 2.0])
            await trio.sleep(GOOD_SECONDS - 1)
            await connections.again()
            assert server.pauses()[2] == pytest.approx(GOOD_SECONDS - 1 + 4.0)
            await trio.sleep(GOOD_SECONDS)
            lost = trio.current_time()
            await connections.again()
            assert server.asked[-1] == lost


async def test_what_the_bottom_line_counts_down(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10_000):
        server = Server([1, CannotConnect("nobody listens"), CannotConnect("nobody listens"), 2], takes=0.25)
        seen: list[str] = []
        async with trio.open_nursery() as nursery:
            connections = Connections(nursery, server.opening, Backoff(lambda low, high: high * 0.9))
            connections.changed = lambda: seen.append(f"{connections.text} | {connections.advice}")
            await connections.first()
            assert seen == []
            await connections.again()
            nursery.cancel_scope.cancel()
    now, soon = "not connected; trying again now", "not connected; trying again in"
    assert [line for line, before in zip(seen, ["", *seen], strict=False) if line != before] == [
        f"reconnecting … (1st try) | {now}",
        f"reconnecting in 1 s (2nd try): nobody listens | {soon} 1 s",
        f"reconnecting … (2nd try): nobody listens | {now}",
        f"reconnecting in 2 s (3rd try): nobody listens | {soon} 2 s",
        f"reconnecting in 1 s (3rd try): nobody listens | {soon} 1 s",
        f"reconnecting … (3rd try): nobody listens | {now}",
        f" | {now}",
    ]


@pytest.mark.parametrize(
    ("tries", "ordinal"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st"), (113, "113th")],
)
async def test_how_tries_are_counted(tries: int, ordinal: str) -> None:
    async with connections_to() as (connections, _):
        connections._backoff.tries = tries
        connections._left = 4
        assert connections.text == f"reconnecting in 4 s ({ordinal} try)"


async def test_the_user_need_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10_000):
        errors = [CannotConnect() for _ in range(9)]
        async with connections_to(*errors, 2) as (connections, server), trio.open_nursery() as nursery:
            connections.hurry()  # of no use while there is nothing to wait for
            nursery.start_soon(connections.again)
            await trio.sleep(100)
            tried = len(server.asked)
            assert "in 2" in connections.text
            connections.hurry()
            await settled()
            assert len(server.asked) == tried + 1
            await trio.sleep(59)
            assert len(server.asked) == tried + 1
            await trio.sleep(2)
            assert len(server.asked) == tried + 2


@pytest.mark.parametrize(
    "error",
    [
        LoginRefused(),
        ServerNotAuthenticated(),
        ServerNotAuthenticated("what answers there does not speak MessageApp"),
        UnusableSetup("the disk is full"),
        RemoteProtocolError("no"),
    ],
)
async def test_what_a_later_try_would_meet_as_well_is_raised(
    autojump_clock: trio.testing.MockClock, error: MessageAppError
) -> None:
    with trio.fail_after(10_000):
        async with connections_to(CannotConnect(), error, 2) as (connections, server):
            with pytest.raises(type(error)) as caught:
                await connections.again()
            assert caught.value is error
            assert len(server.asked) == 3
            assert server.open == []


@pytest.mark.parametrize("error", [CannotConnect("nobody listens"), LoginRefused(), ServerNotAuthenticated()])
async def test_the_first_login_is_not_tried_again(error: MessageAppError) -> None:
    with trio.fail_after(10_000):
        server = Server([error, 1])
        async with trio.open_nursery() as nursery:
            with pytest.raises(type(error)) as caught:
                await Connections(nursery, server.opening).first()
            assert caught.value is error  # and no group of it
        assert len(server.asked) == 1


@pytest.mark.parametrize("after", [0.1, 1.5, 2.0])
async def test_to_be_cancelled_leaves_nothing_behind(autojump_clock: trio.testing.MockClock, after: float) -> None:
    """In a pause and in a login."""
    with trio.fail_after(10_000):
        server = Server([1, CannotConnect(), 2], takes=1.0)
        async with trio.open_nursery() as nursery:
            connections = Connections(nursery, server.opening, Backoff(longest))
            await connections.first()
            with trio.move_on_after(after) as scope:
                await connections.again()
            assert scope.cancelled_caught
            await settled()
            assert server.open == []
            assert not nursery.child_tasks


GOODBYES = {
    ByeReason.EXIT: False,
    ByeReason.SHUTDOWN: True,
    ByeReason.REPLACED: False,
    ByeReason.AGE: True,
    ByeReason.SLOW: True,
    ByeReason.REMOVED: False,
    77: False,
}


async def test_which_ends_a_new_connection_mends() -> None:
    assert {reason for reason in GOODBYES if reason != 77} == set(ByeReason)
    async with connections_to() as (connections, _):
        assert connections.mends(ConnectionCut())
        assert {reason: connections.mends(ServerGoodbye("", reason)) for reason in GOODBYES} == GOODBYES
        others: list[MessageAppError | None] = [None, RemoteProtocolError("no"), UnusableSetup("damaged")]
        assert not any(map(connections.mends, others))


# at the prompt --------------------------------------------------------------------------------------------------------


async def chat(alice: Person, bob: Person) -> None:
    await alice.type("chat bob")
    assert "CHAT IS SECURE! with alice" in await bob.type("acpt")


@pytest.mark.parametrize("kill", [True, False])
@pytest.mark.parametrize("plain", [True, False])
async def test_the_server_goes_and_comes_back(autojump_clock: trio.testing.MockClock, kill: bool, plain: bool) -> None:
    with trio.fail_after(10_000):
        async with open_site() as site, sit_down(site, "alice", plain=plain) as alice:
            await trio.sleep(GOOD_SECONDS)
            before = alice.connections.text
            await site.stop(kill=kill)
            told = "connection cut; the last messages may be missing" if kill else "error: the server is shutting down"
            assert alice.new() == [told]
            assert not alice.left
            assert before == ""
            state = "reconnecting in 1 s (2nd try): nobody listens there"
            assert alice.repl.toolbar() == f"{state} · alice@chat.example · help lists the commands"
            assert alice.repl.prompt() == "[SERVER-COMMAND]-> "
            await trio.sleep(3.1)
            assert "reconnecting in 4 s (4th try)" in alice.repl.toolbar()

            # Typing goes on; what needs the server says so, what does not works.
            not_now = "error: not connected; trying again in 4 s"
            assert await alice.type("list") == [not_now]
            assert await alice.type("chat bob", "block bob") == [not_now] * 2
            assert "status" in "".join(await alice.type("help"))
            assert await alice.type("listx y") != []

            async with site.back():
                assert await alice.type("reconnect") == []
                assert "alice@chat.example · login " in alice.repl.toolbar()
                assert await alice.type("list") == ["Online users:", "alice"]
                await trio.sleep(15)
                assert alice.new() == ["resumed: 0 lost, 0 received"]
                assert await alice.type("reconnect") == ["error: the connection is up"]
                assert await alice.type("exit") == []
                assert alice.left
                assert alice.error is None


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("mail", [True, False])
async def test_a_line_half_typed_for_a_chat_is_not_taken_for_a_command(
    autojump_clock: trio.testing.MockClock, mail: bool, plain: bool
) -> None:
    """Where messages are stored it becomes one; a script is told that nothing was sent."""
    with trio.fail_after(10_000):
        async with (
            open_site(mail=mail) as site,
            sit_down(site, "alice", plain=plain) as alice,
            sit_down(site, "bob") as bob,
        ):
            await chat(alice, bob)
            assert alice.repl.prompt() == "[CHAT]-> "
            await site.stop()
            assert alice.new()[-1] == CUT
            bob.new()
            stays = mail and not plain
            assert alice.repl.prompt() == ("[CHAT bob]-> " if stays else "[SERVER-COMMAND]-> ")
            not_sent = "error: the chat is over; not sent: list of what to buy"
            assert await alice.type("list of what to buy") == ([] if stays else [not_sent])
            async with site.back():
                await trio.sleep(60)
                assert bob.new() == (
                    ["#1 <alice> list of what to buy", RESUMED.format(1)] if stays else [RESUMED.format(0)]
                )
                assert alice.new() == [RESUMED.format(0)]
                if stays:
                    assert alice.repl.toolbar().startswith("#1 delivered · alice@chat.example · login ")
                for person in (alice, bob):
                    if person.repl.prompt() != "[SERVER-COMMAND]-> ":
                        assert await person.type("/exit") == []
                await chat(alice, bob)
                await alice.type("hello again")
                assert bob.new()[-1].endswith("<alice> hello again")


@pytest.mark.parametrize("mail", [True, False])
async def test_what_is_lost_is_counted(autojump_clock: trio.testing.MockClock, mail: bool) -> None:
    """A text is on its way to bob when the connection is cut. Where messages are stored it comes all the same."""
    with trio.fail_after(10_000):
        async with open_site(mail=mail) as site, sit_down(site, "alice") as alice, sit_down(site, "bob") as bob:
            await chat(alice, bob)
            await alice.type("arrives")
            assert bob.new()[-1].endswith("<alice> arrives")
            hold_back(site.far)  # bob's
            await alice.type("is it there?")
            await site.stop()
            for person in (alice, bob):
                assert person.new()[-1] == CUT
            async with site.back():
                await trio.sleep(60)
                came = [line for line in bob.console.lines if line.endswith("is it there?")]
                assert len(came) == int(mail)
                assert alice.new()[-1] == f"resumed: {int(not mail)} lost, 0 received"
                assert bob.new()[-1] == RESUMED.format(int(mail))


@pytest.mark.parametrize(
    ("event", "count"),
    [
        (ev.Missing("bob", 3), 3),
        (ev.NotDelivered("bob", "text", "reason"), 1),
        (ev.MessageChanged(1, "bob", State.SENT, Cause.UNCONFIRMED), 1),
        (ev.MessageChanged(1, "bob", State.FAILED, Cause.CHAT_CUT), 1),
        (ev.MessageChanged(1, "bob", State.SENT, Cause.AT_SERVER), 0),
        (ev.MessageChanged(1, "bob", State.QUEUED, Cause.NOT_CONNECTED), 0),
        (ev.Ended(ConnectionCut()), 0),
    ],
)
def test_what_counts_as_lost(event: ev.Event, count: int) -> None:
    assert lost_by(event) == count


async def test_what_came_meanwhile_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    """Alice is back at once and writes; bob takes longer."""
    with trio.fail_after(10_000):
        async with (
            open_site(mail=True) as site,
            sit_down(site, "alice", uniform=lambda low, high: high / 10) as alice,
            sit_down(site, "bob") as bob,
        ):
            await trio.sleep(GOOD_SECONDS)  # both have left prekeys
            await site.stop()
            assert alice.new() == bob.new() == ["connection lost; trying again"]
            await alice.type("msg bob one")
            assert " queued" in alice.repl.toolbar()
            async with site.back():
                await alice.type("reconnect")
                await alice.type("msg bob two")
                assert bob.connections.lost
                await trio.sleep(30)
                assert bob.new()[-2:] == ["alice: two  — 2 unread, to alice", RESUMED.format(2)]
                assert (await bob.type("history alice"))[-2:] == ["#1 <alice> one", "#2 <alice> two"]
                assert alice.new()[-1] == RESUMED.format(0)
                assert alice.repl.toolbar().startswith("#2 delivered · alice@chat.example · login ")


@pytest.mark.parametrize("how", ["exit", "Ctrl-C", "Ctrl-D"])
@pytest.mark.parametrize("trying", [True, False])
async def test_who_leaves_meanwhile_need_not_wait(
    autojump_clock: trio.testing.MockClock, how: str, trying: bool
) -> None:
    """Neither for a pause nor for a server that says nothing; the exit code is that of the lost connection."""
    with trio.fail_after(10_000):
        async with open_site() as site, sit_down(site, "alice") as alice:
            await site.stop()
            if trying:
                site.now = silent = World(None, None, None, None)  # type: ignore[arg-type]
                await trio.sleep(2)
                assert "reconnecting … (2nd try)" in alice.connections.text
                assert silent.listener.send.statistics().current_buffer_used == 1
            started = trio.current_time()
            if how == "exit":
                await alice.type("exit")
            else:
                alice.console.put(Interrupt(had_text=False) if how == "Ctrl-C" else EndOfInput())
            await settled()
            assert alice.left
            assert trio.current_time() == started
            assert type(alice.error) is ConnectionCut
            assert alice.error.exit_code == 5
            assert not any("Press Ctrl-C once more" in line for line in alice.console.lines)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LoginRefused(), "error: the server refused the login: unknown user, or another key than the one it has"),
        (ServerNotAuthenticated(), "error: the server could not prove who it is"),
    ],
)
async def test_who_is_not_let_in_again_is_told_why(
    autojump_clock: trio.testing.MockClock, error: MessageAppError, told: str
) -> None:
    with trio.fail_after(10_000):
        async with open_site() as site, sit_down(site, "alice") as alice:
            await site.stop()
            site.error = error
            await trio.sleep(2)
            assert alice.left
            assert alice.error is error
            assert alice.new()[-1] == told


async def test_a_user_who_was_removed_is_not_let_in_again(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10_000):
        async with open_site() as site, sit_down(site, "alice") as alice:
            await site.stop()
            async with site.back() as world:
                world.directory.remove("alice")
                await trio.sleep(2)
                assert type(alice.error) is LoginRefused


@pytest.mark.parametrize("reason", [reason for reason, mended in GOODBYES.items() if not mended])
async def test_goodbyes_that_are_the_end(autojump_clock: trio.testing.MockClock, reason: int) -> None:
    with trio.fail_after(10_000):
        async with (
            open_world() as world,
            with_fake_server(world, "alice") as (client, server),
            trio.open_nursery() as nursery,
        ):
            connections = Connections(nursery, no_opening)
            person = Person(Repl(client, plain=True, connections=connections), connections)
            nursery.start_soon(person.run)
            await server.event("byee", Bye(reason))
            await settled()
            assert person.left
            assert isinstance(person.error, ServerGoodbye)
            assert person.error.reason == reason


@asynccontextmanager
async def no_opening() -> AsyncIterator[Client]:
    raise AssertionError("a second connection")
    yield


async def test_what_was_accepted_for_one_login_is_not_accepted_again() -> None:
    async with open_site() as site:
        account = site.account("alice", trust_server=True, port=1, on_proved=lambda: pytest.fail("a second enrolment"))
        assert returning(account) is account  # it has not been there yet
        async with site.opening(replace(account, on_proved=lambda: None))():
            pass
        again = returning(replace(account, revoked=cast(Any, "a list of then")))
        assert (again.trust_server, again.revoked) == (False, None)
        assert again.authority == authority()[1]
        again.on_proved()
        assert (again.user, again.device, again.server, again.port) == ("alice", None, account.server, 1)
        joined = returning(replace(account, authority=Invitation.of(CODE)))
        assert joined.authority == authority()[1]


CODE = JoinCode("chat.example", 1, "alice", bytes(32), InviteSecret(bytes(16)))


async def test_all_clients_come_back_by_themselves_and_not_at_one_moment(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 of them; the server is away for 20 s. The pauses are the real ones, out of the real generator."""
    monkeypatch.setattr("messageapp.client.online.REFRESH_SECONDS", 1000)  # 200 lists of 200 are most of the work
    names = [f"user{number}" for number in range(200)]
    with trio.fail_after(10_000), ExitStack() as stack:
        async with open_site() as site, trio.open_nursery() as nursery:
            everyone: list[Connections] = []
            identity = site.account("alice").identity
            for name in names:
                site.enrol(name, identity.bundle)
                database = stack.enter_context(closing(memory_database("account")))
                trust = Trust(database, name, identity.bundle, lambda: 0)
                account = Account(name, identity, authority()[1], trust, SERVER_NAME, suites=(SWIFT,))
                connections = Connections(nursery, site.opening(account))
                everyone.append(connections)
                repl = Repl(await connections.first(), plain=True, connections=connections)
                nursery.start_soon(repl.run, FakeConsole())
            await settled()
            site.dialled.clear()
            await site.stop()
            assert site.dialled == [trio.current_time()] * 200  # the first try
            await trio.sleep(20)
            assert all(connections.lost for connections in everyone)
            site.dialled.clear()
            async with site.back() as world:
                while any(connections.lost for connections in everyone):  # noqa: ASYNC110 - on the mock clock
                    await trio.sleep(1)
                assert len(list(world.server.router.sessions())) == 200
                assert len(site.dialled) == 200  # each at its first try at the server that is back
                seconds = Counter(int(moment) for moment in site.dialled)
                assert max(seconds.values()) < 60
                assert len(seconds) > 10
                nursery.cancel_scope.cancel()
