"""Whole sessions behind the login: what users send to the server's router, and what a server sends to a client."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import trio
import trio.testing

from messageapp.client import events
from messageapp.client.client import Client
from messageapp.client.login import Account
from messageapp.client.trust import Trust
from messageapp.errors import MessageAppError, RemoteProtocolError
from messageapp.limits import Limits
from messageapp.server import router as router_module
from messageapp.server.router import Router
from messageapp.server.session import Session
from messageapp.store.database import apply_schemas, schemas
from messageapp.wire import commands
from messageapp.wire.commands import Call, Echo, Invite, Left, ListEntry, Listing, Nothing, PeerKey, make
from messageapp.wire.frames import Frame, FrameType
from messageapp.wire.login import LoggedIn
from messageapp.wire.records import Kind, Packed, Record, checked_untrusted, relay
from messageapp.wire.states import Role
from messageapp_keys.codec import u8, vec16
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.kem import SWIFT
from support.world import MemoryDirectory

from . import client_log_targets, material
from .material import SERVER, drawn, seeded
from .target import Harness, Target, require

__all__ = ["TARGETS"]

NAMES = ("alice", "bob", "carol")
INVITE = drawn("invite", 16)


def _script(*steps: tuple[int, Record | None]) -> bytes:
    return b"".join(u8(who) + vec16(b"" if record is None else record.encode()) for who, record in steps)


def _steps(data: bytes) -> list[tuple[int, bytes]]:
    """`u8 who | vec16 record` in a row; a length that is too long takes what there is."""
    found = []
    while len(data) > 2:
        size = int.from_bytes(data[1:3], "big")
        found.append((data[0], data[3 : 3 + size]))
        data = data[3 + size :]
    return found


def _packed(raw: bytes) -> Packed:
    """As it comes out of a record that its sender has padded rightly."""
    return checked_untrusted(bytearray(raw + b"\x80"))


def _record(raw: bytes) -> Record | None:
    try:
        return Record.unpack(_packed(raw))
    except RemoteProtocolError:
        return None


# The server -------------------------------------------------------------------------------------------------------


class _Outbox:
    """What the server sends, read at once as a client would."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.got: list[Record] = []

    def put(self, packed: Packed, *, always: bool = False) -> bool:
        record = Record.unpack(packed)
        commands.parse_untrusted(Role.SERVER, record)  # the server says nothing that breaks the protocol
        self.got.append(record)
        return True

    def relay(self, records: Sequence[Packed]) -> int:
        relay(records)
        return len([self.put(packed) for packed in records])

    def close(self) -> None: ...


def _req(who: int, verb: str, argument: Any = None, identifier: int = 7) -> tuple[int, Record]:
    return who, make(Kind.REQUEST, identifier, verb, argument or Nothing())


def _server() -> Harness:
    """Three users who send whatever they like: no other exception, and nobody gets what is not for him."""
    directory = MemoryDirectory()
    for name in NAMES:
        directory.enrol(name, material.identity(name).bundle)
    clock = SimpleNamespace(current_time=lambda: 0.0)

    def attack(data: bytes) -> None:
        router = Router(directory, Limits())
        outboxes = [_Outbox(name) for name in NAMES]
        sessions = [Session(n, name, bytes(16), box) for n, (name, box) in enumerate(zip(NAMES, outboxes, strict=True))]  # type: ignore[arg-type]
        broken = False
        with patch.object(router_module, "trio", clock):
            for name, session in zip(NAMES, sessions, strict=True):
                router.join(session, material.identity(name).bundle.key_id)
            for who, raw in _steps(data):
                session = sessions[who % 3]
                before = [len(box.got) for box in outboxes]
                peer = router._presence.chat_peer(session)
                try:
                    if session.ended is None:
                        router.receive(session, [_packed(raw)])
                except RemoteProtocolError:
                    broken = True
                    router.leave(session)
                    session.end(commands.ByeReason.EXIT)
                _judge(outboxes, before, session, peer)
        if broken:
            raise RemoteProtocolError("a session was ended")

    call = [_req(0, "chat", Call("bob", INVITE)), _req(1, "acpt", Call("alice", INVITE))]
    relayed = [_req(0, "frwd", commands.Raw(b"\x01one")), _req(1, "frwd", commands.Raw(b"\x02two"))]
    rest = [_req(2, "list"), _req(2, "help"), _req(2, "ping", Echo(bytes(8))), _req(0, "exch"), _req(1, "exit")]
    taken = [_req(2, "chat", Call("bob", INVITE)), _req(2, "cach", Invite(INVITE))]
    glare = [_req(0, "chat", Call("bob", INVITE)), _req(1, "chat", Call("alice", drawn("other", 16)))]
    refused = [_req(0, "chat", Call("carol", INVITE)), _req(2, "refu", Call("alice", INVITE))]
    scripts = ([*call, *relayed, *rest], [*taken, *glare, *relayed], [*refused, *taken, *call, *relayed, *refused])
    return Harness(attack, [_script(*steps) for steps in scripts])


def _judge(outboxes: Sequence[_Outbox], before: Sequence[int], sender: Session, peer: Session | None) -> None:
    for box, had in zip(outboxes, before, strict=True):
        for record in box.got[had:]:
            require(record.kind is not Kind.REPLY or box.user == sender.user, "a reply goes to somebody else")
            relayed = record.verb == b"frwd"
            require(not relayed or (peer is not None and peer.user == box.user), "a message goes to somebody else")


# The client -------------------------------------------------------------------------------------------------------


class _Wire:
    """A link on which the server is a script, and stores no messages."""

    def __init__(self) -> None:
        self.server, self._inbox = trio.open_memory_channel[Record](100)
        self._asked: list[int] = []

    def reply_to(self, number: int) -> int:
        """The id of the client's `number`th request, that about prekeys not counted: tasks start in any order."""
        return self._asked[number - 1] if 0 < number <= len(self._asked) else number + 1000

    async def receive_records(self) -> list[Record]:
        return [await self._inbox.receive()]

    async def send_records(self, records: list[Record]) -> None:
        for record in records:
            commands.parse_untrusted(Role.CLIENT, record)
            if record.verb == b"prek":
                refusal = commands.Errors(commands.ErrorCode.UNKNOWN_VERB, "no")
                self.server.send_nowait(make(Kind.REPLY, record.id, "erro", refusal))
            elif record.kind is Kind.REQUEST:
                self._asked.append(record.id)
        await trio.lowlevel.checkpoint()


@cache
def _account() -> Account:
    database = sqlite3.connect(":memory:", isolation_level=None)
    apply_schemas(database, schemas("account"))
    trust = Trust(database, "bob", material.identity("bob").bundle, lambda: 0)
    trust.pin_first("carol", SERVER, material.identity("carol").bundle)
    return Account("bob", material.identity("bob"), material.root(), trust, SERVER, accept_chat=(SWIFT,))


@cache
def _info() -> LoggedIn:
    """At a server without a key log."""
    info = material.client_before_m4().receive_m4_untrusted(Frame(FrameType.M4, material.m4().body))
    return replace(info, welcome=replace(info.welcome, checkpoint=b""))


async def _live(data: bytes, info: LoggedIn, account: Account) -> None:
    wire, seen = _Wire(), []
    client = Client(wire, info, account, None, seeded("client"), lambda: 0)  # type: ignore[arg-type]
    user = (
        client.accept,
        client.refuse,
        client.cancel,
        client.leave,
        lambda: client.say("x"),
        lambda: client.chat("alice"),
    )

    async def act(number: int) -> None:
        try:
            await user[number % len(user)]()
        except MessageAppError:
            return

    async with trio.open_nursery() as nursery:
        client.start(nursery)
        for who, raw in _steps(data)[:20]:
            await trio.testing.wait_all_tasks_blocked()
            if who:
                nursery.start_soon(act, who - 1)
            elif (record := _record(raw)) is not None:
                if record.kind is Kind.REPLY:
                    record = replace(record, id=wire.reply_to(record.id))
                wire.server.send_nowait(record)
        await trio.testing.wait_all_tasks_blocked()
        while client.events.statistics().current_buffer_used:
            seen.append(client.events.receive_nowait())
        nursery.cancel_scope.cancel()
    for event in seen:
        shown = (events.ChatSecure, events.TextReceived)
        require(not isinstance(event, shown), "a server that holds no user's key has shown a text or a secure chat")
    require(account.trust.pin("alice", SERVER) is None, "a key was pinned that nobody has proved to hold")
    if isinstance(client.ended, RemoteProtocolError):
        raise client.ended


def _client() -> Harness:
    """`u8 0 | vec16 record` is from the server; another number is something that the user does."""
    key = {name: material.identity(name).bundle for name in NAMES}

    def reply(identifier: int, verb: str, argument: Any) -> tuple[int, Record]:
        return 0, make(Kind.REPLY, identifier, verb, argument)

    def event(verb: str, argument: Any) -> tuple[int, Record]:
        return 0, make(Kind.EVENT, 0, verb, argument)

    def peer_key(name: str, *, caller: bool, bundle: IdentityBundle | None = None) -> PeerKey:
        return PeerKey(INVITE, caller, name, (bundle or key[name]).encode())

    listing = reply(1, "list", Listing((ListEntry("alice", 0), ListEntry("bob", 0))))
    ringing = [listing, event("reqt", Call("alice", INVITE)), (1, None)]
    called = [*ringing, reply(2, "pubk", peer_key("alice", caller=False))]
    keyed = [*called, event("frwd", commands.Raw(b"\x01" + material.caller().start())), event("exch", Left(True))]
    changed = [listing, event("reqt", Call("carol", INVITE)), (1, None)]
    changed += [reply(2, "pubk", peer_key("carol", caller=False, bundle=key["alice"]))]
    calling = [listing, (6, None), reply(2, "erro", commands.Errors(10, "no")), event("cach", Invite(INVITE))]
    others = [
        *ringing[:2],
        (2, None),
        reply(2, "okay", commands.Raw()),
        (0, make(Kind.REQUEST, 9, "ping", Echo(bytes(8)))),
    ]
    ended = [listing, event("refu", Call("alice", INVITE)), event("byee", commands.Bye(1))]

    def attack(data: bytes) -> None:
        trio.run(_live, data, _info(), _account())

    return Harness(attack, [_script(*steps) for steps in (keyed, called, changed, calling, others, ended)])


def _client_with_log() -> Harness:
    """The same, at a server whose key log was read: no proof, no leaf and no other checkpoint comes out of nothing."""
    store, log = client_log_targets.server()
    read, _ = client_log_targets.reader(known=True)
    info = replace(_info(), welcome=replace(_info().welcome, server_name=log.server, checkpoint=log.note()))
    own = material.identity("user0")

    def attack(data: bytes) -> None:
        with closing(client_log_targets.memory("account")) as database:
            read.backup(database)
            trust = Trust(database, "user0", own.bundle, lambda: 0)
            account = Account("user0", own, material.root(), trust, SERVER, accept_chat=(SWIFT,))
            trio.run(_live, data, info, account)
            kept = database.execute("SELECT count(*) FROM log_leaves").fetchone()[0]
            require(kept == store.size, "a leaf was stored that the log does not have")

    def step(kind: Kind, identifier: int, verb: str, argument: Any) -> tuple[int, Record]:
        return 0, make(kind, identifier, verb, argument)

    key = material.identity("user3").bundle.encode()
    listing = step(Kind.REPLY, 1, "list", Listing((ListEntry("user0", 0), ListEntry("user3", 0))))
    head = step(Kind.EVENT, 0, "klog", log.head())
    ringing = [listing, head, step(Kind.EVENT, 0, "reqt", Call("user3", INVITE)), (1, None)]
    pubk = PeerKey(INVITE, False, "user3", key, b"", log.proof_of("user3"))
    called = [*ringing, step(Kind.REPLY, 2, "pubk", pubk), step(Kind.EVENT, 0, "exch", Left(True))]
    unproved = [*ringing, step(Kind.REPLY, 2, "pubk", replace(pubk, proof=b""))]
    return Harness(attack, [_script(*steps) for steps in (called, unproved)])


_BROKEN = (RemoteProtocolError,)

TARGETS = (
    Target("session-at-the-server", _server, _BROKEN, mutations=10_000),
    Target("session-at-the-client", _client, _BROKEN, mutations=1000),
    Target("session-at-a-client-with-a-log", _client_with_log, _BROKEN, mutations=500),
)
