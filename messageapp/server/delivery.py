"""Stored messages on their way to the devices that receive them (protocol §16): in order, a window of them at a time.

What is on its way stays stored until it is acknowledged; a session that ends takes nothing with it, and the next one
gets it all again. The window leaves room in the queue of the session, so that a client that was away for long is never
cut off for the mail that waited.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from messageapp.limits import Limits
from messageapp.store.mailbox import Letter, next_mail
from messageapp.store.users import Holder
from messageapp.wire.commands import make
from messageapp.wire.mail_forms import MAX_BLOB, Delivery
from messageapp.wire.records import Kind
from messageapp_keys.names import fold

from .commits import Commits
from .denial import RequestDenied
from .session import Session

__all__ = ["Deliveries"]

_RETRY_SECONDS: Final = 0.25
_Found = tuple[list[Letter], bool] | None


@dataclass(eq=False, slots=True)
class _Window:
    """Of the session that receives the messages of `holder`."""

    session: Session
    holder: Holder
    last: int = 0  # the seq that was sent last
    under_way: dict[int, int] = field(default_factory=dict)  # seq: bytes
    leaving: set[int] = field(default_factory=set)  # of these, acknowledged and not deleted yet
    more: bool = True  # behind `last` there may be
    asking: bool = False


class Deliveries:
    """`run` is a task; all else never waits."""

    def __init__(self, commits: Commits, limits: Limits) -> None:
        self._commits, self._limits = commits, limits
        self._windows: dict[str, _Window] = {}  # by the lower-case name of who receives
        self._present: set[Session] = set()  # neither gone, with or without a goodbye, nor going
        self._stalled: dict[_Window, None] = {}  # their queue was full, or the disk could not be read
        self._stall = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._stall.wait()
            await trio.sleep(_RETRY_SECONDS)
            self._stall = trio.Event()
            self.retry()

    def session_of(self, user: str) -> Session | None:
        """Where this user's messages go now."""
        window = self._windows.get(fold(user))
        return None if window is None else window.session

    def offer(self, session: Session, holder: Holder) -> None:
        """A session has begun: if its device receives, it gets what waits."""
        self._present.add(session)
        self._offer(_Window(session, holder))

    def _offer(self, window: _Window) -> None:
        def install(found: _Found) -> None:
            if found is not None and self._lives(window.session):
                self._windows[fold(window.holder.name)] = window
                self._send(window, found)

        window.asking = True
        self._ask(window, install)

    def move(self, session: Session, holder: Holder) -> Session | None:
        """The device of this session receives from now on; returns the session that did until now."""
        before = self._windows.pop(fold(holder.name), None)
        if self._lives(session):
            self._windows[fold(holder.name)] = _Window(session, holder)
            self.added(holder.name)
        return None if before is None or before.session is session else before.session

    def _lives(self, session: Session) -> bool:
        return session in self._present and session.ended is None

    def leave(self, session: Session) -> None:
        """It is gone; nothing is offered to it any more, also where that could not be done so far."""
        self._present.discard(session)
        if self.session_of(session.user) is session:
            del self._windows[fold(session.user)]

    def added(self, user: str) -> None:
        """There is more for this user."""
        window = self._windows.get(fold(user))
        if window is not None:
            window.more = True
            self._refill(window)

    def acknowledge(self, session: Session, seqs: Iterable[int]) -> tuple[int, ...]:
        """Of these, the ones that are on their way in this session; nothing else can be taken off the disk by it.

        Each once: whoever acknowledges the same again and again fills no queue with it. `taken` has to follow.
        """
        window = self._windows.get(fold(session.user))
        if window is None or window.session is not session:
            return ()
        found = tuple(dict.fromkeys(seq for seq in seqs if seq in window.under_way and seq not in window.leaving))
        window.leaving.update(found)
        return found

    def taken(self, session: Session, seqs: Collection[int]) -> None:
        """Those are deleted, or will come again in the next session: here they hold up nothing any more."""
        window = self._windows.get(fold(session.user))
        if window is not None and window.session is session:
            for seq in seqs:
                window.under_way.pop(seq, None)
            window.leaving.difference_update(seqs)
            self._refill(window)

    def retry(self) -> None:
        """Those that could not be sent, or not even looked for."""
        stalled, self._stalled = self._stalled, {}
        for window in stalled:
            if self._windows.get(fold(window.holder.name)) is window:
                self._refill(window)
            elif self._lives(window.session):
                self._offer(window)

    def _put_off(self, window: _Window) -> None:
        self._stalled[window] = None
        self._stall.set()

    def _refill(self, window: _Window) -> None:
        if window.more and not window.asking and self._lives(window.session):
            window.asking = True
            self._ask(window, partial(self._send, window))

    def _ask(self, window: _Window, done: Callable[[_Found], None]) -> None:
        most = self._limits.mail_window - len(window.under_way)
        most_bytes = self._limits.mail_window_bytes - sum(window.under_way.values())
        if not window.under_way:
            most_bytes = max(most_bytes, MAX_BLOB)  # one always goes

        def refused(_: RequestDenied) -> None:
            window.asking = False
            self._put_off(window)

        if most <= 0 or most_bytes <= 0:
            window.asking = False  # what is acknowledged makes room
            return
        ask = partial(
            next_mail,
            holder=window.holder,
            device=window.session.device,
            after=window.last,
            most=most,
            most_bytes=most_bytes,
        )
        self._commits.put(ask, done, refused, always=True)  # one at a time for each session

    def _send(self, window: _Window, found: _Found) -> None:
        window.asking, window.more = False, False
        if found is None or self._windows.get(fold(window.holder.name)) is not window:
            return
        letters, window.more = found
        for letter in letters:
            delivery = Delivery(letter.sender, letter.seq, letter.id, letter.blob)
            if not window.session.outbox.offer(make(Kind.EVENT, 0, "mail", delivery).pack()):
                window.more = True
                self._put_off(window)
                return
            window.last = letter.seq
            window.under_way[letter.seq] = len(letter.blob)
        if not window.under_way:  # all was acknowledged while this was looked for, with the room of before
            self._refill(window)
