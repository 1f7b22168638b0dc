"""`messageapp demo`: everything at once, in a temporary folder, gone afterwards."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Final

import click

from messageapp.clock import wall_ms

__all__ = ["demo"]

_PEER: Final = "bob"
_YOU: Final = "alice"
_POOL: Final = 4
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--plain", is_flag=True, help="Commands from stdin, lines to stdout, no escape sequences.")
def demo(plain: bool) -> int:
    """Try it: a server, bob who accepts every call and answers, and you as alice.

    Everything lies in a temporary folder that is removed at the end. Type `chat bob`.
    """
    import trio

    from .connect import has_terminal
    from .hardening import forbid_core_dumps

    forbid_core_dumps()
    for number in _SIGNALS:  # until trio takes them: leave no folder behind
        signal.signal(number, lambda caught, frame: sys.exit(128 + caught))
    plain = plain or not has_terminal()
    with tempfile.TemporaryDirectory(prefix="messageapp-demo-") as folder:
        return trio.run(_demo, Path(folder), plain)


async def _demo(folder: Path, plain: bool) -> int:
    """Until the user leaves, or a signal comes that the prompt does not take yet.

    A signal cancels, which waits for the thread that makes keys: an exit raised by the handler would crash trio, and
    the thread would write into a folder that is gone.
    """
    import trio

    code = 0
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                nonlocal code
                code = 128 + await anext(aiter(signals))
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            with ExitStack() as opened:
                code = await _serve_and_converse(folder, plain, opened)
            nursery.cancel_scope.cancel()
    return code


async def _serve_and_converse(folder: Path, plain: bool, opened: ExitStack) -> int:
    """`opened` closes the databases once nobody uses them."""
    from datetime import UTC, datetime

    import trio

    from messageapp.client.client import Client, open_client
    from messageapp.client.echo import run_echo
    from messageapp.client.login import Account, dial
    from messageapp.client.trust import Trust
    from messageapp.keypool import open_pool
    from messageapp.limits import Limits
    from messageapp.server.directory import SqliteDirectory
    from messageapp.server.keylog import open_log
    from messageapp.server.mailbox import Mailbox
    from messageapp.server.serve import Server, open_listeners
    from messageapp.server.setup import load_authority, prepare_server
    from messageapp.store.accounts import open_account_database
    from messageapp.store.database import open_database
    from messageapp.store.home import Home
    from messageapp.store.mailbox import open_mailbox
    from messageapp.store.users import add_user
    from messageapp_keys.databasekey import DatabaseKey
    from messageapp_keys.identity import PrivateIdentity

    from .connect import converse

    home = Home(folder)
    click.echo("messageapp: starting a server and bob …", err=True)
    offer, _ = await trio.to_thread.run_sync(prepare_server, home, [], datetime.now(UTC))
    users = opened.enter_context(closing(open_database(home.directory, "server")))
    mail = opened.enter_context(closing(open_mailbox(home.mail)))
    accounts = []
    for name in (_YOU, _PEER):
        identity = PrivateIdentity.generate("ed25519")  # made at once; a real identity is RSA-3072
        add_user(users, name, identity.bundle, wall_ms())
        key = DatabaseKey.generate()  # nowhere on disk
        account = opened.enter_context(closing(open_account_database(home, name, key)))
        trust = Trust(account, name, identity.bundle, lambda: 0)
        accounts.append(Account(name, identity, load_authority(home), trust, "127.0.0.1"))
    async with open_pool(_POOL) as pool, trio.open_nursery() as nursery:
        await pool.stocked(2)
        log = open_log(home, users, offer)
        directory = SqliteDirectory(users)
        mailbox = Mailbox(mail, directory=directory, limits=Limits(), proof_of=log.proof_of)
        server = Server(offer=offer, directory=directory, keys=pool, log=log, mailbox=mailbox)
        listeners = await open_listeners("127.0.0.1", 0)
        port = listeners[0].socket.getsockname()[1]
        await nursery.start(server.serve, listeners)

        async def be_bob(*, task_status: trio.TaskStatus[None]) -> None:
            async with open_client(await dial("127.0.0.1", port), accounts[1], pool) as client:
                task_status.started()
                await run_echo(client)

        await nursery.start(be_bob)

        @asynccontextmanager
        async def be_alice() -> AsyncIterator[Client]:
            async with open_client(await dial("127.0.0.1", port), accounts[0], pool) as client:
                click.echo("messageapp: you are alice; type `chat bob`, `help`, or `exit`", err=True)
                yield client

        code = await converse(be_alice, plain=plain, reconnect=False)
        nursery.cancel_scope.cancel()
    return code
