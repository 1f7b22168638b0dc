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
_FIRST_KEYS: Final = 2  # made before the doors open, so that the first clients get the default suite
_SETTINGS: Final[dict[str, type[Any]]] = {"port": int, "host": str, "names": list, "classic": bool, "limits": dict}


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
    if not all(isinstance(name, str) for name in found.get("names", [])):
        raise UnusableSetup(f"{path}: names are texts in quotes")
    return found


@click.command()
@click.argument("port", type=click.IntRange(0, _MAX_PORT), required=False)
@click.option("--host", metavar="H", help="Listen on this address only. Default: every address, IPv4 and IPv6.")
@click.option("--name", "names", metavar="NAME", multiple=True, help="A name or address by which clients reach you.")
@click.option("--limit", "limits", metavar="NAME=VALUE", multiple=True, help="Change a limit; see docs/cli.md.")
@click.option("--log", type=click.Choice(["text", "json"]), default="text", help="The form of log lines on stderr.")
@click.option("--trace", is_flag=True, help="Log verbs and sizes of frames, never names or contents.")
@click.option("--debug", is_flag=True, help="Log why logins are refused.")
@home_option
def serve(
    port: int | None,
    host: str | None,
    names: tuple[str, ...],
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
    )


async def _serve(home: Any, host: str | None, port: int, names: list[str], limits: Any, classic: bool) -> None:
    from datetime import UTC, datetime

    import trio

    from messageapp.errors import UnusableSetup
    from messageapp.keypool import open_pool
    from messageapp.server.directory import SqliteDirectory
    from messageapp.server.garbage import keep_collections_short
    from messageapp.server.serve import SERVER_SUITES, Server, open_listeners
    from messageapp.server.setup import prepare_server
    from messageapp.store.database import open_database
    from messageapp_keys.kem import CLASSIC

    from .main import complain

    try:
        listeners = await open_listeners(host, port)
    except OSError as error:
        raise UnusableSetup(_why_not_listening(error, host, port)) from None
    try:
        offer, told = prepare_server(home, names, datetime.now(UTC))
        for line in told:
            complain(line)
        database = open_database(home.directory, "server")
        try:
            async with open_pool(limits.rsa_pool) as pool:
                server = Server(
                    offer=offer,
                    directory=SqliteDirectory(database),
                    keys=pool,
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
        finally:
            database.close()
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)


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
