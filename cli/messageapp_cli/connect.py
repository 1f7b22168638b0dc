"""`messageapp connect`: log in, then the prompt."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from .loading import loading
from .options import UsernameType, ask_passphrase, home_option, passphrase_option

__all__ = ["connect", "converse", "has_terminal"]

_PORT: Final = 8081
_RSA_POOL: Final = 2  # for being called (protocol §8)
_AFTER_LOGIN: Final = ("messageapp.client.client", "messageapp.keypool", "messageapp_cli.repl")
_SWITCH_SECONDS: Final = 0.0005  # not 5 ms: keys are made while the screen's thread draws, and wait for it each time


@click.command()
@click.argument("host", default="127.0.0.1")
@click.argument("port", type=click.IntRange(1, 65535), default=_PORT)
@click.option("--user", type=UsernameType(), help="Which identity of this home. Default: the only one.")
@click.option("--ca", metavar="FILE.pem", type=click.Path(dir_okay=False), help="The server's CA certificate.")
@click.option("--plain", is_flag=True, help="Commands from stdin, lines to stdout, no escape sequences; for scripts.")
@click.option(
    "--suite",
    type=click.Choice(["hybrid", "swift", "classic"]),
    help="Offer only this key exchange at login. Default: hybrid, then swift.",
)
@click.option("--hide-user", is_flag=True, help="Do not send the user's name before the connection is encrypted.")
@click.option("--trust-server", is_flag=True, help="Accept that the server has another key or name than before.")
@click.option("--crl", metavar="FILE", type=click.Path(dir_okay=False), help="The CA's revocation list, PEM or DER.")
@passphrase_option
@home_option
def connect(
    host: str,
    port: int,
    user: str | None,
    ca: str | None,
    plain: bool,
    suite: str | None,
    hide_user: bool,
    trust_server: bool,
    crl: str | None,
    passphrase_file: str | None,
    home: Any,
) -> int:
    """Log in to the server at HOST (127.0.0.1) and PORT (8081), and chat."""
    from messageapp.client.trust import Trust
    from messageapp.store.database import open_database
    from messageapp.store.identities import find_identity, unseal

    from .hardening import forbid_core_dumps

    forbid_core_dumps()
    sealed = find_identity(home, user)
    server = _server_name(host)
    plain = plain or not has_terminal()
    database = open_database(home.trust(sealed.user), "account")
    try:
        trust = Trust(database, sealed.user, sealed.bundle, lambda: time.time_ns() // 1_000_000)
        ca_pem = _authority(home, trust, server, port, ca)
        with loading(*_AFTER_LOGIN, "messageapp_cli.plain" if plain else "messageapp_cli.terminal"):
            identity = unseal(sealed, ask_passphrase(passphrase_file, f"passphrase for {sealed.user}"))
        import trio

        from messageapp.client.login import Account
        from messageapp_keys.kem import DEFAULT_SUITES, SUITES

        suites = [known for known in SUITES.values() if known.name == suite] or list(DEFAULT_SUITES)
        account = Account(
            user=sealed.user,
            identity=identity,
            authority=_load_authority(ca_pem),
            trust=trust,
            server=server,
            port=port,
            suites=suites,
            accept_chat=[*DEFAULT_SUITES, *(known for known in suites if known not in DEFAULT_SUITES)],
            hide_user=hide_user,
            trust_server=trust_server,
            revoked=None if crl is None else _load_crl(crl),
        )
        return trio.run(_connect, account, host, port, plain)
    finally:
        database.close()


def has_terminal() -> bool:
    """Whether the full client can run: a terminal on both sides that moves its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def _server_name(host: str) -> str:
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


def _authority(home: Any, trust: Any, server: str, port: int, ca: str | None) -> bytes:
    """The CA to verify with: the one named, that of the first login there, or this home's own."""
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


def _load_authority(pem: bytes) -> Any:
    from messageapp.errors import UnusableSetup
    from messageapp_keys.certificate import CertificateRefused, load_certificate_untrusted

    try:
        return load_certificate_untrusted(pem)
    except CertificateRefused as error:
        raise UnusableSetup(f"the CA certificate cannot be used: {error}") from None


def _load_crl(file: str) -> Any:
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public
    from messageapp_keys.certificate import CertificateRefused, load_crl_untrusted

    try:
        return load_crl_untrusted(read_public(Path(file)))
    except CertificateRefused as error:
        raise UnusableSetup(f"{file}: {error}") from None


async def _connect(account: Any, host: str, port: int, plain: bool) -> int:
    from messageapp.client.client import open_client
    from messageapp.client.login import dial
    from messageapp.keypool import open_pool

    async with open_pool(_RSA_POOL) as pool:
        stream = await dial(host.strip("[]"), port)
        async with open_client(stream, account, pool) as client:
            return await converse(client, plain=plain)


async def converse(client: Any, *, plain: bool) -> int:
    """The prompt on this terminal, or stdin and stdout, until the user leaves; the exit code."""
    import trio

    from .repl import Repl

    repl = Repl(client, plain=plain)
    if plain:
        from .plain import open_plain as open_console
    else:
        from .terminal import open_terminal as open_console  # type: ignore[assignment]

    switching = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    outcome: list[Any] = []
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, *([signal.SIGINT] if plain else [])) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                await anext(aiter(signals))
                with trio.move_on_after(2):
                    await repl.leave()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            async with open_console(repl) as console:
                outcome.append(await repl.run(console))
            nursery.cancel_scope.cancel()
    sys.setswitchinterval(switching)
    error = outcome[0] if outcome else None
    return 0 if error is None else int(error.exit_code)
