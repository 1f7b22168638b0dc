"""Programs that are stopped or killed, at any moment: who is left is told, and everybody can begin again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from faults.figures import note, percentiles, seeded, short_or_long
from faults.persons import Person, Steps, integrity
from messageapp.client import events as ev
from messageapp.client.client import Client, State
from messageapp.errors import CannotConnect, ConnectionCut, MessageAppError, RemoteProtocolError, ServerGoodbye
from support.processes import SECONDS, Program, Site, open_site

TEXTS = 15  # in each direction
AHEAD = 2  # texts that one types before the other has seen them
STEPS = 60  # reads and writes of both clients, from the first connection to the last text, are about so many
KILLS = short_or_long(10, 200)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path, serving=False) as opened:
        yield opened


# SIGSTOP --------------------------------------------------------------------------------------------------------------


def test_a_stopped_peer_is_noticed(site: Site) -> None:
    site.enrol("alice", "bob")
    server = site.serve("--limit", "ping_seconds=0.5", "--limit", "dead_seconds=3")
    alice, bob = site.client("alice"), site.client("bob")
    site.chat(alice, "alice", bob, "bob")
    bob.signal(signal.SIGSTOP)
    alice.send("are you there?")
    assert alice.until("bob ") == "bob disconnected"
    server.until_err(lambda log: " is silent" in log)
    bob.signal(signal.SIGCONT)
    bob.until("connection cut; the last messages may be missing")
    assert bob.finish(close=False) == 5
    again = site.client("bob")
    site.chat(again, "bob", alice, "alice")
    assert (again.finish(), alice.finish()) == (0, 0)


# kill -9 --------------------------------------------------------------------------------------------------------------


@dataclass
class Shown:
    """What one side typed and what the other saw of it, in one chat."""

    said: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Nothing twice, nothing altered, nothing in another order, nothing missing in between."""
        assert self.seen == self.said[: len(self.seen)]
        assert len(set(self.said)) == len(self.said)


@dataclass
class Chat:
    """alice calls bob, and each types so many texts."""

    people: tuple[Person, Person]
    steps: Steps
    number: int
    shown: dict[str, Shown] = field(default_factory=lambda: {"alice": Shown(), "bob": Shown()})  # by who typed it
    secure: int = 0
    places: dict[str, trio.Semaphore] = field(
        default_factory=lambda: {name: trio.Semaphore(AHEAD) for name in ("alice", "bob")}
    )
    bob_is_there: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for person in self.people:
                nursery.start_soon(self._live, person)

    async def _live(self, person: Person) -> None:
        try:
            async with person.online(self.steps) as client, trio.open_nursery() as nursery:
                if person.name == "alice":
                    await self.bob_is_there.wait()
                    await client.chat("bob")
                else:
                    self.bob_is_there.set()
                await self._watch(person.name, client, nursery)
                nursery.cancel_scope.cancel()
        except* (CannotConnect, ConnectionCut, ServerGoodbye):
            pass  # that is what a dead server looks like; a broken protocol is something else
        finally:
            self.bob_is_there.set()

    async def _watch(self, name: str, client: Client, nursery: trio.Nursery) -> None:
        other = "bob" if name == "alice" else "alice"
        heard = self.shown[other]
        async for event in client.events:
            match event:
                case ev.IncomingCall():
                    await client.accept()
                case ev.ChatSecure():
                    self.secure += 1
                    nursery.start_soon(self._type, name, client)
                case ev.TextReceived():
                    heard.seen.append(event.text)
                    self.places[other].release()
                    if all(len(shown.seen) == TEXTS for shown in self.shown.values()):
                        await client.exit()
                case ev.Ended(RemoteProtocolError()):
                    raise AssertionError(event)
                case ev.Ended() | ev.ChatOver() | ev.ChatFailed():
                    return
                case ev.Missing() | ev.UndecryptableText() | ev.NotDelivered():
                    raise AssertionError(event)

    async def _type(self, name: str, client: Client) -> None:
        for number in range(TEXTS):
            text = f"{name} {self.number} {number}"
            await self.places[name].acquire()
            self.shown[name].said.append(text)
            try:
                await client.say(text)
            except MessageAppError:
                return


async def test_the_server_is_killed_at_any_moment(site: Site) -> None:
    people = Person(site, "alice"), Person(site, "bob")
    random, starts, secure, seen = seeded("server kills"), list[float](), 0, 0
    with trio.fail_after(10 * SECONDS):
        for number in range(KILLS):
            began = time.monotonic()
            server = site.serve(port=site.port)
            starts.append(time.monotonic() - began)
            chat = Chat(people, Steps(random.randrange(1, STEPS), server.process.kill), number)
            await chat.run()
            server.kill()
            for shown in chat.shown.values():
                shown.check()
                seen += len(shown.seen)
            secure += chat.secure == 2
            integrity(site, "alice", "bob")
            assert "error" not in server.err
        site.serve(port=site.port)
        last = Chat(people, Steps(0, site.end_clients), KILLS)
        await last.run()
    assert [len(shown.seen) for shown in last.shown.values()] == [TEXTS, TEXTS]
    for shown in last.shown.values():
        shown.check()
    note(f"server killed {KILLS} times: chats that were secure, texts seen before", f"{secure} / {seen}")
    note("steps of a whole chat", last.steps.taken)
    percentiles("start of the server after a kill", starts)
    assert last.steps.taken > STEPS / 2
    assert 0 < secure < KILLS, "some points lie before, some in the chat"


Point = tuple[str, float]


def points(count: int) -> list[Point]:
    """When alice is killed: so many seconds after her start, lines of her output, or texts that bob has seen."""
    random = seeded("client kills")
    kinds: list[Callable[[], Point]] = [
        lambda: ("seconds", random.uniform(0.05, 0.8)),
        lambda: ("lines", random.randrange(1, 14)),
        lambda: ("texts", random.randrange(1, TEXTS)),
    ]
    return [kinds[number % len(kinds)]() for number in range(count)]


async def test_a_client_is_killed_at_any_moment(site: Site) -> None:
    bob = Person(site, "bob")
    Person(site, "alice")
    site.serve()
    secure = seen = 0
    with trio.fail_after(10 * SECONDS):
        async with bob.online() as client:
            for number, point in enumerate(points(KILLS)):
                shown = await call_from_a_program(site, client, number, point)
                shown.check()
                secure += bool(shown.seen)
                seen += len(shown.seen)
                integrity(site, "alice")
            shown = await call_from_a_program(site, client, KILLS, ("texts", TEXTS))
            assert shown.seen == shown.said
    note(f"client killed {KILLS} times: chats with texts, texts seen before", f"{secure} / {seen}")
    assert site.server is not None
    assert "error" not in site.server.err


async def call_from_a_program(site: Site, client: Client, number: int, point: Point) -> Shown:
    """alice as a program calls `client` and types, until she is killed. Then bob is where he was before."""
    shown = Shown([f"alice {number} {i}" for i in range(TEXTS)])
    arguments = ("connect", "127.0.0.1", str(site.port), "--user", "alice", "--suite", "swift")
    alice = site.start(*arguments)
    alice.send("chat bob", *shown.said)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, alice, point, shown)
        await answer(client, shown, alice)
        nursery.cancel_scope.cancel()
    alice.close()
    assert client.state is State.ONLINE
    return shown


async def watch(alice: Program, point: Point, shown: Shown) -> None:
    """Kill her when it is time. Moments are the test's subject: it sleeps, and looks often."""
    kind, value = point
    if kind == "seconds":
        await trio.sleep(value)
    measures: dict[str, Callable[[], float]] = {
        "seconds": lambda: value,
        "lines": lambda: len(alice.lines),
        "texts": lambda: len(shown.seen),
    }
    measure = measures[kind]
    while measure() < value and len(shown.seen) < TEXTS:  # noqa: ASYNC110
        await trio.sleep(0.002)
    alice.process.kill()


async def answer(client: Client, shown: Shown, alice: Program) -> None:
    """bob takes every call and reads, until alice is dead and it is over for him too."""
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            async for event in client.events:
                match event:
                    case ev.IncomingCall():
                        try:
                            await client.accept()
                        except MessageAppError:
                            continue  # she was gone before
                    case ev.TextReceived():
                        shown.seen.append(event.text)
                    case ev.Ended() | ev.Missing() | ev.UndecryptableText():
                        raise AssertionError(event)

        nursery.start_soon(read)
        await trio.to_thread.run_sync(alice.process.wait, SECONDS)
        while client.state is not State.ONLINE or len((await client.list_users()).entries) > 1:  # noqa: ASYNC110
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
