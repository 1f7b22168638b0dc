"""Stored messages come in: opened, put on disk with all that follows from them, then acknowledged (protocol §9.3, §16).

What `Mailing` does, in its task (both wait for the key log; never in the reader):

    taken = await incoming.take_in(deliveries)     # the events `mail`, in their order
    … tell taken.events, then `ackm` taken.seqs, send what is queued if taken.queued

    taken = await incoming.reconsider(peer)        # after `trust`; with None after the login and when the log has grown
    events = incoming.healing.ask_again()          # once after the login
    events = incoming.healing.note_asking(peer, possible=False)     # nothing can begin a session with him: no prekeys
    incoming.purge()                               # now and then

and a chat with a ratchet message that came by `frwd`, in the reader:

    with sessions.changing(stored):
        received = stored.session.open_untrusted(message, wall_ms() / 1000)
        effects = incoming.apply(stored, peer, received, message, live=True)
    … tell effects.events; a receipt for effects.confirm where stored.confirms

A failure of the disk leaves everything as it was, in memory too: `UnusableSetup`, and nothing is acknowledged.
Receipts, requests and texts that are asked for lie in the outbox, not sealed yet, when the transaction has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Final

import trio

from messageapp.clock import DAY_MS
from messageapp.e2ee.envelope import MAX_IDS, Envelope
from messageapp.e2ee.offline import split_blob_untrusted
from messageapp.e2ee.session import Received
from messageapp.errors import MessageAppError
from messageapp.store import arrivals, outbox
from messageapp.store import messages as rows
from messageapp.store.arrivals import Held
from messageapp.store.conversations import conversation_of, find_conversation
from messageapp.store.states import Cause, State
from messageapp.wire.mail_forms import Delivery
from messageapp_keys.codec import Malformed, vec8
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold
from messageapp_keys.primitives import hash_bytes

from . import events as ev
from .context import ClientContext
from .effects import Effects, Taker
from .healing import Healing
from .opening import Hold, Log, Opener, Unreadable
from .sessions import Sessions, StoredSession

__all__ = ["BATCH", "MAX_HELD", "MAX_HELD_IN_ALL", "SEEN_DAYS", "Incoming", "Taken", "digest"]

BATCH: Final = 64  # messages in one transaction, and one wait for the disk: what a server has under way
BATCH_BYTES: Final = 256 << 10  # the same: a long text, or change of one, holds up every other task for up to 1 s
MAX_HELD: Final = 1000  # of one peer, until his key is accepted; more are asked for again then
MAX_HELD_IN_ALL: Final = 10_000  # the same, of all peers together: 1.2 GiB at worst
SEEN_DAYS: Final = 90  # three times as long as a server keeps a message


def digest(message: bytes) -> bytes:
    """[16] by which a ratchet message is known again, by `mail` or by `frwd`."""
    return hash_bytes(message)[:16]


def _fitting(blobs: Sequence[bytes]) -> int:
    """How many of these, from the first on, go into one transaction: at least one."""
    sizes = accumulate(map(len, blobs))
    return max(1, sum(size <= BATCH_BYTES for size in sizes))


@dataclass(slots=True)
class Taken(Effects):
    """What several messages came to. `seqs` may be acknowledged: all of it is on disk."""

    seqs: list[int] = field(default_factory=list)

    def add(self, effects: Effects) -> None:
        self.events += effects.events
        self.queued |= effects.queued
        self.texts += effects.texts


@dataclass(frozen=True, slots=True)
class _Item:
    sender: str  # in the registered spelling
    id: bytes
    blob: bytes
    held: Held | None = None


def _unopened(item: _Item) -> bytes:
    """By which something closed is known again: as it came, so that it can still be opened when it comes otherwise."""
    return digest(b"".join((vec8(item.sender.encode()), item.id, item.blob)))


def _known_by(item: _Item) -> tuple[bytes, ...]:
    try:
        return _unopened(item), digest(split_blob_untrusted(item.blob).message)
    except Malformed:
        return (_unopened(item),)


@dataclass(slots=True)
class _Batch:
    """What one transaction gathers."""

    taken: Taken = field(default_factory=Taken)
    confirm: dict[str, list[bytes]] = field(default_factory=dict)
    unreadable: dict[str, dict[bytes, int]] = field(default_factory=dict)  # peer → id → number
    notes: list[tuple[str, bytes]] = field(default_factory=list)  # (peer, his checkpoint of the key log)
    waits: bool = False  # one was, or stays, held


class Incoming:
    """`opener` opens what comes, `log` hears of the checkpoints in it."""

    def __init__(
        self,
        context: ClientContext,
        sessions: Sessions,
        log: Log,
        opener: Opener,
        ended: Callable[[], MessageAppError | None] = lambda: None,
    ) -> None:
        """`ended`: the session is over, and with it who would be told."""
        self._ended = ended
        self._account = context.account
        self._database = context.database
        self._server = context.server
        self._wall_ms = context.wall_ms
        self._random = context.random
        self._sessions = sessions
        self._log = log
        self._opener = opener
        self._taker = Taker(context, sessions)
        self.healing = Healing(context, sessions)
        self._first: dict[str, IdentityBundle] = {}  # pinned by a message without text: told with the first text

    # what is asked of it ----------------------------------------------------------------------------------------------

    async def take_in(self, deliveries: Sequence[Delivery]) -> Taken:
        """Put them all on disk. In order; raises the session's error at its end, `UnusableSetup` at a full disk.

        What was taken in before it was raised comes again, and is known.
        """
        taken = Taken()
        while left := deliveries[len(taken.seqs) :]:
            part = left[: _fitting([each.blob for each in left[:BATCH]])]
            batch = await self._take([_Item(each.sender, each.id, each.blob) for each in part])
            taken.add(batch.taken)
            taken.seqs += [each.seq for each in part]
        return taken

    async def reconsider(self, peer: str | None = None) -> Taken:
        """Open what is held, of one peer or of all, where nothing stands against it any more."""
        taken = Taken()
        for each in arrivals.held_peers(self._database, self._server) if peer is None else [fold(peer)]:
            above = 0
            while held := arrivals.list_held(self._database, self._server, each, above, BATCH):
                held = held[: _fitting([row.blob for row in held])]
                batch = await self._take([_Item(row.peer, row.id, row.blob, row) for row in held])
                taken.add(batch.taken)
                if batch.waits:
                    break
                above = held[-1].place
                events = self.healing.ask_again()  # what there was no room to hold
                taken.queued |= bool(events)
                taken.events += events
        return taken

    def apply(
        self,
        stored: StoredSession,
        peer: str,
        received: Received,
        message: bytes,
        *,
        live: bool = False,
        first: IdentityBundle | None = None,
    ) -> Effects:
        """All that follows from a ratchet message that has opened, inside `Sessions.changing(stored)`.

        `peer` in the registered spelling; `message` empty where it cannot come a second time. A check by emoji and the
        checkpoint in it are the caller's.
        """
        if message:
            arrivals.note_seen(self._database, self._server, digest(message), self._wall_ms())
        return self._taker.apply(stored, peer, received, live=live, first=first)

    def note_pinned(self, peer: str, bundle: IdentityBundle) -> None:
        """A key was pinned by a note of ours: its number is told with the first text."""
        self._first[fold(peer)] = bundle

    def purge(self) -> None:
        """Forget what is too old to come again."""
        arrivals.purge_arrivals(self._database, self._server, self._wall_ms() - SEEN_DAYS * DAY_MS)

    # one transaction --------------------------------------------------------------------------------------------------

    async def _take(self, items: Sequence[_Item]) -> _Batch:
        await trio.lowlevel.checkpoint()
        await self._opener.prepare((item.sender, item.blob) for item in items)
        if (error := self._ended()) is not None:
            raise error
        batch, first = _Batch(), dict(self._first)
        try:
            with self._sessions.step():
                for item in items:
                    self._one(item, batch)
                self._answer(batch)
        except BaseException:
            self._first = first
            raise
        for peer, note in batch.notes:
            self._log.hear_peer(peer, note)
        return batch

    def _one(self, item: _Item, batch: _Batch) -> None:
        peer = item.sender
        if fold(peer) == fold(self._account.user):
            return
        if item.held is None and any(arrivals.was_seen(self._database, self._server, each) for each in _known_by(item)):
            self._again(item, batch)
            return
        if arrivals.count_held(self._database, self._server, peer) if item.held is None else batch.waits:
            self._hold(item, None, batch)  # behind those that came before it
            return
        try:
            self._opener.open_untrusted(peer, item.blob, partial(self._effects, item, batch))
        except Hold as hold:
            self._hold(item, hold, batch)
            return
        except Unreadable:
            self._unreadable(item, batch, Cause.ASKED_AGAIN)
        if item.held is not None:
            arrivals.remove_held(self._database, item.held.place)
            self._close(item.held)

    def _note_unopened(self, item: _Item) -> None:
        arrivals.note_seen(self._database, self._server, _unopened(item), self._wall_ms())

    def _again(self, item: _Item, batch: _Batch) -> None:
        """It was taken in; the receipt may have been lost, if that went by `frwd`."""
        of = find_conversation(self._database, self._server, item.sender)
        found = None if of is None else rows.find_by_id(self._database, of.id, item.id, own=False)
        deleted = arrivals.was_seen(self._database, self._server, arrivals.text_hash(item.sender, item.id))
        if deleted or (found is not None and found.text is not None):
            batch.confirm.setdefault(item.sender, []).append(item.id)

    def _effects(
        self,
        item: _Item,
        batch: _Batch,
        stored: StoredSession,
        received: Received,
        message: bytes,
        pinned: IdentityBundle | None,
    ) -> None:
        if pinned is not None:
            self._first[stored.peer] = pinned
        effects = self.apply(stored, item.sender, received, message, first=self._first.get(stored.peer))
        if effects.texts:
            self._first.pop(stored.peer, None)
        batch.taken.add(effects)
        batch.confirm.setdefault(item.sender, []).extend(effects.confirm)
        if received.envelope.checkpoint:
            batch.notes.append((item.sender, received.envelope.checkpoint))

    # what could not be opened -----------------------------------------------------------------------------------------

    def _line(self, item: _Item, state: State, cause: Cause) -> tuple[int, bool] | None:
        """(number, whether that is new) of the line that stands for it; None where its text is there already."""
        of, now = conversation_of(self._database, self._server, item.sender, registered=True), self._wall_ms()
        number = rows.add_received(
            self._database, of, item.id, None, written_ms=now, now_ms=now, state=state, cause=cause
        )
        if number is not None:
            return number, True
        found = rows.find_by_id(self._database, of, item.id, own=False)
        if found is None or found.text is not None:
            return None
        rows.set_state(self._database, found.number, state, cause, now)
        return found.number, False

    def _hold(self, item: _Item, hold: Hold | None, batch: _Batch) -> None:
        """`hold` None: only because something before it is held."""
        batch.waits = True
        if hold is not None and hold.told is not None:
            batch.taken.events.append(hold.told)
        if item.held is not None:
            if hold is not None:
                self._line(item, State.HELD, hold.cause)
            return
        cause = self._cause_before(item.sender) if hold is None else hold.cause
        if self._holds_enough(item.sender):
            self._unreadable(item, batch, Cause.CANNOT_ASK)
        elif (line := self._line(item, State.HELD, cause)) is not None:
            arrivals.add_held(self._database, self._server, item.sender, line[0], item.id, item.blob, self._wall_ms())
            batch.taken.events.append(ev.MessageHeld(item.sender, line[0]))
        self._note_unopened(item)

    def _holds_enough(self, peer: str) -> bool:
        of_peer, in_all = (arrivals.count_held(self._database, self._server, each) for each in (peer, None))
        return of_peer >= MAX_HELD or in_all >= MAX_HELD_IN_ALL

    def _cause_before(self, peer: str) -> Cause:
        pin = self._account.trust.pin(peer, self._server)
        return Cause.HELD_KEY if pin is not None and pin.changed else Cause.HELD_LOG

    def _unreadable(self, item: _Item, batch: _Batch, cause: Cause) -> None:
        self._note_unopened(item)
        line = self._line(item, State.UNREADABLE, cause)
        if line is None:
            return
        if line[1] or item.held is not None:
            batch.taken.events.append(ev.MessageUnreadable(item.sender, line[0]))
        if cause is Cause.ASKED_AGAIN:
            batch.unreadable.setdefault(item.sender, {})[item.id] = line[0]

    def _close(self, held: Held) -> None:
        """The line that stood for a held message, where that had no text, or another id."""
        found = None if held.number is None else rows.find_message(self._database, self._server, held.number)
        if found is not None and found.state is State.HELD:
            self._taker.withdraw(found.number)

    # what goes back ---------------------------------------------------------------------------------------------------

    def _answer(self, batch: _Batch) -> None:
        """One receipt for each peer, and one request for what could not be read."""
        now = self._wall_ms()
        for peer, ids in batch.confirm.items():
            some = tuple(dict.fromkeys(ids))[:MAX_IDS]
            if some:
                note = Envelope(self._random(16), now, receipts=some)
                outbox.add(self._database, self._server, peer, note.id, now_ms=now, content=note.encode())
                batch.taken.queued = True
        for peer, lines in batch.unreadable.items():
            for id, cause in self.healing.ask(peer, list(lines)).items():
                rows.set_state(self._database, lines[id], State.UNREADABLE, cause, now)
            batch.taken.queued = True
