"""The prompts as pure functions: what a line means, what completes it, what the prompt says.

    [SERVER-COMMAND]->   commands
    [CHAT]->             a live chat: what is typed is said; commands have a slash
    [CHAT bob]->         an open conversation: what is typed is a message to bob, live or not; commands have a slash

An open conversation goes before a live chat, so that a chat that begins never takes what is being typed to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from messageapp.client.client import State
from messageapp.wire.commands import UserState
from messageapp_keys.names import fold

from .commands import ROWS, Command, nearest, parse, usage_of
from .console import Completion
from .render import one_line

__all__ = [
    "Action",
    "Complain",
    "Recent",
    "Run",
    "Say",
    "Screen",
    "Write",
    "complete",
    "looks_like_command",
    "prompt",
    "step",
]

COMMAND_PROMPT = "[SERVER-COMMAND]-> "
CHAT_PROMPT = "[CHAT]-> "


@dataclass(frozen=True, slots=True)
class Recent:
    """A message whose number is offered."""

    number: int
    own: bool
    text: str  # the beginning, made safe


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
    open: str | None = None  # the peer of the conversation that is open
    open_mark: str = ""  # before the prompt, where that one is verified
    known: tuple[str, ...] = ()  # peers that there are conversations with
    recent: tuple[Recent, ...] = ()  # the newest first

    @property
    def in_chat(self) -> bool:
        """While the keys are made, too: what is typed then is held for the chat."""
        return self.state in (State.CHAT, State.KEYING)

    @property
    def with_open(self) -> bool:
        """The chat is with the peer of the open conversation."""
        return self.in_chat and self.open is not None and self.peer is not None and fold(self.open) == fold(self.peer)

    @property
    def takes_text(self) -> bool:
        """What is typed is sent, and commands have a slash."""
        return self.in_chat or self.open is not None


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


@dataclass(frozen=True, slots=True)
class Write:
    """A message in the open conversation."""

    peer: str
    text: str


Action = Run | Say | Write | Complain | None


def looks_like_command(line: str) -> bool:
    """What was sent as text would be a command if it had a slash."""
    parsed = parse(line)
    return parsed is not None and line.split()[0].lower() == parsed.command.name


def prompt(screen: Screen) -> str:
    if screen.open is not None:
        return f"{screen.open_mark}[CHAT {screen.open}]-> "
    return screen.mark + CHAT_PROMPT if screen.in_chat else COMMAND_PROMPT


def step(screen: Screen, line: str) -> Action:
    """What to do with a submitted line; None for an empty one."""
    if not line.strip():
        return None
    if screen.takes_text:
        return _step_in_text(screen, line)
    text = line.strip()
    parsed = parse(line.lstrip().removeprefix("/"))
    if parsed is not None and parsed.command.name == "exit" and text.startswith("/") and screen.chat_just_ended:
        return Complain("the chat was over already; exit logs off")
    if parsed is None and screen.chat_just_ended:
        return Complain(f"the chat is over; not sent: {one_line(text, 60)}")
    return _unknown(text) if parsed is None else Run(parsed.command, parsed.words)


def _step_in_text(screen: Screen, line: str) -> Action:
    if not line.startswith("/") or line.startswith("//"):
        text = line[line.startswith("/") :].rstrip("\n")
        return Say(text) if screen.open is None else Write(screen.open, text)
    parsed = parse(line[1:])
    if parsed is None:
        return _unknown(line)
    if screen.open is None and not parsed.command.in_chat:
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
    if "\n" in text or (screen.takes_text and not text.startswith("/")):
        return []
    offset = 1 if text.startswith("/") else 0
    body = text[offset:]
    head, space, rest = body.partition(" ")
    rows = [row for row in ROWS if row.in_chat or screen.open is not None or not screen.in_chat]
    if not space:
        names = [
            Completion(row.name + (" " if row.argument else ""), -len(body), row.help)
            for row in rows
            if row.name.startswith(body.lower()) and row.name != body.lower()
        ]
        glued = [row for row in rows if row.takes_user and row.glues and body[:4].lower() == row.name]
        return names + [
            Completion(name, -len(body[4:]) if len(body) > 4 else 0)
            for row in glued
            for name in _users(screen, row, body[4:])
        ]
    row = next((row for row in rows if row.name == head.lower()), None)
    if row is None:
        return []
    if " " not in rest:
        found = [Completion(name, -len(rest)) for name in _users(screen, row, rest)] + _numbers(screen, row, rest)
        if row.completes == "command":
            found += [
                Completion(each.name, -len(rest), each.help) for each in ROWS if each.name.startswith(rest.lower())
            ]
        return found + _verify_words(screen, rest) if row.name == "verify" and screen.in_chat else found
    if row.name == "verify":
        return _verify_words(screen, rest.rpartition(" ")[2])
    return _second_words(row, rest)


def _second_words(row: Command, rest: str) -> list[Completion]:
    """Of a second argument that is one of a few words."""
    words = rest.split(" ")
    if len(words) != 2 or len(row.forms) < 2 or "|" not in row.forms[1]:
        return []
    offered = (word for word in row.forms[1].strip("[]").split("|") if not word.isupper())
    return [Completion(word, -len(words[1])) for word in offered if word.startswith(words[1])]


def _numbers(screen: Screen, row: Command, start: str) -> list[Completion]:
    if row.completes not in ("own", "any"):
        return []
    offered = (one for one in screen.recent if one.own or row.completes == "any")
    behind = " " if len(row.forms) > 1 else ""
    return [
        Completion(f"{one.number}{behind}", -len(start), one.text)
        for one in offered
        if str(one.number).startswith(start)
    ]


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
            peer = screen.open or screen.peer
            names = [peer] if peer else [name for name in screen.online if name != screen.user]
        case "known":
            known = {fold(name): name for name in (*screen.known, *screen.online)}
            names = [name for name in known.values() if name != screen.user]
        case _:
            names = []
    return sorted(name for name in names if name.lower().startswith(start.lower()))
