"""Many changes of one file with one commit: what waits when the disk is ready is written together (protocol §16).

A commit that is synced costs milliseconds, however much is in it. So one thread at a time has the file, and takes all
that came while it wrote. Each change is undone alone where it is refused; where the disk fails, each is tried alone,
so that one that fits (a deletion) is done. Nobody hears of a change before it is synced.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import trio

from messageapp.wire.commands import ErrorCode

from .denial import RequestDenied

__all__ = ["Commits", "Run", "in_thread"]

T = TypeVar("T")
_COMPLETED_AT_ONCE: Final = 64  # replies; then every other task has its turn
_log = logging.getLogger("messageapp.server")


class Run(Protocol):
    """How the file is written: where waiting for the disk holds nobody up."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


async def in_thread(call: Callable[[], T]) -> T:
    """Cancelling waits for the commit."""
    return await trio.to_thread.run_sync(call)


@dataclass(frozen=True, slots=True)
class _Change:
    act: Callable[[sqlite3.Connection], Any]
    done: Callable[[Any], None]
    refused: Callable[[RequestDenied], None]


class Commits:
    """`put` never waits; `run` is a task. `most` bounds what waits."""

    def __init__(self, database: sqlite3.Connection, most: int, run: Run = in_thread) -> None:
        """`database` (autocommit, usable from any thread) is ours alone."""
        self._database, self._most, self._run = database, most, run
        self._waiting: deque[_Change] = deque()
        self._wake = trio.Event()
        self.commits = 0  # so far

    def put(
        self,
        act: Callable[[sqlite3.Connection], T],
        done: Callable[[T], None],
        refused: Callable[[RequestDenied], None],
        *,
        always: bool = False,
    ) -> bool:
        """False where too much waits; `always` is for what the server itself needs, which others bound.

        `act` runs within the transaction, in its turn; it may raise `RequestDenied`, and then nothing of it is kept.
        Then one of `done` (with what `act` returned, after the commit) and `refused` is called, in the order of `put`.
        """
        if len(self._waiting) >= self._most and not always:
            return False
        self._waiting.append(_Change(act, done, refused))
        self._wake.set()
        return True

    async def ask(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Behind all that waits now. `RequestDenied`."""
        over = trio.Event()
        found: list[T] = []
        refusals: list[RequestDenied] = []

        def done(result: T) -> None:
            found.append(result)
            over.set()

        def refused(error: RequestDenied) -> None:
            refusals.append(error)
            over.set()

        self.put(act, done, refused, always=True)
        await over.wait()
        if refusals:
            raise refusals[0]
        return found[0]

    async def run(self) -> None:
        """Until cancelled; a commit under way is finished and told."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            changes = list(self._waiting)
            self._waiting.clear()
            outcomes = await self._run(partial(_commit, self._database, changes))
            self.commits += 1
            for number, (change, outcome) in enumerate(zip(changes, outcomes, strict=True), 1):
                if isinstance(outcome, RequestDenied):
                    change.refused(outcome)
                else:
                    change.done(outcome)
                if number % _COMPLETED_AT_ONCE == 0:
                    with trio.CancelScope(shield=True):
                        await trio.lowlevel.checkpoint()


def _commit(database: sqlite3.Connection, changes: list[_Change]) -> list[Any]:
    """What each returned, or its `RequestDenied`."""
    try:
        return _together(database, changes)
    except sqlite3.Error as error:
        _log.warning("cannot write %d changes of the mailbox: %s", len(changes), error)
    found: list[Any] = []
    for change in changes:
        try:
            found += _together(database, [change])
        except sqlite3.Error:
            found.append(RequestDenied(ErrorCode.STORAGE, "the mailbox cannot be written; try again later"))
    return found


def _together(database: sqlite3.Connection, changes: list[_Change]) -> list[Any]:
    found: list[Any] = []
    try:
        database.execute("BEGIN IMMEDIATE")
        for change in changes:
            database.execute("SAVEPOINT change")
            try:
                found.append(change.act(database))
            except RequestDenied as refused:
                database.execute("ROLLBACK TO change")
                found.append(refused)
            database.execute("RELEASE change")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk has ended it already
            database.execute("ROLLBACK")
        raise
    return found
