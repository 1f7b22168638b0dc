"""Logins that fail, by what the user is told; and what a client takes from nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client.client import open_client
from messageapp.client.login import LOGIN_SECONDS, Account
from messageapp.errors import (
    CannotConnect,
    LoginRefused,
    MessageAppError,
    ServerBusy,
    ServerNotAuthenticated,
)
from messageapp.link import Link
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.login import ServerLogin
from messageapp.wire.messages import Alert
from messageapp.wire.states import Role
from messageapp_keys.certificate import make_ca
from messageapp_keys.kem import CLASSIC, HYBRID, SWIFT, TemporaryKey
from support.keys import NOW
from support.world import SERVER_NAME, FakeServer, World, identity, open_world, server_offer, some_limits


async def attempt(world: World, account: Account, stream: Any = None) -> MessageAppError | None:
    """The error of a login, None where it came about. Its stream is closed either way."""
    stream = stream or world.connect()
    found: MessageAppError | None = None
    try:
        async with open_client(stream, account, world.keys):
            pass
    except MessageAppError as error:
        found = error
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")
    return found


async def test_a_user_that_the_server_does_not_know(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            error = await attempt(world, world.account("alice", enrol=False))
            assert type(error) is LoginRefused
            assert error.exit_code == 4


async def test_another_key_than_the_server_has(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            world.account("alice")
            error = await attempt(world, world.account("alice", identity=identity("mallory")))
            assert type(error) is LoginRefused


async def test_another_spelling_of_the_name(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            world.directory.enrol("Alice", identity("alice").bundle)
            assert type(await attempt(world, world.account("alice", enrol=False))) is LoginRefused
            assert await attempt(world, world.account("Alice", identity=identity("alice"))) is None


async def test_a_server_of_another_authority(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            account = world.account("alice")
            other = Account(account.user, account.identity, make_ca(NOW)[1], account.trust, account.server)
            error = await attempt(world, other)
            assert type(error) is ServerNotAuthenticated
            assert error.exit_code == 3


async def test_a_server_with_another_name(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            assert type(await attempt(world, world.account("alice", server="other.example"))) is ServerNotAuthenticated
            assert await attempt(world, world.account("alice", server="127.0.0.1")) is None


async def test_a_changed_server_key_is_refused_before_anything_of_ours_is_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, open_world(offer=server_offer("second")) as impostor:
            account = world.account("alice", port=4000)
            impostor.directory.enrol("alice", identity("alice").bundle)
            assert await attempt(world, account) is None, "the first key is taken"
            assert await attempt(world, account) is None
            frames: list[FrameType] = []
            near, far = trio.testing.memory_stream_pair()

            async def serve() -> None:
                link = Link(far, Role.SERVER)
                login = ServerLogin(await link.receive_frame(), server_offer("second"), (SWIFT,))
                await link.send_frame(FrameType.M2, login.offer(TemporaryKey.generate(SWIFT), bytes))
                with pytest.raises(MessageAppError):
                    frames.append((await link.receive_frame()).type)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                error = await attempt(world, account, near)
            assert type(error) is ServerNotAuthenticated
            assert "--trust-server" in str(error)
            assert frames == []
            assert await attempt(world, account, impostor.connect()) is not None, "still"
            trusting = world.account("alice", port=4000, trust_server=True)
            assert await attempt(world, trusting, impostor.connect()) is None
            assert await attempt(world, account, impostor.connect()) is None, "it is the pinned one now"
            assert type(await attempt(world, account)) is ServerNotAuthenticated


async def test_a_server_that_calls_itself_otherwise_is_refused_until_it_is_trusted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The same key under another name of its certificate: peers are pinned under that name. Once it is trusted it is
    so under every address of that server."""
    with trio.fail_after(60):
        renamed = replace(server_offer(), names=("127.0.0.1", SERVER_NAME))
        async with open_world() as world, open_world(offer=renamed) as later:
            accounts = [world.account("alice", server=name, port=4000) for name in (SERVER_NAME, "127.0.0.1")]
            later.directory.enrol("alice", identity("alice").bundle)
            for account in accounts:
                assert await attempt(world, account) is None
            for account in accounts:
                error = await attempt(world, account, later.connect())
                assert type(error) is ServerNotAuthenticated
                assert f"calls itself 127.0.0.1 now and {SERVER_NAME} before" in str(error)
            assert await attempt(world, replace(accounts[0], trust_server=True), later.connect()) is None
            for account in accounts:
                assert await attempt(world, account, later.connect()) is None
                assert type(await attempt(world, account)) is ServerNotAuthenticated, "the former name"


async def test_a_full_server_and_one_without_keys(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(some_limits(sessions=1)) as world:
            async with world.client("bob"):
                error = await attempt(world, world.account("alice"))
                assert type(error) is ServerBusy
                assert "5 seconds" in str(error)
                assert error.exit_code == 5
            await trio.sleep(2)
            world.keys.empty = True
            assert type(await attempt(world, world.account("alice", suites=(CLASSIC,)))) is ServerBusy
            assert await attempt(world, world.account("alice")) is None


async def test_no_suite_in_common(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(suites=(HYBRID, SWIFT)) as world:
            error = await attempt(world, world.account("alice", suites=(CLASSIC,)))
            assert type(error) is ServerNotAuthenticated


async def test_a_server_that_is_full_of_strangers_closes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(some_limits(handshakes=1)) as world:
            world.connect()
            await trio.testing.wait_all_tasks_blocked()
            assert type(await attempt(world, world.account("alice"))) is CannotConnect


def after_m1(answer: bytes) -> Callable[[Any], Any]:
    async def serve(far: Any) -> None:
        link = Link(far, Role.SERVER)
        await link.receive_frame()
        await far.send_all(answer)
        await far.send_eof()

    return serve


def alert(code: int, *more: int) -> bytes:
    return encode_frame(FrameType.ALERT, bytes((code, *more)))


ANSWERS: dict[str, tuple[bytes, type[MessageAppError]]] = {
    "nothing, then the close": (b"", CannotConnect),
    "half a frame, then the close": (b"\0\0\4\0\2half", CannotConnect),
    "http": (b"HTTP/1.1 400 Bad Request\r\n\r\n", ServerNotAuthenticated),
    "ssh": (b"SSH-2.0-OpenSSH_9.9\r\n", ServerNotAuthenticated),
    "zeros": (bytes(1000), ServerNotAuthenticated),
    "an empty M2": (encode_frame(FrameType.M2, b""), ServerNotAuthenticated),
    "an M2 of zeros": (encode_frame(FrameType.M2, bytes(3000)), ServerNotAuthenticated),
    "M4 at once": (encode_frame(FrameType.M4, bytes(300)), ServerNotAuthenticated),
    "a record": (encode_frame(FrameType.RECORD, bytes(300)), ServerNotAuthenticated),
    "login failed": (alert(1), LoginRefused),
    "busy": (alert(2, 0, 7), ServerBusy),
    "busy without a time": (alert(2), ServerBusy),
    "nothing in common": (alert(3), ServerNotAuthenticated),
    "too slow": (alert(4), CannotConnect),
    "an alert of later times": (alert(99), CannotConnect),
    "an alert without a code": (encode_frame(FrameType.ALERT, b""), ServerNotAuthenticated),
    "an alert with half a time": (alert(2, 0), ServerNotAuthenticated),
    "an alert that is long": (alert(2, 0, 0, 0), ServerNotAuthenticated),
    "a length of 4 GB": (b"\xff\xff\xff\xff", ServerNotAuthenticated),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_every_answer_to_m1_is_one_of_our_errors(autojump_clock: trio.testing.MockClock, case: str) -> None:
    answer, kind = ANSWERS[case]
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = trio.testing.memory_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(after_m1(answer), far)
                error = await attempt(world, world.account("alice"), near)
            assert type(error) is kind


async def test_a_server_that_says_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            near, _far = trio.testing.memory_stream_pair()
            started = trio.current_time()
            error = await attempt(world, world.account("alice"), near)
            assert type(error) is CannotConnect
            assert trio.current_time() - started == pytest.approx(LOGIN_SECONDS)


@pytest.mark.parametrize("what", ["flipped", "another text", "alert instead", "a record", "cut"])
async def test_the_login_is_complete_only_when_m4_opened(autojump_clock: trio.testing.MockClock, what: str) -> None:
    expected = {"alert instead": LoginRefused, "cut": CannotConnect}.get(what, ServerNotAuthenticated)
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = trio.testing.memory_stream_pair()

            class Bad:
                """The server's end, with another last frame."""

                sent = 0

                async def receive_some(self, most: int) -> bytes:
                    return bytes(await far.receive_some(most))

                async def send_all(self, data: bytes) -> None:
                    self.sent += 1
                    if self.sent == 2:
                        data = {
                            "flipped": data[:-1] + bytes((data[-1] ^ 1,)),
                            "alert instead": encode_frame(FrameType.ALERT, Alert(1).encode()),
                            "a record": encode_frame(FrameType.RECORD, data[5:]),
                            "cut": data[:-1],
                        }[what]
                    await far.send_all(data)
                    if self.sent == 2:
                        await far.send_eof()

            async def serve() -> None:
                if what == "another text":
                    await FakeServer.accept(far, "alice", text="User Login Complete?")
                else:
                    await FakeServer.accept(Bad(), "alice")  # type: ignore[arg-type]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                assert type(await attempt(world, world.account("alice", suites=(SWIFT,)), near)) is expected


async def test_a_hidden_user_logs_in(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice", hide_user=True) as alice:
            assert [entry.user for entry in (await alice.list_users()).entries] == ["alice"]


async def test_the_name_in_pins_is_the_servers_own(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice", server="127.0.0.1") as alice:
            assert alice.server_name == "chat.example"


async def test_a_canceled_login_closes_its_stream(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            near, far = trio.testing.memory_stream_pair()
            with trio.move_on_after(1):
                async with open_client(near, world.account("alice"), world.keys):
                    raise AssertionError("nobody answered")
            while await far.receive_some(1000):
                pass
