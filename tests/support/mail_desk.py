"""A server that stores messages, by hand, for one real client: it refuses what the test says, and keeps what came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from messageapp import clock
from messageapp.client.client import Client
from messageapp.clock import DAY_MS
from messageapp.wire.commands import ErrorCode, Errors, Raw, parse_untrusted
from messageapp.wire.mail_forms import Acknowledgement, Delivery, MailRequest, PeerPrekey, PrekeyState, Stored
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_keys.codec import Reader
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.prekeys import Prekey, PrekeyKind, PrivatePrekey

from .world import FakeServer, World, identity, with_fake_server

__all__ = ["MailDesk", "at_desk"]

KEPT_S = 30 * 86_400


def wall_ms() -> int:
    """The wall clock of a test: today, and on with the clock that the test runs on."""
    return _TODAY + int(1000 * trio.current_time())


_TODAY = clock.wall_ms()


class MailDesk:
    """`sent` are all requests to store, in order; those whose answer the test withholds (`holds`) too."""

    def __init__(self, server: FakeServer, client: Client) -> None:
        self.server, self.client = server, client
        self.sent: list[MailRequest] = []
        self.asked: list[str] = []  # whose prekey
        self.asked_at: list[float] = []
        self.looks: list[float] = []  # when the client asked how many of its own are left
        self.acknowledged: list[int] = []
        self.refuses: dict[str, ErrorCode] = {}  # peer → what a `send` to him is answered with
        self.no_prekeys: dict[str, ErrorCode] = {}  # peer → what `bndl` is answered with
        self.silent: set[str] = set()  # peers whose `bndl` is not answered
        self.holds = False
        self.keys: dict[str, PrivateIdentity] = {}  # other keys than `identity(name)`
        self.proofs: dict[str, bytes] = {}
        self.held: list[tuple[Record, MailRequest]] = []
        self.last_resort_ms = 0  # that it has
        self._seq = 0

    async def run(self) -> None:
        while True:
            record = await self.server.receive()
            argument = parse_untrusted(Role.CLIENT, record)
            match record.verb:
                case b"prek":
                    state = PrekeyState(100, self.last_resort_ms, True, KEPT_S)
                    self.looks += [] if argument.prekeys else [trio.current_time()]
                    for each in _read(argument.prekeys):
                        self.last_resort_ms = each.expires_ms
                    await self._reply(record, *(("okay", Raw()) if argument.prekeys else ("prek", state)))
                case b"bndl":
                    self.asked.append(argument.user)
                    self.asked_at.append(trio.current_time())
                    if argument.user not in self.silent:
                        await self._give(record, argument.user)
                case b"send":
                    self.sent.append(argument)
                    self.held.append((record, argument))
                    if not self.holds:
                        await self.answer()
                case b"ackm":
                    assert isinstance(argument, Acknowledgement)
                    self.acknowledged += argument.seqs
                    await self._reply(record, "okay", Raw())
                case _:
                    await self._reply(record, "okay", Raw())

    async def _give(self, record: Record, user: str) -> None:
        if user in self.no_prekeys:
            await self._reply(record, "erro", Errors(self.no_prekeys[user], ""))
            return
        who = self.keys.get(user) or identity(user)
        key = self.prekey(user, who)
        reply = PeerPrekey(user, who.bundle.encode(), self.proofs.get(user, b""), bytes(16), key.encode())
        await self._reply(record, "bndl", reply)

    def prekey(self, user: str, who: PrivateIdentity) -> Prekey:
        expires_ms = wall_ms() + DAY_MS
        return PrivatePrekey.generate(1, PrekeyKind.ONE_TIME, expires_ms, user, who, lambda size: bytes(size)).public

    async def answer(self, count: int = 1 << 30) -> None:
        """The oldest `count` requests that wait for their answer get it."""
        for record, request in self.held[:count]:
            self.held.pop(0)
            code = self.refuses.get(request.to)
            self._seq += 1
            answer = ("ackd", Stored(request.id, self._seq)) if code is None else ("erro", Errors(code, ""))
            await self._reply(record, *answer)

    async def deliver(self, sender: str, blob: bytes, identifier: bytes) -> None:
        self._seq += 1
        await self.server.event("mail", Delivery(sender, self._seq, identifier, blob))

    async def _reply(self, record: Record, verb: str, argument: Any) -> None:
        await self.server.send(Kind.REPLY, record.id, verb, argument)


def _read(uploaded: bytes) -> list[Prekey]:
    found, reader = [], Reader(uploaded)
    while not reader.at_end:
        found.append(Prekey.read_untrusted(reader))
    return found


@asynccontextmanager
async def at_desk(world: World, name: str, **changes: Any) -> AsyncIterator[tuple[Client, MailDesk]]:
    """A real client, logged in at a desk that runs."""
    changes.setdefault("wall_ms", wall_ms)
    async with with_fake_server(world, name, **changes) as (client, server), trio.open_nursery() as nursery:
        server.stores = True
        desk = MailDesk(server, client)
        nursery.start_soon(desk.run)
        await trio.testing.wait_all_tasks_blocked()
        yield client, desk
        nursery.cancel_scope.cancel()
