"""One chat after the exchange: texts in, sealed messages out, and back (protocol §10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from messageapp_keys.codec import Malformed, reading_untrusted, u8, u16, vec8
from messageapp_keys.kem import SUITES
from messageapp_keys.primitives import Random
from messageapp_keys.ratchetkeys import RatchetKeys

from .envelope import Envelope, check_text
from .exchange import ChatSecrets, ExchangeFailed
from .ratchet import Binding, Ratchet, Snapshot, Undecryptable
from .sas import SasMessage

__all__ = ["ChatSession", "Received"]

_VERSION: Final = 1  # of a session at rest


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
    def chat_id(self) -> bytes:
        """[8] sid: the first bytes of every message of this session."""
        return self._ratchet.binding.chat_id

    @property
    def user(self) -> str:
        return self._ratchet.binding.user

    @property
    def peer(self) -> str:
        return self._ratchet.binding.peer

    def encode(self) -> bytes:
        """The whole session with its keys, for an encrypted file only (protocol §15.2)."""
        binding = self._ratchet.binding
        return b"".join(
            (
                u8(_VERSION),
                u16(self.suite.code),
                binding.chat_id,
                binding.associated_data,
                vec8(binding.user.encode()),
                vec8(binding.peer.encode()),
                self._ratchet.encode(),
            )
        )

    @classmethod
    def decode(cls, data: bytes, *, random: Random, checkpoint: Callable[[], bytes] = lambda: b"") -> ChatSession:
        """The session that `encode` gave. `Malformed` for anything else."""
        session = cls.__new__(cls)
        session._random, session._checkpoint = random, checkpoint
        with reading_untrusted(data) as reader:
            if reader.u8() != _VERSION:
                raise Malformed("a session is of another version")
            suite = SUITES.get(reader.u16())
            if suite is None:
                raise Malformed("a session is of an unknown suite")
            session.suite = suite
            binding = Binding(reader.take(8), reader.take(32), reader.ascii8(), reader.ascii8())
            session._ratchet = Ratchet.decode(reader.rest(), binding)
        return session

    def snapshot(self) -> Snapshot:
        """What `restore` goes back to, for one step that may fail to be stored. Microseconds."""
        return self._ratchet.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """As if nothing had been sealed or opened since. Never after what was sealed since has left this program."""
        self._ratchet.restore(snapshot)

    @property
    def can_send(self) -> bool:
        """The receiver's first text waits for the caller's first message."""
        return self._ratchet.can_send

    def seal(self, text: str | None, time_ms: int, sas: SasMessage | None = None) -> bytes:
        """A ratchet message; without a text nothing is shown. `MessageTooLong` changes nothing."""
        shown = None if text is None else check_text(text)
        return self.seal_envelope(Envelope(self._random(16), time_ms, shown, sas=sas))

    def seal_envelope(self, envelope: Envelope) -> bytes:
        """A ratchet message with `envelope`, to which the checkpoint is added where a turn begins."""
        if self._ratchet.begins_turn:
            envelope = replace(envelope, checkpoint=self._checkpoint())
        return self._ratchet.encrypt(envelope.encode(), self._random)

    def open_untrusted(self, message: bytes, now: float) -> Received:
        """Raises `Undecryptable`."""
        opened = self._ratchet.decrypt_untrusted(message, now)
        try:
            envelope = Envelope.parse_untrusted(opened.plaintext)
        except Malformed:
            raise Undecryptable from None
        return Received(envelope, opened.missing, opened.late)
