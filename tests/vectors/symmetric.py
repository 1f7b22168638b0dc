"""AES-256-GCM, HKDF-SHA-256 and Argon2id: published vectors through `primitives` and `keystore`."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messageapp_keys.codec import u8, u16, vec8, vec16, vec24
from messageapp_keys.keystore import MAGIC, Argon2Cost, SealedIdentity, WrongPassphrase
from messageapp_keys.primitives import OpenFailed, RecordCipher, expand, extract
from messageapp_keys.types import SessionKey
from support.keys import identity

from .published import Block

_TAIL = b"\xff\x00\xff\x00"  # of a counter, behind the 12 bytes that are the IV


def gcm(vector: Block) -> str | None:
    """`RecordCipher`: the IV is the front of a 16-byte counter, the tag stands before the ciphertext."""
    if vector["IVlen"] != "96":
        return "an IV that is not 12 bytes long"
    if vector["Taglen"] != "128":
        return "a tag that is not 16 bytes long"
    key, iv, aad, ciphertext, tag = (bytes.fromhex(vector[name]) for name in ("Key", "IV", "AAD", "CT", "Tag"))
    cipher, counter = RecordCipher(SessionKey(key)), iv + _TAIL
    if "FAIL" in vector:
        with pytest.raises(OpenFailed):
            cipher.open(counter, tag + ciphertext, aad)
        return None
    plaintext = bytes.fromhex(vector["PT"])
    assert cipher.seal(counter, plaintext, aad) == tag + ciphertext
    assert tuple(map(bytes, cipher.seal_apart(counter, plaintext, aad))) == (tag, ciphertext)
    assert cipher.open(counter, tag + ciphertext, aad) == plaintext
    return None


def hkdf(vector: Block) -> str | None:
    """`extract`, then `expand`."""
    secret, salt, info, wanted = (bytes.fromhex(vector[name]) for name in ("IKM", "salt", "info", "OKM"))
    key = extract(salt, secret)
    assert key.hex() == vector.get("PRK", key.hex())
    assert expand(key, info, int(vector["L"])) == wanted
    return None


def argon2id(vector: Block) -> str | None:
    """A key file whose AES key is the published output: only `unseal` with our Argon2id opens it."""
    if "secret" in vector:
        return "a secret and associated data"
    if vector["length"] != "32":
        return "another length than 32 bytes, and a salt of 8"
    passphrase, salt, key = (bytes.fromhex(vector[name]) for name in ("pass", "salt", "output"))
    cost = Argon2Cost(int(vector["memcost"]), int(vector["iter"]), int(vector["lanes"]))
    owner = identity("ed25519")
    header = MAGIC + u8(1) + cost.encode() + salt + bytes(12) + vec8(b"alice") + vec16(owner.bundle.encode())
    ((algorithm, der),) = owner.pkcs8()
    sealed = AESGCM(key).encrypt(bytes(12), u8(1) + u16(algorithm) + vec16(der), header)
    file = SealedIdentity.parse_untrusted(header + vec24(sealed))
    assert file.unseal(passphrase).key_id == owner.key_id
    with pytest.raises(WrongPassphrase):
        file.unseal(passphrase + b"x")
    return None
