"""The owner's own small CA and the server certificate that it issues (protocol §3)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .certificate_reading import CertificateRefused, Refusal, address_of, folded, in_utc, leaf_names
from .signing import RSA_EXPONENT, UNREADABLE_KEY, PrivateKey, PublicKey

__all__ = [
    "CRL_LIFETIME",
    "MAX_LEAF_LIFETIME",
    "RENEW_BEFORE",
    "can_have_successor",
    "cross_sign",
    "load_private_key_pem",
    "make_ca",
    "make_crl",
    "make_post_quantum_key",
    "make_server_certificate",
    "needs_renewal",
    "private_key_pem",
]

MAX_LEAF_LIFETIME: Final = timedelta(days=398)  # what public CAs keep to; a stolen key is of no use for longer
RENEW_BEFORE: Final = timedelta(days=30)
CRL_LIFETIME: Final = timedelta(days=30)  # for so long a client may not learn of the next revocation
_CA_LIFETIME: Final = timedelta(days=3650)
_CLOCK_SKEW: Final = timedelta(hours=1)  # a client whose clock is behind can log in to a new server
_RSA_BITS: Final = 3072
_MAX_COMMON_NAME: Final = 64  # X.520 ub-common-name


def make_ca(
    now: datetime, name: str = "MessageApp CA", key: PrivateKey | None = None
) -> tuple[PrivateKey, x509.Certificate]:
    """A CA of one's own for ten years, which signs server certificates and, once, its successor.

    ``now`` is aware, else ValueError. Makes an RSA-3072 key (120 to 560 ms: not for the event loop) unless one is
    given.
    """
    key = key or rsa.generate_private_key(RSA_EXPONENT, _RSA_BITS)
    start = in_utc(now).replace(microsecond=0) - _CLOCK_SKEW
    subject = _common_name(name)
    builder = _builder(subject, subject, key.public_key(), start, start + _CA_LIFETIME)
    return key, _as_ca(builder, path_length=1).sign(key, _digest_for(key))


def make_post_quantum_key() -> PrivateKey:
    """ML-DSA-65, for a CA or a server."""
    return mldsa.MLDSA65PrivateKey.generate()


def can_have_successor(ca: x509.Certificate) -> bool:
    """Whether a client that trusts ``ca`` takes a CA below it: those made before there were successors allow none."""
    length = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    return length is None or length > 0


def cross_sign(old_key: PrivateKey, old: x509.Certificate, new: x509.Certificate, now: datetime) -> x509.Certificate:
    """The cross certificate: subject and key of ``new``, issued by ``old``, valid from an hour ago until either ends.

    Clients that have ``old`` follow it to ``new`` (protocol §3.2), if `can_have_successor`. ValueError for a naive
    ``now``, and for a ``new`` that has not a key of a CA.
    """
    key = new.public_key()
    if not isinstance(key, PublicKey):
        raise ValueError("the new CA's key is of a kind that is not used here")
    start = in_utc(now).replace(microsecond=0) - _CLOCK_SKEW
    end = min(old.not_valid_after_utc, new.not_valid_after_utc)
    builder = _as_ca(_builder(new.subject, old.subject, key, start, end), path_length=0)
    return builder.add_extension(_issuer_id(old), critical=False).sign(old_key, _digest_for(old_key))


def make_crl(
    ca_key: PrivateKey,
    ca: x509.Certificate,
    revoked: Sequence[x509.Certificate],
    now: datetime,
    *,
    before: x509.CertificateRevocationList | None = None,
    end: datetime | None = None,
) -> x509.CertificateRevocationList:
    """The CA's revocation list: those of the list ``before`` it, and ``revoked`` as of now.

    Dated an hour ago, valid for 30 days or until ``end``; its number is one more than that of ``before``. ValueError
    for a naive ``now``.
    """
    now = in_utc(now).replace(microsecond=0)
    number = 1
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject).last_update(now - _CLOCK_SKEW)
    builder = builder.next_update(end or now + CRL_LIFETIME)
    if before is not None:
        number += before.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        for entry in before:
            builder = builder.add_revoked_certificate(entry)
    for cert in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(cert.serial_number).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return builder.add_extension(_issuer_id(ca), critical=False).sign(ca_key, _digest_for(ca_key))


def make_server_certificate(
    ca_key: PrivateKey, ca_cert: x509.Certificate, names: Sequence[str], now: datetime, key: PrivateKey | None = None
) -> tuple[PrivateKey, x509.Certificate]:
    """A server certificate for ``names`` (DNS names and IP texts, kept in order; the first is also the common name).

    Valid from an hour ago, for 398 days or until the CA ends. Makes a P-256 key unless one is given: it signs M2 in
    each login, thirty times faster than one of RSA-3072 of the same strength. Raises ValueError without a name, for one
    that is not ASCII and for a naive ``now``. Source: protocol §3.2.
    """
    if not names:
        raise ValueError("a server certificate needs a name")
    key = key or ec.generate_private_key(ec.SECP256R1())
    start = in_utc(now).replace(microsecond=0) - _CLOCK_SKEW
    end = min(start + MAX_LEAF_LIFETIME, ca_cert.not_valid_after_utc)
    general = [_general_name(name) for name in dict.fromkeys(names)]
    builder = _builder(_common_name(names[0][:_MAX_COMMON_NAME]), ca_cert.subject, key.public_key(), start, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(_key_usage("digital_signature"), critical=True)
    builder = builder.add_extension(_issuer_id(ca_cert), critical=False)
    return key, builder.sign(ca_key, _digest_for(ca_key))


def needs_renewal(cert: x509.Certificate, names: Sequence[str], now: datetime) -> bool:
    """True with less than 30 days left, or when one of ``names`` is not in the certificate."""
    held = {folded(name) for name in leaf_names(cert)}
    return cert.not_valid_after_utc - in_utc(now) < RENEW_BEFORE or any(folded(name) not in held for name in names)


def private_key_pem(key: PrivateKey) -> bytes:
    """The server's key as PKCS#8 PEM without a passphrase: a server starts unattended, the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_private_key_pem(pem: bytes) -> PrivateKey:
    """The reverse, with the library's consistency check (35 ms and more for RSA: load once).

    Raises `CertificateRefused` (MALFORMED, or KEY for a kind of key that is not used here).
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except UNREADABLE_KEY:
        raise CertificateRefused(Refusal.MALFORMED, "the private key of the certificate cannot be read") from None
    if not isinstance(key, PrivateKey):
        raise CertificateRefused(Refusal.KEY, "the private key of the certificate is of a kind that is not used here")
    return key


def _general_name(name: str) -> x509.DNSName | x509.IPAddress:
    address = address_of(name)
    return x509.DNSName(name) if address is None else x509.IPAddress(address)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _digest_for(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, mldsa.MLDSA65PrivateKey | ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _as_ca(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    return builder.add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)


def _issuer_id(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _key_usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital_signature" in uses,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign="key_cert_sign" in uses,
        crl_sign="crl_sign" in uses,
        encipher_only=False,
        decipher_only=False,
    )
