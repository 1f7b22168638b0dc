"""The real server and real clients over in-memory streams, on whatever clock the test runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from messageapp.client.client import Client, open_client
from messageapp.client.events import Event
from messageapp.client.login import Account
from messageapp.client.trust import Trust
from messageapp.limits import Limits
from messageapp.link import Link
from messageapp.server.mailbox import Mailbox
from messageapp.server.router import Router
from messageapp.server.serve import Server
from messageapp.sockets import BareSocketStream
from messageapp.store.database import open_database
from messageapp.store.mailbox import open_mailbox
from messageapp.store.users import Holder
from messageapp.wire.commands import Argument, Call, ErrorCode, Errors, Listing, Raw, make
from messageapp.wire.frames import FrameType
from messageapp.wire.login import ClientLogin, LoggedIn, ServerLogin, ServerOffer, Welcome, m4_frame
from messageapp.wire.records import Kind, Packed, Record
from messageapp.wire.states import Role
from messageapp_keys.authority import make_ca, make_server_certificate
from messageapp_keys.certificate import Certificate
from messageapp_keys.certificate_reading import certificate_der, leaf_names, spki_hash
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.kem import SWIFT, Suite, TemporaryKey, generate_rsa
from messageapp_keys.names import fold
from messageapp_keys.signing import algorithm_of

T = TypeVar("T")
SERVER_NAME = "chat.example"
_FORWARD = Router._forward
Stream = trio.StapledStream[Any, Any]
OPEN_LIMITS = {"connections_per_second": 1e6, "connections_burst": 10**6, "handshakes_per_address": 10_000}
"""Memory streams count as one host; tests that are not about this have no bound on it."""


@cache
def authority() -> tuple[Any, Certificate]:
    return make_ca(datetime.now(UTC), key=ec.generate_private_key(ec.SECP256R1()))


@cache
def server_offer(kind: str = "first") -> ServerOffer:
    """One per `kind`; all under one authority and for one name."""
    ca_key, ca = authority()
    key, leaf = make_server_certificate(
        ca_key, ca, [SERVER_NAME, "127.0.0.1"], datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    )
    return ServerOffer(
        chain=(certificate_der(leaf),),
        key=key,
        sigalg=algorithm_of(key),
        leaf_spki_hash=spki_hash(leaf),
        names=tuple(leaf_names(leaf)),
        rejection=os.urandom(32),
    )


@cache
def identity(name: str) -> PrivateIdentity:
    """One per name and test run; Ed25519, because it is made at once."""
    return PrivateIdentity.generate("ed25519")


def by_key_id(*names: str) -> list[str]:
    """The names, the one with the smallest key_id first."""
    return sorted(names, key=lambda name: identity(name).key_id)


@cache
def _rsa_keys() -> tuple[Any, ...]:
    return tuple(generate_rsa() for _ in range(2))


class EndlessKeys:
    """Temporary RSA keys without a thread: the mock clock and threads do not mix. Only for tests: keys repeat."""

    def __init__(self) -> None:
        self.empty = False
        self.taken = 0

    def take_nowait(self) -> Any | None:
        if self.empty:
            return None
        self.taken += 1
        return _rsa_keys()[self.taken % 2]

    async def take(self) -> Any:
        while self.empty:  # noqa: ASYNC110 - on the mock clock
            await trio.sleep(0.1)
        await trio.lowlevel.checkpoint()
        return self.take_nowait()


class MemoryDirectory:
    def __init__(self) -> None:
        self.users: dict[str, IdentityBundle] = {}
        self._added: dict[str, int] = {}
        self._changed = False

    def enrol(self, name: str, bundle: IdentityBundle) -> None:
        self._added[name] = self._added.get(name, 0) + (name not in self.users)
        self.users[name] = bundle
        self._changed = True

    def remove(self, name: str) -> None:
        del self.users[name]
        self._changed = True

    def find(self, name: str) -> IdentityBundle | None:
        return self.users.get(name)

    def encoded(self, name: str) -> bytes | None:
        bundle = self.find(name)
        return None if bundle is None else bundle.encode()

    def holder(self, name: str) -> Holder | None:
        for known, bundle in self.users.items():
            if fold(known) == fold(name):
                return Holder(known, bundle.key_id, bundle.encode(), self._added[known])
        return None

    def changed(self) -> bool:
        return self._changed

    def acknowledge(self) -> None:
        self._changed = False


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    def __init__(self) -> None:
        self.send, self._receive = trio.open_memory_channel[trio.abc.Stream](10_000)

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._receive.close()
        await trio.lowlevel.checkpoint()


class RawPeer:
    """A logged-in client by hand: it answers nothing by itself and may send what a client would not."""

    def __init__(self, link: Link, info: LoggedIn) -> None:
        self.link = link
        self.info = info
        self.events: list[Record] = []  # that came while a reply was waited for
        self._records: list[Record] = []
        self._next_id = 1

    async def send(
        self, verb: str, argument: Argument | None = None, *, kind: Kind = Kind.REQUEST, identifier: int = 0
    ) -> None:
        await self.link.send_records([make(kind, identifier, verb, argument)])

    async def receive(self) -> Record:
        """The next record of any kind; `ConnectionCut` at the end."""
        if self.events:
            return self.events.pop(0)
        return await self._next()

    async def _next(self) -> Record:
        if not self._records:
            self._records = await self.link.receive_records()
        return self._records.pop(0)

    async def ask(self, verb: str, argument: Argument | None = None) -> Record:
        """The reply. Events that come before it are kept for `receive`."""
        self._next_id += 1
        await self.send(verb, argument, identifier=self._next_id)
        while (record := await self._next()).kind is not Kind.REPLY or record.id != self._next_id:
            self.events.append(record)
        return record

    async def nothing_new(self) -> None:
        """Fails where an event is waiting: replies come in order, so a reply is a fence."""
        await self.ask("list")
        assert not self.events, self.events

    async def close(self) -> None:
        await self.link.stream.aclose()


class FakeServer:
    """A server by hand, after the login: it says what the test says. `list` and `ping` are answered by themselves.

    It stores no messages, and says so when it is asked; unless `stores`.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.stores = False
        self._records: list[Record] = []

    @classmethod
    async def accept(cls, stream: trio.abc.Stream, name: str, **changes: Any) -> FakeServer:
        """The login of `name`, whose key is `identity(name)`."""
        link = Link(stream, Role.SERVER)
        login = ServerLogin(await link.receive_frame(), server_offer(), (SWIFT,))
        await link.send_frame(FrameType.M2, login.offer(TemporaryKey.generate(SWIFT), os.urandom))
        m3 = await link.receive_frame()
        accepted = login.accept_untrusted(m3, lambda name: identity(name).bundle)
        await link.send_frame(FrameType.M4, m4_frame(accepted.sealer, Welcome(SERVER_NAME, 0, **changes)))
        link.connection.start_session(accepted.sealer, accepted.opener, trio.current_time())
        return cls(link)

    async def send(self, kind: Kind, identifier: int, verb: str, argument: Argument | None = None) -> None:
        await self.link.send_records([make(kind, identifier, verb, argument)])

    async def event(self, verb: str, argument: Argument | None = None) -> None:
        await self.send(Kind.EVENT, 0, verb, argument)

    async def receive(self) -> Record:
        """The next request."""
        while True:
            if not self._records:
                self._records = await self.link.receive_records()
            record = self._records.pop(0)
            if record.verb == b"list":
                await self.send(Kind.REPLY, record.id, "list", Listing(()))
            elif record.verb == b"ping":
                await self.send(Kind.REPLY, record.id, "pong", Raw(record.argument))
            elif record.verb == b"prek" and not self.stores:
                await self.send(Kind.REPLY, record.id, "erro", Errors(ErrorCode.UNKNOWN_VERB, ""))
            else:
                return record


class World:
    """One server; `connect` gives a raw stream to it, `client` a logged-in client."""

    def __init__(self, server: Server, directory: MemoryDirectory, keys: EndlessKeys, folder: Path) -> None:
        self.server = server
        self.directory = directory
        self.keys = keys
        self.listener = MemoryListener()
        self.trusts: dict[str, sqlite3.Connection] = {}
        self.served = trio.Event()  # `serve` has returned
        self.mail: sqlite3.Connection | None = None  # the file of its mailbox
        self._folder = folder

    def connect(self) -> Stream:
        return self.connect_both()[0]

    def connect_both(self) -> tuple[Stream, Stream]:
        """(ours, the server's end)."""
        near, far = trio.testing.memory_stream_pair()
        self.listener.send.send_nowait(far)
        return near, far

    def account(self, name: str, *, device: str = "", enrol: bool = True, **changes: Any) -> Account:
        """Enrols the user the first time. Trust is kept per user and device over logins."""
        who: PrivateIdentity = changes.pop("identity", None) or identity(name)
        if enrol and name not in self.directory.users:
            self.directory.enrol(name, who.bundle)
        place = f"{name}{device}"
        if place not in self.trusts:
            self.trusts[place] = open_database(self._folder / f"{place}.db", "account")
        trust = Trust(self.trusts[place], name, who.bundle, lambda: 0)
        changes.setdefault("server", SERVER_NAME)
        return Account(user=name, identity=who, authority=authority()[1], trust=trust, **changes)

    @asynccontextmanager
    async def client(
        self, name: str, *, stream: Stream | None = None, wall_ms: Callable[[], int] | None = None, **changes: Any
    ) -> AsyncIterator[Client]:
        account = self.account(name, **changes)
        clock: dict[str, Any] = {} if wall_ms is None else {"wall_ms": wall_ms}
        async with open_client(stream or self.connect(), account, self.keys, **clock) as client:
            yield client

    def login(self, name: str, *, device: bytes | None = None, suites: tuple[Suite, ...] = (SWIFT,)) -> ClientLogin:
        """A client's half of the handshake, to be driven by hand. Enrols nobody."""
        return ClientLogin(
            username=name,
            identity=identity(name),
            authority=authority()[1],
            server=SERVER_NAME,
            suites=suites,
            random=os.urandom,
            device=device,
        )

    async def raw(
        self,
        name: str,
        *,
        device: bytes | None = None,
        stream: trio.abc.Stream | None = None,
        suites: tuple[Suite, ...] = (SWIFT,),
    ) -> RawPeer:
        """Log in by hand. Without `device`, each login is a device of its own."""
        if name not in self.directory.users:
            self.directory.enrol(name, identity(name).bundle)
        link = Link(stream or self.connect(), Role.CLIENT)
        login = self.login(name, device=device or os.urandom(16), suites=suites)
        await link.send_frame(FrameType.M1, login.start())
        m3 = login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC))
        await link.send_frame(FrameType.M3, m3)
        info = login.receive_m4_untrusted(await link.receive_frame())
        link.connection.start_session(info.sealer, info.opener, trio.current_time())
        return RawPeer(link, info)

    async def raw_chat(self, caller: RawPeer, caller_name: str, receiver: RawPeer, receiver_name: str) -> None:
        """Bind two raw peers; their events up to it are consumed."""
        invite = os.urandom(16)
        assert (await caller.ask("chat", Call(receiver_name, invite))).verb == b"reqt"
        assert (await receiver.receive()).verb == b"reqt"
        assert (await receiver.ask("acpt", Call(caller_name, invite))).verb == b"pubk"
        assert (await caller.receive()).verb == b"pubk"

    @asynccontextmanager
    async def chat(self, caller: str = "alice", receiver: str = "bob") -> AsyncIterator[tuple[Client, Client]]:
        """Two logged-in clients in a secure chat."""
        async with AsyncExitStack() as stack:
            a = await stack.enter_async_context(self.client(caller))
            b = await stack.enter_async_context(self.client(receiver))
            await start_chat(a, b)
            yield a, b


async def dial(world: World) -> BareSocketStream:
    """A connection to the world's server over TCP on this machine. Not on a mock clock."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        world.listener.send.send_nowait(BareSocketStream(await listener.accept()))
    return BareSocketStream(near)


@asynccontextmanager
async def with_fake_server(world: World, name: str, **changes: Any) -> AsyncIterator[tuple[Client, FakeServer]]:
    """A real client at a server by hand."""
    near, far = trio.testing.memory_stream_pair()
    server: FakeServer | None = None

    async def serve() -> None:
        nonlocal server
        server = await FakeServer.accept(far, name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with world.client(name, stream=near, **changes) as client:
            await trio.testing.wait_all_tasks_blocked()
            assert server is not None
            yield client, server


async def at_once(call: Callable[[], T]) -> T:
    """In the place of a thread, which the mock clock does not wait for."""
    await trio.lowlevel.checkpoint()
    return call()


@asynccontextmanager
async def open_world(
    limits: Limits | None = None, *, mail: bool | dict[str, Any] = False, **changes: Any
) -> AsyncIterator[World]:
    """A running server without listeners; leaving it cancels everything.

    With `mail` it has a mailbox, `world.mail` is its file; a dict changes the arguments of `Mailbox`, and its
    "database" is used and left open.
    """
    directory, keys, folder = MemoryDirectory(), EndlessKeys(), Path(tempfile.mkdtemp(prefix="world-"))
    limits = limits or some_limits()
    world: World | None = None
    given = dict(mail) if isinstance(mail, dict) else {}
    database = None
    if mail:
        database = given.pop("database", None) or open_mailbox(folder / "mail.db")
        log = changes.get("log")
        given = {
            "directory": directory,
            "limits": limits,
            "blocks": changes.get("blocks"),
            "run": at_once,
            **({} if log is None else {"proof_of": log.proof_of}),
            **given,
        }
        changes["mailbox"] = Mailbox(database, **given)
    try:
        async with trio.open_nursery() as nursery:
            changes.setdefault("offer", server_offer())
            server = Server(
                directory=directory,
                keys=keys,
                limits=limits,
                **changes,
            )
            world = World(server, directory, keys, folder)
            world.mail = database

            async def serve(world: World, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                await world.server.serve([world.listener], task_status=task_status)
                world.served.set()

            await nursery.start(serve, world)
            yield world
            nursery.cancel_scope.cancel()
    finally:
        for database in world.trusts.values() if world is not None else ():
            database.close()
        if world is not None and world.mail is not None and not (isinstance(mail, dict) and "database" in mail):
            world.mail.close()
        shutil.rmtree(folder)


def some_limits(**changes: Any) -> Limits:
    """The defaults, but for the limits per address, with `changes`."""
    return Limits.from_mapping(OPEN_LIMITS | changes)


async def start_chat(a: Client, b: Client) -> None:
    """From two online clients to a secure chat, events up to it consumed."""
    await a.chat(b.account.user)
    await expect(b, "IncomingCall")
    await b.accept()
    await expect(a, "ChatSecure")
    await expect(b, "ChatSecure")


async def expect(client: Client, kind: str) -> Any:
    """The next event of that class; those before it are passed over."""
    passed: list[Event] = []
    async for event in client.events:
        if type(event).__name__ == kind:
            return event
        passed.append(event)
    raise AssertionError(f"the session ended without {kind}; before: {passed}")


async def settle(*clients: Client) -> list[list[Event]]:
    """What each has been told, once nothing happens any more."""
    await trio.testing.wait_all_tasks_blocked()
    found: list[list[Event]] = []
    for client in clients:
        events: list[Event] = []
        try:
            while True:
                events.append(client.events.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            found.append(events)
    return found


def hold_back(far: Stream) -> trio.Event:
    """From now on the server's sends on this end wait, and nothing arrives, until the event is set."""
    gate, deliver = trio.Event(), far.send_stream.send_all_hook

    async def hook() -> None:
        await gate.wait()
        await deliver()

    def close() -> None:
        pump()  # what was held back,
        pump()  # and the end

    pump = far.send_stream.close_hook
    far.send_stream.send_all_hook, far.send_stream.close_hook = hook, close
    return gate


Pass = Callable[[Record], None]


def on_forward(monkeypatch: pytest.MonkeyPatch, forward: Callable[[Router, Any, Record, Pass], None]) -> None:
    """From now on the server hands each record for a chat's peer to `forward`, which may `Pass` records on."""
    real = _FORWARD

    def each(self: Router, session: Any, records: list[Packed]) -> None:
        for packed in records:
            forward(self, session, Record.unpack(packed), lambda record: real(self, session, [record.pack()]))

    monkeypatch.setattr(Router, "_forward", each)


async def read_to_end(stream: Stream) -> bytes:
    """All that the other side still sends, until it closes."""
    found = b""
    while data := await stream.receive_some(65_536):
        found += data
    return found
