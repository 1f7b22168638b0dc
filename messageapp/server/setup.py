"""What a server needs on disk, made at its first start: a certificate authority, a certificate, a directory."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from messageapp.errors import UnusableSetup
from messageapp.store.home import Home, write_file
from messageapp.wire.login import ServerOffer
from messageapp_keys.certificate import (
    Certificate,
    certificate_der,
    certificate_pem,
    describe,
    folded,
    leaf_names,
    make_ca,
    make_post_quantum_key,
    make_server_certificate,
    needs_renewal,
    private_key_pem,
    spki_hash,
)
from messageapp_keys.signing import PrivateKey, SignatureAlgorithm, algorithm_of

from .authority import finish_change, load_authority, read_certificate, read_key

__all__ = ["OfferSource", "load_authority", "prepare_server", "server_names"]

_log = logging.getLogger("messageapp.server")
_AUTHORITY_ENDS: Final = timedelta(days=90)  # from then on each start says so
_LOOK_AGAIN: Final = timedelta(hours=1)  # at the dates, where no file has changed
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


def prepare_server(
    home: Home, names: Sequence[str], now: datetime, *, post_quantum: bool = False
) -> tuple[ServerOffer, list[str]]:
    """The offer, and lines to tell the owner about what was made.

    The first start makes everything, with `post_quantum` on ML-DSA-65; later ones renew the certificate (same key, so
    that pins hold) when it has under 30 days left or lacks one of `names`. Making keys takes a second: not for an event
    loop that has guests.
    """
    told: list[str] = []
    finish_change(home)
    for name in names:
        if not _is_dns_name(name) and not _is_address(name):
            raise UnusableSetup(f"{name} is neither a DNS name nor an IP address")
    names = [name.lower() for name in names]
    if not home.ca_certificate.exists():
        # A start that was interrupted may have left the key alone.
        fresh = make_post_quantum_key() if post_quantum else None
        ca_key, ca = make_ca(now, key=read_key(home.ca_key) if home.ca_key.exists() else fresh)
        if not home.ca_key.exists():
            write_file(home.ca_key, private_key_pem(ca_key))
        write_file(home.ca_certificate, certificate_pem(ca).encode())
        told.append(f"made a certificate authority: {home.ca_certificate}")
    ca = read_certificate(home.ca_certificate)
    if not home.server_certificate.exists():
        kept = read_key(home.server_key) if home.server_key.exists() else None
        fresh = make_post_quantum_key() if post_quantum else None
        key, leaf = make_server_certificate(read_key(home.ca_key), ca, server_names(names), now, kept or fresh)
        if kept is None:
            write_file(home.server_key, private_key_pem(key))
        write_file(home.server_certificate, certificate_pem(leaf).encode())
        told.append(f"made a server certificate for {', '.join(leaf_names(leaf))}")
    leaf, key = read_certificate(home.server_certificate), read_key(home.server_key)
    if key.public_key() != leaf.public_key():
        raise UnusableSetup(
            f"{home.server_key} is not the key of {home.server_certificate}; restore the right one, "
            "or remove the certificate to have a new one made"
        )
    if post_quantum and algorithm_of(key) is not SignatureAlgorithm.ML_DSA_65:
        told.append("the keys of this server are there already; for others: messageapp ca renew --pq")
    ends_with_ca = describe(leaf).not_after == describe(ca).not_after  # then a new one would end no later
    if needs_renewal(leaf, names, now) and not (ends_with_ca and _holds(leaf, names)):
        wanted = list(dict.fromkeys([*leaf_names(leaf), *names]))
        _, leaf = make_server_certificate(read_key(home.ca_key), ca, wanted, now, key)
        write_file(home.server_certificate, certificate_pem(leaf).encode(), replace=True)
        told.append(
            f"renewed the server certificate for {', '.join(wanted)}, valid until {describe(leaf).not_after:%Y-%m-%d}"
        )
    if describe(ca).not_after - now < _AUTHORITY_ENDS:
        told.append(f"the authority ends on {describe(ca).not_after:%Y-%m-%d}; another one: messageapp ca renew")
    return make_offer(leaf, key, ca, _cross(home, now)), told


def _holds(leaf: Certificate, names: Sequence[str]) -> bool:
    return {folded(name) for name in names} <= {folded(name) for name in leaf_names(leaf)}


def _cross(home: Home, now: datetime) -> Certificate | None:
    """The cross certificate by the authority before, while anybody can still follow it."""
    if not home.ca_cross.exists():
        return None
    cross = read_certificate(home.ca_cross)
    return cross if describe(cross).not_after > now else None


def make_offer(
    leaf: Certificate, key: PrivateKey, ca: Certificate | None = None, cross: Certificate | None = None
) -> ServerOffer:
    """With `cross` the chain is one that clients of the authority before can follow to `ca` (protocol §3.2)."""
    chain = [leaf] if ca is None or cross is None else [leaf, cross, ca]
    return ServerOffer(
        chain=tuple(map(certificate_der, chain)),
        key=key,
        sigalg=algorithm_of(key),
        leaf_spki_hash=spki_hash(leaf),
        names=tuple(leaf_names(leaf)),
        rejection=os.urandom(32),
        authority=b"" if ca is None else certificate_der(ca),
    )


class OfferSource:
    """What becomes of a home's offer: each call gives the new one, if the files or the dates want another, else None.

    For a thread, one call at a time. `UnusableSetup` where the files cannot be used: once for each state of them.
    """

    def __init__(
        self,
        home: Home,
        names: Sequence[str],
        offer: ServerOffer,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`names` as for `prepare_server`, `offer` what that gave."""
        self._home, self._names, self._chain, self._now = home, list(names), offer.chain, now
        self._files = (home.ca_certificate, home.ca_cross, home.server_certificate, home.server_key, home.ca_next)
        self._seen, self._looked = self._state(), now()

    def __call__(self) -> ServerOffer | None:
        now, state = self._now(), self._state()
        if state == self._seen and now - self._looked < _LOOK_AGAIN:
            return None
        self._seen, self._looked = state, now
        offer, told = prepare_server(self._home, self._names, now)
        if offer.chain == self._chain:
            return None
        for line in told:
            _log.info("%s", line)
        self._chain = offer.chain
        return offer

    def _state(self) -> list[tuple[int, int]]:
        """Differs after every change of a file: each is put in place as a whole, by renaming."""
        found: list[tuple[int, int]] = []
        for file in self._files:
            try:
                status = file.stat()
                found.append((status.st_ino, status.st_mtime_ns))
            except OSError:
                found.append((0, 0))
        return found


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
        except OSError:
            continue
        return True
    return False
