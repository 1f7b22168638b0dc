"""The commands about live chats, and about who may call: `list chat acpt refu cach block unblock blocked`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from messageapp.client.client import State
from messageapp.client.unconnected import AnyClient, connected
from messageapp.errors import RequestRefused
from messageapp.wire.commands import ErrorCode
from messageapp_keys.names import fold

from .inbox import Inbox
from .render import blocked_lines, listing_lines

__all__ = ["Calling"]


class Calling:
    """`client` gives the one of now; `mark` stands behind who is verified."""

    def __init__(self, client: Callable[[], AnyClient], inbox: Inbox, mark: str) -> None:
        self._client = client
        self._inbox = inbox
        self._mark = mark
        self.handlers: dict[str, Callable[[Sequence[str]], Awaitable[None]]] = {
            "list": self._list,
            "chat": self._chat,
            "acpt": self._accept,
            "refu": self._refuse,
            "cach": self._cancel,
            "block": self._block,
            "unblock": self._unblock,
            "blocked": self._blocked,
        }

    async def _list(self, _: Sequence[str]) -> None:
        listing = await connected(self._client()).list_users()
        client = self._client()
        verified = client.account.trust.verified(client.server_name) if self._mark else {}
        self._inbox.say(*listing_lines(listing, verified, f" {self._mark}"))

    async def _chat(self, words: Sequence[str]) -> None:
        user = self._inbox.memory.spelled(words[0])
        if await connected(self._client()).chat(user):
            self._inbox.say(f"Request sent to {user}")

    async def _accept(self, words: Sequence[str]) -> None:
        self._check_caller(words)
        await connected(self._client()).accept()

    async def _refuse(self, words: Sequence[str]) -> None:
        self._check_caller(words)
        caller = self._client().caller
        await connected(self._client()).refuse()
        self._inbox.say(f"Call from {caller} refused")

    async def _cancel(self, words: Sequence[str]) -> None:
        client = connected(self._client())
        called = client.peer if client.state is State.CALLING else None
        if words and words[0] != "x" and called and fold(words[0]) != fold(called):
            raise RequestRefused(ErrorCode.NOT_NOW, f"you are calling {called}, not {words[0]}")
        self._inbox.say(f"Call to {await client.cancel()} canceled")

    def _check_caller(self, words: Sequence[str]) -> None:
        """A name that is typed must be who is calling now: never accept somebody else by accident."""
        caller = self._client().caller
        if words and (caller is None or fold(words[0]) != fold(caller)) and not (words[0] == "x" and caller):
            raise RequestRefused(ErrorCode.NOT_NOW, f"{words[0]} is not calling")

    async def _block(self, words: Sequence[str]) -> None:
        user = self._inbox.memory.spelled(words[0])
        await connected(self._client()).block(user)
        self._inbox.say(f"{user} is blocked, and is not told; unblock {user} ends it")

    async def _unblock(self, words: Sequence[str]) -> None:
        user = self._inbox.memory.spelled(words[0])
        await connected(self._client()).unblock(user)
        self._client().mail.poke(user)
        self._inbox.say(f"{user} is not blocked any more")

    async def _blocked(self, _: Sequence[str]) -> None:
        self._inbox.say(*blocked_lines(await connected(self._client()).blocked()))
