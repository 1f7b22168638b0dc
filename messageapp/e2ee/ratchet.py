"""The Double Ratchet with an X25519 and an ML-KEM-768 key in every turn (protocol §10; Perrin and Marlinspike 2016).

    header  = [8] sid | u8 2 | [32] dh | [1184] ek | [1088] ct | [16] counter LE | u32 pn | [16] salt
    message = header | [16] tag | ciphertext

One round trip heals a stolen state, even against a quantum computer. Receiving derives everything on a copy of the
state and commits it only after the message opened: a forged message changes nothing. What may be skipped is bounded, so
that a peer cannot make us derive or keep keys without end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from messageapp.errors import MessageAppError
from messageapp_keys import labels
from messageapp_keys.codec import Malformed, vec8
from messageapp_keys.primitives import (
    COUNTER_SIZE,
    TAG_SIZE,
    OpenFailed,
    Random,
    RecordCipher,
    counter_bytes,
    expand_label,
    same,
)
from messageapp_keys.ratchetkeys import CIPHERTEXT_SIZE, DH_SIZE, EK_SIZE, RatchetKeys, kdf_chain, kdf_root
from messageapp_keys.types import MessageKey, RootKey, SessionKey

from .ratchet_state import MAX_SKIPPED_SESSION, Receiving, Sending, Skipped, Snapshot, State, decode_state, encode_state

__all__ = [
    "MAX_SKIPPED_CHAIN",
    "MAX_SKIPPED_SESSION",
    "SKIPPED_SECONDS",
    "Binding",
    "Opened",
    "Ratchet",
    "Snapshot",
    "Undecryptable",
    "sid_of_untrusted",
]

MAX_SKIPPED_CHAIN: Final = 1000  # bounds the keys that one forged-looking counter makes us derive
SKIPPED_SECONDS: Final = 14 * 86_400.0  # an old skipped key is a liability
_VERSION: Final = 2
_SALT: Final = 16
_MAX_U32: Final = 0xFFFFFFFF
_SID: Final = 8
_FORM: Final = struct.Struct(f">{_SID}sB{DH_SIZE}s{EK_SIZE}s{CIPHERTEXT_SIZE}s{COUNTER_SIZE}sI{_SALT}s")  # the header


class Undecryptable(MessageAppError):
    """a message could not be decrypted"""


@dataclass(frozen=True, slots=True)
class _Header:
    chat_id: bytes
    dh: bytes
    ek: bytes
    ciphertext: bytes
    counter: int
    previous: int  # pn
    salt: bytes

    def encode(self) -> bytes:
        counter = counter_bytes(self.counter)
        return _FORM.pack(self.chat_id, _VERSION, self.dh, self.ek, self.ciphertext, counter, self.previous, self.salt)

    @property
    def keys(self) -> bytes:
        return self.dh + self.ek + self.ciphertext


@dataclass(frozen=True, slots=True)
class Binding:
    """What every message of one session is bound to."""

    chat_id: bytes  # [8] sid
    associated_data: bytes  # AD: server, both users, both keys
    user: str  # ourselves
    peer: str


@dataclass(frozen=True, slots=True)
class Opened:
    plaintext: bytes
    missing: int  # messages before this one that have not come (yet)
    late: bool  # it was one of those reported missing


class Ratchet:
    """One end-to-end session."""

    def __init__(self, state: State, binding: Binding) -> None:
        self._state = state
        self.binding = binding
        self._chat_id = binding.chat_id
        self._ad = binding.associated_data
        self._user = vec8(binding.user.encode())
        self._peer = vec8(binding.peer.encode())
        self._skipped: Skipped = {}

    @classmethod
    def for_caller(cls, root: RootKey, peer_public: bytes, binding: Binding) -> Ratchet:
        """In the role of Alice: starts the first turn. `Malformed` where the peer's ratchet keys are not valid."""
        state = _start_turn(State(root, None), peer_public[:DH_SIZE], peer_public[DH_SIZE:])
        return cls(state, binding)

    @classmethod
    def for_receiver(cls, root: RootKey, own: RatchetKeys, binding: Binding) -> Ratchet:
        """In the role of Bob: cannot send before the first message came."""
        return cls(State(root, own), binding)

    def __repr__(self) -> str:
        return f"<Ratchet {self._chat_id.hex()}>"

    def snapshot(self) -> Snapshot:
        return Snapshot(self._state, dict(self._skipped))

    def restore(self, snapshot: Snapshot) -> None:
        """Back to `snapshot`, as often as wanted."""
        self._state, self._skipped = snapshot.state, dict(snapshot.skipped)

    def encode(self) -> bytes:
        """The whole state with its keys, for an encrypted file only; the binding is kept apart.

        1.4 KB, and 76 bytes for each message that is missing. Of their keys the age is kept by the clock of `now`,
        so that has to be the wall clock wherever a state outlives its process.
        """
        return encode_state(self._state, self._skipped)

    @classmethod
    def decode(cls, data: bytes, binding: Binding) -> Ratchet:
        """The ratchet that `encode` gave. `Malformed` for anything else."""
        state, skipped = decode_state(data)
        ratchet = cls(state, binding)
        ratchet._skipped = skipped
        return ratchet

    @property
    def can_send(self) -> bool:
        return self._state.sending is not None

    @property
    def skipped_count(self) -> int:
        return len(self._skipped)

    @property
    def begins_turn(self) -> bool:
        """The next message is the first under new keys of ours."""
        sending = self._state.sending
        return sending is not None and sending.sent == 0

    def encrypt(self, plaintext: bytes, random: Random) -> bytes:
        """The next message. The salt makes a restored or cloned state harmless: other plaintext, other key."""
        state = self._state
        sending = state.sending
        if sending is None:
            raise RuntimeError("nothing can be sent before the first message came")
        key, chain = kdf_chain(sending.chain)
        header = _Header(
            self._chat_id,
            sending.keys.dh,
            sending.keys.ek,
            sending.ciphertext,
            sending.sent,
            state.previous,
            random(_SALT),
        )
        message = _seal(key, header, plaintext, self._user, self._ad)
        # Written out: `replace` would cost as much as the hashing.
        sending = Sending(sending.keys, sending.ciphertext, chain, sending.sent + 1)
        self._state = State(state.root, state.own, sending, state.receiving, state.previous)
        return message

    def decrypt_untrusted(self, message: bytes, now: float) -> Opened:
        """`Undecryptable` for anything but a new message of the peer; then nothing has changed. `now` in seconds."""
        try:
            header, sealed = _parse_untrusted(message)
            if not same(header.chat_id, self._chat_id):
                raise Malformed("another chat")
            return self._decrypt(header, message[: _FORM.size], sealed, now)
        except (Malformed, OpenFailed):
            raise Undecryptable from None

    def _decrypt(self, header: _Header, encoded: bytes, sealed: bytes, now: float) -> Opened:
        """`encoded` is `header` as it came: under the tag as it stands."""
        place = (header.dh, header.counter)
        if place in self._skipped:
            key, since = self._skipped[place]
            if now - since > SKIPPED_SECONDS:
                del self._skipped[place]
                raise Malformed("its key was dropped for age")
            plaintext = _open(key, header, encoded, sealed, self._peer, self._ad)
            del self._skipped[place]
            self._forget_old(now)
            return Opened(plaintext, 0, late=True)

        state, receiving = self._state, self._state.receiving
        skipped: Skipped = {}
        new_turn = receiving is None or header.dh != receiving.dh
        if new_turn:
            if receiving is not None:
                self._skip(receiving, header.previous, skipped, now)
            own = state.sending.keys if state.sending is not None else state.own
            if own is None:  # pragma: no cover - one of the two always stands
                raise Malformed("no keys")
            root, chain = kdf_root(state.root, own.decapsulate_untrusted(header.dh, header.ciphertext), header.keys)
            state = replace(state, root=root)
            receiving = Receiving(header.dh, chain)
        assert receiving is not None  # noqa: S101 - for the type checker
        if header.counter < receiving.received:
            raise Malformed("already received")
        receiving = self._skip(receiving, header.counter, skipped, now)
        key, chain = kdf_chain(receiving.chain)
        plaintext = _open(key, header, encoded, sealed, self._peer, self._ad)

        receiving = Receiving(receiving.dh, chain, receiving.received + 1)
        state = State(state.root, state.own, state.sending, receiving, state.previous)
        if new_turn:
            state = _start_turn(state, header.dh, header.ek)
        self._state = state
        self._skipped.update(skipped)
        self._forget_old(now)
        return Opened(plaintext, len(skipped), late=False)

    def _forget_old(self, now: float) -> None:
        for place in [place for place, (_, since) in self._skipped.items() if now - since > SKIPPED_SECONDS]:
            del self._skipped[place]

    def _skip(self, receiving: Receiving, until: int, into: Skipped, now: float) -> Receiving:
        """Keep the keys of the messages before `until`; `Malformed` where that are more than allowed."""
        count = until - receiving.received
        if count <= 0:
            return receiving
        if count > MAX_SKIPPED_CHAIN:
            raise Malformed("too many messages are missing")
        self._forget_old(now)
        if len(self._skipped) + len(into) + count > MAX_SKIPPED_SESSION:
            raise Malformed("too many messages are missing")
        chain = receiving.chain
        for number in range(receiving.received, until):
            key, chain = kdf_chain(chain)
            into[(receiving.dh, number)] = (key, now)
        return replace(receiving, chain=chain, received=until)


def _start_turn(state: State, dh: bytes, ek: bytes) -> State:
    """New keys of ours towards the peer's (dh, ek)."""
    keys = RatchetKeys()
    ciphertext, secrets = keys.encapsulate_untrusted(dh, ek)
    root, chain = kdf_root(state.root, secrets, keys.public + ciphertext)
    previous = state.sending.sent if state.sending is not None else 0
    return replace(state, root=root, own=None, sending=Sending(keys, ciphertext, chain), previous=previous)


def _cipher(key: MessageKey, header: _Header) -> RecordCipher:
    return RecordCipher(expand_label(key, labels.MESSAGE, header.salt, SessionKey))


def _seal(key: MessageKey, header: _Header, plaintext: bytes, sender: bytes, associated: bytes) -> bytes:
    encoded, counter = header.encode(), counter_bytes(header.counter)
    sealed = _cipher(key, header).seal(counter, plaintext, sender + counter + encoded + associated)
    return encoded + sealed


def _open(key: MessageKey, header: _Header, encoded: bytes, sealed: bytes, sender: bytes, associated: bytes) -> bytes:
    counter = counter_bytes(header.counter)
    return _cipher(key, header).open(counter, sealed, sender + counter + encoded + associated)


def sid_of_untrusted(message: bytes) -> bytes:
    """[8] The session that a ratchet message says it is of. `Malformed` for what is too short to be one."""
    if len(message) < _FORM.size + TAG_SIZE:
        raise Malformed("too short to be sealed")
    return message[:_SID]


def _parse_untrusted(message: bytes) -> tuple[_Header, bytes]:
    if len(message) < _FORM.size + TAG_SIZE:
        raise Malformed("too short to be sealed")
    chat_id, version, dh, ek, ciphertext, counter, previous, salt = _FORM.unpack_from(message)
    if version != _VERSION:
        raise Malformed("another version of the ratchet")
    number = int.from_bytes(counter, "little")
    if number > _MAX_U32:
        raise Malformed("a counter that nobody reaches")
    return _Header(chat_id, dh, ek, ciphertext, number, previous, salt), message[_FORM.size :]
