"""What becomes of a pin when the key log has newer leaves of the peer (protocol §11.1, §12).

A change that the pinned key has signed moves the pin. Any other leaves it where it is, blocked, with who did it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from messageapp.store.trust import Pin
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.keylog import Leaf, explain

from . import events as ev
from .trust import Trust

__all__ = ["Outcome", "apply_outcome", "changed_key", "trace_changes"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`pinned` is how far the pinned key's word goes; `how` says who made what came after, with the key `offered`."""

    pinned: IdentityBundle
    how: str = ""  # reset | revoked | unexplained
    offered: IdentityBundle | None = None
    user: str = ""  # in the registered spelling


async def trace_changes(
    pinned: IdentityBundle,
    later: Sequence[tuple[int, Leaf]],
    server: str,
    fetch: Callable[[bytes], Awaitable[IdentityBundle]],
) -> Outcome:
    """Go through the leaves after the pinned key's, oldest first. `fetch` gives the bundle of a key_id, and may raise.

    Once a change is not signed by the key before, no signature of a later key brings the pin's trust back.
    """
    how, newest, user = "", pinned, ""
    for _, leaf in later:
        user = leaf.user
        change = explain(newest, leaf, server)
        if change == "revoked":
            how = change
            continue
        newest = await fetch(leaf.key_id)
        if change == "signed" and not how:
            pinned = newest
        elif change != "signed":
            how = change
    return Outcome(pinned, how, None if how in ("", "revoked") else newest, user)


def apply_outcome(trust: Trust, pin: Pin, outcome: Outcome) -> list[ev.Event]:
    """Store it, and tell what is new of it."""
    events: list[ev.Event] = []
    was_verified, peer = pin.verified, outcome.user or pin.peer
    if outcome.pinned.key_id != pin.bundle.key_id:
        pin = trust.move_pin(pin, outcome.pinned)
        events.append(ev.KeyFollowed(peer, was_verified))
    offered = None if outcome.offered is None else outcome.offered.key_id
    known = None if pin.offered is None else pin.offered.key_id
    if outcome.how and (outcome.how, offered) != (pin.how, known):
        trust.block_pin(pin, outcome.how, outcome.offered)
        events.append(ev.PeerKeyChanged(peer, outcome.how, was_verified))
    return events


def changed_key(trust: Trust, server: str, peer: str, before: Pin | None, bundle: IdentityBundle) -> ev.KeyChanged:
    """What the user is told where `trust.judge` has refused `bundle`; `before` is the pin as it was. Slow."""
    pin = trust.pin(peer, server)
    assert before is not None and pin is not None  # noqa: S101, PT018 - only a pinned key can differ
    old, new = (trust.number(peer, server, each) for each in (before.bundle, bundle))
    return ev.KeyChanged(peer, old, new, before.verified, pin.how)
