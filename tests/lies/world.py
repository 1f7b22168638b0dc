"""The in-memory world with a key log, and a server in it that shows each user what it likes.

The server is the real one. `Liar` stands where its sessions speak: each user may have a log of his own (all under the
one key, as a server that lies has it), and any argument may be twisted or kept back on its way to a user.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from messageapp.client.client import Client
from messageapp.client.events import Event
from messageapp.server import connection
from messageapp.server.directory import SqliteDirectory
from messageapp.server.keylog import ServerLog
from messageapp.server.mailbox import Mailbox
from messageapp.server.router import Router
from messageapp.server.serve import Server
from messageapp.server.session import Session
from messageapp.store.database import open_database
from messageapp.store.mailbox import open_mailbox
from messageapp.store.users import add_user, list_users, remove_user, reset_user, revoke_user
from messageapp.wire.commands import PeerKey
from messageapp.wire.keylog_forms import LogHead
from messageapp.wire.login import ServerOffer
from messageapp.wire.records import Kind
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.notes import LogKey
from support.world import EndlessKeys, World, at_once, server_offer, some_limits

Twist = Callable[[str, str, Any], Any]
"""(user, verb, argument) → what the server says instead; None: nothing."""


class LogDirectory(SqliteDirectory):
    """Users in a file, each change with its leaf; written as another process would."""

    def __init__(self, folder: Path, name: str = "directory") -> None:
        self.file = folder / f"{name}.db"
        self.database = open_database(self.file, "server")
        self.writing = open_database(self.file, "server")
        self.now_ms = 1_767_268_800_000
        super().__init__(self.database)

    @property
    def users(self) -> dict[str, IdentityBundle]:
        return {user.name: user.bundle for user in list_users(self.database)}

    def _tick(self) -> int:
        self.now_ms += 60_000
        return self.now_ms

    def enrol(self, name: str, bundle: IdentityBundle) -> None:
        add_user(self.writing, name, bundle, self._tick())

    def reset(self, name: str, bundle: IdentityBundle) -> None:
        reset_user(self.writing, name, bundle, self._tick())

    def revoke(self, name: str) -> None:
        revoke_user(self.writing, name, self._tick())

    def remove(self, name: str) -> None:
        remove_user(self.writing, name, self._tick())

    def copy(self, name: str) -> LogDirectory:
        """Everything so far, in a file of its own."""
        file = self.file.with_name(f"{name}.db")
        with closing(sqlite3.connect(file)) as copy:
            self.database.backup(copy)
        return LogDirectory(self.file.parent, name)

    def close(self) -> None:
        self.database.close()
        self.writing.close()


class Liar:
    """What each user is shown. Nothing is changed until a test says so."""

    def __init__(self, log: ServerLog) -> None:
        self.honest = log
        self.logs: dict[str, ServerLog | None] = {}  # by user; None: no log at all
        self.twist: Twist = lambda user, verb, argument: argument
        self._entering = ""

    def log_of(self, user: str) -> ServerLog | None:
        return self.logs.get(user, self.honest)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        liar, tell, ask_log = self, Session.tell, Router._ask_log

        def spoken(session: Session, kind: Kind, identifier: int, verb: str, argument: Any = None) -> None:
            log = liar.log_of(session.user)
            if kind is Kind.EVENT and isinstance(argument, LogHead):
                if log is None or log.note() == b"":
                    return
                argument = log.head(session.offer)
            if isinstance(argument, PeerKey) and log is not liar.honest:
                argument = replace(argument, proof=b"" if log is None else log.proof_of(argument.user))
            twisted = liar.twist(session.user, verb, argument)
            if twisted is not None or argument is None:
                tell(session, kind, identifier, verb, twisted)

        def answered(router: Router, log: ServerLog, session: Session, identifier: int, argument: object) -> None:
            ask_log(router, liar.log_of(session.user) or log, session, identifier, argument)

        def entered(number: int, user: str, *rest: Any) -> Session:
            liar._entering = user
            return Session(number, user, *rest)

        patch.setattr(Session, "tell", spoken)
        patch.setattr(Router, "_ask_log", answered)
        patch.setattr(connection, "Session", entered)
        patch.setattr(ServerLog, "note", _note_for(self, ServerLog.note))


def _note_for(liar: Liar, real: Callable[[ServerLog], bytes]) -> Callable[[ServerLog], bytes]:
    """M4's checkpoint is asked for right after the session was made."""

    def note(log: ServerLog) -> bytes:
        user, liar._entering = liar._entering, ""
        if not user:
            return real(log)
        own = liar.log_of(user)
        return b"" if own is None else liar.twist(user, "M4", real(own))

    return note


@dataclass
class LogWorld:
    """A world whose server has a log."""

    world: World
    directory: LogDirectory
    log: ServerLog
    log_key: LogKey
    liar: Liar
    folder: Path

    def server_log(self, directory: LogDirectory, key: LogKey | None = None, **changes: Any) -> ServerLog:
        """Another log of the same server, over another file."""
        return make_log(directory, key or self.log_key, **changes)

    def fork(self, name: str) -> tuple[LogDirectory, ServerLog]:
        """A second history that begins like the first: what happens in it is on no one else's."""
        directory = self.directory.copy(name)
        return directory, self.server_log(directory)

    def client(self, name: str, **changes: Any) -> Any:
        return self.world.client(name, **changes)

    def evidence(self) -> list[str]:
        return [file.read_text() for file in sorted((self.folder / "evidence").glob("*.txt"))]


def make_log(directory: LogDirectory, key: LogKey, *, offer: ServerOffer | None = None, **changes: Any) -> ServerLog:
    async def write(act: Callable[[sqlite3.Connection], Any]) -> Any:
        await trio.lowlevel.checkpoint()
        return act(directory.writing)

    return ServerLog(directory.database, write, key, offer or server_offer(), **changes)


@asynccontextmanager
async def open_log_world(
    patch: pytest.MonkeyPatch | None = None, *, mail: bool = False, **changes: Any
) -> AsyncIterator[LogWorld]:
    """A running server with a log, and a mailbox if wanted; with `patch` it can lie. Leaving cancels everything."""
    folder = Path(tempfile.mkdtemp(prefix="lies-"))
    directory, keys, log_key = LogDirectory(folder), EndlessKeys(), LogKey.generate()
    log = make_log(directory, log_key, **changes)
    liar = Liar(log)
    if patch is not None:
        liar.install(patch)
    limits = some_limits(chats_per_minute=1000, klogs_per_minute=10_000)
    world: World | None = None
    stored = open_mailbox(folder / "mail.db") if mail else None
    mailbox = None
    if stored is not None:
        mailbox = Mailbox(stored, directory=directory, limits=limits, proof_of=log.proof_of, run=at_once)
    try:
        async with trio.open_nursery() as nursery:
            server = Server(
                offer=server_offer(), directory=directory, keys=keys, limits=limits, log=log, mailbox=mailbox
            )
            world = World(server, directory, keys, folder)  # type: ignore[arg-type]
            world.mail = stored
            await nursery.start(server.serve, [world.listener])
            yield LogWorld(world, directory, log, log_key, liar, folder)
            nursery.cancel_scope.cancel()
    finally:
        for database in world.trusts.values() if world is not None else ():
            database.close()
        if stored is not None:
            stored.close()
        directory.close()
        shutil.rmtree(folder)


async def until(client: Client, kind: type[Any]) -> Any:
    """The next event of this class; what came before it is passed over."""
    passed: list[Event] = []
    async for event in client.events:
        if isinstance(event, kind):
            return event
        passed.append(event)
    raise AssertionError(f"the session ended without {kind.__name__}; before: {passed}")


def new_identity(name: str = "") -> PrivateIdentity:
    return PrivateIdentity.generate("ed25519")
