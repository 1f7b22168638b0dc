"""The certificate authority after the first start: its successor, its revocation list (protocol §3.2).

What a command changes lies in several files, and a server may be reading them. They are put into ca/next first, and
that folder gets its name when it is whole; from then on the change has happened, and whoever comes first, this command
or the next, moves the files to their places.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from messageapp.errors import UnusableSetup
from messageapp.store.home import Home, make_folder, read_public, read_secret, write_file
from messageapp_keys.certificate import (
    CRL_LIFETIME,
    Certificate,
    CertificateRefused,
    RevocationList,
    can_have_successor,
    certificate_pem,
    crl_pem,
    cross_sign,
    describe,
    leaf_names,
    load_certificate_untrusted,
    load_crl_untrusted,
    load_private_key_pem,
    make_ca,
    make_crl,
    make_post_quantum_key,
    make_server_certificate,
    private_key_pem,
)
from messageapp_keys.signing import PrivateKey, SignatureAlgorithm, algorithm_of

__all__ = [
    "finish_change",
    "load_authority",
    "read_certificate",
    "read_key",
    "renew_authority",
    "renew_crl",
    "revoke_certificate",
]

_OTHER_SERVER_KEY: Final = (
    "the server has another key: each user's client refuses it until the user has connected once with --trust-server; "
    "tell them"
)


def read_certificate(path: Path) -> Certificate:
    try:
        return load_certificate_untrusted(read_public(path))
    except CertificateRefused as error:
        raise UnusableSetup(f"{path}: {error}") from None


def read_key(path: Path) -> PrivateKey:
    try:
        return load_private_key_pem(read_secret(path))
    except CertificateRefused as error:
        raise UnusableSetup(f"{path}: {error}") from None


def load_authority(home: Home) -> Certificate:
    """This home's CA certificate; `UnusableSetup` where there is none."""
    finish_change(home)
    if not home.ca_certificate.exists():
        raise UnusableSetup(f"there is no certificate authority in {home.path}; the first `messageapp serve` makes it")
    return read_certificate(home.ca_certificate)


def renew_authority(home: Home, now: datetime, *, post_quantum: bool = False) -> list[str]:
    """A new CA, which clients of the old one follow to at their next login; lines for the owner. `UnusableSetup`.

    The server's key stays, unless `post_quantum`: then CA and server get keys of ML-DSA-65. The old CA's key is gone
    afterwards; if there is a revocation list, it signs a last one, which holds as long as its certificate.
    """
    old, old_key = load_authority(home), _authority_key(home)
    leaf, leaf_key = _present_leaf(home)
    if not can_have_successor(old):
        raise UnusableSetup(
            "this authority was made by an earlier version and can have no successor (its path length is 0). To have "
            f"another all the same: move {home.ca_certificate.parent} and {home.server_certificate} away and start the "
            "server; then every user needs the new certificate, by a new join code or by what `messageapp ca show` "
            "prints: messageapp connect --ca FILE"
        )
    number = 1 + len(list(home.ca_certificate.parent.glob("old-*.pem")))
    ca_key, ca = make_ca(now, f"MessageApp CA {number + 1}", make_post_quantum_key() if post_quantum else None)
    kept = make_post_quantum_key() if post_quantum else leaf_key
    key, new_leaf = make_server_certificate(ca_key, ca, leaf_names(leaf), now, kept)
    files = {
        f"ca/old-{number}.pem": certificate_pem(old).encode(),
        "ca/ca.pem": certificate_pem(ca).encode(),
        "ca/ca.key": private_key_pem(ca_key),
        "ca/cross.pem": certificate_pem(cross_sign(old_key, old, ca, now)).encode(),
        "server/server.pem": certificate_pem(new_leaf).encode(),
        "server/server.key": private_key_pem(key),
    }
    told = [
        f"made another certificate authority, valid until {describe(ca).not_after:%Y-%m-%d}: "
        f"{describe(ca).fingerprint_sha256}",
        "clients follow at their next login; one that does not log in before the next renewal needs the certificate by "
        "hand (`messageapp ca show`)",
        f"the old certificate is kept in {home.ca_certificate.with_name(f'old-{number}.pem')}; its key is deleted",
    ]
    last = _present_crl(home)
    if last is not None:
        final = make_crl(old_key, old, [], now, before=last, end=old.not_valid_after_utc)
        files[f"ca/old-{number}.crl"] = crl_pem(final).encode()
        files["ca/crl.pem"] = crl_pem(make_crl(ca_key, ca, [], now)).encode()
        told.append(
            "there is another revocation list (`messageapp ca crl`); a client that has not followed yet and whose list "
            f"has expired takes {home.ca_certificate.with_name(f'old-{number}.crl')}"
        )
    if post_quantum:
        told.append(_OTHER_SERVER_KEY)
    _change(home, files)
    return told


def revoke_certificate(home: Home, now: datetime) -> list[str]:
    """The server's certificate counts no more; it gets another key and certificate. Lines for the owner."""
    ca, ca_key = load_authority(home), _authority_key(home)
    leaf, leaf_key = _present_leaf(home)
    again = make_post_quantum_key() if algorithm_of(leaf_key) is SignatureAlgorithm.ML_DSA_65 else None
    key, new = make_server_certificate(ca_key, ca, leaf_names(leaf), now, again)
    crl = make_crl(ca_key, ca, [leaf], now, before=_present_crl(home))
    _change(
        home,
        {
            "ca/crl.pem": crl_pem(crl).encode(),
            "server/server.key": private_key_pem(key),
            "server/server.pem": certificate_pem(new).encode(),
        },
    )
    return [
        f"revoked the certificate {describe(leaf).fingerprint_sha256}",
        f"made a new one: {describe(new).fingerprint_sha256}",
        "give your users the revocation list (`messageapp ca crl`), for: messageapp connect --crl FILE; who has none "
        f"cannot know. It holds for {CRL_LIFETIME.days} days: then `messageapp ca crl` makes the next",
        _OTHER_SERVER_KEY,
    ]


def renew_crl(home: Home, now: datetime) -> RevocationList:
    """The revocation list, signed anew, for 30 days from now; an empty one where nothing was revoked."""
    ca, ca_key = load_authority(home), _authority_key(home)
    crl = make_crl(ca_key, ca, [], now, before=_present_crl(home))
    write_file(home.ca_crl, crl_pem(crl).encode(), replace=True)
    return crl


def finish_change(home: Home) -> None:
    """Put in place what a command has decided and may not have finished. `UnusableSetup`."""
    if not home.ca_next.exists():
        return
    try:
        for file in sorted(home.ca_next.glob("*/*")):
            with suppress(FileNotFoundError):  # another process does the same at this moment
                os.replace(file, home.path / file.relative_to(home.ca_next))
        shutil.rmtree(home.ca_next, ignore_errors=True)
    except OSError as error:
        raise UnusableSetup(f"cannot finish the change in {home.ca_next}: {error}") from None


def _change(home: Home, files: dict[str, bytes]) -> None:
    """All of `files` (by their paths in the home), or none of them."""
    draft = make_folder(home.ca_next.parent) / f".next.{secrets.token_hex(8)}"
    try:
        for path, data in files.items():
            write_file(draft / path, data)
        os.rename(draft, home.ca_next)  # fails where another command is at it
    except OSError as error:
        raise UnusableSetup(f"cannot change the certificate authority: {error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    finish_change(home)


def _authority_key(home: Home) -> PrivateKey:
    if not home.ca_key.exists():
        raise UnusableSetup(f"the authority's key is not here: {home.ca_key}")
    return read_key(home.ca_key)


def _present_leaf(home: Home) -> tuple[Certificate, PrivateKey]:
    if not home.server_certificate.exists():
        raise UnusableSetup("the server has no certificate yet: start it once, messageapp serve")
    return read_certificate(home.server_certificate), read_key(home.server_key)


def _present_crl(home: Home) -> RevocationList | None:
    if not home.ca_crl.exists():
        return None
    try:
        return load_crl_untrusted(read_public(home.ca_crl))
    except CertificateRefused as error:
        raise UnusableSetup(f"{home.ca_crl}: {error}") from None
