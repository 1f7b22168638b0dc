"""One client that many cases share: it must live through them, and go on as if nothing had been."""

from __future__ import annotations

import os
from contextlib import ExitStack

from adversary.case import Outcome, Seen
from adversary.client_postbox import Postbox
from adversary.client_rogue import RogueChat
from adversary.client_world import Stage
from interop.base import SWIFT, Identity
from interop.chat import RATCHET, Ratchet
from interop.desk import to

__all__ = ["Live"]


class Live:
    """Logged in; in a chat with Bob where `chatting`. Ended with its stack."""

    def __init__(self, stage: Stage, *, chatting: bool, stack: ExitStack) -> None:
        self.stage, self.stack, self.chatting = stage, stack, chatting
        people = stage.people
        self.client, self.desk = stage.logged_in(people.bob if chatting else people.carl)
        self.number = self.start = 0
        self.fresh, self.spent = True, False
        self.chats: list[RogueChat] = []
        self.ratchet: Ratchet  # Bob's
        self.before: Ratchet  # and before he wrote the first stored message
        self.post: Postbox | None = None  # what its server stores, once a case needs that
        if chatting:
            self.client.say("chat bob")
            self.ratchet = self.desk.called_by_client()
            self.client.until("CHAT IS SECURE! with bob")
            self.last = b""  # the client's last message
            self.proof()

    def begin(self) -> None:
        self.start = len(self.client.seen)
        self.desk.me = self.stage.people.bob if self.chatting else self.stage.people.carl

    def lines(self) -> str:
        """What was shown in this case. None of its keys may be."""
        self.stage.secrets += [chat.prk for chat in self.chats if chat.prk]
        self.chats.clear()
        return "\n".join(self.client.seen[self.start :])

    # calls ------------------------------------------------------------------------------------------------------------

    def called(self, peer: Identity | None = None) -> bytes:
        """The client has called `peer` (Carl) and knows that it was accepted. The invite."""
        self.desk.me = peer or self.desk.me
        self.client.say(f"chat {self.desk.me.name}")
        invite = self.desk.take_call()
        self.desk.event("pubk", self.desk.pubk(invite, 1))
        return invite

    def rang(self, invite: bytes | None = None) -> bytes:
        """The client has accepted a call."""
        name = self.desk.me.name
        invite = invite or os.urandom(16)
        self.desk.event("reqt", to(name, invite))
        self.client.until(f"REQUEST TO CHAT FROM: <{name}> ACCEPT?")
        self.client.say(f"acpt {name}")
        self.desk.accepted(invite)
        return invite

    def chat(self, invite: bytes, *, calling: bool, **rogue: object) -> RogueChat:
        desk = self.desk
        rogue = {"offers": (SWIFT, 0x3A5A), **rogue}  # no RSA: it would be most of what a case costs
        made = RogueChat(desk.me, desk.user, desk.client_bundle, desk.server, invite, calling, desk.suite, **rogue)  # type: ignore[arg-type]
        self.chats.append(made)
        return made

    # what was seen ----------------------------------------------------------------------------------------------------

    def left(self) -> Outcome:
        """The client leaves by itself, and is back at its prompt."""
        self.desk.left()
        self._settle()
        return Outcome(Seen.LEFT, detail=self.lines())

    def goes_on(self) -> Outcome:
        """Nothing happened; in a chat both can still talk."""
        if self.chatting:
            self.proof()
        else:
            self._settle()
        return Outcome(Seen.SESSION, detail=self.lines())

    def _settle(self) -> None:
        """What comes after all that came before has been shown: another call, taken back."""
        invite = os.urandom(16)
        self.desk.event("reqt", to("zoe", invite))
        self.desk.event("cach", invite)
        self.client.until("zoe canceled the call")

    def text(self) -> tuple[str, bytes]:
        """A good message of Bob that was not shown yet, and its text."""
        self.number += 1
        text = f"good {self.number}."
        return text, self.ratchet.text(text)

    def deliver(self, message: bytes) -> None:
        self.desk.forward(RATCHET, message)

    def proof(self) -> None:
        """One text each way."""
        text, message = self.text()
        self.deliver(message)
        self.client.until(f"<bob> {text}")
        self.client.say(f"reply to {text}")
        self.last = self.desk.forwarded(RATCHET)
        self.stage.secrets += [self.ratchet.rk, self.ratchet.cks]
        assert self.ratchet.open(self.last)[3] == f"reply to {text}".encode()
