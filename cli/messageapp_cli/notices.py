"""Lines about what is not being looked at: few of them, and none that is not true any more when its turn comes.

Who writes to a conversation that is not open gives one line at once, and then one in `NOTICE_SECONDS` at most, with the
last text and how many there are. What cannot be read is told after `HEALING_SECONDS`, if it still cannot be read: most
of it has come again by then, or was no text. That gives one line of each peer in `UNREADABLE_SECONDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from messageapp.client.messages import Cause, State
from messageapp_keys.names import fold

from .message_lines import Style, notice, unreadable_lines
from .remembered import Remembered

__all__ = ["HEALING_SECONDS", "NOTICE_SECONDS", "UNREADABLE_SECONDS", "Notices"]

NOTICE_SECONDS: Final = 2.0
HEALING_SECONDS: Final = 2.0
UNREADABLE_SECONDS: Final = 30.0  # nobody needs to know a peer to send junk


@dataclass(frozen=True, slots=True)
class _Unseen:
    """The last text of a conversation that is not open."""

    peer: str
    text: str
    ms: int
    kept: bool  # it can be looked at later


class Notices:
    """`say(*lines, dim=…)` writes them. By trio's clock."""

    def __init__(self, memory: Remembered, style: Style, say: Callable[..., None]) -> None:
        self._memory = memory
        self._style = style
        self._say = say
        self._unseen: dict[str, _Unseen] = {}
        self._quiet: dict[str, float] = {}  # until when there is no other line
        self._unreadable: dict[int, tuple[str, float]] = {}  # number → (peer, when it is told at the earliest)
        self._hushed: dict[str, float] = {}  # until when there is no other line of what cannot be read

    def came(self, peer: str, text: str, ms: int, *, kept: bool) -> None:
        self._unseen[fold(peer)] = _Unseen(peer, text, ms, kept)

    def looked_at(self, peer: str) -> None:
        """What is new after that gives a line at once again."""
        self._unseen.pop(fold(peer), None)
        self._quiet.pop(fold(peer), None)

    def unreadable(self, peer: str, number: int) -> None:
        self._unreadable.setdefault(number, (peer, trio.current_time() + HEALING_SECONDS))

    def healed(self, number: int) -> bool:
        """It can be read; whether nothing was said of it yet."""
        return self._unreadable.pop(number, None) is not None

    def due(self) -> float:
        """When the next line is to be said; infinity: nothing waits."""
        times = [self._when(peer, when) for peer, when in self._unreadable.values()]
        times += [self._quiet.get(folded, 0.0) for folded in self._unseen]
        return min(times, default=math.inf)

    def flush(self, *, at_once: bool = False) -> None:
        """Say what is due, or (`at_once`) everything."""
        now = math.inf if at_once else trio.current_time()
        for folded in [folded for folded in self._unseen if self._quiet.get(folded, 0.0) <= now]:
            self._tell(folded, self._unseen.pop(folded))
        told: dict[tuple[str, Cause], list[int]] = {}
        for number, (peer, _) in [each for each in self._unreadable.items() if self._when(*each[1]) <= now]:
            del self._unreadable[number]
            message = self._memory.found(number)
            if message is not None and message.state is State.UNREADABLE:  # else it was healed, or nothing to be shown
                told.setdefault((peer, message.cause), []).append(number)
        for (peer, cause), numbers in told.items():
            self._hushed[fold(peer)] = trio.current_time() + UNREADABLE_SECONDS
            self._say(*unreadable_lines(peer, numbers, cause), dim=cause is not Cause.GAVE_UP)

    def _when(self, peer: str, earliest: float) -> float:
        return max(earliest, self._hushed.get(fold(peer), 0.0))

    def _tell(self, folded: str, unseen: _Unseen) -> None:
        unread = self._memory.count_unread(unseen.peer)
        if unread or not unseen.kept:  # else it was looked at meanwhile
            self._quiet[folded] = trio.current_time() + NOTICE_SECONDS
            self._say(notice(unseen.peer, unseen.text, unread, unseen.ms, self._style), dim=True)
