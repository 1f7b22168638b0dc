"""A logged-in session: what the router knows of a connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from messageapp.wire.commands import Argument, Bye, ByeReason, make
from messageapp.wire.login import ServerOffer
from messageapp.wire.records import Kind

from .outbox import Outbox

__all__ = ["Session"]


@dataclass(eq=False, slots=True)
class Session:
    """`number` is what logs show. `ended` is the goodbye's reason once one was said.

    `offer` is what the client authenticated the server by; None where nothing depends on it. `checkpoint` is the newest
    of the key log that it was told.
    """

    number: int
    user: str
    device: bytes
    outbox: Outbox
    offer: ServerOffer | None = None
    checkpoint: bytes = b""
    ended: ByeReason | None = None
    on_end: Callable[[Session], None] = lambda session: None

    def tell(self, kind: Kind, identifier: int, verb: str, argument: Argument | None = None) -> None:
        """Queue a reply or event. A session that cannot even take these has fallen behind for good: `byee` 4."""
        if not self.outbox.put(make(kind, identifier, verb, argument).pack()):
            self.end(ByeReason.SLOW)

    def event(self, verb: str, argument: Argument | None = None) -> None:
        self.tell(Kind.EVENT, 0, verb, argument)

    def end(self, reason: ByeReason, reply_to: int | None = None) -> None:
        """Say goodbye (as the reply to `exit` where `reply_to` names it) and close the queue, which the writer empties.

        Only the first reason counts. `on_end` takes the session out of presence at once, not only when its connection
        is closed.
        """
        if self.ended is None:
            self.ended = reason
            kind, identifier = (Kind.EVENT, 0) if reply_to is None else (Kind.REPLY, reply_to)
            self.outbox.put(make(kind, identifier, "byee", Bye(reason)).pack(), always=True)
            self.outbox.close()
            self.on_end(self)
