"""What a chat (protocol §8) and a start while the other is away (§9.3) have in common: C1, C3, and what they give.

`offer` is C2, or the prekey that stands in its place:

    TH_CE = H("MessageApp v2 TH-CE" || 00 || vec24(C1) || vec24(offer) || vec16(Enc(K)))
    TH_C3 = H("MessageApp v2 TH-C3" || 00 || vec24(C1) || vec24(offer) || vec24(C3))
    C3    = vec16 Enc(K) | vec16 AES-256-GCM(k_c3, nonce 00 × 12, AAD TH_CE, signatures of the caller)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from messageapp.errors import MessageAppError
from messageapp_keys import labels
from messageapp_keys.codec import Malformed, Reader, reading_untrusted, tlvs, u8, u16, vec8, vec16, vec24
from messageapp_keys.identity import IdentityBundle, PrivateIdentity, read_signatures, write_signatures
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
from messageapp_keys.types import ExporterSecret, HandshakeKey, PseudoRandomKey, RootKey

__all__ = [
    "C1",
    "ChatSecrets",
    "ExchangeFailed",
    "Finished",
    "Parties",
    "checking",
    "open_proof_untrusted",
    "prove_untrusted",
]

CHAT_MAGIC: Final = b"MSGCHAT\x02"
RANDOM_SIZE: Final = 32
INVITE_SIZE: Final = 16


class ExchangeFailed(MessageAppError):
    """the key exchange with the other user failed; somebody may be between you"""


@contextmanager
def checking() -> Iterator[None]:
    """Whatever does not fit or does not open within is `ExchangeFailed`."""
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
    """RK0, sid and X."""

    root: RootKey
    chat_id: bytes  # [8]
    exporter: ExporterSecret
    associated_data: bytes
    suite: Suite


@dataclass(frozen=True, slots=True)
class C1:
    random: bytes
    suites: tuple[int, ...]
    invite: bytes
    caller: str
    receiver: str
    caller_key: bytes
    receiver_key: bytes
    server: str
    extra: Mapping[int, bytes] = field(default_factory=dict)  # TLVs: none in a chat

    @classmethod
    def of(cls, parties: Parties, suites: tuple[int, ...], random: Random, extra: Mapping[int, bytes]) -> C1:
        return cls(
            random=random(RANDOM_SIZE),
            suites=suites,
            invite=parties.invite,
            caller=parties.caller,
            receiver=parties.receiver,
            caller_key=parties.caller_bundle.key_id,
            receiver_key=parties.receiver_bundle.key_id,
            server=parties.server,
            extra=extra,
        )

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
                vec16(tlvs(self.extra)),
            )
        )

    @classmethod
    def parse_untrusted(cls, data: bytes) -> C1:
        with reading_untrusted(data) as reader:
            if reader.take(len(CHAT_MAGIC)) != CHAT_MAGIC:
                raise Malformed("not a C1")
            random = reader.take(RANDOM_SIZE)
            suites = tuple(reader.u16() for _ in range(reader.u8()))
            invite = reader.take(INVITE_SIZE)
            caller, receiver = reader.ascii8(), reader.ascii8()
            caller_key, receiver_key = reader.take(32), reader.take(32)
            server = reader.ascii8()
            extra = Reader(reader.vec16()).tlvs()
            return cls(random, suites, invite, caller, receiver, caller_key, receiver_key, server, extra)

    def names(self, parties: Parties) -> bool:
        """Are invite, both users, both keys and the server those of `parties`?"""
        ours = (
            same(self.invite, parties.invite),
            self.caller == parties.caller,
            self.receiver == parties.receiver,
            same(self.caller_key, parties.caller_bundle.key_id),
            same(self.receiver_key, parties.receiver_bundle.key_id),
            self.server == parties.server,
        )
        return all(ours)


@dataclass(frozen=True, slots=True)
class Finished:
    """What TH_C3 gives to both sides."""

    confirmation: HandshakeKey  # k_c4
    secrets: ChatSecrets
    transcript: bytes  # [32] TH_C3

    @classmethod
    def derive(
        cls, parties: Parties, suite: Suite, prk: PseudoRandomKey, c1: bytes, offer: bytes, c3: bytes
    ) -> Finished:
        transcript = hash_labelled(labels.TH_C3, vec24(c1), vec24(offer), vec24(c3))
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


def chat_prk(suite: Suite, keying_material: bytes) -> PseudoRandomKey:
    return PseudoRandomKey(extract(hash_bytes(labels.EXTRACT_CHAT + u16(suite.code)), keying_material))


def _encapsulated(c1: bytes, offer: bytes, encapsulated: bytes) -> bytes:
    """TH_CE."""
    return hash_labelled(labels.TH_CE, vec24(c1), vec24(offer), vec16(encapsulated))


def _caller_body(transcript: bytes, parties: Parties) -> bytes:
    return transcript + parties.caller_bundle.key_id + parties.receiver_bundle.key_id


def prove_untrusted(
    parties: Parties, identity: PrivateIdentity, suite: Suite, c1: bytes, offer: bytes, temp_pub: bytes, random: Random
) -> tuple[bytes, Finished]:
    """The caller's C3 for the TempPub of a verified `offer`. `Malformed` where one of its keys is not acceptable."""
    encapsulated, keying_material = encapsulate_untrusted(suite, temp_pub, random)
    transcript = _encapsulated(c1, offer, encapsulated)
    prk = chat_prk(suite, keying_material)
    signatures = identity.sign(labels.SIG_C3, _caller_body(transcript, parties))
    key = expand_label(prk, labels.C3_AUTH, transcript, HandshakeKey)
    c3 = vec16(encapsulated) + vec16(seal_once(key, write_signatures(signatures), transcript))
    return c3, Finished.derive(parties, suite, prk, c1, offer, c3)


def open_proof_untrusted(
    parties: Parties, temporary: TemporaryKey, c1: bytes, offer: bytes, c3: bytes, random: Random
) -> Finished:
    """The receiver's reading of C3: the caller is proved when this returns. `Malformed` or `OpenFailed` else."""
    with reading_untrusted(c3) as reader:
        encapsulated, sealed = reader.vec16(), reader.vec16()
    keying_material = temporary.decapsulate_untrusted(encapsulated, random(32))
    prk = chat_prk(temporary.suite, keying_material)
    transcript = _encapsulated(c1, offer, encapsulated)
    plaintext = open_once(expand_label(prk, labels.C3_AUTH, transcript, HandshakeKey), sealed, transcript)
    with reading_untrusted(plaintext) as reader:
        signatures = read_signatures(reader)
    body = _caller_body(transcript, parties)
    if not parties.caller_bundle.verify_untrusted(labels.SIG_C3, body, signatures):
        raise Malformed("not signed by the caller")
    return Finished.derive(parties, temporary.suite, prk, c1, offer, c3)
