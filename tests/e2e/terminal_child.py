"""A small program on the terminal console, run in a pseudo-terminal by test_terminal_pty.py."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Sequence
from typing import Any

import trio

from messageapp_cli.console import Completion, EndOfInput, Interrupt, Line
from messageapp_cli.terminal import open_terminal


class ChildView:
    def __init__(self) -> None:
        self.chat = False

    def prompt(self) -> str:
        return "[CHAT]-> " if self.chat else "[SERVER-COMMAND]-> "

    def complete(self, text: str) -> Sequence[Completion]:
        return [Completion("/chat ", -len(text))] if "/chat".startswith(text) else []

    def toolbar(self) -> str:
        return "mode: chat" if self.chat else "mode: server"


async def main() -> None:
    view = ChildView()
    echoes: list[int] = []
    set_modes = termios.tcsetattr

    def watched(fd: Any, when: int, modes: list[Any]) -> None:
        echoes.append(modes[3] & termios.ECHO)
        set_modes(fd, when, modes)

    termios.tcsetattr = watched
    async with open_terminal(view) as console:
        console.write("ready")
        async for item in console.inputs:
            match item:
                case Line("burst"):
                    for number in range(2000):
                        console.write(f"bob: message {number}")
                case Line("fail"):
                    raise SystemExit(3)
                case Line("/chat" | "/chat "):
                    view.chat = True
                    console.refresh()
                case Line(text):
                    console.write(f"got {text!r}")
                case Interrupt():
                    console.write("really leave?")
                case EndOfInput():
                    console.write(f"echo was on {sum(map(bool, echoes))} times")
                    console.write("last words")
                    break
    if "--until-end" in sys.argv:
        os._exit(7)  # stdout may be gone, and with it the flush at exit
    sys.stdout.write("left\n")
    sys.stdout.flush()
    sys.stdout.write(f"read {sys.stdin.readline()!r}\n")


if __name__ == "__main__":
    trio.run(main)
