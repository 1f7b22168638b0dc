"""Strangers who know the id of an invitation, or nothing of one, against a server that has some (protocol §3.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from adversary.case import ALERT_1, Case, Outcome
from adversary.server_m1 import m1
from adversary.server_m3 import flipped
from adversary.server_world import World, after_login, answer_on
from interop.base import ED25519, Identity, ProtocolError, need, tlv, u, vec
from interop.joining import Code, joining
from interop.peer import M1, M2, M3, Login, frame, log_in_on, read_frame
from interop.programs import run

__all__ = ["CASES"]

STRANGER = Identity.make("zoe", "ed25519")
OTHER = Identity.make("zoe", "ed25519")


@cache
def _code(home: Path) -> Code:
    return Code.read(run("invite", "--no-qr", "--uses", 1000, "--home", home).strip())


def joins(login: dict[str, object] | None = None, **wrong: Any) -> Callable[[World], Outcome]:
    """A join that is right but for what is wrong."""

    def do(world: World) -> Outcome:
        code = _code(world.server.home)
        how = joining(world.login(STRANGER, **(login or {})), code, **wrong)
        return after_login(world, **_choices(how))  # type: ignore[arg-type]

    return do


def sends_m1(body: bytes) -> Callable[[World], Outcome]:
    def do(world: World) -> Outcome:
        sock = world.connect()
        sock.sendall(frame(M1, body))
        return answer_on(sock)

    return do


def without_proof(world: World) -> Outcome:
    """An enrolled user's M3, behind an M1 that joins: nobody gets in by half of each."""
    code = _code(world.server.home)
    return after_login(world, "ann", hide=True, tlvs=tlv(0x4A4E, code.id))


def proof_in_a_login(world: World) -> Outcome:
    code = _code(world.server.home)
    how = joining(world.login("ann"), code)
    how.hide, how.tlvs = False, b""
    return after_login(world, **_choices(how))  # type: ignore[arg-type]


def _choices(how: Login) -> dict[str, object]:
    found = dict(vars(how))
    return {"who": found.pop("me"), **{name: value for name, value in found.items() if name != "ca"}}


def replayed(world: World) -> Outcome:
    """All that a network sees of a join, again. The join itself is refused late, so that nobody is enrolled by it."""
    code = _code(world.server.home)
    sent: list[bytes] = []

    def keep(body: bytes) -> bytes:
        sent.append(body)
        return body

    # `eve` is enrolled with another key: the proof is right, the name is taken.
    how = joining(world.login(Identity("eve", STRANGER.keys), on_m1=keep, on_m3=keep), code)
    try:
        log_in_on(world.connect(), how)
    except ProtocolError as error:
        need("M4 says erro 0021" in str(error), f"the name is taken, but {error}")
    sock = world.connect()
    sock.sendall(frame(M1, sent[0]))
    read_frame(sock, M2)
    sock.sendall(frame(M3, sent[1]))
    return answer_on(sock)


_NAMES = {"flags": 1, "user": b""}
_M1: tuple[tuple[str, bytes], ...] = (
    ("id-empty", m1(**_NAMES, tlvs=tlv(0x4A4E, b""))),  # type: ignore[arg-type]
    ("id-15-bytes", m1(**_NAMES, tlvs=tlv(0x4A4E, bytes(15)))),  # type: ignore[arg-type]
    ("id-17-bytes", m1(**_NAMES, tlvs=tlv(0x4A4E, bytes(17)))),  # type: ignore[arg-type]
    ("id-with-a-name", m1(tlvs=tlv(0x4A4E, bytes(16)))),
    ("id-twice", m1(**_NAMES, tlvs=tlv(0x4A4E, bytes(16)) * 2)),  # type: ignore[arg-type]
)
_PROOFS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("key-zero", {"key": bytes(32)}),
    ("tag-first-bit", {"on_tag": flipped(0)}),
    ("tag-last-bit", {"on_tag": flipped(-1)}),
    ("tag-zero", {"on_tag": lambda tag: bytes(32)}),
    ("tag-short", {"on_tag": lambda tag: tag[:-1]}),
    ("tag-longer", {"on_tag": lambda tag: tag + b"\0"}),
    ("tag-of-another-handshake", {"transcript": lambda th_e: bytes(32)}),
    ("tag-for-another-name", {"name": lambda name: vec(b"ann", 1)}),
    ("bundle-of-another", {"bundle": OTHER.bundle}),
    ("bundle-empty", {"bundle": b""}),
    ("bundle-of-no-keys", {"bundle": b"\0"}),
    ("bundle-cut", {"bundle": STRANGER.bundle[:-1]}),
    ("bundle-without-a-key", {"bundle": b"\1" + u(ED25519, 2) + vec(b"", 2)}),
    ("nothing-behind-the-signatures", {"on_join": lambda rest: b""}),
    ("a-byte-behind-all", {"on_join": lambda rest: rest + b"\0"}),
)

CASES: tuple[Case[World], ...] = (
    *(Case(f"join/{name}", "join-m1", sends_m1(body), ALERT_1) for name, body in _M1),
    *(Case(f"join/{name}", "join-proof", joins(**wrong), ALERT_1) for name, wrong in _PROOFS),
    Case("join/id-unknown", "join-id", joins(id_=bytes(16)), ALERT_1),
    Case("join/id-unknown-key-zero", "join-id", joins(id_=bytes(16), key=bytes(32)), ALERT_1),
    Case("join/name-that-is-none", "join-proof", joins({"sealed_name": "-zoe"}), ALERT_1),
    Case("join/signed-by-another", "join-proof", joins({"signer": OTHER}), ALERT_1),
    Case("join/key_id-of-another", "join-proof", joins({"key_id": OTHER.key_id}), ALERT_1),
    Case("join/login-without-proof", "join-proof", without_proof, ALERT_1),
    Case("join/proof-in-a-login", "join-proof", proof_in_a_login, ALERT_1),
    Case("join/replayed", "join-replayed", replayed, ALERT_1),
)
