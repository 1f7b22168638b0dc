"""Invitations as the running server sees them, those included that other processes make and revoke."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from messageapp.clock import wall_ms
from messageapp.store.invites import find_invite_key, redeem_invite
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.types import InviteKey

from .directory import Writer, reading

__all__ = ["Invites"]


class Invites:
    """`database` is read between records, `write` changes the file."""

    def __init__(
        self,
        database: sqlite3.Connection,
        write: Writer,
        wall_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._database = database
        self._write = write
        self._wall_ms = wall_ms

    def find(self, identifier: bytes) -> InviteKey | None:
        """None for an id that is not known. `DirectoryUnreadable`."""
        with reading():
            return find_invite_key(self._database, identifier)

    async def redeem(self, identifier: bytes, username: str, bundle: IdentityBundle) -> None:
        """Enrol. `InviteRefused`, `UnusableSetup`; cancelling waits for the commit."""
        now_ms = self._wall_ms()
        await self._write(lambda database: redeem_invite(database, identifier, username, bundle, now_ms))
