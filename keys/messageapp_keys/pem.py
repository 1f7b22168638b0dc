"""Keys in PEM, in and out: the way in for the report's own `openssl` keys, the way out for public keys (protocol §3).

The report made its keys with `openssl genrsa -aes256 -out k.pem 2048`. OpenSSL 3 writes PKCS#8 for that (`ENCRYPTED
PRIVATE KEY`, PBKDF2); older ones the traditional form (`Proc-Type: 4,ENCRYPTED`), whose key is one MD5 pass over the
passphrase. Both are read, once; afterwards the key lives in the key store, and the user is told to delete the old file.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, rsa
from cryptography.utils import CryptographyDeprecationWarning

from .codec import Malformed
from .identity import IdentityBundle, PrivateIdentity
from .signing import (
    MAX_RSA_BITS,
    MIN_RSA_BITS,
    RSA_EXPONENT,
    UNREADABLE_KEY,
    PublicKey,
    UnusableKey,
    algorithm_of,
    public_der,
)

__all__ = [
    "PemRefused",
    "export_public_pem",
    "import_private_pem",
    "import_public_pem",
    "is_legacy",
    "needs_passphrase",
]

MAX_PEM: Final = 64 * 1024  # an RSA-4096 key is 3.4 kB, an ML-DSA-65 public key 2.7 kB
_LABEL: Final = re.compile(rb"^-----BEGIN ([A-Z0-9 ]{1,40})-----[ \t]*\r?$", re.MULTILINE)
_BLOCK: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
# The warning is for Diffie-Hellman keys, and an exception only where warnings are errors.
_UNREADABLE: Final = (*UNREADABLE_KEY, CryptographyDeprecationWarning)
_LEGACY: Final = re.compile(rb"^Proc-Type:[ \t]*4,[ \t]*ENCRYPTED", re.MULTILINE)


class PemRefused(Exception):
    """A PEM file holds no key that can be used; the text is the sentence for the user."""


def is_legacy(pem: bytes) -> bool:
    """True for the traditional form, encrypted with one MD5 pass over the passphrase: the file should be deleted."""
    return _LEGACY.search(pem) is not None


def needs_passphrase(pem: bytes) -> bool:
    """True where `import_private_pem` will want a passphrase."""
    return is_legacy(pem) or b"ENCRYPTED PRIVATE KEY" in _labels(pem)


def import_private_pem(pem: bytes, passphrase: bytes | None) -> PrivateIdentity:
    """The identity of one private key: RSA of 2048 to 4096 bits with e = 65537, or Ed25519.

    ``passphrase`` is that of the file, None where it has none (one that is not needed is ignored). Takes 35 ms and more
    for RSA, and what the file's own key derivation asks for: not for the event loop. Raises `PemRefused`.
    """
    _check_private_labels(pem)
    if needs_passphrase(pem):
        if not passphrase:
            raise PemRefused("this private key has a passphrase, and none was given")
    else:
        passphrase = None
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except _UNREADABLE:
        wrong = "the passphrase is wrong, or " if passphrase else ""
        raise PemRefused(f"this private key cannot be read: {wrong}the file is damaged or of an unknown kind") from None
    if not isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise PemRefused("this private key is neither RSA nor Ed25519")
    if isinstance(key, rsa.RSAPrivateKey):
        _check_rsa(key.key_size, key.public_key().public_numbers().e)
    try:
        return PrivateIdentity([key])
    except (Malformed, UnusableKey) as error:
        raise PemRefused(f"this private key cannot be used: {error}") from None


def import_public_pem(pem: bytes) -> IdentityBundle:
    """The bundle of one PUBLIC KEY block, or of two, of which the second is ML-DSA-65. Raises `PemRefused`.

    Takes what `openssl rsa -pubout` and `export_public_pem` write.
    """
    labels = _labels(pem)
    if any(b"PRIVATE KEY" in label for label in labels):
        raise PemRefused(
            "this is a private key; only its public half may leave its owner "
            "(`messageapp keys export NAME`, or `openssl rsa -pubout`)"
        )
    blocks = _BLOCK.findall(pem)
    if not 1 <= len(blocks) <= 2 or labels != [b"PUBLIC KEY"] * len(blocks):
        raise PemRefused(f"a public key file holds one or two PUBLIC KEY blocks; this one holds {_listed(labels)}")
    keys = [_public_key(block) for block in blocks]
    try:
        return IdentityBundle(tuple((int(algorithm_of(key)), public_der(key)) for key in keys)).checked_untrusted()
    except (Malformed, UnusableKey) as error:
        raise PemRefused(f"this public key cannot be used: {error}") from None


def export_public_pem(bundle: IdentityBundle) -> str:
    """One PUBLIC KEY block (SubjectPublicKeyInfo, RFC 7468 §13) for each key of the bundle, in its order."""
    encoding, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return "".join(
        serialization.load_der_public_key(der).public_bytes(encoding, kind).decode("ascii") for _, der in bundle.keys
    )


def _public_key(block: bytes) -> PublicKey:
    try:
        key = serialization.load_pem_public_key(block)
    except _UNREADABLE:
        raise PemRefused("this public key cannot be read") from None
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key.key_size, key.public_numbers().e)
    elif not isinstance(key, ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey):
        raise PemRefused("this public key is neither RSA nor Ed25519 nor ML-DSA-65")
    return key


def _check_rsa(bits: int, exponent: int) -> None:
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise PemRefused(f"this RSA key has {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken")
    if exponent != RSA_EXPONENT:
        raise PemRefused(f"this RSA key has another exponent than {RSA_EXPONENT}")


def _check_private_labels(pem: bytes) -> None:
    labels = _labels(pem)
    private = [label for label in labels if label.endswith(b"PRIVATE KEY")]
    if not private and b"PUBLIC KEY" in labels:
        raise PemRefused("this is a public key; a private key is wanted here")
    if b"OPENSSH PRIVATE KEY" in private:
        raise PemRefused("this is a key of OpenSSH; `ssh-keygen -p -m PKCS8 -f FILE` makes it readable here")
    if len(private) != 1:
        raise PemRefused(f"a private key file holds one PRIVATE KEY block; this one holds {_listed(labels)}")


def _labels(pem: bytes) -> list[bytes]:
    if len(pem) > MAX_PEM:
        raise PemRefused(f"this file is larger than any key ({MAX_PEM // 1024} KiB)")
    return _LABEL.findall(pem)


def _listed(labels: list[bytes]) -> str:
    return ", ".join(label.decode("ascii") for label in labels[:4]) + (" …" if labels[4:] else "") or "no PEM at all"
