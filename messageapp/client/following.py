"""Follows a server's key log as a task of the session (protocol §12.5): asks, lets `keylog` judge, tells what follows.

A round begins when the server or a peer has shown a checkpoint. It fetches what is new, compares, and looks at the own
name and at the pins. The reader only hands over what came and never waits for a round; whoever needs a key confirmed
asks `check`, and again when `log_checked` is called.

A lie is an alarm: stored, told, and the end of following. Anything else that goes wrong is told and tried again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from messageapp.errors import MessageAppError
from messageapp.store.keylog import LogStore
from messageapp.store.logs import add_own_key
from messageapp.wire.keylog_forms import LogHead
from messageapp.wire.login import LoggedIn
from messageapp_keys.keylog import Leaf

from . import events as ev
from .asking import LogQuestions, LogUnavailable, NoLog
from .keylog import KeyLog, NoteRefused, Own, Shown, Verdict
from .lies import KeyRefused, Lie, LogLied, Refusal, write_evidence
from .login import Account
from .pins import apply_outcome, trace_changes

__all__ = ["LogFollower", "LogState"]

LOG_REPLAY: Final = 50_000  # leaves that are fetched at once; of a larger log, proofs
NOTES: Final = 16  # of peers, waiting; a peer shows one a turn
CHAIN: Final = 64  # entries of one user that are asked for one by one
RETRY_SECONDS: Final = 30.0
OWN_SECONDS: Final = 10.0  # until the log has our key, which another process may just have enrolled
WITHHELD_SECONDS: Final = 5.0  # until the server shows us what it has shown others
WITNESS_SECONDS: Final = 10.0


class Host(Protocol):
    """The client, seen from here."""

    @property
    def ended(self) -> MessageAppError | None: ...
    async def log_request(self, verb: str, argument: Any) -> Any: ...
    async def log_tell(self, event: ev.Event) -> None: ...
    async def log_checked(self) -> None: ...
    async def log_stopped(self, peer: str | None, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class LogState:
    """How far the log was read and verified, for people."""

    kept: bool  # the server has a log, or had one
    size: int = 0
    root: bytes = b""  # [32]; empty before the first checkpoint
    note: bytes = b""
    vkey: str = ""  # of the log's key, as transparency-log tools write it
    witnessed_size: int = 0
    thin: bool = False
    caught_up: bool = False
    alarm: str = ""
    trouble: str = ""


class LogFollower:
    """`account` is who logged in, `info` how. Nothing happens where the server has no log and never had one."""

    def __init__(self, host: Host, account: Account, info: LoggedIn, wall_ms: Callable[[], int]) -> None:
        self.log = KeyLog(account.trust.database, info.welcome.server_name, account.user)
        self.ask = LogQuestions(host.log_request)
        self._host = host
        self._account = account
        self._info = info
        self._wall_ms = wall_ms
        self._head: bytes | None = info.welcome.checkpoint  # shown by the server, not looked at yet
        self._notes: deque[tuple[str, Shown]] = deque()  # (peer, or "" for what came with a peer's key; checkpoint)
        self._chains: deque[int] = deque()  # leaves to be proved, where not all are held
        self._lied: LogLied | None = None  # found while judging a key
        self._alarm = "" if self.log.known is None else self.log.known.alarm
        self._trouble = ""
        self._told = ""  # the trouble that the user knows of
        self._caught_up = False
        self._changed = trio.Event()  # a round has ended
        self._wake = trio.Event()
        self._deadline = float("inf")  # when to look again although nothing came
        self._own_since: float | None = None  # since when the log lacks our key
        self._witness_since: float | None = None
        self._looked_at = -1  # the size at the last look at the pins
        self._told_revoked = False
        self._first = False  # this is the first look at this log
        self._absent = False  # shown at login, but the server knows no question about it

    # what there is ----------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> bool:
        """Does the server have a key log, or did it once?"""
        return bool(self._info.welcome.checkpoint and not self._absent) or self.log.known is not None

    @property
    def alarm(self) -> str:
        """Why nothing is sent any more; empty while all is well."""
        return self._alarm

    @property
    def store(self) -> LogStore:
        """The leaves that were verified."""
        return self.log.store

    def note(self) -> bytes:
        """The newest checkpoint that was verified, to be shown to peers; empty before the first."""
        return self.log.note

    def state(self) -> LogState:
        log, verifier = self.log, self.log.verifier
        return LogState(
            kept=self.kept,
            size=log.size,
            root=log.root() if log.size else b"",
            note=log.note,
            vkey="" if verifier is None else verifier.encode(),
            witnessed_size=0 if log.known is None else log.known.witnessed_size,
            thin=log.thin,
            caught_up=self._caught_up,
            alarm=self._alarm,
            trouble=self._trouble,
        )

    def raise_alarm(self) -> None:
        """`KeyRefused` while there is one."""
        if self._alarm:
            raise KeyRefused(Refusal.ALARM, detail=f"{self._alarm}. When that is settled: messageapp log accept")

    async def caught_up(self) -> None:
        """Wait until all that the server has shown is verified.

        Raises `KeyRefused` at an alarm, `LogUnavailable` for a log that is not there, or could not be read.
        """
        if not self.kept:
            raise NoLog
        while True:
            self.raise_alarm()
            if self._trouble:
                raise LogUnavailable(self._trouble)
            if self._caught_up:
                return
            await self._changed.wait()

    async def own_leaf(self) -> tuple[int, Leaf] | None:
        """(number, leaf), the newest about the own name. Raises as `caught_up`."""
        await self.caught_up()
        return self.store.latest(self._account.user)

    # from the reader: none of these waits -----------------------------------------------------------------------------

    def hear_head(self, head: LogHead) -> None:
        """The event `klog`."""
        if self.kept:
            self._head = head.note
            self._poke()

    def hear_peer(self, peer: str, data: bytes) -> None:
        """A note inside a message of a peer. Only one under the log's own key counts: junk raises no alarm."""
        log = self.log
        if not data or self._alarm or log.known is None or data == log.note:
            return
        try:
            shown = log.read_untrusted(data)
        except NoteRefused:
            return
        if (shown.size, shown.root) == (log.size, log.root()) or len(self._notes) >= NOTES:
            return
        if all(data != other.data for _, other in self._notes):
            self._notes.append((peer, shown))
            self._poke()

    def check(self, peer: str, key_id: bytes, proof: bytes, *, first: bool = True) -> bool:
        """Does the log confirm this key? False: not yet known, ask again (not `first`) at `log_checked`.

        Raises `KeyRefused` with the reason.
        """
        if not self.kept:
            return True
        if first:
            self._witness_since = None
        self.raise_alarm()
        if self._trouble:
            raise KeyRefused(Refusal.NOT_FOLLOWED, peer, self._trouble)
        if not self._caught_up:
            return False
        try:
            verdict, shown, number = self.log.judge_untrusted(peer, key_id, proof)
        except LogLied as lied:
            self._lied = lied
            self._poke()
            return False
        if verdict is Verdict.NEWER:
            self._notes.append(("", shown))
            self._poke()
            return False
        if self.log.thin and all(number != held for held, _ in self.store.of_user(peer)):
            self._chains.append(number)
            self._poke()
            return False
        return verdict is not Verdict.UNWITNESSED or self._wait_for_witnesses(peer)

    def _wait_for_witnesses(self, peer: str) -> bool:
        now = trio.current_time()
        if self._witness_since is None:
            self._witness_since = now
            self._wake.set()  # there is a new deadline
        until = self._witness_since + WITNESS_SECONDS
        if now >= until:
            raise KeyRefused(Refusal.NOT_WITNESSED, peer)
        self._deadline = min(self._deadline, until)
        return False

    def outdated(self, peer: str, key_id: bytes) -> bool:
        """Has the log another key for the peer since it confirmed this one?"""
        return self.kept and bool(self.log.later_leaves(peer, key_id))

    def nudge(self) -> None:
        """Try again what went wrong."""
        if self._trouble:
            self._trouble = ""
            self._poke()

    def _poke(self) -> None:
        self._caught_up = False
        self._wake.set()

    # the task ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled, the end of the session, or an alarm."""
        if self._alarm:
            await self._tell_stored()
            return
        add_own = True
        while True:
            self._wake, self._deadline = trio.Event(), float("inf")
            try:
                if add_own:
                    add_own_key(self._account.trust.database, self._account.identity.key_id)
                    add_own = False
                while not self._caught_up:
                    if not await self._round():
                        await self._tell_stored()
                        return
            except LogLied as lied:
                await self._sound(lied)
                return
            except NoLog as error:
                if self.log.known is None:  # at the first contact no worse than showing none
                    await self._find_none()
                    return
                await self._stumble(str(error))
            except MessageAppError as error:
                if self._host.ended is not None:
                    self._trouble = str(error)
                    self._tell_waiting()
                    return
                await self._stumble(str(error))
            self._tell_waiting()
            await self._host.log_checked()
            with trio.move_on_at(self._deadline):
                await self._wake.wait()
            if trio.current_time() >= self._deadline:
                self.nudge()
                if self._own_since is not None:
                    self._caught_up = False

    async def _find_none(self) -> None:
        self._absent = True
        self._tell_waiting()
        await self._host.log_tell(ev.LogAbsent())
        await self._host.log_checked()

    def _tell_waiting(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _tell_stored(self) -> None:
        """An alarm of an earlier session, or of another process of this account."""
        self._tell_waiting()
        await self._host.log_stopped(None, Refusal.ALARM.value)
        await self._host.log_tell(ev.LogAlarmed(self._alarm, "", stored=True))

    async def _round(self) -> bool:
        """One look at everything; all is caught up where nothing new has come meanwhile. False: there is an alarm."""
        self._wake = trio.Event()
        self.log.refresh()
        self._alarm = "" if self.log.known is None else self.log.known.alarm
        if self._alarm:
            return False
        if self._lied is not None:
            raise self._lied
        await self._take_head()
        while self._notes:
            await self._compare(*self._notes[0])
            self._notes.popleft()
        while self._chains:
            await self._prove_chain(self._chains[0])
            self._chains.popleft()
        await self._look_at_own()
        await self._look_at_pins()
        if not self._wake.is_set():
            self._caught_up = True
            self._trouble = self._told = ""
        return True

    async def _take_head(self) -> None:
        head = self._head
        if head is None:
            return
        await self._take(await self._read_head(head))
        if self._head is head:  # not a newer one
            self._head = None

    async def _read_head(self, data: bytes) -> Shown:
        """What the server has shown. The first time, the log's key is fetched and pinned."""
        log = self.log
        if not data:
            raise LogLied(Lie.GONE, stored=log.note)
        if log.known is None:
            self._first = True
            shown = await self._fresh_head()
            if log.verifier is not None:
                await self._host.log_tell(ev.LogPinned(shown.size, log.verifier.encode()))
        try:
            return log.read_untrusted(data)
        except NoteRefused:
            await self._fresh_head()  # which says whether it is the key that is another
            raise LogLied(Lie.UNSIGNED, shown=data, stored=log.note) from None

    async def _fresh_head(self) -> Shown:
        return self.log.pin_untrusted(await self.ask.head(), self._info.leaf.verifying_key)

    async def _take(self, shown: Shown) -> None:
        """A checkpoint that the server shows now: what is held becomes it, or was it already."""
        log, held = self.log, self.log.size
        if shown.size < held:
            fresh = await self._fresh_head()  # another process of ours may have been faster than this one
            if fresh.size < held:
                raise LogLied(Lie.ROLLBACK, f"{fresh.size:,} entries after {held:,}", fresh.data, log.note)
            await self._agree(shown)
            shown = fresh
        while shown.size > log.size:
            await self._grow(shown)
        await self._agree(shown)

    async def _agree(self, shown: Shown, *, by_server: bool = True) -> None:
        """`shown` is not larger than what is held."""
        log = self.log
        if not log.agrees(shown, by_server=by_server):
            log.agrees(shown, await self.ask.consistency(shown.size, log.size), by_server=by_server)

    async def _compare(self, peer: str, shown: Shown) -> None:
        """What a peer has seen, or what came with a peer's key."""
        log = self.log
        while not peer and shown.size > log.size:
            await self._grow(shown)
        if shown.size > log.size:
            await self._take(await self._fresh_head())
        if shown.size > log.size:
            await trio.sleep(WITHHELD_SECONDS)
            fresh = await self._fresh_head()
            await self._take(fresh)
            if shown.size > log.size:
                detail = f"{peer} has seen {shown.size:,} entries, you are shown {fresh.size:,}"
                raise LogLied(Lie.WITHHELD, detail, shown=fresh.data, stored=shown.data)
        try:
            await self._agree(shown, by_server=not peer)
        except LogLied as lied:
            if not peer:
                raise
            detail = f"at {shown.size:,} entries, as {peer} has seen it"
            raise LogLied(lied.lie, detail, lied.shown, lied.stored) from None

    async def _grow(self, shown: Shown) -> None:
        """Fetch what is between, verify, store, tell."""
        log, before = self.log, self.log.size
        # What was held whole is read on, whatever its growth: a server could hide a lie behind many leaves.
        if self._account.thin or (not log.replay_start and shown.size > LOG_REPLAY):
            done = log.step(shown, await self.ask.consistency(before, shown.size) if before else ())
        else:
            done = log.replay(shown, await self.ask.leaves(log.replay_start, shown.size))
        log.refresh()
        if done:
            await self._host.log_tell(ev.LogGrew(before, log.size))

    # single leaves, where not all are held ----------------------------------------------------------------------------

    async def prove(self, number: int) -> Leaf:
        """Leaf `number` of the checkpoint that is held, by its inclusion proof. `LogLied`, `LogUnavailable`."""
        reply = await self.ask.inclusion(number, self.log.size)
        return self.log.remember(number, reply.leaf, reply.proof)

    async def _prove_chain(self, number: int) -> None:
        """A leaf and those of the same user before it, back to one that is held."""
        at: int | None = number
        for _ in range(CHAIN):
            if at is None:
                return
            leaf = await self.prove(at)
            self._looked_at = -1
            at = leaf.previous
            if any(at == held for held, _ in self.store.of_user(leaf.user)):
                return

    async def _prove_own(self) -> None:
        held = {number for number, _ in self.store.of_user(self._account.user)}
        for number in await self.ask.numbers_of(self._account.user):
            if number not in held and number < self.log.size:
                await self.prove(number)

    # what follows -----------------------------------------------------------------------------------------------------

    async def _look_at_own(self) -> None:
        """Rule 4: nobody else's key may have our name."""
        log, now = self.log, trio.current_time()
        if log.thin:
            await self._prove_own()
        found = log.own_entries()
        if found.own is Own.FOREIGN:
            raise LogLied(Lie.OWN_KEY, _whose_doing(found.leaf), log.note)
        if found.own is not Own.MISSING:
            self._own_since = None
        elif self._own_since is None:
            self._own_since = now
        elif now >= self._own_since + OWN_SECONDS:
            raise LogLied(Lie.OWN_MISSING, shown=log.note)
        if self._own_since is not None:
            self._deadline = min(self._deadline, self._own_since + OWN_SECONDS)
        if found.own is Own.REVOKED and not self._told_revoked:
            self._told_revoked = True
            await self._host.log_tell(ev.OwnKeyRevoked())
        if found.before and self._first:
            await self._host.log_tell(ev.OwnKeyHistory(found.before))

    async def _look_at_pins(self) -> None:
        """Follow or block those whose key the log has changed."""
        log, trust = self.log, self._account.trust
        if self._looked_at == log.size:
            return
        for pin in trust.pins(log.server):
            later = log.later_leaves(pin.peer, pin.bundle.key_id)
            if not later:
                continue
            outcome = await trace_changes(pin.bundle, later, log.server, self.ask.bundle)
            for event in apply_outcome(trust, pin, outcome):
                if isinstance(event, ev.PeerKeyChanged):
                    await self._host.log_stopped(event.peer, f"the key of {event.peer} has changed")
                await self._host.log_tell(event)
        self._looked_at = log.size
        self._first = False

    async def _sound(self, lied: LogLied) -> None:
        """The alarm. A full disk does not silence it."""
        log, trust = self.log, self._account.trust
        self._alarm = f"{lied.lie.kind}: {lied}"
        with contextlib.suppress(MessageAppError):
            log.raise_alarm(self._alarm)
        vkey = "" if log.verifier is None else log.verifier.encode()
        path = write_evidence(trust.folder("evidence"), log.server, log.user, vkey, lied, self._wall_ms())
        self._tell_waiting()
        await self._host.log_stopped(None, Refusal.ALARM.value)
        await self._host.log_tell(ev.LogAlarmed(self._alarm, "" if path is None else str(path)))

    async def _stumble(self, reason: str) -> None:
        self._trouble = reason
        self._chains.clear()  # what a call has asked for ends with it
        self._notes = deque(entry for entry in self._notes if entry[0])
        self._deadline = trio.current_time() + RETRY_SECONDS
        if self._told != reason:
            self._told = reason
            await self._host.log_tell(ev.LogTrouble(reason))


def _whose_doing(leaf: Leaf | None) -> str:
    if leaf is None or leaf.reset:
        return "reset by the server's administrator"
    return "with a signature that should be of your key" if leaf.signatures else "without a signature of your key"
