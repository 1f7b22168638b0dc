"""What one session tells its user, held against what may be told: events in a sensible order, of real texts."""

from __future__ import annotations

from messageapp.client import events as ev

from .history import History
from .ledger import End, Ledger

__all__ = ["Story", "brief"]


class Story:
    """`owner` is the session. `tell` gets its events as they are shown; `close` comes when nobody looks on any more."""

    def __init__(self, owner: str, history: History, ledger: Ledger) -> None:
        self.owner = owner
        self._user = owner.partition("/")[0]
        self._history, self._ledger = history, ledger
        self._begun = 0
        self._end: End | None = None
        self._ended = False

    def tell(self, event: ev.Event) -> None:
        if self._ended:
            self._wrong(f"{type(event).__name__} after the session's end")
        match event:
            case ev.Keying():
                self._begin(event.peer)
            case ev.ChatSecure():
                if (end := self._in_chat(event)) is not None:
                    end.secure = True
            case ev.TextReceived():
                self._show(event, self._in_chat(event))
            case ev.MessageReceived():
                self._show(event, None)
            case ev.Missing():
                if (end := self._in_chat(event)) is not None:
                    end.missing += event.count
            case ev.UndecryptableText():
                self._undecryptable(event)
            case ev.NotDelivered():
                self._give_back(event)
            case ev.ChatOver() | ev.ChatFailed():
                self._over(event)
            case ev.KeyChanged():
                self._wrong("a changed key, and nobody's changed")
            case ev.Ended():
                self._close(event)
                self._ended = True
                if event.error is not None:
                    self._ledger.failed.add(self.owner)

    def close(self) -> None:
        """Nobody looks on any more."""
        if not self._ended:
            self._ledger.gone.add(self.owner)
            self._close("gone")

    def _close(self, over: ev.Event | str) -> None:
        for end in self._ledger.ends.get(self.owner, []):
            if end.over is None:
                end.over = over
        self._end = None

    def _begin(self, peer: str) -> None:
        ends = self._ledger.ends.get(self.owner, [])
        if self._end is not None:
            self._wrong(f"a chat with {peer} begins in that with {self._end.peer}")
        if self._begun >= len(ends) or ends[self._begun].peer != peer:
            self._wrong(f"a chat with {peer} that was never agreed on")
            return
        self._end = ends[self._begun]
        self._begun += 1

    def _in_chat(self, event: ev.ChatSecure | ev.TextReceived | ev.Missing | ev.UndecryptableText) -> End | None:
        end = self._end
        secure = isinstance(event, ev.ChatSecure) or (end is not None and end.secure)
        if end is None or end.peer != event.peer or not secure:
            self._wrong(f"{type(event).__name__} of {event.peer} outside a secure chat with {event.peer}")
            return None
        return end

    def _show(self, event: ev.TextReceived | ev.MessageReceived, end: End | None) -> None:
        """`end`: the chat in which it came."""
        text, seat = self._ledger.texts.get(event.text), self.owner.partition("#")[0]
        if text is None:
            self._history.breaks(
                "texts are unaltered", f"{self.owner} was shown {event.text[:24]!r}, which nobody said"
            )
        elif text.owner.partition("/")[0] != event.peer or text.to != self._user:
            self._history.breaks(
                "texts reach whom they were meant for", f"{text} was shown to {self.owner} as of {event.peer}"
            )
        elif seat in text.kept_by:
            self._history.breaks("no text twice", f"{text} was shown twice")
        else:
            text.kept_by.add(seat)
            if end is not None:
                end.shown.append(event.text)
                if event.late:
                    end.late.append(event.text)

    def _undecryptable(self, event: ev.UndecryptableText) -> None:
        if (end := self._in_chat(event)) is None:
            return
        stream = end.invite, event.peer
        self._ledger.undecryptable[stream] += 1
        if self._ledger.undecryptable[stream] > self._ledger.tampered[stream]:
            self._wrong(f"a text of {event.peer} that does not open, and nobody touched it")

    def _give_back(self, event: ev.NotDelivered) -> None:
        text = self._ledger.texts.get(event.text)
        if text is None or text.owner != self.owner or text.to != event.peer:
            self._wrong(f"{event.text[:24]!r} to {event.peer} was not delivered, and was not said")
        elif text.returned and not text.tampered:
            self._wrong(f"{text} was given back twice")
        else:
            text.returned = True

    def _over(self, event: ev.ChatOver | ev.ChatFailed) -> None:
        end = self._end
        if end is None or end.peer != event.peer:
            self._wrong(f"{type(event).__name__} of {event.peer} outside a chat with {event.peer}")
            return
        end.over, self._end = event, None
        if isinstance(event, ev.ChatFailed):
            streams = {(end.invite, end.user), (end.invite, end.peer)}
            touched = any(stream in self._ledger.tampered for stream in streams)
            slow = "did not finish" in event.reason and (streams & self._ledger.turned_down or self._disturbed(end))
            if not (touched or slow):
                self._wrong(f"the key exchange with {event.peer} failed, and nobody touched it: {event.reason}")

    def _disturbed(self, end: End) -> bool:
        """Was there a fault on the connection of either side? Where the other side never began, of any of that user."""
        other = self._ledger.other(end)
        owners = self._ledger.faulted
        return end.owner in owners or (
            any(owner.startswith(f"{end.peer}/") for owner in owners) if other is None else other.owner in owners
        )

    def _wrong(self, what: str) -> None:
        self._history.breaks("events tell a story", f"{self.owner}: {what}")


def brief(event: ev.Event) -> str:
    """For the history."""
    match event:
        case ev.TextReceived():
            return f"< {event.peer}: {event.text[:24]}{' (late)' if event.late else ''}"
        case ev.MessageReceived():
            how = "healed" if event.healed else "late" if event.late else "stored"
            return f"< {event.peer}: {event.text[:24]} ({how})"
        case ev.MessageChanged():
            return f"< #{event.number} to {event.peer} is {event.state} {event.cause}"
        case ev.NotDelivered():
            return f"< not delivered: {event.text[:24]} ({event.reason})"
        case ev.Ended():
            return f"< Ended: {event.error}"
        case ev.Missing():
            return f"< {event.count} of {event.peer} missing"
        case ev.ChatOver():
            who = "by us" if event.by_us else "disconnected" if event.disconnected else "left"
            return f"< ChatOver {event.peer}: {who}"
        case ev.ChatFailed():
            return f"< ChatFailed {event.peer}: {event.reason}"
        case _:
            return f"< {type(event).__name__} {getattr(event, 'peer', '')}"
