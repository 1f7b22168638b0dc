"""One chat after the exchange: texts in, sealed messages out, and back (protocol §10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from messageapp_keys.codec import Malformed
from messageapp_keys.primitives import Random
from messageapp_keys.ratchetkeys import RatchetKeys

from .envelope import Envelope, check_text
from .exchange import ChatSecrets, ExchangeFailed
from .ratchet import Binding, Ratchet, Undecryptable
from .sas import SasMessage

__all__ = ["ChatSession", "Received"]


@dataclass(frozen=True, slots=True)
class Received:
    envelope: Envelope
    missing: int
    late: bool


class ChatSession:
    """`peer_ratchet` makes us the caller, `own_ratchet` the receiver."""

    def __init__(
        self,
        secrets: ChatSecrets,
        *,
        user: str,
        peer: str,
        random: Random,
        peer_ratchet: bytes = b"",
        own_ratchet: RatchetKeys | None = None,
        checkpoint: Callable[[], bytes] = lambda: b"",
    ) -> None:
        """`ExchangeFailed` where the peer's ratchet keys are not valid. `checkpoint` is what each turn shows first."""
        self.suite = secrets.suite
        self._random = random
        self._checkpoint = checkpoint
        binding = Binding(secrets.chat_id, secrets.associated_data, user, peer)
        if own_ratchet is not None:
            self._ratchet = Ratchet.for_receiver(secrets.root, own_ratchet, binding)
            return
        try:
            self._ratchet = Ratchet.for_caller(secrets.root, peer_ratchet, binding)
        except Malformed:
            raise ExchangeFailed from None

    @property
    def can_send(self) -> bool:
        """The receiver's first text waits for the caller's first message."""
        return self._ratchet.can_send

    def seal(self, text: str | None, time_ms: int, sas: SasMessage | None = None) -> bytes:
        """A ratchet message; without a text nothing is shown. `MessageTooLong` changes nothing."""
        checkpoint = self._checkpoint() if self._ratchet.begins_turn else b""
        envelope = Envelope(self._random(16), time_ms, None if text is None else check_text(text), checkpoint, sas)
        return self._ratchet.encrypt(envelope.encode(), self._random)

    def open_untrusted(self, message: bytes, now: float) -> Received:
        """Raises `Undecryptable`."""
        opened = self._ratchet.decrypt_untrusted(message, now)
        try:
            envelope = Envelope.parse_untrusted(opened.plaintext)
        except Malformed:
            raise Undecryptable from None
        return Received(envelope, opened.missing, opened.late)
