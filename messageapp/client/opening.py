"""A stored message is opened: whose it is, by which key, in which session (protocol §9.3, §12.5).

The order of checks is that of §9.3. A key counts that is pinned, or that the key log confirms; one that is not accepted
yet, or cannot be confirmed now, holds the message back. What does not open is left to `healing`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from messageapp.e2ee.exchange import ExchangeFailed, Parties
from messageapp.e2ee.offline import (
    START,
    OfferedStart,
    accept_untrusted,
    read_start_untrusted,
    split_blob_untrusted,
)
from messageapp.e2ee.ratchet import Undecryptable, sid_of_untrusted
from messageapp.e2ee.session import ChatSession, Received
from messageapp.errors import RequestRefused
from messageapp.store import arrivals
from messageapp.store.states import Cause
from messageapp.store.trust import Pin
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold
from messageapp_keys.prekeys import PrekeyKind

from . import events as ev
from .asking import LogUnavailable
from .context import ClientContext
from .lies import KeyRefused
from .pins import changed_key
from .prekeys import Prekeys
from .sessions import Sessions, StoredSession

__all__ = ["Hold", "Log", "Opener", "Take", "Unreadable"]

Take = Callable[[StoredSession, Received, bytes, IdentityBundle | None], None]
"""What follows: (session, what it opened, the ratchet message, the peer's key if it was pinned for this)."""


class Unreadable(Exception):
    """It does not open, and is asked for again."""


class Hold(Exception):
    """It must not be opened now."""

    def __init__(self, cause: Cause, told: ev.Event | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.told = told


class Log(Protocol):
    """The key log, as `LogFollower` has it."""

    @property
    def kept(self) -> bool: ...
    @property
    def alarm(self) -> str: ...
    def note(self) -> bytes: ...
    async def caught_up(self) -> None: ...
    async def key_of(self, user: str) -> IdentityBundle: ...
    def outdated(self, peer: str, key_id: bytes) -> bool: ...
    def hear_peer(self, peer: str, data: bytes) -> None: ...


class Opener:
    """`bundle_of` asks the server for a user's bundle (`bndl`); only used where there is no key log that has it."""

    def __init__(
        self,
        context: ClientContext,
        sessions: Sessions,
        prekeys: Prekeys,
        log: Log,
        bundle_of: Callable[[str], Awaitable[IdentityBundle]],
    ) -> None:
        self._account = context.account
        self._database = context.database
        self._server = context.server
        self._wall_ms = context.wall_ms
        self._random = context.random
        self._sessions = sessions
        self._prekeys = prekeys
        self._log = log
        self._bundle_of = bundle_of
        self._strangers: dict[str, IdentityBundle] = {}  # keys that are not pinned, confirmed for the present batch

    async def prepare(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Everything that has to be waited for: how far the log is, and keys of whom nothing is pinned.

        `messages` are (sender, blob). Raises the session's error at its end.
        """
        self._strangers.clear()
        with contextlib.suppress(KeyRefused, LogUnavailable):  # `alarm` says so, or whoever has no pin waits
            await self._log.caught_up()
        for sender, blob in messages:
            peer = fold(sender)
            if peer in self._strangers or self._log.alarm:
                continue
            try:
                start = read_start_untrusted(blob)
            except Malformed:
                continue
            pin = self._account.trust.pin(peer, self._server)
            # With a log the pin follows it: nothing else is the key of somebody who is pinned.
            if pin is not None and (self._log.kept or pin.bundle.key_id == start.caller_key):
                continue
            ask = self._log.key_of if self._log.kept else self._bundle_of
            with contextlib.suppress(KeyRefused, LogUnavailable, RequestRefused):
                self._strangers[peer] = await ask(sender)

    def open_untrusted(self, peer: str, blob: bytes, take: Take) -> None:
        """Inside `Sessions.step`. `take` is called inside `Sessions.changing`, with what has opened.

        Raises `Hold` and `Unreadable`; nothing has changed then, but for a key that is noted as offered.
        """
        pin = self._account.trust.pin(peer, self._server)
        if self._log.alarm:
            raise Hold(Cause.HELD_LOG)
        if pin is not None and pin.changed:
            raise Hold(Cause.HELD_KEY)
        if pin is not None and self._log.outdated(peer, pin.bundle.key_id):
            raise Hold(Cause.HELD_LOG)  # the pin follows, or is blocked, when the log could be read
        try:
            parts = split_blob_untrusted(blob)
            if parts.kind == START:
                self._open_start(peer, read_start_untrusted(blob), pin, take)
            else:
                self._open_message(peer, parts.message, pin, take)
        except (Malformed, Undecryptable, ExchangeFailed):
            raise Unreadable from None

    def _open_message(self, peer: str, message: bytes, pin: Pin | None, take: Take) -> None:
        stored = self._sessions.by_sid(peer, sid_of_untrusted(message))
        if stored is None or pin is None or stored.key_id != pin.bundle.key_id:
            raise Unreadable
        with self._sessions.changing(stored):
            take(stored, stored.session.open_untrusted(message, self._wall_ms() / 1000), message, None)

    def _open_start(self, peer: str, start: OfferedStart, pin: Pin | None, take: Take) -> None:
        account, server = self._account, self._server
        bundle = self._accepted_key(peer, start, pin)
        prekey = self._prekeys.find(start.prekey_id)
        if prekey is None:
            raise Unreadable
        parties = Parties(server, start.invite, peer, bundle, account.user, account.identity.bundle)
        accepted = accept_untrusted(start, parties, prekey, self._random)
        if arrivals.start_known(self._database, server, accepted.transcript):
            raise Unreadable
        if self._sessions.by_sid(peer, accepted.secrets.chat_id) is not None:
            raise Unreadable  # two of one number: 64 bits, so that somebody may have sought them
        session = ChatSession(
            accepted.secrets,
            user=account.user,
            peer=peer,
            random=self._random,
            own_ratchet=accepted.own_ratchet,
            checkpoint=self._log.note,
        )
        now = self._wall_ms()
        received = session.open_untrusted(start.message, now / 1000)
        # Only now does anything change.
        if prekey.public.kind is PrekeyKind.LAST_RESORT:
            arrivals.note_start(self._database, server, accepted.transcript, start.prekey_id)
        self._prekeys.used(start.prekey_id)
        _, first = account.trust.pin_first(peer, server, bundle)
        stored = self._sessions.add(peer, start.device, bundle.key_id, session, now, confirmed=True)
        with self._sessions.changing(stored):
            take(stored, received, start.message, bundle if first else None)

    def _accepted_key(self, peer: str, start: OfferedStart, pin: Pin | None) -> IdentityBundle:
        """The bundle that the start has to be signed by."""
        trust, kept = self._account.trust, self._log.kept
        if pin is not None and pin.bundle.key_id == start.caller_key:
            return pin.bundle
        bundle = self._strangers.get(fold(peer))
        if bundle is None:
            raise Hold(Cause.HELD_LOG) if pin is None or not kept else Unreadable
        if bundle.key_id != start.caller_key:
            raise Unreadable
        if not trust.judge(peer, self._server, bundle, "unexplained" if kept else ""):
            raise Hold(Cause.HELD_KEY, changed_key(trust, self._server, peer, pin, bundle))
        return bundle
