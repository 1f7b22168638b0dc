"""A stranger's text made printable: a terminal client's first duty. Every text from outside goes through here."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from messageapp.errors import MessageAppError

__all__ = ["LINE_ENDS", "MAX_LINES", "MAX_MARKS", "REPLACEMENT", "error_line", "one_line", "quoted_lines", "safe_lines"]

REPLACEMENT: Final = "\ufffd"
MAX_LINES: Final = 1000  # of one message; a flood of empty lines would wipe the screen's history
MAX_MARKS: Final = 4  # combining characters on one letter; a flood of them climbs over other lines
_TAB: Final = "    "
# Bidirectional controls (they reorder what follows), invisible operators and fillers, annotations, tags.
_HIDDEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_JOINED: Final = re.compile("[\u1160-\u11ff\ud7b0-\ud7ff]")  # Hangul vowels and endings: letters without a width
LINE_ENDS: Final = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")


def _safe(text: str) -> str:
    """One line without anything that moves the cursor, reorders, hides or piles up."""
    out: list[str] = []
    marks = 0
    for char in _HIDDEN.sub(REPLACEMENT, text.replace("\t", _TAB)):
        category = unicodedata.category(char)
        # A joiner (Cf) between marks must not let more of them through, nor a mark newer than this Unicode (Cn).
        if category in ("Mn", "Me", "Cf", "Cn"):
            marks += 1
            if marks > MAX_MARKS:
                continue
        elif category != "Mc" and not _JOINED.match(char):
            marks = 0
        out.append(REPLACEMENT if category in ("Cc", "Cs", "Zl", "Zp") else char)
    return "".join(out)


def safe_lines(text: str) -> list[str]:
    """The lines of a stranger's text, each printable. At least one."""
    return [_safe(line) for line in LINE_ENDS.split(text)]


def one_line(text: str, most: int = 200) -> str:
    """A stranger's text within a line of ours."""
    joined = " ".join(safe_lines(text[: 8 * most]))  # what is far too long is not worked on
    return joined if len(joined) <= most and len(text) <= 8 * most else joined[: most - 1] + "…"


def error_line(error: MessageAppError | str) -> str:
    return f"error: {one_line(str(error), 500)}"


def quoted_lines(head: str, text: str, peer: str, tail: str = "") -> list[str]:
    """`head` (ours) before and `tail` behind every line of a text of `peer`, at most MAX_LINES of them."""
    lines = [f"{head}{line}{tail}" for line in safe_lines(text)]
    more = len(lines) - MAX_LINES
    return lines if more <= 0 else [*lines[:MAX_LINES], f"error: {more:,} more lines from {peer} are not shown"]
