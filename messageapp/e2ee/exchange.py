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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from messageapp_keys import labels
from messageapp_keys.codec import Malformed, Reader, reading_untrusted, tlvs, u16, vec16, vec24
from messageapp_keys.identity import PrivateIdentity, Signatures, read_signatures, write_signatures
from messageapp_keys.kem import Suite, TemporaryKey
from messageapp_keys.primitives import Random, hash_labelled, open_once, seal_once
from messageapp_keys.ratchetkeys import DH_SIZE, EK_SIZE, RatchetKeys

from .agreement import (
    C1,
    RANDOM_SIZE,
    ChatSecrets,
    ExchangeFailed,
    Finished,
    Parties,
    checking,
    open_proof_untrusted,
    prove_untrusted,
)

__all__ = ["Caller", "ChatSecrets", "ExchangeFailed", "Parties", "Receiver"]

SECURE: Final = b"CHAT IS SECURE!"
_RATCHET: Final = DH_SIZE + EK_SIZE


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
            reader.take(RANDOM_SIZE)
            suite, temp_pub, ratchet = reader.u16(), reader.vec16(), reader.vec16()
            Reader(reader.vec16()).tlvs()
            core = reader.consumed()
            if len(ratchet) != _RATCHET:
                raise Malformed("the ratchet keys have not their length")
            return cls(suite, temp_pub, ratchet, core, read_signatures(reader))


class Caller:
    """`start()` → C1; `receive_c2_untrusted` → C3; `receive_c4_untrusted` → the secrets. Then `peer_ratchet` is set."""

    def __init__(self, parties: Parties, identity: PrivateIdentity, suites: Sequence[Suite], random: Random) -> None:
        self._parties = parties
        self._identity = identity
        self._offered = {suite.code: suite for suite in suites}
        self._random = random
        self._awaits_c2 = True
        self._finished: Finished | None = None
        self._c1 = C1.of(parties, tuple(self._offered), random, {}).encode()
        self.peer_ratchet = b""

    def start(self) -> bytes:
        return self._c1

    def receive_c2_untrusted(self, c2_bytes: bytes) -> bytes:
        """C3, or `ExchangeFailed`. Once: one call makes one signature, whatever the relay repeats."""
        awaits_c2, self._awaits_c2 = self._awaits_c2, False
        if not awaits_c2:
            raise ExchangeFailed
        with checking():
            c2 = _C2.parse_untrusted(c2_bytes)
            suite = self._offered.get(c2.suite)
            if suite is None:
                raise Malformed("a suite nobody offered")
            offer = hash_labelled(labels.TH_C2, vec24(self._c1), vec24(c2.core))
            if not self._parties.receiver_bundle.verify_untrusted(labels.SIG_C2, offer, c2.signatures):
                raise Malformed("not signed by the receiver")
            c3, self._finished = prove_untrusted(
                self._parties, self._identity, suite, self._c1, c2_bytes, c2.temp_pub, self._random
            )
        self.peer_ratchet = c2.ratchet
        return c3

    def receive_c4_untrusted(self, c4: bytes) -> ChatSecrets:
        """The chat is secure only when this returns (the original ignored the result); raises `ExchangeFailed`."""
        finished, self._finished = self._finished, None
        if finished is None:
            raise ExchangeFailed
        with checking():
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
        with checking():
            c1 = C1.parse_untrusted(c1_bytes)
            if not c1.names(self._parties):
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
                self._random(RANDOM_SIZE),
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
        with checking():
            finished = open_proof_untrusted(self._parties, temporary, self._c1, self._c2, c3_bytes, self._random)
        return seal_once(finished.confirmation, SECURE, finished.transcript), finished.secrets
