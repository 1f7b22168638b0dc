"""One conversation from `pubk` to its end, sans-IO: KEYING (C1–C4), then CHAT (protocol §6.2, §8, §10).

    caller    pubk → C1 ┄ C2 → C3 ┄ C4 opens, first (empty) ratchet message → CHAT
    receiver  pubk ┄ C1 → temporary key → C2 ┄ C3 → C4 ┄ first ratchet message → CHAT

`frwd` carries `u8 type | content`. What is not in turn, or does not verify, raises `ExchangeFailed` while keying; in
the chat a message that does not open raises `Undecryptable` and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from messageapp.e2ee.envelope import Envelope, check_text
from messageapp.e2ee.exchange import Caller, ChatSecrets, ExchangeFailed, Parties, Receiver
from messageapp.e2ee.ratchet import Undecryptable
from messageapp.e2ee.sas import LiveCheck, SasMessage
from messageapp.e2ee.session import ChatSession, Received
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.kem import Suite, TemporaryKey
from messageapp_keys.primitives import Random
from messageapp_keys.ratchetkeys import RatchetKeys

__all__ = ["Conversation", "NeedKey", "Step"]

_C1, _C2, _C3, _C4, _RATCHET = range(1, 6)


@dataclass(frozen=True, slots=True)
class NeedKey:
    """A temporary key of this suite is needed: `offer` it."""

    suite: Suite


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from one message: to send, and the text that came."""

    send: tuple[bytes, ...] = ()
    received: Received | None = None
    secure: bool = False  # the chat became secure with this message


class Conversation:
    """`parties` and `bundle` (the peer's, from the pin or `pubk`) are what everything is checked against."""

    def __init__(
        self,
        *,
        user: str,
        peer: str,
        bundle: IdentityBundle,
        parties: Parties,
        identity: PrivateIdentity,
        suites: Sequence[Suite],
        random: Random,
        checkpoint: Callable[[], bytes] = lambda: b"",
    ) -> None:
        self.peer = peer
        self.bundle = bundle
        self.invite = parties.invite
        self._user = user
        self._random = random
        self._checkpoint = checkpoint  # of the key log, shown to the peer once a turn
        self._expected = 0
        self._session: ChatSession | None = None
        self._check: LiveCheck | None = None
        self._own_key = identity.bundle.key_id
        self._ratchet_keys: RatchetKeys | None = None
        self._caller: Caller | None = None
        self._receiver: Receiver | None = None
        self.secure = False
        if parties.caller == user:
            self._caller = Caller(parties, identity, suites, random)
            self._expected = _C2
        else:
            self._receiver = Receiver(parties, identity, suites, random)
            self._expected = _C1

    @property
    def agreed(self) -> bool:
        """There is a session: the caller's first message, if not more, is all that it is short of."""
        return self._session is not None

    @property
    def suite(self) -> Suite | None:
        return None if self._session is None else self._session.suite

    @property
    def check(self) -> LiveCheck:
        """The live checks of this chat. Only when secure."""
        assert self._check is not None  # noqa: S101 - by phase
        return self._check

    def start(self) -> tuple[bytes, ...]:
        """The caller begins."""
        return () if self._caller is None else (bytes((_C1,)) + self._caller.start(),)

    def receive_untrusted(self, content: bytes, time_ms: int, now: float) -> Step | NeedKey:
        """One `frwd` of the peer. `ExchangeFailed` ends the conversation; `Undecryptable` does not."""
        kind, body = content[:1], content[1:]
        if self.secure:
            return Step(received=self._open(self.ratchet_message(content), now))
        if kind != bytes((self._expected,)):
            raise ExchangeFailed
        match self._expected:
            case 1:
                return self._receive_c1(body)
            case 2:
                return self._receive_c2(body)
            case 3:
                return self._receive_c3(body)
            case 4:
                return self._receive_c4(body, time_ms)
        return self._receive_first(body, now)

    def _receive_c1(self, body: bytes) -> NeedKey:
        assert self._receiver is not None  # noqa: S101 - by role
        suite = self._receiver.receive_c1_untrusted(body)
        self._expected = 0  # nothing is in turn before the offer
        return NeedKey(suite)

    def offer(self, temporary: TemporaryKey) -> Step:
        """The receiver's C2."""
        assert self._receiver is not None  # noqa: S101 - by role
        self._ratchet_keys = RatchetKeys()
        self._expected = _C3
        return Step(send=(bytes((_C2,)) + self._receiver.offer(temporary, self._ratchet_keys),))

    def _receive_c2(self, body: bytes) -> Step:
        assert self._caller is not None  # noqa: S101 - by role
        c3 = self._caller.receive_c2_untrusted(body)
        self._expected = _C4
        return Step(send=(bytes((_C3,)) + c3,))

    def _receive_c3(self, body: bytes) -> Step:
        assert self._receiver is not None  # noqa: S101 - by role
        c4, secrets = self._receiver.receive_c3_untrusted(body)
        self._session = self._make_session(secrets)
        self._expected = _RATCHET
        return Step(send=(bytes((_C4,)) + c4,))

    def _receive_c4(self, body: bytes, time_ms: int) -> Step:
        assert self._caller is not None  # noqa: S101 - by role
        self._session = self._make_session(self._caller.receive_c4_untrusted(body))
        self.secure = True
        hello = Envelope(self._random(16), time_ms, receipts=())  # our client confirms what comes
        return Step(send=(self.seal_envelope(hello),), secure=True)

    def _receive_first(self, body: bytes, now: float) -> Step:
        """The caller's first ratchet message: from here on the receiver may send."""
        try:
            received = self._open(body, now)
        except Undecryptable:
            raise ExchangeFailed from None
        self.secure = True
        return Step(received=received, secure=True)

    def _make_session(self, secrets: ChatSecrets) -> ChatSession:
        session = ChatSession(
            secrets,
            user=self._user,
            peer=self.peer,
            random=self._random,
            peer_ratchet=b"" if self._caller is None else self._caller.peer_ratchet,
            own_ratchet=self._ratchet_keys,
            checkpoint=self._checkpoint,
        )
        self._check = LiveCheck(secrets.exporter, self._own_key, self.bundle.key_id, self._random)
        self._caller = self._receiver = self._ratchet_keys = None
        return session

    def _open(self, body: bytes, now: float) -> Received:
        assert self._session is not None  # noqa: S101 - by phase
        return self._session.open_untrusted(body, now)

    @property
    def session(self) -> ChatSession:
        """What the ratchet is. Only when agreed."""
        assert self._session is not None  # noqa: S101 - by phase
        return self._session

    def seal(self, text: str | None, time_ms: int) -> bytes:
        """A `frwd` argument. `MessageTooLong` changes nothing. Only when secure."""
        shown = None if text is None else check_text(text)
        return self.seal_envelope(Envelope(self._random(16), time_ms, shown))

    def seal_check(self, message: SasMessage, time_ms: int) -> bytes:
        """A `frwd` argument with a step of the live check and no text. Only when secure."""
        return self.seal_envelope(Envelope(self._random(16), time_ms, sas=message))

    def seal_envelope(self, envelope: Envelope) -> bytes:
        """A `frwd` argument. Only when secure."""
        return bytes((_RATCHET,)) + self.session.seal_envelope(envelope)

    def ratchet_message(self, content: bytes) -> bytes:
        """What is in a `frwd` of a secure chat; `Undecryptable` where it is something else."""
        if content[:1] != bytes((_RATCHET,)):
            raise Undecryptable
        return content[1:]
