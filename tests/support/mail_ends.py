"""Two clients' halves that store messages, with a post office between them instead of a server; on no clock."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import trio

from messageapp.client.asking import LogUnavailable
from messageapp.client.context import ClientContext
from messageapp.client.incoming import Incoming, Taken
from messageapp.client.lies import KeyRefused, Refusal
from messageapp.client.login import Account
from messageapp.client.messages import Messages
from messageapp.client.opening import Opener
from messageapp.client.prekeys import Prekeys
from messageapp.client.sessions import Sessions, StoredSession
from messageapp.client.trust import Trust
from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.exchange import Parties
from messageapp.e2ee.offline import message_blob, start_blob, start_untrusted
from messageapp.e2ee.session import ChatSession
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.database import open_database
from messageapp.store.messages import Message
from messageapp.store.outbox import Waiting
from messageapp.store.states import Cause, State
from messageapp.wire.mail_forms import Delivery, PrekeyState
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.names import fold
from messageapp_keys.prekeys import Prekey, PrekeyKind

from .keys import seeded
from .world import authority, identity

SERVER = "chat.example"
START_MS = 1_800_000_000_000


@cache
def _empty() -> sqlite3.Connection:
    with tempfile.TemporaryDirectory() as folder, closing(open_database(Path(folder) / "a.db", "account")) as made:
        copy = sqlite3.connect(":memory:", isolation_level=None)
        made.backup(copy)
    return copy


class FailingDatabase:
    """A database in memory, one of whose statements fails: the disk is full."""

    def __init__(self, source: sqlite3.Connection | None = None) -> None:
        self.inner = sqlite3.connect(":memory:", isolation_level=None)
        (source or _empty()).backup(self.inner)
        self.statements = 0
        self.fail_at: int | None = None

    @property
    def in_transaction(self) -> bool:
        return self.inner.in_transaction

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._count(sql)
        return self.inner.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        self._count(sql)
        return self.inner.executemany(sql, parameters)

    def close(self) -> None:
        self.inner.close()

    def _count(self, sql: str) -> None:
        if sql == "ROLLBACK":
            return
        self.statements += 1
        if self.statements == self.fail_at:
            raise sqlite3.OperationalError("database or disk is full")

    def dump(self) -> bytes:
        """Everything that is on the disk."""
        return self.inner.serialize()

    def copy(self) -> FailingDatabase:
        return FailingDatabase(self.inner)


class FakeLog:
    """A key log that has `keys`."""

    def __init__(self, *, kept: bool = True) -> None:
        self.kept = kept
        self.alarm = ""
        self.unavailable = False
        self.keys: dict[str, IdentityBundle] = {}
        self.old: set[bytes] = set()  # key ids that the log has replaced
        self.heard: list[tuple[str, bytes]] = []
        self.asked: list[str] = []

    def note(self) -> bytes:
        return b"a checkpoint"

    async def caught_up(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.alarm:
            raise KeyRefused(Refusal.ALARM)
        if self.unavailable:
            raise LogUnavailable

    async def key_of(self, user: str) -> IdentityBundle:
        self.asked.append(user)
        await self.caught_up()
        if user not in self.keys:
            raise KeyRefused(Refusal.NOT_INCLUDED, user)
        return self.keys[user]

    def outdated(self, peer: str, key_id: bytes) -> bool:
        return key_id in self.old

    def hear_peer(self, peer: str, data: bytes) -> None:
        self.heard.append((peer, data))


class End:
    """What one user's client has on its disk and in memory; `restart` keeps the disk only."""

    def __init__(self, name: str, *, log: FakeLog | None = None, database: FailingDatabase | None = None) -> None:
        self.name = name
        self.identity: PrivateIdentity = identity(name)
        self.log = log or FakeLog()
        self.database = database or FailingDatabase()
        self.random = seeded(sum(name.encode()))
        self.ms = START_MS
        self.seq = 0
        self.prekeys_served: list[Prekey] = []
        self.restart()

    def wall_ms(self) -> int:
        return self.ms

    def restart(self) -> None:
        who, where = self.identity, self.database
        self.trust = Trust(where, self.name, who.bundle, self.wall_ms)
        self.account = Account(self.name, who, authority()[1], self.trust, SERVER)
        self.sessions = Sessions(where, SERVER, self.name, who.key_id, self.random, self.log.note)
        self.prekeys = Prekeys(where, SERVER, self.name, who, self.random, self.wall_ms)
        context = ClientContext(self.account, SERVER, self.random, self.wall_ms)
        opener = Opener(context, self.sessions, self.prekeys, self.log, self._bundle_of)
        self.incoming = Incoming(context, self.sessions, self.log, opener)
        self.messages = Messages(where, SERVER, self.name, self.wall_ms, self.random)

    def twin(self) -> End:
        """The same disk, copied, and nothing in memory."""
        other = End(self.name, log=self.log, database=self.database.copy())
        other.ms, other.seq, other.prekeys_served = self.ms, self.seq, list(self.prekeys_served)
        return other

    async def _bundle_of(self, user: str) -> IdentityBundle:
        return await self.log.key_of(user)

    async def publish(self, *, one_time: int = 4) -> None:
        """Prekeys as the server has them; only so many one-time ones are given."""

        async def upload(prekeys: Sequence[Prekey]) -> None:
            self.prekeys_served += prekeys

        await self.prekeys.upkeep(PrekeyState(100 - one_time if one_time > 50 else 51, 0, True, 30 * 86_400), upload)
        while sum(each.kind is PrekeyKind.ONE_TIME for each in self.prekeys_served) < one_time:
            made = await self.prekeys._make(PrekeyKind.ONE_TIME)
            self.prekeys._store([made])
            self.prekeys_served.append(made.public)

    def give_prekey(self) -> Prekey:
        one_time = [each for each in self.prekeys_served if each.kind is PrekeyKind.ONE_TIME]
        if not one_time:
            return next(each for each in self.prekeys_served if each.kind is PrekeyKind.LAST_RESORT)
        self.prekeys_served.remove(one_time[0])
        return one_time[0]

    # sending, as plainly as it can be --------------------------------------------------------------------------------

    def start(self, to: End) -> tuple[StoredSession, Any]:
        """A new session with `to` under one of its prekeys; (session, start)."""
        prekey, bundle = to.give_prekey(), to.identity.bundle
        parties = Parties(SERVER, self.random(16), self.name, self.identity.bundle, to.name, bundle)
        start = start_untrusted(parties, self.identity, prekey, self.random, self.trust.device())
        session = ChatSession(
            start.secrets,
            user=self.name,
            peer=to.name,
            random=self.random,
            peer_ratchet=start.peer_ratchet,
            checkpoint=self.log.note,
        )
        with self.sessions.step():
            self.trust.pin_first(to.name, SERVER, bundle)
            added = self.sessions.add(to.name, bytes(16), bundle.key_id, session, self.ms, confirmed=False)
        return added, start

    def seal(self, to: End, envelope: Envelope) -> bytes:
        """A blob: over the newest session, or a start."""
        stored, start = self.sessions.newest(to.name, to.identity.key_id), None
        if stored is None:
            stored, start = self.start(to)
        with self.sessions.changing(stored):
            message = stored.session.seal_envelope(envelope)
        return message_blob(message) if start is None else start_blob(start, message)

    def deliver(self, to: End, id: bytes, blob: bytes) -> Delivery:
        to.seq += 1
        return Delivery(self.name, to.seq, id, blob)

    def note(self, to: End, **content: Any) -> Delivery:
        """An envelope by hand."""
        content.setdefault("id", self.random(16))
        content.setdefault("time_ms", self.ms)
        envelope = Envelope(**content)
        return self.deliver(to, envelope.id, self.seal(to, envelope))

    def waiting(self, to: str = "") -> list[Waiting]:
        found = outbox.due(self.database, SERVER, self.ms, 10_000)
        return [row for row in found if not to or fold(row.peer) == to]

    def notes(self, to: str = "") -> list[Envelope]:
        """What waits to be sent and is not sealed."""
        return [Envelope.parse_untrusted(row.content) for row in self.waiting(to) if row.blob is None]

    def post(self, to: End) -> list[Delivery]:
        """Everything that waits for `to` goes out; the server has it."""
        sent = []
        for row in self.waiting(to.name):
            blob = row.blob or self.seal(to, Envelope.parse_untrusted(row.content))
            outbox.remove(self.database, row.place)
            if row.number is not None:
                rows.set_state(self.database, row.number, State.SENT, Cause.AT_SERVER, self.ms)
            sent.append(self.deliver(to, row.id, blob))
        return sent

    async def take(self, deliveries: Sequence[Delivery]) -> Taken:
        taken = await self.incoming.take_in(deliveries)
        assert taken.seqs == [each.seq for each in deliveries]
        return taken

    async def exchange(self, other: End) -> None:
        """Until neither has anything to say."""
        while self.waiting(other.name) or other.waiting(self.name):
            await other.take(self.post(other))
            await self.take(other.post(self))

    # looking ---------------------------------------------------------------------------------------------------------

    def history(self, peer: str) -> list[Message]:
        return self.messages.history(peer, 10_000)

    def texts(self, peer: str) -> list[str | None]:
        return [message.text for message in self.history(peer)]

    def line(self, peer: str) -> tuple[State, Cause, str | None]:
        """The last one."""
        last = self.history(peer)[-1]
        return last.state, last.cause, last.text

    def count(self, table: str) -> int:
        (found,) = self.database.inner.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - a test's
        return int(found)

    @contextmanager
    def failing(self, at: int) -> Iterator[None]:
        """Statement number `at` from here on fails."""
        self.database.fail_at = self.database.statements + at
        try:
            yield
        finally:
            self.database.fail_at = None


async def two_ends(first: str = "alice", second: str = "bob", *, kept: bool = True) -> tuple[End, End]:
    """Both have published prekeys, and the log has both keys; neither knows the other."""
    ends = End(first, log=FakeLog(kept=kept)), End(second, log=FakeLog(kept=kept))
    for end in ends:
        end.log.keys = {each.name: each.identity.bundle for each in ends}
        await end.publish()
    return ends
