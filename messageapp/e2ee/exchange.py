"""The chat exchange C1–C4 (protocol §8): the report's second key exchange, with roles, peers and invite bound.

    caller                                   receiver
      | C1: R1, suites, invite, both names and key ids |
      |----------------------------------------------->| names itself, this invite, the key ids both hold?
      | C2: R2, TempPub, Ratchet, signature            |
      |<-----------------------------------------------|
      | C3: Enc(K), { signature }                      |
      |----------------------------------------------->| opens, verifies: the caller is proved
      | C4: { "CHAT IS SECURE!" }                      |
      |<-----------------------------------------------|
    secure only when C4 opened               confirmed by the caller's first ratchet message

Both bundles come from the pins (or, the first time, from `pubk`): this module trusts the two that it is given.
Everything that does not fit raises `ExchangeFailed`, and the exchange is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from messageapp.errors import MessageAppError
from messageapp_keys import labels
from messageapp_keys.codec import Malformed, Reader, reading_untrusted, tlvs, u8, u16, vec8, vec16, vec24
from messageapp_keys.identity import IdentityBundle, PrivateIdentity, Signatures, read_signatures, write_signatures
from messageapp_keys.kem import Suite, TemporaryKey, encapsulate_untrusted
from messageapp_keys.primitives import (
    OpenFailed,
    Random,
    expand_bytes,
    expand_label,
    extract,
    hash_bytes,
    hash_labelled,
    open_once,
    same,
    seal_once,
)
from messageapp_keys.ratchetkeys import DH_SIZE, EK_SIZE, RatchetKeys
from messageapp_keys.types import ExporterSecret, HandshakeKey, PseudoRandomKey, RootKey

__all__ = ["Caller", "ChatSecrets", "ExchangeFailed", "Parties", "Receiver"]

CHAT_MAGIC: Final = b"MSGCHAT\x02"
SECURE: Final = b"CHAT IS SECURE!"
_RANDOM: Final = 32
_INVITE: Final = 16
_RATCHET: Final = DH_SIZE + EK_SIZE


class ExchangeFailed(MessageAppError):
    """the key exchange with the other user failed; somebody may be between you"""


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except (Malformed, OpenFailed):
        raise ExchangeFailed from None


@dataclass(frozen=True, slots=True)
class Parties:
    """Who talks to whom, as both must see it."""

    server: str  # canonical name (M4 TLV 5)
    invite: bytes  # [16]
    caller: str
    caller_bundle: IdentityBundle
    receiver: str
    receiver_bundle: IdentityBundle

    def associated_data(self) -> bytes:
        """AD of the ratchet: both users and keys, in an order that does not depend on who called."""
        pairs = sorted(
            ((self.caller_bundle.key_id, self.caller), (self.receiver_bundle.key_id, self.receiver)),
            key=lambda pair: pair[0],
        )
        return hash_labelled(
            labels.CHAT_AD,
            vec8(self.server.encode()),
            *(vec8(name.encode()) + key_id for key_id, name in pairs),
        )


@dataclass(frozen=True, slots=True)
class ChatSecrets:
    """RK0, sid and X; `peer_ratchet` for the caller, `own_ratchet` for the receiver."""

    root: RootKey
    chat_id: bytes  # [8]
    exporter: ExporterSecret
    associated_data: bytes
    suite: Suite


@dataclass(frozen=True, slots=True)
class _C1:
    random: bytes
    suites: tuple[int, ...]
    invite: bytes
    caller: str
    receiver: str
    caller_key: bytes
    receiver_key: bytes
    server: str

    def encode(self) -> bytes:
        return b"".join(
            (
                CHAT_MAGIC,
                self.random,
                u8(len(self.suites)),
                *map(u16, self.suites),
                self.invite,
                vec8(self.caller.encode()),
                vec8(self.receiver.encode()),
                self.caller_key,
                self.receiver_key,
                vec8(self.server.encode()),
                vec16(tlvs({})),
            )
        )

    @classmethod
    def parse_untrusted(cls, data: bytes) -> _C1:
        with reading_untrusted(data) as reader:
            if reader.take(len(CHAT_MAGIC)) != CHAT_MAGIC:
                raise Malformed("not a C1")
            random = reader.take(_RANDOM)
            suites = tuple(reader.u16() for _ in range(reader.u8()))
            invite = reader.take(_INVITE)
            caller, receiver = reader.ascii8(), reader.ascii8()
            caller_key, receiver_key = reader.take(32), reader.take(32)
            server = reader.ascii8()
            Reader(reader.vec16()).tlvs()
            return cls(random, suites, invite, caller, receiver, caller_key, receiver_key, server)


@dataclass(frozen=True, slots=True)
class _C2:
    suite: int
    temp_pub: bytes
    ratchet: bytes
    core: bytes
    signatures: Signatures

    @classmethod
    def parse_untrusted(cls, data: bytes) -> _C2:
        with reading_untrusted(data) as reader:
            reader.take(_RANDOM)
            suite, temp_pub, ratchet = reader.u16(), reader.vec16(), reader.vec16()
            Reader(reader.vec16()).tlvs()
            core = reader.consumed()
            if len(ratchet) != _RATCHET:
                raise Malformed("the ratchet keys have not their length")
            return cls(suite, temp_pub, ratchet, core, read_signatures(reader))


def _prk(suite: Suite, keying_material: bytes) -> PseudoRandomKey:
    return PseudoRandomKey(extract(hash_bytes(labels.EXTRACT_CHAT + u16(suite.code)), keying_material))


def _caller_body(transcript: bytes, parties: Parties) -> bytes:
    return transcript + parties.caller_bundle.key_id + parties.receiver_bundle.key_id


@dataclass(frozen=True, slots=True)
class _Finished:
    """What TH_C3 gives to both sides."""

    confirmation: HandshakeKey  # k_c4
    secrets: ChatSecrets
    transcript: bytes

    @classmethod
    def derive(cls, parties: Parties, suite: Suite, prk: PseudoRandomKey, c1: bytes, c2: bytes, c3: bytes) -> _Finished:
        transcript = hash_labelled(labels.TH_C3, vec24(c1), vec24(c2), vec24(c3))
        return cls(
            expand_label(prk, labels.C4, transcript, HandshakeKey),
            ChatSecrets(
                root=expand_label(prk, labels.CHAT_ROOT, transcript, RootKey),
                chat_id=expand_bytes(prk, labels.CHAT_ID, transcript, 8),
                exporter=expand_label(prk, labels.CHAT_EXPORTER, transcript, ExporterSecret),
                associated_data=parties.associated_data(),
                suite=suite,
            ),
            transcript,
        )


class Caller:
    """`start()` → C1; `receive_c2_untrusted` → C3; `receive_c4_untrusted` → the secrets. Then `peer_ratchet` is set."""

    def __init__(self, parties: Parties, identity: PrivateIdentity, suites: Sequence[Suite], random: Random) -> None:
        self._parties = parties
        self._identity = identity
        self._offered = {suite.code: suite for suite in suites}
        self._random = random
        self._awaits_c2 = True
        self._finished: _Finished | None = None
        self._c1 = _C1(
            random=random(_RANDOM),
            suites=tuple(self._offered),
            invite=parties.invite,
            caller=parties.caller,
            receiver=parties.receiver,
            caller_key=parties.caller_bundle.key_id,
            receiver_key=parties.receiver_bundle.key_id,
            server=parties.server,
        ).encode()
        self.peer_ratchet = b""

    def start(self) -> bytes:
        return self._c1

    def receive_c2_untrusted(self, c2_bytes: bytes) -> bytes:
        """C3, or `ExchangeFailed`. Once: one call makes one signature, whatever the relay repeats."""
        awaits_c2, self._awaits_c2 = self._awaits_c2, False
        if not awaits_c2:
            raise ExchangeFailed
        with _exchange():
            c2 = _C2.parse_untrusted(c2_bytes)
            suite = self._offered.get(c2.suite)
            if suite is None:
                raise Malformed("a suite nobody offered")
            offer = hash_labelled(labels.TH_C2, vec24(self._c1), vec24(c2.core))
            if not self._parties.receiver_bundle.verify_untrusted(labels.SIG_C2, offer, c2.signatures):
                raise Malformed("not signed by the receiver")
            encapsulated, keying_material = encapsulate_untrusted(suite, c2.temp_pub, self._random)
        transcript = hash_labelled(labels.TH_CE, vec24(self._c1), vec24(c2_bytes), vec16(encapsulated))
        prk = _prk(suite, keying_material)
        signatures = self._identity.sign(labels.SIG_C3, _caller_body(transcript, self._parties))
        key = expand_label(prk, labels.C3_AUTH, transcript, HandshakeKey)
        c3 = vec16(encapsulated) + vec16(seal_once(key, write_signatures(signatures), transcript))
        self._finished = _Finished.derive(self._parties, suite, prk, self._c1, c2_bytes, c3)
        self.peer_ratchet = c2.ratchet
        return c3

    def receive_c4_untrusted(self, c4: bytes) -> ChatSecrets:
        """The chat is secure only when this returns (the original ignored the result); raises `ExchangeFailed`."""
        finished, self._finished = self._finished, None
        if finished is None:
            raise ExchangeFailed
        with _exchange():
            if open_once(finished.confirmation, c4, finished.transcript) != SECURE:
                raise Malformed("not the confirmation")
        return finished.secrets


class Receiver:
    """`receive_c1_untrusted` → suite; `offer` → C2; `receive_c3_untrusted` → (C4, secrets)."""

    def __init__(self, parties: Parties, identity: PrivateIdentity, suites: Sequence[Suite], random: Random) -> None:
        self._parties = parties
        self._identity = identity
        self._suites = suites
        self._random = random
        self._temporary: TemporaryKey | None = None

    def receive_c1_untrusted(self, c1_bytes: bytes) -> Suite:
        """Our best suite among those offered; `ExchangeFailed` where C1 names anything but what we hold ourselves."""
        parties = self._parties
        with _exchange():
            c1 = _C1.parse_untrusted(c1_bytes)
            ours = (
                same(c1.invite, parties.invite),
                c1.caller == parties.caller,
                c1.receiver == parties.receiver,
                same(c1.caller_key, parties.caller_bundle.key_id),
                same(c1.receiver_key, parties.receiver_bundle.key_id),
                c1.server == parties.server,
            )
            if not all(ours):
                raise Malformed("C1 is for another call")
            chosen = next((suite for suite in self._suites if suite.code in c1.suites), None)
            if chosen is None:
                raise Malformed("no suite in common")
        self._c1 = c1_bytes
        return chosen

    def offer(self, temporary: TemporaryKey, ratchet: RatchetKeys) -> bytes:
        """C2."""
        self._temporary = temporary
        core = b"".join(
            (
                self._random(_RANDOM),
                u16(temporary.suite.code),
                vec16(temporary.public),
                vec16(ratchet.public),
                vec16(tlvs({})),
            )
        )
        offer = hash_labelled(labels.TH_C2, vec24(self._c1), vec24(core))
        self._c2 = core + write_signatures(self._identity.sign(labels.SIG_C2, offer))
        return self._c2

    def receive_c3_untrusted(self, c3_bytes: bytes) -> tuple[bytes, ChatSecrets]:
        """(C4, secrets), or `ExchangeFailed`. The caller is proved when this returns."""
        temporary, self._temporary = self._temporary, None
        if temporary is None:
            raise ExchangeFailed
        with _exchange():
            with reading_untrusted(c3_bytes) as reader:
                encapsulated, sealed = reader.vec16(), reader.vec16()
            keying_material = temporary.decapsulate_untrusted(encapsulated, self._random(32))
            prk = _prk(temporary.suite, keying_material)
            transcript = hash_labelled(labels.TH_CE, vec24(self._c1), vec24(self._c2), vec16(encapsulated))
            plaintext = open_once(expand_label(prk, labels.C3_AUTH, transcript, HandshakeKey), sealed, transcript)
            with reading_untrusted(plaintext) as reader:
                signatures = read_signatures(reader)
            body = _caller_body(transcript, self._parties)
            if not self._parties.caller_bundle.verify_untrusted(labels.SIG_C3, body, signatures):
                raise Malformed("not signed by the caller")
        finished = _Finished.derive(self._parties, temporary.suite, prk, self._c1, self._c2, c3_bytes)
        return seal_once(finished.confirmation, SECURE, finished.transcript), finished.secrets
