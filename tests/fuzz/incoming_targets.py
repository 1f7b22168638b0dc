"""A client that opens what the server says is a stored message of a peer."""

from __future__ import annotations

import trio

from messageapp.client.opening import Hold, Unreadable
from messageapp.client.sessions import StoredSession
from messageapp.e2ee.session import Received
from messageapp_keys.identity import IdentityBundle
from support.mail_ends import End, two_ends

from .target import Harness, Target, require, same_after_refusal

__all__ = ["TARGETS"]


class _Again(Exception):
    """As if it had not come: the next one finds the same client."""


def _opened() -> Harness:
    """Nothing but what the peer has sealed is opened, and what is refused changes nothing."""
    bob, seeds = trio.run(_prepared)
    opener = bob.incoming._opener

    def attack(data: bytes) -> None:
        opened: list[str | None] = []

        def take(stored: StoredSession, received: Received, message: bytes, first: IdentityBundle | None) -> None:
            require(stored.peer == "alice" and first is None, "it is somebody else's")
            opened.append(received.envelope.text)

        try:
            with bob.sessions.step():
                with same_after_refusal(bob.database.dump):
                    opener.open_untrusted("alice", data, take)
                require(opened in (["start"], ["message"]), "something else was opened")
                raise _Again
        except _Again:
            pass

    return Harness(attack, seeds)


async def _prepared() -> tuple[End, list[bytes]]:
    alice, bob = await two_ends()
    await bob.take([alice.note(bob, text="first")])
    message = alice.note(bob, text="message").blob
    alice.sessions.drop("bob")
    start = alice.note(bob, text="start").blob
    await bob.incoming._opener.prepare([])
    return bob, [message, start]


TARGETS = [Target("stored-message", _opened, (Unreadable, Hold), sealed=True, mutations=2000)]
