"""`messageapp serve`."""

from __future__ import annotations

import errno
import signal
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from .options import home_option

__all__ = ["serve"]

_PORT: Final = 8081
_MAX_PORT: Final = 65535
_HERE: Final = "127.0.0.1"  # where join codes lead without a --name
_FIRST_KEYS: Final = 2  # made before the doors open, so that the first clients get the default suite
_SETTINGS: Final[dict[str, type[Any]]] = {
    "port": int,
    "host": str,
    "names": list,
    "classic": bool,
    "limits": dict,
    "witnesses": list,
}


def _parse_limits(pairs: Sequence[str]) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            found[name] = float(text) if "." in text else int(text)
        except ValueError:
            raise click.UsageError(f"--limit takes NAME=NUMBER, not {pair}") from None
    return found


def _settings(home: Any) -> dict[str, Any]:
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public

    path = home.server_settings
    if not path.exists():
        return {}
    try:
        found = tomllib.loads(read_public(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnusableSetup(f"{path}: {error}") from None
    for name, value in found.items():
        if name not in _SETTINGS:
            raise UnusableSetup(f"{path}: there is no setting {name}; the settings are {', '.join(_SETTINGS)}")
        if not isinstance(value, _SETTINGS[name]) or (_SETTINGS[name] is int and isinstance(value, bool)):
            raise UnusableSetup(f"{path}: {name} is of the wrong kind")
    if not 0 <= found.get("port", _PORT) <= _MAX_PORT:  # the system would take the lowest 16 bits
        raise UnusableSetup(f"{path}: port is a number from 0 to {_MAX_PORT}")
    for name in ("names", "witnesses"):
        if not all(isinstance(entry, str) for entry in found.get(name, [])):
            raise UnusableSetup(f"{path}: {name} are texts in quotes")
    return found


@click.command()
@click.argument("port", type=click.IntRange(0, _MAX_PORT), required=False)
@click.option("--host", metavar="H", help="Listen on this address only. Default: every address, IPv4 and IPv6.")
@click.option("--name", "names", metavar="NAME", multiple=True, help="A name or address by which clients reach you.")
@click.option("--pq", is_flag=True, help="A first start makes keys of ML-DSA-65, for the authority and the server.")
@click.option("--limit", "limits", metavar="NAME=VALUE", multiple=True, help="Change a limit; see docs/cli.md.")
@click.option("--log", type=click.Choice(["text", "json"]), default="text", help="The form of log lines on stderr.")
@click.option("--trace", is_flag=True, help="Log verbs and sizes of frames, never names or contents.")
@click.option("--debug", is_flag=True, help="Log why logins are refused.")
@home_option
def serve(
    port: int | None,
    host: str | None,
    names: tuple[str, ...],
    pq: bool,
    limits: tuple[str, ...],
    log: str,
    trace: bool,
    debug: bool,
    home: Any,
) -> None:
    """Run a server on PORT (8081).

    The first start makes a certificate authority and a server certificate. It prints `listening on H:PORT` when it is
    ready; SIGINT and SIGTERM say goodbye to everyone and end it. PORT 0 takes a free one. Settings that stay belong
    into server.toml in the home folder.
    """
    import trio

    from messageapp.limits import Limits

    from .hardening import forbid_core_dumps
    from .logs import start_logging

    forbid_core_dumps()
    start_logging(log, trace=trace, debug=debug)
    settings = _settings(home)
    bounds = Limits.from_mapping({**settings.get("limits", {}), **_parse_limits(limits)})
    chosen = port if port is not None else int(settings.get("port", _PORT))
    trio.run(
        _serve,
        home,
        host or settings.get("host"),
        chosen,
        [*settings.get("names", []), *names],
        bounds,
        bool(settings.get("classic", True)),
        settings.get("witnesses", []),
        pq,
    )


async def _serve(
    home: Any,
    host: str | None,
    port: int,
    names: list[str],
    limits: Any,
    classic: bool,
    witnesses: list[str],
    pq: bool,
) -> None:
    from contextlib import ExitStack, closing
    from datetime import UTC, datetime

    import trio

    from messageapp.errors import UnusableSetup
    from messageapp.keypool import open_pool
    from messageapp.server.blocks import Blocks
    from messageapp.server.directory import SqliteDirectory, open_writer
    from messageapp.server.disk import DiskWatch
    from messageapp.server.garbage import keep_collections_short
    from messageapp.server.invites import Invites
    from messageapp.server.keylog import open_log
    from messageapp.server.mailbox import Mailbox
    from messageapp.server.serve import SERVER_SUITES, Server, open_listeners
    from messageapp.server.setup import OfferSource, prepare_server
    from messageapp.store.database import open_database
    from messageapp.store.mailbox import open_mailbox
    from messageapp_keys.kem import CLASSIC

    from .main import complain

    try:
        listeners = await open_listeners(host, port)
    except OSError as error:
        raise UnusableSetup(_why_not_listening(error, host, port)) from None
    try:
        offer, told = prepare_server(home, names, datetime.now(UTC), post_quantum=pq)
        for line in told:
            complain(line)
        with ExitStack() as files:
            database = files.enter_context(closing(open_database(home.directory, "server")))
            mail = files.enter_context(closing(open_mailbox(home.mail)))
            directory, blocks = SqliteDirectory(database), Blocks(database, open_writer(home.directory))
            key_log = open_log(home, database, offer, witnesses)
            async with open_pool(limits.rsa_pool) as pool:
                server = Server(
                    offer=offer,
                    changed_offer=OfferSource(home, names, offer),
                    directory=directory,
                    keys=pool,
                    log=key_log,
                    invites=Invites(database, open_writer(home.directory)),
                    blocks=blocks,
                    mailbox=Mailbox(
                        mail,
                        directory=directory,
                        limits=limits,
                        blocks=blocks,
                        proof_of=key_log.proof_of,
                        disk_full=DiskWatch(home.path, limits.disk_full_percent),
                    ),
                    limits=limits,
                    suites=[suite for suite in SERVER_SUITES if classic or suite is not CLASSIC],
                )
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_stop_on_signal, signals, server.shutdown)
                        await pool.stocked(_FIRST_KEYS)
                        nursery.start_soon(keep_collections_short, lambda: server.router.session_count)
                        await nursery.start(_serve_to_the_end, server, listeners, nursery.cancel_scope)
                        for listener in listeners:
                            click.echo(f"listening on {_shown(listener.socket.getsockname())}")
                        reached = names[0] if names else host if host and offer.is_ours(host) else _HERE
                        try:
                            _invite_first_user(home, database, reached, listeners[0].socket.getsockname()[1])
                        except UnusableSetup as error:  # a full disk: those who are enrolled are served
                            complain(f"no join code: {error}")
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)


def _invite_first_user(home: Any, database: Any, host: str, port: int) -> None:
    """Where nobody is enrolled, a join code for whoever comes first; those of earlier starts end."""
    from messageapp.clock import wall_ms
    from messageapp.store.invites import drop_first_invites
    from messageapp.store.users import anybody_enrolled

    from .invite import LIFETIME_MS, make_code, write_address

    write_address(home, host, port)
    if anybody_enrolled(database):
        drop_first_invites(database, wall_ms())
        return
    code = make_code(home, database, "", LIFETIME_MS, first=True)
    click.echo(f"join code for the first user: {code}\njoin with: messageapp join {code}")
    if host == _HERE:
        click.echo("it works on this machine; for others: messageapp serve --name NAME, by which they reach it")


async def _serve_to_the_end(server: Any, listeners: Any, scope: Any, *, task_status: Any) -> None:
    await server.serve(listeners, task_status=task_status)
    scope.cancel()


async def _stop_on_signal(signals: Any, shutdown: Callable[[], None]) -> None:
    await anext(aiter(signals))
    shutdown()


def _shown(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _why_not_listening(error: OSError, host: str | None, port: int) -> str:
    import socket

    where = f"{host}:{port}" if host else f"port {port}"
    if isinstance(error, socket.gaierror):
        return f"there is no host named {host}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where} is in use by another program; choose another port, or 0 for a free one"
        case errno.EACCES:
            return f"{where} may not be used by this user; choose a port above 1023"
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine"
    return f"cannot listen on {where}: {(error.strerror or str(error)).lower()}"
