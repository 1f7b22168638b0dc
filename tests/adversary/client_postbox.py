"""The half of a server that stores messages (protocol §9), towards one real client, and what Bob writes over it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from interop.base import Identity, Reader, need, now_ms, u, vec
from interop.chat import Ratchet
from interop.offline import LAST_RESORT, Offline, Prekey, Theirs
from interop.peer import EVENT, REQUEST, WAIT, Session

__all__ = ["DAY", "Postbox"]

DAY = 86_400_000
_KEPT = 30 * 86_400


class Postbox:
    """Answers the four verbs of a client whenever they come; `until` lets them come."""

    def __init__(self, session: Session, client: Identity, bob: Identity, server: str) -> None:
        self.session, self.client, self.bob, self.server = session, client, bob, server
        self.one_time: list[Theirs] = []
        self.last: Theirs | None = None
        self.acknowledged: set[int] = set()
        self.sent: list[bytes] = []  # blobs
        self.asked = 0  # how often for a prekey
        self.seq = self.pings = 0
        self.give: Callable[[], Prekey] = self.good  # what `bndl` gives of Bob
        self.given: list[Prekey] = []
        session.answers |= {"prek": self._prek, "bndl": self._bndl, "send": self._send, "ackm": self._ackm}

    def _prek(self, argument: bytes) -> tuple[str, bytes]:
        if not argument:
            expires = 0 if self.last is None else int.from_bytes(self.last.raw[5:13], "big")
            return "prek", u(len(self.one_time), 2) + u(expires, 8) + u(1, 1) + u(_KEPT, 4)
        reader = Reader(argument)
        while reader.at < len(argument):
            prekey = Theirs.read(reader, self.client.name, self.client.bundle, now_ms())
            if prekey.kind == LAST_RESORT:
                self.last = prekey
            else:
                self.one_time.append(prekey)
        return "okay", b""

    def good(self) -> Prekey:
        return Prekey(self.bob, 1 + self.asked, now_ms() + DAY)

    def _bndl(self, argument: bytes) -> tuple[str, bytes]:
        need(argument == vec(self.bob.name.encode(), 1), "whom the client asks for")
        self.asked += 1
        self.given.append(self.give())
        bundle, proof, device = vec(self.bob.bundle, 2), vec(b"", 3), bytes(16)
        return "bndl", argument + bundle + proof + device + vec(self.given[-1].bytes, 2)

    def _send(self, argument: bytes) -> tuple[str, bytes]:
        reader = Reader(argument)
        need(reader.vec(1) == self.bob.name.encode(), "to whom the client sends")
        identifier = reader.take(16)
        self.sent.append(reader.vec(3))
        reader.end()
        return "ackd", identifier + u(len(self.sent), 8)

    def _ackm(self, argument: bytes) -> tuple[str, bytes]:
        self.acknowledged |= {int.from_bytes(argument[at : at + 8], "big") for at in range(0, len(argument), 8)}
        return "okay", b""

    def until(self, done: Callable[[], bool]) -> None:
        """Pings the client, and answers what comes before its pong, until `done`."""
        deadline = time.monotonic() + WAIT
        while not done():
            need(time.monotonic() < deadline, "the client does not do what it should")
            self.pings += 1
            self.session.send(REQUEST, self.pings, "ping", u(self.pings, 8))
            _, number, verb, _ = self.session.receive()
            need((number, verb) == (self.pings, "pong"), f"{verb} instead of pong")

    def ready(self) -> None:
        """The client has uploaded all its prekeys."""
        self.until(lambda: self.last is not None and len(self.one_time) >= 100)

    # Bob ----------------------------------------------------------------------------------------------------------

    def start(self, prekey: Theirs, *, number: int | None = None, **choices: object) -> Offline:
        me = {"me": self.bob, "peer": self.client.name, "peer_bundle": self.client.bundle, "server": self.server}
        start = Offline(**{**me, "invite": os.urandom(16), "calling": True, **choices})  # type: ignore[arg-type]
        start.start(prekey, number)
        return start

    def deliver(self, blob: bytes, identifier: bytes | None = None) -> None:
        """By `mail`, until the client has acknowledged it."""
        self.seq += 1
        seq = self.seq
        head = vec(self.bob.name.encode(), 1) + u(seq, 8) + (identifier or os.urandom(16))
        self.session.send(EVENT, 0, "mail", head + vec(blob, 3))
        self.until(lambda: seq in self.acknowledged)

    def message(self, ratchet: Ratchet, text: str) -> bytes:
        return b"\1" + ratchet.text(text)
