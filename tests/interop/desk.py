"""What the second implementation's server needs to play everybody else for one real client."""

from __future__ import annotations

import os

from interop.base import SWIFT, Identity, Reader, u, vec
from interop.chat import C1, C2, C3, C4, RATCHET, Chat, Ratchet
from interop.peer import EVENT, REPLY, Session


def to(user: str, invite: bytes) -> bytes:
    return vec(user.encode(), 1) + invite


class Desk:
    """Bob and the server at once, towards a real client that is logged in."""

    def __init__(self, session: Session, me: Identity, client_bundle: bytes, server: str, suite: int = SWIFT) -> None:
        self.session, self.me, self.client_bundle, self.server, self.suite = session, me, client_bundle, server, suite
        self.user = session.user.decode()

    def pubk(self, invite: bytes, role: int) -> bytes:
        head = invite + u(role, 1) + vec(self.me.name.encode(), 1)
        return head + vec(self.me.bundle, 2) + vec(self.me.pem(), 2) + vec(b"", 3)

    def take_call(self) -> bytes:
        """The client calls; the reply is sent. Returns the invite."""
        number, argument = self.session.requested("chat")
        reader = Reader(argument)
        assert reader.vec(1).decode() == self.me.name
        invite = reader.take(16)
        reader.end()
        self.session.send(REPLY, number, "reqt", to(self.me.name, invite))
        return invite

    def event(self, verb: str, argument: bytes) -> None:
        self.session.send(EVENT, 0, verb, argument)

    def forward(self, kind: int, body: bytes) -> None:
        self.event("frwd", u(kind, 1) + body)

    def forwarded(self, kind: int) -> bytes:
        _, value = self.session.requested("frwd")
        assert value[0] == kind, value[:1]
        return value[1:]

    def chat(self, invite: bytes, calling: bool, **choices: object) -> Chat:
        return Chat(self.me, self.user, self.client_bundle, self.server, invite, calling, self.suite, **choices)  # type: ignore[arg-type]

    def as_receiver(self, invite: bytes) -> Ratchet:
        """C1 to C4 and the client's first, empty message, after the client got its `pubk`."""
        chat = self.chat(invite, False)
        self.forward(C2, chat.c2_from(self.forwarded(C1)))
        self.forward(C4, chat.c4_from(self.forwarded(C3)))
        ratchet = chat.ratchet()
        assert 3 not in ratchet.open(self.forwarded(RATCHET))
        return ratchet

    def as_caller(self, invite: bytes, **choices: object) -> Ratchet:
        chat = self.chat(invite, True, **choices)
        self.forward(C1, chat.make_c1())
        self.forward(C3, chat.c3_from(self.forwarded(C2)))
        chat.check_c4(self.forwarded(C4))
        ratchet = chat.ratchet()
        self.forward(RATCHET, ratchet.text(None))
        return ratchet

    def called_by_client(self) -> Ratchet:
        """A whole call of the client to bob."""
        invite = self.take_call()
        self.event("pubk", self.pubk(invite, 1))
        return self.as_receiver(invite)

    def ring(self) -> bytes:
        invite = os.urandom(16)
        self.event("reqt", to(self.me.name, invite))
        return invite

    def accepted(self, invite: bytes) -> None:
        """The client accepts the call that rings."""
        number, argument = self.session.requested("acpt")
        assert argument == to(self.me.name, invite)
        self.session.send(REPLY, number, "pubk", self.pubk(invite, 2))

    def left(self) -> None:
        """The client leaves the chat."""
        number, argument = self.session.requested("exch")
        assert argument in (b"", b"x")
        self.session.send(REPLY, number, "okay", b"")

    def exits(self) -> None:
        number, argument = self.session.requested("exit")
        assert argument in (b"", b"x")
        self.session.send(REPLY, number, "byee", b"\0")
        self.session.close()
