"""`messageapp log monitor` and `messageapp log witness`: sessions that last, and come back when the connection is lost.

The first login has to succeed, so that a wrong address or passphrase is told at once. After that only what a new
connection cannot mend ends the program: an alarm, a refused login, a server with another key.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click
import trio

from messageapp.client import events as ev
from messageapp.client.auditing import entries_between
from messageapp.client.lies import LogLied, write_evidence
from messageapp.client.witness import Witness, cosign_newest, open_witness
from messageapp.clock import wall_ms
from messageapp.errors import CannotConnect, MessageAppError
from messageapp.store.logs import find_log, own_keys

from .account import logged_in
from .log import day_and_time, entry_line, followed, root_text
from .main import complain

__all__ = ["run_monitor", "run_witness"]

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
_ALARM: Final = 3  # exit code, as of a server that is not authenticated

Step = Callable[[Any], Awaitable[int | None]]


def run_monitor(ready: Any) -> int:
    return trio.run(_until_stopped, ready, _Monitor(ready).step)


def run_witness(ready: Any, name: str | None) -> int:
    return trio.run(_until_stopped, ready, _Witnessing(name).step)


async def _until_stopped(ready: Any, step: Step) -> int:
    """0 for a signal, else what `step` came to."""
    code = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                await anext(aiter(signals))
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            code = await _stay(ready, step)
            nursery.cancel_scope.cancel()
    return code


async def _stay(ready: Any, step: Step) -> int:
    """Log in, call `step` at once and whenever the log has grown, and again after a lost connection."""
    pause, been_in = FIRST_PAUSE, False
    while True:
        try:
            async with logged_in(ready) as client:
                pause, been_in = FIRST_PAUSE, True
                code = await _session(client, step)
            if code is not None:
                return code
        except MessageAppError as error:
            if error.exit_code != CannotConnect.exit_code or not been_in:
                raise
            complain(f"{error}; logging in again in {pause:.0f} s")
        await trio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _session(client: Any, step: Step) -> int | None:
    """What `step` came to, if it ends the program. Raises what ended the session."""
    if (code := await step(client)) is not None:
        return code
    async for event in client.events:
        match event:
            case ev.Ended(error) if error is not None:
                raise error
            case ev.LogGrew() | ev.LogAlarmed() | ev.OwnKeyRevoked():
                if (code := await step(client)) is not None:
                    return code
            case ev.LogTrouble(reason):
                complain(reason)
    return None


class _Monitor:
    """Prints each entry once. `ready` tells how far this account had read before."""

    def __init__(self, ready: Any) -> None:
        self._database = ready.database
        self._printed: int | None = None

    async def step(self, client: Any) -> int | None:
        if self._printed is None:
            self._printed = self._before(client)
        alarm: MessageAppError | None = None
        try:
            await followed(client)
        except MessageAppError as error:
            if error.exit_code != _ALARM:
                raise
            alarm = error
        foreign = await self._print_new(client)
        if alarm is not None:
            click.echo(f"ALARM: {alarm}")
            return _ALARM
        return _ALARM if foreign else None

    def _before(self, client: Any) -> int:
        known = find_log(self._database, client.server_name)
        size = client.log.log.size if known is None else known.size
        complain(f"watching the key log of {client.server_name}")
        return size

    async def _print_new(self, client: Any) -> bool:
        """Was one of them about our name, and not our doing?"""
        start, self._printed = self._printed or 0, client.log.log.size
        own, keys, foreign = client.account.user.lower(), own_keys(self._database), False
        for entry in await entries_between(client, start, self._printed):
            ours = entry.leaf.folded == own
            bad = ours and start > 0 and (entry.leaf.key_id not in keys or entry.leaf.revoked)
            foreign = foreign or bad
            click.echo(("ALARM: your name: " if bad else "") + entry_line(entry))
        return foreign


class _Witnessing:
    """Cosigns what has been verified."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._witness: Witness | None = None

    async def step(self, client: Any) -> int | None:
        if self._witness is None:
            self._witness = self._open(client)
        await followed(client)
        try:
            done = await cosign_newest(client, self._witness, wall_ms() // 1000)
        except LogLied as lied:
            raise self._with_evidence(client, lied) from None
        if done is not None:
            now = day_and_time(wall_ms())
            click.echo(f"cosigned {done.size} entries  {now}  root {root_text(done.root)}")
        return None

    def _open(self, client: Any) -> Witness:
        path = client.account.trust.folder("witness.key")
        witness = open_witness(path, self._name or f"{client.server_name}/witness/{client.account.user}")
        click.echo(f"witness key {witness.verifier.encode()}")
        return witness

    def _with_evidence(self, client: Any, lied: LogLied) -> MessageAppError:
        vkey, now = client.log.state().vkey, wall_ms()
        folder = client.account.trust.folder("evidence")
        path = write_evidence(folder, client.server_name, client.account.user, vkey, lied, now)
        if path is not None:
            complain(f"both checkpoints, as the server signed them, are in {path}")
        return lied
