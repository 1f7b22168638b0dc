"""Invitations (protocol §3.3), shared by `serve` and `messageapp invite` in other processes.

Of the secret in a join code only what is derived from it is kept: who reads the file cannot join. Using an invitation
and enrolling, with the leaf of the key log, are one transaction.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from messageapp.errors import UnusableSetup
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.joincode import derive_invite
from messageapp_keys.types import InviteKey, InviteSecret

from .database import stored
from .users import NameTaken, NoSuchUser, enrol, find_encoded, reset, writing_users

__all__ = [
    "Invite",
    "InviteFault",
    "InviteRefused",
    "create_invite",
    "drop_first_invites",
    "find_invite_key",
    "list_invites",
    "redeem_invite",
    "revoke_invite",
    "revoke_open_invites",
]

MAX_USES: Final = 1000
MAX_LIFETIME_MS: Final = 366 * 86_400_000
KEPT_MS: Final = 30 * 86_400_000
"""For so long after its end an invitation is kept: until then who comes too late is told that it has expired."""
MAX_INVITES: Final = 10_000
_COLUMNS: Final = "id, name, reset, made_ms, expires_ms, uses, used, revoked_ms, first"


class InviteFault(IntEnum):
    """Why an invitation does not let somebody in; the numbers are those of `erro`."""

    EXPIRED = 30
    USED = 31
    REVOKED = 32
    NAME_TAKEN = 33
    OTHER_NAME = 34


class InviteRefused(ValueError):
    """The invitation does not let this user in; nothing has changed."""

    def __init__(self, fault: InviteFault) -> None:
        super().__init__(fault.name)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Invite:
    id: bytes  # [16]
    name: str  # for whom; "" for whoever comes
    reset: bool  # replaces the key of a user who is enrolled
    made_ms: int
    expires_ms: int
    uses: int  # how many are left
    used: int  # how many were
    revoked_ms: int | None
    first: bool  # printed by `serve` for the first user

    def fault(self, now_ms: int) -> InviteFault | None:
        """Why nobody can use it any more."""
        if self.revoked_ms is not None:
            return InviteFault.REVOKED
        if self.uses <= 0:
            return InviteFault.USED
        return InviteFault.EXPIRED if now_ms >= self.expires_ms else None


def create_invite(
    database: sqlite3.Connection,
    name: str,
    now_ms: int,
    lifetime_ms: int,
    *,
    uses: int = 1,
    reset: bool = False,
    first: bool = False,
    random: Callable[[int], bytes] = os.urandom,
) -> InviteSecret:
    """A new invitation for `name`, or for whoever comes (""). Its secret is given once and kept nowhere.

    With `reset` it gives an enrolled user another key; with `first` it takes the place of those made so before.
    `UnusableSetup` for a lifetime or number of uses out of bounds, and where there are too many.
    """
    if not 0 < lifetime_ms <= MAX_LIFETIME_MS or not 0 < uses <= MAX_USES:
        raise UnusableSetup(f"an invitation holds for 366 days at most, and for 1 to {MAX_USES:,} users")
    secret = InviteSecret(random(InviteSecret.SIZE))
    identifier, key = derive_invite(secret)
    row = (identifier, key.expose(), name, int(reset), now_ms, now_ms + lifetime_ms, uses, 0, None, int(first))
    with writing_users(database):
        database.execute("DELETE FROM invites WHERE expires_ms < ?", (now_ms - KEPT_MS,))
        (there,) = database.execute("SELECT count(*) FROM invites").fetchone()
        if there >= MAX_INVITES:
            raise UnusableSetup(f"there are {there:,} invitations; those that have ended are kept for 30 days")
        if first:
            drop_first_invites(database, now_ms)
        database.execute(
            "INSERT INTO invites (id, key, name, reset, made_ms, expires_ms, uses, used, revoked_ms, first)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
    return secret


def drop_first_invites(database: sqlite3.Connection, now_ms: int) -> None:
    """Revoke what `serve` printed at earlier starts."""
    with writing_users(database):
        database.execute("UPDATE invites SET revoked_ms = ? WHERE first = 1 AND revoked_ms IS NULL", (now_ms,))


def revoke_open_invites(database: sqlite3.Connection, now_ms: int) -> int:
    """Revoke every invitation that could still be used; how many those were."""
    with writing_users(database):
        cursor = database.execute(
            "UPDATE invites SET revoked_ms = ? WHERE revoked_ms IS NULL AND uses > 0 AND expires_ms > ?",
            (now_ms, now_ms),
        )
    return cursor.rowcount


def find_invite_key(database: sqlite3.Connection, identifier: bytes) -> InviteKey | None:
    """None for an id that is not known; `sqlite3.Error`."""
    row = database.execute("SELECT key FROM invites WHERE id = ?", (identifier,)).fetchone()
    return None if row is None else InviteKey(row[0])


@stored("the invitations")
def list_invites(database: sqlite3.Connection) -> list[Invite]:
    """All that are kept, the newest first."""
    rows = database.execute(f"SELECT {_COLUMNS} FROM invites ORDER BY made_ms DESC, id")  # noqa: S608 - constant
    return [_invite(row) for row in rows]


def revoke_invite(database: sqlite3.Connection, identifier: str, now_ms: int) -> Invite:
    """By its id in hexadecimal, or the beginning of it. `UnusableSetup` where that is none, or that of several."""
    with writing_users(database):
        found = [invite for invite in list_invites(database) if invite.id.hex().startswith(identifier.lower())]
        if len(found) != 1 or not identifier:
            how_many = "are several invitations" if len(found) > 1 else "is no invitation"
            raise UnusableSetup(f"there {how_many} {identifier}; `messageapp invite list` shows them")
        database.execute("UPDATE invites SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL", (now_ms, found[0].id))
    return found[0]


def redeem_invite(
    database: sqlite3.Connection, identifier: bytes, username: str, bundle: IdentityBundle, now_ms: int
) -> None:
    """Enrol who has proved to have the invitation and the keys, and count the use. `InviteRefused`, `UnusableSetup`.

    Who is enrolled with exactly these keys already is let in, and nothing is counted: the answer to the first try may
    have been lost.
    """
    with writing_users(database):
        if find_encoded(database, username) == bundle.encode():
            return
        row = database.execute(f"SELECT {_COLUMNS} FROM invites WHERE id = ?", (identifier,)).fetchone()  # noqa: S608
        if row is None:  # since it was found
            raise InviteRefused(InviteFault.REVOKED)
        invite = _invite(row)
        if (fault := invite.fault(now_ms)) is not None:
            raise InviteRefused(fault)
        if invite.name not in ("", username):
            raise InviteRefused(InviteFault.OTHER_NAME)
        database.execute("UPDATE invites SET uses = uses - 1, used = used + 1 WHERE id = ?", (identifier,))
        try:
            _write_key(database, invite, username, bundle, now_ms)
        except NameTaken:
            raise InviteRefused(InviteFault.NAME_TAKEN) from None


def _write_key(
    database: sqlite3.Connection, invite: Invite, username: str, bundle: IdentityBundle, now_ms: int
) -> None:
    if invite.reset:
        try:
            reset(database, username, bundle, now_ms)
            return
        except NoSuchUser:
            pass  # removed since: then it is an enrolment
    enrol(database, username, bundle, now_ms)


def _invite(row: tuple[bytes, str, int, int, int, int, int, int | None, int]) -> Invite:
    identifier, name, is_reset, made_ms, expires_ms, uses, used, revoked_ms, first = row
    return Invite(identifier, name, bool(is_reset), made_ms, expires_ms, uses, used, revoked_ms, bool(first))
