"""The two prompts as pure functions: what a line means, what completes it, what the prompt and the bottom line say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from messageapp.client.client import State
from messageapp.wire.commands import UserState

from .commands import ROWS, Command, nearest, parse, usage_of
from .console import Completion
from .render import one_line

__all__ = ["Action", "Complain", "Run", "Say", "Screen", "complete", "prompt", "step"]

COMMAND_PROMPT = "[SERVER-COMMAND]-> "
CHAT_PROMPT = "[CHAT]-> "


@dataclass(frozen=True, slots=True)
class Screen:
    """What the meaning of a line depends on."""

    user: str
    state: State
    peer: str | None = None
    caller: str | None = None
    online: Mapping[str, int] = field(default_factory=dict)
    chat_just_ended: bool = False  # since the last line
    mark: str = ""  # before the prompt of a chat with a verified peer
    check_waits: bool = False  # for the user's answer to a live check

    @property
    def in_chat(self) -> bool:
        """While the keys are made, too: what is typed then is held for the chat."""
        return self.state in (State.CHAT, State.KEYING)


@dataclass(frozen=True, slots=True)
class Run:
    command: Command
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Complain:
    text: str


Action = Run | Say | Complain | None


def prompt(screen: Screen) -> str:
    return screen.mark + CHAT_PROMPT if screen.in_chat else COMMAND_PROMPT


def step(screen: Screen, line: str) -> Action:
    """What to do with a submitted line; None for an empty one."""
    if screen.in_chat:
        return _step_in_chat(line)
    text = line.strip()
    if not text:
        return None
    parsed = parse(text.removeprefix("/"))
    if parsed is not None and parsed.command.name == "exit" and text.startswith("/") and screen.chat_just_ended:
        return Complain("the chat was over already; exit logs off")
    if parsed is None and screen.chat_just_ended:
        return Complain(f"the chat is over; not sent: {one_line(text, 60)}")
    return _unknown(text) if parsed is None else Run(parsed.command, parsed.words)


def _step_in_chat(line: str) -> Action:
    if not line.strip():
        return None
    if not line.startswith("/"):
        return Say(line.rstrip("\n"))
    if line.startswith("//"):
        return Say(line[1:].rstrip("\n"))
    parsed = parse(line[1:])
    if parsed is None:
        return _unknown(line)
    if not parsed.command.in_chat:
        return Complain(f"{parsed.command.name} is not for a chat; /exit leaves it")
    return Run(parsed.command, parsed.words)


def _unknown(text: str) -> Complain:
    usage = usage_of(text.removeprefix("/"))
    if usage is not None:
        return Complain(f"usage: {usage}")
    guess = nearest(text.removeprefix("/"))
    hint = f"did you mean `{guess}`?" if guess else "`help` lists the commands"
    return Complain(f"unknown command “{one_line(text, 40)}”; {hint}")


def complete(screen: Screen, text: str) -> list[Completion]:
    """Completions of `text`, what stands before the cursor: commands first, then users that make sense there."""
    if "\n" in text or (screen.in_chat and not text.startswith("/")):
        return []
    offset = 1 if text.startswith("/") else 0
    body = text[offset:]
    head, space, rest = body.partition(" ")
    rows = [row for row in ROWS if row.in_chat or not screen.in_chat]
    if not space:
        names = [
            Completion(row.name + (" " if row.argument else ""), -len(body), row.help)
            for row in rows
            if row.name.startswith(body.lower()) and row.name != body.lower()
        ]
        glued = [row for row in rows if row.takes_user and len(row.name) == 4 and body[:4].lower() == row.name]
        return names + [
            Completion(name, -len(body[4:]) if len(body) > 4 else 0)
            for row in glued
            for name in _users(screen, row, body[4:])
        ]
    row = next((row for row in rows if row.name == head.lower()), None)
    if row is None:
        return []
    if " " not in rest:
        found = [Completion(name, -len(rest)) for name in _users(screen, row, rest)]
        return found + _verify_words(screen, rest) if row.name == "verify" and screen.in_chat else found
    if row.name == "verify":
        return _verify_words(screen, rest.rpartition(" ")[2])
    return []


def _verify_words(screen: Screen, start: str) -> list[Completion]:
    """What may follow now: answers only where one is waited for, a live check only in a chat."""
    words = {"confirm": "you have compared the number"}
    if screen.check_waits:
        words = {"yes": "all seven are the same", "no": "they are not"} | words
    elif screen.in_chat:
        words = {"live": "compare seven emoji"} | words
    return [Completion(word, -len(start), meta) for word, meta in words.items() if word.startswith(start)]


def _users(screen: Screen, row: Command, start: str) -> Iterable[str]:
    match row.completes:
        case "free":
            names = [name for name, state in screen.online.items() if state == UserState.IDLE and name != screen.user]
        case "caller":
            names = [screen.caller] if screen.caller else []
        case "peer":
            names = [screen.peer] if screen.peer else [name for name in screen.online if name != screen.user]
        case _:
            names = []
    return sorted(name for name in names if name.lower().startswith(start.lower()))
