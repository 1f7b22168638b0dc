"""A user as a process of his own: `python -m crash.person NAME PORT PEER…`, with a home in `MESSAGEAPP_HOME`.

He writes numbered messages to each peer, answers every call, and logs in again whenever his session is lost. A line of
JSON on stdout for all that he is told, once the client's database has it. Orders come on stdin:

    pause · go           write nothing new; write on
    call PEER · leave    a live chat, in which what is written to this peer goes live
    die N                kill yourself at the N-th statement of the database from now on: before it, or (N odd) after it
    report               tell what is not delivered
    say PEER             one message more
    exit
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from messageapp.client import events as ev
from messageapp.client.client import Client, open_client
from messageapp.client.login import Account, dial
from messageapp.client.trust import Trust
from messageapp.errors import MessageAppError
from messageapp.store.accounts import open_account_database, unlock
from messageapp.store.database import Database, Rows
from messageapp.store.home import Home
from messageapp.store.identities import find_identity
from messageapp.store.lock import locked_account
from messageapp_keys.certificate import load_certificate_untrusted
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import SWIFT

AHEAD: Final = 4  # messages to one peer that are not delivered
LOOK_SECONDS: Final = 0.02
HOST: Final = "127.0.0.1"
FILLING: Final = "ä€🙂 " * 40


def tell(what: str, *values: Any) -> None:
    """One write, so that a killed process leaves no half of a line that was told."""
    os.write(1, json.dumps([what, *values]).encode() + b"\n")


class MortalDatabase:
    """The account's database; at a statement that was chosen the process is gone."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self._left = 0
        self._after = False

    def die(self, statements: int) -> None:
        self._left, self._after = statements, statements % 2 == 1

    @property
    def in_transaction(self) -> bool:
        return self._inner.in_transaction

    def execute(self, sql: str, parameters: Any = (), /) -> Rows:
        return self._step(lambda: self._inner.execute(sql, parameters))

    def executemany(self, sql: str, parameters: Any, /) -> Rows:
        return self._step(lambda: self._inner.executemany(sql, parameters))

    def close(self) -> None:
        self._inner.close()

    def _step(self, run: Callable[[], Rows]) -> Rows:
        self._left -= 1
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = run()
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found


class _NoKeys:
    """Nobody here takes part in an exchange with RSA."""

    def take_nowait(self) -> Any | None:
        return None

    async def take(self) -> Any:
        await trio.sleep_forever()


class Person:
    def __init__(
        self, home: Home, name: str, port: int, peers: list[str], identity: PrivateIdentity, database: MortalDatabase
    ) -> None:
        self._port, self._peers, self._name, self._database = port, peers, name, database
        self._account = Account(
            user=name,
            identity=identity,
            authority=load_certificate_untrusted(home.ca_certificate.read_bytes()),
            trust=Trust(database, name, identity.bundle, lambda: 0),
            server=HOST,
            port=port,
            suites=[SWIFT],
            accept_chat=[SWIFT],
        )
        self._client: Client | None = None
        self._writing = True
        self._exiting = False
        self._written: Counter[str] = Counter()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey, nursery)
            while not self._exiting:
                with suppress(MessageAppError):
                    await self._session()
                await trio.sleep(LOOK_SECONDS)
            nursery.cancel_scope.cancel()

    async def _session(self) -> None:
        stream = await dial(HOST, self._port)
        async with open_client(stream, self._account, _NoKeys()) as client, trio.open_nursery() as nursery:
            self._client = client
            tell("online")
            nursery.start_soon(self._write, client)
            async for event in client.events:
                self._hear(client, nursery, event)
            nursery.cancel_scope.cancel()

    async def _write(self, client: Client) -> None:
        for peer in self._peers:
            own = [each for each in client.messages.history(peer, 1_000_000) if each.own]
            self._written[peer] = len(own)
        while True:
            waiting = Counter(message.peer for message in client.messages.pending())
            for peer in self._peers:
                if self._writing and waiting[peer] < AHEAD:
                    await self._say(client, peer)
            await trio.sleep(LOOK_SECONDS)

    async def _say(self, client: Client, peer: str) -> None:
        self._written[peer] += 1
        text = f"{self._name} to {peer}, number {self._written[peer]} {FILLING[: self._written[peer] % 160]}".strip()
        number = await client.write(peer, text)
        tell("wrote", number, peer, text)

    def _hear(self, client: Client, nursery: trio.Nursery, event: ev.Event) -> None:
        match event:
            case ev.MessageReceived():
                tell("shown", event.peer, event.text, event.healed)
            case ev.TextReceived():
                tell("shown", event.peer, event.text, False)
                tell("live")
            case ev.MessageChanged():
                tell("changed", event.number, event.state, event.cause)
            case ev.MessageUnreadable() | ev.UndecryptableText() | ev.MessageHeld() | ev.KeyChanged() | ev.LogAlarmed():
                tell("trouble", repr(event))
            case ev.IncomingCall():
                nursery.start_soon(self._quietly, client.accept)
            case ev.Ended() if event.error is not None:
                tell("ended", str(event.error))

    async def _quietly(self, act: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        with suppress(MessageAppError):
            await act()

    async def _obey(self, nursery: trio.Nursery) -> None:
        left = b""
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            async for data in stdin:
                *lines, left = (left + data).split(b"\n")
                for line in lines:
                    await self._order(nursery, *line.decode().split())

    async def _order(self, nursery: trio.Nursery, verb: str, *values: str) -> None:
        client = self._client
        assert client is not None
        match verb:
            case "pause" | "go":
                self._writing = verb == "go"
            case "call":
                nursery.start_soon(self._quietly, partial(client.chat, values[0]))
            case "leave":
                nursery.start_soon(self._quietly, client.leave)
            case "die":
                self._database.die(int(values[0]))
            case "report":
                tell("pending", [[each.number, each.state, each.cause] for each in client.messages.pending()])
            case "say":
                await self._say(client, values[0])
            case "exit":
                self._exiting = True
                await self._quietly(client.exit)
                nursery.cancel_scope.cancel()


def main() -> None:
    name, port, *peers = sys.argv[1:]
    home = Home(Path(os.environ["MESSAGEAPP_HOME"]))
    with locked_account(home, name):
        identity, key = unlock(home, find_identity(home, name), os.environ["MESSAGEAPP_PASSPHRASE"])
        with closing(MortalDatabase(open_account_database(home, name, key))) as database:
            trio.run(Person(home, name, int(port), peers, identity, database).run)


if __name__ == "__main__":
    main()
