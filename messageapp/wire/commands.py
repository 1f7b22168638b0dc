"""The verbs on the wire and their arguments, as rows (protocol §6, §7).

`VERBS` says who may send which verb in which kind; `parse_untrusted` gives the typed argument. A client's frame of a
kind it may not send ends the session; a verb nobody knows gets `erro 2`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

from messageapp.errors import RemoteProtocolError
from messageapp_keys.codec import Malformed, Reader, reading_untrusted, u8, u16, u32, vec8, vec16, vec24

from .fields import read_username
from .keylog_forms import LogHead, LogRequest, NewKey, ReplyForm
from .mail_forms import (
    Acknowledgement,
    Delivery,
    MailRequest,
    PeerPrekey,
    PrekeyRequest,
    PrekeyState,
    PrekeyUpload,
    Stored,
)
from .records import Kind, Record
from .states import Role

__all__ = [
    "VERBS",
    "Block",
    "BlockList",
    "BlockOp",
    "Bye",
    "ByeReason",
    "Call",
    "ErrorCode",
    "Errors",
    "Invite",
    "Left",
    "ListEntry",
    "Listing",
    "Nothing",
    "PeerKey",
    "Raw",
    "Update",
    "UserState",
    "Verb",
    "make",
    "parse_untrusted",
]

INVITE_SIZE: Final = 16
PING_SIZE: Final = 8


class ErrorCode(IntEnum):
    MALFORMED = 1
    UNKNOWN_VERB = 2
    NOT_NOW = 3
    RATE = 4
    NOT_AVAILABLE = 10
    QUEUE_FULL = 12
    STORAGE = 20
    DISK_FULL = 21
    INVITE_EXPIRED = 30
    INVITE_USED = 31
    INVITE_REVOKED = 32
    NAME_TAKEN = 33
    NAME_NOT_INVITED = 34


class ByeReason(IntEnum):
    EXIT = 0
    SHUTDOWN = 1
    REPLACED = 2
    AGE = 3
    SLOW = 4
    REMOVED = 5


class BlockOp(IntEnum):
    BLOCK = 1
    UNBLOCK = 2
    LIST = 3


class UserState(IntEnum):
    IDLE = 0
    RINGING = 1
    IN_CHAT = 2
    CALLING = 4


class Argument(Protocol):
    def encode(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Nothing:
    """The byte `x`, as the report types it; empty is taken too."""

    def encode(self) -> bytes:
        return b"x"

    @classmethod
    def read(cls, reader: Reader) -> Nothing:
        if reader.rest() not in (b"x", b""):
            raise Malformed("an argument where there is none")
        return cls()


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that this layer does not look into."""

    data: bytes = b""

    def encode(self) -> bytes:
        return self.data

    @classmethod
    def read(cls, reader: Reader) -> Raw:
        return cls(reader.rest())


@dataclass(frozen=True, slots=True)
class Echo:
    data: bytes  # [8]

    def encode(self) -> bytes:
        return self.data

    @classmethod
    def read(cls, reader: Reader) -> Echo:
        return cls(reader.take(PING_SIZE))


@dataclass(frozen=True, slots=True)
class Call:
    """chat, reqt, acpt, refu: a user and the invite of the call."""

    user: str
    invite: bytes  # [16]

    def encode(self) -> bytes:
        return vec8(self.user.encode()) + self.invite

    @classmethod
    def read(cls, reader: Reader) -> Call:
        return cls(read_username(reader), reader.take(INVITE_SIZE))


@dataclass(frozen=True, slots=True)
class Invite:
    """cach."""

    invite: bytes  # [16]

    def encode(self) -> bytes:
        return self.invite

    @classmethod
    def read(cls, reader: Reader) -> Invite:
        return cls(reader.take(INVITE_SIZE))


@dataclass(frozen=True, slots=True)
class PeerKey:
    """pubk (§6.2): to both sides of a call that was accepted."""

    invite: bytes  # [16]
    caller: bool  # True: you are the caller
    user: str  # the peer
    bundle: bytes
    pem: bytes = b""
    proof: bytes = b""

    def encode(self) -> bytes:
        role = u8(1 if self.caller else 2)
        name = vec8(self.user.encode())
        return self.invite + role + name + vec16(self.bundle) + vec16(self.pem) + vec24(self.proof)

    @classmethod
    def read(cls, reader: Reader) -> PeerKey:
        invite, role = reader.take(INVITE_SIZE), reader.u8()
        if role not in (1, 2):
            raise Malformed("a role is 1 or 2")
        return cls(invite, role == 1, read_username(reader), reader.vec16(), reader.vec16(), reader.vec24())


@dataclass(frozen=True, slots=True)
class ListEntry:
    user: str
    state: int


@dataclass(frozen=True, slots=True)
class Listing:
    entries: tuple[ListEntry, ...]

    def encode(self) -> bytes:
        return b"".join(vec8(entry.user.encode()) + u8(entry.state) for entry in self.entries)

    @classmethod
    def read(cls, reader: Reader) -> Listing:
        entries = []
        while not reader.at_end:
            entries.append(ListEntry(read_username(reader), reader.u8()))
        return cls(tuple(entries))


@dataclass(frozen=True, slots=True)
class Left:
    """exch as an event: why the chat ended (§6.2)."""

    disconnected: bool

    def encode(self) -> bytes:
        return u8(int(self.disconnected))

    @classmethod
    def read(cls, reader: Reader) -> Left:
        reason = reader.u8()
        if reason > 1:
            raise Malformed("an unknown reason")
        return cls(bool(reason))


@dataclass(frozen=True, slots=True)
class Bye:
    reason: int

    def encode(self) -> bytes:
        return u8(self.reason)

    @classmethod
    def read(cls, reader: Reader) -> Bye:
        return cls(reader.u8())


@dataclass(frozen=True, slots=True)
class Errors:
    """erro."""

    code: int
    text: str

    def encode(self) -> bytes:
        return u16(self.code) + vec8(self.text.encode()[:255])

    @classmethod
    def read(cls, reader: Reader) -> Errors:
        return cls(reader.u16(), reader.vec8().decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Update:
    """rkey: the number of the key that comes next."""

    generation: int

    def encode(self) -> bytes:
        return u32(self.generation)

    @classmethod
    def read(cls, reader: Reader) -> Update:
        return cls(reader.u32())


@dataclass(frozen=True, slots=True)
class Block:
    """blck of a client: whom it concerns; nobody where the list is asked for."""

    op: BlockOp
    user: str = ""

    def encode(self) -> bytes:
        return u8(self.op) + vec8(self.user.encode())

    @classmethod
    def read(cls, reader: Reader) -> Block:
        try:
            op = BlockOp(reader.u8())
        except ValueError:
            raise Malformed("an unknown operation on the list of blocked users") from None
        if op is not BlockOp.LIST:
            return cls(op, read_username(reader))
        if reader.vec8():
            raise Malformed("a name where there is none")
        return cls(op)


@dataclass(frozen=True, slots=True)
class BlockList:
    """The answer to `Block` 3."""

    users: tuple[str, ...]

    def encode(self) -> bytes:
        return b"".join([vec8(user.encode()) for user in self.users])

    @classmethod
    def read(cls, reader: Reader) -> BlockList:
        users = []
        while not reader.at_end:
            users.append(read_username(reader))
        return cls(tuple(users))


@dataclass(frozen=True, slots=True)
class Verb:
    """One row. A form per (role, kind) that may send it; what is not there may not be sent."""

    name: str
    meaning: str
    forms: dict[tuple[Role, Kind], type[Any]]


_REQ, _REP, _EVT = Kind.REQUEST, Kind.REPLY, Kind.EVENT
_C, _S = Role.CLIENT, Role.SERVER

_ROWS: Final = (
    Verb("chat", "call a user", {(_C, _REQ): Call}),
    Verb("reqt", "someone calls; also the reply to chat", {(_S, _EVT): Call, (_S, _REP): Call}),
    Verb("acpt", "accept a call", {(_C, _REQ): Call}),
    Verb("refu", "refuse a call, or was refused", {(_C, _REQ): Call, (_S, _EVT): Call}),
    Verb("pubk", "the peer's public key", {(_S, _EVT): PeerKey, (_S, _REP): PeerKey}),
    Verb("frwd", "relayed to the peer of the chat", {(_C, _REQ): Raw, (_S, _EVT): Raw}),
    Verb("list", "who is online", {(_C, _REQ): Nothing, (_S, _REP): Listing}),
    Verb("cach", "cancel a call, or was canceled", {(_C, _REQ): Invite, (_S, _EVT): Invite}),
    Verb("exch", "leave the chat, or the peer left", {(_C, _REQ): Nothing, (_S, _EVT): Left}),
    Verb("exit", "log off", {(_C, _REQ): Nothing}),
    Verb("byee", "goodbye", {(_S, _EVT): Bye, (_S, _REP): Bye}),
    Verb("help", "the verbs", {(_C, _REQ): Nothing, (_S, _REP): Raw}),
    Verb("erro", "a request was refused", {(_S, _REP): Errors, (_S, _EVT): Errors}),
    Verb("okay", "done; also the text of M4", {(_S, _REP): Raw, (_S, _EVT): Raw}),
    Verb("ping", "are you there", {(_C, _REQ): Echo, (_S, _REQ): Echo}),
    Verb("pong", "yes", {(_C, _REP): Echo, (_S, _REP): Echo}),
    Verb("klog", "the key log", {(_C, _REQ): LogRequest, (_S, _REP): ReplyForm, (_S, _EVT): LogHead}),
    Verb("newk", "change the own key", {(_C, _REQ): NewKey}),
    Verb("blck", "block a user, unblock, or list the blocked", {(_C, _REQ): Block, (_S, _REP): BlockList}),
    Verb(
        "prek",
        "upload prekeys, or how many are left",
        {(_C, _REQ): PrekeyUpload, (_S, _REP): PrekeyState, (_S, _EVT): PrekeyState},
    ),
    Verb("bndl", "a user's key and a prekey", {(_C, _REQ): PrekeyRequest, (_S, _REP): PeerPrekey}),
    Verb("send", "store a message for a user", {(_C, _REQ): MailRequest}),
    Verb("ackd", "it is stored", {(_S, _REP): Stored}),
    Verb("mail", "a stored message", {(_S, _EVT): Delivery}),
    Verb("ackm", "received; delete it", {(_C, _REQ): Acknowledgement}),
    Verb("rkey", "the sender's next record is under the next key", {(_C, _EVT): Update, (_S, _EVT): Update}),
)
VERBS: Final = {row.name.encode(): row for row in _ROWS}
RESERVED: Final = ("blob",)
"""Verbs of later parts of the protocol; until then they are unknown (erro 2)."""


class UnknownVerb(Exception):
    """A verb without a row."""


class BadArgument(Exception):
    """A known verb with an argument that has not its form."""


def make(kind: Kind, identifier: int, verb: str, argument: Argument | None = None) -> Record:
    return Record(kind, identifier, verb.encode(), (argument or Raw()).encode())


def parse_untrusted(sender: Role, record: Record) -> Any:
    """The typed argument. `UnknownVerb`; `BadArgument`; `RemoteProtocolError` for a kind the sender may not send."""
    row = VERBS.get(record.verb)
    if row is None:
        if sender is Role.CLIENT and record.kind is not Kind.REQUEST:
            raise RemoteProtocolError("a client sends no such frame")
        raise UnknownVerb
    form: Any = row.forms.get((sender, record.kind))
    if form is None:
        raise RemoteProtocolError(f"a {sender.value} sends no such frame")
    read: Callable[[Reader], Any] = form.read
    try:
        with reading_untrusted(record.argument) as reader:
            return read(reader)
    except Malformed:
        raise BadArgument from None
