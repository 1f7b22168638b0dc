"""The live checks of a client's chats: their messages, their clock, and what becomes of the pin (protocol §11.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from messageapp.e2ee.sas import CheckFailed, CheckRefused, SasMessage

from . import events as ev
from .conversations import Conversation
from .trust import Trust

__all__ = ["CHECK_SECONDS", "LiveChecks"]

CHECK_SECONDS: Final = 60.0  # for the peer's client, which answers by itself; an old one never does
_SILENT: Final = (
    "the other side did not go on; its program may be older than live checks. Compare the safety number: /verify"
)


class LiveChecks:
    """`current` is the conversation there is; `send` seals a step and sends it, `tell` reaches the user interface."""

    def __init__(
        self,
        trust: Trust,
        server: str,
        current: Callable[[], Conversation | None],
        send: Callable[[Conversation, SasMessage], Awaitable[None]],
        tell: Callable[[ev.Event], Awaitable[None]],
    ) -> None:
        self._trust = trust
        self._server = server
        self._current = current
        self._send = send
        self._tell = tell
        self._nursery: trio.Nursery | None = None

    def open(self, nursery: trio.Nursery) -> None:
        """The clocks run in `nursery`, until it is cancelled."""
        self._nursery = nursery

    @property
    def waits(self) -> bool:
        """The user is to answer: the same, or not."""
        conversation = self._current()
        return conversation is not None and conversation.secure and conversation.check.waits_for_answer

    async def start(self) -> None:
        """Ask for a check with the chat's peer; `CheckShown` or `CheckFailed` follows. `CheckRefused` otherwise."""
        conversation = self._current()
        if conversation is None or not conversation.secure:
            raise CheckRefused("a live check is made within a chat, once it is secure")
        message = conversation.check.start()
        self._watch(conversation)
        await self._send(conversation, message)

    async def answer(self, all_same: bool) -> None:
        """The user's answer: the pin of exactly this chat's key is marked, or its mark is taken away.

        `CheckRefused` where no check waits, `TrustRefused` (and the check still waits) where the pin is another by now.
        """
        conversation = self._current()
        if conversation is None or not self.waits:
            raise CheckRefused("no live check is waiting for an answer")
        self._trust.mark(conversation.peer, self._server, conversation.bundle, all_same)
        await self._send(conversation, conversation.check.answer(all_same))

    async def receive(self, conversation: Conversation, message: SasMessage) -> None:
        """A step of the peer, in the order of the wire."""
        check, peer = conversation.check, conversation.peer
        runs = check.runs
        try:
            reaction = check.receive_untrusted(message)
        except CheckFailed as error:
            await self._tell(ev.CheckFailed(peer, str(error)))
            return
        if check.runs > runs:  # the peer asks
            self._watch(conversation)
        if reaction.send is not None:
            await self._send(conversation, reaction.send)
        if reaction.numbers:
            await self._tell(ev.CheckShown(peer, reaction.numbers))
        if reaction.answer is not None:
            try:
                if not reaction.answer:
                    self._trust.mark(peer, self._server, conversation.bundle, False)
            finally:  # also where the disk is full
                await self._tell(ev.CheckAnswered(peer, reaction.answer, check.waits_for_answer))

    def _watch(self, conversation: Conversation) -> None:
        assert self._nursery is not None  # noqa: S101 - open comes first
        self._nursery.start_soon(self._time_out, conversation, conversation.check.runs)

    async def _time_out(self, conversation: Conversation, run: int) -> None:
        """A peer that does not go on ends the run, not the chat."""
        await trio.sleep(CHECK_SECONDS)
        check = conversation.check
        if self._current() is conversation and check.runs == run and check.waits_for_peer:
            check.give_up()
            await self._tell(ev.CheckFailed(conversation.peer, _SILENT))
