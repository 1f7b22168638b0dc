"""The conversation that is open: what it shows, what of it counts as read, and the half-typed line of each.

At most one is open. The console's thread reads `peer` and `mark` while it draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from messageapp.client.client import State
from messageapp.client.messages import Conversation, Message, MessagesRefused
from messageapp.client.unconnected import AnyClient
from messageapp.errors import CannotStore
from messageapp_keys.names import fold

from .console import Console
from .message_lines import Style, divider, message_lines, settings
from .notices import Notices
from .remembered import Remembered

__all__ = ["OpenConversation"]

SHOWN_ON_OPENING: Final = 10  # messages, and before them all unread ones up to
MOST_ON_OPENING: Final = 200


class OpenConversation:
    """`client` gives the one of now; `mark` stands before who is verified; `say(*lines, dim=…)` writes."""

    def __init__(
        self,
        client: Callable[[], AnyClient],
        memory: Remembered,
        notices: Notices,
        style: Style,
        say: Callable[..., None],
        *,
        plain: bool,
        mark: str,
    ) -> None:
        self._client = client
        self._memory = memory
        self._notices = notices
        self._style = style
        self._say = say
        self._plain = plain
        self._mark = mark
        self._console: Console | None = None
        self._draft = ""  # what the database has for the open conversation
        self._outside = ""  # half typed where no conversation was open
        self._shown = 0  # number of the last message that was there when the conversation was opened, with its text
        self._closed: frozenset[int] = frozenset()  # those that had none
        self.peer: str | None = None
        self.mark = ""  # before the prompt, where the peer is verified

    def begin(self, console: Console) -> None:
        self._console = console

    def look(self) -> list[Conversation]:
        """Read again what the prompt remembers."""
        self.mark = "" if self.peer is None else self.mark_of(self.peer)
        return self._memory.look()

    def mark_of(self, peer: str) -> str:
        """What stands before the name of `peer`, where it is verified."""
        client = self._client()
        known = self._mark and fold(peer) in client.account.trust.verified(client.server_name)
        return f"{self._mark} " if known else ""

    def has_shown(self, number: int) -> bool:
        """It was there, and readable, when the conversation was opened."""
        return 0 < number <= self._shown and number not in self._closed

    def forgot(self, peer: str) -> None:
        """All messages with `peer` are gone."""
        self._draft = "" if self.peer is not None and fold(self.peer) == fold(peer) else self._draft

    def jump(self, place: int, typed: str) -> None:
        """Alt+`place`, with the half-typed line that was taken from the prompt."""
        assert self._console is not None  # noqa: S101 - set by begin
        peer = self._memory.places[place - 1] if place <= len(self._memory.places) else None
        if peer is None or (self.peer is not None and fold(peer) == fold(self.peer)):
            self._console.put_back(typed)
        else:
            self.open(peer, typed)

    def open(self, peer: str, typed: str = "") -> None:
        """Show the last messages, with a line before the new ones, and bring back what was half typed there."""
        assert self._console is not None  # noqa: S101 - set by begin
        if fold(peer) == fold(self._style.me):
            raise MessagesRefused("that is yourself")
        self.put_away(typed)
        messages = self._client().messages
        self.peer, self._draft = peer, messages.draft(peer)
        found = next((each for each in self.look() if fold(each.peer) == fold(peer)), None)
        unread = 0 if found is None else found.unread
        count = unread if self._plain else SHOWN_ON_OPENING + unread
        shown = messages.history(peer, min(count, MOST_ON_OPENING))
        if not self._plain:
            notes = [] if found is None else settings(found)
            self._say(divider(peer + (f" ({', '.join(notes)})" if notes else ""), self._style))
        if found is None and peer not in self._client().online and not self._plain:
            self._say(f"no messages with {peer} yet; whether there is such a user shows when you write", dim=True)
        self._show_new(shown, found)
        self._console.put_back(self._draft)
        self._console.refresh()

    def stay_with(self, peer: str) -> None:
        """The connection was lost in a chat with `peer`: what is being typed is a message to it from now on."""
        if self.peer is None:
            self.peer, self.mark, self._draft = peer, self.mark_of(peer), ""
            self._memory.place(peer)

    def close(self) -> None:
        """Back to where no conversation is open, and to what was half typed there."""
        assert self._console is not None  # noqa: S101 - set by begin
        self.put_away("")
        self.peer, self.mark, self._shown = None, "", 0
        client = self._client()
        if client.state is State.CHAT and client.peer is not None:  # what was said there meanwhile
            found = client.messages.conversation(client.peer)
            if found is not None and found.unread:
                shown = client.messages.history(client.peer, MOST_ON_OPENING)
                self._show_new([each for each in shown if each.number > found.last_read], found)
        self._console.put_back(self._outside)
        self._outside = ""

    def sent(self, peer: str | None) -> None:
        """A line was entered and carried out, in the conversation with `peer`: nothing of it is half typed any more."""
        if self._draft and peer is not None and peer == self.peer:
            with suppress(CannotStore):
                self.put_away("")

    def put_away(self, typed: str) -> None:
        if self.peer is None:
            self._outside = typed
        elif typed != self._draft:
            self._client().messages.save_draft(self.peer, typed)
            self._draft = typed

    def _show_new(self, shown: Sequence[Message], found: Conversation | None) -> None:
        """Of a conversation that comes to be looked at: the last messages, and how to see the new ones before them."""
        self._shown = shown[-1].number if shown else 0
        self._closed = frozenset(each.number for each in shown if each.text is None)
        if found is None:
            return
        earlier = 0
        if found.unread > sum(not each.own and each.number > found.last_read for each in shown):
            earlier = self._count_after(found) - sum(each.number > found.last_read for each in shown)
        self.show_all(shown, found.last_read, found.unread, earlier)
        self.mark_read(found.peer)

    def _count_after(self, found: Conversation) -> int:
        """How many messages there are since the user has looked, own ones too."""
        count, before = 0, None
        while page := self._client().messages.history(found.peer, MOST_ON_OPENING, before):
            new = sum(each.number > found.last_read for each in page)
            count, before = count + new, page[0].number
            if new < len(page):
                break
        return count

    def show_all(
        self, found: Sequence[Message], after: int = 0, unread: int = 0, earlier: int = 0, *, whole: bool = False
    ) -> None:
        """The last messages of a conversation. `unread` of it, in all, came after number `after`, and are shown whole;
        `earlier` messages since then are not in `found`. Long ones that were seen before are folded, but for `whole`.
        """
        lines: list[str] = []
        new = after if unread else math.inf
        for place, message in enumerate(found):
            if unread and not message.own and message.number > after:
                lines.append(divider(f"{unread} new", self._style))
                if earlier:
                    lines.append(f"{earlier:,} earlier ones: /history {message.peer} {earlier + len(found)}")
                unread = 0
            answered = None if message.reply_to is None else self._memory.found(message.reply_to)
            all_of_it = whole or self._plain or (not message.own and message.number > new)
            unfolds = "" if all_of_it else f"/history {message.peer} {len(found) - place}"
            lines += message_lines(message, self._style, answered, unfolds=unfolds)
            self._memory.remember(message.number, message.own, message.text or "…")
        if lines:
            self._say(*lines)

    # what counts as read ----------------------------------------------------------------------------------------------

    def mark_if_seen(self, peer: str, shown: Sequence[Message]) -> None:
        """The messages of `peer` are read if all that was new is among `shown`."""
        conversation = self._client().messages.conversation(peer)
        if conversation is not None:
            new = sum(not each.own and each.number > conversation.last_read for each in shown)
            if new and new == conversation.unread:
                self.mark_read(peer)

    def mark_read(self, peer: str) -> None:
        """On a full disk they stay unread."""
        self._notices.looked_at(peer)
        messages, marked = self._client().messages, 0
        with suppress(CannotStore):
            marked = messages.mark_read(peer)
        if marked:
            conversation = messages.conversation(peer)
            if conversation is not None and conversation.receipts:
                self._client().mail.poke()
        self._memory.count_unread(peer)
