"""`messageapp connect`: log in, then the prompt."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import click

from .account import find_authority, load_authority, load_crl, open_account, server_name
from .options import UsernameType, chosen_server, home_option, passphrase_option

__all__ = ["RSA_POOL", "connect", "converse", "has_terminal", "reconnect_option"]

RSA_POOL: Final = 2  # for being called (protocol §8)
_AFTER_LOGIN: Final = ("messageapp.client.client", "messageapp.keypool", "messageapp_cli.repl")
_SWITCH_SECONDS: Final = 0.0005  # not 5 ms: keys are made while the screen's thread draws, and wait for it each time

reconnect_option: Final = click.option(
    "--reconnect/--no-reconnect",
    default=None,
    help="Log in again when the connection is lost, and start without one, instead of ending. Default: on a terminal, "
    "and not with --plain.",
)


@click.command()
@click.argument("host", required=False)
@click.argument("port", type=click.IntRange(1, 65535), required=False)
@click.option("--user", type=UsernameType(), help="Which identity of this home. Default: the only one.")
@click.option("--ca", metavar="FILE.pem", type=click.Path(dir_okay=False), help="The server's CA certificate.")
@click.option("--plain", is_flag=True, help="Commands from stdin, lines to stdout, no escape sequences; for scripts.")
@reconnect_option
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
    host: str | None,
    port: int | None,
    user: str | None,
    ca: str | None,
    plain: bool,
    reconnect: bool | None,
    suite: str | None,
    hide_user: bool,
    trust_server: bool,
    thin: bool,
    crl: str | None,
    passphrase_file: str | None,
    home: Any,
) -> int:
    """Log in to the server at HOST and PORT (8081), and chat.

    Without HOST: the only server where this account has been; 127.0.0.1 where it has been nowhere."""
    from .hardening import forbid_core_dumps

    forbid_core_dumps()
    plain = plain or not has_terminal()
    modules = (*_AFTER_LOGIN, "messageapp_cli.plain" if plain else "messageapp_cli.terminal")
    with open_account(home, user, passphrase_file, alone=True, modules=modules) as opened:
        from messageapp.store.trust import known_servers

        if host is None and not known_servers(opened.database):
            host = "127.0.0.1"
        host, port = chosen_server(opened.database, host, port)
        server = server_name(host)
        ca_pem = find_authority(home, opened.trust, server, port, ca)
        import trio

        from messageapp.client.login import Account
        from messageapp_keys.kem import DEFAULT_SUITES, SUITES

        suites = [known for known in SUITES.values() if known.name == suite] or list(DEFAULT_SUITES)
        account = Account(
            user=opened.sealed.user,
            identity=opened.identity,
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
        reconnect = not plain if reconnect is None else reconnect
        return trio.run(_connect, account, host, port, plain, reconnect, rotating)


def has_terminal() -> bool:
    """Whether the full client can run: a terminal on both sides that moves its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


async def _connect(account: Any, host: str, port: int, plain: bool, reconnect: bool, rotating: bool) -> int:
    from messageapp.client.client import open_client
    from messageapp.client.login import dial
    from messageapp.client.unconnected import Unconnected
    from messageapp.errors import LoginRefused
    from messageapp.keypool import open_pool

    from .reconnect import returning

    async with open_pool(RSA_POOL) as pool:

        @asynccontextmanager
        async def opening() -> AsyncIterator[Any]:
            nonlocal account
            stream = await dial(host.strip("[]"), port)
            try:
                async with open_client(stream, account, pool) as client:
                    account = returning(account)
                    yield client
            except LoginRefused as error:
                hint = f"; a change of the key of {account.user} was interrupted: messageapp keys rotate finishes it"
                raise LoginRefused(str(error) + hint) if rotating else error from None

        known = account.trust.known_server(account.server, account.port)
        unconnected = None if known is None else partial(Unconnected, account, known.canonical)
        return await converse(opening, plain=plain, reconnect=reconnect, unconnected=unconnected)


async def converse(opening: Any, *, plain: bool, reconnect: bool, unconnected: Any = None) -> int:
    """Log in and show the prompt on this terminal, or on stdin and stdout, until the user leaves; the exit code.

    `opening` is a `reconnect.Opening`; what it raises the first time is raised, unless `unconnected` makes something
    of an error to `reconnect` from.
    """
    import trio

    from messageapp.errors import MessageAppError

    from .reconnect import Connections

    code, failed = 0, None
    async with trio.open_nursery() as nursery:  # the clients': outside of the console, which is there for all of them
        connections = Connections(nursery, opening, unconnected=unconnected if reconnect else None)
        try:
            client = await connections.first()
        except MessageAppError as error:  # the nursery would make a group of it
            failed = error
        else:
            code = await _converse(client, connections if reconnect else None, plain=plain)
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return code


async def _converse(client: Any, connections: Any, *, plain: bool) -> int:
    import trio

    from .repl import Repl

    repl = Repl(client, plain=plain, encoding=sys.stdout.encoding or "ascii", connections=connections)
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
