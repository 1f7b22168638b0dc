"""Private keys at rest: an identity sealed under a passphrase, as bytes; files are the caller's (protocol §3, §15).

    magic | u8 kdf=1 | u32 KiB | u32 t | u8 p | [16] salt | [12] nonce | vec8 user | vec16 bundle | vec24 sealed

    sealed = AES-256-GCM(Argon2id(passphrase), u8 n | n × (u16 sigalg | vec16 PKCS#8 DER)), everything before it as AAD

The public half stands in the open, so that keys can be listed and exported without the passphrase; it is under the tag,
and after unsealing it must be the public half of what was sealed. The nonce cannot repeat under a key: each sealing
draws a fresh salt, so each key seals one thing.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from .codec import Malformed, Reader, reading_untrusted, u8, u16, u32, vec8, vec16, vec24
from .identity import IdentityBundle, PrivateIdentity
from .names import is_username
from .primitives import Random

__all__ = [
    "DEFAULT_COST",
    "Argon2Cost",
    "KeyFileCorrupt",
    "SealedIdentity",
    "WrongPassphrase",
    "read_cost",
    "read_private",
    "seal_identity",
    "stretch",
    "write_private",
]

MAGIC: Final = b"MSGAPPK\x01"
KDF_ARGON2ID: Final = 1
SALT_SIZE: Final = 16
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16

# Bounds on what a file may ask for: whoever can write the file must not be able to take our memory or our time.
MIN_KIB: Final = 8
MAX_KIB: Final = 1024 * 1024
MAX_PASSES: Final = 16
MAX_LANES: Final = 4
_KIB_PER_LANE: Final = 8  # the least that Argon2 itself takes (RFC 9106 §3.1)


class KeyFileCorrupt(Exception):
    """This is no key file of ours, or it is damaged."""


class WrongPassphrase(Exception):
    """The passphrase is wrong, or the key file was changed."""

    def __init__(self) -> None:
        super().__init__("the passphrase is wrong (or the key file was changed)")


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """What one guess costs: memory in KiB, passes over it, lanes. Raises ValueError outside the bounds of this module.

    The default is 64 MiB, 3 passes, 1 lane: about 175 ms (RFC 9106 §4, its second recommended choice, with one lane).
    """

    kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= MAX_PASSES or not 1 <= self.lanes <= MAX_LANES:
            raise ValueError(f"Argon2id takes 1 to {MAX_PASSES} passes and 1 to {MAX_LANES} lanes here")
        if not max(MIN_KIB, _KIB_PER_LANE * self.lanes) <= self.kib <= MAX_KIB:
            raise ValueError(f"Argon2id takes {MIN_KIB} KiB for each lane to {MAX_KIB} KiB here")

    def encode(self) -> bytes:
        return u32(self.kib) + u32(self.passes) + u8(self.lanes)


DEFAULT_COST: Final = Argon2Cost()


def seal_identity(
    user: str,
    identity: PrivateIdentity,
    passphrase: str | bytes,
    *,
    cost: Argon2Cost = DEFAULT_COST,
    random: Random = os.urandom,
) -> bytes:
    """The key file of ``identity``, whose owner is called ``user``.

    Takes as long and as much memory as ``cost`` says: not for the event loop (the interpreter lock is released).
    Raises ValueError for a username that the protocol does not take. Source: protocol §3, §15.
    """
    if not is_username(user):
        raise ValueError("not a username")
    salt, nonce = random(SALT_SIZE), random(NONCE_SIZE)
    header = MAGIC + u8(KDF_ARGON2ID) + cost.encode() + salt + nonce
    header += vec8(user.encode()) + vec16(identity.bundle.encode())
    return header + vec24(AESGCM(stretch(passphrase, salt, cost)).encrypt(nonce, write_private(identity), header))


@dataclass(frozen=True, slots=True, repr=False)
class SealedIdentity:
    """A key file, read but not opened: ``user`` and ``bundle`` are what it says, authentic only once it opens."""

    user: str
    bundle: IdentityBundle
    cost: Argon2Cost
    salt: bytes
    nonce: bytes
    header: bytes
    sealed: bytes

    def __repr__(self) -> str:
        return f"<SealedIdentity {self.user} {self.bundle.key_id.hex()[:16]}>"

    @classmethod
    def parse_untrusted(cls, data: bytes) -> SealedIdentity:
        """Read a key file without a passphrase. Raises `KeyFileCorrupt`, also for costs outside the bounds."""
        if not data.startswith(MAGIC):
            raise KeyFileCorrupt("this is no key file of messageapp")
        try:
            with reading_untrusted(data) as reader:
                return cls._read(reader)
        except ValueError as error:  # Malformed, a cost out of bounds, a username that is no UTF-8
            reason = str(error) if isinstance(error, Malformed) else "a field has an impossible value"
            raise KeyFileCorrupt(f"the key file is damaged: {reason}") from None

    @classmethod
    def _read(cls, reader: Reader) -> SealedIdentity:
        reader.take(len(MAGIC))
        if reader.u8() != KDF_ARGON2ID:
            raise Malformed("it names a key derivation that is not known")
        cost = read_cost(reader)
        salt, nonce = reader.take(SALT_SIZE), reader.take(NONCE_SIZE)
        user = reader.vec8().decode()
        if not is_username(user):
            raise Malformed("it names no user")
        bundle = IdentityBundle.parse_untrusted(reader.vec16())
        header = reader.consumed()
        sealed = reader.vec24()
        if len(sealed) <= TAG_SIZE:
            raise Malformed("it holds no key")
        return cls(user, bundle, cost, salt, nonce, header, sealed)

    def unseal(self, passphrase: str | bytes) -> PrivateIdentity:
        """The private keys. Costs time and memory as `cost` says: not for the event loop; keep the result.

        Raises `WrongPassphrase` if the tag does not fit, `KeyFileCorrupt` if what opens is not the private half of
        `bundle`.
        """
        key = stretch(passphrase, self.salt, self.cost)
        try:
            plaintext = AESGCM(key).decrypt(self.nonce, self.sealed, self.header)
        except InvalidTag:
            raise WrongPassphrase from None
        try:
            with reading_untrusted(plaintext) as reader:
                identity = read_private(reader)
        except Malformed:
            raise KeyFileCorrupt("the key file opens, but holds no keys that can be used") from None
        if identity.bundle != self.bundle:
            raise KeyFileCorrupt("the key file opens, but its private key does not belong to its public key")
        return identity


def write_private(identity: PrivateIdentity) -> bytes:
    """`u8 n | n × (u16 sigalg | vec16 PKCS#8 DER)`, to be sealed at once."""
    parts = identity.pkcs8()
    return u8(len(parts)) + b"".join(u16(algorithm) + vec16(der) for algorithm, der in parts)


def read_private(reader: Reader) -> PrivateIdentity:
    """The reverse, of bytes that a tag has authenticated. Raises `Malformed`."""
    return PrivateIdentity.from_pkcs8([(reader.u16(), reader.vec16()) for _ in range(reader.u8())])


def read_cost(reader: Reader) -> Argon2Cost:
    """What `Argon2Cost.encode` writes. Raises ValueError (`Malformed` is one), also for costs outside the bounds."""
    return Argon2Cost(kib=reader.u32(), passes=reader.u32(), lanes=reader.u8())


def stretch(passphrase: str | bytes, salt: bytes, cost: Argon2Cost) -> bytes:
    """[32] Argon2id of the passphrase. Takes as long and as much memory as `cost` says."""
    secret = _normal(passphrase)
    return Argon2id(salt=salt, length=32, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.kib).derive(secret)


def _normal(passphrase: str | bytes) -> bytes:
    """NFC in UTF-8, so that one passphrase typed on two systems is one. Bytes that are no UTF-8 stay as they are."""
    try:
        text = passphrase if isinstance(passphrase, str) else passphrase.decode()
    except UnicodeDecodeError as error:
        return error.object
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
