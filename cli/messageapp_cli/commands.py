"""The commands that a user types, as rows: name, argument, where, help, and what completes them.

Help, completion, `docs/cli.md` and the nearest-command hint all come from here. The four-letter ones are the report's:
they may be glued to their argument (`chatbob`), and take `x` where they have none (`listx`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final

from messageapp_keys.names import is_username

__all__ = ["ROWS", "VERIFY_WORDS", "Command", "Parsed", "help_lines", "nearest", "parse", "usage_of"]

REPORT_LENGTH: Final = 4
VERIFY_WORDS: Final = ("live", "yes", "no", "confirm")


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    argument: str  # "" none, "USER", "[USER]", or a longer form
    help: str
    completes: str = ""  # free | caller | peer: which users are offered
    in_chat: bool = False  # also at [CHAT]->, with a slash

    @property
    def usage(self) -> str:
        return f"{self.name} {self.argument}".strip()

    @property
    def takes_user(self) -> bool:
        return "USER" in self.argument


ROWS: Final = (
    Command("list", "", "who is online", in_chat=True),
    Command("chat", "USER", "call a user; the chat begins when they accept", "free"),
    Command("acpt", "[USER]", "accept the call", "caller"),
    Command("refu", "[USER]", "refuse the call", "caller"),
    Command("cach", "[USER]", "cancel your own call"),
    Command(
        "verify",
        "[USER] [live|yes|no|confirm]",
        "the safety number, `confirm` after comparing it; `live`: seven emoji, in a chat",
        "peer",
        in_chat=True,
    ),
    Command("trust", "USER DIGITS", "accept a changed key: the first 10 digits of the new safety number", "peer"),
    Command("block", "USER", "no calls from a user any more, who sees you as offline", "peer", in_chat=True),
    Command("unblock", "USER", "take a user's calls again"),
    Command("blocked", "", "whom you block"),
    Command("status", "", "server, session, suite, peer", in_chat=True),
    Command("help", "", "this list", in_chat=True),
    Command("exit", "", "log off; in a chat, `/exit` leaves the chat", in_chat=True),
)
_BY_NAME: Final = {row.name: row for row in ROWS}
_OTHER_WORDS: Final = {"quit": "exit", "bye": "exit", "leave": "exit", "call": "chat", "who": "list", "reject": "refu"}


@dataclass(frozen=True, slots=True)
class Parsed:
    command: Command
    words: tuple[str, ...]  # arguments


def parse(line: str) -> Parsed | None:
    """The command that `line` (without its slash) means, or None. `chat bob`, `chatbob`, `list`, `listx`, `list x`."""
    words = line.split()
    if not words:
        return None
    head, rest = words[0].lower(), tuple(words[1:])
    row = _BY_NAME.get(head)
    if row is None and len(head) > REPORT_LENGTH:
        row, rest = _BY_NAME.get(head[:REPORT_LENGTH]), (words[0][REPORT_LENGTH:], *rest)
    if row is None:
        return None
    if rest == ("x",) and not row.takes_user:
        rest = ()
    most = len(row.argument.split()) if row.name != "trust" else 3  # the digits may come in two groups
    return Parsed(row, rest) if len(rest) <= most and _fits(row, rest) else None


def _fits(row: Command, words: tuple[str, ...]) -> bool:
    if not words:
        return not row.argument or row.argument.startswith("[")
    if row.name == "verify" and words[0] in VERIFY_WORDS and len(words) == 1:
        return True
    if row.takes_user and not is_username(words[0]):
        return False
    if row.name == "verify":
        return len(words) == 1 or words[1] in VERIFY_WORDS
    if row.name == "trust":
        return len(words) > 1 and "".join(words[1:]).isdigit()
    return True


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
        if word == row.name or (word.startswith(row.name) and len(row.name) == REPORT_LENGTH and len(words) > 1):
            return row.usage
    close = difflib.get_close_matches(word, list(_BY_NAME), n=1, cutoff=0.5)
    return _BY_NAME[close[0]].usage if close else None


def help_lines() -> list[str]:
    width = max(len(row.usage) for row in ROWS)
    lines = [f"  {row.usage:<{width}}  {row.help}" for row in ROWS]
    return [
        "Commands:",
        *lines,
        "In a chat everything you type is sent; /list, /verify, /block, /status, /help and /exit are commands there,",
        "and // at the beginning sends a single slash. Commands may be glued or end in x, as in chatbob and listx.",
    ]
