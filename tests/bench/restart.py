"""A server that is restarted under many clients: how long until all of them are back by themselves."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from messageapp.client.client import Client, open_client
from messageapp.client.login import Account, dial
from messageapp.client.trust import Trust
from messageapp.store.database import open_database
from messageapp_cli.reconnect import Connections, returning
from messageapp_keys.kem import SWIFT

from .clients import OneKey
from .proc import cpu_of
from .rows import Rows, run_job
from .world import Identities, authority, start_server

__all__ = ["restart"]

_AT_ONCE: Final = 8  # first logins
_PATIENCE: Final = 150.0  # seconds; two of the longest pauses, and the restart


class _Crowd:
    """Clients with real connections, without a screen, in a thread of their own: a server's process is tied to the
    thread that started it, which here only waits."""

    def __init__(self, home: Path, port: int, count: int) -> None:
        self.dialled: list[float] = []
        self._home, self._port, self._count = home, port, count
        self._arrived = threading.Semaphore(0)
        self._last = 0.0
        self._over = trio.Event()
        self._token: trio.lowlevel.TrioToken
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)
        self._thread.start()

    def wait(self) -> float:
        """Until each has logged in once more; when the last did (`time.monotonic`). `TimeoutError`."""
        end = time.monotonic() + _PATIENCE
        for done in range(self._count):
            if not self._arrived.acquire(timeout=max(0.0, end - time.monotonic())):
                raise TimeoutError(f"only {done} of {self._count} clients are back after {_PATIENCE:.0f} s")
        return self._last

    def leave(self) -> None:
        self._token.run_sync_soon(self._over.set)
        self._thread.join()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        identities, keys, places = Identities(self._home), OneKey(), trio.Semaphore(_AT_ONCE)
        with tempfile.TemporaryDirectory(prefix="messageapp-bench-") as folder, ExitStack() as opened:
            async with trio.open_nursery() as nursery:
                for number in range(self._count):
                    name = f"user{number}"
                    who = identities.of(name)
                    database = open_database(Path(folder, f"{name}.db"), "account")
                    opened.callback(database.close)
                    trust = Trust(database, name, who.bundle, lambda: 0)
                    # With another device than the account's own, no prekeys are made: that is a cost of the very first
                    # login, which is none of what is measured here.
                    account = Account(
                        name,
                        who,
                        authority(self._home),
                        trust,
                        "127.0.0.1",
                        suites=[SWIFT],
                        device=os.urandom(16),
                    )
                    nursery.start_soon(self._stay, nursery, places, account, keys)
                await self._over.wait()
                nursery.cancel_scope.cancel()

    async def _stay(self, nursery: trio.Nursery, places: trio.Semaphore, account: Account, keys: OneKey) -> None:
        @asynccontextmanager
        async def opening() -> AsyncIterator[Client]:
            nonlocal account
            self.dialled.append(time.monotonic())
            async with open_client(await dial("127.0.0.1", self._port), account, keys) as client:
                account = returning(account)
                yield client

        connections = Connections(nursery, opening)
        async with places:
            client = await connections.first()
        while True:
            self._last = time.monotonic()
            self._arrived.release()
            async for _ in client.events:
                pass
            client = await connections.again()


def restart(job: dict[str, Any], rows: Rows) -> None:
    home, count = Path(job["home"]), int(job["restart"])
    with start_server(home, {}) as server:
        crowd = _Crowd(home, server.port, count)
        crowd.wait()
        stopped = time.monotonic()
    crowd.dialled.clear()
    with start_server(home, {}, port=server.port) as server:
        listening = time.monotonic()
        back = crowd.wait()
        spent = cpu_of(server.pid).loop
        tries = len(crowd.dialled)
        crowd.leave()
    label = f"server restarted under {count} clients"
    rows.add(f"{label}: it listens again after", "s", listening - stopped)
    rows.add(f"{label}: all are back after", "s", back - stopped, server=spent / (back - listening))
    rows.add(f"{label}: connections tried", "per client", tries / count)


if __name__ == "__main__":
    run_job({"restart": restart})
