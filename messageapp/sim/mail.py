"""The server's storage in a simulation: it survives each server, its disk can fail, and what must hold of messages.

- a message that its sender's disk has is in one of the states of `store.states`, and reaches its receiver, once and
  unaltered, whoever crashed or was cut meanwhile; in the end none waits, and none has failed
- sessions go on: after the last fault a further message from everybody to everybody is delivered
- the server has nothing left to store then, and the clients have nothing left to send

A user with two devices is an exception to the first: his messages go to the one that logged in last, and what was
sealed for the other is asked for again, so often and no more. Nor can anything be said of a server that cleans up under
a clock that is months ahead.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import trio

from messageapp.clock import DAY_MS
from messageapp.limits import Limits
from messageapp.server.directory import Directory
from messageapp.server.mailbox import Mailbox
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.states import Cause, State
from messageapp.store.trust import find_pin

from .ledger import Text
from .materials import SERVER_NAME, memory_database

if TYPE_CHECKING:
    from .users import Seat
    from .world import World

__all__ = ["SimMail", "check_mail"]

T = TypeVar("T")
_FULL: Final = "database or disk is full"
_ARRIVED: Final = (State.DELIVERED, State.READ)
_LOSSY: Final = frozenset({"relay", "slow"})  # faults by which a receipt is lost in a chat that goes on


class _Failing:
    """The file; while `full`, whatever writes it fails."""

    def __init__(self, inner: sqlite3.Connection) -> None:
        self._inner = inner
        self.full = False

    @property
    def in_transaction(self) -> bool:
        return self._inner.in_transaction

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._check(sql)
        return self._inner.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        self._check(sql)
        return self._inner.executemany(sql, parameters)

    def close(self) -> None:
        self._inner.close()

    def _check(self, sql: str) -> None:
        if self.full and sql.split(maxsplit=1)[0] in ("INSERT", "UPDATE", "DELETE"):
            raise sqlite3.OperationalError(_FULL)


class SimMail:
    """`open` is a mailbox for the next server."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._database = _Failing(memory_database("mail"))
        self._disk_full = False
        self.cleaned_too_early = False
        self.odd_clocks: set[str] = set()  # users whose clock was wrong at some time

    def close(self) -> None:
        self._database.close()

    def open(self, directory: Directory, limits: Limits) -> Mailbox:
        self.cleaned_too_early |= self._world.server_clock_ms > limits.mail_days * DAY_MS
        return Mailbox(
            cast(sqlite3.Connection, self._database),
            directory=directory,
            limits=limits,
            disk_full=lambda: self._disk_full,
            wall_ms=lambda: self._world.wall_ms() + self._world.server_clock_ms,
            run=_at_once,
        )

    def fail(self, how: str, seconds: float) -> None:
        """`disk`: it is almost full, and the server knows; `statement`: it is, and writing fails."""
        self._disk_full, self._database.full = how == "disk", how == "statement"
        self._world.later(seconds, self.heal)

    def heal(self) -> None:
        self._disk_full = self._database.full = False

    async def last_words(self, seat: Seat) -> None:
        """To everybody; what waits for its time is tried now, as with `retry`."""
        client = seat.client
        if client is None:
            return
        for peer in dict.fromkeys(other.user for other in self._world.seats.values() if other.user != seat.user):
            await seat.write(client, peer)
            client.mail.poke(peer)

    def check_unreadable(self, seat: Seat, peer: str) -> None:
        """Only what was sealed for the other device, or for a prekey that is long over, may not open.

        And from who is not known yet: a first chat was cut before its first message, after which the key is pinned.
        """
        users, known = {seat.user, peer}, find_pin(seat.database, peer, SERVER_NAME) is not None
        if known and not users & (self._world.doubles | self.odd_clocks):
            self._world.history.breaks("no session is out of step", f"{seat.owner} cannot read what {peer} has written")

    def left(self) -> int:
        """Messages that nobody has taken."""
        (found,) = self._database.execute("SELECT count(*) FROM mail").fetchone()
        return int(found)


async def _at_once(call: Callable[[], T]) -> T:
    """A thread would not be in the schedule."""
    await trio.lowlevel.checkpoint()
    return call()


def check_mail(world: World) -> None:
    """At the end, when everybody is back and had time. Notes of each text what the databases say of it."""
    doubles = world.doubles
    kept = {seat.name: _received(world, seat) for seat in world.seats.values()}
    found: set[str] = set()
    for seat in world.seats.values():
        single = seat.user not in doubles and not world.mail.cleaned_too_early
        for message in _messages(seat, own=True):
            text = world.ledger.texts.get(message.text or "")
            if text is None or text.owner.partition("#")[0] != seat.name:
                world.history.breaks("texts are unaltered", f"{seat.name} has an own message that it did not write")
                continue
            text.number = message.number
            found.add(text.text)
            if single and text.to not in doubles:
                _check_own(world, message, text, kept[f"{text.to}/0"])
        if single and not doubles:
            waiting = outbox.count(seat.database, SERVER_NAME)
            if waiting:
                world.history.breaks("nothing waits in the end", f"{waiting} rows in the outbox of {seat.name}")
    for text in world.ledger.texts.values():
        if text.written and not text.refused and text.text not in found:
            world.history.breaks("nothing acknowledged is lost", f"{text} is not on its sender's disk")
    if not doubles and not world.mail.cleaned_too_early and world.mail.left():
        world.history.breaks("nothing waits in the end", f"{world.mail.left()} messages at the server")


def _messages(seat: Seat, *, own: bool) -> list[rows.Message]:
    found = [
        message
        for (conversation,) in seat.database.execute("SELECT id FROM conversations").fetchall()
        for message in rows.export(seat.database, conversation)
    ]
    return [message for message in found if message.own is own]


def _received(world: World, seat: Seat) -> Counter[str]:
    """The texts of others that its database has."""
    found: Counter[str] = Counter()
    for message in _messages(seat, own=False):
        if message.text is None:
            continue
        text = world.ledger.texts.get(message.text)
        if text is None or text.to != seat.user or text.owner.partition("/")[0] != message.peer:
            world.history.breaks("texts are unaltered", f"{seat.name} has {message.text[:24]!r} of {message.peer}")
        found[message.text] += 1
        if found[message.text] > 1:
            world.history.breaks("no text twice", f"{seat.name} has {message.text[:24]!r} twice")
    return found


def _check_own(world: World, message: rows.Message, text: Text, kept: Counter[str]) -> None:
    history, what = world.history, f"{text} is {message.state} {message.cause}".rstrip()
    if message.state is State.SENT and message.cause is Cause.UNCONFIRMED:
        text.number = 0  # its chat was left before the peer had spoken: the rules of chats
    elif message.state is State.FAILED:
        history.breaks("no message fails", what)
    elif message.cause is Cause.IN_CHAT and _LOSSY & {step.verb for step in world.plan.steps}:
        text.number = 0  # the chat is still up, and the receipt was lost in it: the rules of chats until it ends
    elif message.state not in _ARRIVED:
        history.breaks("nothing waits in the end", what)
    elif not kept[text.text]:
        history.breaks("nothing acknowledged is lost", f"{what}, and its receiver has it not")
