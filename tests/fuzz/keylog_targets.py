"""What a logged-in user may ask of the server's key log, and how he may change it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ed25519

from messageapp.server.denial import RequestDenied
from messageapp.server.keylog import ServerLog
from messageapp.store.database import apply_schemas, schemas
from messageapp.store.keylog import LogStore
from messageapp.store.users import add_user, reset_user
from messageapp.wire.commands import BadArgument, parse_untrusted
from messageapp.wire.keylog_forms import LogOp, LogRequest, NewKey
from messageapp.wire.records import MAX_ARGUMENT, Kind, Record
from messageapp.wire.states import Role
from messageapp_keys import labels
from messageapp_keys.identity import write_signatures
from messageapp_keys.keylog import change_body
from messageapp_keys.notes import COSIGNER, LogKey, Note, cosign

from . import material
from .target import Harness, Target, require, same_after_refusal

__all__ = ["TARGETS"]

T = TypeVar("T")
ME: Final = "alice"


def _key(name: str) -> LogKey:
    return LogKey(ed25519.Ed25519PrivateKey.from_private_bytes(material.drawn(name)))


@cache
def _log() -> tuple[sqlite3.Connection, ServerLog]:
    database = sqlite3.connect(":memory:", isolation_level=None)
    apply_schemas(database, schemas("server"))
    for number in range(5):
        add_user(database, f"user{number}", material.identity(f"user{number}").bundle, material.TIME_MS)
    add_user(database, ME, material.identity("before").bundle, material.TIME_MS)
    reset_user(database, ME, material.identity(ME).bundle, material.TIME_MS)

    async def write(act: Callable[[sqlite3.Connection], T]) -> T:
        return act(database)

    witness = _key("witness").verifier("w.example", COSIGNER)
    return database, ServerLog(database, write, _key("log"), material.offer(), [witness], lambda: material.TIME_MS)


def _done(act: Coroutine[Any, Any, None]) -> None:
    try:
        act.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")


def _questions() -> Harness:
    database, log = _log()
    size = LogStore(database).size

    def attack(data: bytes) -> None:
        request = parse_untrusted(Role.CLIENT, Record(Kind.REQUEST, 7, b"klog", data))
        if request.op is LogOp.COSIGN:
            _done(log.cosign(request.data))
        else:
            require(len(log.answer(request, None).encode()) <= MAX_ARGUMENT, "an answer that no record takes")
        require(LogStore(database).size == size, "a question has changed the log")

    line = cosign(Note.parse_untrusted(log.note()).text, "w.example", _key("witness"), 5).encode().encode()
    requests = (
        LogRequest.head(),
        LogRequest.range(0, size),
        LogRequest.inclusion(2, size),
        LogRequest.consistency(3, size),
        LogRequest.keys(material.identity("before").key_id),
        LogRequest.user(ME),
        LogRequest.cosign(line),
    )
    return Harness(attack, [request.encode() for request in requests])


def _new_key() -> Harness:
    """Nothing of what is refused changes anything; what is taken is rolled back for the next."""
    database, log = _log()
    old, new = material.identity(ME), material.identity("next")

    def state() -> list[Any]:
        return [database.execute(f"SELECT * FROM {table}").fetchall() for table in ("users", "bundles", "log_leaves")]  # noqa: S608

    def attack(data: bytes) -> None:
        argument = parse_untrusted(Role.CLIENT, Record(Kind.REQUEST, 7, b"newk", data))
        database.execute("BEGIN")
        try:
            with same_after_refusal(state):
                _done(log.change_key(ME, old.key_id, argument))
        finally:
            database.execute("ROLLBACK")

    body = change_body(material.offer().names[0], ME, 3, old.key_id, new.key_id)
    good = NewKey(
        new.bundle.encode(),
        write_signatures(old.sign(labels.SIG_KEY_CHANGE, body)),
        write_signatures(new.sign(labels.SIG_NEW_KEY, body)),
    )
    return Harness(attack, [good.encode()])


TARGETS = (
    Target("log-questions", _questions, (BadArgument, RequestDenied), mutations=20_000),
    Target("log-new-key", _new_key, (BadArgument, RequestDenied), sealed=True, mutations=20_000),
)
