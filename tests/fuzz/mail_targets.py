"""The server's mailbox behind the login: what users upload, ask for, send and acknowledge."""

from __future__ import annotations

import sqlite3
from functools import cache
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from messageapp.errors import RemoteProtocolError
from messageapp.limits import Limits
from messageapp.server import mailbox as mailbox_module
from messageapp.server import router as router_module
from messageapp.server.commits import _commit
from messageapp.server.denial import RequestDenied
from messageapp.server.mailbox import Mailbox
from messageapp.server.router import Router
from messageapp.server.session import Session
from messageapp.store.database import apply_schemas, schemas
from messageapp.wire.commands import BadArgument, UnknownVerb, parse_untrusted
from messageapp.wire.mail_forms import Acknowledgement, Delivery, MailRequest, PrekeyRequest, PrekeyUpload
from messageapp.wire.records import Kind, Packed, Record
from messageapp.wire.states import Role
from messageapp_keys.prekeys import Prekey, PrekeyKind, PrivatePrekey
from support.world import MemoryDirectory

from . import material
from .material import drawn
from .session_targets import NAMES, _Outbox, _packed, _req, _script, _steps
from .target import Harness, Target, require

__all__ = ["TARGETS"]

NOW_MS = 1_767_268_800_000


class _MailOutbox(_Outbox):
    def offer(self, packed: Packed) -> bool:
        return self.put(packed)


@cache
def _prekeys(user: str) -> bytes:
    made = [
        PrivatePrekey.generate(number, kind, NOW_MS + 1000, user, material.identity(user), lambda size: bytes(size))
        for number, kind in ((1, PrekeyKind.ONE_TIME), (2, PrekeyKind.LAST_RESORT))
    ]
    return b"".join(each.public.encode() for each in made)


def _mailbox() -> Harness:
    """Nothing else escapes; nobody gets what is not for him; what is given is signed, what is delivered was sent."""
    directory = MemoryDirectory()
    for name in NAMES:
        directory.enrol(name, material.identity(name).bundle)
    clock = SimpleNamespace(current_time=lambda: 0.0)
    database = sqlite3.connect(":memory:", isolation_level=None)
    apply_schemas(database, schemas("mail"))
    numbers = count(1)

    def attack(data: bytes) -> None:
        for table in ("mail", "prekeys", "devices"):
            database.execute(f"DELETE FROM {table}")  # noqa: S608
        mailbox = Mailbox(database, directory=directory, limits=Limits(), wall_ms=lambda: NOW_MS)
        router = Router(directory, Limits(), mailbox=mailbox)
        outboxes = [_MailOutbox(name) for name in NAMES]
        sessions = [
            Session(next(numbers), name, bytes([place + 1]) * 16, box)  # type: ignore[arg-type]
            for place, (name, box) in enumerate(zip(NAMES, outboxes, strict=True))
        ]
        sent: dict[str, list[Any]] = {name: [] for name in NAMES}
        with patch.object(router_module, "trio", clock), patch.object(mailbox_module, "trio", clock):
            for name, session in zip(NAMES, sessions, strict=True):
                router.join(session, material.identity(name).bundle.key_id)
            for who, raw in _steps(data):
                session = sessions[who % 3]
                packed = _packed(raw)
                _note(sent[session.user], packed)
                if session.ended is None:
                    router.receive(session, [packed])
                _settle(mailbox)
        _judge(outboxes, sent)

    scripts = [
        [_req(1, "prek", PrekeyUpload(_prekeys("bob"))), _req(1, "prek", PrekeyUpload())],
        [_req(1, "prek", PrekeyUpload(_prekeys("bob"))), *[_req(0, "bndl", PrekeyRequest("bob"))] * 2],
        [
            _req(1, "prek", PrekeyUpload(_prekeys("bob"))),
            *[_req(0, "send", MailRequest("bob", drawn("id", 16), b"sealed"))] * 2,
            _req(1, "ackm", Acknowledgement((1,))),
            _req(2, "send", MailRequest("bob", drawn("id", 16), b"sealed")),
        ],
    ]
    return Harness(attack, [_script(*steps) for steps in scripts])


def _note(sent: list[Any], packed: Packed) -> None:
    try:
        record = Record.unpack(Packed(bytearray(packed)))
        argument = parse_untrusted(Role.CLIENT, record)
    except (RemoteProtocolError, UnknownVerb, BadArgument):  # the server finds that out by itself
        return
    if isinstance(argument, MailRequest):
        sent.append((argument.id, argument.blob))


def _settle(mailbox: Mailbox) -> None:
    """All that waits for the disk, at once."""
    commits = mailbox._commits
    while commits._waiting:
        changes = list(commits._waiting)
        commits._waiting.clear()
        for change, outcome in zip(changes, _commit(commits._database, changes), strict=True):
            if isinstance(outcome, RequestDenied):
                change.refused(outcome)
            else:
                change.done(outcome)


def _judge(outboxes: list[_MailOutbox], sent: dict[str, list[Any]]) -> None:
    for box in outboxes:
        last = 0
        for record in box.got:
            found = parse_untrusted(Role.SERVER, record)
            if isinstance(found, Delivery):
                require((found.id, found.blob) in sent[found.sender], "a message was delivered that nobody has sent")
                require(found.seq > last, "messages come in another order")
                last = found.seq
            elif record.verb == b"bndl":
                given = Prekey.parse_untrusted(found.prekey)
                given.verify_untrusted(material.identity(found.user).bundle, found.user, NOW_MS)
            require(record.kind is not Kind.REQUEST, "the server asks for something")


TARGETS = [Target("mailbox", _mailbox, (RemoteProtocolError,), mutations=2000)]
