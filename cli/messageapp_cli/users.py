"""`messageapp user`: what the owner of a server does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from messageapp.clock import wall_ms

from .directory import open_directory
from .invite import invite_again
from .options import UsernameType, home_option

__all__ = ["user"]


@click.group()
def user() -> None:
    """The server's directory of users. Changes count at once, also while the server runs."""


def _read_key(file: str) -> Any:
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public
    from messageapp_keys.pem import PemRefused, import_public_pem

    try:
        return import_public_pem(read_public(Path(file)))
    except PemRefused as error:
        raise UnusableSetup(f"{file}: {error}") from None


@user.command("add")
@click.argument("name", type=UsernameType())
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@home_option
def add(name: str, file: str | None, home: Any) -> None:
    """Enrol NAME with the public key in FILE (PEM).

    The user makes FILE with `messageapp keys export NAME`, or `openssl rsa -pubout`. Without FILE the identity NAME of
    this home is taken.
    """
    from messageapp.store.identities import find_identity
    from messageapp.store.users import add_user
    from messageapp_keys.fingerprint import key_fingerprint

    if file is None:
        sealed = find_identity(home, name)
        name, bundle = sealed.user, sealed.bundle
    else:
        bundle = _read_key(file)
    with open_directory(home) as database:
        add_user(database, name, bundle, wall_ms())
    click.echo(f"added {name}: {bundle.kind} {key_fingerprint(bundle.key_id)}")


@user.command("list")
@home_option
def list_(home: Any) -> None:
    """Every enrolled user: name, kind of key, fingerprint, and whether the key is revoked."""
    from messageapp.store.users import list_users
    from messageapp_keys.fingerprint import key_fingerprint

    with open_directory(home) as database:
        for entry in list_users(database):
            revoked = "" if entry.revoked_ms is None else "  revoked"
            click.echo(f"{entry.name}  {entry.bundle.kind}  {key_fingerprint(entry.bundle.key_id)}{revoked}")


@user.command("remove")
@click.argument("name", type=UsernameType())
@home_option
def remove(name: str, home: Any) -> None:
    """Remove NAME; sessions of that user end within a second.

    The name is free for somebody else. Whoever has talked to NAME is told when it comes back with another key.
    """
    from messageapp.store.users import remove_user

    with open_directory(home) as database:
        remove_user(database, name, wall_ms())
    click.echo(f"removed {name}")


@user.command("reset")
@click.argument("name", type=UsernameType())
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@home_option
def reset(name: str, file: str | None, home: Any) -> None:
    """Give NAME, whose key is lost, the public key in FILE (PEM); without FILE a join code, with which NAME makes one.

    The key log shows to everybody that it was you who did this, not the user: peers are asked whether they accept it.
    """
    from messageapp.store.users import reset_user
    from messageapp_keys.fingerprint import key_fingerprint

    if file is None:
        invite_again(home, name)
        return
    bundle = _read_key(file)
    with open_directory(home) as database:
        reset_user(database, name, bundle, wall_ms())
    click.echo(f"reset {name}: {bundle.kind} {key_fingerprint(bundle.key_id)}")


@user.command("revoke")
@click.argument("name", type=UsernameType())
@home_option
def revoke(name: str, home: Any) -> None:
    """The key of NAME counts no more, from now on: sessions end within a second, and the key log says so to everybody.

    The name stays taken. `messageapp user reset NAME` gives it another key.
    """
    from messageapp.store.users import revoke_user

    with open_directory(home) as database:
        revoke_user(database, name, wall_ms())
    click.echo(f"revoked {name}")
