"""The terminal console as a whole process in a real pseudo-terminal, its screen kept by pyte."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte
import pytest

HERE = Path(__file__).parent
CTRL_C, CTRL_D, ENTER, TAB, LEFT = "\x03", "\x04", "\r", "\t", "\x1b[D"
SECONDS = 30.0


class Display(pyte.HistoryScreen):
    """A pyte screen that answers cursor position requests, as terminals do."""

    def __init__(self) -> None:
        self.answer: Callable[[str], object] = lambda data: None
        super().__init__(80, 24, history=10_000)

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class Session:
    def __init__(self, **env: str) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-W", "error", str(HERE / "terminal_child.py")],
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1] / "cli"), "TERM": "xterm-256color", **env},
            dimensions=(24, 80),
        )
        self.child.delaybeforesend = None
        self.display = Display()
        self.display.answer = self.child.send
        self._stream = pyte.ByteStream(self.display)
        self.raw = b""

    def lines(self) -> list[str]:
        above = ["".join(row[column].data for column in range(80)) for row in self.display.history.top]
        return [line.rstrip() for line in [*above, *self.display.display] if line.strip()]

    def cursor_line(self) -> str:
        return self.display.display[self.display.cursor.y].rstrip()

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not holds():
            try:
                data = self.child.read_nonblocking(65536, timeout=max(0.0, deadline - time.monotonic()))
            except (pexpect.TIMEOUT, pexpect.EOF) as end:
                pytest.fail(f"{type(end).__name__}; the screen:\n" + "\n".join(self.lines()))
            self.raw += data
            self._stream.feed(data)

    def until_line(self, line: str) -> None:
        self.until(lambda: line in self.lines())

    def until_cursor(self, line: str) -> None:
        self.until(lambda: self.cursor_line() == line)

    def finish(self) -> None:
        """The program has left the console; the terminal must be as it was."""
        self.until_line("left")
        assert self.child.getecho()
        self.child.send("cooked\n")
        self.until_line("read 'cooked\\n'")
        assert "cooked" in self.lines()  # the terminal's own echo
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert self.child.exitstatus == 0


@pytest.fixture
def session() -> Iterator[Session]:
    started = Session()
    try:
        started.until_line("ready")
        started.until_line("mode: server")
        yield started
    finally:
        started.child.close(force=True)


def test_type_switch_leave(session: Session) -> None:
    assert not session.child.getecho()
    session.child.send("hello" + ENTER)
    session.until_line("got 'hello'")
    session.child.send("/c" + TAB + ENTER)
    session.until_cursor("[CHAT]->")
    session.until_line("mode: chat")
    assert "mode: server" not in session.lines()
    session.child.send("nope" + CTRL_C + CTRL_C)
    session.until_line("really leave?")
    session.child.send(CTRL_D)
    session.finish()
    lines = session.lines()
    assert lines.index("last words") < lines.index("left")
    assert "mode: chat" not in lines  # the toolbar leaves nothing behind
    assert not any("WARNING" in line for line in lines)


def test_a_burst_while_typing_in_a_real_terminal(session: Session) -> None:
    session.child.send("burst" + ENTER + "half a lne" + LEFT * 2)
    session.until_line("bob: message 1999")
    session.until_cursor("[SERVER-COMMAND]-> half a lne")
    session.child.send("i" + ENTER)
    session.until_line("got 'half a line'")
    expected = [f"bob: message {number}" for number in range(2000)]
    assert [line for line in session.lines() if line.startswith("bob: ")] == expected
    session.child.send(CTRL_D)
    session.finish()


def test_keys_never_echo_by_themselves(session: Session) -> None:
    for number in range(60):
        session.child.send(f"line {number}" + ENTER)
    session.until_line("got 'line 59'")
    session.until_cursor("[SERVER-COMMAND]->")
    typed = [line for line in session.lines() if "line" in line and "got" not in line]
    assert typed == [f"[SERVER-COMMAND]-> line {number}" for number in range(60)]
    session.child.send(CTRL_D)
    session.finish()
    assert "echo was on 0 times" in session.lines()


def test_the_window_is_resized(session: Session) -> None:
    session.child.send("x" * 40)
    session.until_cursor("[SERVER-COMMAND]-> " + "x" * 40)
    session.display.resize(24, 30)
    session.child.setwinsize(24, 30)
    # 19 columns of prompt and 40 of text need two lines of 30 now.
    session.until_cursor("x" * 29)
    assert "[SERVER-COMMAND]-> " + "x" * 11 in session.lines()
    session.until_line("mode: server")
    session.display.resize(40, 100)
    session.child.setwinsize(40, 100)
    session.until_cursor("[SERVER-COMMAND]-> " + "x" * 40)
    session.until(lambda: session.display.display[-1].rstrip() == "mode: server")
    session.child.send(ENTER)
    session.until(lambda: any(line.startswith("got 'xxxx") for line in session.lines()))
    session.child.send(CTRL_D)
    session.until_line("left")
    assert session.child.getecho()


def test_an_error_in_the_program_restores_the_terminal(session: Session) -> None:
    session.child.send("fail" + ENTER)
    session.child.expect(pexpect.EOF)
    session.child.close()
    assert session.child.exitstatus == 3


def test_no_color() -> None:
    quiet = Session(NO_COLOR="1")
    quiet.until_line("mode: server")
    quiet.child.send(CTRL_D)
    quiet.finish()
    for wrong in (b"\x1b[0;38", b"\x1b[0;3", b";48;"):
        assert wrong not in quiet.raw


def test_a_terminal_that_goes_away_is_the_end_of_the_input() -> None:
    # In a session of its own without a controlling terminal, so that no SIGHUP does the work.
    master, slave = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(HERE / "terminal_child.py"), "--until-end"],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1] / "cli"), "TERM": "xterm"},
        start_new_session=True,
    ) as process:
        os.close(slave)
        seen = b""
        while b"ready" not in seen:
            seen += os.read(master, 65536)
        os.close(master)
        try:
            assert process.wait(SECONDS) == 7
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == b""
