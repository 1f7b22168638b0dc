"""Follows a server's key log as a task of the session (protocol §12.5): asks, lets `keylog` judge, tells what follows.

A round begins when the server or a peer has shown a checkpoint. It fetches what is new and compares (`checkpoints`),
and looks at the own name and at the pins (`entries`). The reader only hands over what came and never waits for a round;
whoever needs a key confirmed asks `check`, and again when `log_checked` is called.

A lie is an alarm: stored, told, and the end of following. Anything else that goes wrong is told and tried again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from messageapp.errors import MessageAppError
from messageapp.store.keylog import LogStore
from messageapp.store.logs import add_own_key
from messageapp.wire.keylog_forms import LogHead
from messageapp.wire.login import LoggedIn
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.keylog import Leaf

from . import events as ev
from .asking import LogQuestions, LogUnavailable, NoLog
from .checkpoints import Checkpoints
from .context import ClientContext
from .entries import Entries
from .keylog import KeyLog, NoteRefused, Shown, Verdict
from .lies import KeyRefused, LogLied, Refusal, write_evidence

__all__ = ["LogFollower", "LogState"]

NOTES: Final = 16  # of peers, waiting; a peer shows one a turn
RETRY_SECONDS: Final = 30.0
WITNESS_SECONDS: Final = 10.0


class Host(Protocol):
    """The client, seen from here."""

    @property
    def ended(self) -> MessageAppError | None: ...
    async def ask(self, verb: str, argument: Any) -> Any: ...
    async def tell(self, event: ev.Event) -> None: ...
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
    """`info` is how `context.account` logged in. Nothing happens where the server has no log and never had one."""

    def __init__(self, host: Host, context: ClientContext, info: LoggedIn) -> None:
        account = context.account
        self.log = KeyLog(context.database, context.server, account.user)
        self.ask = LogQuestions(host.ask)
        self._checkpoints = Checkpoints(self.log, self.ask, info.leaf, host.tell, thin=account.thin)
        self._entries = Entries(host, account, self.log, self.ask)
        self._host = host
        self._account = account
        self._info = info
        self._wall_ms = context.wall_ms
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
        self._witness_since: dict[str, float] = {}  # by peer
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
            self._witness_since.pop(peer, None)
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
        if peer not in self._witness_since:
            self._witness_since[peer] = now
            self._wake.set()  # there is a new deadline
        until = self._witness_since[peer] + WITNESS_SECONDS
        if now >= until:
            raise KeyRefused(Refusal.NOT_WITNESSED, peer)
        self._deadline = min(self._deadline, until)
        return False

    async def confirm(self, peer: str, key_id: bytes, proof: bytes) -> None:
        """Wait until the log confirms this key, as `check` does for a call; `KeyRefused` with the reason otherwise.

        Several may wait at once. Also at the end of the session: then the log is not followed any more.
        """
        confirmed = self.check(peer, key_id, proof)
        while not confirmed:
            await self._changed.wait()
            confirmed = self.check(peer, key_id, proof, first=False)

    async def key_of(self, user: str) -> IdentityBundle:
        """The bundle that the log confirms for `user` now, of which nothing else need be known.

        Raises as `caught_up` does, and `KeyRefused` for a user without a key, or whose key the witnesses lack.
        """
        await self.caught_up()
        if self.log.thin:
            await self._prove_user(user)
        found = self.log.store.latest(user)
        if found is None:
            raise KeyRefused(Refusal.NOT_INCLUDED, user)
        number, leaf = found
        if leaf.user != user:
            raise KeyRefused(Refusal.WRONG_USER, user)
        if leaf.revoked:
            raise KeyRefused(Refusal.REVOKED, user)
        known = self.log.known
        if known is not None and self.log.policy.needed and number >= known.witnessed_size:
            raise KeyRefused(Refusal.NOT_WITNESSED, user)
        return await self.ask.bundle(leaf.key_id)

    async def _prove_user(self, user: str) -> None:
        """By the task that follows: two at once would disturb each other's checkpoint."""
        held = {number for number, _ in self.store.of_user(user)}
        numbers = [number for number in await self.ask.numbers_of(user) if number < self.log.size]
        if numbers and max(numbers) not in held:
            self._chains.append(max(numbers))
            self._poke()
            await self.caught_up()

    async def prove(self, number: int) -> Leaf:
        """Leaf `number` of the checkpoint that is held, by its inclusion proof. `LogLied`, `LogUnavailable`."""
        return await self._entries.prove(number)

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
                if self._entries.own_due < float("inf"):
                    self._caught_up = False

    async def _find_none(self) -> None:
        self._absent = True
        self._tell_waiting()
        await self._host.tell(ev.LogAbsent())
        await self._host.log_checked()

    def _tell_waiting(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _tell_stored(self) -> None:
        """An alarm of an earlier session, or of another process of this account."""
        self._tell_waiting()
        await self._host.log_stopped(None, Refusal.ALARM.value)
        await self._host.tell(ev.LogAlarmed(self._alarm, "", stored=True))

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
            await self._checkpoints.compare(*self._notes[0])
            self._notes.popleft()
        while self._chains:
            await self._entries.prove_chain(self._chains[0])
            self._chains.popleft()
        await self._entries.look_at_own()
        self._deadline = min(self._deadline, self._entries.own_due)
        await self._entries.look_at_pins()
        if not self._wake.is_set():
            self._caught_up = True
            self._trouble = self._told = ""
        return True

    async def _take_head(self) -> None:
        head = self._head
        if head is None:
            return
        if self.log.known is None:
            self._entries.first = True
        await self._checkpoints.take(await self._checkpoints.read(head))
        if self._head is head:  # not a newer one
            self._head = None

    # what goes wrong --------------------------------------------------------------------------------------------------

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
        await self._host.tell(ev.LogAlarmed(self._alarm, "" if path is None else str(path)))

    async def _stumble(self, reason: str) -> None:
        self._trouble = reason
        self._chains.clear()  # what a call has asked for ends with it
        self._notes = deque(entry for entry in self._notes if entry[0])
        self._deadline = trio.current_time() + RETRY_SECONDS
        if self._told != reason:
            self._told = reason
            await self._host.tell(ev.LogTrouble(reason))
