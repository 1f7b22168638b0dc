"""What a server needs on disk, made at its first start: a certificate authority, a certificate, a directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from messageapp.errors import UnusableSetup
from messageapp.store.home import Home, read_public, read_secret, write_file
from messageapp.wire.login import ServerOffer
from messageapp_keys.certificate import (
    Certificate,
    CertificateRefused,
    certificate_der,
    certificate_pem,
    describe,
    leaf_names,
    load_certificate_untrusted,
    load_private_key_pem,
    make_ca,
    make_server_certificate,
    needs_renewal,
    private_key_pem,
    spki_hash,
)
from messageapp_keys.signing import PrivateKey, algorithm_of

__all__ = ["load_authority", "prepare_server", "server_names"]

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


def server_names(given: Sequence[str]) -> list[str]:
    """Names of the certificate: the given ones, this machine's, the local ones. The first is the canonical name."""
    machine = socket.gethostname().lower()
    found = [*given, *([machine] if _is_dns_name(machine) else []), *_LOCAL]
    return list(dict.fromkeys(found))


def _is_dns_name(name: str) -> bool:
    labels = name.split(".")
    return len(name) <= 253 and all(
        0 < len(label) <= 63 and label.strip("-") == label and label.replace("-", "").isalnum() and label.isascii()
        for label in labels
    )


def load_authority(home: Home) -> Certificate:
    """This home's CA certificate; `UnusableSetup` where there is none."""
    if not home.ca_certificate.exists():
        raise UnusableSetup(f"there is no certificate authority in {home.path}; the first `messageapp serve` makes it")
    return _certificate(home.ca_certificate)


def _certificate(path: Path) -> Certificate:
    try:
        return load_certificate_untrusted(read_public(path))
    except CertificateRefused as error:
        raise UnusableSetup(f"{path}: {error}") from None


def _key(path: Path) -> PrivateKey:
    try:
        return load_private_key_pem(read_secret(path))
    except CertificateRefused as error:
        raise UnusableSetup(f"{path}: {error}") from None


def prepare_server(home: Home, names: Sequence[str], now: datetime) -> tuple[ServerOffer, list[str]]:
    """The offer, and lines to tell the owner about what was made.

    The first start makes everything; later ones renew the certificate (same key, so that pins hold) when it has under
    30 days left or lacks one of `names`. Making keys takes a second: not for an event loop that has guests.
    """
    told: list[str] = []
    for name in names:
        if not _is_dns_name(name) and not _is_address(name):
            raise UnusableSetup(f"{name} is neither a DNS name nor an IP address")
    names = [name.lower() for name in names]
    if not home.ca_certificate.exists():
        # A start that was interrupted may have left the key alone.
        ca_key, ca = make_ca(now, key=_key(home.ca_key) if home.ca_key.exists() else None)
        if not home.ca_key.exists():
            write_file(home.ca_key, private_key_pem(ca_key))
        write_file(home.ca_certificate, certificate_pem(ca).encode())
        told.append(f"made a certificate authority: {home.ca_certificate}")
    ca = _certificate(home.ca_certificate)
    if not home.server_certificate.exists():
        kept = _key(home.server_key) if home.server_key.exists() else None
        key, leaf = make_server_certificate(_key(home.ca_key), ca, server_names(names), now, kept)
        if kept is None:
            write_file(home.server_key, private_key_pem(key))
        write_file(home.server_certificate, certificate_pem(leaf).encode())
        told.append(f"made a server certificate for {', '.join(leaf_names(leaf))}")
    leaf, key = _certificate(home.server_certificate), _key(home.server_key)
    if key.public_key() != leaf.public_key():
        raise UnusableSetup(
            f"{home.server_key} is not the key of {home.server_certificate}; restore the right one, "
            "or remove the certificate to have a new one made"
        )
    if needs_renewal(leaf, names, now):
        wanted = list(dict.fromkeys([*leaf_names(leaf), *names]))
        _, leaf = make_server_certificate(_key(home.ca_key), ca, wanted, now, key)
        write_file(home.server_certificate, certificate_pem(leaf).encode(), replace=True)
        told.append(
            f"renewed the server certificate for {', '.join(wanted)}, valid until {describe(leaf).not_after:%Y-%m-%d}"
        )
    return make_offer(leaf, key), told


def make_offer(leaf: Certificate, key: PrivateKey) -> ServerOffer:
    return ServerOffer(
        chain=(certificate_der(leaf),),
        key=key,
        sigalg=algorithm_of(key),
        leaf_spki_hash=spki_hash(leaf),
        names=tuple(leaf_names(leaf)),
        rejection=os.urandom(32),
    )


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
        except OSError:
            continue
        return True
    return False
