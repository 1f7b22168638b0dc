"""What goes from the mailbox by itself: what is too old, and what belongs to nobody any more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from messageapp.clock import DAY_MS
from messageapp.limits import Limits
from messageapp.store.mailbox import drop_user, expire_mail, keep_only, users_kept
from messageapp.store.prekeys import expire_prekeys

from .commits import Commits
from .denial import RequestDenied
from .directory import Directory, DirectoryUnreadable

__all__ = ["Tidying"]

_PURGE_SECONDS: Final = 3600.0
_CHANGED_SECONDS: Final = 10.0  # after a change of the directory: nothing hangs on it, `Holder` is compared each time
_EXPIRED_AT_ONCE: Final = 1000  # rows; then those that wait have their turn
_log = logging.getLogger("messageapp.server")


class Tidying:
    """At the start, every hour, and soon after `directory_changed`."""

    def __init__(self, commits: Commits, directory: Directory, limits: Limits, wall_ms: Callable[[], int]) -> None:
        self._commits, self._directory, self._limits, self._wall_ms = commits, directory, limits, wall_ms
        self._rest = trio.CancelScope()  # until the next time

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._rest = trio.CancelScope(deadline=trio.current_time() + _PURGE_SECONDS)
            try:
                await self.purge()
            except (RequestDenied, DirectoryUnreadable) as error:
                _log.warning("the mailbox is not tidied: %s", error)
            with self._rest:
                await trio.sleep_forever()

    def directory_changed(self) -> None:
        """What belongs to users who are gone goes soon."""
        self._rest.deadline = min(self._rest.deadline, trio.current_time() + _CHANGED_SECONDS)

    async def purge(self) -> None:
        """Delete what is too old, and what belongs to nobody any more. `RequestDenied`, `DirectoryUnreadable`."""
        now_ms = self._wall_ms()
        before_ms = now_ms - int(self._limits.mail_days * DAY_MS)
        while await self._commits.ask(partial(expire_mail, before_ms=before_ms, most=_EXPIRED_AT_ONCE)):
            pass
        await self._commits.ask(partial(expire_prekeys, now_ms=now_ms))
        for user in await self._commits.ask(users_kept):
            if (holder := self._directory.holder(user)) is None:
                await self._commits.ask(partial(drop_user, user=user))
            else:
                await self._commits.ask(partial(keep_only, holder=holder))
