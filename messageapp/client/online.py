"""Who is online: asked for again and again, so that completion and `why` need not wait."""

from __future__ import annotations

from typing import Any, Final

import trio

from messageapp.errors import CannotStore, MessageAppError, RequestRefused
from messageapp.wire.commands import Listing, Nothing

from .mailing import Mailing
from .session import Session, expect

__all__ = ["Online"]

REFRESH_SECONDS: Final = 10.0  # who is online, for completion
_FRESH_SECONDS: Final = 2.0


class Online:
    """`users` are those of the last listing: name → state."""

    def __init__(self, session: Session, mail: Mailing) -> None:
        self.users: dict[str, int] = {}
        self._session = session
        self._mail = mail
        self._wanted = trio.Event()
        self._refreshed = -1e9

    async def run(self) -> None:
        """The task: keep `users` fresh without anybody asking."""
        while self._session.ended is None:
            try:
                await self.list()
                self._mail.note_online(self.users)
            except (RequestRefused, CannotStore):
                pass
            except MessageAppError:
                return
            with trio.move_on_after(REFRESH_SECONDS):
                await self._wanted.wait()
            self._wanted = trio.Event()

    async def list(self) -> Listing:
        """Ourselves included."""

        def apply(reply: Any) -> Listing:
            listing: Listing = expect(reply, Listing)
            self.users = {entry.user: entry.state for entry in listing.entries}
            self._refreshed = trio.current_time()
            return listing

        listing: Listing = await self._session.request("list", Nothing(), apply)
        return listing

    def want(self) -> None:
        """Make `users` fresh if they are not."""
        if trio.current_time() - self._refreshed > _FRESH_SECONDS:
            self._wanted.set()
