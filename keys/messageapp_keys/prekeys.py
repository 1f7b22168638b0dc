"""Prekeys: a C2 made in advance, so that a chat can start while its receiver is away (protocol §9.1).

    prekey = u32 id | u8 kind | u64 expires, ms | [32] R2 | u16 suite 0x0003 | vec16 TempPub | vec16 Ratchet
             | vec8 user | [32] key_id                                          up to here: core
             | u8 n, n × (u16 sigalg, vec16 signature)                          SIG("MessageApp v2, prekey", core)

The form has no choice in it: what was parsed is written again as the same bytes, which stand in the transcript.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from . import labels
from .codec import Malformed, Reader, reading_untrusted, u8, u16, u32, u64, vec8, vec16
from .identity import IdentityBundle, PrivateIdentity, Signatures, read_signatures, write_signatures
from .kem import PAIR_SIZE, SWIFT, TemporaryKey
from .names import is_username
from .primitives import Random, same
from .ratchetkeys import DH_SIZE, EK_SIZE, RatchetKeys

__all__ = ["Prekey", "PrekeyKind", "PrekeyRefused", "PrivatePrekey"]

_RANDOM: Final = 32
_KEY_ID: Final = 32
_PUBLIC: Final = DH_SIZE + EK_SIZE  # of TempPub with `swift`, and of Ratchet
_VERSION: Final = 1  # of the private half at rest


class PrekeyKind(IntEnum):
    ONE_TIME = 1
    LAST_RESORT = 2  # given when no one-time prekey is left; serves more than once


class PrekeyRefused(ValueError):
    """A prekey is not one of this user's, or has expired. The text says which."""


@dataclass(frozen=True, slots=True)
class Prekey:
    """The public half, as its owner signed it."""

    id: int  # u32
    kind: PrekeyKind
    expires_ms: int  # u64, ms since 1970
    random: bytes  # [32] R2
    temp_pub: bytes  # [1216] of `swift`
    ratchet: bytes  # [1216]
    user: str  # in the registered spelling
    key_id: bytes  # [32] of the user's bundle
    signatures: Signatures = ()

    @property
    def core(self) -> bytes:
        """What is signed."""
        return b"".join(
            (
                u32(self.id),
                u8(self.kind),
                u64(self.expires_ms),
                self.random,
                u16(SWIFT.code),
                vec16(self.temp_pub),
                vec16(self.ratchet),
                vec8(self.user.encode()),
                self.key_id,
            )
        )

    def encode(self) -> bytes:
        """2.5 KB and the signatures: 0.4 KB by RSA-3072, 3.3 KB by ML-DSA-65."""
        return self.core + write_signatures(self.signatures)

    @classmethod
    def read_untrusted(cls, reader: Reader) -> Prekey:
        """The next prekey of `reader`; it ends where its signatures end. Only its form is looked at: `Malformed`."""
        number, kind, expires_ms, random = reader.u32(), reader.u8(), reader.u64(), reader.take(_RANDOM)
        if kind not in tuple(PrekeyKind):
            raise Malformed("a prekey is of an unknown kind")
        if reader.u16() != SWIFT.code:
            raise Malformed("a prekey is of another suite than swift")
        temp_pub, ratchet = reader.vec16(), reader.vec16()
        if len(temp_pub) != _PUBLIC or len(ratchet) != _PUBLIC:
            raise Malformed("the keys of a prekey have not their length")
        user, key_id = reader.ascii8(), reader.take(_KEY_ID)
        if not is_username(user):
            raise Malformed("a prekey names no user")
        signatures = read_signatures(reader)
        return cls(number, PrekeyKind(kind), expires_ms, random, temp_pub, ratchet, user, key_id, signatures)

    @classmethod
    def parse_untrusted(cls, data: bytes) -> Prekey:
        """One prekey and nothing else. `Malformed`."""
        with reading_untrusted(data) as reader:
            return cls.read_untrusted(reader)

    def verify_untrusted(self, bundle: IdentityBundle, user: str, now_ms: int) -> None:
        """Signed by `bundle` for `user` (as spelled there), and not expired at `now_ms`; else `PrekeyRefused`."""
        if self.user != user:
            raise PrekeyRefused("the prekey is of another user")
        if not same(self.key_id, bundle.key_id):
            raise PrekeyRefused("the prekey is of another key")
        if self.expires_ms <= now_ms:
            raise PrekeyRefused("the prekey has expired")
        if not bundle.verify_untrusted(labels.SIG_PREKEY, self.core, self.signatures):
            raise PrekeyRefused("the prekey is not signed by its user")


@dataclass(frozen=True, slots=True)
class PrivatePrekey:
    """A prekey with its private halves. `temporary` can be had again and again: who uses up a prekey deletes it."""

    public: Prekey
    ratchet_keys: RatchetKeys
    _temporary: bytes = field(repr=False)

    @classmethod
    def generate(
        cls, id: int, kind: PrekeyKind, expires_ms: int, user: str, identity: PrivateIdentity, random: Random
    ) -> PrivatePrekey:
        """A new one. 0.2 ms, and a signature: 1.2 ms with RSA-3072."""
        temporary, ratchet_keys = TemporaryKey.generate(SWIFT), RatchetKeys()
        fields = (id, kind, expires_ms, random(_RANDOM), temporary.public, ratchet_keys.public, user, identity.key_id)
        signatures = identity.sign(labels.SIG_PREKEY, Prekey(*fields).core)
        return cls(Prekey(*fields, signatures), ratchet_keys, temporary.private_bytes())

    @property
    def temporary(self) -> TemporaryKey:
        """The private half of TempPub, fresh: it decapsulates once."""
        return TemporaryKey.from_private_bytes(self._temporary)

    def encode(self) -> bytes:
        """[193] The private halves, for an encrypted file only: u8 version | [96] temporary | [96] ratchet."""
        return u8(_VERSION) + self._temporary + self.ratchet_keys.private_bytes()

    @classmethod
    def decode(cls, public: Prekey, private: bytes) -> PrivatePrekey:
        """The reverse of `encode`, for the prekey that it was of. `Malformed` where it is of another one."""
        with reading_untrusted(private) as reader:
            if reader.u8() != _VERSION:
                raise Malformed("a private prekey is of another version")
            temporary, ratchet_keys = reader.take(PAIR_SIZE), RatchetKeys.from_private_bytes(reader.take(PAIR_SIZE))
        found = cls(public, ratchet_keys, temporary)
        if (found.temporary.public, ratchet_keys.public) != (public.temp_pub, public.ratchet):
            raise Malformed("a private prekey is not of this prekey")
        return found
