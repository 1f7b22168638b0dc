"""`messageapp user` and `messageapp ca`: what the owner of a server does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .options import UsernameType, home_option

__all__ = ["ca", "user"]


@click.group()
def user() -> None:
    """The server's directory of users. Changes count at once, also while the server runs."""


def _directory(home: Any) -> Any:
    from messageapp.store.database import open_database

    return open_database(home.directory, "server")


@user.command("add")
@click.argument("name", type=UsernameType())
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@home_option
def add(name: str, file: str | None, home: Any) -> None:
    """Enrol NAME with the public key in FILE (PEM).

    The user makes FILE with `messageapp keys export NAME`, or `openssl rsa -pubout`. Without FILE the identity NAME of
    this home is taken.
    """
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public
    from messageapp.store.identities import find_identity
    from messageapp.store.users import add_user
    from messageapp_keys.fingerprint import key_fingerprint
    from messageapp_keys.pem import PemRefused, import_public_pem

    if file is None:
        sealed = find_identity(home, name)
        name, bundle = sealed.user, sealed.bundle
    else:
        try:
            bundle = import_public_pem(read_public(Path(file)))
        except PemRefused as error:
            raise UnusableSetup(f"{file}: {error}") from None
    database = _directory(home)
    try:
        add_user(database, name, bundle, time.time_ns() // 1_000_000)
    finally:
        database.close()
    click.echo(f"added {name}: {bundle.kind} {key_fingerprint(bundle.key_id)}")


@user.command("list")
@home_option
def list_(home: Any) -> None:
    """Every enrolled user: name, kind of key, fingerprint."""
    from messageapp.store.users import list_users
    from messageapp_keys.fingerprint import key_fingerprint

    database = _directory(home)
    try:
        for entry in list_users(database):
            click.echo(f"{entry.name}  {entry.bundle.kind}  {key_fingerprint(entry.bundle.key_id)}")
    finally:
        database.close()


@user.command("remove")
@click.argument("name", type=UsernameType())
@home_option
def remove(name: str, home: Any) -> None:
    """Remove NAME; sessions of that user end within a second."""
    from messageapp.store.users import remove_user

    database = _directory(home)
    try:
        remove_user(database, name)
    finally:
        database.close()
    click.echo(f"removed {name}")


@click.group()
def ca() -> None:
    """The server's certificate authority, which clients must have."""


@ca.command("show")
@home_option
def show(home: Any) -> None:
    """The CA certificate as PEM on stdout; give it to your users by a way that you trust."""
    from messageapp.server.setup import load_authority
    from messageapp_keys.certificate import certificate_pem, describe

    certificate = load_authority(home)
    click.echo(f"messageapp: fingerprint of the authority {describe(certificate).fingerprint_sha256}", err=True)
    click.echo(certificate_pem(certificate), nl=False)
