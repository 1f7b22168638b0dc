"""Each weakness of the program of 2021, as a test of ours: one sentence on what it did and what holds here."""

from __future__ import annotations

import gc
import os
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from messageapp.client.chat import REMEMBERED_SENDS
from messageapp.client.client import State
from messageapp.client.events import ChatSecure, TextReceived
from messageapp.errors import ConnectionCut, RemoteProtocolError, ServerNotAuthenticated, UnusableSetup
from messageapp.link import Link
from messageapp.server.router import Router
from messageapp.server.serve import Server
from messageapp.store.home import Home, read_secret, write_file
from messageapp.wire.commands import Call, Invite, Raw, parse_untrusted
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.login import ServerOffer
from messageapp.wire.messages import MAGIC
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_keys import kem
from messageapp_keys.authority import make_ca, make_server_certificate
from messageapp_keys.certificate_reading import certificate_der, spki_hash
from messageapp_keys.codec import vec8, vec16
from messageapp_keys.kem import CLASSIC, TemporaryKey
from messageapp_keys.keystore import DEFAULT_COST, Argon2Cost, SealedIdentity, seal_identity
from messageapp_keys.signing import algorithm_of
from support.world import (
    SERVER_NAME,
    EndlessKeys,
    MemoryDirectory,
    MemoryListener,
    Pass,
    authority,
    expect,
    identity,
    on_forward,
    open_world,
    read_to_end,
    server_offer,
    settle,
    some_limits,
    with_fake_server,
)

LOGIN_FAILED = encode_frame(FrameType.ALERT, b"\1")


def offer_by(issuer: Any, issuer_key: Any, name: str, now: datetime) -> ServerOffer:
    key, leaf = make_server_certificate(issuer_key, issuer, [name], now, ec.generate_private_key(ec.SECP256R1()))
    return ServerOffer((certificate_der(leaf),), key, algorithm_of(key), spki_hash(leaf), (name,), bytes(32))


@pytest.mark.parametrize("what", ["another authority", "expired", "of later", "another name", "the authority itself"])
async def test_i01_the_certificate_is_validated(autojump_clock: trio.testing.MockClock, what: str) -> None:
    """The original took any certificate, self-signed and expired ones too; here the login ends before M3 is sent."""
    now, (ca_key, ca) = datetime.now(UTC), authority()
    other_key, other = make_ca(now, key=ec.generate_private_key(ec.SECP256R1()))
    offer = {
        "another authority": lambda: offer_by(other, other_key, SERVER_NAME, now),
        "expired": lambda: offer_by(ca, ca_key, SERVER_NAME, now - timedelta(days=400)),
        "of later": lambda: offer_by(ca, ca_key, SERVER_NAME, now + timedelta(days=2)),
        "another name": lambda: offer_by(ca, ca_key, "evil.example", now),
        "the authority itself": lambda: ServerOffer(
            (certificate_der(ca),), ca_key, algorithm_of(ca_key), spki_hash(ca), (SERVER_NAME,), bytes(32)
        ),
    }[what]()
    with trio.fail_after(60):
        async with open_world(offer=offer) as world:
            with pytest.raises(ServerNotAuthenticated):
                async with world.client("alice"):
                    raise AssertionError("logged in")
            assert list(world.server.router.sessions()) == []


@pytest.mark.parametrize("size", [17, 18, 255, 65_503])
async def test_i02_an_oversized_name_before_login_is_refused(autojump_clock: trio.testing.MockClock, size: int) -> None:
    """The original copied up to 65,503 bytes into a buffer of 16; here a name has 16 at most and a frame its limit."""
    start = MAGIC + bytes(32) + b"\1\0\2" + b"\1\0\3" + b"\1\x04\x03" + bytes(4) + vec8(SERVER_NAME.encode())
    name = b"a" * size
    body = start + (vec8(name) if size < 256 else b"\xff" + name) + vec16(b"")
    with trio.fail_after(60):
        async with open_world() as world:
            stream = world.connect()
            await stream.send_all(encode_frame(FrameType.M1, body))
            answer = await read_to_end(stream)
            assert answer == (LOGIN_FAILED if size < 256 else encode_frame(FrameType.ALERT, b"\4"))
            await world.raw("alice")


@pytest.mark.parametrize("later", [1, 255, 256, 257, 512])
async def test_i03_a_replayed_record_is_refused_whatever_its_counter(
    autojump_clock: trio.testing.MockClock, later: int
) -> None:
    """The original compared counters as strings, so that record 0 passed again for 256; here all 16 bytes count."""
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            await world.raw_chat(alice, "alice", bob, "bob")
            first = alice.link.connection.send_record(Record(Kind.REQUEST, 1, b"frwd", b"\5 once"), 0.0)
            await alice.link.send(first)
            for _ in range(later - 1):
                await alice.send("frwd", Raw(b"\5 more"))
                await trio.testing.wait_all_tasks_blocked()
            await alice.link.send(first)
            with pytest.raises(ConnectionCut):
                await alice.receive()
            got = [(await bob.receive()).argument for _ in range(later)]
            assert got == [b"\5 once"] + [b"\5 more"] * (later - 1)
            assert (await bob.receive()).verb == b"exch"


async def test_i04_what_arrives_together_or_in_pieces_is_the_same(autojump_clock: trio.testing.MockClock) -> None:
    """In the original one read was one message, and two together ended the session; here frames have lengths."""
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob = await world.raw("alice"), await world.raw("bob")
            await world.raw_chat(alice, "alice", bob, "bob")
            connection = alice.link.connection
            data = b"".join(
                connection.send_record(Record(Kind.REQUEST, n, b"frwd", bytes((5, n))), 0.0) for n in range(30)
            )
            await alice.link.send(data[:1000])
            for place in range(1000, 2000):
                await alice.link.send(data[place : place + 1])
            await alice.link.send(data[2000:])
            assert [(await bob.receive()).argument for _ in range(30)] == [bytes((5, n)) for n in range(30)]


class Tap:
    """A stream that remembers what it sent."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.sent = b""

    async def send_all(self, data: bytes) -> None:
        self.sent += data
        await self._stream.send_all(data)

    async def receive_some(self, most: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(most))

    async def aclose(self) -> None:
        await self._stream.aclose()


def counters(data: bytes) -> list[int]:
    found = []
    while data:
        (length,) = struct.unpack(">I", data[:4])
        if data[4] == FrameType.RECORD:
            found.append(int.from_bytes(data[5:21], "little"))
        data = data[4 + length :]
    return found


async def test_i05_sending_at_once_never_uses_a_counter_twice(autojump_clock: trio.testing.MockClock) -> None:
    """In the original two threads could take the same counter and nonce; here one writer takes them in turn."""
    with trio.fail_after(60):
        async with open_world() as world:
            tap = Tap(world.connect())
            async with world.client("alice", stream=tap) as alice, world.client("bob") as bob:  # type: ignore[arg-type]
                await alice.chat("bob")
                await expect(bob, "IncomingCall")
                await bob.accept()
                await expect(alice, "ChatSecure")

                async def talk(number: int) -> None:
                    for line in range(10):
                        await alice.say(f"{number} {line}")
                        await alice.list_users()

                async with trio.open_nursery() as nursery:
                    for number in range(5):
                        nursery.start_soon(talk, number)
                await settle()
                used = counters(tap.sent)
                assert used == list(range(len(used)))
                assert len(used) > 100


async def test_i06_a_confirmation_that_does_not_open_is_no_confirmation(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original showed garbage as a completed exchange; here C4 must open, or there is no chat."""

    def forward(router: Router, session: Any, record: Record, pass_on: Pass) -> None:
        if record.argument[:1] == b"\4":
            record = Record(record.kind, record.id, record.verb, b"\4" + os.urandom(len(record.argument) - 1))
        pass_on(record)

    on_forward(monkeypatch, forward)
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:
            await alice.chat("bob")
            await expect(bob, "IncomingCall")
            await bob.accept()
            told = await settle(alice, bob)
            assert not any(isinstance(event, ChatSecure) for event in told[0] + told[1])
            assert alice.state is bob.state is State.ONLINE


async def test_i07_silent_connections_do_not_close_the_service(autojump_clock: trio.testing.MockClock) -> None:
    """Three idle connections closed the original's service for ever; here they hinder nobody and are dropped."""
    with trio.fail_after(60):
        async with open_world() as world:
            silent = [world.connect() for _ in range(50)]
            await trio.testing.wait_all_tasks_blocked()
            started = trio.current_time()
            await (await world.raw("alice")).nothing_new()
            assert trio.current_time() == started
            for stream in silent:
                await read_to_end(stream)
            assert trio.current_time() - started == pytest.approx(5)


async def test_i08_who_connects_while_the_server_starts_is_served(autojump_clock: trio.testing.MockClock) -> None:
    """The original could listen and never serve, by a race at its start; here every connection is answered."""
    with trio.fail_after(60):
        for _ in range(10):
            listener, streams = MemoryListener(), []
            for _ in range(5):
                near, far = trio.testing.memory_stream_pair()
                listener.send.send_nowait(far)
                streams.append(near)
            server = Server(
                offer=server_offer(),
                directory=MemoryDirectory(),
                keys=EndlessKeys(),
                limits=some_limits(),
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve, [listener])
                for stream in streams:
                    await stream.send_all(b"garbage!")
                    assert len(await read_to_end(stream)) == 6
                    await stream.aclose()
                server.shutdown()


async def test_i09_nothing_is_sent_that_was_not_meant(autojump_clock: trio.testing.MockClock) -> None:
    """The original's banner carried 7 bytes of memory to anyone; here the server is silent, then sends exact frames."""
    with trio.fail_after(60):
        async with open_world() as world:
            stream = world.connect()
            with trio.move_on_after(4) as waiting:
                await stream.receive_some()
            assert waiting.cancelled_caught
            await stream.send_all(world.login("nobody").start())
            await trio.testing.wait_all_tasks_blocked()
            data = bytes(await stream.receive_some(100_000))
            assert data[4] == FrameType.M2
            assert int.from_bytes(data[:4], "big") == len(data) - 4


async def test_i10_temporary_keys_are_gone_once_they_served(autojump_clock: trio.testing.MockClock) -> None:
    """The original never freed them, which ended forward secrecy; here nothing holds them after the exchange."""
    with trio.fail_after(60):
        async with open_world() as world, world.chat():
            stalled = world.connect()
            await stalled.send_all(world.login("alice").start())
            await trio.sleep(15)
            gc.collect()
            assert [each for each in gc.get_objects() if isinstance(each, TemporaryKey)] == []


async def test_i11_memory_does_not_grow_with_what_was_said(autojump_clock: trio.testing.MockClock) -> None:
    """The original leaked 40 bytes and the message with every record; here what remains is bounded."""
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            gc.collect()
            before = [type(each) for each in gc.get_objects()]
            for number in range(REMEMBERED_SENDS + 200):
                await alice.say("x")
                if number % 50 == 0:
                    await settle(bob)
            await settle(alice, bob)
            assert len(alice._chat._sends) <= REMEMBERED_SENDS
            assert alice._session._requests == {}
            gc.collect()
            kinds = [type(each) for each in gc.get_objects()]
            for kind in (Record, TextReceived):
                assert kinds.count(kind) - before.count(kind) < 50


@pytest.mark.parametrize("verb", ["acpt", "refu"])
async def test_i12_an_answer_to_a_former_call_does_not_answer_the_next(
    autojump_clock: trio.testing.MockClock, verb: str
) -> None:
    """The original ignored the name, so one could accept someone else; here name and invite must fit."""
    old, new = b"old call" * 2, b"new call" * 2
    with trio.fail_after(60):
        async with open_world() as world:
            alice, bob, carol = [await world.raw(name) for name in ("alice", "bob", "carol")]
            await alice.ask("chat", Call("bob", old))
            await alice.ask("cach", Invite(old))
            await carol.ask("chat", Call("bob", new))
            for answer in (Call("alice", old), Call("alice", new), Call("carol", old), Call("bob", new)):
                refused = await bob.ask(verb, answer)
                assert parse_untrusted(Role.SERVER, refused).code == 3
            await alice.nothing_new()
            await carol.nothing_new()
            listing = parse_untrusted(Role.SERVER, await carol.ask("list"))
            assert {entry.user: entry.state for entry in listing.entries} == {"alice": 0, "bob": 1, "carol": 4}
            assert (await bob.ask("acpt", Call("carol", new))).verb == b"pubk"


@pytest.mark.parametrize("name", [b"e\x1b[2Jvil", b"evil\n", b"evil\0", "ev\u202eil".encode(), b"\xff\xfe"])
async def test_i13_no_name_carries_control_characters(autojump_clock: trio.testing.MockClock, name: bytes) -> None:
    """The original printed what peers sent; here a name that is none ends the session before anyone sees it."""
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await server.event("reqt", Raw(vec8(name) + bytes(16)))
            assert await settle(alice) == [[]]
            assert alice.caller is None
            await server.send(Kind.REPLY, 1, "list", Raw(vec8(name) + b"\0"))
            assert type((await expect(alice, "Ended")).error) is RemoteProtocolError
            assert alice.online == {}


def test_i14_private_keys_are_sealed_with_argon2id_in_a_file_of_ones_own(tmp_path: Path) -> None:
    """The original's PEM had one MD5 pass over the password; here a guess costs 64 MiB, and the file is one's own."""
    assert Argon2Cost(kib=64 * 1024, passes=3, lanes=1) == DEFAULT_COST
    who, path = identity("alice"), Home(tmp_path).identity("alice")
    sealed = seal_identity("alice", who, "a passphrase", cost=Argon2Cost(kib=8, passes=1))
    write_file(path, sealed)
    assert path.stat().st_mode & 0o777 == 0o600
    for _, der in who.pkcs8():
        assert der not in sealed
        assert der[-32:] not in sealed
    assert SealedIdentity.parse_untrusted(read_secret(path)).unseal("a passphrase").bundle == who.bundle
    path.chmod(0o644)
    with pytest.raises(UnusableSetup):
        read_secret(path)


async def test_i14_a_chat_writes_nothing_into_the_working_directory(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original wrote the peer's key and the server's certificate to fixed names there; here nothing is."""
    monkeypatch.chdir(tmp_path)
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.say("hello")
            await expect(bob, "TextReceived")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
async def test_i15_a_secret_of_another_size_is_refused_like_any_failure(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """With a short one the original took the rest of the key from stale memory; here it fails as a broken one does."""

    def encapsulate(self: Any, public: Any, random: Any) -> tuple[bytes, bytes]:
        secret = bytes(size)
        return public.encrypt(secret, kem._OAEP), secret.ljust(32, b"\0")[:32]

    with trio.fail_after(60):
        async with open_world() as world:
            world.directory.enrol("alice", identity("alice").bundle)
            answers: list[bytes] = []
            for patched in (True, False):
                with monkeypatch.context() as patch:
                    if patched:
                        patch.setattr(kem._Rsa, "encapsulate_untrusted", encapsulate)
                    login, link = world.login("alice", suites=(CLASSIC,)), Link(world.connect(), Role.CLIENT)
                    await link.send_frame(FrameType.M1, login.start())
                    m3 = bytearray(login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC)))
                    if not patched:
                        m3[100] ^= 1
                    await link.send_frame(FrameType.M3, bytes(m3))
                    answers.append(await read_to_end(link.stream))  # type: ignore[arg-type]
            assert answers == [LOGIN_FAILED, LOGIN_FAILED]
            await world.raw("alice", suites=(CLASSIC,))
