"""Bounds that no other test reaches: at the bound all is well, one beyond it is refused or cut (docs/limits.md)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import NameOID

from messageapp.client import login as client_login
from messageapp.client import session as client_session
from messageapp.client.calls import UNANSWERED_SECONDS
from messageapp.client.client import EVENTS
from messageapp.client.events import CallRefused, IncomingCall
from messageapp.client.keying import KEYING_SECONDS
from messageapp.errors import CannotConnect, UnusableSetup
from messageapp.limits import Limits
from messageapp.link import _LOGIN_READ, _SESSION_READ, Link
from messageapp.server import connection, quota
from messageapp.server.quota import AddressQuota, address_group
from messageapp.server.setup import _is_dns_name
from messageapp.sockets import _MOST, _UNSENT, BareSocketStream
from messageapp.store.home import Home
from messageapp.wire import vector_cases
from messageapp.wire.commands import (
    INVITE_SIZE,
    PING_SIZE,
    BadArgument,
    Bye,
    ByeReason,
    Call,
    Echo,
    Errors,
    parse_untrusted,
)
from messageapp.wire.messages import _SERVER_NAME, M1, M2, M2Core, server_name_untrusted
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_cli import main as main_command
from messageapp_cli import serve as serve_command
from messageapp_cli import vectors as vectors_command
from messageapp_cli.render import one_line
from messageapp_keys import certificate_reading, keystore, pem
from messageapp_keys.codec import Malformed, vec16
from messageapp_keys.signing import MAX_RSA_BITS, MIN_RSA_BITS, UnusableKey, VerifyingKey
from support.world import open_world, settle, some_limits, with_fake_server

# of a server ------------------------------------------------------------------------------------------------------


async def test_a_session_ends_after_so_many_bytes(autojump_clock: trio.testing.MockClock) -> None:
    """Either way counts. A request without an argument is 256 bytes in its record, and so is its reply."""
    with trio.fail_after(1000):
        async with open_world(some_limits(session_bytes=10 * 256, ping_seconds=1)) as world:
            alice = await world.raw("alice")
            for _ in range(4):
                await alice.nothing_new()
            await trio.sleep(0.9)
            await alice.nothing_new()  # the last of ten records
            await trio.sleep(0.2)
            last = await alice.receive()
            assert (last.verb, parse_untrusted(Role.SERVER, last)) == (b"byee", Bye(ByeReason.AGE))


async def test_a_session_of_fewer_bytes_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1000):
        async with open_world(some_limits(session_bytes=10 * 256 + 1, ping_seconds=1)) as world:
            alice = await world.raw("alice")
            for _ in range(5):
                await alice.nothing_new()
            await trio.sleep(1.1)
            assert (await alice.receive()).verb == b"ping"


async def test_the_server_fills_the_pool_that_its_owner_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def open_pool(size: int) -> Any:
        asked.append(size)
        raise UnusableSetup("far enough")

    monkeypatch.setattr("messageapp.keypool.open_pool", open_pool)
    with trio.fail_after(20), pytest.raises(UnusableSetup, match="far enough"):
        await serve_command._serve(
            Home(tmp_path), "127.0.0.1", 0, ["localhost"], Limits(rsa_pool=7), classic=True, witnesses=[], pq=False
        )
    assert asked == [7]


async def test_who_is_refused_has_a_second_to_close(autojump_clock: trio.testing.MockClock) -> None:
    """A stranger that does not close is closed, and not before the second is over."""
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = world.connect_both()
            closed, started = trio.Event(), trio.current_time()
            real = far.receive_stream.close
            far.receive_stream.close = lambda: (closed.set(), real())
            await near.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await closed.wait()
            assert trio.current_time() - started == pytest.approx(connection._LINGER_SECONDS)


def test_a_good_login_is_remembered_for_a_day() -> None:
    for age, good in ((quota._RECENT_SECONDS - 1, True), (quota._RECENT_SECONDS, False)):
        addresses = AddressQuota(Limits(handshakes_crowded=1))
        assert addresses.begin("192.0.2.1", 0.0)
        addresses.end("192.0.2.1", 0.0, good=True)
        assert addresses.begin("192.0.2.2", age)  # from here on it is crowded
        assert addresses.begin("192.0.2.1", age) is good


def test_few_addresses_are_kept_parsed() -> None:
    for number in range(4097):
        address_group(f"10.1.{number // 256}.{number % 256}")
    assert address_group.cache_info().currsize == address_group.cache_info().maxsize == 4096


def test_a_name_of_the_machine_has_labels_of_63_and_253_letters_at_most() -> None:
    assert _is_dns_name("a" * 63 + ".example")
    assert not _is_dns_name("a" * 64 + ".example")
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(longest) == 253
    assert _is_dns_name(longest)
    assert not _is_dns_name(longest + "a")


def test_a_port_in_the_settings_has_16_bits(tmp_path: Path) -> None:
    home = Home(tmp_path)
    path = home.server_settings
    path.write_text(f"port = {serve_command._MAX_PORT}\n")
    assert serve_command._settings(home)["port"] == 65_535
    path.write_text(f"port = {serve_command._MAX_PORT + 1}\n")
    with pytest.raises(UnusableSetup, match="0 to 65535"):
        serve_command._settings(home)


# reading and sending ----------------------------------------------------------------------------------------------


class Asked(trio.abc.Stream):
    """Says how much is asked for, and is at its end."""

    def __init__(self) -> None:
        self.most: list[int | None] = []

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self.most.append(max_bytes)
        return b""

    async def send_all(self, data: object) -> None:
        raise AssertionError

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize(
    ("read", "most"), [(Link.receive_frame, _LOGIN_READ), (Link.receive_ignored, _LOGIN_READ)], ids=["M1", "refused"]
)
async def test_before_login_8_kib_are_read_at_a_time(read: Callable[[Link], Any], most: int) -> None:
    stream = Asked()
    with pytest.raises(Exception, match="connection"):
        await read(Link(stream, Role.SERVER))
    assert stream.most == [most] == [8192]


async def test_in_a_session_96_kib_are_read_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(10):
        async with open_world() as world:
            near, far = world.connect_both()
            asked: list[int | None] = []
            real = far.receive_some

            async def receive_some(max_bytes: int | None = None) -> bytes:
                asked.append(max_bytes)
                return bytes(await real(max_bytes))

            far.receive_some = receive_some  # type: ignore[method-assign]
            alice = await world.raw("alice", stream=near)
            await alice.nothing_new()
            assert set(asked) == {_LOGIN_READ, _SESSION_READ} == {8192, 98_304}


class Counting(socket.socket):
    """Says how much the kernel is asked for."""

    asked: list[int]

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self.asked = [*getattr(self, "asked", []), nbytes]
        return super().recv_into(buffer, nbytes, flags)


async def test_one_read_of_a_socket_takes_256_kib_at_most() -> None:
    near, far = socket.socketpair()
    with near, Counting(fileno=far.detach()) as counting:
        stream = BareSocketStream(counting)
        for most in (_MOST - 1, _MOST, _MOST + 1, 2**40):
            near.send(b"x")
            assert await stream.receive_some(most) == b"x"
        near.send(b"x")
        assert await stream.receive_some() == b"x"
        assert counting.asked == [_MOST - 1, *[_MOST] * 4]
        assert _MOST == 262_144


async def test_the_kernel_holds_little_for_a_peer_that_reads_slowly() -> None:
    with trio.fail_after(10):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
            before = near.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            async with BareSocketStream(near) as stream:
                after = stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert before != after == _UNSENT == 262_144


# of a client ------------------------------------------------------------------------------------------------------


async def test_events_that_nobody_takes_hold_up_the_reading_and_lose_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            await settle(alice)
            for number in range(EVENTS + 5):
                await server.event("reqt", Call(f"user{number}", bytes(INVITE_SIZE)))
            await trio.testing.wait_all_tasks_blocked()
            assert alice.events.statistics().current_buffer_used == EVENTS
            told = [await alice.events.receive() for _ in range(EVENTS + 5)]
            assert told == [IncomingCall(f"user{number}") for number in range(EVENTS + 5)]


@pytest.mark.parametrize(("rang", "unanswered"), [(UNANSWERED_SECONDS - 0.1, False), (UNANSWERED_SECONDS, True)])
async def test_a_call_that_rang_for_55_seconds_was_not_answered(
    autojump_clock: trio.testing.MockClock, rang: float, unanswered: bool
) -> None:
    with trio.fail_after(200):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.chat, "bob")
                request = await server.receive()
                call = parse_untrusted(Role.CLIENT, request)
                await server.send(Kind.REPLY, request.id, "reqt", Call("bob", call.invite))
            await settle(alice)
            alice._calls._since = trio.current_time() - rang
            await server.event("refu", Call("bob", call.invite))
            assert (await settle(alice))[0] == [CallRefused("bob", unanswered=unanswered)]
    assert UNANSWERED_SECONDS == 55


async def test_a_client_pings_after_a_minute_of_silence(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(300):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            heard = alice._session._heard
            while (record := (await server.link.receive_records())[0]).verb != b"ping":
                pass  # `list`, which it asks for anew; only what it hears counts
            assert record.kind is Kind.REQUEST
            assert trio.current_time() - heard == pytest.approx(client_session.PING_SECONDS, abs=0.1)


async def test_a_host_that_does_not_answer_is_given_up(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(host: str, port: int) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(trio, "open_tcp_stream", silence)
    with trio.fail_after(60):
        started = trio.current_time()
        with pytest.raises(CannotConnect, match="does not answer"):
            await client_login.dial("192.0.2.1", 8081)
        assert trio.current_time() - started == pytest.approx(client_login._CONNECT_SECONDS)
    assert KEYING_SECONDS > client_login._CONNECT_SECONDS


# of the protocol --------------------------------------------------------------------------------------------------


def m1(**changes: Any) -> M1:
    return M1(**({"random": bytes(32), "versions": (2,), "suites": (3,), "sigalgs": (0x0804,)} | changes))


@pytest.mark.parametrize(("field", "most"), [("versions", 8), ("suites", 16), ("sigalgs", 8)])
def test_offers_of_m1_at_their_bounds(field: str, most: int) -> None:
    whole = m1(server="localhost", username="alice", **{field: tuple(range(most))})
    assert M1.parse_untrusted(whole.encode()) == whole
    for count in (0, most + 1):
        wrong = m1(server="localhost", username="alice", **{field: tuple(range(count))})
        with pytest.raises(Malformed):
            M1.parse_untrusted(wrong.encode())


def test_a_server_name_has_253_bytes_at_most() -> None:
    assert server_name_untrusted(b"a" * 253) == "a" * 253
    assert _SERVER_NAME.pattern.endswith(b"{1,253}")
    for wrong in (b"", b"a" * 254):
        with pytest.raises(Malformed):
            server_name_untrusted(wrong)


def test_a_chain_has_three_certificates_at_most() -> None:
    for count, good in ((0, False), (1, True), (3, True), (4, False)):
        core = M2Core(bytes(32), 2, 3, b"temp pub", (b"certificate",) * count, 0x0804)
        data = core.encode() + vec16(b"signature")
        if good:
            assert M2.parse_untrusted(data).core == core
            continue
        with pytest.raises(Malformed):
            M2.parse_untrusted(data)


def test_the_text_of_an_error_has_255_bytes_at_most() -> None:
    assert Errors(1, "x" * 255).encode() == b"\0\1\xff" + b"x" * 255
    assert Errors(1, "x" * 256).encode() == Errors(1, "x" * 255).encode()


@pytest.mark.parametrize("size", [INVITE_SIZE - 1, INVITE_SIZE, INVITE_SIZE + 1])
def test_an_invite_has_16_bytes(size: int) -> None:
    record = Record(Kind.EVENT, 0, b"reqt", b"\3bob" + bytes(size))
    if size == 16:
        assert parse_untrusted(Role.SERVER, record) == Call("bob", bytes(16))
        return
    with pytest.raises(BadArgument):
        parse_untrusted(Role.SERVER, record)


@pytest.mark.parametrize("size", [PING_SIZE - 1, PING_SIZE, PING_SIZE + 1])
def test_an_echo_has_8_bytes(size: int) -> None:
    record = Record(Kind.REQUEST, 1, b"ping", bytes(size))
    if size == 8:
        assert parse_untrusted(Role.SERVER, record) == Echo(bytes(8))
        return
    with pytest.raises(BadArgument):
        parse_untrusted(Role.SERVER, record)


# of keys and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "good"),
    [(MIN_RSA_BITS - 1, False), (MIN_RSA_BITS, True), (MAX_RSA_BITS, True), (MAX_RSA_BITS + 1, False)],
)
def test_rsa_keys_of_2048_to_4096_bits(bits: int, good: bool) -> None:
    key = rsa.RSAPublicNumbers(65537, (1 << bits) - 1).public_key()
    assert key.key_size == bits
    if good:
        assert VerifyingKey.of(key).key is key
        return
    with pytest.raises(UnusableKey, match="2048 to 4096"):
        VerifyingKey.of(key)


def test_each_lane_wants_its_memory() -> None:
    for lanes in range(1, keystore.MAX_LANES + 1):
        keystore.Argon2Cost(kib=keystore._KIB_PER_LANE * lanes, passes=1, lanes=lanes)
        with pytest.raises(ValueError, match="8 KiB for each lane"):
            keystore.Argon2Cost(kib=keystore._KIB_PER_LANE * lanes - 1, passes=1, lanes=lanes)


def test_a_key_in_64_kib_is_read_and_one_byte_more_is_not() -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert pem.import_private_pem(key.ljust(pem.MAX_PEM, b"\n"), None).bundle.kind == "Ed25519"
    with pytest.raises(pem.PemRefused, match="larger than any key"):
        pem.import_private_pem(key.ljust(pem.MAX_PEM + 1, b"\n"), None)


def test_a_file_of_vectors_has_16_mib_at_most(tmp_path: Path) -> None:
    file = tmp_path / "vectors.json"
    document = json.dumps({"note": "x"}).encode()
    file.write_bytes(document.ljust(vectors_command._MAX_SIZE))
    assert vectors_command._load(file) == {"note": "x"}
    file.write_bytes(document.ljust(vectors_command._MAX_SIZE + 1))
    with pytest.raises(UnusableSetup, match="far too large"):
        vectors_command._load(file)


# of what is shown -------------------------------------------------------------------------------------------------


def test_a_strangers_text_in_a_line_of_ours_has_200_letters_at_most() -> None:
    assert one_line("x" * 200) == "x" * 200
    assert one_line("x" * 201) == "x" * 199 + "…"


def test_a_complaint_has_5000_letters_at_most() -> None:
    for letter in "xé":
        assert main_command._shown(letter * main_command._MOST) == letter * 5000
        assert len(main_command._shown(letter * (main_command._MOST + 1))) == 5000


def test_a_name_in_a_certificate_is_shown_with_100_letters_at_most() -> None:
    most = certificate_reading._SHOWN_LENGTH
    for length in (most, most + 1):
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "x" * (length - len("OU=")))])
        assert certificate_reading.shown_name(name) == f"'OU={'x' * (most - len('OU='))}'"


def test_a_field_name_of_a_stranger_is_shown_with_60_letters_at_most() -> None:
    most = vector_cases._SHOWN
    assert vector_cases._shown(["k" * (most - 2)]) == f"'{'k' * (most - 2)}'"
    assert vector_cases._shown(["k" * (most + 9)]) == f"'{'k' * (most - 1)}"
