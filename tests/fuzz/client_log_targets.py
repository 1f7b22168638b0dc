"""What a server may show a client of its key log: head, checkpoint, and the proof of a peer's key."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from messageapp.client.keylog import KeyLog, NoteRefused, Shown, Verdict
from messageapp.client.lies import KeyRefused, LogLied
from messageapp.server.keylog import ServerLog
from messageapp.store.database import apply_schemas, schemas
from messageapp.store.keylog import LogStore
from messageapp.store.users import add_user
from messageapp.wire.commands import BadArgument, parse_untrusted
from messageapp.wire.keylog_forms import LogHead
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_keys.notes import LogKey
from messageapp_keys.signing import VerifyingKey

from . import material
from .target import Harness, Target, require, same_after_refusal

__all__ = ["TARGETS"]


def memory(kind: str) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    apply_schemas(database, schemas(kind))
    return database


@cache
def server() -> tuple[LogStore, ServerLog]:
    database = memory("server")
    for number in range(6):
        add_user(database, f"user{number}", material.identity(f"user{number}").bundle, material.TIME_MS)

    async def write(act: Callable[[sqlite3.Connection], Any]) -> Any:
        return act(database)

    key = LogKey(ed25519.Ed25519PrivateKey.from_private_bytes(material.drawn("log")))
    return LogStore(database), ServerLog(database, write, key, material.offer(), [], lambda: material.TIME_MS)


def _certificate_key() -> VerifyingKey:
    return VerifyingKey.of(material.offer().key.public_key())


@cache
def reader(known: bool) -> tuple[sqlite3.Connection, KeyLog]:
    """A client's view of that log, of all of it or of nothing yet."""
    store, shower = server()
    database = memory("account")
    log = KeyLog(database, shower.server, "user0")
    if known:
        shown = log.pin_untrusted(shower.head(), _certificate_key())
        log.replay(shown, list(store.encoded_leaves(0, store.size)))
    return database, log


def _same(shown: Shown) -> None:
    store, _ = server()
    require((shown.size, shown.root) == (store.size, store.root()), "another checkpoint than was signed")


def _state(database: sqlite3.Connection) -> Callable[[], Any]:
    return lambda: [database.execute(f"SELECT * FROM {table}").fetchall() for table in ("logs", "log_leaves")]  # noqa: S608


def _head() -> Harness:
    """The first contact: what is taken is forgotten for the next."""
    database, log = reader(known=False)

    def attack(data: bytes) -> None:
        head = parse_untrusted(Role.SERVER, Record(Kind.EVENT, 0, b"klog", data))
        require(isinstance(head, LogHead), "an event that is no head")
        with same_after_refusal(_state(database)):
            _same(log.pin_untrusted(head, _certificate_key()))
        database.execute("DELETE FROM logs")
        log.refresh()

    return Harness(attack, [server()[1].head().encode()])


def _checkpoint() -> Harness:
    _, log = reader(known=True)
    return Harness(lambda data: _same(log.read_untrusted(data)), [server()[1].note()])


def _proof() -> Harness:
    database, log = reader(known=True)
    key_id = material.identity("user3").bundle.key_id

    def attack(data: bytes) -> None:
        with same_after_refusal(_state(database)):
            verdict, shown, number = log.judge_untrusted("user3", key_id, data)
        _same(shown)
        require((verdict, number) == (Verdict.FINE, 3), "another verdict than the log's")

    return Harness(attack, [server()[1].proof_of("user3")])


TARGETS = (
    Target("client-log-head", _head, (BadArgument, LogLied), mutations=10_000),
    Target("client-log-checkpoint", _checkpoint, (NoteRefused,), mutations=10_000),
    Target("client-log-proof", _proof, (KeyRefused, LogLied), mutations=10_000),
)
