"""`messageapp ca`: the certificate authority of one's own server."""

from __future__ import annotations

from typing import Any

import click

from messageapp.clock import wall_ms

from .directory import open_directory
from .options import home_option

__all__ = ["ca"]


@click.group()
def ca() -> None:
    """The certificate authority, which clients must have. Changes count at once, also while the server runs."""


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


@ca.command("show")
@home_option
def show(home: Any) -> None:
    """The CA certificate as PEM on stdout; give it to your users by a way that you trust."""
    from messageapp.server.authority import load_authority
    from messageapp_keys.certificate import certificate_pem, describe

    certificate = load_authority(home)
    click.echo(f"messageapp: fingerprint of the authority {describe(certificate).fingerprint_sha256}", err=True)
    click.echo(certificate_pem(certificate), nl=False)


@ca.command("renew")
@click.option("--pq", is_flag=True, help="Keys of ML-DSA-65 for it and for the server, which users have to allow.")
@home_option
def renew(pq: bool, home: Any) -> None:
    """Make another authority, signed by the present one: clients follow at their next login.

    The key of the present one is deleted. Join codes that were not used yet are revoked: they name the present one.
    """
    from messageapp.server.authority import renew_authority
    from messageapp.store.invites import revoke_open_invites

    told = renew_authority(home, _now(), post_quantum=pq)
    with open_directory(home) as database:
        revoked = revoke_open_invites(database, wall_ms())
    if revoked:
        told.append(f"{revoked} open join codes named the old authority and are revoked: messageapp invite")
    for line in told:
        click.echo(line)


@ca.command("revoke")
@home_option
def revoke(home: Any) -> None:
    """The server's certificate counts no more, as its key may be in other hands; the server gets another key."""
    from messageapp.server.authority import revoke_certificate

    for line in revoke_certificate(home, _now()):
        click.echo(line)


@ca.command("crl")
@home_option
def crl(home: Any) -> None:
    """The revocation list as PEM on stdout, signed anew: it holds for 30 days. For `messageapp connect --crl FILE`."""
    from messageapp.server.authority import renew_crl
    from messageapp_keys.certificate import crl_pem

    made = renew_crl(home, _now())
    click.echo(f"messageapp: valid until {made.next_update_utc:%Y-%m-%d}; revoked: {len(made)}", err=True)
    click.echo(crl_pem(made), nl=False)
