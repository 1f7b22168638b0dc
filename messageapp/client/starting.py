"""A new end-to-end session with a peer who may be away: his prekey, everything that has to hold of it, C1 and C3 (§9).

Nothing is stored here: who asked stores the session in the transaction that seals the first message under it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import trio

from messageapp.e2ee.exchange import ExchangeFailed, Parties
from messageapp.e2ee.offline import Start, start_untrusted
from messageapp.e2ee.session import ChatSession
from messageapp.errors import MessageAppError, RemoteProtocolError, RequestRefused
from messageapp.store.states import Cause
from messageapp.wire.commands import ErrorCode
from messageapp.wire.mail_forms import PeerPrekey, PrekeyRequest
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold
from messageapp_keys.prekeys import Prekey, PrekeyRefused

from . import events as ev
from .context import ClientContext
from .following import LogFollower
from .lies import KeyRefused, Refusal
from .pins import changed_key
from .session import expect

__all__ = ["CannotStart", "Started", "start_session"]

CONFIRM_SECONDS: Final = 30.0
"""For the key log to confirm a key; as long as a live chat waits for it."""

_REFUSED: Final[dict[int, Cause]] = {
    ErrorCode.NOT_AVAILABLE: Cause.NO_PREKEYS,
    ErrorCode.UNKNOWN_VERB: Cause.NO_MAIL,
    ErrorCode.RATE: Cause.BUSY,
}


class CannotStart(MessageAppError):
    """no session with the peer can begin now

    `cause` is why what waits for him goes on waiting; `told` what the user is to be told of it, if it is new.
    """

    def __init__(self, cause: Cause, detail: str = "", told: ev.Event | None = None) -> None:
        super().__init__(detail)
        self.cause = cause
        self.told = told


@dataclass(frozen=True, slots=True)
class Started:
    peer: str  # in the registered spelling
    bundle: IdentityBundle  # which has signed the prekey: it may be pinned
    device: bytes  # [16] of the peer's
    start: Start
    session: ChatSession


async def start_session(
    ask: Callable[[str, Any], Awaitable[Any]],
    context: ClientContext,
    log: LogFollower,
    peer: str,
) -> Started:
    """Ask for a prekey of `peer` and begin a session with its key, if the log confirms it and the pin is that key.

    Raises `CannotStart`; `RemoteProtocolError` for a reply that breaks the protocol; the session's error at its end.
    """
    account, server, random, now_ms = context.account, context.server, context.random, context.wall_ms()
    trust = account.trust
    _raise_alarm(log)
    log.nudge()
    try:
        reply: PeerPrekey = expect(await ask("bndl", PrekeyRequest(peer)), PeerPrekey)
    except RequestRefused as error:
        raise CannotStart(_REFUSED.get(error.code, Cause.REFUSED), str(error)) from None
    if fold(reply.user) != fold(peer):
        raise RemoteProtocolError("the server gives the key of somebody else")
    try:
        bundle, prekey = IdentityBundle.parse_untrusted(reply.bundle), Prekey.parse_untrusted(reply.prekey)
    except Malformed:
        raise RemoteProtocolError("a peer's key has not the form of one") from None
    await _confirm(log, reply, bundle)
    before = trust.pin(reply.user, server)
    if not trust.judge(reply.user, server, bundle, "unexplained" if log.kept else ""):
        raise CannotStart(Cause.KEY_CHANGED, told=changed_key(trust, server, reply.user, before, bundle))
    if (pin := trust.pin(reply.user, server)) is not None and (pin.how or pin.offered is not None):
        raise CannotStart(Cause.KEY_CHANGED)
    own = account.identity.bundle
    parties = Parties(server, random(16), account.user, own, reply.user, bundle)
    try:
        prekey.verify_untrusted(bundle, reply.user, now_ms)
        start = start_untrusted(parties, account.identity, prekey, random, trust.device())
        session = ChatSession(
            start.secrets,
            user=account.user,
            peer=reply.user,
            random=random,
            peer_ratchet=start.peer_ratchet,
            checkpoint=log.note,
        )
    except (PrekeyRefused, ExchangeFailed) as error:
        raise CannotStart(Cause.NO_PREKEYS, str(error)) from None
    return Started(reply.user, bundle, reply.device, start, session)


def _raise_alarm(log: LogFollower) -> None:
    try:
        log.raise_alarm()
    except KeyRefused as error:
        raise CannotStart(Cause.LOG_ALARM, str(error)) from None


async def _confirm(log: LogFollower, reply: PeerPrekey, bundle: IdentityBundle) -> None:
    with trio.move_on_after(CONFIRM_SECONDS):
        try:
            await log.confirm(reply.user, bundle.key_id, reply.proof)
        except KeyRefused as error:
            alarm = error.refusal is Refusal.ALARM
            raise CannotStart(Cause.LOG_ALARM if alarm else Cause.KEY_UNCHECKED, str(error)) from None
        return
    raise CannotStart(Cause.KEY_UNCHECKED, "the key log could not be read in time")
