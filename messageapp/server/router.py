"""What a record does: requests of one session become replies to it and events to others. Nothing here waits.

`deliver` is the one place through which anything reaches another user.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final, TypeVar

import trio

from messageapp.errors import RemoteProtocolError, UnusableSetup
from messageapp.limits import Limits
from messageapp.wire.commands import (
    VERBS,
    BadArgument,
    Block,
    BlockOp,
    ByeReason,
    Call,
    Echo,
    ErrorCode,
    Invite,
    Raw,
    UnknownVerb,
    parse_untrusted,
)
from messageapp.wire.keylog_forms import LogOp, LogRequest, NewKey
from messageapp.wire.records import Kind, Packed, Record, is_relayed
from messageapp.wire.states import Role
from messageapp_keys.identity import key_id_of

from .blocks import Blocks
from .denial import RequestDenied, denials_as_replies, deny
from .directory import Directory, DirectoryUnreadable
from .keylog import ServerLog
from .mailbox import Mailbox
from .presence import Message, Presence, no_proof
from .quota import UserRates
from .session import Session

__all__ = ["Router"]

_T = TypeVar("_T")
_log = logging.getLogger("messageapp.server")
_trace = logging.getLogger("messageapp.server.trace")
_FREE: Final = frozenset((b"frwd", b"ping", b"pong", b"exit", b"exch", b"cach", b"refu", b"ackm"))
"""Verbs that do not count against the rate of commands (protocol §7): relaying, and what only ends something."""
_WRITES: Final = 64
"""Changes of the directory that wait their turn: a commit takes some ms, and each user has few changes an hour."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A request that writes: `act` in its turn, then the reply, then `after` where it went well."""

    session: Session
    identifier: int
    act: Callable[[], Awaitable[None]]
    after: Callable[[], None]


class Router:
    """Sessions, presence and the rows of what each verb does."""

    def __init__(
        self,
        directory: Directory,
        limits: Limits,
        log: ServerLog | None = None,
        blocks: Blocks | None = None,
        mailbox: Mailbox | None = None,
    ) -> None:
        self._directory = directory
        self._mailbox = mailbox
        proof_of = no_proof if log is None else log.proof_of
        self._presence: Presence[Session] = Presence(limits.ring_seconds, proof_of=proof_of, blocks=blocks)
        self._put_off, self._to_write = trio.open_memory_channel[_Change](_WRITES)
        self._sessions_per_user = limits.sessions_per_user
        self._rates = UserRates(limits)
        self._undelivered: deque[tuple[int, Message[Session]]] = deque()
        self._delivering = False
        self._changing: Session | None = None  # hears the reply to its change before it may have to go
        self.quiet = False  # while shutting down nobody is told that the others leave
        self._handlers: dict[bytes, Callable[[Session, int, object], None]] = {
            b"chat": self._chat,
            b"acpt": lambda session, id, call: self._deliver(id, self._presence.accept(session, _as(call, Call))),
            b"refu": lambda session, id, call: self._deliver(id, self._presence.refuse(session, _as(call, Call))),
            b"cach": lambda session, id, call: self._deliver(id, self._presence.cancel(session, _as(call, Invite))),
            b"exch": lambda session, id, _: self._deliver(id, self._presence.leave_chat(session)),
            b"list": lambda session, id, _: session.tell(Kind.REPLY, id, "list", self._presence.listing(session.user)),
            b"help": lambda session, id, _: session.tell(Kind.REPLY, id, "help", Raw(self._help)),
            b"ping": lambda session, id, echo: session.tell(Kind.REPLY, id, "pong", _as(echo, Echo)),
            b"exit": lambda session, id, _: session.end(ByeReason.EXIT, reply_to=id),
        }
        if log is not None:
            self._handlers |= {b"klog": partial(self._ask_log, log), b"newk": partial(self._new_key, log)}
        if blocks is not None:
            self._handlers[b"blck"] = partial(self._block, blocks)
        if mailbox is not None:
            self._handlers |= mailbox.handlers
        served = {*self._handlers, b"frwd"}
        requests = {verb: row for verb, row in VERBS.items() if (Role.CLIENT, Kind.REQUEST) in row.forms}
        self._unserved = requests.keys() - served
        self._help = "\n".join(f"{row.name} {row.meaning}" for verb, row in requests.items() if verb in served).encode()

    # sessions ---------------------------------------------------------------------------------------------------------

    @property
    def session_count(self) -> int:
        return self._presence.session_count

    def sessions(self) -> Iterable[Session]:
        return self._presence.sessions()

    def join(self, session: Session, key_id: bytes) -> int | None:
        """Make the session present; how many others the user has, or None where `key_id` is not the user's any more.

        An older session of the same device, or the oldest of too many, is replaced: a half-open connection never locks
        a user out.
        """
        bundle = self._directory.encoded(session.user)
        if bundle is None or key_id_of(bundle) != key_id:
            return None
        session.on_end = self.leave
        entry = self._presence.find(session.user)
        if entry is not None:
            same_device = [other for other in entry.sessions if other.device == session.device]
            others = [other for other in entry.sessions if other.device != session.device]
            if entry.key_id != key_id:  # logged in with a key that no longer counts
                for other in list(entry.sessions):
                    other.end(ByeReason.REMOVED)
                same_device = others = []
            for other in same_device + others[: max(0, len(others) - self._sessions_per_user + 1)]:
                other.end(ByeReason.REPLACED)
        if self._mailbox is not None:
            self._mailbox.join(session)
        return len(self._presence.join(session, key_id, bundle).sessions) - 1

    def leave(self, session: Session) -> None:
        if self._mailbox is not None:
            self._mailbox.leave(session)
        messages = self._presence.leave(session)
        if not self.quiet:
            self._deliver(0, messages)

    def expire_calls(self) -> None:
        self._deliver(0, self._presence.expire(trio.current_time()))

    def end_unenrolled(self) -> None:
        """End the sessions of users that were removed or have another key now."""
        for session in list(self._presence.sessions()):
            self._end_if_unenrolled(session)

    def _end_if_unenrolled(self, session: Session) -> None:
        bundle = self._directory.encoded(session.user)
        entry = self._presence.find(session.user)
        if entry is not None and bundle != entry.bundle and session is not self._changing:
            session.end(ByeReason.REMOVED)

    # records ----------------------------------------------------------------------------------------------------------

    def receive(self, session: Session, records: Iterable[Packed]) -> None:
        """What a client sent, in order. `RemoteProtocolError` where a record ends the session."""
        for for_peer, run in groupby(records, is_relayed):
            if for_peer:
                self._forward(session, list(run))
            else:
                for packed in run:
                    if session.ended is None:
                        self._obey(session, Record.unpack(packed))
            if session.ended is not None:
                return

    def _forward(self, session: Session, records: list[Packed]) -> None:
        """The report's relay: only inside a chat, only to its peer, unread. What came in a row goes on at once."""
        peer = self._presence.chat_peer(session)
        if peer is None:
            taken, code, why = 0, ErrorCode.NOT_NOW, "no chat"
        else:
            if _trace.isEnabledFor(logging.INFO):
                for packed in records:
                    _trace.info("frwd #%d->#%d %d bytes", session.number, peer.number, len(packed))
            taken, code, why = peer.outbox.relay(records), ErrorCode.QUEUE_FULL, "the peer's queue is full"
        for packed in records[taken:]:
            self._turn_down(session, Record.unpack(packed), RequestDenied(code, why))

    def _turn_down(self, session: Session, record: Record, denied: RequestDenied) -> None:
        """Of `_forward`. By itself, so that a simulated relay can be told what is not passed on."""
        deny(session, record.id, denied)

    def _obey(self, session: Session, record: Record) -> None:
        if _trace.isEnabledFor(logging.INFO):
            _trace.info("%s #%d %d bytes", _printable(record.verb), session.number, len(record.argument))
        with denials_as_replies(session, record.id):
            if record.verb not in _FREE and not self._rates.command(session.user, trio.current_time()):
                raise RequestDenied(ErrorCode.RATE, "too many commands; wait a little")
            argument = self._argument_of(record)
            if record.kind is Kind.REQUEST:  # a pong needs nothing: hearing it was the point
                self._handlers[record.verb](session, record.id, argument)

    def _argument_of(self, record: Record) -> object:
        """`RequestDenied`, or `RemoteProtocolError` for a reply that is none."""
        try:
            if record.verb in self._unserved and record.kind is Kind.REQUEST:
                raise UnknownVerb
            return parse_untrusted(Role.CLIENT, record)
        except UnknownVerb:
            raise RequestDenied(ErrorCode.UNKNOWN_VERB, "unknown verb") from None
        except BadArgument:
            if record.kind is not Kind.REQUEST:
                raise RemoteProtocolError("a reply has not the form of one") from None
            raise RequestDenied(ErrorCode.MALFORMED, "malformed argument") from None

    def _chat(self, session: Session, identifier: int, call: object) -> None:
        now = trio.current_time()
        if not self._rates.chat(session.user, now):
            raise RequestDenied(ErrorCode.RATE, "too many calls; wait a little")
        self._deliver(identifier, self._presence.chat(session, _as(call, Call), now))

    # the key log ------------------------------------------------------------------------------------------------------

    def _ask_log(self, log: ServerLog, session: Session, identifier: int, argument: object) -> None:
        request = _as(argument, LogRequest)
        if not self._rates.klog(session.user, trio.current_time()):
            raise RequestDenied(ErrorCode.RATE, "too many questions about the key log; wait a little")
        if request.op is LogOp.COSIGN:
            self._later(_Change(session, identifier, partial(log.cosign, request.data), lambda: None))
        else:
            session.tell(Kind.REPLY, identifier, "klog", log.answer(request, session.offer))

    def _new_key(self, log: ServerLog, session: Session, identifier: int, argument: object) -> None:
        entry = self._presence.find(session.user)
        if entry is None or not self._rates.newk(session.user, trio.current_time()):
            raise RequestDenied(ErrorCode.RATE, "too many changes of the key; wait an hour")
        old = entry.key_id

        def end_old_sessions() -> None:
            entry = self._presence.find(session.user)
            if entry is not None and entry.key_id == old:
                for each in list(entry.sessions):
                    each.end(ByeReason.REMOVED)

        act = partial(log.change_key, session.user, old, _as(argument, NewKey))
        self._later(_Change(session, identifier, act, end_old_sessions))

    def _block(self, blocks: Blocks, session: Session, identifier: int, argument: object) -> None:
        request = _as(argument, Block)
        if request.op is BlockOp.LIST:
            session.tell(Kind.REPLY, identifier, "blck", blocks.listing(session.user))
            return
        if not self._rates.block(session.user, trio.current_time()):
            raise RequestDenied(ErrorCode.RATE, "too many changes of the blocks; wait a little")

        def end_calls() -> None:
            if request.op is BlockOp.BLOCK:
                self._deliver(0, self._presence.block(session.user, request.user))
            if self._mailbox is not None:
                tidy = self._mailbox.block if request.op is BlockOp.BLOCK else self._mailbox.unblock
                tidy(session.user, request.user)

        self._later(_Change(session, identifier, partial(blocks.change, session.user, request), end_calls))

    def _later(self, change: _Change) -> None:
        """Other requests do not wait for it."""
        try:
            self._put_off.send_nowait(change)
        except trio.WouldBlock:
            raise RequestDenied(ErrorCode.RATE, "too many changes at once; try again") from None

    async def write(self) -> None:
        """What `_later` was given, one after the other. A task of the server's."""
        async for change in self._to_write:
            session, identifier = change.session, change.identifier
            self._changing = session
            try:
                await change.act()
            except RequestDenied as denied:
                deny(session, identifier, denied)
            except (UnusableSetup, DirectoryUnreadable) as error:
                _log.warning("%s", error)
                text = "the directory cannot be written; try again"
                deny(session, identifier, RequestDenied(ErrorCode.STORAGE, text))
            else:
                session.tell(Kind.REPLY, identifier, "okay")
                change.after()
            self._changing = None
            with contextlib.suppress(DirectoryUnreadable):
                self._end_if_unenrolled(session)

    def _deliver(self, identifier: int, messages: Iterable[Message[Session]]) -> None:
        """In order: telling one may end it, which has messages of its own, and these come behind."""
        self._undelivered.extend((identifier, message) for message in messages)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._undelivered:
                identifier, message = self._undelivered.popleft()
                if message.reply:
                    message.session.tell(Kind.REPLY, identifier, message.verb, message.argument)
                else:
                    message.session.event(message.verb, message.argument)
        finally:
            self._delivering = False


def _printable(verb: bytes) -> str:
    return verb.decode("ascii") if verb.isalpha() and verb.isascii() else "????"


def _as(value: object, kind: type[_T]) -> _T:
    assert isinstance(value, kind)  # noqa: S101 - the verb's row parsed it
    return value
