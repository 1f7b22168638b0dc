"""Events as lines of text. Everything from outside goes through `safe_lines` first: a terminal client's first duty.

The texts are stable: scripts rely on them. A received text of several lines has its `<bob>` before each, so that no
line of it can pass for one of ours.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

from messageapp.client import events as ev
from messageapp.errors import ConnectionCut, MessageAppError
from messageapp.wire.commands import Listing, UserState
from messageapp_keys.fingerprint import group_digits

__all__ = ["error_line", "first_chat_lines", "listing_lines", "number_lines", "one_line", "render", "safe_lines"]

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
_LINE_ENDS: Final = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")


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
    return [_safe(line) for line in _LINE_ENDS.split(text)]


def one_line(text: str, most: int = 200) -> str:
    """A stranger's text within a line of ours."""
    joined = " ".join(safe_lines(text[: 8 * most]))  # what is far too long is not worked on
    return joined if len(joined) <= most and len(text) <= 8 * most else joined[: most - 1] + "…"


def error_line(error: MessageAppError | str) -> str:
    return f"error: {one_line(str(error), 500)}"


def number_lines(peer: str, number: str) -> list[str]:
    """The 60 digits in two rows of six groups."""
    groups = group_digits(number)
    return [f"safety number with {peer}:", f"  {groups[:35]}", f"  {groups[36:]}"]


def listing_lines(listing: Listing) -> list[str]:
    return [
        "Online users:",
        *sorted(
            (entry.user + (" (in chat)" if entry.state == UserState.IN_CHAT else "") for entry in listing.entries),
            key=str.lower,
        ),
    ]


def _changed(event: ev.KeyChanged) -> list[str]:
    peer = event.peer
    return [
        f"KEY CHANGED for {peer}",
        f"The server gives another key for {peer} than before: {peer} has installed anew, or somebody is between you.",
        "The chat is blocked.",
        *(f"old {line}" if line.startswith("safety") else line for line in number_lines(peer, event.old_number)),
        *(f"new {line}" if line.startswith("safety") else line for line in number_lines(peer, event.new_number)),
        *([f"You had verified the old key of {peer}."] if event.was_verified else []),
        f"The row that differs stands for the key of {peer}. Compare all digits with {peer} by another way.",
        f"If they are right: trust {peer} <the first 10 digits of the new number>",
    ]


def first_chat_lines(peer: str, number: str) -> list[str]:
    """What follows `CHAT IS SECURE!` where the key was pinned now."""
    return [
        f"This is the first chat with {peer}; the key is remembered from now on.",
        *number_lines(peer, number),
        f"Compare it with {peer} by another way (in person, on the telephone), then: /verify confirm",
    ]


_SIMPLE: Final[Mapping[type[object], str]] = {
    ev.IncomingCall: "REQUEST TO CHAT FROM: <{peer}> ACCEPT?",
    ev.ChatSecure: "CHAT IS SECURE! with {peer}",
    ev.UndecryptableText: "error: a message from {peer} could not be decrypted; nothing of it is shown",
}


def render(event: ev.Event) -> list[str]:
    """The lines for an event; none for one that only changes the prompt."""
    match event:
        case ev.TextReceived(peer, text, _, late):
            tail = " (late)" if late else ""
            lines = [f"<{peer}> {line}{tail}" for line in safe_lines(text)]
            more = len(lines) - MAX_LINES
            return lines if more <= 0 else [*lines[:MAX_LINES], f"error: {more:,} more lines from {peer} are not shown"]
        case ev.KeyChanged():
            return _changed(event)
        case ev.ChatOver(peer, by_us, disconnected, secure):
            if by_us:
                return [f"You left the chat with {peer}"]
            lines = [f"{peer} disconnected" if disconnected else f"{peer} left the chat"]
            if not secure and not disconnected:
                lines.append(f"It was not secure yet. If {peer} is told that your key changed: verify {peer}")
            return lines
        case ev.CallRefused(peer, unanswered):
            return [f"{peer} refused the chat" + (": no answer" if unanswered else "")]
        case ev.CallCanceled(peer, unanswered):
            return [f"{peer} canceled the call" + (": you did not answer" if unanswered else "")]
        case ev.Missing(peer, count):
            return [f"error: {count} message{'s' if count > 1 else ''} from {peer} did not arrive"]
        case ev.NotDelivered(peer, text, reason):
            return [f"error: not delivered to {peer}, {reason}: {one_line(text, 60)}"]
        case ev.ChatFailed(peer, reason):
            return [f"error: no chat with {peer}: {reason}"]
        case ev.Keying():
            return []
        case ev.Ended(error):
            if error is None:
                return []
            return [str(error) if isinstance(error, ConnectionCut) else error_line(error)]
    return [_SIMPLE[type(event)].format(peer=event.peer)]
