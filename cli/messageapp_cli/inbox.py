"""What the prompt does with events about messages: shown, told in a dim line, or remembered.

What comes from the peer of the open conversation is shown and counts as read. Messages of others give a dim line now
and then (`Notices`); a script (`plain`) gets every message as it comes. The console's thread reads `memory` and what is
open while it draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from messageapp.client import events as ev
from messageapp.client.client import State
from messageapp.client.messages import Cause
from messageapp.client.messages import State as Stored
from messageapp.client.unconnected import AnyClient
from messageapp.clock import wall_ms
from messageapp_keys.names import fold

from .console import Console
from .explaining import trouble_line
from .message_lines import NEEDS_YOU, Style, clock, first_message_lines, quote
from .notices import Notices
from .open_conversation import OpenConversation
from .remembered import Remembered
from .render import number_lines, render
from .safe import one_line, quoted_lines

__all__ = ["Inbox"]


@dataclass(frozen=True, slots=True)
class _Came:
    """A text that came."""

    peer: str
    number: int  # 0: not kept
    text: str
    ms: int
    mark: str  # before the name of who is verified
    tail: str
    answers: int | None = None
    healed: bool = False  # its line was there before
    live: bool = False


class Inbox:
    """`client` gives the one of now: a new connection brings another, over the same messages."""

    def __init__(self, client: Callable[[], AnyClient], *, plain: bool, pictures: bool, mark: str) -> None:
        self._client = client
        self._plain = plain
        self._console: Console | None = None
        self._troubles: dict[tuple[str, str, str], list[int]] = {}
        self._told: set[tuple[str, str]] = set()  # (peer, cause) of what waits, until something goes to that peer
        self._to_mark: str | None = None
        self.memory = Remembered(client)
        self.style = Style(client().account.user, pictures)
        self._notices = Notices(self.memory, self.style, self.say)
        self.changed = trio.Event()  # set, and another, with each event about messages
        self.current = OpenConversation(
            client, self.memory, self._notices, self.style, self.say, plain=plain, mark=mark
        )

    # the screen -------------------------------------------------------------------------------------------------------

    def begin(self, console: Console) -> None:
        """At the first prompt: what came before and was not seen."""
        self._console = console
        self.current.begin(console)
        unread = [each for each in self.current.look() if each.unread]
        if unread:
            counts = ", ".join(f"{each.peer} {each.unread}" for each in unread)
            self.say(f"unread: {counts}; to {unread[0].peer}", dim=True)

    async def run(self) -> None:
        """Tell what waits for its time, until cancelled."""
        while True:
            with trio.move_on_at(self._notices.due()):
                await self.changed.wait()
                continue
            self._notices.flush()

    def end(self) -> None:
        """What is not sent is told, and the half-typed line kept, for the next time."""
        if self._console is not None:
            self._notices.flush(at_once=True)
            queued = self.memory.count()
            if queued:
                which = "1 message is" if queued == 1 else f"{queued} messages are"
                self.say(f"{which} queued on this disk; the next login sends what can be sent")
            self.current.put_away(self._console.typed())

    def say(self, *lines: str, dim: bool = False) -> None:
        assert self._console is not None  # noqa: S101 - set by begin
        self._console.write("\n".join(lines), dim=dim)

    def forgot(self, peer: str) -> None:
        """All messages with `peer` are gone."""
        self.current.forgot(peer)
        self.memory.forgot(peer)

    # what comes in ----------------------------------------------------------------------------------------------------

    def take(self, event: ev.Event, live_mark: str = "") -> bool:
        """Show an event about messages; False for any other. `live_mark` stands before who says something in a chat."""
        match event:
            case ev.TextReceived(peer, text, _, late, number):
                self._come(_Came(peer, number, text, wall_ms(), live_mark, " (late)" if late else "", live=True))
            case ev.MessageReceived(peer, number, text, written_ms):
                told = event.healed and not self._notices.healed(number)
                tail = " (late)" if event.late else " (unreadable before)" if told else ""
                mark = self.current.mark_of(peer)
                came = _Came(peer, number, text, written_ms, mark, tail, event.reply_to, event.healed)
                self._come(came)
                if event.first is not None:
                    self._first(peer, to_us=True)
            case ev.KeyPinned(peer):
                self._first(peer, to_us=False)
            case ev.MessageChanged():
                self._state_changed(event)
            case ev.MessageEdited(peer, number, text) if not self._plain:
                if self._is_current(peer):
                    self._line(_Came(peer, number, text, wall_ms(), self.current.mark_of(peer), " (edited)"))
                else:
                    self.say(f"{peer} has changed #{number}: {one_line(text, 60)}", dim=True)
            case ev.Reacted() if not self._plain:
                message = self.memory.found(event.number)
                about = "" if message is None else f" ({one_line(message.text or '…', 40)})"
                self.say(f"{render(event)[0]}{about}", dim=not self._is_current(event.peer))
            case ev.MessageUnreadable(peer, number):
                self._notices.unreadable(peer, number)
            case ev.MessageHeld() | ev.MessageEdited() | ev.Reacted() | ev.TimerChanged() | ev.MailMoved():
                self.say(*render(event))
            case _:
                return False
        self.changed.set()
        self.changed = trio.Event()
        if not self._client().events.statistics().current_buffer_used:
            self._flush()
        return True

    def _flush(self) -> None:
        """All that came has been shown: a line for each conversation that is not open, and for each trouble."""
        self._notices.flush(at_once=self._plain)
        for numbers in self._troubles.values():
            message = self.memory.found(numbers[0])
            if message is not None:
                self._told.add((fold(message.peer), message.cause))
                self.say(trouble_line(self._client(), message, numbers))
        self._troubles.clear()
        if self._to_mark is not None:
            self.current.mark_read(self._to_mark)
            self._to_mark = None
        self.memory.count()

    def _is_current(self, peer: str, *, live: bool = False) -> bool:
        """What comes from `peer` is shown: its conversation is open, or none is and it is the peer of the chat, even
        of one that has ended since it was said (`live`)."""
        client = self._client()
        current = self.current.peer or (peer if live else client.peer if client.state is State.CHAT else None)
        return self._plain or (current is not None and fold(current) == fold(peer))

    def _come(self, came: _Came) -> None:
        peer, number = came.peer, came.number
        if number:
            self.memory.place(peer)
            self.memory.remember(number, False, came.text)
        if not self._is_current(peer, live=came.live):
            self._notices.came(peer, came.text, came.ms, kept=bool(number))
            return
        if self.current.has_shown(number) and not came.healed:
            return  # it was there when the conversation was opened
        if came.answers is not None:
            self.say(quote(came.answers, self.style, self.memory.found(came.answers)))
        self._line(came)
        if number:
            self._to_mark = peer

    def _line(self, came: _Came) -> None:
        head = f"{came.mark}<{came.peer}> "
        if not self._plain:
            number = f"#{came.number} " if came.number else ""
            head = f"{clock(came.ms)} {number}{head}"
        self.say(*quoted_lines(head, came.text, came.peer, came.tail))

    def _first(self, peer: str, *, to_us: bool) -> None:
        client = self._client()
        pin = client.account.trust.pin(peer, client.server_name)
        if pin is not None:
            number = client.account.trust.number(peer, client.server_name, pin.bundle)
            self.say(*first_message_lines(peer, number_lines(peer, number), to_us=to_us))

    def _state_changed(self, event: ev.MessageChanged) -> None:
        if event.state == Stored.UNREADABLE:
            if event.cause == Cause.GAVE_UP:
                self._notices.unreadable(event.peer, event.number)
            return
        self.memory.changed(event.number, event.state)
        known = (fold(event.peer), event.cause)
        if event.state != Stored.QUEUED:
            self._told = {each for each in self._told if each[0] != known[0]}
        waits = event.state == Stored.QUEUED and event.cause in NEEDS_YOU and (self._plain or known not in self._told)
        if event.state == Stored.FAILED or waits:
            self._troubles.setdefault((event.peer, event.state, event.cause), []).append(event.number)
