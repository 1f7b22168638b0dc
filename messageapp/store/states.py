"""The words that the account's database keeps of a message: in what state it is, and why (protocol §16)."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Cause", "State"]


class State(StrEnum):
    QUEUED = "queued"  # ours, on our disk
    SENT = "sent"  # the server has it on its disk, or it was said in a chat
    DELIVERED = "delivered"  # the peer's client has it on its disk
    READ = "read"  # the peer has seen it, and lets us know
    FAILED = "failed"  # it will not go without the user's doing
    RECEIVED = "received"  # theirs
    UNREADABLE = "unreadable"  # theirs, and it does not open
    HELD = "held"  # theirs, closed until the user accepts a key


class Cause(StrEnum):
    """The closed list: why a message is in its state. `client.causes.explain` has the sentences."""

    NONE = ""  # nothing to add: delivered, read, received
    # queued
    WAITING = "waiting"  # its turn has not come
    NOT_CONNECTED = "not-connected"
    NO_PREKEYS = "no-prekeys"  # the peer never logged in with a client that takes stored messages, or is nobody
    MAILBOX_FULL = "mailbox-full"
    SERVER_DISK_FULL = "server-disk-full"
    BUSY = "busy"  # more was sent than the server lets through
    KEY_CHANGED = "key-changed"  # the peer has another key than the accepted one
    KEY_UNCHECKED = "key-unchecked"  # the key log cannot confirm the peer's key
    LOG_ALARM = "log-alarm"  # the server has shown two histories of its key log
    BLOCKED = "blocked"  # we block the peer
    NO_MAIL = "no-mail"  # the server stores no messages
    IN_CHAT = "in-chat"  # said in the chat under way; waits for its receipt
    # sent
    AT_SERVER = "at-server"
    UNCONFIRMED = "unconfirmed"  # said in a chat; the peer's client confirms nothing
    # failed
    UNKNOWN_USER = "unknown-user"
    REFUSED = "refused"
    EXPIRED = "expired"  # the server has kept it as long as it keeps anything
    CHAT_CUT = "chat-cut"  # the chat ended first, and the server stores nothing
    # received
    LATE = "late"  # it was reported missing before
    HEALED = "healed"  # it could not be read at first
    # unreadable
    ASKED_AGAIN = "asked-again"
    CANNOT_ASK = "cannot-ask"
    GAVE_UP = "gave-up"  # asked too often
    # held
    HELD_KEY = "held-key"
    HELD_LOG = "held-log"
