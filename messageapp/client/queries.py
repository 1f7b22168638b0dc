"""What is typed after `search`: words, `"a phrase"`, `begin*`, and what narrows it (`in:bob`, `before:2026-01-31`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Final

from messageapp.errors import MessageAppError
from messageapp.store.search import Query
from messageapp_keys.names import fold

__all__ = ["MAX_TERMS", "MessagesRefused", "parse_query"]

MAX_TERMS: Final = 32  # SQLite's parser gives up at 256 words, and each is looked up
_FILTER: Final = re.compile(r'(?<!\S)(in|from|before|after):([^\s"]*)(?!\S)')


class MessagesRefused(MessageAppError):
    """there is no such message"""


def parse_query(typed: str, me: str, conversation: Callable[[str], int]) -> Query:
    """`conversation` gives the number of the one with a peer, or raises `MessagesRefused`; `me` may be named, too.

    A day begins at midnight, local time; `after:` includes the day. What is given twice counts as given last.
    """
    found: dict[str, str] = dict(_FILTER.findall(typed))
    text = _FILTER.sub(" ", typed).strip()
    if not text and not found:
        raise MessagesRefused("search for what? Words, and in:bob, from:bob, from:me, before:2026-01-31, after:…")
    if len(text.split()) > MAX_TERMS:
        raise MessagesRefused(f"that are too many words; {MAX_TERMS} are looked up at a time")
    if fold(found.get("from", "")) == fold(me):
        found["from"] = "me"
    names = [found[kind] for kind in ("in", "from") if kind in found and (kind, found[kind]) != ("from", "me")]
    places = {conversation(name) for name in names}
    if len(places) > 1:
        raise MessagesRefused(f"in a conversation of two, nothing in:{found['in']} is from:{found['from']}")
    return Query(
        text,
        places.pop() if places else None,
        found["from"] == "me" if "from" in found else None,
        _midnight("before", found),
        _midnight("after", found),
    )


def _midnight(kind: str, found: dict[str, str]) -> int | None:
    if kind not in found:
        return None
    try:
        return int(datetime.strptime(found[kind], "%Y-%m-%d").astimezone().timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise MessagesRefused(f"{kind}: takes a day, like {kind}:2026-01-31") from None
