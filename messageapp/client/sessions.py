"""The ratchet sessions that are stored: which one sends, which ones still receive (protocol §10.2, §16).

Every step of a session is on disk before anything follows from the step. If a transaction fails, the sessions that were
changed in it are in memory what they were before.

    with sessions.step():                       # messages, outbox, seen … in the same transaction
        with sessions.changing(stored):
            blob = message_blob(stored.session.seal(envelope))
        outbox.add(…, blob=blob)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from messageapp.e2ee.session import ChatSession
from messageapp.store.database import Database, transaction
from messageapp_keys.codec import Malformed
from messageapp_keys.names import fold
from messageapp_keys.primitives import Random

__all__ = ["SESSIONS", "Sessions", "StoredSession", "retire_unanswered"]

SESSIONS: Final = 5  # of one peer: the newest sends, the others still receive


@dataclass(slots=True, eq=False)
class StoredSession:
    """One session with a peer. Change it, or its flags, only inside `Sessions.changing`."""

    peer: str  # lower-case
    sid: bytes  # [8]
    device: bytes  # [16] of the peer's; empty: not known
    key_id: bytes  # [32] of the peer's bundle
    session: ChatSession
    made_ms: int  # or when it was preferred; the largest sends, a negative one never does
    confirmed: bool  # something came over it
    confirms: bool  # the peer's client sends receipts


def retire_unanswered(database: Database, server: str, peer: str) -> None:
    """Nothing more is sent over sessions with `peer` over which nothing has come, unless something does yet."""
    with transaction(database):
        database.execute(
            "UPDATE sessions SET made_ms = -made_ms WHERE server = ? AND peer = ? AND made_ms > 0 AND confirmed = 0",
            (server, fold(peer)),
        )


class Sessions:
    """Those of one account at one server, with the key that it has now: sessions of an earlier own key are not found.

    `checkpoint` is what each turn shows the peer first. `UnusableSetup` where SQLite fails.
    """

    def __init__(
        self,
        database: Database,
        server: str,
        user: str,
        own_key_id: bytes,
        random: Random,
        checkpoint: Callable[[], bytes] = lambda: b"",
    ) -> None:
        self._database = database
        self._server = server
        self._user = user
        self._own_key_id = own_key_id
        self._random = random
        self._checkpoint = checkpoint
        self._cache: dict[tuple[str, bytes], StoredSession] = {}
        self._undo: list[Callable[[], object]] | None = None  # of the step that is open
        self.in_chat = b""
        """Of the chat under way, if any. What is stored does not go over it: it would be overtaken by what is said, and
        look as if it were missing."""

    # steps ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def step(self) -> Iterator[None]:
        """One transaction; within one that is open already a part of that one. Nothing inside may wait.

        If it fails at any statement, or at its end, all sessions are what they were before it.
        """
        if self._undo is not None:
            yield
            return
        self._undo = []
        try:
            with transaction(self._database):
                yield
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            raise
        finally:
            self._undo = None

    @contextmanager
    def changing(self, stored: StoredSession) -> Iterator[StoredSession]:
        """A `step` at whose end the session is stored as it then is."""
        with self.step():
            undo = self._remember(stored)
            try:
                yield stored
            except BaseException:
                undo()  # whoever catches this within a step goes on with what was before
                raise
            self._database.execute(
                "UPDATE sessions SET state = ?, confirmed = ?, confirms = ?, made_ms = ?"
                " WHERE server = ? AND peer = ? AND sid = ?",
                (
                    stored.session.encode(),
                    int(stored.confirmed),
                    int(stored.confirms),
                    stored.made_ms,
                    self._server,
                    stored.peer,
                    stored.sid,
                ),
            )

    def _remember(self, stored: StoredSession) -> Callable[[], None]:
        snapshot, flags = stored.session.snapshot(), (stored.confirmed, stored.confirms, stored.made_ms)

        def undo() -> None:
            stored.session.restore(snapshot)
            stored.confirmed, stored.confirms, stored.made_ms = flags

        self._undone_by(undo)
        return undo

    def _undone_by(self, undo: Callable[[], object]) -> None:
        assert self._undo is not None  # noqa: S101 - only inside a step
        self._undo.append(undo)

    # which there are --------------------------------------------------------------------------------------------------

    def newest(self, peer: str, key_id: bytes) -> StoredSession | None:
        """The one that sends what is stored, with this key of the peer's; None: a new one has to be made."""
        for sid in self._sids(peer, "AND key_id = ? AND made_ms > 0", key_id):
            found = self.by_sid(peer, sid)
            if found is not None and found.session.can_send and sid != self.in_chat:
                return found
        return None

    def by_sid(self, peer: str, sid: bytes) -> StoredSession | None:
        """The one that a message of `peer` names. Whether its `key_id` is still the peer's key is for the caller."""
        known = self._cache.get((fold(peer), sid))
        return known if known is not None else self._load(fold(peer), sid)

    def _load(self, peer: str, sid: bytes) -> StoredSession | None:
        with transaction(self._database):
            row = self._database.execute(
                "SELECT device, key_id, made_ms, confirmed, confirms, state FROM sessions"
                " WHERE server = ? AND peer = ? AND sid = ? AND own_key_id = ?",
                (self._server, peer, sid, self._own_key_id),
            ).fetchone()
        if row is None:
            return None
        device, key_id, made_ms, confirmed, confirms, state = row
        try:
            session = ChatSession.decode(bytes(state), random=self._random, checkpoint=self._checkpoint)
        except Malformed:
            return None  # as if it had never been: the next message begins a new one, and asks for what was lost
        stored = StoredSession(
            peer, sid, bytes(device), bytes(key_id), session, made_ms, bool(confirmed), bool(confirms)
        )
        self._cache[peer, sid] = stored
        return stored

    def _sids(self, peer: str, more: str = "", *values: Any) -> list[bytes]:
        """Newest first; those that do not send any more come last."""
        with transaction(self._database):
            rows = self._database.execute(
                f"SELECT sid FROM sessions WHERE server = ? AND peer = ? AND own_key_id = ? {more}"  # noqa: S608 - our own
                " ORDER BY abs(made_ms) DESC",
                (self._server, fold(peer), self._own_key_id, *values),
            ).fetchall()
        return [bytes(sid) for (sid,) in rows]

    # what changes them ------------------------------------------------------------------------------------------------

    def add(
        self,
        peer: str,
        device: bytes,
        key_id: bytes,
        session: ChatSession,
        now_ms: int,
        *,
        confirmed: bool,
        confirms: bool = False,
    ) -> StoredSession:
        """A new session, the newest from now on; more than `SESSIONS` of this peer go, the oldest first.

        `key_id` is the key of the peer that the session is bound to. The object `session` stays in use.
        """
        folded = fold(peer)
        with self.step():
            (last,) = self._database.execute(
                "SELECT max(abs(made_ms)) FROM sessions WHERE server = ? AND peer = ?", (self._server, folded)
            ).fetchone()
            made_ms = max(now_ms, (last or 0) + 1)  # also after the clock was set back
            stored = StoredSession(folded, session.chat_id, device, key_id, session, made_ms, confirmed, confirms)
            self._database.execute(
                "INSERT INTO sessions"
                " (server, peer, sid, device, key_id, own_key_id, made_ms, confirmed, confirms, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._server,
                    folded,
                    stored.sid,
                    device,
                    key_id,
                    self._own_key_id,
                    made_ms,
                    int(confirmed),
                    int(confirms),
                    session.encode(),
                ),
            )
            place = (folded, stored.sid)
            self._undone_by(lambda: self._cache.pop(place, None))
            self._cache[place] = stored
            self._database.execute(
                "DELETE FROM sessions WHERE server = ? AND peer = ? AND own_key_id <> ?",
                (self._server, folded, self._own_key_id),
            )
            for old in self._sids(peer)[SESSIONS:]:
                self._remove(folded, old)
        return stored

    def prefer(self, stored: StoredSession) -> None:
        """Something came over it: answers go over it, too, or it would never turn. Inside `changing`.

        Two who began at the same time so come to use one session.
        """
        (last,) = self._database.execute(
            "SELECT max(made_ms) FROM sessions WHERE server = ? AND peer = ? AND own_key_id = ?",
            (self._server, stored.peer, self._own_key_id),
        ).fetchone()
        if 0 < stored.made_ms < (last or 0):
            stored.made_ms = last + 1

    def retire(self, peer: str) -> None:
        """Nothing more is sent over the sessions of `peer`: the next message begins a new one. They still receive."""
        with self.step():
            for (folded, _), stored in self._cache.items():
                if folded == fold(peer) and stored.made_ms > 0:
                    self._remember(stored)
                    stored.made_ms = -stored.made_ms
            self._database.execute(
                "UPDATE sessions SET made_ms = -made_ms WHERE server = ? AND peer = ? AND made_ms > 0",
                (self._server, fold(peer)),
            )

    def drop(self, peer: str) -> None:
        """Forget every session with `peer`."""
        with self.step():
            for place in [place for place in self._cache if place[0] == fold(peer)]:
                self._remove(*place)
            self._database.execute("DELETE FROM sessions WHERE server = ? AND peer = ?", (self._server, fold(peer)))

    def _remove(self, peer: str, sid: bytes) -> None:
        gone = self._cache.pop((peer, sid), None)
        if gone is not None:
            kept = gone
            self._undone_by(lambda: self._cache.__setitem__((peer, sid), kept))
        self._database.execute(
            "DELETE FROM sessions WHERE server = ? AND peer = ? AND sid = ?", (self._server, peer, sid)
        )
