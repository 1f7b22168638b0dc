"""The commands about stored messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from messageapp.client.client import Client
from messageapp.client.messages import Cause, Message, MessagesRefused, State
from messageapp.client.unconnected import AnyClient
from messageapp_keys.names import fold

from .commands import number_of, seconds_of
from .explaining import why_line
from .exporting import export
from .inbox import Inbox
from .message_lines import conversation_lines, found_lines, pending_lines, span, version_lines
from .reconnect import Connections, caught_up
from .remembered import RECENT
from .safe import one_line

__all__ = ["SETTLE_SECONDS", "Messaging"]

SETTLE_SECONDS: Final = 10.0
"""A script's `msg` waits so long at most for the server to have it."""

HISTORY: Final = 20
_MOVING: Final = (Cause.WAITING, Cause.BUSY)

_HAS_IT: Final = "is deleted here; {peer} still has it"
_MAY_HAVE_IT: Final = "is deleted here; it was said in a chat, and {peer} may have it"
_DELETED: Final = {
    State.QUEUED: "is deleted, and will not be sent",
    State.SENT: "is deleted here; it waits at the server and will still reach {peer}",
    State.DELIVERED: _HAS_IT,
    State.READ: _HAS_IT,
    State.FAILED: "is deleted",
    State.RECEIVED: "is deleted here only; {peer} still has it",
    State.UNREADABLE: "is deleted here only; {peer} still has it",
    State.HELD: "is deleted here only; {peer} still has it",
}
_SAID: Final = (Cause.IN_CHAT, Cause.UNCONFIRMED, Cause.CHAT_CUT)


class Messaging:
    """`client` gives the one of now: a new connection brings another, over the same messages."""

    def __init__(
        self, client: Callable[[], AnyClient], inbox: Inbox, connections: Connections | None, *, plain: bool
    ) -> None:
        self._client = client
        self._connections = connections
        self._caught_up = False
        self._inbox = inbox
        self._memory = inbox.memory
        self._plain = plain
        self.handlers: dict[str, Callable[[Sequence[str]], Awaitable[None]]] = {
            "msg": self._msg,
            "to": self._to,
            "conversations": self._conversations,
            "history": self._history,
            "search": self._search,
            "pending": self._pending,
            "why": self._why,
            "retry": self._retry,
            "reply": self._reply,
            "edit": self._edit,
            "react": self._react,
            "delete": self._delete,
            "forget": self._forget,
            "expire": self._expire,
            "receipts": self._receipts,
            "export": self._export,
        }

    # writing ----------------------------------------------------------------------------------------------------------

    async def write(self, peer: str, text: str, reply_to: int | None = None, *, told: bool = False) -> None:
        """A line typed in a conversation, or the text of `msg` (whose number is `told`) or `reply`."""
        number = await self._client().write(peer, text, reply_to=reply_to)
        self._memory.wrote(number, peer, text)
        if told or self._plain:
            self._inbox.say(f"#{number} to {peer}", dim=True)
        if self._plain:
            await self._settle(number)

    async def _settle(self, number: int) -> None:
        """A script goes on when the server has it, or there is a reason why not yet: it may end the session next."""
        with trio.move_on_after(SETTLE_SECONDS):
            while self._client().ended is None:
                message = self._memory.found(number)
                if message is None or message.state is not State.QUEUED or message.cause not in _MOVING:
                    return
                await self._inbox.changed.wait()

    async def _msg(self, words: Sequence[str]) -> None:
        await self.write(self._memory.spelled(words[0]), words[1], told=True)

    async def _reply(self, words: Sequence[str]) -> None:
        message = self._message(words[0])
        current = self._inbox.current.peer
        elsewhere = current is None or fold(current) != fold(message.peer)
        await self.write(message.peer, words[1], message.number, told=elsewhere)

    async def _edit(self, words: Sequence[str]) -> None:
        message = self._message(words[0])
        self._client().messages.edit(message.number, words[1])
        self._memory.remember(message.number, True, words[1])
        self._queued(f"#{message.number} is changed")

    async def _react(self, words: Sequence[str]) -> None:
        message, emoji = self._message(words[0]), "".join(words[1:])
        self._client().messages.react(message.number, emoji)
        self._queued(f"#{message.number}: {one_line(emoji, 16) if emoji else 'your reaction is taken back'}")

    async def _retry(self, words: Sequence[str]) -> None:
        message = self._message(words[0])
        self._client().messages.retry(message.number)
        self._queued(f"#{message.number} is tried again", message.peer)

    async def _expire(self, words: Sequence[str]) -> None:
        peer, value = self._whose(words, lambda word: seconds_of(word) is not None)
        if not value:
            self._show_settings(peer)
            return
        seconds = seconds_of(value) or 0
        self._client().messages.set_expiry(peer, seconds)
        how = f"vanish after {span(seconds)} on both sides" if seconds else "stay"
        self._queued(f"messages with {peer} {how}, from now on")

    async def _receipts(self, words: Sequence[str]) -> None:
        peer, value = self._whose(words, lambda word: word in ("on", "off"))
        if not value:
            self._show_settings(peer)
            return
        on = value == "on"
        self._client().messages.set_receipts(peer, on)
        self._queued(f"{peer} is {'told' if on else 'not told'} what you have read")

    def _show_settings(self, peer: str) -> None:
        conversation = self._client().messages.conversation(peer)
        if conversation is None:
            raise MessagesRefused(f"there is no conversation with {peer}")
        how = f"vanish after {span(conversation.expire_s)}" if conversation.expire_s else "stay"
        told = "told" if conversation.receipts else "not told"
        self._inbox.say(f"messages with {peer} {how}; {peer} is {told} what you have read")

    def _queued(self, line: str, peer: str | None = None) -> None:
        """Something is to be sent."""
        self._client().mail.poke(peer)
        self._done(line)

    def _done(self, line: str) -> None:
        self._inbox.say(line)
        self._inbox.current.look()

    # reading ----------------------------------------------------------------------------------------------------------

    async def _to(self, words: Sequence[str]) -> None:
        if words:
            self._inbox.current.open(self._memory.spelled(words[0]))
        elif self._inbox.current.peer is None:
            raise MessagesRefused("no conversation is open; to USER opens one")
        else:
            self._inbox.current.close()

    async def _conversations(self, _: Sequence[str]) -> None:
        await self._catch_up()
        by_peer = {fold(each.peer): each for each in self._inbox.current.look()}
        places = enumerate(self._memory.places, 1)
        rows = [(place, by_peer[fold(peer)]) for place, peer in places if fold(peer) in by_peer]
        self._inbox.say(*conversation_lines(rows))

    async def _history(self, words: Sequence[str]) -> None:
        peer, count = self._whose(words, lambda word: number_of(word) is not None)
        await self._catch_up()
        found = self._client().messages.history(peer, number_of(count) or HISTORY)
        if not found:
            raise MessagesRefused(f"there are no messages with {peer}")
        self._inbox.current.show_all(found, whole=bool(count))
        self._inbox.current.mark_if_seen(peer, found)

    def _whose(self, words: Sequence[str], is_value: Callable[[str], bool]) -> tuple[str, str]:
        """(peer, value or "") of `[USER] [VALUE]`: without USER of the open conversation, or of the chat."""
        current = self._inbox.current.peer or self._client().peer
        if len(words) == 1 and current is not None and is_value(words[0]):
            return current, words[0]
        peer, value = (*words, "", "")[:2]
        if not peer and current is None:
            raise MessagesRefused("with whom? Give a USER, or open a conversation: to USER")
        return (self._memory.spelled(peer) if peer else current or ""), value

    async def _catch_up(self) -> None:
        """A script sees what had waited for it before it reads what there is, as a person would."""
        client = self._client()
        if self._plain and not self._caught_up and isinstance(client, Client):
            self._caught_up = True
            await caught_up(client)

    async def _search(self, words: Sequence[str]) -> None:
        await self._catch_up()
        found = self._client().messages.search(words[0].strip())[::-1]
        for message in found[-RECENT:]:
            self._memory.remember(message.number, message.own, message.text or "…")
        self._inbox.say(*found_lines(found, self._inbox.style))

    async def _pending(self, _: Sequence[str]) -> None:
        self._inbox.say(*pending_lines(self._pending_now()))

    async def _why(self, words: Sequence[str]) -> None:
        message = self._message(words[0])
        retry_s = None if self._connections is None else self._connections.retry_s
        self._inbox.say(why_line(self._client(), message, retry_s))
        if message.versions:
            self._inbox.say(*version_lines(self._client().messages.versions(message.number)))

    async def _export(self, words: Sequence[str]) -> None:
        peer, form, *names = words
        await self._catch_up()
        messages, style = self._client().messages, self._inbox.style
        path, count = await export(messages, self._memory.spelled(peer), form, "".join(names), style)
        self._inbox.say(f"{_messages(count)} in {one_line(path)}")

    # deleting ---------------------------------------------------------------------------------------------------------

    async def _delete(self, words: Sequence[str]) -> None:
        message = self._message(words[0])
        self._client().messages.delete(message.number)
        self._memory.remember(message.number, message.own, None)
        what = _MAY_HAVE_IT if message.cause in _SAID else _DELETED[message.state]
        self._done(f"#{message.number} {what.format(peer=message.peer)}")

    async def _forget(self, words: Sequence[str]) -> None:
        peer = self._memory.spelled(words[0])
        under_way = sum(fold(each.peer) == fold(peer) and each.state is State.SENT for each in self._pending_now())
        count = 0
        for part in self._client().messages.forgetting(peer):
            count += part
            await trio.lowlevel.checkpoint()
        self._inbox.forgot(peer)
        left = f"; {under_way} of them may still reach {peer}" if under_way else ""
        self._done(f"{_messages(count)} with {peer} deleted here{left}")

    def _pending_now(self) -> Sequence[Message]:
        return self._client().messages.pending()

    def _message(self, word: str) -> Message:
        return self._client().messages.message(number_of(word) or 0)


def _messages(count: int) -> str:
    return f"{count:,} message{'s' if count != 1 else ''}"
