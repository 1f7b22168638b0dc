"""The commands about peers' keys: `verify` and `trust`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from messageapp.client.client import State
from messageapp.client.trust import TrustRefused
from messageapp.client.unconnected import AnyClient, connected
from messageapp_keys.names import fold

from .checking import answer_lines
from .commands import VERIFY_WORDS
from .inbox import Inbox
from .qr import qr_lines
from .render import number_lines

__all__ = ["Verifying"]


class Verifying:
    """`client` gives the one of now; `pictures`: the screen can show a QR code."""

    def __init__(self, client: Callable[[], AnyClient], inbox: Inbox, *, pictures: bool) -> None:
        self._client = client
        self._inbox = inbox
        self._pictures = pictures
        self.handlers: dict[str, Callable[[Sequence[str]], Awaitable[None]]] = {
            "verify": self._verify,
            "trust": self._trust,
        }

    async def _verify(self, words: Sequence[str]) -> None:
        peer, action = self._whom(words)
        client = self._client()
        trust, server = client.account.trust, client.server_name
        if action in ("yes", "no"):
            if not (self._in_chat_with(peer) and connected(client).checks.waits):
                raise TrustRefused("no live check is waiting for an answer")
            await connected(client).checks.answer(action == "yes")
            self._inbox.say(*answer_lines(peer or "", action == "yes"))
            return
        if peer is None:
            raise TrustRefused("verify whom? verify USER")
        if action == "live":
            if not self._in_chat_with(peer):
                raise TrustRefused(f"a live check is made within a chat with {peer}")
            await connected(client).checks.start()
            self._inbox.say(f"Live check with {peer}: waiting for the other side …")
            return
        if action == "confirm":
            trust.verify(peer, server)
            self._inbox.say(f"{peer} is verified")
            return
        self._show(peer)

    def _show(self, peer: str) -> None:
        """The safety number, of the new key too where there is one, and the QR code."""
        trust, server = self._client().account.trust, self._client().server_name
        pin = trust.pin(peer, server)
        if pin is None:
            self._inbox.say(*self._unpinned_number(peer))
            return
        lines = number_lines(peer, trust.number(peer, server, pin.bundle))
        lines.append(f"{peer} is {'verified' if pin.verified else 'not verified'}")
        if pin.offered is not None:
            lines += ["KEY CHANGED; with the new key the", *number_lines(peer, trust.number(peer, server, pin.offered))]
        if self._pictures:
            lines += qr_lines(trust.code(peer, server, pin.offered or pin.bundle))
        self._inbox.say(*lines)

    def _whom(self, words: Sequence[str]) -> tuple[str | None, str]:
        """(peer, what to do). A single `live`, `yes`, `no` is a user outside of a chat, if there is a key of one."""
        client = self._client()
        *names, last = words or ("",)
        single = not names and client.state is not State.CHAT and last in VERIFY_WORDS[:-1]
        if single and client.account.trust.pin(last, client.server_name) is not None:
            return self._inbox.memory.spelled(last), ""
        before = self._inbox.current.peer or client.peer
        if last in VERIFY_WORDS:
            return self._inbox.memory.spelled(names[0]) if names else before, last
        return self._inbox.memory.spelled(last) if last else before, ""

    def _in_chat_with(self, peer: str | None) -> bool:
        client = self._client()
        return peer is not None and client.state is State.CHAT and fold(peer) == fold(client.peer or "")

    def _unpinned_number(self, peer: str) -> list[str]:
        """The number of a key that the server has given, before a chat was secure."""
        client = self._client()
        bundle = client.key_seen(peer)
        if bundle is None:
            raise TrustRefused(f"no key of {peer} is known yet; chat first")
        number = client.account.trust.number(peer, client.server_name, bundle)
        return [*number_lines(peer, number), f"{peer} is not verified; no chat was secure yet"]

    async def _trust(self, words: Sequence[str]) -> None:
        client, peer = self._client(), self._inbox.memory.spelled(words[0])
        client.account.trust.accept_offered(peer, client.server_name, "".join(words[1:]))
        client.mail.poke(peer)  # what waited for this
        self._inbox.say(f"the new key of {peer} is trusted; not verified")
