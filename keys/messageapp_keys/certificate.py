"""The client's judgement of the server's certificate (protocol §3).

It is the work of ``cryptography.x509.verification`` with a policy of ours: the extended key usage serverAuth must be
there (the library's own policy takes a leaf without it), and a subject alternative name, DNS or IP. What that policy
does not know is checked here afterwards: lifetime, kind of key, key usage, revocation list. Words for a refusal come
from `certificate_diagnosis`. Making and reading certificates have modules of their own; their names are here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509 import Certificate, verification
from cryptography.x509 import CertificateRevocationList as RevocationList
from cryptography.x509.general_name import DNSName, IPAddress
from cryptography.x509.oid import ExtendedKeyUsageOID

from .authority import (
    CRL_LIFETIME,
    MAX_LEAF_LIFETIME,
    RENEW_BEFORE,
    can_have_successor,
    cross_sign,
    load_private_key_pem,
    make_ca,
    make_crl,
    make_post_quantum_key,
    make_server_certificate,
    needs_renewal,
    private_key_pem,
)
from .certificate_diagnosis import diagnosed
from .certificate_reading import (
    UNREADABLE,
    CertificateRefused,
    CertificateSummary,
    Refusal,
    address_of,
    certificate_der,
    certificate_pem,
    crl_der,
    crl_pem,
    describe,
    folded,
    in_utc,
    leaf_key,
    leaf_names,
    load_certificate_untrusted,
    load_crl_untrusted,
    printable,
    reading,
    shown_date,
    spki_hash,
)
from .signing import PublicKey, VerifyingKey

__all__ = [
    "CRL_LIFETIME",
    "MAX_CHAIN",
    "MAX_LEAF_LIFETIME",
    "RENEW_BEFORE",
    "Certificate",
    "CertificateRefused",
    "CertificateSummary",
    "Refusal",
    "RevocationList",
    "ServerLeaf",
    "can_have_successor",
    "certificate_der",
    "certificate_pem",
    "check_crl_untrusted",
    "crl_der",
    "crl_pem",
    "cross_sign",
    "describe",
    "folded",
    "leaf_names",
    "load_certificate_untrusted",
    "load_crl_untrusted",
    "load_private_key_pem",
    "make_ca",
    "make_crl",
    "make_post_quantum_key",
    "make_server_certificate",
    "needs_renewal",
    "private_key_pem",
    "spki_hash",
    "verify_chain_untrusted",
]

MAX_CHAIN: Final = 3


@dataclass(frozen=True, slots=True)
class ServerLeaf:
    """A leaf that was found good.

    ``sigalgs`` are the codes that its key may sign M2 with, ``spki_hash`` is [32] and what is pinned, ``names`` are
    those of `leaf_names`, ``successor`` is the CA that follows the client's, where the path led through a cross
    certificate.
    """

    cert: x509.Certificate
    public_key: PublicKey
    sigalgs: tuple[int, ...]
    spki_hash: bytes
    names: tuple[str, ...]
    successor: x509.Certificate | None = None

    @property
    def verifying_key(self) -> VerifyingKey:
        return VerifyingKey.of(self.public_key)


def verify_chain_untrusted(
    chain_der: Sequence[bytes],
    ca: x509.Certificate,
    server_name: str,
    now: datetime,
    crl: x509.CertificateRevocationList | None = None,
) -> ServerLeaf:
    """Judge the server's chain (leaf first, one to three DER certificates) by the CA, the wanted name and the time.

    ``server_name`` is an ASCII DNS name or an IP text, ``now`` is aware. ``crl``, if given, must be signed by the CA
    and current, and must list no certificate of the chain. Raises `CertificateRefused` and nothing else, whatever the
    chain holds; ValueError for a naive ``now``. Source: protocol §3.2.
    """
    now = in_utc(now)
    if not 1 <= len(chain_der) <= MAX_CHAIN:
        sentence = f"the server sent {len(chain_der)} certificates, not one to {MAX_CHAIN}"
        raise CertificateRefused(Refusal.CHAIN, sentence)
    with reading():
        chain = [x509.load_der_x509_certificate(der) for der in chain_der]
        for der, cert in zip(chain_der, chain, strict=True):
            _check_whole_bytes(der, cert.signature)
    try:
        verifier = _policy(ca, now).build_server_verifier(_subject(server_name))
    except ValueError:
        sentence = f"'{printable(server_name)}' is not a name that a certificate can carry"
        raise CertificateRefused(Refusal.WRONG_NAME, sentence) from None
    with reading():
        try:
            path = verifier.verify(chain[0], chain[1:])
        except (verification.VerificationError, *UNREADABLE) as error:
            raise diagnosed(chain, ca, server_name, now, str(error)) from None
        key = leaf_key(chain[0])
        _check_lifetime(chain[0])
        _check_key_usage(chain[0])
        if crl is not None:
            _check_revocation(path[:-1], ca, crl, now)
        algorithm = VerifyingKey.of(key).algorithm
        names, successor = tuple(leaf_names(chain[0])), _successor_untrusted(chain, path, now, server_name)
        return ServerLeaf(chain[0], key, (int(algorithm),), spki_hash(chain[0]), names, successor)


def _successor_untrusted(
    chain: Sequence[x509.Certificate], path: Sequence[x509.Certificate], now: datetime, server_name: str
) -> x509.Certificate | None:
    """The third certificate of ``chain``, if it is the CA for which the second, which ``path`` led through, stands.

    It was not needed for the path, so nothing about it has been checked: a bad one is as good as none (§3.2).
    """
    if len(path) != 3 or len(chain) != 3 or path[1] != chain[1]:
        return None
    cross, new = chain[1:]
    try:
        # An intermediate with less than the whole power is no successor, whatever it says of itself.
        if any(isinstance(each.value, x509.NameConstraints | x509.ExtendedKeyUsage) for each in cross.extensions):
            return None
        new.verify_directly_issued_by(new)
        constraints = new.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = new.extensions.get_extension_for_class(x509.KeyUsage).value
        fits = new.subject == cross.subject and spki_hash(new) == spki_hash(cross)
        # As every later login will: who follows to a CA under which this server is refused is locked out.
        _policy(new, now).build_server_verifier(_subject(server_name)).verify(chain[0], [])
    except (InvalidSignature, x509.ExtensionNotFound, CertificateRefused, verification.VerificationError, *UNREADABLE):
        return None
    current = new.not_valid_before_utc <= now <= new.not_valid_after_utc
    return new if fits and current and constraints.ca and usage.key_cert_sign else None


def _check_whole_bytes(der: bytes, signature: bytes) -> None:
    """ValueError where the signature's BIT STRING says that it has unused bits.

    The library takes that, if they are 0: one certificate would have several encodings.
    """
    if der[-len(signature) - 1]:
        raise ValueError("a signature has whole bytes")


def _policy(ca: x509.Certificate, now: datetime) -> verification.PolicyBuilder:
    leaf_rules = verification.ExtensionPolicy.webpki_defaults_ee().require_present(
        x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, _wants_server_auth
    )
    return (
        verification.PolicyBuilder()
        .store(verification.Store([ca]))
        .time(now)
        .max_chain_depth(MAX_CHAIN - 1)
        .extension_policies(ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=leaf_rules)
    )


def _wants_server_auth(_policy: verification.Policy, _cert: x509.Certificate, usage: x509.ExtendedKeyUsage) -> None:
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise ValueError("no serverAuth")


def _subject(name: str) -> DNSName | IPAddress:
    address = address_of(name)
    return DNSName(name) if address is None else IPAddress(address)


def _check_lifetime(leaf: x509.Certificate) -> None:
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    if lifetime > MAX_LEAF_LIFETIME:
        days = lifetime / timedelta(days=1)
        sentence = f"the certificate is made for {days:.1f} days, more than {MAX_LEAF_LIFETIME.days}"
        raise CertificateRefused(Refusal.LIFETIME, sentence)


def _check_key_usage(leaf: x509.Certificate) -> None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.digital_signature:
        raise CertificateRefused(Refusal.KEY_USAGE, "the certificate's key usage does not allow signatures")


def _check_revocation(
    path: Sequence[x509.Certificate], ca: x509.Certificate, crl: x509.CertificateRevocationList, now: datetime
) -> None:
    """``path`` is without the CA. Below an intermediate a serial number is another CA's: it may refuse too much."""
    check_crl_untrusted(crl, ca, now)
    try:
        for cert in path:
            entry = crl.get_revoked_certificate_by_serial_number(cert.serial_number)
            if entry is not None:
                sentence = f"the certificate was revoked on {shown_date(entry.revocation_date_utc)}"
                raise CertificateRefused(Refusal.REVOKED, sentence)
    except UNREADABLE:
        raise CertificateRefused(Refusal.CRL, "the revocation list cannot be read") from None


def check_crl_untrusted(crl: x509.CertificateRevocationList, ca: x509.Certificate, now: datetime) -> None:
    """`CertificateRefused` (CRL) unless ``crl`` is signed by ``ca``, whole and current. ``now`` is aware."""
    try:
        with reading():
            fault = _crl_fault(ca, crl, in_utc(now))
    except CertificateRefused:
        raise CertificateRefused(Refusal.CRL, "the revocation list cannot be read") from None
    if fault is not None:
        raise CertificateRefused(Refusal.CRL, f"the revocation list {fault}")


def _crl_fault(ca: x509.Certificate, crl: x509.CertificateRevocationList, now: datetime) -> str | None:
    key = ca.public_key()
    if crl.issuer != ca.subject or not crl.is_signature_valid(key):  # type: ignore[arg-type]  # a TypeError if it is none
        return "is not signed by the CA"
    if any(extension.critical for extension in crl.extensions):
        return "is of a partial kind, which is not understood"  # delta or indirect: it may leave entries out
    start, end = crl.last_update_utc, crl.next_update_utc
    if start > now:
        return f"is dated {shown_date(start)}, in the future"
    if end is None:
        return "does not say when it expires"
    return f"expired on {shown_date(end)}" if end < now else None
