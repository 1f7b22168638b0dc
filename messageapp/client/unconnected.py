"""An account whose server could not be reached yet: all that lies on this disk, and nothing that asks the server.

It stands in the place of a `Client` until the first login succeeds. Messages are read, searched, written and queued as
always; the first client that is connected sends them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import trio

from messageapp.clock import wall_ms
from messageapp.errors import MessageAppError
from messageapp.store import messages as rows
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.primitives import Random

from . import events as ev
from .client import Client, State
from .login import Account
from .mailing import MailStatus
from .messages import Messages
from .messages import State as Stored

__all__ = ["AnyClient", "Unconnected", "connected"]


class _QueueAlone:
    """What `Client.mail` says and takes, where nothing can be sent."""

    def __init__(self, account: Account, server_name: str) -> None:
        self._database = account.trust.database
        self._server_name = server_name

    def status(self) -> MailStatus:
        queued = len(rows.find_open(self._database, self._server_name, (Stored.QUEUED,)))
        return MailStatus(queued, absent=True, kept_s=0, received=0, lost=0)

    def poke(self, peer: str | None = None) -> None:
        """The first client that is connected looks at everything that waits."""


class Unconnected:
    """`server_name` is the canonical one that was pinned at an earlier login; `ended` says why there is no session."""

    info: Final = None
    state: Final = State.ONLINE
    peer: Final[str | None] = None
    caller: Final[str | None] = None
    chat_suite: Final[str | None] = None
    peer_bundle: Final[IdentityBundle | None] = None
    peer_verified: Final = False
    online: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self,
        account: Account,
        server_name: str,
        ended: MessageAppError,
        wall_ms: Callable[[], int] = wall_ms,
        random: Random = os.urandom,
    ) -> None:
        self.account = account
        self.server_name = server_name
        self.ended = ended
        self.messages = Messages(account.trust.database, server_name, account.user, wall_ms, random)
        self.mail = _QueueAlone(account, server_name)
        to_ui, self.events = trio.open_memory_channel[ev.Event](0)
        to_ui.close()

    async def write(self, peer: str, text: str, *, reply_to: int | None = None) -> int:
        """Queue `text` for `peer`; its number. `MessagesRefused`, `MessageTooLong`, `CannotStore`."""
        await trio.lowlevel.checkpoint()
        return self.messages.write(peer, text, reply_to=reply_to)

    def want_refresh(self) -> None:
        """Nobody can say who is online."""

    def key_seen(self, peer: str) -> IdentityBundle | None:
        return None

    async def exit(self) -> None:
        await trio.lowlevel.checkpoint()


AnyClient = Client | Unconnected


def connected(client: AnyClient) -> Client:
    """`client`, for what asks the server; raises why there was no login yet."""
    if isinstance(client, Unconnected):
        raise client.ended
    return client
