"""Words for a certificate chain that the verifier has refused.

The library says little about why. This second look finds the sentence for the user, in the order in which the answers
matter: issued by whom, valid when, for whom, for what. It runs only after a refusal and can only refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from .certificate_reading import (
    UNREADABLE,
    CertificateRefused,
    Refusal,
    folded,
    leaf_key,
    leaf_names,
    printable,
    reading,
    shown_date,
    shown_name,
)

__all__ = ["diagnosed"]

_SHOWN_NAMES: Final = 6  # a certificate may name hundreds
_SHOWN_LENGTH: Final = 100


def diagnosed(
    chain: Sequence[x509.Certificate], ca: x509.Certificate, server_name: str, now: datetime, said: str
) -> CertificateRefused:
    """The refusal to raise for a chain of which the verifier ``said`` no; ``now`` in UTC. Raises nothing itself."""
    try:
        with reading():
            path = _issuers(chain, ca)
            _check_dates(path[0], now, "the certificate")
            for cert in [*path[1:], ca]:
                _check_dates(cert, now, f"the CA certificate of {shown_name(cert.subject)}")
            _check_name(path[0], server_name)
            _check_server_auth(path[0])
            leaf_key(path[0])
    except CertificateRefused as refused:
        return refused
    return CertificateRefused(Refusal.PROFILE, f"the certificate breaks a rule of X.509: {printable(said)}")


def _issuers(chain: Sequence[x509.Certificate], ca: x509.Certificate) -> list[x509.Certificate]:
    """The way from the leaf up to the CA's own child, by names and signatures alone."""
    path = [chain[0]]
    while not _issued(path[-1], ca):
        parent = next((cert for cert in chain[1:] if cert not in path and _issued(path[-1], cert)), None)
        if parent is None:
            raise CertificateRefused(Refusal.WRONG_CA, _wrong_issuer(path[-1], ca))
        try:
            may_issue = parent.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            may_issue = False
        if not may_issue:
            sentence = f"the certificate was issued by {shown_name(parent.subject)}, which may not issue certificates"
            raise CertificateRefused(Refusal.WRONG_CA, sentence)
        path.append(parent)
    return path


def _wrong_issuer(cert: x509.Certificate, ca: x509.Certificate) -> str:
    issuer, wanted = shown_name(cert.issuer), shown_name(ca.subject)
    if cert.issuer == ca.subject:
        return f"the certificate names {issuer} as its issuer, but is not signed by the CA of that name held here"
    if cert.issuer == cert.subject:
        return f"the certificate is issued by itself ({issuer}), not by {wanted}"
    return f"the certificate was issued by {issuer}, not by {wanted}"


def _issued(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _check_dates(cert: x509.Certificate, now: datetime, subject: str) -> None:
    start, end = cert.not_valid_before_utc, cert.not_valid_after_utc
    if now > end:
        raise CertificateRefused(Refusal.EXPIRED, f"{subject} expired on {shown_date(end)}")
    if now < start:
        raise CertificateRefused(Refusal.NOT_YET_VALID, f"{subject} is not valid before {shown_date(start)}")


def _check_name(leaf: x509.Certificate, server_name: str) -> None:
    names = leaf_names(leaf)
    if not names:
        sentence = "the certificate names no server (it has no subject alternative name)"
        raise CertificateRefused(Refusal.WRONG_NAME, sentence)
    wanted, held = folded(server_name), {folded(name) for name in names}
    if wanted not in held and f"*.{wanted.partition('.')[2]}" not in held:
        shown = ", ".join(name[:_SHOWN_LENGTH] for name in names[:_SHOWN_NAMES])
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        sentence = f"the certificate is for {shown}{more}, not for {printable(server_name)}"
        raise CertificateRefused(Refusal.WRONG_NAME, sentence)


def _check_server_auth(leaf: x509.Certificate) -> None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        sentence = "the certificate does not say that it is for a server (it has no extended key usage)"
        raise CertificateRefused(Refusal.NO_SERVER_AUTH, sentence) from None
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise CertificateRefused(Refusal.NO_SERVER_AUTH, "the certificate is for another use than a server's")
