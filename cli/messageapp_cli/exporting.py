"""`export USER --json|--text [FILE]`: all messages of a conversation in a new file that only its owner can read.

The text form is made printable like everything on the screen. The JSON form has each text as it came, with every
character but plain ASCII escaped, so that showing the file does nothing either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import trio

from messageapp.client.messages import Message, Messages, MessagesRefused, Version

from .message_lines import Style, message_lines, version_lines

__all__ = ["export"]

_AT_ONCE: Final = 200  # messages between two turns of everything else


async def export(messages: Messages, peer: str, form: str, name: str, style: Style) -> tuple[str, int]:
    """The file, and how many messages are in it. `MessagesRefused` where it is there already or cannot be written."""
    path = _path(peer, form, name)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise MessagesRefused(f"{path} is there already, and is not overwritten") from None
    except OSError as error:
        raise MessagesRefused(f"{path} cannot be written: {error.strerror}") from None
    count = 0
    try:
        with os.fdopen(file, "w", encoding="utf-8") as out:
            out.write("[" if form == "--json" else "")
            for message in messages.export(peer):
                before = messages.versions(message.number) if message.versions else []
                out.write((_json if form == "--json" else _text)(message, before, style, count))
                count += 1
                if count % _AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            out.write("\n]\n" if form == "--json" else "")
    except BaseException as error:  # half a file is none
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MessagesRefused(f"{path} cannot be written: {error.strerror}") from None
        raise
    return str(path), count


def _path(peer: str, form: str, name: str) -> Path:
    return Path(name.strip() or f"{peer}.{'json' if form == '--json' else 'txt'}").expanduser()


def _text(message: Message, before: Sequence[Version], style: Style, _: int) -> str:
    return "".join(f"{line}\n" for line in (*message_lines(message, style, day=True), *version_lines(before)))


def _json(message: Message, before: Sequence[Version], style: Style, place: int) -> str:
    fields = {name: value for name, value in _fields(message, style.me) if value is not None}
    if before:
        fields["before"] = [{"text": each.text, "written": _moment(each.from_ms)} for each in before]
    return f"{',' if place else ''}\n{json.dumps(fields, ensure_ascii=True)}"


def _fields(message: Message, me: str) -> Iterator[tuple[str, Any]]:
    yield "number", message.number
    yield "from", me if message.own else message.peer
    yield "to", message.peer if message.own else me
    yield "text", message.text
    yield "written", _moment(message.written_ms)
    yield "stored", _moment(message.stored_ms)
    yield "state", str(message.state)
    yield "cause", str(message.cause) or None
    yield "reply_to", message.reply_to
    yield "edited", None if message.edited_ms is None else _moment(message.edited_ms)
    yield "reactions", {me if own else message.peer: emoji for own, emoji in message.reactions} or None
    yield "vanishes", None if message.expires_ms is None else _moment(message.expires_ms)


def _moment(ms: int) -> str | int:
    """ISO 8601 in UTC; the bare number where a stranger's clock is beyond all dates."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return ms
