"""The server dies and comes back while people sit at their terminals."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.processes import Site, open_site
from support.terminal import CHAT, CTRL_C, ENTER, HOME, Terminal

CUT = "connection cut; the last messages may be missing"
RESUMED = re.compile("resumed: 0 lost, [01] received")
LATER = re.compile(r"reconnecting .*\((3rd|\d+th) try\)")
REFUSED = "the server refused the login: unknown user, or another key than the one it has"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path, "alice", "bob") as opened:
        yield opened


@pytest.fixture
def sit_down(site: Site) -> Iterator[Callable[..., Terminal]]:
    with ExitStack() as stack:

        def sit(user: str, *options: str) -> Terminal:
            terminal = Terminal(site, user, *options)
            stack.callback(terminal.child.close, force=True)
            terminal.sees("User Login Complete!")
            terminal.prompts(HOME)
            return terminal

        yield sit


def kill(site: Site) -> None:
    """As kill -9 does."""
    assert site.server is not None
    site.server.kill()


def has_resumed(terminal: Terminal, times: int) -> None:
    terminal.until(lambda: sum(bool(RESUMED.fullmatch(line)) for line in terminal.lines()) == times, "resumed")


def test_the_server_is_killed_and_comes_back_while_one_types(site: Site, sit_down: Callable[..., Terminal]) -> None:
    alice, bob = sit_down("alice"), sit_down("bob")
    alice.type("chat bob" + ENTER)
    bob.sees("REQUEST TO CHAT FROM: <alice> ACCEPT?")
    bob.type("acpt" + ENTER)
    alice.sees("CHAT IS SECURE! with bob")
    bob.sees("CHAT IS SECURE! with alice")
    alice.prompts(CHAT)
    alice.type("half a li")
    alice.prompts(CHAT, "half a li")

    kill(site)
    for terminal in (alice, bob):
        terminal.sees(CUT)
        terminal.bottom("reconnecting ", f"try): nobody listens on 127.0.0.1:{site.port}")
    alice.until(lambda: LATER.search(alice.display.display[-1]) is not None, "a later try")
    alice.prompts("[CHAT bob]->", "half a li")
    alice.type("ne" + ENTER)
    alice.bottom("1 queued")
    bob.type("/list" + ENTER)
    bob.until(lambda: any("error: not connected; trying again " in line for line in bob.lines()), "not connected")
    bob.type("/exit" + ENTER)
    bob.prompts(HOME)

    # What was typed meanwhile comes, in whichever order the two are back.
    site.serve(port=site.port)
    for terminal in (alice, bob):
        terminal.type("/reconnect" + ENTER)
        has_resumed(terminal, 1)
    alice.bottom("#1 delivered")
    bob.type("history alice" + ENTER)
    bob.sees("#1 <alice> half a line")
    alice.type("/exit" + ENTER)
    alice.prompts(HOME)

    # And once more, while the server says goodbye.
    assert site.server is not None
    site.server.signal(signal.SIGTERM)
    alice.sees("error: the server is shutting down")
    alice.bottom("reconnecting ")
    assert site.server.finish(close=False) == 0
    site.serve(port=site.port)
    has_resumed(alice, 2)
    alice.type("exit" + ENTER)
    alice.ends()


@pytest.mark.parametrize("how", [CTRL_C, "exit" + ENTER])
def test_to_leave_while_nobody_is_there(site: Site, sit_down: Callable[..., Terminal], how: str) -> None:
    alice = sit_down("alice")
    kill(site)
    alice.until(lambda: LATER.search(alice.display.display[-1]) is not None, "a later try")
    alice.type(how)
    alice.ends(5)


def test_a_user_who_is_not_let_in_again(site: Site, sit_down: Callable[..., Terminal]) -> None:
    alice = sit_down("alice")
    kill(site)
    alice.bottom("reconnecting ")
    site.remove("alice")
    site.serve(port=site.port)
    alice.ends(4)
    assert f"error: {REFUSED}" in alice.lines()


def test_a_script_ends_with_the_connection_unless_it_says_otherwise(site: Site) -> None:
    alice, bob = site.client("alice"), site.client("bob", "--reconnect")
    kill(site)
    alice.until(CUT)
    assert alice.finish(close=False) == 5
    bob.until(CUT)
    bob.send("list")
    assert bob.until("error: ").startswith("error: not connected; trying again ")
    site.serve(port=site.port)
    assert bob.until("resumed") == "resumed: 0 lost, 0 received"
    bob.send("list")
    bob.until("Online users:")
    assert bob.until("") == "bob"
    assert bob.finish() == 0


def test_who_has_just_joined_comes_back_as_any_user(site: Site) -> None:
    """The join code is used up by then."""
    code = site.run("invite", "carol").stdout.strip()
    carol = site.start("join", code, "--reconnect")
    carol.until("User Login Complete!")
    kill(site)
    carol.until(CUT)
    site.serve(port=site.port)
    assert carol.until("resumed") == "resumed: 0 lost, 0 received"
    carol.send("list")
    carol.until("Online users:")
    assert carol.until("") == "carol"
    assert carol.finish() == 0


def test_to_start_while_nobody_is_there(site: Site) -> None:
    options = ("connect", "127.0.0.1", str(site.port), "--user")
    bare = ("connect", "--user")  # to the only server that the account knows
    refused = f"nobody listens on 127.0.0.1:{site.port}"
    assert site.client("alice").finish() == 0
    kill(site)
    for words in ((*options, "alice"), (*options, "bob", "--reconnect")):  # a script; who was never there
        done = site.run(*words)
        assert (done.returncode, done.stderr) == (5, f"messageapp: {refused}\n")
    alice = site.start(*options, "alice", "--reconnect")
    alice.until("not connected to ")
    alice.send("msg bob see you tomorrow")
    alice.until("#1 to bob")
    assert alice.finish() == 5
    assert "1 message is queued on this disk" in alice.out
    alice = site.start(*bare, "alice", "--reconnect")
    alice.until("not connected to ")
    site.serve(port=site.port)
    assert alice.until("connected: ") == "connected: 0 lost, 0 received"
    bob = site.client("bob")  # whose prekeys are the server's only now
    bob.until("<alice> see you tomorrow")
    assert (alice.finish(), bob.finish()) == (0, 0)
