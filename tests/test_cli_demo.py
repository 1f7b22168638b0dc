"""`messageapp demo`: the first five minutes of everybody."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.processes import Program, environment, run


def test_a_chat_with_bob(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    demo = Program(tmp_path / "home", "demo", TMPDIR=str(temporary))
    try:
        demo.until("User Login Complete!")
        assert "messageapp: you are alice; type `chat bob`, `help`, or `exit`\n" in demo.err
        demo.until("key log: 2 entries")
        demo.send("list")
        assert [demo.until("") for _ in range(3)] == ["Online users:", "alice", "bob"]
        demo.send("chat bob", "hello", "zwei\u00a0W\u00f6rter")
        demo.until("CHAT IS SECURE! with bob")
        assert demo.until("<bob> ") == "<bob> Hello alice! I am a friendly echo: say something."
        assert demo.until("<bob> ") == "<bob> You said: hello"
        assert demo.until("<bob> ") == "<bob> You said: zwei\u00a0W\u00f6rter"
        demo.send("/exit", "chat bob", "again")
        demo.until("You left the chat with bob")
        demo.until("CHAT IS SECURE! with bob")
        demo.until("<bob> You said: again")
        demo.send("/exit", "msg bob are you there")
        assert demo.until("<bob> ") == "<bob> You wrote: are you there"
        assert demo.finish() == 0
        assert "\x1b" not in demo.out + demo.err
    finally:
        demo.close()
    assert not (tmp_path / "home").exists()
    assert list(temporary.iterdir()) == []


def test_the_demo_asks_for_nothing_and_ends_with_its_input(tmp_path: Path) -> None:
    env = {name: "" for name in environment(tmp_path) if name.startswith("MESSAGEAPP_PASS")}
    done = run(tmp_path / "home", "demo", "--plain", stdin="", **env)
    assert done.returncode == 0
    assert "User Login Complete!\n" in done.stdout


def test_a_message_for_bob_that_is_long(tmp_path: Path) -> None:
    demo = Program(tmp_path / "home", "demo")
    try:
        demo.send("chat bob", "m" * 65_000, "n" * 70_000, "short")
        assert demo.until("<bob> You said: m") == "<bob> You said: " + "m" * 60_000
        assert demo.until("<bob> You said: ") == "<bob> You said: short"
        assert "error: the message has 70,000 bytes; the limit is 65,535 bytes; nothing was sent" in demo.lines
        assert demo.finish() == 0
    finally:
        demo.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_leaves_no_keys_behind(tmp_path: Path, number: signal.Signals) -> None:
    """While the keys are made in a thread, which must not write them after the folder is gone."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def starting(log: str) -> bool:
        return "messageapp: starting a server" in log

    demo = Program(tmp_path / "home", "demo", TMPDIR=str(temporary))
    try:
        demo.until_err(starting)
        demo.process.send_signal(number)
        assert demo.finish(close=False) == 128 + number
        assert demo.err == "messageapp: starting a server and bob …\n"
        assert demo.out == ""
    finally:
        demo.close()
    assert list(temporary.iterdir()) == []
