"""The commands that a user types, as rows: name, argument, where, help, and what completes them.

Help, completion, `docs/cli.md` and the nearest-command hint all come from here. Those of the report (`Command.glues`)
may be glued to their argument (`chatbob`), and take `x` where they have none (`listx`). An argument is a row of forms
(`_FORMS`); where the last one is TEXT, WORDS… or [FILE], it is the rest of the line as it was typed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from messageapp_keys.names import is_username

__all__ = [
    "ROWS",
    "VERIFY_WORDS",
    "Command",
    "Parsed",
    "help_lines",
    "nearest",
    "number_of",
    "parse",
    "seconds_of",
    "usage_of",
]

REPORT_LENGTH: Final = 4
VERIFY_WORDS: Final = ("live", "yes", "no", "confirm")
LONGEST_SECONDS: Final = 365 * 86_400
"""After a year at most a message vanishes, where it does."""

_REPORT: Final = frozenset({"list", "chat", "acpt", "refu", "cach", "help", "exit"})
_REST: Final = ("TEXT", "WORDS…", "[FILE]")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    argument: str  # "" none, "USER", "[USER]", or a longer form
    help: str
    completes: str = ""  # free | caller | peer | known: which users are offered; own | any: which messages; command
    in_chat: bool = False  # also at [CHAT]->, with a slash

    @property
    def usage(self) -> str:
        return f"{self.name} {self.argument}".strip()

    @property
    def takes_user(self) -> bool:
        return "USER" in self.argument

    @property
    def forms(self) -> tuple[str, ...]:
        """Of the arguments, one by one; in brackets what may be left out."""
        return tuple(self.argument.split())

    @property
    def takes_rest(self) -> bool:
        """The last argument is the rest of the line."""
        return self.forms[-1:] != () and self.forms[-1] in _REST

    @property
    def glues(self) -> bool:
        return self.name in _REPORT


ROWS: Final = (
    Command("list", "", "who is online", in_chat=True),
    Command("chat", "USER", "call a user; the chat begins when they accept", "free"),
    Command("acpt", "[USER]", "accept the call", "caller"),
    Command("refu", "[USER]", "refuse the call", "caller"),
    Command("cach", "[USER]", "cancel your own call"),
    Command("msg", "USER TEXT", "send a message; it waits for a user who is offline", "known", in_chat=True),
    Command("to", "[USER]", "open a conversation: what you type is sent; alone it closes it", "known", in_chat=True),
    Command("conversations", "", "all of them, and what is unread; Alt+1 to Alt+9 open them", in_chat=True),
    Command("history", "[USER] [N]", "the last N messages (20)", "known", in_chat=True),
    Command("search", "WORDS…", 'words that begin so, or "exactly so"; in:bob from:me after:2026-01-31', in_chat=True),
    Command("pending", "", "your messages that have not arrived yet", in_chat=True),
    Command("why", "N", "what became of message N, and what you can do", "any", in_chat=True),
    Command("retry", "N", "send message N again, which failed or is not confirmed", "own", in_chat=True),
    Command("reply", "N TEXT", "answer message N", "any", in_chat=True),
    Command("edit", "N TEXT", "another text for your message N; the old one is kept", "own", in_chat=True),
    Command("react", "N [EMOJI]", "react to message N; without EMOJI take it back", "any", in_chat=True),
    Command("delete", "N", "delete message N here", "any", in_chat=True),
    Command("forget", "USER", "delete all messages with a user here", "known", in_chat=True),
    Command("expire", "[USER] [TIME|off]", "new messages vanish after TIME (30s 1h 2d) on both sides", "known", True),
    Command("receipts", "[USER] [on|off]", "whether a user is told what you have read", "known", in_chat=True),
    Command("export", "USER --json|--text [FILE]", "all messages with a user into a new file", "known", in_chat=True),
    Command(
        "verify",
        "[USER] [live|yes|no|confirm]",
        "the safety number, `confirm` after comparing it; `live`: seven emoji, in a chat",
        "peer",
        in_chat=True,
    ),
    Command("trust", "USER DIGITS", "accept a changed key: the first 10 digits of the new safety number", "peer"),
    Command(
        "block",
        "USER",
        "no calls or messages from a user any more; what they write meanwhile is not kept",
        "peer",
        in_chat=True,
    ),
    Command("unblock", "USER", "take a user's calls and messages again"),
    Command("blocked", "", "whom you block"),
    Command("status", "", "server, session, suite, peer", in_chat=True),
    Command("reconnect", "", "try to reach the server now, when the connection is lost", in_chat=True),
    Command("help", "[COMMAND]", "this list, or what one command does", "command", in_chat=True),
    Command("exit", "", "log off; in a chat or conversation, `/exit` leaves it", in_chat=True),
)
_BY_NAME: Final = {row.name: row for row in ROWS}
_OTHER_WORDS: Final = {
    "quit": "exit",
    "bye": "exit",
    "leave": "exit",
    "call": "chat",
    "who": "list",
    "reject": "refu",
    "send": "msg",
    "tell": "msg",
    "open": "to",
    "find": "search",
    "remove": "delete",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    command: Command
    words: tuple[str, ...]  # arguments


def number_of(word: str) -> int | None:
    """The message that `41` or `#41` means."""
    digits = word.removeprefix("#")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None


def seconds_of(word: str) -> int | None:
    """Of `30s`, `10m`, `1h`, `2d`; 0 for `off`. None for anything else, and for more than a year."""
    if word == "off":
        return 0
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", word)
    seconds = 0 if found is None else int(found[1]) * _UNITS[found[2]]
    return seconds if 0 < seconds <= LONGEST_SECONDS else None


_FORMS: Final[Mapping[str, Callable[[str], bool]]] = {
    "USER": is_username,
    "DIGITS": lambda word: word.isdecimal(),
    "N": lambda word: number_of(word) is not None,
    "TIME|off": lambda word: seconds_of(word) is not None,
    "TEXT": lambda text: text.strip() != "",
    "WORDS…": lambda text: text.strip() != "",
    "EMOJI": bool,
    "FILE": lambda text: text.strip() != "",
    "COMMAND": lambda word: word.removeprefix("/").lower() in _BY_NAME,
}


def _fits_form(form: str, word: str) -> bool:
    bare = form.strip("[]")
    return _FORMS[bare](word) if bare in _FORMS else word in bare.split("|")


def parse(line: str) -> Parsed | None:
    """The command that `line` (without its slash) means, or None. `chat bob`, `chatbob`, `list`, `listx`, `list x`."""
    head, rest = _next_word(line)
    row = _BY_NAME.get(head.lower())
    if row is None and len(head) > REPORT_LENGTH:
        row, rest = _BY_NAME.get(head[:REPORT_LENGTH].lower()), f"{head[REPORT_LENGTH:]} {rest}"
        row = row if row is not None and row.glues else None
    if row is None:
        return None
    words = _words(row, rest)
    if words == ("x",) and (not row.argument or row.name == "help"):
        words = ()
    return Parsed(row, words) if _fits(row, words) else None


def _next_word(text: str) -> tuple[str, str]:
    """The first word, and what is behind the one blank that ends it."""
    found = re.match(r"\s*(\S*)\s?", text)
    assert found is not None  # noqa: S101 - it matches nothing, too
    return found[1], text[found.end() :]


def _words(row: Command, rest: str) -> tuple[str, ...]:
    if not row.takes_rest:
        return tuple(rest.split())
    words = []
    for _ in row.forms[:-1]:
        word, rest = _next_word(rest)
        words.append(word)
    return tuple(words) if not rest.strip() else (*words, rest.rstrip("\n"))


def _fits(row: Command, words: tuple[str, ...]) -> bool:
    forms = row.forms + (("[DIGITS]",) if row.name == "trust" else ())  # they may come in two groups
    needed = sum(not form.startswith("[") for form in forms)
    fits = all(_fits_form(form, word) for form, word in zip(forms, words, strict=False))
    return fits and needed <= len(words) <= len(forms)


def usage_of(line: str) -> str | None:
    """How the command that `line` begins with is used; None where it begins with none."""
    words = line.split()
    row = _BY_NAME.get(words[0].lower()) if words else None
    return None if row is None else row.usage


def nearest(line: str) -> str | None:
    """The known command that was probably meant: the nearest one, or that whose argument is missing."""
    words = line.split()
    word = words[0].lower() if words else ""
    word = _OTHER_WORDS.get(word, word)
    for row in ROWS:
        if word == row.name or (word.startswith(row.name) and row.glues and len(words) > 1):
            return row.usage
    close = difflib.get_close_matches(word, list(_BY_NAME), n=1, cutoff=0.5)
    return _BY_NAME[close[0]].usage if close else None


def help_lines(name: str = "") -> list[str]:
    """Of all commands, or of the one of that name."""
    if name:
        row = _BY_NAME[name.removeprefix("/").lower()]
        return [f"  {row.usage}  {row.help}"]
    width = max(len(row.usage) for row in ROWS)
    lines = [f"  {row.usage:<{width}}  {row.help}" for row in ROWS]
    return [
        "Commands:",
        *lines,
        "In a chat or conversation everything you type is sent; commands begin with a slash there, as in /help, and //",
        "at the beginning sends a single slash. list chat acpt refu cach exit may be glued (chatbob) or end in x.",
    ]
