"""Two whole clients, as a user has them, in one process against the real server."""

from __future__ import annotations

import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from messageapp.client import events as ev
from messageapp.client.client import Client, open_client
from messageapp.client.login import Account, dial
from messageapp.client.trust import Trust
from messageapp.store.database import open_database
from messageapp_keys.kem import HYBRID, SWIFT, Suite, generate_rsa

from .proc import cpu_of
from .rows import Rows
from .world import Identities, authority

__all__ = ["OneKey", "clients"]

_IN_FLIGHT = 64
_PATIENCE = 60.0
_TEXT = "x" * 100


class OneKey:
    """Temporary RSA keys made ahead; here one again and again, as making it is a row of its own."""

    def __init__(self) -> None:
        self._key = generate_rsa()

    def take_nowait(self) -> Any:
        return self._key

    async def take(self) -> Any:
        await trio.lowlevel.checkpoint()
        return self._key


def clients(job: dict[str, Any], rows: Rows) -> None:
    trio.run(_clients, job, rows)


async def _clients(job: dict[str, Any], rows: Rows) -> None:
    keys = OneKey()
    for suite in (HYBRID, SWIFT):
        with rows.part(f"chat of two clients ({suite.name})"), trio.fail_after(_PATIENCE):
            await _chats(job, suite, keys, rows)


async def _chats(job: dict[str, Any], suite: Suite, keys: OneKey, rows: Rows) -> None:
    with tempfile.TemporaryDirectory(prefix="messageapp-bench-") as folder:
        async with AsyncExitStack() as stack:
            a, b = [await _log_in(stack, job, Path(folder), name, suite, keys) for name in ("user0", "user1")]
            taken = []
            for last in range(int(job["chats"]) - 1, -1, -1):
                taken.append(await _start_chat(a, b))
                if last:
                    await a.leave()
                    await _expect(a, ev.ChatOver)
                    await _expect(b, ev.ChatOver)
            taken = taken[1:] or taken  # the first pins the keys
            rows.add(f"call accepted → chat secure ({suite.name})", "ms", sorted(taken)[len(taken) // 2] * 1e3)
            if suite is SWIFT:
                await _texts(job, a, b, rows)


async def _log_in(
    stack: AsyncExitStack, job: dict[str, Any], folder: Path, name: str, suite: Suite, keys: OneKey
) -> Client:
    who = Identities(Path(job["home"])).of(name)
    database = open_database(folder / f"{name}.db", "account")
    stack.callback(database.close)
    account = Account(
        user=name,
        identity=who,
        authority=authority(Path(job["home"])),
        trust=Trust(database, name, who.bundle, lambda: 0),
        server="127.0.0.1",
        suites=[SWIFT],
        accept_chat=[suite],
    )
    stream = await dial("127.0.0.1", job["port"])
    return await stack.enter_async_context(open_client(stream, account, keys))


async def _start_chat(a: Client, b: Client) -> float:
    await a.chat(b.account.user)
    await _expect(b, ev.IncomingCall)
    began = time.perf_counter()
    await b.accept()
    await _expect(a, ev.ChatSecure)
    await _expect(b, ev.ChatSecure)
    return time.perf_counter() - began


async def _texts(job: dict[str, Any], a: Client, b: Client, rows: Rows) -> None:
    count, places = int(job["texts"]), trio.Semaphore(_IN_FLIGHT)
    server, own, began = cpu_of(job["pid"]), time.process_time(), time.perf_counter()

    async def say() -> None:
        for _ in range(count):
            await places.acquire()
            await a.say(_TEXT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        for _ in range(count):
            event = await _expect(b, ev.TextReceived)
            if event.text != _TEXT:
                raise RuntimeError("another text came than was sent")
            places.release()
    seconds, busy = time.perf_counter() - began, time.process_time() - own
    spent = cpu_of(job["pid"]).since(server).loop
    rows.add(
        "texts, keyboard to screen, one direction",
        "texts/s",
        count / seconds,
        server=spent / seconds,
        load=busy / seconds,
    )


async def _expect(client: Client, kind: type[Any]) -> Any:
    """The next event of that class; a failure in its place is raised."""
    async for event in client.events:
        if isinstance(event, kind):
            return event
        if isinstance(event, ev.ChatFailed | ev.NotDelivered | ev.Missing | ev.UndecryptableText | ev.Ended):
            raise RuntimeError(f"{type(event).__name__} came where {kind.__name__} was to come")
    raise RuntimeError("the session ended")
