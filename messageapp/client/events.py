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
    "ChatStopped",
    "CheckAnswered",
    "CheckFailed",
    "CheckShown",
    "Ended",
    "Event",
    "IncomingCall",
    "KeyChanged",
    "KeyFollowed",
    "KeyPinned",
    "Keying",
    "LogAbsent",
    "LogAlarmed",
    "LogGrew",
    "LogPinned",
    "LogTrouble",
    "MailMoved",
    "MessageChanged",
    "MessageEdited",
    "MessageHeld",
    "MessageReceived",
    "MessageUnreadable",
    "Missing",
    "NotDelivered",
    "OwnKeyHistory",
    "OwnKeyRevoked",
    "PeerKeyChanged",
    "Reacted",
    "StorageTrouble",
    "TextReceived",
    "TimerChanged",
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
    how: str = ""  # as the key log has it: reset | unexplained; empty where there is no log


@dataclass(frozen=True, slots=True)
class KeyFollowed:
    """The peer has another key, and the one before has signed that. The pin has moved; nobody has compared the new."""

    peer: str
    was_verified: bool


@dataclass(frozen=True, slots=True)
class KeyPinned:
    """The first message to a peer, who may be away, was sealed for this key: pinned now, show `Trust.number`."""

    peer: str
    bundle: IdentityBundle = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerKeyChanged:
    """The key log has another key for the peer, or none, and the pinned key has not signed that."""

    peer: str
    how: str  # reset | revoked | unexplained
    was_verified: bool


@dataclass(frozen=True, slots=True)
class TextReceived:
    peer: str
    text: str
    time_ms: int
    late: bool  # it was reported missing before
    number: int = 0  # of the message in `Client.messages`; 0 where it is not kept


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
class ChatStopped:
    """We have left a secure chat by ourselves."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class CheckShown:
    """A live check has come to its seven emoji: the two people compare them, and each answers."""

    peer: str
    numbers: tuple[int, ...]  # places in `messageapp_keys.sas.EMOJI`


@dataclass(frozen=True, slots=True)
class CheckAnswered:
    """The peer's answer. "The same" marks nothing here; "not" has taken the mark away."""

    peer: str
    all_same: bool
    awaits_ours: bool


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """A live check is over without an answer. The chat goes on, and the mark is what it was."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class LogAbsent:
    """The server showed a checkpoint, but keeps no log that could be asked."""


@dataclass(frozen=True, slots=True)
class LogPinned:
    """The first look at this server's key log: its key (`vkey`) is remembered from now on."""

    size: int
    vkey: str


@dataclass(frozen=True, slots=True)
class LogGrew:
    """The leaves from `before` on, below `size`, were verified."""

    before: int
    size: int


@dataclass(frozen=True, slots=True)
class LogAlarmed:
    """The key log cannot be trusted; nothing is sent until the user says that it is settled."""

    reason: str
    evidence: str  # the file with both checkpoints, if there is one
    stored: bool = False  # it was found in an earlier session


@dataclass(frozen=True, slots=True)
class LogTrouble:
    """The key log could not be read. No chat begins meanwhile; it is tried again."""

    reason: str


@dataclass(frozen=True, slots=True)
class OwnKeyHistory:
    """The log has entries for our own name from before this account's first key."""

    count: int


@dataclass(frozen=True, slots=True)
class OwnKeyRevoked:
    """The administrator has revoked our own key."""


@dataclass(frozen=True, slots=True)
class ChatOver:
    peer: str
    by_us: bool
    disconnected: bool
    secure: bool = True  # False: it ended while the keys were made


# messages that the server stores --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message came through the server's storage. It is on disk and acknowledged before this is told."""

    peer: str
    number: int
    text: str
    time_ms: int  # by the writer's clock
    reply_to: int | None = None  # number of the message that it answers, where we have that
    late: bool = False  # it was reported missing before
    healed: bool = False  # it could not be read at first, and was told as `MessageUnreadable`
    first: IdentityBundle | None = field(default=None, repr=False)  # pinned now: show `Trust.number`


@dataclass(frozen=True, slots=True)
class MessageChanged:
    """One of our own is in another state, or in the same for another cause: words of `State` and `Cause`."""

    number: int
    peer: str
    state: str
    cause: str


@dataclass(frozen=True, slots=True)
class MessageUnreadable:
    """A message came that does not open. It has its line; `messages.message(number)` says how it is being healed."""

    peer: str
    number: int


@dataclass(frozen=True, slots=True)
class MessageHeld:
    """A message came under a key that the user has not accepted. It is kept, and opened when he does."""

    peer: str
    number: int


@dataclass(frozen=True, slots=True)
class MessageEdited:
    """The peer has changed one of his messages; the versions before are kept."""

    peer: str
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Reacted:
    peer: str
    number: int
    emoji: str  # empty: taken back


@dataclass(frozen=True, slots=True)
class TimerChanged:
    """Messages of this conversation vanish so many seconds after they came, from now on; 0: never."""

    peer: str
    seconds: int
    by_us: bool


@dataclass(frozen=True, slots=True)
class StorageTrouble:
    """What came, or waits, cannot be stored on this disk now. Nothing of it is lost, and it is tried again.

    Told once, until something could be stored again.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class MailMoved:
    """Another device of this account receives its messages from now on, or (`to_us`) this one does."""

    to_us: bool


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
    | KeyFollowed
    | KeyPinned
    | PeerKeyChanged
    | TextReceived
    | Missing
    | UndecryptableText
    | NotDelivered
    | ChatFailed
    | ChatStopped
    | ChatOver
    | CheckShown
    | CheckAnswered
    | CheckFailed
    | LogPinned
    | LogGrew
    | LogAbsent
    | LogAlarmed
    | LogTrouble
    | OwnKeyHistory
    | OwnKeyRevoked
    | MessageReceived
    | MessageChanged
    | MessageUnreadable
    | MessageHeld
    | MessageEdited
    | Reacted
    | TimerChanged
    | MailMoved
    | StorageTrouble
    | Ended
)
