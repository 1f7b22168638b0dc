"""Prekeys and stored messages by hand, for tests of the server's mailbox."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import trio

from messageapp.clock import DAY_MS, wall_ms
from messageapp.link import Link
from messageapp.server.authority import read_certificate
from messageapp.store.home import Home
from messageapp.wire.commands import Block, BlockList, BlockOp, parse_untrusted
from messageapp.wire.frames import FrameType
from messageapp.wire.login import ClientLogin
from messageapp.wire.mail_forms import Acknowledgement, Delivery, MailRequest, PrekeyRequest, PrekeyUpload
from messageapp.wire.records import Kind
from messageapp.wire.states import Role
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import SWIFT
from messageapp_keys.names import fold
from messageapp_keys.prekeys import Prekey, PrekeyKind, PrivatePrekey

from .world import RawPeer, identity


def prekey(
    user: str, number: int, *, last: bool = False, days: float = 7, who: PrivateIdentity | None = None
) -> Prekey:
    """A prekey of `user`, signed by `who` (`identity(user)` without)."""
    kind = PrekeyKind.LAST_RESORT if last else PrekeyKind.ONE_TIME
    expires_ms = wall_ms() + int(days * DAY_MS)
    return PrivatePrekey.generate(number, kind, expires_ms, user, who or identity(user), os.urandom).public


def prekeys(user: str, count: int, *, last: bool = True) -> bytes:
    """An upload: `count` one-time prekeys, numbered from 1, and with `last` a last-resort one, number 0."""
    made = [prekey(user, 0, last=True)] if last else []
    return b"".join(each.encode() for each in [*made, *(prekey(user, number) for number in range(1, count + 1))])


async def ask(peer: RawPeer, verb: str, argument: Any = None) -> Any:
    """The typed answer."""
    return parse_untrusted(Role.SERVER, await peer.ask(verb, argument))


async def upload(peer: RawPeer, data: bytes) -> Any:
    return await ask(peer, "prek", PrekeyUpload(data))


async def take(peer: RawPeer, user: str) -> Any:
    return await ask(peer, "bndl", PrekeyRequest(user))


async def send(peer: RawPeer, to: str, blob: bytes, identifier: bytes | None = None) -> Any:
    return await ask(peer, "send", MailRequest(to, identifier or os.urandom(16), blob))


async def acknowledge(peer: RawPeer, *seqs: int) -> Any:
    return await ask(peer, "ackm", Acknowledgement(seqs))


async def deliveries(peer: RawPeer, count: int) -> list[Delivery]:
    """The next `count` events, which have to be messages."""
    found = [await peer.receive() for _ in range(count)]
    assert [(record.kind, record.verb) for record in found] == [(Kind.EVENT, b"mail")] * count, found
    return [parse_untrusted(Role.SERVER, record) for record in found]


class MemoryBlocks:
    """In the place of `server.blocks.Blocks`."""

    def __init__(self) -> None:
        self.pairs: set[tuple[str, str]] = set()

    def is_blocked(self, owner: str, blocked: str) -> bool:
        return (fold(owner), fold(blocked)) in self.pairs

    def blockers_of(self, blocked: str) -> frozenset[str]:
        return frozenset(owner for owner, other in self.pairs if other == fold(blocked))

    def listing(self, owner: str) -> BlockList:
        return BlockList(tuple(other for each, other in sorted(self.pairs) if each == fold(owner)))

    async def change(self, owner: str, request: Block) -> None:
        change = self.pairs.add if request.op is BlockOp.BLOCK else self.pairs.discard
        change((fold(owner), fold(request.user)))


@asynccontextmanager
async def dial_in(home: Home, port: int, name: str, device: bytes) -> AsyncIterator[RawPeer]:
    """Log in by hand at a server in a process of its own. The user's key is `identity(name)`."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield await _log_in(Link(stream, Role.CLIENT), home, name, device)


async def _log_in(link: Link, home: Home, name: str, device: bytes) -> RawPeer:
    login = ClientLogin(
        username=name,
        identity=identity(name),
        authority=read_certificate(home.ca_certificate),
        server="localhost",
        suites=(SWIFT,),
        random=os.urandom,
        device=device,
    )
    await link.send_frame(FrameType.M1, login.start())
    m3 = login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC))
    await link.send_frame(FrameType.M3, m3)
    info = login.receive_m4_untrusted(await link.receive_frame())
    link.connection.start_session(info.sealer, info.opener, trio.current_time())
    return RawPeer(link, info)
