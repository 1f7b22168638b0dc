"""What a user reads about a live check, and the marks of verified peers.

The picture stands last in its line: terminals do not agree on how wide one is, so nothing may come behind it.
"""

from __future__ import annotations

from typing import Final

from messageapp.client import events as ev
from messageapp_keys.sas import EMOJI

__all__ = ["MARK", "answer_lines", "answered_lines", "printable", "shown_lines"]

MARK: Final = "✓"
_SAMPLE: Final = MARK + "█" + EMOJI[0][0]
_NAME: Final = max(len(name) for _, name in EMOJI)


def printable(encoding: str) -> bool:
    """Whether a screen in this encoding takes marks, pictures and QR codes."""
    try:
        _SAMPLE.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def shown_lines(event: ev.CheckShown, *, pictures: bool = False) -> list[str]:
    rows = [
        f"  {place}  {name:<{_NAME}}  {picture if pictures else ''}".rstrip()
        for place, (picture, name) in enumerate((EMOJI[number] for number in event.numbers), 1)
    ]
    return [
        f"LIVE CHECK with {event.peer}: seven pictures, the same on both sides if nobody is between you",
        *rows,
        f"Compare them with {event.peer} by another way (in person, on the telephone), not in this chat.",
        "All seven the same: /verify yes, otherwise: /verify no",
    ]


def _not_the_same(peer: str) -> list[str]:
    return [
        f"{peer} IS NOT VERIFIED. Somebody may be between you, who reads and changes all that is written in this chat.",
        f"Write nothing secret here. Leave with /exit, and compare the safety number in person: verify {peer}",
    ]


def answer_lines(peer: str, all_same: bool) -> list[str]:
    """After our own answer."""
    return [f"{peer} is verified"] if all_same else ["NOT THE SAME", *_not_the_same(peer)]


def answered_lines(event: ev.CheckAnswered) -> list[str]:
    """The peer's answer, which whoever is in the middle could have given."""
    if not event.all_same:
        return [f"NOT THE SAME, says the other side ({event.peer})", *_not_the_same(event.peer)]
    line = f"{event.peer} answered: the same"
    return [f"{line}. Answer only after comparing yourself: /verify yes or /verify no" if event.awaits_ours else line]
