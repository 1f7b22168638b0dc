"""Stored messages: how many a second the server has synced, and how long a client takes to catch up.

With one message under way at a time each is a commit of its own; with many, those that came while the disk was busy
share one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

from messageapp.clock import wall_ms
from messageapp.wire.commands import parse_untrusted
from messageapp.wire.mail_forms import Acknowledgement, Delivery, MailRequest, PrekeyUpload, Stored
from messageapp.wire.states import Role
from messageapp_keys.kem import SWIFT
from messageapp_keys.prekeys import PrekeyKind, PrivatePrekey

from .proc import cpu_of
from .rows import Rows
from .wire import Dialler, Session
from .world import Identities

__all__ = ["mail"]

_BLOB: Final = 1500  # bytes, about those of a message with a text of 100 bytes
_ALONE: Final = 20  # one in so many is sent with no other under way
_UNDER_WAY: Final = (64, 256)
_SENDER, _RECEIVER = "user0", "user1"


def mail(job: dict[str, Any], rows: Rows) -> None:
    count = int(job["mail"])
    dialler = Dialler(Path(job["home"]), job["port"])
    with rows.part("stored messages"):
        (receiver,), _ = dialler.log_in([_RECEIVER], SWIFT, 1)
        _upload(receiver, job)
        receiver.close()
        (sender,), _ = dialler.log_in([_SENDER], SWIFT, 1)
        alone = max(1, count // _ALONE)
        ids = _send(rows, job, sender, "one under way: a commit for each", alone, 1)
        share = (count - alone) // len(_UNDER_WAY)
        for under_way in _UNDER_WAY:
            amount = share if under_way != _UNDER_WAY[-1] else count - len(ids)
            ids += _send(rows, job, sender, f"{under_way} under way: one commit for many", amount, under_way)
        sender.close()
        _catch_up(rows, job, dialler, ids)


def _upload(session: Session, job: dict[str, Any]) -> None:
    """It is this device that receives."""
    who = Identities(Path(job["home"])).of(session.user)
    expires_ms = wall_ms() + 86_400_000
    prekey = PrivatePrekey.generate(1, PrekeyKind.LAST_RESORT, expires_ms, session.user, who, os.urandom)
    session.ask("prek", PrekeyUpload(prekey.public.encode()), "okay")


def _send(rows: Rows, job: dict[str, Any], session: Session, label: str, count: int, under_way: int) -> list[bytes]:
    """The ids, in the order in which they were stored."""
    ids: list[bytes] = [os.urandom(16) for _ in range(count)]
    done: list[Stored] = []
    spent, own, began = cpu_of(job["pid"]), time.process_time(), time.perf_counter()
    for number, identifier in enumerate(ids):
        if number - len(done) >= under_way:
            done.append(session.expect("ackd"))
        session.send("send", MailRequest(_RECEIVER, identifier, bytes(_BLOB)))
    while len(done) < count:
        done.append(session.expect("ackd"))
    seconds, busy, used = time.perf_counter() - began, time.process_time() - own, cpu_of(job["pid"]).since(spent)
    if [each.id for each in done] != ids or not all(isinstance(each, Stored) for each in done):
        raise RuntimeError("messages were stored in another order")
    server = (used.loop + used.others) / seconds
    rows.add(label, "messages/s", count / seconds, server=server, load=busy / seconds)
    return ids


def _catch_up(rows: Rows, job: dict[str, Any], dialler: Dialler, ids: list[bytes]) -> None:
    """From the login on: everything in order, each acknowledged, in batches of what has come."""
    spent, own, began = cpu_of(job["pid"]), time.process_time(), time.perf_counter()
    (session,), _ = dialler.log_in([_RECEIVER], SWIFT, 1)
    found: list[Delivery] = []
    told = acknowledged = 0
    while acknowledged < len(ids):
        record = session.next()
        if record.verb == b"mail":
            found.append(parse_untrusted(Role.SERVER, record))
        elif record.verb == b"okay":
            acknowledged = told
        if told == acknowledged < len(found):
            told = len(found)
            session.send("ackm", Acknowledgement(tuple(each.seq for each in found[acknowledged:])))
    seconds, busy, used = time.perf_counter() - began, time.process_time() - own, cpu_of(job["pid"]).since(spent)
    session.close()
    if [each.id for each in found] != ids:
        raise RuntimeError("other messages came than were stored")
    server = (used.loop + used.others) / seconds
    rows.add(
        f"catch-up of {len(ids):,}, login to the last one deleted", "s", seconds, server=server, load=busy / seconds
    )
