"""Events as lines of text. Everything from outside goes through `safe` first.

The texts are stable: scripts rely on them. A received text of several lines has its `<bob>` before each, so that no
line of it can pass for one of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Final

from messageapp.client import events as ev
from messageapp.client.following import LogState
from messageapp.errors import ConnectionCut
from messageapp.wire.commands import Listing, UserState
from messageapp_keys.fingerprint import group_digits
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold

from .checking import answered_lines, shown_lines
from .message_lines import ABOUT_MESSAGES
from .safe import MAX_LINES, MAX_MARKS, error_line, one_line, quoted_lines, safe_lines

__all__ = [
    "MAX_LINES",
    "MAX_MARKS",
    "NO_LOG",
    "auth",
    "blocked_lines",
    "error_line",
    "first_chat_lines",
    "listing_lines",
    "log_line",
    "number_lines",
    "one_line",
    "render",
    "safe_lines",
]


def number_lines(peer: str, number: str) -> list[str]:
    """The 60 digits in two rows of six groups."""
    groups = group_digits(number)
    return [f"safety number with {peer}:", f"  {groups[:35]}", f"  {groups[36:]}"]


def listing_lines(listing: Listing, verified: Container[str] = (), mark: str = "") -> list[str]:
    """Who is in `verified` (names in lower case) has the `mark` behind the name."""
    return [
        "Online users:",
        *sorted(
            (
                entry.user
                + (mark if fold(entry.user) in verified else "")
                + (" (in chat)" if entry.state == UserState.IN_CHAT else "")
                for entry in listing.entries
            ),
            key=str.lower,
        ),
    ]


def blocked_lines(users: Sequence[str]) -> list[str]:
    return ["Blocked users:", *users] if users else ["You block nobody."]


def _changed(event: ev.KeyChanged) -> list[str]:
    peer = event.peer
    return [
        f"KEY CHANGED for {peer}",
        _HOW[event.how].format(peer=peer),
        "The chat is blocked.",
        *(f"old {line}" if line.startswith("safety") else line for line in number_lines(peer, event.old_number)),
        *(f"new {line}" if line.startswith("safety") else line for line in number_lines(peer, event.new_number)),
        *([f"You had verified the old key of {peer}."] if event.was_verified else []),
        f"The row that differs stands for the key of {peer}. Compare all digits with {peer} by another way.",
        f"If they are right: trust {peer} <the first 10 digits of the new number>",
    ]


_HOW: Final[Mapping[str, str]] = {
    "": "The server gives another key for {peer} than before: {peer} has installed anew, or somebody is between you.",
    "reset": "The server's administrator has reset the key of {peer}: {peer} has installed anew, or somebody else has.",
    "revoked": "The server's administrator has revoked the key of {peer}.",
    "unexplained": "The old key of {peer} has not signed the new one, and no administrator says that it was reset.",
}
"""Who changed a key, as the key log has it; "" where there is none."""


def _peer_changed(event: ev.PeerKeyChanged) -> list[str]:
    peer, revoked = event.peer, event.how == "revoked"
    return [
        f"KEY {'REVOKED' if revoked else 'CHANGED'} for {peer}",
        _HOW[event.how].format(peer=peer),
        *([f"You had verified the old key of {peer}."] if event.was_verified else []),
        f"There is no chat with {peer} until there is a new key."
        if revoked
        else f"The chat is blocked. Compare the new number with {peer} by another way: verify {peer}",
    ]


def _followed(event: ev.KeyFollowed) -> list[str]:
    peer = event.peer
    line = f"{peer} has a new key, signed by the old one; it is remembered from now on"
    return [line, f"You had verified the old one. Compare the new: verify {peer}"] if event.was_verified else [line]


def _entries(count: int) -> str:
    return f"{count:,} entr{'y' if count == 1 else 'ies'}"


def auth(bundle: IdentityBundle) -> str:
    """What signs for somebody: `hybrid` for two keys, both of which must."""
    return f"auth {'hybrid' if len(bundle.keys) > 1 else bundle.kind}"


def log_line(state: LogState) -> str:
    """For `status`."""
    if not state.kept:
        return "key log: this server keeps none"
    if state.alarm:
        return f"key log: ALARM, {one_line(state.alarm, 500)}"
    how = "by proofs alone" if state.thin else "all verified"
    still = "" if state.caught_up else ", reading on" if not state.trouble else f", {one_line(state.trouble)}"
    return f"key log: {_entries(state.size)}, {how}{still}"


def _alarm(event: ev.LogAlarmed) -> list[str]:
    return [
        f"KEY LOG ALARM: {one_line(event.reason, 500)}",
        "No chat begins at this server any more" + (", since an earlier session." if event.stored else "."),
        *([f"The checkpoints, as the server signed them, are in {event.evidence}"] if event.evidence else []),
        "Ask its owner and the other users. When it is settled: messageapp log accept",
    ]


NO_LOG: Final = "this server keeps no key log: keys rest on pins and safety numbers alone"
_ABOUT_KEYS: Final[Mapping[type[object], Callable[[Any], list[str]]]] = {
    ev.CheckShown: shown_lines,
    ev.CheckAnswered: answered_lines,
    ev.CheckFailed: lambda event: [error_line(f"live check with {event.peer}: {event.reason}")],
    ev.KeyFollowed: _followed,
    ev.PeerKeyChanged: _peer_changed,
    ev.LogAbsent: lambda event: [NO_LOG],
    ev.LogAlarmed: _alarm,
    ev.LogPinned: lambda event: [f"key log: {_entries(event.size)}; the key of this log is remembered from now on"],
    ev.LogGrew: lambda event: [],
    ev.LogTrouble: lambda event: [error_line(f"{event.reason}; no chat begins until it can be read")],
    ev.OwnKeyHistory: lambda event: [
        f"key log: {_entries(event.count)} under your name from before this account's key"
    ],
    ev.OwnKeyRevoked: lambda event: ["YOUR KEY WAS REVOKED by the server's administrator"],
}


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
            return quoted_lines(f"<{peer}> ", text, peer, tail)
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
        case ev.ChatStopped(peer, reason):
            return [f"error: the chat with {peer} was stopped: {reason}"]
        case ev.ChatFailed(peer, reason):
            return [f"error: no chat with {peer}: {reason}"]
        case ev.Keying():
            return []
        case ev.Ended(error):
            if error is None:
                return []
            return [str(error) if isinstance(error, ConnectionCut) else error_line(error)]
        case ev.IncomingCall(peer=peer) | ev.ChatSecure(peer=peer) | ev.UndecryptableText(peer=peer):
            return [_SIMPLE[type(event)].format(peer=peer)]
    return (_ABOUT_KEYS.get(type(event)) or ABOUT_MESSAGES[type(event)])(event)
