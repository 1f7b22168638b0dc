"""What a certificate says: names, dates, key, as text that is safe to show; and the one exception for a bad one.

A certificate comes from a stranger. Every text taken out of one is made printable before it goes into a sentence or a
summary, and whatever the library raises on an unreadable part comes out as `CertificateRefused`.
"""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from .primitives import hash_bytes
from .signing import PublicKey, UnusableKey, VerifyingKey, public_der

__all__ = [
    "UNREADABLE",
    "CertificateRefused",
    "CertificateSummary",
    "Refusal",
    "certificate_der",
    "certificate_pem",
    "crl_der",
    "crl_pem",
    "describe",
    "leaf_key",
    "leaf_names",
    "load_certificate_untrusted",
    "load_crl_untrusted",
    "spki_hash",
]

_SHOWN_LENGTH: Final = 100

# What the library raises on a part that it cannot read.
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Refusal(Enum):
    """Why a certificate was refused."""

    MALFORMED = auto()  # cannot be read
    CHAIN = auto()  # none, or more than three certificates
    WRONG_CA = auto()  # not issued by the CA that the client has
    EXPIRED = auto()
    NOT_YET_VALID = auto()
    WRONG_NAME = auto()
    NO_SERVER_AUTH = auto()
    LIFETIME = auto()
    KEY = auto()  # a kind or size of key that the protocol does not take
    KEY_USAGE = auto()
    CRL = auto()  # the revocation list itself is not good
    REVOKED = auto()
    PROFILE = auto()  # against some other rule of X.509


class CertificateRefused(Exception):
    """The server's certificate was refused; the text is the sentence for the user, `reason` one of `Refusal`."""

    def __init__(self, reason: Refusal, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class CertificateSummary:
    """What a certificate says, made printable. Times in UTC; the fingerprint is SHA-256 of the DER, hex with colons."""

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    fingerprint_sha256: str
    names: tuple[str, ...]


def load_certificate_untrusted(data: bytes) -> x509.Certificate:
    """One certificate, PEM (the first one in it) or DER. Raises `CertificateRefused` (MALFORMED)."""
    with reading():
        return x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)


def load_crl_untrusted(data: bytes) -> x509.CertificateRevocationList:
    """A revocation list, PEM or DER; nothing of it is checked yet. Raises `CertificateRefused` (CRL)."""
    try:
        with _quiet():
            return x509.load_pem_x509_crl(data) if b"-----BEGIN" in data else x509.load_der_x509_crl(data)
    except UNREADABLE:
        raise CertificateRefused(Refusal.CRL, "the revocation list cannot be read") from None


def certificate_pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode("ascii")


def crl_pem(crl: x509.CertificateRevocationList) -> str:
    return crl.public_bytes(serialization.Encoding.PEM).decode("ascii")


def crl_der(crl: x509.CertificateRevocationList) -> bytes:
    return crl.public_bytes(serialization.Encoding.DER)


def certificate_der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.DER)


def leaf_names(cert: x509.Certificate) -> list[str]:
    """The DNS names and IP addresses of the subject alternative name, in order and printable; [] without one.

    Raises `CertificateRefused` (MALFORMED).
    """
    with reading():
        try:
            entries = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return []
        return [printable(str(entry.value)) for entry in entries if isinstance(entry, x509.DNSName | x509.IPAddress)]


def describe(cert: x509.Certificate) -> CertificateSummary:
    """What a person is shown of a certificate. Raises `CertificateRefused` (MALFORMED)."""
    with reading():
        return CertificateSummary(
            subject=printable(cert.subject.rfc4514_string()),
            issuer=printable(cert.issuer.rfc4514_string()),
            not_before=cert.not_valid_before_utc,
            not_after=cert.not_valid_after_utc,
            fingerprint_sha256=cert.fingerprint(hashes.SHA256()).hex(":"),
            names=tuple(leaf_names(cert)),
        )


def leaf_key(cert: x509.Certificate) -> PublicKey:
    """The public key, if the protocol lets a server have it (§3). Raises `CertificateRefused` (KEY)."""
    try:
        with _quiet():
            key = cert.public_key()
        if isinstance(key, PublicKey) and not isinstance(key, ed25519.Ed25519PublicKey):
            VerifyingKey.of(key)
            # What is hashed must be the bytes in the certificate, so a key must stand there in its usual encoding.
            if public_der(key) in cert.tbs_certificate_bytes:
                return key
    except (UnusableKey, *UNREADABLE):
        pass
    raise CertificateRefused(Refusal.KEY, "the certificate's key is not RSA of 2048 to 4096 bits, P-256 or ML-DSA-65")


def spki_hash(cert: x509.Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo in DER, [32]: what is pinned and what M3 signs.

    Raises `CertificateRefused` (KEY) for a key that a server may not have. Source: protocol §3, §4.4.
    """
    return hash_bytes(public_der(leaf_key(cert)))


@contextmanager
def reading() -> Iterator[None]:
    """One exception for a certificate with an unreadable part (the library parses many of them only when asked)."""
    try:
        with _quiet():
            yield
    except UNREADABLE:
        raise CertificateRefused(Refusal.MALFORMED, "the certificate cannot be read") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The library warns of odd contents (a country of 13 letters): a stranger would write on the user's terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def printable(text: str) -> str:
    """Control, format (bidi) and line-separating characters, and the backslash itself, as escapes."""
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode("ascii") for char in text
    )


def shown_name(name: x509.Name) -> str:
    """The common name (or all of a name without one), printable, cut and in quotes."""
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(common[0].value) if common else name.rfc4514_string()
    return f"'{printable(text)[:_SHOWN_LENGTH]}'"


def shown_date(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"


def in_utc(when: datetime) -> datetime:
    if when.tzinfo is None:
        raise ValueError("the time must say its zone")
    return when.astimezone(UTC)


def address_of(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a name is, or None for a DNS name. A zone (`fe80::1%eth0`) is this machine's affair: dropped."""
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None


def folded(name: str) -> str:
    """The form in which two spellings of one name or address are equal."""
    return str(address_of(name) or name.lower())
