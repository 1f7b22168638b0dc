"""What the prompt remembers of stored messages between two looks at the database.

The console's thread reads `places`, `recent` and `toolbar_parts` while it draws: they are never looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from messageapp.client.messages import Conversation, Message, MessagesRefused
from messageapp.client.unconnected import AnyClient
from messageapp_keys.names import fold

from .modes import Recent
from .safe import one_line

__all__ = ["RECENT", "Remembered"]

RECENT: Final = 30  # messages whose numbers are offered


class Remembered:
    """`client` gives the one of now: a new connection brings another, over the same messages."""

    def __init__(self, client: Callable[[], AnyClient]) -> None:
        self._client = client
        self._unread: dict[str, int] = {}
        self._queued = 0
        self._last = ""  # what became of the last own message
        self.places: tuple[str, ...] = ()  # who Alt+1 … opens: in the order in which the conversations began, for good
        self.recent: tuple[Recent, ...] = ()  # the newest first

    def look(self) -> list[Conversation]:
        """Read again: all conversations, the one with the newest message first."""
        found = self._client().messages.conversations()
        self._unread = {fold(each.peer): each.unread for each in found if each.unread}
        self._set_places(found)
        self.count()
        return found

    def count(self) -> int:
        """How many own messages are queued."""
        self._queued = self._client().mail.status().queued
        return self._queued

    def count_unread(self, peer: str) -> int:
        count = self._unread[fold(peer)] = self._client().messages.unread(peer)
        return count

    def toolbar_parts(self) -> list[str]:
        unread = sum(self._unread.copy().values())
        parts = [f"{unread} unread"] if unread else []
        parts += [f"{self._queued} queued"] if self._queued else []
        return parts + ([self._last] if self._last else [])

    def place(self, peer: str) -> None:
        """There may be a conversation with `peer` since the last look."""
        if fold(peer) not in map(fold, self.places):
            self._set_places(self._client().messages.conversations())

    def _set_places(self, found: Sequence[Conversation]) -> None:
        self.places = tuple(each.peer for each in sorted(found, key=lambda one: one.id))

    def remember(self, number: int, own: bool, text: str | None) -> None:
        """Its number is offered from now on; None takes it out."""
        kept = tuple(one for one in self.recent if one.number != number)
        self.recent = kept if text is None else (Recent(number, own, one_line(text, 40)), *kept)[:RECENT]

    def wrote(self, number: int, peer: str, text: str) -> None:
        """An own message is on the disk."""
        self.remember(number, True, text)
        self.place(peer)
        message = self.found(number)
        self.changed(number, "" if message is None else message.state)
        self.count()

    def changed(self, number: int, state: str) -> None:
        """The state of an own message."""
        self._last = f"#{number} {state}"

    def forgot(self, peer: str) -> None:
        """All messages with `peer` are gone."""
        self.recent = ()
        self._unread.pop(fold(peer), None)
        self.places = tuple(each for each in self.places if fold(each) != fold(peer))

    def found(self, number: int) -> Message | None:
        try:
            return self._client().messages.message(number)
        except MessagesRefused:
            return None

    def spelled(self, name: str) -> str:
        """The registered spelling, where we have seen it."""
        return next((user for user in (*self._client().online, *self.places) if fold(user) == fold(name)), name)
