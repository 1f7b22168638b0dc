"""What was said, sealed and shown: each text, and both ends of each chat.

What a user is promised, and checked here. A text that `say` took

- is shown once, unaltered, at its receiver's, as from its sender; or
- is given back (`NotDelivered`); or
- was the last of its chat: behind it nothing of its sender was shown, and a line said that the chat ended otherwise
  than by its sender's leaving it: `ChatOver` by the other, `ChatFailed`, `Ended` with an error at the sender's, or any
  end of the receiver's own. Whoever leaves or exits by himself has sent what he said before; or
- was said after its sender had asked to leave, by a session that ended before the server could refuse it; or
- was held for a chat that was not secure yet, by a user who then broke his session off without a word; or
- was refused by the server, or lost, in a session that ended with an error: the sender was told that; or
- was in the hands of the malicious relay. Then, and for every text that is missing before one that was shown, `Missing`
  at the receiver's counted it: what was counted is exactly what did not come.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from messageapp.client import events as ev

from .history import History

__all__ = ["End", "Ledger", "Text"]


@dataclass(eq=False, slots=True)
class End:
    """One side of a chat: `owner` is a session ("alice/0#2"), `sealed` what it sent by the ratchet."""

    owner: str
    user: str
    peer: str
    invite: bytes
    sealed: list[str | None] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    missing: int = 0
    late: int = 0
    secure: bool = False
    over: ev.Event | str | None = None  # the event, or "gone" where nobody looked on


@dataclass(eq=False, slots=True)
class Text:
    text: str
    owner: str
    to: str
    end: End | None = None  # where it was sealed
    shown: bool = False
    returned: bool = False
    refused: bool = False  # `say` raised
    leaving: bool = False  # said while the sender left this chat
    tampered: bool = False

    def __str__(self) -> str:
        return f"{self.text[:24]!r} of {self.owner} to {self.to}"


class Ledger:
    def __init__(self, history: History) -> None:
        self.texts: dict[str, Text] = {}
        self.ends: dict[str, list[End]] = {}  # by owner
        self.chats: dict[bytes, list[End]] = {}  # by invite
        self.touched: set[str] = set()  # users of whose key exchanges the relay touched a message
        self.tampered: Counter[str] = Counter()  # user: messages that the relay touched or sent in his name
        self.undecryptable: Counter[str] = Counter()  # user: messages of his that did not open
        self.failed: set[str] = set()  # sessions that ended with an error
        self.gone: set[str] = set()  # sessions that their users broke off
        self._contents: dict[bytes, tuple[End, str | None]] = {}
        self._history = history

    def said(self, text: str, owner: str, to: str) -> Text:
        found = self.texts[text] = Text(text, owner, to)
        return found

    def opened(self, end: End) -> None:
        """A conversation began at one side."""
        self.ends.setdefault(end.owner, []).append(end)
        self.chats.setdefault(end.invite, []).append(end)

    def sealed(self, end: End, text: str | None, content: bytes) -> None:
        end.sealed.append(text)
        self._contents[content] = end, text
        if text is None:
            return
        known = self.texts.get(text)
        if known is None or known.owner != end.owner:
            self._history.breaks("texts are unaltered", f"{end.owner} sealed {text[:24]!r}, which it was not told to")
        elif known.to != end.peer:
            self._history.breaks("texts reach whom they were meant for", f"{known} was sealed for {end.peer}")
        elif known.end is not None:
            self._history.breaks("no text twice", f"{known} was sealed twice")
        else:
            known.end = end

    def tamper(self, user: str, content: bytes) -> None:
        """The relay does something to this message, which `user` sent, or sends it in his name."""
        self.tampered[user] += 1
        _, text = self._contents.get(content, (None, None))
        if text is not None:
            self.texts[text].tampered = True
        # Of the exchange itself, or in place of one of its messages: a text of before in the next chat.
        self.touched.add(user)

    def other(self, end: End) -> End | None:
        return next((one for one in self.chats[end.invite] if one.user == end.peer), None)

    # at the end -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Once everything has settled, and each chat that goes on has had a last text from either side."""
        for text in self.texts.values():
            if text.shown and text.returned and not text.tampered:
                self._history.breaks("none lost without a line", f"{text} was shown, and given back as not delivered")
            if not (text.shown or text.returned or text.refused or text.tampered):
                self._check_lost(text)
        for ends in self.chats.values():
            self._check_ends(ends)
            for end in ends:
                self._check_count(end)

    def _check_lost(self, text: Text) -> None:
        end = text.end
        if (end is None and text.owner in self.gone) or (text.leaving and text.owner in self.gone | self.failed):
            return
        if end is None:
            self._history.breaks("none lost without a line", f"{text} was held, and neither sent nor given back")
            return
        other = self.other(end)
        if other is None:
            self._history.breaks("none lost without a line", f"{text} was sent to nobody")
        elif end.sealed.index(text.text) < _last_shown(end, other) and not _cut(end):
            self._history.breaks("none lost without a line", f"{text} did not come; later ones did; nobody was told")
        elif not (_told(end) or _knows(other)):
            self._history.breaks(
                "none lost without a line",
                f"{text} did not come, the ends were {_name(end.over)} and {_name(other.over)}",
            )

    def _check_count(self, receiver: End) -> None:
        """What `Missing` said is what is missing."""
        sender = self.other(receiver)
        if sender is None or receiver.over == "gone":
            return
        before = sender.sealed[: _last_shown(sender, receiver)]
        lost = sum(1 for text in before if text is not None and text not in receiver.shown)
        if receiver.missing - receiver.late != lost:
            self._history.breaks(
                "missing texts are counted",
                f"{receiver.owner} was told of {receiver.missing}, {receiver.late} came late, and {lost} did not come",
            )

    def _check_ends(self, ends: list[End]) -> None:
        if len(ends) == 2 and all(
            isinstance(end.over, ev.ChatOver) and not end.over.by_us and not end.over.disconnected for end in ends
        ):
            who = " and ".join(end.owner for end in ends)
            self._history.breaks("both ends agree", f"{who} were each told that the other left")


def _last_shown(sender: End, receiver: End) -> int:
    """The place of the last text that was shown, among what was sealed."""
    return max((sender.sealed.index(text) for text in receiver.shown if text in sender.sealed), default=0)


def _told(sender: End) -> bool:
    """Has a line told the sender that this chat ended otherwise than by his own will?"""
    match sender.over:
        case ev.ChatOver(by_us=by_us):
            return not by_us
        case ev.Ended(error=error):
            return error is not None
        case None:
            return False
    return True


def _cut(sender: End) -> bool:
    """Has he lost his session in the chat, and with it what the server had to say of his texts?"""
    return sender.over == "gone" or (isinstance(sender.over, ev.Ended) and sender.over.error is not None)


def _knows(receiver: End) -> bool:
    """Has the receiver left by himself, or lost his session?"""
    match receiver.over:
        case ev.ChatOver(by_us=by_us):
            return by_us
        case None:
            return False
    return True


def _name(over: object) -> str:
    return over if isinstance(over, str) else type(over).__name__
