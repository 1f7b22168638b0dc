"""`messageapp keygen` and `messageapp keys`: what a user does once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .backup import backup, restore
from .options import UsernameType, ask_passphrase, home_option, passphrase_option
from .rotate import rotate

__all__ = ["keygen", "keys"]


@click.command()
@click.argument("name", type=UsernameType())
@click.option(
    "--import",
    "imported",
    metavar="FILE.pem",
    type=click.Path(dir_okay=False),
    help="Take an existing private key, such as `openssl genrsa -aes256` makes.",
)
@click.option("--pq", is_flag=True, help="An ML-DSA-65 key as well: both must sign, one may be broken.")
@passphrase_option
@home_option
def keygen(name: str, imported: str | None, pq: bool, passphrase_file: str | None, home: Any) -> None:
    """Make the identity NAME, sealed with a passphrase.

    It is an RSA-3072 key pair, with --pq an ML-DSA-65 key pair too; private keys never leave this home, but for a
    backup that you make.
    """
    from messageapp.errors import UnusableSetup
    from messageapp.store.identities import save_identity
    from messageapp_keys.fingerprint import key_fingerprint
    from messageapp_keys.identity import PrivateIdentity

    from .hardening import forbid_core_dumps
    from .main import complain

    forbid_core_dumps()
    if pq and imported is not None:
        raise click.UsageError("--pq makes both keys; it does not go with --import")
    if home.identity(name).exists():
        raise UnusableSetup(f"there is an identity {name} already: {home.identity(name)}; it is not overwritten")
    if imported is None:
        passphrase = ask_passphrase(passphrase_file, f"new passphrase for {name}", twice=True)
        identity = PrivateIdentity.generate(post_quantum=pq)
    else:
        identity, passphrase = _import(name, Path(imported), passphrase_file)
    path = save_identity(home, name, identity, passphrase)
    click.echo(f"{name}: {identity.bundle.kind} {key_fingerprint(identity.key_id)}")
    complain(f"sealed in {path}")
    if imported is not None:
        complain(f"{imported} is no longer needed; delete it: shred -u {imported}")


def _import(name: str, path: Path, passphrase_file: str | None) -> tuple[Any, str]:
    """An old key and the passphrase that seals it from now on: the old one, or a new one where it had none."""
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public
    from messageapp_keys.pem import PemRefused, needs_passphrase

    from .render import one_line

    pem = read_public(path)
    try:
        locked = needs_passphrase(pem)
    except PemRefused as error:
        raise UnusableSetup(f"{path}: {error}") from None
    if not locked:
        _read_key(path, pem, None)  # before anything is asked
    question = f"passphrase of {one_line(str(path))}" if locked else f"new passphrase for {name}"
    passphrase = ask_passphrase(passphrase_file, question, twice=not locked)
    return _read_key(path, pem, passphrase if locked else None), passphrase


def _read_key(path: Path, pem: bytes, passphrase: str | None) -> Any:
    from messageapp.errors import LoginRefused, UnusableSetup
    from messageapp_keys.pem import PemRefused, import_private_pem

    try:
        return import_private_pem(pem, None if passphrase is None else passphrase.encode())
    except PemRefused as error:
        if "passphrase" in str(error):
            raise LoginRefused(f"{path}: {error}") from None
        raise UnusableSetup(f"{path}: {error}") from None


@click.group()
def keys() -> None:
    """The identities of this home."""


@keys.command("list")
@home_option
def list_(home: Any) -> None:
    """Every identity: name, kind of key, fingerprint."""
    from messageapp.store.identities import list_identities
    from messageapp_keys.fingerprint import key_fingerprint

    for sealed in list_identities(home):
        click.echo(f"{sealed.user}  {sealed.bundle.kind}  {key_fingerprint(sealed.bundle.key_id)}")


@keys.command("export")
@click.argument("name", type=UsernameType())
@home_option
def export(name: str, home: Any) -> None:
    """The public key of NAME as PEM on stdout; give it to the server's owner for `messageapp user add`."""
    from messageapp.store.identities import find_identity
    from messageapp_keys.pem import export_public_pem

    click.echo(export_public_pem(find_identity(home, name).bundle), nl=False)


for command in (rotate, backup, restore):
    keys.add_command(command)
