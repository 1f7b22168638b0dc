"""Sends what waits in the outbox, and says of every message that cannot go why (protocol §9, §16).

    row without blob → a session (or `bndl`, and a new one) → sealed, on disk → `send` → `ackd` → row gone, state sent

What is sealed is sent as the same bytes until the server has them. The rows of one peer go in their order, and what
changes a message only when the server, or the peer, has that; whatever is wrong with one peer holds up nobody else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import trio

from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.offline import START, message_blob, start_blob
from messageapp.errors import CannotStore, MessageAppError, RemoteProtocolError, RequestRefused
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.conversations import conversation_of
from messageapp.store.outbox import Waiting
from messageapp.store.states import Cause, State
from messageapp.wire.commands import ErrorCode
from messageapp.wire.mail_forms import MailRequest, Stored
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold

from . import events as ev
from .context import ClientContext
from .following import LogFollower
from .session import expect
from .sessions import Sessions, StoredSession
from .starting import CannotStart, start_session

__all__ = ["MAX_RETRY_SECONDS", "SENDS", "STORE_SECONDS", "Host", "Outgoing"]

SENDS: Final = 16
"""Messages under way to the server at once: enough for its group commit, and little to send again after a cut."""
STARTS: Final = 4  # prekeys asked for at once
MAX_RETRY_SECONDS: Final = 3600.0
STORE_SECONDS: Final = 30.0  # before what this disk could not take is tried again
_LOOK: Final = 64  # rows that are read at once

_RETRY_SECONDS: Final[dict[Cause, float]] = {
    Cause.NO_PREKEYS: 60.0,
    Cause.MAILBOX_FULL: 60.0,
    Cause.SERVER_DISK_FULL: 60.0,
    Cause.BUSY: 5.0,
    Cause.KEY_UNCHECKED: 30.0,
    Cause.BLOCKED: MAX_RETRY_SECONDS,  # earlier when the user does something about it
    Cause.KEY_CHANGED: MAX_RETRY_SECONDS,
    Cause.LOG_ALARM: MAX_RETRY_SECONDS,
    Cause.NO_MAIL: MAX_RETRY_SECONDS,
}
"""Until the next try, doubled at each one."""

_REFUSED: Final[dict[int, Cause]] = {
    ErrorCode.NOT_NOW: Cause.BLOCKED,
    ErrorCode.RATE: Cause.BUSY,
    ErrorCode.STORAGE: Cause.MAILBOX_FULL,
    ErrorCode.DISK_FULL: Cause.SERVER_DISK_FULL,
    ErrorCode.UNKNOWN_VERB: Cause.NO_MAIL,
}
"""What a refused `send` means for a message that is tried again; any other refusal is the end of it."""


class Host(Protocol):
    """The client, seen from here."""

    @property
    def ended(self) -> MessageAppError | None: ...
    async def ask(self, verb: str, argument: Any) -> Any: ...
    async def post(self, verb: str, argument: Any, apply: Callable[[Any], None]) -> None: ...
    async def tell(self, event: ev.Event) -> None: ...
    async def failed(self, error: MessageAppError) -> None: ...
    async def not_stored(self, error: CannotStore) -> None: ...
    def note_stored(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Reply:
    row: Waiting
    reply: Any  # `Stored`, or what was refused


class Outgoing:
    """`run` is the task. Everything else returns at once."""

    def __init__(
        self,
        host: Host,
        context: ClientContext,
        sessions: Sessions,
        log: LogFollower,
        note_asking: Callable[..., list[ev.Event]] = lambda peer, possible: [],
        note_pinned: Callable[[str, IdentityBundle], None] = lambda peer, bundle: None,
    ) -> None:
        """`note_asking` hears whether a session with a peer can begin; what follows for what he has sent.

        `note_pinned` hears of a key that was pinned by a note, of which the user knows nothing.
        """
        self._host = host
        self._context = context
        self._account = context.account
        self._database = context.database
        self._server = context.server
        self._wall_ms = context.wall_ms
        self._sessions = sessions
        self._log = log
        self._note_asking = note_asking
        self._note_pinned = note_pinned
        self._untold: dict[str, IdentityBundle] = {}  # keys pinned by a note: told with the first text
        self.absent = False  # the server has said that it stores nothing
        self.lost = 0  # texts of ours that a chat has lost, where nothing brings them there any more
        self._wake = trio.Event()
        self._under_way: dict[int, str] = {}  # place → the peer with whom it begins a session, or ""
        self._replies: list[_Reply] = []
        self._starting: set[str] = set()  # peers whose prekey is asked for
        self._tries: dict[str, int] = {}  # by peer, since something last went well
        self._postponed: set[str] = set()  # peers, since the replies were last looked at
        self._news: list[ev.Event] = []  # to be told when what they tell is on disk

    @property
    def busy(self) -> bool:
        """Something is under way to the server, or could be."""
        under_way = self._under_way or self._starting or self._replies
        return bool(under_way or outbox.due(self._database, self._server, self._wall_ms(), 1))

    def poke(self) -> None:
        """Something was queued, or may be tried again."""
        self._wake.set()

    def wake(self, peer: str | None = None) -> None:
        """Try again what waits for its time: of `peer`, or of all. On a full disk it goes on waiting."""
        with contextlib.suppress(CannotStore):
            outbox.wake(self._database, self._server, peer)
        if peer is None:
            self._tries.clear()
        else:
            self._tries.pop(fold(peer), None)
        self.poke()

    def reachable(self, peers: Iterable[str]) -> None:
        """These are there now, or have begun a session: what waits for one of them need not wait any longer."""
        for peer in {fold(peer) for peer in peers} & self._tries.keys():
            self.wake(peer)

    # the task ---------------------------------------------------------------------------------------------------------

    async def run(self, nursery: trio.Nursery) -> None:
        """Until cancelled, or the end of the session. New sessions are begun in `nursery`."""
        self.wake()
        while self._host.ended is None:
            self._wake = trio.Event()
            self._settle()
            starting, sending = self._look()
            await self.tell_news()
            for row in starting:
                nursery.start_soon(self._start, row)
            for row in sending:
                await self._send(row)
            with trio.move_on_after(self._rest()):
                await self._wake.wait()

    def refuse_all(self) -> None:
        """The server stores nothing: what was said in a chat and not confirmed has failed, the rest waits."""
        self.absent = True
        with self._step():
            for message in rows.find_open(self._database, self._server, (State.QUEUED,)):
                if message.cause is not Cause.IN_CHAT:
                    row = outbox.of_message(self._database, message.number) if message.live else None
                    self._no_mail(message.number, message.peer, row)

    def take_over(self, left: Sequence[Waiting]) -> list[ev.Event]:
        """What was said in a chat that is over, and has no receipt. What follows, to be told when it is on disk."""
        before = len(self._news)
        with self._step():
            for row in left:
                if self.absent:
                    self._no_mail(row.number, row.peer, row)
                else:
                    self._change(row.number, row.peer, State.QUEUED, Cause.WAITING, self._wall_ms())
        self.poke()
        news, self._news[before:] = self._news[before:], []
        return news

    @contextmanager
    def _step(self) -> Iterator[None]:
        """One transaction; what it has to tell is told only if it is on disk."""
        news, lost = len(self._news), self.lost
        try:
            with self._sessions.step():
                yield
        except BaseException:
            del self._news[news:]
            self.lost = lost
            raise

    def _no_mail(self, number: int | None, peer: str, said: Waiting | None) -> None:
        """`said`: its row, where it was said in a chat."""
        if said is None:
            self._change(number, peer, State.QUEUED, Cause.NO_MAIL, self._wall_ms())
            return
        outbox.remove(self._database, said.place)
        self.lost += 1
        self._change(number, peer, State.FAILED, Cause.CHAT_CUT, self._wall_ms())

    def _rest(self) -> float:
        """Seconds until a row that waits for its time may be tried."""
        now = self._wall_ms()
        next_ms = outbox.next_due(self._database, self._server, now)
        if next_ms is None:
            return float("inf")
        seconds = (next_ms - now) / 1000
        if seconds > MAX_RETRY_SECONDS:  # the clock was set back
            outbox.wake(self._database, self._server)
            return 0.0
        return seconds

    async def tell_news(self) -> None:
        """What is on disk by now."""
        news, self._news = self._news, []
        for event in news:
            await self._host.tell(event)

    # what goes out ----------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[list[Waiting], list[Waiting]]:
        """(the first rows of peers with whom a session is to begin, sealed rows to be sent now)."""
        room = SENDS - len(self._under_way)
        if room <= 0:
            return [], []
        by_peer: dict[str, list[Waiting]] = {}
        # What follows the beginning of a session can only be read after it.
        beginning = self._starting | {peer for peer in self._under_way.values() if peer}
        found = outbox.due(self._database, self._server, self._wall_ms(), _LOOK, beginning)
        if len(found) == _LOOK:  # behind them there may be others
            seen = beginning | {fold(row.peer) for row in found}
            found += outbox.due(self._database, self._server, self._wall_ms(), _LOOK, seen)
        for row in found:
            by_peer.setdefault(fold(row.peer), []).append(row)
        starting: list[Waiting] = []
        sending: list[Waiting] = []
        # Who has least under way comes first, and none takes all the room: thousands may wait for one.
        peers = sorted(by_peer, key=lambda peer: sum(row.place in self._under_way for row in by_peer[peer]))
        for number, peer in enumerate(peers):
            share = -(-room // (len(peers) - number))
            fresh = [row for row in by_peer[peer] if row.place not in self._under_way][:share]
            ready = self._seal(peer, fresh)
            if fresh and not ready and len(self._starting) + len(starting) < STARTS and self._judge(fresh[0]):
                starting.append(fresh[0])
            sending += ready
            room -= len(ready)
        self._starting |= {fold(row.peer) for row in starting}  # nothing failed
        self._under_way.update({row.place: fold(row.peer) if _begins(row) else "" for row in sending})
        return starting, sending

    def _seal(self, peer: str, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Of `waiting`, as many from the first on as can be sent now, all sealed."""
        stored = self._session(peer) if any(row.blob is None for row in waiting) else None
        taken: list[Waiting] = []
        for row in waiting:
            if row.blob is None and stored is None:
                break
            taken.append(row)
            if _begins(row):
                break
        if stored is None or all(row.blob is not None for row in taken):
            return taken
        with self._sessions.changing(stored):
            for at, row in enumerate(taken):
                if row.blob is None:
                    blob = message_blob(stored.session.seal_envelope(_envelope(row)))
                    outbox.seal(self._database, row.place, blob)
                    if row.number is not None and (bundle := self._untold.pop(peer, None)) is not None:
                        self._news.append(ev.KeyPinned(row.peer, bundle))
                    taken[at] = replace(row, content=b"", blob=blob)
        return taken

    def _session(self, peer: str) -> StoredSession | None:
        """The one to seal in; None where there is none that may be used now."""
        pin = self._account.trust.pin(peer, self._server)
        if pin is None or pin.how or pin.offered is not None or self._log.alarm:
            return None
        if self._log.outdated(peer, pin.bundle.key_id):
            return None
        return self._sessions.newest(peer, pin.bundle.key_id)

    def _judge(self, row: Waiting) -> bool:
        """Whether it is any use to ask for a prekey."""
        pin = self._account.trust.pin(row.peer, self._server)
        if self._log.alarm:
            self._postpone(row, Cause.LOG_ALARM)
        elif pin is not None and (pin.how or pin.offered is not None):
            self._postpone(row, Cause.KEY_CHANGED)
        else:
            return True
        return False

    async def _send(self, row: Waiting) -> None:
        def apply(reply: Any) -> None:
            if not isinstance(reply, RequestRefused) and expect(reply, Stored).id != row.id:
                raise RemoteProtocolError("the server has stored another message than was sent")
            self._replies.append(_Reply(row, reply))
            self.poke()

        assert row.blob is not None  # noqa: S101 - only what is sealed is sent
        with contextlib.suppress(MessageAppError):  # the session is over: its event says so
            await self._host.post("send", MailRequest(row.peer, row.id, row.blob), apply)

    # a new session ----------------------------------------------------------------------------------------------------

    async def _start(self, row: Waiting) -> None:
        """Begin a session with the peer of `row` and seal his first row under it."""
        peer = fold(row.peer)
        try:
            try:
                await self._begin(row)
            except CannotStart as error:
                with self._step():
                    self._postpone(row, error.cause)
                    self._news += self._note_asking(row.peer, possible=False)
                if error.told is not None:
                    self._news.append(error.told)
        except CannotStore as error:
            await self._host.not_stored(error)
            await trio.sleep(STORE_SECONDS)
        except MessageAppError as error:
            if self._host.ended is None:
                await self._host.failed(error)
        finally:
            self._starting.discard(peer)
            self.poke()

    async def _begin(self, row: Waiting) -> None:
        outbox.postpone(self._database, row.place, 0)  # is there room? Else a prekey of the peer would be lost
        started = await start_session(self._host.ask, self._context, self._log, row.peer)
        waiting = outbox.find(self._database, self._server, row.peer, row.id)
        if waiting is None or waiting.blob is not None or self._session(row.peer) is not None:
            return  # deleted meanwhile, or the peer was first
        now, trust = self._wall_ms(), self._account.trust
        with self._step():
            _, first = trust.pin_first(started.peer, self._server, started.bundle)
            conversation_of(self._database, self._server, started.peer, registered=True)
            stored = self._sessions.add(
                started.peer, started.device, started.bundle.key_id, started.session, now, confirmed=False
            )
            with self._sessions.changing(stored):
                message = stored.session.seal_envelope(_envelope(waiting))
                outbox.seal(self._database, waiting.place, start_blob(started.start, message))
            self._news += self._note_asking(started.peer, possible=True)
        self._tries.pop(fold(row.peer), None)
        if first and waiting.number is None:
            self._untold[fold(row.peer)] = started.bundle
            self._note_pinned(started.peer, started.bundle)
        elif first:
            self._news.append(ev.KeyPinned(started.peer, started.bundle))

    # what became of it ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """The server's replies so far, all in one transaction."""
        replies = sorted(self._replies, key=lambda each: each.row.place)
        if not replies:
            return
        now = self._wall_ms()
        self._postponed.clear()
        with self._step():
            for each in replies:
                row, reply = each.row, each.reply
                if isinstance(reply, RequestRefused):
                    self._refused(row, reply)
                elif outbox.remove(self._database, row.place):
                    self._tries.pop(fold(row.peer), None)
                    self._change(row.number, row.peer, State.SENT, Cause.AT_SERVER, now)
        self._replies.clear()
        for each in replies:
            del self._under_way[each.row.place]

    def _refused(self, row: Waiting, error: RequestRefused) -> None:
        cause = _REFUSED.get(error.code)
        if cause is not None:
            if fold(row.peer) not in self._postponed:  # one try, however many were under way
                self._postpone(row, cause)
            return
        outbox.remove(self._database, row.place)
        if _begins(row):
            self._sessions.retire(row.peer)  # the peer never sees how it began
        cause = Cause.UNKNOWN_USER if error.code == ErrorCode.NOT_AVAILABLE else Cause.REFUSED
        self._change(row.number, row.peer, State.FAILED, cause, self._wall_ms())

    def _postpone(self, head: Waiting, cause: Cause) -> None:
        """Nothing of this peer from `head` on is tried for a while, and every message that waits says why."""
        peer, now = fold(head.peer), self._wall_ms()
        tries = self._tries.get(peer, 0)
        self._tries[peer] = tries + 1
        seconds = min(_RETRY_SECONDS.get(cause, 60.0) * 2.0 ** min(tries, 16), MAX_RETRY_SECONDS)
        with self._step():
            outbox.postpone(self._database, head.place, now + int(1000 * seconds))
            for message in rows.find_open(self._database, self._server, (State.QUEUED,)):
                if fold(message.peer) == peer and message.cause is not Cause.IN_CHAT:
                    self._change(message.number, message.peer, State.QUEUED, cause, now)
        self._postponed.add(peer)

    def _change(self, number: int | None, peer: str, state: State, cause: Cause, now: int) -> None:
        if number is not None and rows.set_state(self._database, number, state, cause, now):
            self._news.append(ev.MessageChanged(number, peer, state, cause))


def _begins(row: Waiting) -> bool:
    """It is the first message of a session."""
    return row.blob is not None and row.blob[:1] == bytes((START,))


def _envelope(row: Waiting) -> Envelope:
    return Envelope.parse_untrusted(row.content)
