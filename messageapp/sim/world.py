"""One run: a server, users and a network, from the first login to the last close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from messageapp.errors import CannotConnect
from messageapp.limits import Limits
from messageapp.server.directory import SqliteDirectory
from messageapp.store.users import add_user
from messageapp_keys.kem import HYBRID, SWIFT

from . import faults, invariants
from .history import History, seeded
from .ledger import Ledger
from .mail import SimMail, check_mail
from .materials import BEGIN, Keys, Seeded, identity, memory_database, server_keys
from .plan import FAULTS, Plan, Step, seats_of
from .reckoning import check_texts
from .server import Listener, LogWatch, SimServer, Tricks, reading_log
from .streams import SimStream, Wire
from .users import Seat

__all__ = ["LIMITS", "World"]

LIMITS: Final = Limits.from_mapping(
    {
        "connections_per_second": 1e6,  # all users come from one host
        "connections_burst": 10**6,
        "handshakes_per_address": 1000,
        "queue_frames": 24,  # so that a slow reader reaches them
        "queue_bytes": 98_304,
        "chats_per_minute": 30,
    }
)
_SETTLE_SECONDS: Final = 80.0  # a call rings for 60, a user may not look for 70
_SILENCE_SECONDS: Final = 150.0  # and before, where nothing else tells that nobody is there
_SILENT: Final = ("half-open", "flip")
_LAST_SECONDS: Final = 8.0


class World:
    """`run` is the whole life."""

    def __init__(self, plan: Plan, history: History) -> None:
        self.plan, self.history = plan, history
        self.ledger = Ledger(history)
        self.tricks = Tricks(plan.seed, history, self.ledger)
        self.server_clock_ms = 0
        self.answers: dict[tuple[str, str], tuple[str, float]] = {}  # (caller, called): how, after how long
        self.wires: dict[SimStream, Wire] = {}  # by the server's end
        self.server: SimServer | None = None
        self._users = memory_database("server")
        self.mail = SimMail(self)
        self._listener: Listener | None = None
        self._restarts = 0
        self._again: float | None = None  # seconds until the next server, None for none
        self._kill = trio.CancelScope()
        self._rng = seeded("network", plan.seed)
        self._later: trio.Nursery
        for user in dict.fromkeys(user for user, _ in seats_of(plan.users)):
            add_user(self._users, user, identity(plan.seed, user).bundle, 0)
        self.seats = {f"{user}/{device}": Seat(self, user, device) for user, device in seats_of(plan.users)}

    @property
    def doubles(self) -> set[str]:
        """Users with more than one device."""
        return {user for user, device in seats_of(self.plan.users) if device > 0}

    def close(self) -> None:
        self._users.close()
        self.mail.close()
        for seat in self.seats.values():
            seat.database.close()

    def wall_ms(self) -> int:
        return int(BEGIN.timestamp() * 1000 + trio.current_time() * 1000)

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        async def wait() -> None:
            await trio.sleep(seconds)
            act()

        self._later.start_soon(wait)

    def connect(self, seat: Seat) -> Wire:
        """A connection to the server, with the faults that were waiting for one. `CannotConnect`."""
        if self._listener is None or self._listener.closed:
            if self._again is None:
                self.history.breaks(
                    "nobody is kept out", f"nobody listens to {seat.owner}, and nobody stopped the server"
                )
            raise CannotConnect("nobody listens")
        rival = any(other.seat == seat.name and not other.far.closed for other in self.wires.values())
        wire = Wire(self.history, seat.owner, len(self.wires), direct=self._rng.random() < 0.75)
        wire.rival = rival
        self.wires[wire.far] = wire
        if self._again is not None:
            self._mark_restart(wire)
        armed, seat.armed = seat.armed, []
        for step in armed:
            faults.apply_to(self, wire, step)
        self._listener.connect(wire.far)
        return wire

    # server -----------------------------------------------------------------------------------------------------------

    def restart(self, kind: str, down: float) -> None:
        """`kill`: as a process is killed; `stop`: as it is asked to. The next one, on the same store, after `down`."""
        if self._listener is None or self._again is not None or self.server is None:
            return
        self._again = down
        for wire in self.wires.values():
            if not wire.closed:
                self._mark_restart(wire)
        if kind == "kill":
            self._kill.cancel()
        else:
            self.server.shutdown()

    def _mark_restart(self, wire: Wire) -> None:
        wire.faults.add("restart")
        self.ledger.faulted.add(wire.name)

    async def _serve(self) -> None:
        while True:
            self._restarts += 1
            self._listener, self._again, self._kill = Listener(), None, trio.CancelScope()
            directory = SqliteDirectory(self._users)
            self.server = SimServer(
                self.wires,
                self.tricks,
                offer=server_keys()[1],
                directory=directory,
                mailbox=self.mail.open(directory, LIMITS),
                keys=Keys(),
                limits=LIMITS,
                suites=(HYBRID, SWIFT),
                random=Seeded(self.plan.seed, "server", self._restarts),
                wall_ms=lambda: self.wall_ms() + self.server_clock_ms,
            )
            with self._kill, reading_log(LogWatch(self.history, self.server.served.__getitem__)):
                await self.server.serve([self._listener])
            self._listener = None
            invariants.server_is_empty(self)
            self.history.note("server", "has ended")
            if self._again is None:
                return
            await trio.sleep(self._again)

    # life -------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns once all have left and nothing remains. What does not hold is in the history."""
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            self.history.on_break = nursery.cancel_scope.cancel
            nursery.start_soon(self._serve)
            await trio.sleep(0.1)  # until it listens
            async with trio.open_nursery() as people:
                for seat in self.seats.values():
                    people.start_soon(seat.live)
                async with trio.open_nursery() as self._later:
                    for step in self.plan.steps:
                        await trio.sleep_until(step.at)
                        self._take(step)
                    self.history.note("all", "no more faults")
                    faults.heal(self)  # while nobody else has his turn: what is armed would need `later`
                    self._later.cancel_scope.cancel()
                await self._settle()
            await self._end()
        if not self.history.broken:
            invariants.nothing_is_left(self, tasks)

    def _take(self, step: Step) -> None:
        if step.verb in FAULTS:
            faults.apply(self, step)
        else:
            self.seats[step.who].do(step)

    async def _settle(self) -> None:
        """After the last fault: all comes to rest, each chat has a last text from either side, then all leave."""
        silent = any(step.verb in _SILENT for step in self.plan.steps)
        await trio.sleep(_SETTLE_SECONDS + silent * _SILENCE_SECONDS)
        invariants.all_agree(self)
        for seat in self.seats.values():
            if seat.client is not None and seat.client.peer is not None:
                await seat.say(seat.client, seat.client.peer)
            await self.mail.last_words(seat)
        await trio.sleep(_LAST_SECONDS)
        check_mail(self)
        check_texts(self.ledger, self.history)
        for seat in self.seats.values():
            seat.leave()
        await trio.sleep(_LAST_SECONDS)
        for seat in self.seats.values():
            if seat.client is not None or seat.last is not None:
                self.history.breaks("everybody can leave", f"{seat.name} said goodbye: {seat.last}")

    async def _end(self) -> None:
        if self.server is not None:
            self.server.shutdown()
        await trio.sleep(LIMITS.drain_seconds + 1)
        if self._listener is not None:
            self.history.breaks("the server ends", "it did not return after its drain time")
