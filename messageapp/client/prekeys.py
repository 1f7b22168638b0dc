"""The own prekeys: made, uploaded, found again when a chat starts under one, and dropped (protocol §9.1).

Each private half is on disk before its public half leaves this machine. What the server says that it has left decides
what is made: an upload that was cut off is not repeated, its private halves stay until they expire.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

from messageapp.clock import DAY_MS
from messageapp.store.database import Database, transaction
from messageapp.wire.mail_forms import PrekeyState
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.prekeys import Prekey, PrekeyKind, PrivatePrekey
from messageapp_keys.primitives import Random

__all__ = ["ONE_TIME", "REFILL", "UPLOAD", "Prekeys"]

ONE_TIME: Final = 100  # at the server: the server takes no more
REFILL: Final = 50  # so many or fewer left: up to ONE_TIME again
UPLOAD: Final = 16  # in one request: 100 KB with RSA and ML-DSA signatures
LIFE_DAYS: Final = 60  # a user who is away for so long can be written to; the server takes up to 90
REPLACE_DAYS: Final = 7  # the last-resort prekey
KEEP_DAYS: Final = 7  # the one before it, from when it was replaced: 14 days in all, for whoever logs in each week
MAIL_DAYS: Final = 30  # a one-time private half, from when its prekey expired: so long a start may lie at the server
MOST_ONE_TIME: Final = 2000  # private halves, the newest: a server that says again and again that it has none left
MOST_LAST_RESORT: Final = 20  # fills no disk. What starts under an older one is asked for again


class Prekeys:
    """Those of one account at one server. `identity` is the present key: prekeys of an earlier one are dropped."""

    def __init__(
        self,
        database: Database,
        server: str,
        user: str,
        identity: PrivateIdentity,
        random: Random,
        wall_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._server = server
        self._user = user
        self._identity = identity
        self._random = random
        self._wall_ms = wall_ms

    # for starts that come ---------------------------------------------------------------------------------------------

    def find(self, id: int) -> PrivatePrekey | None:
        """The prekey with its private half; None: used already, dropped, or never ours."""
        row = self._one("SELECT public, private FROM prekeys WHERE server = ? AND id = ?", self._server, id)
        if row is None:
            return None
        try:
            found = PrivatePrekey.decode(Prekey.parse_untrusted(bytes(row[0])), bytes(row[1]))
        except Malformed:
            return None  # a damaged row: its start is asked for again
        return found if found.public.key_id == self._identity.key_id else None

    def used(self, id: int) -> None:
        """In the transaction that stores the first message: the private half of a one-time prekey is gone."""
        self._do("DELETE FROM prekeys WHERE server = ? AND id = ? AND kind = ?", self._server, id, PrekeyKind.ONE_TIME)

    # upkeep -----------------------------------------------------------------------------------------------------------

    async def upkeep(self, state: PrekeyState, upload: Callable[[Sequence[Prekey]], Awaitable[None]]) -> bool:
        """Bring the server to 100 one-time prekeys and a fresh last-resort one. Whether anything was uploaded.

        `state` is what the server has just said. `upload` sends one `prek` (at most `UPLOAD` prekeys) and returns after
        `okay`; what it raises ends this. The last-resort prekey goes first, so that nobody is unreachable meanwhile.
        One prekey takes 2 ms; others have their turn between two of them. Cancelled, nothing is lost but time.
        """
        self._purge()
        wanted = [PrekeyKind.LAST_RESORT] if self._last_resort_due(state) else []
        left = state.one_time if state.receives else 0  # prekeys of another device go with the first upload
        if left <= REFILL:
            wanted += [PrekeyKind.ONE_TIME] * (ONE_TIME - left)
        for at in range(0, len(wanted), UPLOAD):
            made = [await self._make(kind) for kind in wanted[at : at + UPLOAD]]
            self._store(made)
            await upload([prekey.public for prekey in made])
            with transaction(self._database):
                for prekey in made:
                    self._do(
                        "UPDATE prekeys SET uploaded = 1 WHERE server = ? AND id = ?", self._server, prekey.public.id
                    )
        return bool(wanted)

    def uploaded_before(self) -> bool:
        """This account has given prekeys to the server, in this session or an earlier one."""
        return self._one("SELECT 1 FROM prekeys WHERE server = ? AND uploaded = 1 LIMIT 1", self._server) is not None

    async def _make(self, kind: PrekeyKind) -> PrivatePrekey:
        await trio.lowlevel.checkpoint()
        expires_ms = self._wall_ms() + LIFE_DAYS * DAY_MS
        return PrivatePrekey.generate(self._new_id(), kind, expires_ms, self._user, self._identity, self._random)

    def _store(self, made: Sequence[PrivatePrekey]) -> None:
        now = self._wall_ms()
        with transaction(self._database):
            for each in made:
                public = each.public
                self._do(
                    "INSERT INTO prekeys (server, id, kind, public, private, made_ms, expires_ms, uploaded)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                    self._server,
                    public.id,
                    int(public.kind),
                    public.encode(),
                    each.encode(),
                    now,
                    public.expires_ms,
                )

    def _new_id(self) -> int:
        while True:  # random: one that was used up is never meant again by an old start
            id = int.from_bytes(self._random(4), "big")
            if self._one("SELECT 1 FROM prekeys WHERE server = ? AND id = ?", self._server, id) is None:
                return id

    def _last_resort_due(self, state: PrekeyState) -> bool:
        """The server has none of ours, or it has done its week."""
        row = self._one(
            "SELECT made_ms, expires_ms FROM prekeys WHERE server = ? AND kind = ? AND uploaded = 1"
            " ORDER BY made_ms DESC LIMIT 1",
            self._server,
            PrekeyKind.LAST_RESORT,
        )
        if row is None or not state.receives or state.last_resort_ms != row[1]:
            return True
        return not row[0] <= self._wall_ms() < row[0] + REPLACE_DAYS * DAY_MS  # also after the clock was set back

    def _purge(self) -> None:
        """Private halves that nothing can start under any more, and what is remembered of starts under them."""
        now, key_id = self._wall_ms(), self._identity.key_id
        with transaction(self._database):
            for id, public in self._database.execute(
                "SELECT id, public FROM prekeys WHERE server = ?", (self._server,)
            ).fetchall():
                if not _is_of(bytes(public), key_id):
                    self._do("DELETE FROM prekeys WHERE server = ? AND id = ?", self._server, id)
            self._do(
                "DELETE FROM prekeys WHERE server = ? AND kind = ? AND expires_ms < ?",
                self._server,
                PrekeyKind.ONE_TIME,
                now - MAIL_DAYS * DAY_MS,
            )
            self._do(
                "DELETE FROM prekeys WHERE server = ? AND kind = ? AND EXISTS (SELECT 1 FROM prekeys later"
                " WHERE later.server = prekeys.server AND later.kind = prekeys.kind AND later.uploaded = 1"
                " AND later.made_ms > prekeys.made_ms AND later.made_ms <= ?)",
                self._server,
                PrekeyKind.LAST_RESORT,
                now - KEEP_DAYS * DAY_MS,
            )
            for kind, most in ((PrekeyKind.ONE_TIME, MOST_ONE_TIME), (PrekeyKind.LAST_RESORT, MOST_LAST_RESORT)):
                self._do(
                    "DELETE FROM prekeys WHERE server = ? AND kind = ? AND id IN (SELECT id FROM prekeys"
                    " WHERE server = ? AND kind = ? ORDER BY made_ms DESC, id LIMIT -1 OFFSET ?)",
                    self._server,
                    kind,
                    self._server,
                    kind,
                    most,
                )
            self._do(
                "DELETE FROM starts WHERE server = ? AND prekey NOT IN (SELECT id FROM prekeys WHERE server = ?)",
                self._server,
                self._server,
            )

    def _do(self, sql: str, *values: Any) -> None:
        with transaction(self._database):
            self._database.execute(sql, values)

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        with transaction(self._database):
            row: tuple[Any, ...] | None = self._database.execute(sql, values).fetchone()
        return row


def _is_of(public: bytes, key_id: bytes) -> bool:
    try:
        return Prekey.parse_untrusted(public).key_id == key_id
    except Malformed:
        return False
