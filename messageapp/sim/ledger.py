"""What was said, sealed and shown: each text, and both ends of each chat. What must hold of them: `reckoning`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from messageapp.client import events as ev

from .history import History

__all__ = ["End", "Ledger", "Text"]

InChat = tuple[bytes, str]  # invite, sender


@dataclass(eq=False, slots=True)
class End:
    """One side of a chat: `owner` is a session ("alice/0#2"), `sealed` what it sent by the ratchet."""

    owner: str
    user: str
    peer: str
    invite: bytes
    sealed: list[str | None] = field(default_factory=list)
    chat: bytes = b""  # of the ratchet, once something was sealed
    shown: list[str] = field(default_factory=list)
    missing: int = 0
    late: list[str] = field(default_factory=list)  # of what was shown
    secure: bool = False
    over: ev.Event | str | None = None  # the event, or "gone" where nobody looked on


@dataclass(eq=False, slots=True)
class Text:
    text: str
    owner: str
    to: str
    end: End | None = None  # where it was sealed
    written: bool = False  # by `write`; not for a chat
    number: int = 0  # in the sender's database, where it is there
    kept_by: set[str] = field(default_factory=set)  # seats that were shown it
    returned: bool = False
    refused: bool = False  # `say` raised
    leaving: bool = False  # said while the sender left this chat
    tampered: bool = False
    turned_down: bool = False  # the server did not pass it on, and says so

    @property
    def shown(self) -> bool:
        return bool(self.kept_by)

    def __str__(self) -> str:
        return f"{self.text[:24]!r} of {self.owner} to {self.to}"


class Ledger:
    def __init__(self, history: History) -> None:
        self.texts: dict[str, Text] = {}
        self.ends: dict[str, list[End]] = {}  # by owner
        self.chats: dict[bytes, list[End]] = {}  # by invite
        self.tampered: Counter[InChat] = Counter()  # messages that the relay touched or sent in his name
        self.undecryptable: Counter[InChat] = Counter()  # messages of his that did not open
        self.in_session: Counter[tuple[str, bytes]] = Counter()  # (sender, ratchet): messages, also those to be stored
        self.turned_down: set[InChat] = set()  # of whose key exchanges the server did not pass on a message
        self.faulted: set[str] = set()  # sessions on whose connections there was a fault
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

    def tamper(self, user: str, content: bytes, invite: bytes) -> None:
        """The relay does something to this message, which `user` sent, or sends it in his name, in this chat.

        A text of another chat may come in the place of a message of this one's key exchange.
        """
        self.tampered[invite, user] += 1
        _, text = self._contents.get(content, (None, None))
        if text is not None:
            self.texts[text].tampered = True

    def turn_down(self, user: str, content: bytes, invite: bytes) -> None:
        """The server did not pass this message on."""
        _, text = self._contents.get(content, (None, None))
        if text is not None:
            self.texts[text].turned_down = True
        else:
            self.turned_down.add((invite, user))

    def other(self, end: End) -> End | None:
        return next((one for one in self.chats[end.invite] if one.user == end.peer), None)
