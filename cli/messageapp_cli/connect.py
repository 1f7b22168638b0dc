"""`messageapp connect`: log in, then the prompt."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Final

import click

from .account import find_authority, load_authority, load_crl, open_account, server_name
from .loading import loading
from .options import DEFAULT_PORT, UsernameType, home_option, passphrase_option

__all__ = ["RSA_POOL", "connect", "converse", "has_terminal"]

RSA_POOL: Final = 2  # for being called (protocol §8)
_AFTER_LOGIN: Final = ("messageapp.client.client", "messageapp.keypool", "messageapp_cli.repl")
_SWITCH_SECONDS: Final = 0.0005  # not 5 ms: keys are made while the screen's thread draws, and wait for it each time


@click.command()
@click.argument("host", default="127.0.0.1")
@click.argument("port", type=click.IntRange(1, 65535), default=DEFAULT_PORT)
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
@click.option("--thin", is_flag=True, help="Ask the key log for proofs instead of reading all of it; checks less.")
@click.option("--crl", metavar="FILE", type=click.Path(dir_okay=False), help="The CA's revocation list, from now on.")
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
    thin: bool,
    crl: str | None,
    passphrase_file: str | None,
    home: Any,
) -> int:
    """Log in to the server at HOST (127.0.0.1) and PORT (8081), and chat."""
    from .hardening import forbid_core_dumps

    forbid_core_dumps()
    plain = plain or not has_terminal()
    with open_account(home, user) as opened:
        server = server_name(host)
        ca_pem = find_authority(home, opened.trust, server, port, ca)
        with loading(*_AFTER_LOGIN, "messageapp_cli.plain" if plain else "messageapp_cli.terminal"):
            identity = opened.unseal(passphrase_file)
        import trio

        from messageapp.client.login import Account
        from messageapp_keys.kem import DEFAULT_SUITES, SUITES

        suites = [known for known in SUITES.values() if known.name == suite] or list(DEFAULT_SUITES)
        account = Account(
            user=opened.sealed.user,
            identity=identity,
            authority=load_authority(ca_pem),
            trust=opened.trust,
            server=server,
            port=port,
            suites=suites,
            accept_chat=[*DEFAULT_SUITES, *(known for known in suites if known not in DEFAULT_SUITES)],
            hide_user=hide_user,
            trust_server=trust_server,
            thin=thin,
            revoked=None if crl is None else load_crl(crl),
        )
        rotating = home.next_identity(account.user).exists()
        return trio.run(_connect, account, host, port, plain, rotating)


def has_terminal() -> bool:
    """Whether the full client can run: a terminal on both sides that moves its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


async def _connect(account: Any, host: str, port: int, plain: bool, rotating: bool) -> int:
    from messageapp.client.client import open_client
    from messageapp.client.login import dial
    from messageapp.errors import LoginRefused
    from messageapp.keypool import open_pool

    async with open_pool(RSA_POOL) as pool:
        stream = await dial(host.strip("[]"), port)
        try:
            async with open_client(stream, account, pool) as client:
                return await converse(client, plain=plain)
        except LoginRefused as error:
            hint = f"; a change of the key of {account.user} was interrupted: messageapp keys rotate finishes it"
            raise LoginRefused(str(error) + hint) if rotating else error from None


async def converse(client: Any, *, plain: bool) -> int:
    """The prompt on this terminal, or stdin and stdout, until the user leaves; the exit code."""
    import trio

    from .repl import Repl

    repl = Repl(client, plain=plain, encoding=sys.stdout.encoding or "ascii")
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
