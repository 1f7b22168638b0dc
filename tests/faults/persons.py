"""The real client without a screen: who chats, what was shown to whom, over a stream that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import trio

from messageapp.client.client import Client, open_client
from messageapp.client.login import Account, dial
from messageapp.client.trust import Trust
from messageapp.store.database import Database, open_database
from messageapp.store.users import add_user
from messageapp_keys.certificate import load_certificate_untrusted
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import SWIFT
from support.processes import Site, open_account, save

__all__ = ["CountingStream", "Person", "Steps", "integrity"]


class Steps:
    """Counts what is read and written by all streams together; at the `point`-th step `act` is called, once."""

    def __init__(self, point: int, act: Callable[[], None]) -> None:
        self._left, self._act = point, act
        self.taken = 0

    def step(self) -> None:
        self.taken += 1
        self._left -= 1
        if self._left == 0:
            self._act()


class CountingStream(trio.abc.Stream):
    """Another stream, each of its reads and writes a step."""

    def __init__(self, inner: trio.abc.Stream, steps: Steps) -> None:
        self._inner, self._steps = inner, steps

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._steps.step()
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._inner.receive_some(max_bytes)
        self._steps.step()
        return data

    async def aclose(self) -> None:
        await self._inner.aclose()


class _NoKeys:
    """Nobody here takes part in an exchange with RSA."""

    def take_nowait(self) -> Any | None:
        return None

    async def take(self) -> Any:
        await trio.sleep_forever()


class Person:
    """A user of the site, whose keys lie in its home too, for a program of his own."""

    def __init__(self, site: Site, name: str) -> None:
        self.name = name
        self._site = site
        self._identity = PrivateIdentity.generate("ed25519")
        save(site.home, name, self._identity)
        site.tell_directory(add_user, name, self._identity.bundle, 0)

    @asynccontextmanager
    async def online(self, steps: Steps | None = None) -> AsyncIterator[Client]:
        """Logged in. `MessageAppError` where that fails."""
        site = self._site
        with closing(open_account(site.home, self.name)) as database:
            account = Account(
                user=self.name,
                identity=self._identity,
                authority=load_certificate_untrusted(site.home.ca_certificate.read_bytes()),
                trust=Trust(database, self.name, self._identity.bundle, lambda: 0),
                server="127.0.0.1",
                port=site.port,
                suites=[SWIFT],
                accept_chat=[SWIFT],
            )
            stream: trio.abc.Stream = await dial("127.0.0.1", site.port)
            if steps is not None:
                stream = CountingStream(stream, steps)
            async with open_client(stream, account, _NoKeys()) as client:
                yield client


def integrity(site: Site, *names: str) -> None:
    """Every database opens, and SQLite finds nothing wrong in it."""
    openings: dict[Path, Callable[[], Database]] = {
        site.home.directory: lambda: open_database(site.home.directory, "server")
    }
    openings |= {site.home.account(name): partial(open_account, site.home, name) for name in names}
    for path, opening in openings.items():
        if not path.exists():
            continue
        with closing(opening()) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
