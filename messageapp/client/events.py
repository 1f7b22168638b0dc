"""What a client tells its user interface. Text in them is a stranger's: make it safe before it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from messageapp.errors import MessageAppError
from messageapp_keys.identity import IdentityBundle

__all__ = [
    "CallCanceled",
    "CallRefused",
    "ChatFailed",
    "ChatOver",
    "ChatSecure",
    "Ended",
    "Event",
    "IncomingCall",
    "KeyChanged",
    "Keying",
    "Missing",
    "NotDelivered",
    "TextReceived",
    "UndecryptableText",
]


@dataclass(frozen=True, slots=True)
class IncomingCall:
    peer: str


@dataclass(frozen=True, slots=True)
class CallCanceled:
    """The caller took the call back, or it was answered on another device, or rang for too long (`unanswered`)."""

    peer: str
    unanswered: bool = False


@dataclass(frozen=True, slots=True)
class CallRefused:
    peer: str
    unanswered: bool = False  # it rang for too long


@dataclass(frozen=True, slots=True)
class Keying:
    """The call stands; the key exchange is under way."""

    peer: str


@dataclass(frozen=True, slots=True)
class ChatSecure:
    peer: str
    suite: str
    bundle: IdentityBundle = field(repr=False)  # the peer's, proved in this chat
    first: bool  # the key was pinned now: show `Trust.number`
    verified: bool


@dataclass(frozen=True, slots=True)
class KeyChanged:
    peer: str
    old_number: str
    new_number: str
    was_verified: bool = False


@dataclass(frozen=True, slots=True)
class TextReceived:
    peer: str
    text: str
    time_ms: int
    late: bool  # it was reported missing before


@dataclass(frozen=True, slots=True)
class Missing:
    """Messages of the peer that have not come: the server or its queue dropped them, or will deliver them late."""

    peer: str
    count: int


@dataclass(frozen=True, slots=True)
class UndecryptableText:
    peer: str


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """A text of ours that the server did not take, or that was held when the chat failed."""

    peer: str
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChatFailed:
    """The key exchange failed or took too long."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChatOver:
    peer: str
    by_us: bool
    disconnected: bool
    secure: bool = True  # False: it ended while the keys were made


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; `error` is None after our own exit."""

    error: MessageAppError | None


Event = (
    IncomingCall
    | CallCanceled
    | CallRefused
    | Keying
    | ChatSecure
    | KeyChanged
    | TextReceived
    | Missing
    | UndecryptableText
    | NotDelivered
    | ChatFailed
    | ChatOver
    | Ended
)
