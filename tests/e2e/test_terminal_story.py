"""Two people at two terminals: the prompt that switches while one of them types, and everything around it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from support.processes import PASSPHRASE, SECONDS, Site, command, environment, open_site
from support.terminal import (
    ALT_ENTER,
    CHAT,
    COLUMNS,
    CTRL_C,
    CTRL_D,
    CTRL_R,
    ENTER,
    HOME,
    LEFT,
    ROWS,
    TAB,
    UP,
    Terminal,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site"), "alice", "bob") as opened:
        yield opened


@pytest.fixture
def sit_down(site: Site) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def sit(user: str, **env: str) -> Terminal:
        terminal = Terminal(site, user, **env)
        started.append(terminal)
        terminal.sees("User Login Complete!")
        terminal.prompts(HOME)
        return terminal

    yield sit
    for terminal in started:
        terminal.child.close(force=True)
    site.end_clients()


def test_the_prompt_switches_while_one_types(sit_down: Callable[..., Terminal]) -> None:
    alice, bob = sit_down("alice"), sit_down("bob")
    alice.bottom("alice@localhost", "login ", "help lists the commands")

    # TAB completes commands and who is free.
    alice.type("list" + ENTER)
    alice.sees("bob")
    alice.type("ch" + TAB)
    alice.prompts(HOME, "chat ")
    alice.type(TAB)
    alice.prompts(HOME, "chat bob")
    alice.type(ENTER)
    alice.sees("Request sent to bob")
    alice.bottom("calling bob")
    bob.sees("REQUEST TO CHAT FROM: <alice> ACCEPT?")
    bob.bottom("alice is calling: acpt or refu")

    # Alice is half-way through a line, the cursor inside it, when bob accepts.
    alice.type("when do we met?" + LEFT * 2)
    alice.prompts(HOME, "when do we met?", before_cursor=13)
    bob.type("acpt " + TAB)
    bob.prompts(HOME, "acpt alice")
    bob.type(ENTER)
    bob.sees("CHAT IS SECURE! with alice")
    bob.prompts(CHAT)
    alice.sees("CHAT IS SECURE! with bob")
    alice.prompts(CHAT, "when do we met?", before_cursor=13)
    alice.bottom("chat with bob", "hybrid", "not verified")

    # A line that comes in stands above hers.
    bob.type("hello" + ENTER)
    alice.sees("<bob> hello")
    alice.prompts(CHAT, "when do we met?", before_cursor=13)
    alice.type("e" + ENTER)
    bob.sees("<alice> when do we meet?")
    alice.prompts(CHAT)

    # Several lines are one message: pasted, or with Alt+Enter.
    bob.type("\x1b[200~first pasted\nsecond pasted\x1b[201~")
    bob.type(ENTER)
    alice.sees("<bob> first pasted")
    alice.sees("<bob> second pasted")
    bob.type("above" + ALT_ENTER + "below" + ENTER)
    alice.sees("<bob> above")
    alice.sees("<bob> below")

    # Verified, in the bottom line too.
    alice.type("/verify confirm" + ENTER)
    alice.sees("bob is verified")
    alice.bottom("chat with bob, hybrid, auth Ed25519, verified")

    # Bob leaves; what alice types survives that as well, and is not taken for a command.
    alice.type("one more th")
    alice.prompts(f"✓ {CHAT}", "one more th")
    bob.type("/exit" + ENTER)
    bob.sees("You left the chat with alice")
    bob.prompts(HOME)
    alice.sees("bob left the chat")
    alice.prompts(HOME, "one more th")
    alice.type("ing" + ENTER)
    alice.sees("error: the chat is over; not sent: one more thing")
    assert not any("one more" in line for line in bob.lines())

    # Ctrl-D leaves at once, Ctrl-C asks.
    alice.type(CTRL_D)
    alice.ends()
    bob.type("half a line" + CTRL_C)
    bob.prompts(HOME)
    bob.type(CTRL_C)
    bob.sees("Press Ctrl-C once more to log off, or go on typing.")
    bob.type(CTRL_C)
    bob.ends()


def test_history(sit_down: Callable[..., Terminal], site: Site) -> None:
    alice = sit_down("alice")
    for line in ("status", "verify nobody", "listx"):
        alice.type(line + ENTER)
        alice.prompts(HOME)
    alice.sees("error: no key of nobody is known yet; chat first")
    alice.type(UP + UP)
    alice.prompts(HOME, "verify nobody")
    alice.type(CTRL_C)
    alice.prompts(HOME)
    alice.type(CTRL_R + "stat")
    alice.until(lambda: alice.cursor[0] == "(reverse-i-search)`stat': status", "what was searched for")
    alice.type(ENTER)
    alice.prompts(HOME, "status", before_cursor=0)
    alice.type(ENTER)
    alice.until(lambda: sum(line.startswith("session ") for line in alice.lines()) == 2, "status again")
    alice.type("exit" + ENTER)
    alice.ends()
    assert not any(b"verify nobody" in path.read_bytes() for path in site.path.rglob("*") if path.is_file())


def test_the_server_stops(sit_down: Callable[..., Terminal], tmp_path: Path) -> None:
    with open_site(tmp_path, "carol") as other:
        carol = Terminal(other, "carol", "--no-reconnect")
        try:
            carol.prompts(HOME)
            carol.type("half a li")
            carol.prompts(HOME, "half a li")
            assert other.server is not None
            other.server.signal(signal.SIGTERM)
            carol.ends(5)
            assert "error: the server is shutting down" in carol.lines()
        finally:
            carol.child.close(force=True)


def test_the_terminal_asks_for_the_passphrase(site: Site) -> None:
    """It is not shown, and stdin is not where it comes from."""
    program, *arguments = command("connect", "127.0.0.1", str(site.port), "--user", "alice")
    env = environment(site.path, TERM="xterm-256color")
    del env["MESSAGEAPP_PASSPHRASE"]
    child = pexpect.spawn(program, arguments, env=env, dimensions=(ROWS, COLUMNS), timeout=SECONDS)
    try:
        child.expect_exact("passphrase for alice: ")
        assert child.waitnoecho(SECONDS)
        child.sendline(PASSPHRASE)
        child.expect_exact("User Login Complete!")
        assert PASSPHRASE.encode() not in child.before
        child.expect_exact(HOME)
        child.send(CTRL_D)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)
        site.end_clients()


def test_told_to_end_the_terminal_is_restored(sit_down: Callable[..., Terminal]) -> None:
    alice = sit_down("alice")
    assert not alice.child.getecho()
    alice.type("half a line")
    alice.prompts(HOME, "half a line")
    alice.child.kill(signal.SIGTERM)
    alice.ends()
