"""Why a message is in its state, in a sentence or two, with what can be done about it.

`Cause` is the closed list (it lives in `store.states`, as the database keeps its words); each member has its
sentence here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from messageapp.store.messages import Message
from messageapp.store.states import Cause, State

__all__ = ["Cause", "Context", "State", "explain"]


@dataclass(frozen=True, slots=True)
class Context:
    """What else is known when a message is explained."""

    now_ms: int
    connected: bool = False
    retry_s: float | None = None  # seconds until the connection is tried again; None: it is not
    kept_s: int = 0  # how long the server keeps messages; 0: not known
    seen_ms: int = 0  # when the peer was last seen online; 0: never
    online: bool = False  # the peer is online now
    next_ms: int = 0  # when the message is tried again; 0: as soon as its turn comes
    trouble: str = ""  # what is wrong with the key log, in its own words


# {peer}, {number}, {again} (when it is tried again), {reconnect}, {whereabouts}, {until}, {trouble}, {since}, {text}
_PLAIN: Final = {
    State.QUEUED: "It is on this disk and has not been sent yet.",
    State.SENT: "The server has it; {peer}'s client has not confirmed it yet.",
    State.DELIVERED: "It is on the disk of {peer}'s client since {since}.",
    State.READ: "{peer} has read it, at {since}.",
    State.FAILED: "It could not be sent. Try again with: retry {number}",
    State.RECEIVED: "It came at {stored} and is on this disk; {peer} has been told.",
    State.UNREADABLE: "It could not be decrypted.",
    State.HELD: "It is kept, closed.",
}
_SENTENCES: Final[dict[Cause, str]] = {
    Cause.WAITING: "It is on this disk and waits for its turn{again}.",
    Cause.NOT_CONNECTED: "There is no connection to the server{reconnect}. It is on this disk and is sent then.",
    Cause.NO_PREKEYS: "The server has no key of {peer} to encrypt for: {peer} has not logged in yet with a program that"
    " takes stored messages, or there is nobody of that name. It is tried again{later}; see: list",
    Cause.MAILBOX_FULL: "The mailbox of {peer} is full. It is tried again{later}, and goes out once {peer} has logged"
    " in and taken what is there.",
    Cause.SERVER_DISK_FULL: "The server's disk is nearly full and it stores nothing. It is tried again{later}; tell who"
    " runs the server.",
    Cause.BUSY: "The server takes no more at the moment. It is tried again{later}.",
    Cause.KEY_CHANGED: "{peer} has another key than the one that you have accepted, so nothing is sent. Compare the"
    " safety number with {peer}, then: trust {peer}",
    Cause.KEY_UNCHECKED: "The key of {peer} could not be checked in the key log{trouble}. Nothing is sent until it can;"
    " it is tried again{later}.",
    Cause.LOG_ALARM: "There is an alarm about the server's key log{trouble}, so nothing is sent through this server."
    " Ask who runs it; when that is settled: messageapp log accept",
    Cause.BLOCKED: "You block {peer}. To let it go out: unblock {peer}",
    Cause.NO_MAIL: "This server stores no messages. It goes out in the next chat with {peer}: chat {peer}",
    Cause.IN_CHAT: "It was said in the chat with {peer}; the confirmation has not come yet. Without one it is sent as a"
    " stored message when the chat ends.",
    Cause.AT_SERVER: "The server has it on its disk{until}. {whereabouts}",
    Cause.UNCONFIRMED: "It was said in a chat, and the program that {peer} uses confirms nothing. Ask {peer} if in"
    " doubt.",
    Cause.UNKNOWN_USER: "The server knows no {peer}, or not any more. Check the name with: list; then: retry {number}",
    Cause.REFUSED: "The server has refused it. Try again with: retry {number}",
    Cause.EXPIRED: "{peer} has not fetched it as long as the server keeps messages{kept}, so the server has deleted it."
    " Send it once more with: retry {number}",
    Cause.CHAT_CUT: "The chat ended before {peer} confirmed it, and this server stores no messages. Say it once more"
    " in another chat: chat {peer}",
    Cause.LATE: "It was reported missing at first, and came after messages that were written later.",
    Cause.HEALED: "It could not be decrypted at first; {peer}'s client was asked for it and has sent it again.",
    Cause.ASKED_AGAIN: "It could not be decrypted. {peer}'s client is asked for it by itself, in a new session, and it"
    " will be shown here. {whereabouts}",
    Cause.CANNOT_ASK: "It could not be decrypted, and {peer}'s client cannot be asked for it now. That is tried again"
    " at the next login; or ask {peer} to send it once more.",
    Cause.GAVE_UP: "It could not be decrypted, and {peer}'s client was asked for it in vain, three times. Ask {peer} to"
    " send it once more.",
    Cause.HELD_KEY: "It came under another key than the one of {peer} that you have accepted. Compare the safety number"
    " with {peer}, then: trust {peer} – and it is opened.",
    Cause.HELD_LOG: "The key of {peer} could not be checked in the key log{trouble}. It is kept, and opened when the"
    " key can be checked, at the latest at the next login.",
}


_NOT_TAKEN: Final = (
    "The server has taken it at {since}, and {peer}'s client has not confirmed it, though {peer} was online after that."
    " It may lie with another client of {peer}'s, or {peer} may not take messages from you. Ask {peer} another way;"
    " to send it once more: retry {number}"
)
_SOON_MS: Final = 60_000  # a client that is there confirms in seconds


def explain(message: Message, context: Context) -> str:
    """One or two sentences, with the remedy. Names and times only: never the message's text."""
    # Written since the connection was lost, or by a client that had no time to say more.
    offline = message.cause in (Cause.WAITING, Cause.BUSY) and not context.connected
    cause = Cause.NOT_CONNECTED if offline else message.cause
    sentence = _PLAIN[message.state] if cause is Cause.NONE else _SENTENCES[cause]
    if message.state is State.SENT and cause is not Cause.UNCONFIRMED and _not_taken(message, context):
        sentence = _NOT_TAKEN
    now, kept = context.now_ms, context.kept_s
    again = f"; it is tried again {_after(context.next_ms, now)}" if context.next_ms > now else ""
    return sentence.format(
        peer=message.peer,
        number=message.number,
        since=_moment(message.changed_ms, now),
        stored=_moment(message.stored_ms, now),
        again=again,
        later=f" {_after(context.next_ms, now)}" if context.next_ms > now else " by itself",
        reconnect="" if context.retry_s is None else f"; the next try is in {_length(context.retry_s)}",
        until=f" and keeps it until {_moment(message.changed_ms + 1000 * kept, now)}" if kept else "",
        kept=f" ({_length(kept)})" if kept else "",
        whereabouts=_whereabouts(message, context),
        trouble=f" ({context.trouble})" if context.trouble else "",
    )


def _not_taken(message: Message, context: Context) -> bool:
    """The peer had the time to take it. A server that hides a block shows nothing else."""
    was_there = context.online or context.seen_ms > message.changed_ms
    return context.connected and was_there and context.now_ms - message.changed_ms > _SOON_MS


def _whereabouts(message: Message, context: Context) -> str:
    peer, soon = message.peer, context.now_ms - message.changed_ms <= _SOON_MS
    if context.online:
        return f"{peer} is online{'; that is a matter of seconds' if soon else ''}."
    if context.seen_ms:
        return f"{peer} was last seen online at {_moment(context.seen_ms, context.now_ms)}."
    return f"{peer} is not online as far as is known."


def _moment(ms: int, now_ms: int) -> str:
    """Local time; with the day where that is not today's."""
    when, now = (datetime.fromtimestamp(value / 1000).astimezone() for value in (ms, now_ms))
    return f"{when:%H:%M}" if when.date() == now.date() else f"{when:%Y-%m-%d %H:%M}"


def _after(ms: int, now_ms: int) -> str:
    return f"in {_length((ms - now_ms) / 1000)}"


def _length(seconds: float) -> str:
    """`45 s`, `20 min`, `3 h`, `30 days`: whole ones, never 0."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{max(round(seconds), 1)} s"
