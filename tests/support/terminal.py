"""A client at a real terminal: a pseudo-terminal and a screen kept by pyte, everything bounded in time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pexpect
import pyte
import pytest

from .processes import SECONDS, Site, command, environment

ROWS, COLUMNS = 40, 132
CTRL_C, CTRL_D, CTRL_R, ENTER, TAB, LEFT, UP = "\x03", "\x04", "\x12", "\r", "\t", "\x1b[D", "\x1b[A"
ALT_ENTER = "\x1b\r"
HOME, CHAT = "[SERVER-COMMAND]->", "[CHAT]->"


class Display(pyte.HistoryScreen):
    """A pyte screen that answers cursor position requests, as terminals do."""

    def __init__(self) -> None:
        self.answer: Callable[[str], object] = lambda data: None
        super().__init__(COLUMNS, ROWS, history=10_000)

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class Terminal:
    """A client in a pseudo-terminal."""

    def __init__(self, site: Site, user: str, *options: str, **env: str) -> None:
        program, *arguments = command("connect", "127.0.0.1", str(site.port), "--user", user, *options)
        self.child = pexpect.spawn(
            program,
            arguments,
            env=environment(site.path, **{"TERM": "xterm-256color", **env}),
            dimensions=(ROWS, COLUMNS),
        )
        self.child.delaybeforesend = None
        self.display = Display()
        self.display.answer = self.child.send
        self._stream = pyte.ByteStream(self.display)

    def lines(self) -> list[str]:
        above = ["".join(row[column].data for column in range(COLUMNS)) for row in self.display.history.top]
        return [line.rstrip() for line in [*above, *self.display.display] if line.strip()]

    @property
    def cursor(self) -> tuple[str, int]:
        """The line with the cursor, and the cursor's column."""
        return self.display.display[self.display.cursor.y].rstrip(), self.display.cursor.x

    def type(self, text: str) -> None:
        self.child.send(text)

    def until(self, holds: Callable[[], bool], wanted: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not holds():
            try:
                data = self.child.read_nonblocking(65536, timeout=max(0.0, deadline - time.monotonic()))
            except (pexpect.TIMEOUT, pexpect.EOF) as end:
                pytest.fail(f"{type(end).__name__} before {wanted!r}; the screen:\n" + "\n".join(self.lines()))
            self._stream.feed(data)

    def sees(self, line: str) -> None:
        """Until a whole line is `line`; a time and the number of a message may stand before it."""
        pattern = re.compile(r"(\d\d:\d\d )?(#\d+ )?" + re.escape(line))
        self.until(lambda: any(pattern.fullmatch(seen) for seen in self.lines()), line)

    def prompts(self, prompt: str, typed: str = "", *, before_cursor: int | None = None) -> None:
        """Until the prompt and the half-typed line are these, and the cursor is there (default: at the end)."""
        column = len(prompt) + 1 + (len(typed) if before_cursor is None else before_cursor)
        wanted = (f"{prompt} {typed}".rstrip(), column)
        self.until(lambda: self.cursor == wanted, f"{wanted}")

    def bottom(self, *parts: str) -> None:
        """Until the last line of the screen has all parts."""
        self.until(lambda: all(part in self.display.display[-1] for part in parts), f"{parts}")

    def ends(self, code: int = 0) -> None:
        self.child.expect(pexpect.EOF, timeout=SECONDS)
        self._stream.feed(self.child.before or b"")
        self.child.close()
        assert self.child.exitstatus == code
        assert not any("Traceback" in line or "internal error" in line for line in self.lines())
