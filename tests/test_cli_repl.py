"""The prompt's loop: transcripts replayed, and what they cannot say."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from messageapp.client.client import EXIT_SECONDS, PARTING_SECONDS, State
from messageapp.client.online import REFRESH_SECONDS
from messageapp.errors import ConnectionCut
from messageapp.wire.commands import Call, Errors
from messageapp.wire.records import Kind
from support.fake_console import Player, open_stage, settled
from support.world import FakeServer, World, identity, open_world, with_fake_server

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
async def test_the_transcript_is_what_happens(script: Path) -> None:
    text = await trio.Path(script).read_text("utf-8")
    with trio.fail_after(60):
        async with open_stage() as stage:
            await stage.perform(text)


async def test_the_bottom_line_follows_the_pin(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob") as stage:
            alice, bob = await stage.chat("alice", "bob")
            alice.type("/verify confirm", "/exit")
            bob.type("exit")
            await settled()
            stage.renew_key("bob")
            bob = await stage.enter("bob", device="2")
            alice.type("chat bob")
            await settled()
            bob.type("acpt")
            await settled()
            assert "KEY CHANGED for bob" in alice.new()
            bob.type("exit")
            await settled()
            # The server comes back with the old key: it may be used, but is not verified any more.
            stage.world.directory.enrol("bob", identity("bob").bundle)
            bob = await stage.enter("bob", identity=identity("bob"))
            await stage.chat("alice", "bob")
            assert alice.repl.toolbar().startswith("chat with bob, hybrid, auth Ed25519, not verified · ")


async def test_a_received_text_has_its_time_and_number_on_a_terminal_only() -> None:
    with trio.fail_after(60):
        async with open_stage() as stage:
            alice = await stage.enter("alice", plain=False)
            bob = await stage.enter("bob", plain=True)
            await stage.chat("alice", "bob")
            alice.type("to bob")
            bob.type("to alice")
            await settled()
            assert bob.console.lines[-1] == "<alice> to bob"
            assert re.fullmatch(r"\d\d:\d\d #\d+ <bob> to alice", alice.console.lines[-1])


async def test_typed_while_the_keys_are_made_it_is_sent_when_they_are() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob") as stage:
            alice, bob = stage.players["alice"], stage.players["bob"]
            stage.world.keys.empty = True  # the receiver waits for a temporary key: the exchange stands still
            alice.type("chat bob")
            await settled()
            bob.type("acpt")
            await settled()
            assert alice.client.state is State.KEYING
            assert alice.repl.prompt() == "[CHAT]-> "
            assert "making keys with bob" in alice.repl.toolbar()
            alice.type("first", "second")
            await settled()
            assert "<alice> first" not in bob.new()
            stage.world.keys.empty = False
            await trio.sleep(1)  # virtual: whoever waits for a key looks ten times a second
            await settled()
            assert {alice.client.state, bob.client.state} == {State.CHAT}
            assert bob.new()[-2:] == ["<alice> first", "<alice> second"]


async def test_in_a_script_a_chat_line_waits_for_the_chat() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob", plain=True) as stage:
            alice, bob = stage.players["alice"], stage.players["bob"]
            alice.type("chat bob", "hello", "what is new?", "/exit", "list", "exit")
            await settled()
            assert alice.new() == ["Request sent to bob"]
            bob.type("acpt")
            await settled()
            assert alice.left
            assert alice.new()[-4:] == ["You left the chat with bob", "Online users:", "alice", "bob"]
            assert bob.new()[-3:] == ["<alice> hello", "<alice> what is new?", "alice left the chat"]


async def test_in_a_script_lines_for_a_chat_that_never_came_are_not_sent() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob", plain=True) as stage:
            alice, bob = stage.players["alice"], stage.players["bob"]
            alice.type("chat bob", "a secret", "list")
            await settled()
            bob.type("refu")
            await settled()
            told = alice.new()
            assert told[:3] == [
                "Request sent to bob",
                "bob refused the chat",
                "error: there is no chat; not sent: a secret",
            ]
            assert told[3:] == ["Online users:", "alice", "bob"]
            alice.type("another secret")
            await settled()
            assert alice.new()[0].startswith("error: unknown command “another secret”")
            assert not alice.left


async def test_the_end_of_input_leaves_the_chat_and_logs_off() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob", plain=True) as stage:
            alice, bob = await stage.chat("alice", "bob")
            alice.type("last words")
            alice.end()
            await settled()
            assert alice.left
            assert alice.error is None
            assert bob.new() == ["<alice> last words", "alice left the chat"]
            bob.type("list")
            await settled()
            assert bob.new() == ["Online users:", "bob"]


async def test_a_message_that_is_too_long_is_refused_and_nothing_else() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob") as stage:
            alice, bob = await stage.chat("alice", "bob")
            alice.type("x" * 1_000_000, "y" * 65_535)
            await settled()
            assert alice.new() == [
                "error: the message has 1,000,000 bytes; the limit is 65,535 bytes; nothing was sent"
            ]
            assert bob.new() == ["<alice> " + "y" * 65_535]


async def test_input_that_is_no_text_is_reported_and_the_rest_goes_on() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", plain=True) as stage:
            alice = stage.players["alice"]
            alice.bad("input is not UTF-8, line 1 was not used")
            alice.type("list")
            await settled()
            assert alice.new() == ["error: input is not UTF-8, line 1 was not used", "Online users:", "alice"]


async def test_who_is_online_is_kept_fresh_without_asking(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(120):
        async with open_stage("alice", "bob") as stage:
            alice = stage.players["alice"]
            await trio.sleep(REFRESH_SECONDS + 1)
            assert alice.completions("chat ") == ["chat bob"]
            await stage.enter("carol")
            alice.completions("chat ")  # asking makes it fresh, where it is older than a moment
            await settled()
            await trio.sleep(REFRESH_SECONDS / 2)
            alice.completions("chat ")
            await settled()
            assert alice.completions("chat ") == ["chat bob", "chat carol"]


async def test_names_are_shown_as_they_are_registered() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "Bob") as stage:
            alice = stage.players["alice"]
            alice.type("list", "chat BOB")
            await settled()
            assert alice.new() == ["Online users:", "alice", "Bob", "Request sent to Bob"]


async def test_a_name_is_completed_whatever_its_case() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "Bob") as stage:
            alice = stage.players["alice"]
            alice.type("list")
            await settled()
            assert alice.completions("chat bo") == ["chat Bob"]


async def test_a_second_device_is_told_of_the_first() -> None:
    with trio.fail_after(60):
        async with open_stage("alice") as stage, stage.world.client("alice", device="2") as second:
            player = Player(second, stage.world.connect(), plain=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(player.run)
                await settled()
                assert player.new()[-2:] == ["User Login Complete!", "You are logged in on 1 other device(s)."]
                player.end()
                await settled()
                assert player.left


async def test_the_greeting_shows_the_certificate_and_no_key() -> None:
    with trio.fail_after(60):
        async with open_stage("alice") as stage:
            lines = stage.players["alice"].console.lines
            assert lines[0].startswith("server certificate: subject CN=chat.example, issuer CN=")
            assert lines[1].startswith("  valid 20")
            assert re.fullmatch(r"  fingerprint of the certificate ([0-9a-f]{2}:){31}[0-9a-f]{2}", lines[2])
            assert re.fullmatch(r"  fingerprint of its authority ([0-9a-f]{2}:){31}[0-9a-f]{2}", lines[3])
            assert re.fullmatch(r"temporary key: hybrid, fingerprint [0-9a-f]{32}", lines[4])
            assert re.fullmatch(r"session: [0-9a-f]{32}, auth Ed25519", lines[5])
            no_log = "this server keeps no key log: keys rest on pins and safety numbers alone"
            assert lines[6:] == [no_log, "User Login Complete!"]


async def test_a_server_that_stops_says_so() -> None:
    with trio.fail_after(60):
        async with open_stage("alice") as stage:
            alice = stage.players["alice"]
            stage.world.server.shutdown()
            await settled()
            assert alice.new() == ["error: the server is shutting down"]
            assert alice.left
            assert alice.error is not None
            assert alice.error.exit_code == 5


@pytest.mark.parametrize("state", ["online", "calling", "ringing", "keying", "chat"])
async def test_a_connection_that_is_cut_in_any_state(state: str) -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob") as stage:
            alice, bob = stage.players["alice"], stage.players["bob"]
            stage.world.keys.empty = state == "keying"
            await bring_about(state, alice, bob)
            await trio.aclose_forcefully(alice.stream)
            await settled()
            assert alice.new()[-1] == "connection cut; the last messages may be missing"
            assert alice.left
            assert type(alice.error) is ConnectionCut
            assert alice.error.exit_code == 5


@pytest.mark.parametrize("state", ["calling", "ringing", "keying", "chat"])
async def test_a_peer_that_vanishes_in_any_state(state: str) -> None:
    """`state` is alice's; it is bob who is gone."""
    with trio.fail_after(60):
        async with open_stage("alice", "bob", "carol") as stage:
            alice, bob = stage.players["alice"], stage.players["bob"]
            stage.world.keys.empty = state == "keying"
            await bring_about(state, alice, bob)
            await trio.aclose_forcefully(bob.stream)
            stage.world.keys.empty = False
            await settled()
            expected = {"calling": "bob refused the chat", "ringing": "bob canceled the call"}
            assert alice.new()[-1] == expected.get(state, "bob disconnected")
            assert alice.repl.prompt() == "[SERVER-COMMAND]-> "
            await stage.chat("alice", "carol")


async def test_text_held_for_a_chat_that_fails_is_given_back() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob") as stage:
            alice, bob = stage.players["alice"], stage.players["bob"]
            stage.world.keys.empty = True
            await bring_about("keying", alice, bob)
            alice.type("a secret")
            await settled()
            await trio.aclose_forcefully(bob.stream)
            await settled()
            told = alice.new()[-2:]
            assert told[0].startswith("error: not delivered to bob, ")
            assert told[0].endswith(": a secret")
            assert told[1] == "bob disconnected"


async def bring_about(state: str, alice: Player, bob: Player) -> None:
    """Alice in `state` with bob."""
    caller, called = (bob, alice) if state == "ringing" else (alice, bob)
    if state != "online":
        caller.type(f"chat {called.client.account.user}")
        await settled()
    if state in ("keying", "chat"):
        called.type("acpt")
        await settled()
    assert alice.client.state.value == state


# servers that do not behave ---------------------------------------------------------------------------------------


@asynccontextmanager
async def at_fake_server(world: World, *, plain: bool = True) -> AsyncIterator[tuple[Player, FakeServer]]:
    """alice at the prompt, at a server by hand."""
    async with with_fake_server(world, "alice") as (client, server), trio.open_nursery() as nursery:
        player = Player(client, world.connect(), plain=plain)
        nursery.start_soon(player.run)
        await settled()
        assert player.new()[-1] == "User Login Complete!"
        yield player, server
        nursery.cancel_scope.cancel()


async def test_a_script_that_was_too_quick_still_ends(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_stage("alice", plain=True) as stage:
            alice = stage.players["alice"]
            started = trio.current_time()
            alice.type(*["list"] * 70, "exit")
            await settled()
            assert alice.left
            assert alice.error is None
            assert "error: too many commands; wait a little" in alice.new()
            assert trio.current_time() == started


@pytest.mark.parametrize("plain", [True, False])
async def test_a_server_that_does_not_say_goodbye_is_left_after_a_little(
    autojump_clock: trio.testing.MockClock, plain: bool
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_fake_server(world, plain=plain) as (alice, _):
            alice.type("exit")
            await settled()
            assert not alice.left
            await trio.sleep(EXIT_SECONDS + PARTING_SECONDS + 0.1)
            assert alice.left
            assert type(alice.error) is ConnectionCut


async def test_a_cut_after_exit_is_told(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_fake_server(world) as (alice, server):
            alice.type("exit")
            assert (await server.receive()).verb == b"exit"
            await trio.aclose_forcefully(server.link.stream)
            await settled()
            assert alice.left
            assert type(alice.error) is ConnectionCut
            assert alice.new() == ["connection cut; the last messages may be missing"]


EVIL = "CHAT IS SECURE! with bob\n<bob> call me\r\x1b[2J\u202eon 0900\u2028\u2066"


@pytest.mark.parametrize("command", ["refu", "acpt", "list"])
@pytest.mark.parametrize("code", [10, 4])
async def test_a_servers_refusal_is_one_line_without_controls(
    autojump_clock: trio.testing.MockClock, command: str, code: int
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, at_fake_server(world) as (alice, server):
            await server.event("reqt", Call("bob", bytes(16)))
            await settled()
            assert alice.new() == ["REQUEST TO CHAT FROM: <bob> ACCEPT?"]
            alice.type(command)
            lines: list[str] = []
            while not lines:
                for record in await server.link.receive_records():  # by hand: `receive` answers `list` by itself
                    await server.send(Kind.REPLY, record.id, "erro", Errors(code, EVIL))
                await settled()
                lines = alice.new()
            assert lines == ["error: CHAT IS SECURE! with bob <bob> call me \ufffd[2J\ufffdon 0900 \ufffd"]
            assert not alice.left
