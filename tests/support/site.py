"""A server that goes and comes back, and people at prompts that outlive the connection."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from messageapp.client.client import Client, open_client
from messageapp.client.login import Account
from messageapp.client.unconnected import Unconnected
from messageapp.errors import CannotConnect, MessageAppError
from messageapp_cli.console import Line
from messageapp_cli.reconnect import Backoff, Connections
from messageapp_cli.repl import Repl
from messageapp_keys.identity import IdentityBundle

from .fake_console import FakeConsole, settled
from .world import World, open_world, some_limits


def longest(low: float, high: float) -> float:
    return high


class Site:
    """A server that goes and comes back, each time as another process would: the same users, other sessions."""

    def __init__(self, first: World, mail: bool) -> None:
        self._first = first
        self._mail: bool | dict[str, Any] = {"database": first.mail} if mail else False
        self.now: World | None = first
        self.dialled: list[float] = []
        self._streams: list[Any] = []
        self.far: Any = None  # the server's end of the newest connection
        self.error: MessageAppError | None = None

    def account(self, name: str, **changes: Any) -> Account:
        return self._first.account(name, **changes)

    def opening(self, account: Account) -> Callable[[], AbstractAsyncContextManager[Client]]:
        @asynccontextmanager
        async def opening() -> AsyncIterator[Client]:
            await trio.lowlevel.checkpoint()
            self.dialled.append(trio.current_time())
            if self.error is not None:
                raise self.error
            if self.now is None:
                raise CannotConnect("nobody listens there")
            stream, self.far = self.now.connect_both()
            self._streams.append(stream)
            async with open_client(stream, account, self.now.keys) as client:
                yield client

        return opening

    def enrol(self, name: str, bundle: IdentityBundle) -> None:
        self._first.directory.enrol(name, bundle)

    async def stop(self, *, kill: bool = True) -> None:
        assert self.now is not None
        world, self.now = self.now, None
        if not kill:
            world.server.shutdown()
        for stream in self._streams if kill else ():
            await trio.aclose_forcefully(stream)
        self._streams.clear()
        world.server.shutdown()  # its mailbox has another writer from now on
        await settled()

    @asynccontextmanager
    async def back(self) -> AsyncIterator[World]:
        """A new server on the same directory."""
        async with open_world(some_limits(chats_per_minute=1000), mail=self._mail) as world:
            for name, bundle in self._first.directory.users.items():
                world.directory.enrol(name, bundle)
            self.now = world
            yield world
            self.now = None


@asynccontextmanager
async def open_site(*, mail: bool = False) -> AsyncIterator[Site]:
    async with open_world(some_limits(chats_per_minute=1000), mail=mail) as world:
        yield Site(world, mail)


class Person:
    """At a console that outlives the connection."""

    def __init__(self, repl: Repl, connections: Connections) -> None:
        self.repl = repl
        self.connections = connections
        self.console = FakeConsole()
        self.left = False
        self.error: MessageAppError | None = None
        self._read = 0

    async def run(self) -> None:
        self.error = await self.repl.run(self.console)
        self.left = True

    async def type(self, *lines: str) -> list[str]:
        """What is seen since the last time, and because of these."""
        for line in lines:
            self.console.put(Line(line))
        await settled()
        return self.new()

    def new(self) -> list[str]:
        found, self._read = self.console.lines[self._read :], len(self.console.lines)
        return [re.sub(r"^\d\d:\d\d ", "", line) for line in found]


@asynccontextmanager
async def sit_down(
    site: Site,
    name: str | Account,
    *,
    plain: bool = False,
    uniform: Callable[[float, float], float] = longest,
    unconnected: Callable[[MessageAppError], Unconnected] | None = None,
    **changes: Any,
) -> AsyncIterator[Person]:
    """With `unconnected` the server may be away; otherwise what is shown at the login has been read."""
    account = site.account(name, **changes) if isinstance(name, str) else name
    async with trio.open_nursery() as nursery:
        connections = Connections(nursery, site.opening(account), Backoff(uniform), unconnected)
        person = Person(Repl(await connections.first(), plain=plain, connections=connections), connections)
        nursery.start_soon(person.run)
        await settled()
        assert unconnected is not None or "User Login Complete!" in person.new()
        yield person
        nursery.cancel_scope.cancel()
