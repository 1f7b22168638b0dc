"""Single entries of the key log: proved where not all are held, and what they say of the own name and of the pins."""

from __future__ import annotations

from typing import Final, Protocol

import trio

from messageapp_keys.keylog import Leaf

from . import events as ev
from .asking import LogQuestions
from .keylog import KeyLog, Own
from .lies import Lie, LogLied
from .login import Account
from .pins import apply_outcome, trace_changes

__all__ = ["Entries"]

CHAIN: Final = 64  # entries of one user that are asked for one by one
OWN_SECONDS: Final = 10.0  # until the log has our key, which another process may just have enrolled


class Host(Protocol):
    """The client, seen from here."""

    async def tell(self, event: ev.Event) -> None: ...
    async def log_stopped(self, peer: str | None, reason: str) -> None: ...


class Entries:
    """Everything raises `LogLied`, `LogUnavailable`, or what ended the session."""

    def __init__(self, host: Host, account: Account, log: KeyLog, ask: LogQuestions) -> None:
        self.first = False  # this is the first look at this log
        self._host = host
        self._account = account
        self._log = log
        self._ask = ask
        self._own_since: float | None = None  # since when the log lacks our key
        self._looked_at = -1  # the size at the last look at the pins
        self._told_revoked = False

    @property
    def own_due(self) -> float:
        """When the log has to have our key; infinite where it has it."""
        return float("inf") if self._own_since is None else self._own_since + OWN_SECONDS

    # proofs, where not all leaves are held ----------------------------------------------------------------------------

    async def prove(self, number: int) -> Leaf:
        """Leaf `number` of the checkpoint that is held, by its inclusion proof. `LogLied`, `LogUnavailable`."""
        reply = await self._ask.inclusion(number, self._log.size)
        return self._log.remember(number, reply.leaf, reply.proof)

    async def prove_chain(self, number: int) -> None:
        """A leaf and those of the same user before it, back to one that is held."""
        at: int | None = number
        for _ in range(CHAIN):
            if at is None:
                return
            leaf = await self.prove(at)
            self._looked_at = -1
            at = leaf.previous
            if any(at == held for held, _ in self._log.store.of_user(leaf.user)):
                return

    async def _prove_own(self) -> None:
        held = {number for number, _ in self._log.store.of_user(self._account.user)}
        for number in await self._ask.numbers_of(self._account.user):
            if number not in held and number < self._log.size:
                await self.prove(number)

    # what follows -----------------------------------------------------------------------------------------------------

    async def look_at_own(self) -> None:
        """Rule 4: nobody else's key may have our name."""
        log, now = self._log, trio.current_time()
        if log.thin:
            await self._prove_own()
        found = log.own_entries()
        if found.own is Own.FOREIGN:
            raise LogLied(Lie.OWN_KEY, _whose_doing(found.leaf), log.note)
        if found.own is not Own.MISSING:
            self._own_since = None
        elif self._own_since is None:
            self._own_since = now
        elif now >= self.own_due:
            raise LogLied(Lie.OWN_MISSING, shown=log.note)
        if found.own is Own.REVOKED and not self._told_revoked:
            self._told_revoked = True
            await self._host.tell(ev.OwnKeyRevoked())
        if found.before and self.first:
            await self._host.tell(ev.OwnKeyHistory(found.before))

    async def look_at_pins(self) -> None:
        """Follow or block those whose key the log has changed."""
        log, trust = self._log, self._account.trust
        if self._looked_at == log.size:
            return
        for pin in trust.pins(log.server):
            later = log.later_leaves(pin.peer, pin.bundle.key_id)
            if not later:
                continue
            outcome = await trace_changes(pin.bundle, later, log.server, self._ask.bundle)
            for event in apply_outcome(trust, pin, outcome):
                if isinstance(event, ev.PeerKeyChanged):
                    await self._host.log_stopped(event.peer, f"the key of {event.peer} has changed")
                await self._host.tell(event)
        self._looked_at = log.size
        self.first = False


def _whose_doing(leaf: Leaf | None) -> str:
    if leaf is None or leaf.reset:
        return "reset by the server's administrator"
    return "with a signature that should be of your key" if leaf.signatures else "without a signature of your key"
