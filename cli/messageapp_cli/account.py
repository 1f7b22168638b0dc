"""One account of this home, ready to log in: which identity, which server, which authority.

`connect` puts the parts together itself, as its modules load while the passphrase is typed. A command that logs in,
does its work and ends takes `ready_account` and `logged_in`:

    with ready_account(home, user, host, port, passphrase_file) as ready:
        trio.run(work, ready)

    async def work(ready): async with logged_in(ready) as client: ...
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from messageapp.clock import wall_ms

from .options import ask_passphrase, chosen_server

__all__ = [
    "OpenAccount",
    "ReadyAccount",
    "find_authority",
    "load_authority",
    "load_crl",
    "logged_in",
    "open_account",
    "ready_account",
    "server_name",
]

DEVICE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """An identity of this home, unsealed, with the account's database and what it trusts."""

    sealed: Any
    identity: Any
    passphrase: str = field(repr=False)
    database: Any
    trust: Any


@contextmanager
def open_account(
    home: Any, user: str | None, passphrase_file: str | None, *, alone: bool = False, modules: Sequence[str] = ()
) -> Iterator[OpenAccount]:
    """The account of `user`, or of the home's only identity; closed with the block.

    Asks for the passphrase, and loads `modules` meanwhile; then takes a moment (Argon2id). `UnusableSetup`, with
    `alone` also where a client has the account; `LoginRefused`: wrong passphrase.
    """
    from messageapp.client.trust import Trust
    from messageapp.store.accounts import find_database_key, open_account_database, unlock
    from messageapp.store.identities import find_identity
    from messageapp.store.lock import locked_account

    from .loading import loading
    from .main import complain

    sealed = find_identity(home, user)
    with ExitStack() as opened:
        if alone:
            opened.enter_context(locked_account(home, sealed.user))
        key_file = find_database_key(home, sealed.user)
        with loading(*modules):
            passphrase = ask_passphrase(passphrase_file, f"passphrase for {sealed.user}")
            identity, key = unlock(home, sealed, passphrase)
        if key_file is not None and key_file.changing:
            complain("a change of your passphrase is not finished; this finishes it: messageapp passwd")
        if key_file is not None and not (home.account(sealed.user).exists() or home.trust(sealed.user).exists()):
            complain(f"{home.account(sealed.user)} is missing; begun anew: no messages, and nobody's key is known")
        database = opened.enter_context(closing(open_account_database(home, sealed.user, key)))
        trust = Trust(database, sealed.user, sealed.bundle, wall_ms)
        yield OpenAccount(sealed, identity, passphrase, database, trust)


def server_name(host: str) -> str:
    """The name that the certificate must carry: a DNS name in ASCII, or an address in its one spelling."""
    import ipaddress

    from messageapp.errors import UnusableSetup

    bare = host.strip("[]")
    try:
        return str(ipaddress.ip_address(bare.partition("%")[0]))
    except ValueError:
        pass
    try:
        name = bare.lower().encode("idna").decode("ascii")
    except UnicodeError:
        raise UnusableSetup(f"{host!r} is no name of a host") from None
    if not name or any(char.isspace() for char in name):
        raise UnusableSetup(f"{host!r} is no name of a host")
    return name


def find_authority(home: Any, trust: Any, server: str, port: int, ca: str | None) -> bytes:
    """PEM of the CA to verify with: the one named, that of the first login there, or this home's own."""
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public

    if ca is not None:
        return read_public(Path(ca))
    known = trust.known_server(server, port)
    if known is not None:
        return bytes(known.ca_pem)
    if home.ca_certificate.exists():
        return read_public(home.ca_certificate)
    raise UnusableSetup(
        f"no CA certificate for {server}:{port}; get it from the server's owner (`messageapp ca show > ca.pem`) "
        "and name it the first time: --ca ca.pem"
    )


def load_authority(pem: bytes) -> Any:
    from messageapp.errors import UnusableSetup
    from messageapp_keys.certificate import CertificateRefused, load_certificate_untrusted

    try:
        return load_certificate_untrusted(pem)
    except CertificateRefused as error:
        raise UnusableSetup(f"the CA certificate cannot be used: {error}") from None


def load_crl(file: str) -> Any:
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public
    from messageapp_keys.certificate import CertificateRefused, load_crl_untrusted

    try:
        return load_crl_untrusted(read_public(Path(file)))
    except CertificateRefused as error:
        raise UnusableSetup(f"{file}: {error}") from None


# A command without a prompt -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadyAccount:
    """All that a login takes. `account.device` is not this account's own: a client that runs beside goes on."""

    account: Any
    host: str
    port: int
    home: Any
    database: Any


@contextmanager
def ready_account(
    home: Any,
    user: str | None,
    host: str | None,
    port: int | None,
    passphrase_file: str | None,
    ca: str | None = None,
) -> Iterator[ReadyAccount]:
    """An account, opened, and its server (`chosen_server`). `UnusableSetup`; `LoginRefused`: wrong passphrase."""
    from messageapp.client.login import Account

    from .hardening import forbid_core_dumps

    forbid_core_dumps()
    with open_account(home, user, passphrase_file) as opened:
        host, port = chosen_server(opened.database, host, port)
        server = server_name(host)
        authority = load_authority(find_authority(home, opened.trust, server, port, ca))
        account = Account(
            user=opened.sealed.user,
            identity=opened.identity,
            authority=authority,
            trust=opened.trust,
            server=server,
            port=port,
            device=os.urandom(DEVICE_BYTES),
        )
        yield ReadyAccount(account, host, port, home, opened.database)


class _NoKeys:
    """Temporary keys are for being called, and nobody takes a call here."""

    def take_nowait(self) -> None:
        return None

    async def take(self) -> Any:
        import trio

        await trio.sleep_forever()


@asynccontextmanager
async def logged_in(ready: ReadyAccount, **changes: Any) -> AsyncIterator[Any]:
    """A `Client`, logged in; `changes` replace fields of the account. Says goodbye on the way out.

    Raises `CannotConnect`, `ServerNotAuthenticated`, `LoginRefused`. The client's events are the caller's to read.
    """
    from messageapp.client.client import open_client
    from messageapp.client.login import dial
    from messageapp.errors import MessageAppError

    account = replace(ready.account, **changes) if changes else ready.account
    stream = await dial(ready.host.strip("[]"), ready.port)
    failed: MessageAppError | None = None
    async with open_client(stream, account, _NoKeys()) as client:
        try:
            yield client
        except MessageAppError as error:  # the client's nursery would make a group of it
            failed = error
        if client.ended is None:
            await client.exit()
    if failed is not None:
        raise failed
