"""Messages for users who are away: the verbs prek bndl send ackm, and what goes by itself (protocol §6.2, §9, §16).

The server never looks into a message. It says `ackd` when the message is synced to the disk, and deletes it when the
receiver's client has it on its own.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio

from messageapp.clock import DAY_MS, wall_ms
from messageapp.limits import Limits
from messageapp.store.mailbox import MailboxFull, add_mail, drop_mail_from, drop_seqs, forget_blocked
from messageapp.store.prekeys import (
    Left,
    StoredPrekey,
    Taken,
    TooManyPrekeys,
    add_prekeys,
    prekeys_left,
    take_prekey,
)
from messageapp.store.users import Holder
from messageapp.wire.commands import ErrorCode
from messageapp.wire.mail_forms import (
    MAX_PREKEYS,
    Acknowledgement,
    MailRequest,
    PeerPrekey,
    PrekeyRequest,
    PrekeyState,
    PrekeyUpload,
    Stored,
)
from messageapp.wire.records import Kind
from messageapp_keys.codec import Malformed, Reader
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold
from messageapp_keys.prekeys import Prekey, PrekeyRefused

from .blocks import Blocks
from .commits import Commits, Run, in_thread
from .delivery import Deliveries
from .denial import RequestDenied, denials_as_replies, deny
from .directory import Directory
from .presence import NOT_AVAILABLE, no_proof
from .quota import UserRates
from .session import Session
from .tidying import Tidying

__all__ = ["Mailbox"]

T = TypeVar("T")
PREKEYS_LOW: Final = 20
"""One-time prekeys left from which on their owner is told each time that one is taken."""
MAX_PREKEY_DAYS: Final = 90
"""Until a prekey expires, at most."""
_MOST_U16, _MOST_U32 = 0xFFFF, 0xFFFFFFFF  # what an owner allows may be more than can be told
_log = logging.getLogger("messageapp.server")


class Mailbox:
    """One per server. `run` is a task of it; all else never waits."""

    def __init__(
        self,
        database: sqlite3.Connection,
        *,
        directory: Directory,
        limits: Limits,
        blocks: Blocks | None = None,
        proof_of: Callable[[str], bytes] = no_proof,
        disk_full: Callable[[], bool] = lambda: False,
        wall_ms: Callable[[], int] = wall_ms,
        run: Run = in_thread,
    ) -> None:
        """`database` (of `open_mailbox`) is ours alone. `proof_of` is the key log's."""
        self._directory, self._limits, self._blocks, self._proof_of = directory, limits, blocks, proof_of
        self._disk_full, self._wall_ms = disk_full, wall_ms
        self._rates = UserRates(limits)
        self._commits = Commits(database, limits.mail_queue, run)
        self._deliveries = Deliveries(self._commits, limits)
        self.tidying = Tidying(self._commits, directory, limits, wall_ms)
        self.handlers: dict[bytes, Callable[[Session, int, object], None]] = {
            b"prek": partial(self._obey, PrekeyUpload, self._prekeys),
            b"bndl": partial(self._obey, PrekeyRequest, self._bundle),
            b"send": partial(self._obey, MailRequest, self._store),
            b"ackm": partial(self._obey, Acknowledgement, self._acknowledge),
        }

    # the server's side ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; what is being written then is told."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._commits.run)
            nursery.start_soon(self.tidying.run)
            nursery.start_soon(self._deliveries.run)

    async def drain(self) -> None:
        """All that was asked for until now is written and told."""
        try:
            await self._commits.ask(lambda _: None)
        except RequestDenied as error:
            _log.warning("%s", error)

    def join(self, session: Session) -> None:
        """A session has begun: what waits is sent to it, if its device receives. `DirectoryUnreadable`."""
        if (holder := self._directory.holder(session.user)) is not None:
            self._deliveries.offer(session, holder)

    def leave(self, session: Session) -> None:
        self._deliveries.leave(session)

    def block(self, owner: str, blocked: str) -> None:
        """What waits of who is blocked from now on goes."""
        self._tidy(partial(drop_mail_from, user=owner, sender=blocked))

    def unblock(self, owner: str, blocked: str) -> None:
        self._tidy(partial(forget_blocked, user=owner, sender=blocked))

    def _tidy(self, act: Callable[[sqlite3.Connection], None]) -> None:
        self._commits.put(act, lambda _: None, lambda error: _log.warning("%s", error), always=True)

    # what clients ask -------------------------------------------------------------------------------------------------

    def _obey(
        self, form: type[T], handle: Callable[[Session, int, T], None], session: Session, identifier: int, asked: object
    ) -> None:
        assert isinstance(asked, form)  # noqa: S101 - the verb's row parsed it
        handle(session, identifier, asked)

    def _later(
        self, session: Session, identifier: int, act: Callable[[sqlite3.Connection], T], done: Callable[[T], None]
    ) -> None:
        """The reply comes after the commit."""
        if not self._commits.put(act, done, partial(deny, session, identifier)):
            raise RequestDenied(ErrorCode.RATE, "too much is being stored at this moment; try again")

    def _prekeys(self, session: Session, identifier: int, upload: PrekeyUpload) -> None:
        if not self._rates.prek(session.user, trio.current_time()):
            raise RequestDenied(ErrorCode.RATE, "too many uploads of prekeys; wait a little")
        holder = self._own(session)
        if not upload.prekeys:

            def answer(left: Left) -> None:
                session.tell(Kind.REPLY, identifier, "prek", self._state(left, session))

            self._later(session, identifier, partial(prekeys_left, holder=holder, now_ms=self._wall_ms()), answer)
            return
        try:
            prekeys = _split_untrusted(upload.prekeys)
        except Malformed as error:
            raise RequestDenied(ErrorCode.MALFORMED, str(error)) from None

        def done(_: object) -> None:
            session.tell(Kind.REPLY, identifier, "okay")
            if self._deliveries.session_of(session.user) is not session:
                before = self._deliveries.move(session, holder)
                if before is not None and before.device != session.device:
                    before.event("prek", self._state(Left(session.device, 0, 0), before))

        self._later(session, identifier, partial(self._keep_untrusted, session.device, holder, prekeys), done)

    def _keep_untrusted(
        self, device: bytes, holder: Holder, prekeys: list[Prekey], database: sqlite3.Connection
    ) -> None:
        """`RequestDenied` unless all of them are this user's, and count."""
        now_ms = self._wall_ms()
        try:
            bundle = IdentityBundle.parse_untrusted(holder.bundle)
            for prekey in prekeys:
                prekey.verify_untrusted(bundle, holder.name, now_ms)
                if prekey.expires_ms > now_ms + MAX_PREKEY_DAYS * DAY_MS:
                    raise PrekeyRefused(f"a prekey expires in more than {MAX_PREKEY_DAYS} days")
        except (Malformed, PrekeyRefused) as error:
            raise RequestDenied(ErrorCode.MALFORMED, str(error)) from None
        rows = [StoredPrekey(each.id, int(each.kind), each.expires_ms, each.encode()) for each in prekeys]
        try:
            add_prekeys(database, holder, device, rows, now_ms, self._limits.prekeys)
        except TooManyPrekeys:
            text = f"more than {self._limits.prekeys} one-time prekeys"
            raise RequestDenied(ErrorCode.STORAGE, text) from None

    def _bundle(self, session: Session, identifier: int, request: PrekeyRequest) -> None:
        if not self._rates.bndl(session.user, trio.current_time()):
            raise RequestDenied(ErrorCode.RATE, "too many conversations begun; wait a little")
        holder, blocked = self._other(session, request.user)

        @denials_as_replies(session, identifier)
        def done(taken: Taken | None) -> None:
            current = None if taken is None else self._directory.encoded(holder.name)
            if taken is None or current != holder.bundle:
                raise RequestDenied(ErrorCode.NOT_AVAILABLE, NOT_AVAILABLE)
            proof = self._proof_of(holder.name)
            answer = PeerPrekey(holder.name, holder.bundle, proof, taken.left.device, taken.prekey)
            session.tell(Kind.REPLY, identifier, "bndl", answer)
            owner = self._deliveries.session_of(holder.name)
            if taken.one_time and taken.left.one_time <= PREKEYS_LOW and owner is not None:
                owner.event("prek", self._state(taken.left, owner))

        act = partial(take_prekey, holder=holder, now_ms=self._wall_ms(), one_time=not blocked)
        self._later(session, identifier, act, done)

    def _store(self, session: Session, identifier: int, request: MailRequest) -> None:
        if self._disk_full():
            raise RequestDenied(ErrorCode.DISK_FULL, "the server's disk is almost full; it stores nothing for now")
        holder, blocked = self._other(session, request.to)
        if self._blocks is not None and self._blocks.is_blocked(session.user, holder.name):
            raise RequestDenied(ErrorCode.NOT_NOW, f"you block {holder.name}; unblock {holder.name} first")

        def done(seq: int) -> None:
            session.tell(Kind.REPLY, identifier, "ackd", Stored(request.id, seq))
            self._deliveries.added(holder.name)

        self._later(session, identifier, partial(self._add, session.user, holder, request, blocked), done)

    def _add(
        self, sender: str, holder: Holder, request: MailRequest, blocked: bool, database: sqlite3.Connection
    ) -> int:
        limits = self._limits
        try:
            return add_mail(
                database,
                holder,
                sender,
                request.id,
                request.blob,
                self._wall_ms(),
                most=limits.mail_messages,
                most_bytes=limits.mail_bytes,
                blocked=blocked,
            )
        except MailboxFull:
            raise RequestDenied(ErrorCode.STORAGE, f"the mailbox of {holder.name} is full") from None

    def _acknowledge(self, session: Session, identifier: int, request: Acknowledgement) -> None:
        seqs = self._deliveries.acknowledge(session, request.seqs)
        if not seqs:
            session.tell(Kind.REPLY, identifier, "okay")
            return

        def done(_: object) -> None:
            session.tell(Kind.REPLY, identifier, "okay")
            self._deliveries.taken(session, seqs)

        def refused(error: RequestDenied) -> None:  # the disk: they stay, and come again in the next session
            deny(session, identifier, error)
            self._deliveries.taken(session, seqs)

        act = partial(drop_seqs, user=session.user, device=session.device, seqs=seqs)
        self._commits.put(act, done, refused, always=True)  # no more than the window

    def _own(self, session: Session) -> Holder:
        holder = self._directory.holder(session.user)
        if holder is None:  # gone since the login; the session goes too
            raise RequestDenied(ErrorCode.NOT_AVAILABLE, NOT_AVAILABLE)
        return holder

    def _other(self, session: Session, name: str) -> tuple[Holder, bool]:
        """Whom a request is about, and whether that one blocks who asks."""
        holder = self._directory.holder(name)
        if holder is None or fold(holder.name) == fold(session.user):
            raise RequestDenied(ErrorCode.NOT_AVAILABLE, NOT_AVAILABLE)
        return holder, self._blocks is not None and self._blocks.is_blocked(holder.name, session.user)

    def _state(self, left: Left, session: Session) -> PrekeyState:
        kept_s = min(int(self._limits.mail_days * DAY_MS) // 1000, _MOST_U32)
        return PrekeyState(min(left.one_time, _MOST_U16), left.last_resort_ms, left.device == session.device, kept_s)


def _split_untrusted(data: bytes) -> list[Prekey]:
    """`Malformed`; also where there are too many, or two of one number."""
    found: list[Prekey] = []
    with Reader(data) as reader:
        while not reader.at_end:
            if len(found) == MAX_PREKEYS:
                raise Malformed(f"more than {MAX_PREKEYS} prekeys at once")
            found.append(Prekey.read_untrusted(reader))
    return found
