"""What the client's screen needs from a place to type and to print: the contract of terminal.py and plain.py.

A console turns the keyboard (or stdin) into a stream of `Input` and puts lines on the screen. It knows no commands and
no messages; whatever it shows besides the lines it asks of a `View`. The caller opens one with `open_terminal` or
`open_plain`, takes inputs one by one, and leaves the `async with` when the client is to end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

__all__ = [
    "BadInput",
    "Completion",
    "Console",
    "EndOfInput",
    "Input",
    "Interrupt",
    "Jump",
    "Line",
    "View",
    "neutral",
]


@dataclass(frozen=True, slots=True)
class Line:
    """One submitted input, without its final Enter. A multi-line paste is one Line with newlines in it.

    The text may be a secret (a message, a passphrase typed at the wrong moment), so it is not in the repr.
    """

    text: str

    def __repr__(self) -> str:
        return f"Line(<{len(self.text)} characters>)"


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ctrl-C. `had_text` tells whether something was typed; the terminal clears such a line itself and reports
    only a Ctrl-C on an empty one."""

    had_text: bool


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """Ctrl-D on an empty line, the end of stdin, or the terminal is gone."""


@dataclass(frozen=True, slots=True)
class BadInput:
    """A line that could not be used; reading goes on with the next. `reason` is a sentence without the line."""

    reason: str


@dataclass(frozen=True, slots=True)
class Jump:
    """Alt+1 to Alt+9: to that conversation. The half-typed line comes with it and is gone from the prompt."""

    place: int
    typed: str

    def __repr__(self) -> str:
        return f"Jump({self.place}, <{len(self.typed)} characters>)"


Input = Line | Interrupt | EndOfInput | BadInput | Jump


@dataclass(frozen=True, slots=True)
class Completion:
    """A proposal: `text` replaces what lies between `start` (characters, 0 or negative, counted from the cursor) and
    the cursor. `meta` is shown beside it."""

    text: str
    start: int
    meta: str = ""


class View(Protocol):
    """What the console asks while it draws.

    The terminal calls these from its own thread, so each must be a cheap pure read: no awaiting, no locks, no changes.
    """

    def prompt(self) -> str:
        """The prompt with its final space, such as ``[CHAT]-> ``."""
        ...

    def complete(self, text: str) -> Sequence[Completion]:
        """Proposals for the `text` before the cursor."""
        ...

    def toolbar(self) -> str:
        """One line of status; may be empty."""
        ...


class Console(Protocol):
    """An open console. `write` and `refresh` belong to the trio thread."""

    @property
    def inputs(self) -> trio.abc.ReceiveChannel[Input]:
        """What was typed, in order. A cancelled receive() loses nothing. Ends (EndOfChannel) when nothing more can
        come; a Ctrl-D typed in a terminal does not end it, so that the caller may ask whether to leave."""
        ...

    def write(self, text: str, *, dim: bool = False) -> None:
        """Print one or more whole lines above the half-typed one; a final newline is added if missing. `dim` lines
        stand back, where the screen can show that.

        The text goes out as it is, without markup; control characters are replaced (see `neutral`). The terminal
        never blocks here; plain output blocks as long as the reader of stdout does. After leaving it does nothing.
        """
        ...

    def refresh(self) -> None:
        """The view's prompt or toolbar has changed: draw again soon. Never blocks."""
        ...

    def typed(self) -> str:
        """The half-typed line, empty where there is none. A cheap read."""
        ...

    def put_back(self, text: str) -> None:
        """Put `text` before what is half typed, to be gone on with. Plain output has no such line and does nothing."""
        ...


# C0 without tab and newline, DEL, C1, and half surrogates, which no encoder takes.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def neutral(text: str) -> str:
    """`text` with every control character but tab and newline replaced by U+FFFD.

    Defence in depth: strangers' text is made safe (also of bidi and the like) where it is rendered; this keeps one
    forgotten place from moving the cursor or talking to the terminal.
    """
    return _UNSAFE.sub("\ufffd", text)
