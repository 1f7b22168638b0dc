"""The tasks of a session that send what is queued and take in what the server has stored (protocol §9, §16).

What is under way is in the account's database; this keeps nothing that a crash could lose. The reader of the session
only hands over what came, and never waits for any of it. Where the server stores no messages, or this client runs
beside the account's own (`Account.device`), nothing is asked and nothing is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import trio

from messageapp.e2ee.envelope import Envelope
from messageapp.errors import CannotStore, MessageAppError, RemoteProtocolError, RequestRefused
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.arrivals import held_peers
from messageapp.store.changes import PURGED_AT_ONCE, next_expiry, purge_expired
from messageapp.store.conversations import note_seen
from messageapp.store.states import Cause, State
from messageapp.wire.commands import ErrorCode
from messageapp.wire.mail_forms import (
    Acknowledgement,
    Delivery,
    PeerPrekey,
    PrekeyRequest,
    PrekeyState,
    PrekeyUpload,
)
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.prekeys import Prekey

from . import events as ev
from .context import ClientContext
from .following import LogFollower
from .incoming import BATCH, Incoming, Taken
from .opening import Opener
from .outgoing import STORE_SECONDS, Host, Outgoing
from .prekeys import Prekeys
from .session import expect
from .sessions import Sessions

__all__ = ["MailStatus", "Mailing"]

T = TypeVar("T")

DELIVERIES: Final = 256  # stored messages that the server has sent us and that wait; an honest one sends 64
KEEP_SECONDS: Final = 3600.0  # between two looks at what is too old
UPKEEP_SECONDS: Final = 86_400.0  # between two looks at the prekeys, where the server does not ask for one
UPKEEP_PAUSE_SECONDS: Final = 10.0  # between two of them, however often the server asks: each may be 100 signatures
REFUSED_SECONDS: Final = 60.0  # before a server that refused to speak of prekeys is asked again
_TICK_SECONDS: Final = 0.02  # between two looks whether all is done, on the way out
_GRACE_MS: Final = 3_600_000  # the server purges once an hour


@dataclass(frozen=True, slots=True)
class MailStatus:
    """For a status line."""

    queued: int  # own messages that neither the server nor the peer has
    absent: bool  # the server stores no messages (or has not said yet): only live chat
    kept_s: int  # so long the server keeps a message; 0 where it stores none
    received: int  # messages taken in since the login
    lost: int  # own live texts that no receipt will ever come for, and gaps in what came


class Mailing:
    """`Client.mail`."""

    def __init__(self, host: Host, context: ClientContext, log: LogFollower) -> None:
        account, server, random, wall_ms = context.account, context.server, context.random, context.wall_ms
        self.database = context.database
        self.server = server
        self.now_ms = wall_ms
        self.sessions = Sessions(self.database, server, account.user, account.identity.key_id, random, log.note)
        self.prekeys = Prekeys(self.database, server, account.user, account.identity, random, wall_ms)
        opener = Opener(context, self.sessions, self.prekeys, log, self._bundle_of)
        self.incoming = Incoming(context, self.sessions, log, opener, lambda: host.ended)
        self.outgoing = Outgoing(
            host, context, self.sessions, log, self.incoming.healing.note_asking, self.incoming.note_pinned
        )
        self.received = 0  # since the login
        self.gaps = 0  # texts of peers that did not come, where nothing brings them any more
        self._host = host
        self._log = log
        self._beside = account.device is not None
        self._random = random
        self._state: PrekeyState | None = None
        self._released = False
        self._reachable = False  # the server has prekeys of this device
        self._looked = False  # at what the server had at the login
        self._nursery: trio.Nursery | None = None
        self._online: frozenset[str] = frozenset()
        self._deliveries: deque[Delivery] = deque()
        self._reconsider: set[str | None] = set()
        self._arrived, self._upkeep_due = trio.Event(), trio.Event()
        self._poked, self._asked = trio.Event(), trio.Event()  # one for each task that waits for `poke`

    # what anybody may call; none of these waits -----------------------------------------------------------------------

    def poke(self, peer: str | None = None) -> None:
        """Look again now: something was queued, a key was accepted, or the user wants another try.

        With `peer`, what waits for him is tried again whatever his trouble was, and what is held because of his key is
        looked at again; without, only what may be sent now is.
        """
        if peer is not None and self._state is not None:
            self._look_again(peer)
            self.outgoing.wake(peer)
        self.outgoing.poke()
        for event in (self._poked, self._asked):
            event.set()

    def status(self) -> MailStatus:
        """One query of the database: not for a redraw at every key."""
        queued = len(rows.find_open(self.database, self.server, (State.QUEUED,)))
        kept_s = 0 if self._state is None else self._state.kept_s
        return MailStatus(queued, self._state is None, kept_s, self.received, self.outgoing.lost + self.gaps)

    def carries(self, number: int) -> bool:
        """Message `number` goes through the server's storage."""
        found = rows.find_message(self.database, self.server, number) if number else None
        return found is not None and found.state not in (State.FAILED, State.SENT)

    def receipt(self, ids: tuple[bytes, ...]) -> Envelope:
        """A note that these are on our disk; without any, that this client sends receipts."""
        return Envelope(self._random(16), self.now_ms(), receipts=ids)

    async def settle(self) -> None:
        """Wait until what can be done now is done: others can write to us, what came is stored, what waits is sent."""
        while self._host.ended is None and not self._at_rest():  # noqa: ASYNC110 - three tasks would have to tell
            await trio.sleep(_TICK_SECONDS)

    def _at_rest(self) -> bool:
        if self._beside or self.outgoing.absent:
            return True
        return self._reachable and not self._deliveries and not self.outgoing.busy

    # from the reader --------------------------------------------------------------------------------------------------

    def hear(self, delivery: Delivery) -> None:
        """The event `mail`."""
        if len(self._deliveries) >= DELIVERIES:
            raise RemoteProtocolError("the server sends more stored messages than were acknowledged")
        self._deliveries.append(delivery)
        self._arrived.set()

    def hear_state(self, state: PrekeyState) -> None:
        """The event `prek`: few are left, or another device receives our messages now."""
        self._state = state
        self._upkeep_due.set()

    def note_online(self, users: Iterable[str]) -> None:
        """Who is online now: `why` says when a peer was last seen, and what waits for who has come is tried again."""
        users, before = tuple(users), self._online
        self._online = frozenset(users)
        self.outgoing.reachable(self._online - before)
        with self.sessions.step():
            for user in users:
                note_seen(self.database, self.server, user, self.now_ms())

    def hear_log(self) -> None:
        """The key log was read further."""
        self._look_again(None)

    def _look_again(self, peer: str | None) -> None:
        self._reconsider.add(peer)
        self._arrived.set()

    def close(self) -> None:
        """The session is over."""
        if self._beside:  # what is queued waits for the client that has it
            return
        self._note_queued({Cause.WAITING, Cause.BUSY}, Cause.NOT_CONNECTED)

    # the tasks --------------------------------------------------------------------------------------------------------

    async def run(self, nursery: trio.Nursery) -> None:
        """Start, and run in `nursery` until it is cancelled."""
        self._nursery = nursery
        if not self._beside:
            await self._guard(lambda: self._run(nursery))

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """What a task cannot do ends the session. On a full disk the task begins again a little later; nothing is
        acknowledged meanwhile that is not stored."""
        while True:
            try:
                await task()
                return
            except CannotStore as error:
                await self._host.not_stored(error)
            except MessageAppError as error:
                if self._host.ended is None:
                    await self._host.failed(error)
                return
            await trio.sleep(STORE_SECONDS)

    def later(self, step: Callable[[], list[ev.Event]]) -> None:
        """What there was no room for: again, until there is; then what follows is told."""

        async def task() -> None:
            for event in step():
                await self._host.tell(event)

        assert self._nursery is not None  # noqa: S101 - run comes first
        self._nursery.start_soon(self._guard, task)

    async def _run(self, nursery: trio.Nursery) -> None:
        if not self._released:  # of a chat that a crash has ended
            outbox.release_live(self.database, self.server)
            self._released = True
        self._note_queued({Cause.NOT_CONNECTED, Cause.IN_CHAT}, Cause.WAITING)
        nursery.start_soon(self._guard, self._keep)
        try:
            self._state = await self._patiently(self._ask_state)
        except RequestRefused:
            nursery.start_soon(self._guard, self._refuse)
            return
        keep_prekeys = partial(self._patiently, self._keep_prekeys)
        expire = partial(self._expire_sent, self.now_ms())  # now that it is known how long the server keeps things
        for task in (expire, self._take_in, keep_prekeys, lambda: self.outgoing.run(nursery)):
            nursery.start_soon(self._guard, task)

    async def _patiently(self, task: Callable[[], Awaitable[T]]) -> T:
        """`task`, begun again a little later where the server refuses: it may have too much to do. Raises the refusal
        of a server that stores no messages."""
        while True:
            try:
                return await task()
            except RequestRefused as error:
                if error.code == ErrorCode.UNKNOWN_VERB:
                    raise
            await trio.sleep(REFUSED_SECONDS)

    async def _refuse(self) -> None:
        """There is no storage: whatever is queued says so."""
        while self._host.ended is None:
            self._asked = trio.Event()
            self.outgoing.refuse_all()
            await self.outgoing.tell_news()
            await self._asked.wait()

    async def _ask_state(self) -> PrekeyState:
        state: PrekeyState = expect(await self._host.ask("prek", PrekeyUpload()), PrekeyState)
        return state

    # prekeys ----------------------------------------------------------------------------------------------------------

    async def _keep_prekeys(self) -> None:
        """The device that logs in takes the mailbox over; one that lost it since then leaves it where it is."""
        assert self._state is not None  # noqa: S101 - asked before this runs
        if self._looked:  # it begins again: something was uploaded, perhaps
            self._state = await self._ask_state()
        state, self._looked = self._state, True
        self._reachable = state.receives and bool(state.last_resort_ms)
        moved_here = not state.receives and self.prekeys.uploaded_before()
        while True:
            self._upkeep_due = trio.Event()
            again = trio.current_time() + UPKEEP_PAUSE_SECONDS
            if await self.prekeys.upkeep(state, self._upload):
                self._state = await self._ask_state()
            if moved_here:
                moved_here = False
                await self._host.tell(ev.MailMoved(to_us=True))
            with trio.move_on_after(UPKEEP_SECONDS):
                await self._upkeep_due.wait()
            if not self._upkeep_due.is_set():
                self._state = await self._ask_state()
            if self._state.receives:
                await trio.sleep_until(again)
            state = self._state
            if not state.receives:
                await self._host.tell(ev.MailMoved(to_us=False))
                return

    async def _bundle_of(self, user: str) -> IdentityBundle:
        """As the server gives it, where there is no key log that could say more."""
        reply: PeerPrekey = expect(await self._host.ask("bndl", PrekeyRequest(user)), PeerPrekey)
        try:
            return IdentityBundle.parse_untrusted(reply.bundle)
        except Malformed:
            raise RemoteProtocolError("a peer's key has not the form of one") from None

    async def _upload(self, prekeys: Sequence[Prekey]) -> None:
        await self._host.ask("prek", PrekeyUpload(b"".join([prekey.encode() for prekey in prekeys])))
        self._reachable = True

    # stored messages that come ----------------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        self._look_again(None)
        with self.sessions.step():
            events = self.incoming.healing.ask_again()
        for event in events:
            await self._host.tell(event)
        self.outgoing.poke()
        while True:
            # Without a key log nothing tells that a sender's key can be had now.
            unasked = not self._log.kept and held_peers(self.database, self.server)
            with trio.move_on_after(REFUSED_SECONDS if unasked else float("inf")):
                await self._arrived.wait()
            if not self._arrived.is_set():
                self._reconsider.add(None)
            self._arrived = trio.Event()
            while self._reconsider:
                await self._tell(await self.incoming.reconsider(self._reconsider.pop()))
            while self._deliveries:
                batch = list(islice(self._deliveries, BATCH))
                taken = await self.incoming.take_in(batch)
                for _ in batch:  # they are on disk
                    self._deliveries.popleft()
                self._host.note_stored()
                await self._tell(taken)  # first: after the end of the session nobody hears it
                await self._host.post("ackm", Acknowledgement(tuple(taken.seqs)), lambda reply: None)

    async def _tell(self, taken: Taken) -> None:
        self.received += taken.texts
        for event in taken.events:
            await self._host.tell(event)
        self.outgoing.reachable(event.peer for event in taken.events if isinstance(event, ev.MessageReceived))
        if taken.queued:
            self.outgoing.poke()

    # what is too old --------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Messages vanish when they have had their time, and what the server has had for too long has failed."""
        again = trio.current_time()
        while True:
            self._poked = trio.Event()
            now = self.now_ms()
            if trio.current_time() >= again:
                again = trio.current_time() + KEEP_SECONDS
                self.incoming.purge()
                await self._expire_sent(now)
            until = next_expiry(self.database)
            if until is not None and until <= now:
                purge_expired(self.database, now, PURGED_AT_ONCE)
                await trio.lowlevel.checkpoint()
                continue
            vanish = again if until is None else trio.current_time() + max((until - now) / 1000, 1.0)
            with trio.move_on_at(min(again, vanish)):
                await self._poked.wait()

    async def _expire_sent(self, now: int) -> None:
        if self._state is None or not self._state.kept_s:
            return
        for message in rows.find_open(self.database, self.server, (State.SENT,)):
            over = message.changed_ms + 1000 * self._state.kept_s + _GRACE_MS < now
            if over and message.cause is Cause.AT_SERVER:
                await self._set(message, State.FAILED, Cause.EXPIRED)

    async def _set(self, message: rows.Message, state: State, cause: Cause) -> None:
        if rows.set_state(self.database, message.number, state, cause, self.now_ms()):
            await self._host.tell(ev.MessageChanged(message.number, message.peer, state, cause))

    def _note_queued(self, before: set[Cause], cause: Cause) -> None:
        with self.sessions.step():
            for message in rows.find_open(self.database, self.server, (State.QUEUED,)):
                if message.cause in before:
                    rows.set_state(self.database, message.number, State.QUEUED, cause, self.now_ms())
