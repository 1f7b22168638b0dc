"""Certificates, revocation lists, vector documents and settings."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress

from messageapp.errors import UnusableSetup
from messageapp.limits import Limits
from messageapp.wire.vectors import check
from messageapp_keys.certificate import (
    CertificateRefused,
    certificate_der,
    certificate_pem,
    describe,
    leaf_names,
    load_certificate_untrusted,
    load_crl_untrusted,
    spki_hash,
    verify_chain_untrusted,
)
from messageapp_keys.codec import vec24
from messageapp_keys.kem import SWIFT

from . import material
from .chat_targets import _split
from .material import NOW, SERVER
from .target import Harness, Target, require

__all__ = ["TARGETS"]


def _certificate() -> Harness:
    """All that is asked of one that somebody hands over."""

    def attack(data: bytes) -> None:
        cert = load_certificate_untrusted(data)
        summary = describe(cert)
        for text in (summary.subject, summary.issuer, *leaf_names(cert)):
            require(text.isprintable(), "a certificate puts control characters on the screen")
        with suppress(CertificateRefused):  # a key that a server may not have
            require(len(spki_hash(cert)) == 32, "a hash of another size")

    found = [material.recording()[name] for name in ("ca", "leaf", "leaf ml-dsa")]
    return Harness(attack, [*found, certificate_pem(load_certificate_untrusted(found[1])).encode()])


def _chain() -> Harness:
    """A chain as in M2, each certificate behind its length: only what the CA has signed is taken."""
    recorded = material.recording()
    genuine = {recorded["leaf"], recorded["leaf ml-dsa"]}

    def attack(data: bytes) -> None:
        chain = _split(data)
        leaf = verify_chain_untrusted(chain, material.root(), SERVER, NOW)
        require(chain[0] in genuine and certificate_der(leaf.cert) == chain[0], "a certificate was forged")

    rows = [["leaf"], ["leaf ml-dsa"], ["leaf", "ca"], ["leaf", "ca", "leaf ml-dsa"]]
    return Harness(attack, [b"".join(vec24(recorded[name]) for name in row) for row in rows])


def _revocation() -> Harness:
    """A revocation list that came with the chain's."""
    genuine, chain = material.recording()["crl"], [material.recording()["leaf"]]
    signed = load_crl_untrusted(genuine).tbs_certlist_bytes

    def attack(data: bytes) -> None:
        crl = load_crl_untrusted(data)
        verify_chain_untrusted(chain, material.root(), SERVER, NOW, crl)
        require(crl.tbs_certlist_bytes == signed, "a revocation list was forged")  # around it DER leaves some choice

    return Harness(attack, [genuine])


def _vectors() -> Harness:
    """A document of vectors, of which the swift case is changed. Nothing may be raised; one changed field is told."""
    document = material.vectors()
    case = next(case for case in document["cases"] if case["suite"] == SWIFT.code)
    small = document | {"cases": [case]}
    genuine, _ = check(small)

    def attack(data: bytes) -> None:
        try:
            given = json.loads(data)
        except (ValueError, RecursionError):
            raise UnusableSetup from None
        passed, failures = check(given)
        require(bool(failures) or passed == genuine, "a part of a vector was not checked")
        if failures:
            raise UnusableSetup

    return Harness(attack, [json.dumps(small).encode()])


def _limits() -> Harness:
    """The section `[limits]` of a server's settings."""

    def attack(data: bytes) -> None:
        try:
            given = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
            raise UnusableSetup from None
        found = Limits.from_mapping(given)
        require(found.handshakes > 0 and 0 < found.ping_seconds < float("inf"), "a limit that cannot be")

    return Harness(attack, [b"sessions = 100\nring_seconds = 30.5\nhandshakes = 64\nsession_bytes = 1_000_000\n"])


_REFUSED = (CertificateRefused,)
_SETUP = (UnusableSetup,)

TARGETS = (
    Target("certificate", _certificate, _REFUSED, mutations=20_000),
    Target("certificate-chain", _chain, _REFUSED, mutations=5000),
    Target("revocation-list", _revocation, _REFUSED, mutations=10_000),
    Target("vector-document", _vectors, _SETUP, mutations=1000),
    Target("limits", _limits, _SETUP, mutations=20_000),
)
