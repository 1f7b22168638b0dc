"""What explains that a session ended, or a login failed: a fault that took effect on this very connection.

No fault elsewhere explains anything, and of goodbyes for age or for a user that was removed there are none here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from messageapp.errors import (
    CannotConnect,
    ConnectionCut,
    LoginRefused,
    MessageAppError,
    RemoteProtocolError,
    ServerGoodbye,
    ServerNotAuthenticated,
)
from messageapp.wire.commands import ByeReason

from .streams import Wire

__all__ = ["ends_session", "fails_login"]

_FILLS: Final = frozenset(("slow", "split", "delay", "half-open"))
"""Faults for which a socket does not take all at once."""
_CUTS: Final = frozenset(("cut", "half-open", "reset", "flip", "restart", "slow"))
_CUTS_IF_AWAITED: Final = _CUTS | {"delay"}  # by the login, or by `exit`: neither waits for long

_GOODBYES: Final[dict[int, Callable[[Wire], bool]]] = {
    ByeReason.SHUTDOWN: lambda wire: "restart" in wire.faults,
    ByeReason.REPLACED: lambda wire: wire.rival,
    # Without sending at once, a burst fills the queue; `spies` sees that it was full.
    ByeReason.SLOW: lambda wire: not wire.direct or bool(wire.faults & _FILLS),
}


def ends_session(wire: Wire, error: MessageAppError, *, exiting: bool) -> bool:
    """Is there a reason for this end? `exiting` where the user had asked for it."""
    match error:
        case ServerGoodbye(reason=reason):
            return reason in _GOODBYES and _GOODBYES[reason](wire)
        case RemoteProtocolError():
            return wire.down.flipped_at is not None
        case ConnectionCut():
            return bool(wire.effects & (_CUTS_IF_AWAITED if exiting else _CUTS))
    return False


def fails_login(wire: Wire, error: MessageAppError, *, clock_was_wrong: bool) -> bool:
    """Is there a reason for this refusal?"""
    flipped = "flip" in wire.effects
    match error:
        case CannotConnect():
            return bool(wire.effects & _CUTS_IF_AWAITED)
        case ServerNotAuthenticated():
            return flipped or clock_was_wrong
        case LoginRefused():
            return flipped
    return False
