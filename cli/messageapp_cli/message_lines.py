"""Stored messages as lines of text: in a conversation, in lists, as events. Strangers' text goes through `safe`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from messageapp.client import events as ev
from messageapp.client.messages import Cause, Conversation, Message, State, Version
from messageapp.clock import wall_ms

from .safe import LINE_ENDS, error_line, one_line, quoted_lines

__all__ = [
    "ABOUT_MESSAGES",
    "FOLD_CHARACTERS",
    "FOLD_LINES",
    "NEEDS_YOU",
    "Style",
    "clock",
    "conversation_lines",
    "divider",
    "first_message_lines",
    "found_lines",
    "message_lines",
    "notice",
    "pending_lines",
    "quote",
    "settings",
    "span",
    "unreadable_lines",
    "version_lines",
]

_QUIET: Final = (Cause.NONE, Cause.WAITING, Cause.NOT_CONNECTED, Cause.BUSY, Cause.IN_CHAT)
NEEDS_YOU: Final = frozenset(set(Cause) - set(_QUIET))
"""Causes of a queued message that the user is told of at once: waiting alone may not end them."""

_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_REACTION: Final = 16  # characters that are shown of one
FOLD_LINES: Final = 12  # what is longer is shown whole when it comes, and folded when it is shown again
FOLD_CHARACTERS: Final = 1000
_CLOSED: Final = {State.UNREADABLE: "it could not be read", State.HELD: "it is kept closed"}


@dataclass(frozen=True, slots=True)
class Style:
    """Of one screen: our own name, and whether it shows more than ASCII."""

    me: str
    pictures: bool

    @property
    def arrow(self) -> str:
        return "↳" if self.pictures else "re"


def clock(ms: int, now_ms: int | None = None) -> str:
    """Local time; with the day where that is not today's. A stranger's clock may say anything."""
    now_ms = wall_ms() if now_ms is None else now_ms
    try:
        then, now = time.localtime(ms / 1000), time.localtime(now_ms / 1000)
        today = then[:3] == now[:3]
        return time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", then)
    except (ValueError, OverflowError, OSError):
        return "??:??"


def span(seconds: int) -> str:
    """`90` → `1m 30s`."""
    parts = []
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"


def message_lines(
    message: Message,
    style: Style,
    answered: Message | None = None,
    *,
    mark: str = "",
    day: bool = False,
    unfolds: str = "",
) -> list[str]:
    """As it stands in a conversation: `12:31 #41 <bob> text (edited)`, before it what it answers; with the `day`.

    A long text is folded where there is a command that shows the whole (`unfolds`).
    """
    head = f"{clock(message.written_ms, 0 if day else None)} #{message.number} "
    lines = [] if message.reply_to is None else [quote(message.reply_to, style, answered)]
    if message.text is None:
        about = _CLOSED.get(message.state, "it cannot be read")
        return [*lines, f"{head}{message.peer}: {about}; why {message.number}"]
    name = style.me if message.own else message.peer
    text, more = _folded(message.text) if unfolds else (message.text, "")
    shown = quoted_lines(f"{head}{'' if message.own else mark}<{name}> ", text, message.peer)
    folded = [f"… {more}: {unfolds}"] if more else []
    return [*lines, *shown[:-1], shown[-1] + _tail(message), *folded]


def _folded(text: str) -> tuple[str, str]:
    """(its beginning, how much more there is): all of it, and nothing, where it is short."""
    ends = [match.start() for match in LINE_ENDS.finditer(text)]
    end = ends[FOLD_LINES - 1] if len(ends) >= FOLD_LINES else len(text)
    if end > FOLD_CHARACTERS:
        return text[:FOLD_CHARACTERS], f"{len(text) - FOLD_CHARACTERS:,} more characters"
    more = len(ends) + 1 - FOLD_LINES
    return text[:end], f"{more:,} more line{'s' if more > 1 else ''}" if more > 0 else ""


def _tail(message: Message) -> str:
    words = [str(message.state)] if message.own else ["late"] if message.cause is Cause.LATE else []
    words += ["edited"] if message.edited_ms else []
    words += [f"{one_line(emoji, _REACTION)} {'you' if own else message.peer}" for own, emoji in message.reactions]
    return f" ({', '.join(words)})" if words else ""


def quote(number: int, style: Style, answered: Message | None) -> str:
    """The line before an answer. The message may be gone."""
    if answered is None:
        return f"{style.arrow} #{number}"
    name = style.me if answered.own else answered.peer
    return f"{style.arrow} #{number} <{name}> {one_line(answered.text or '…', 60)}"


def notice(peer: str, text: str, unread: int, ms: int, style: Style) -> str:
    """The one line for messages of a conversation that is not open: `14:20 bob: text  — 2 unread, to bob`.

    The text is the last one's, and `ms` its time; `unread` 0: they are not kept.
    """
    dash = "—" if style.pictures else "--"
    return f"{clock(ms)} {peer}: {one_line(text, 60)}  {dash} {f'{unread} unread, ' if unread else ''}to {peer}"


def unreadable_lines(peer: str, numbers: Sequence[int], cause: Cause) -> list[str]:
    """What of `peer` could not be opened, and waits for one `cause`."""
    if cause is Cause.GAVE_UP:
        which = f"#{numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} messages (#{numbers[0]} …)"
        return [error_line(f"{which} from {peer} could not be read; why {numbers[0]}")]
    what = "a message" if len(numbers) == 1 else f"{len(numbers)} messages"
    asked = "; asked for again" if cause is Cause.ASKED_AGAIN else ""
    return [f"{what} from {peer} cannot be read yet{asked} (why {numbers[0]})"]


def divider(words: str, style: Style) -> str:
    """`── bob ──` where a conversation opens, `── 2 new ──` before what was not read yet."""
    rule = "──" if style.pictures else "--"
    return f"{rule} {words} {rule}"


def conversation_lines(found: Sequence[tuple[int, Conversation]]) -> list[str]:
    """Each with the number that Alt opens it by."""
    if not found:
        return ["No conversations yet; msg USER TEXT begins one."]
    width = max(len(each.peer) for _, each in found)
    lines = ["Conversations:"]
    for place, each in found:
        last = each.last
        words = "" if last is None else f"{'you: ' if last.own else ''}{one_line(last.text or '…', 40)}"
        when = "" if last is None else clock(last.stored_ms)
        notes = [f"{each.unread} unread"] if each.unread else []
        notes += ["draft"] if each.draft else []
        notes += settings(each)
        more = f"  ({', '.join(notes)})" if notes else ""
        lines.append(f"{place:>3}  {each.peer:<{width}}{more}  {when}  {words}".rstrip())
    return lines


def settings(conversation: Conversation) -> list[str]:
    """What is not as usual in it."""
    notes = [f"vanish after {span(conversation.expire_s)}"] if conversation.expire_s else []
    return notes + (["told what you read"] if conversation.receipts else [])


def pending_lines(messages: Sequence[Message]) -> list[str]:
    if not messages:
        return ["No message of yours is under way."]
    return [
        "Not arrived yet; why N explains one:",
        *(
            f"  #{each.number} to {each.peer}  {each.state}  {clock(each.written_ms)}  {one_line(each.text or '…', 50)}"
            for each in messages
        ),
    ]


def found_lines(messages: Sequence[Message], style: Style) -> list[str]:
    """What a search found, in this order."""
    if not messages:
        return ["Nothing found."]
    return [
        f"{clock(each.written_ms)} #{each.number} {f'to {each.peer} ' if each.own else ''}"
        f"<{style.me if each.own else each.peer}> {one_line(each.text or '…', 120)}"
        for each in messages
    ]


def version_lines(versions: Sequence[Version]) -> list[str]:
    """The texts that a message had before."""
    return [f"  before, {clock(each.from_ms)}: {one_line(each.text, 200)}" for each in versions]


def first_message_lines(peer: str, number: Sequence[str], *, to_us: bool) -> list[str]:
    """Where the peer's key was pinned with a message, with the lines of the safety number."""
    return [
        f"This is the first message {'from' if to_us else 'to'} {peer}; the key is remembered from now on.",
        *number,
        f"Compare it with {peer} by another way (in person, on the telephone), then: verify {peer} confirm",
    ]


def _timer(event: ev.TimerChanged) -> list[str]:
    peer, who = event.peer, "you say so" if event.by_us else f"{event.peer} says so"
    if not event.seconds:
        return [f"Messages with {peer} stay, from now on ({who})."]
    return [f"Messages with {peer} vanish after {span(event.seconds)}, from now on ({who}; expire {peer} off ends it)."]


def _changed(event: ev.MessageChanged) -> list[str]:
    if event.state != State.FAILED:
        return []
    return [error_line(f"#{event.number} to {event.peer} was not sent; why {event.number}")]


def _moved(event: ev.MailMoved) -> list[str]:
    if event.to_us:
        return ["This device receives your messages from now on."]
    return ["Another device of yours receives your messages from now on; log in anew here to take them back."]


def _reacted(event: ev.Reacted) -> list[str]:
    if not event.emoji:
        return [f"{event.peer} takes the reaction to #{event.number} back"]
    return [f"{event.peer} reacts to #{event.number}: {one_line(event.emoji, _REACTION)}"]


ABOUT_MESSAGES: Final[Mapping[type[object], Callable[[Any], list[str]]]] = {
    ev.MessageReceived: lambda event: quoted_lines(
        f"<{event.peer}> ", event.text, event.peer, " (late)" if event.late else ""
    ),
    ev.KeyPinned: lambda event: first_message_lines(event.peer, (), to_us=False)[:1],
    ev.MessageEdited: lambda event: quoted_lines(f"<{event.peer}> ", event.text, event.peer, " (edited)"),
    ev.MessageChanged: _changed,
    ev.MessageUnreadable: lambda event: unreadable_lines(event.peer, [event.number], Cause.ASKED_AGAIN),
    ev.MessageHeld: lambda event: [error_line(f"#{event.number} from {event.peer} is kept closed; why {event.number}")],
    ev.Reacted: _reacted,
    ev.TimerChanged: _timer,
    ev.MailMoved: _moved,
    ev.StorageTrouble: lambda event: [
        error_line(f"{event.reason}; what others send waits, and comes when there is room again")
    ],
}
"""As a script reads them: without numbers in what came."""
