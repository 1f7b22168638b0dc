"""Checkpoints that were shown, and what is held: fetched and verified until the two agree (protocol §12.5).

The server shows one at the login and at each growth of its log, a peer one a turn. What is behind is fetched; what does
not continue what is held is a lie (`LogLied`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from messageapp_keys.certificate import ServerLeaf

from . import events as ev
from .asking import LogQuestions
from .keylog import KeyLog, NoteRefused, Shown
from .lies import Lie, LogLied

__all__ = ["Checkpoints"]

LOG_REPLAY: Final = 50_000  # leaves that are fetched at once; of a larger log, proofs
WITHHELD_SECONDS: Final = 5.0  # until the server shows us what it has shown others


class Checkpoints:
    """`certificate` is the server's, which has to vouch for the log's key; `thin` asks for proofs, not for all leaves.

    Everything raises `LogLied`, `LogUnavailable`, or what ended the session.
    """

    def __init__(
        self,
        log: KeyLog,
        ask: LogQuestions,
        certificate: ServerLeaf,
        tell: Callable[[ev.Event], Awaitable[None]],
        *,
        thin: bool,
    ) -> None:
        self._log = log
        self._ask = ask
        self._certificate = certificate
        self._tell = tell
        self._thin = thin

    async def read(self, data: bytes) -> Shown:
        """What the server has shown. The first time, the log's key is fetched and pinned."""
        log = self._log
        if not data:
            raise LogLied(Lie.GONE, stored=log.note)
        if log.known is None:
            shown = await self._fresh_head()
            if log.verifier is not None:
                await self._tell(ev.LogPinned(shown.size, log.verifier.encode()))
        try:
            return log.read_untrusted(data)
        except NoteRefused:
            await self._fresh_head()  # which says whether it is the key that is another
            raise LogLied(Lie.UNSIGNED, shown=data, stored=log.note) from None

    async def _fresh_head(self) -> Shown:
        return self._log.pin_untrusted(await self._ask.head(), self._certificate.verifying_key)

    async def take(self, shown: Shown) -> None:
        """A checkpoint that the server shows now: what is held becomes it, or was it already."""
        log, held = self._log, self._log.size
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
        log = self._log
        if not log.agrees(shown, by_server=by_server):
            log.agrees(shown, await self._ask.consistency(shown.size, log.size), by_server=by_server)

    async def compare(self, peer: str, shown: Shown) -> None:
        """What a peer has seen, or what came with a peer's key."""
        log = self._log
        while not peer and shown.size > log.size:
            await self._grow(shown)
        if shown.size > log.size:
            await self.take(await self._fresh_head())
        if shown.size > log.size:
            await trio.sleep(WITHHELD_SECONDS)
            fresh = await self._fresh_head()
            await self.take(fresh)
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
        log, before = self._log, self._log.size
        # What was held whole is read on, whatever its growth: a server could hide a lie behind many leaves.
        if self._thin or (not log.replay_start and shown.size > LOG_REPLAY):
            done = log.step(shown, await self._ask.consistency(before, shown.size) if before else ())
        else:
            done = log.replay(shown, await self._ask.leaves(log.replay_start, shown.size))
        log.refresh()
        if done:
            await self._tell(ev.LogGrew(before, log.size))
