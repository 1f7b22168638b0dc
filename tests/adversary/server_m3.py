"""Frames that are no M3, against a server that has sent its M2 (protocol §4.4)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from adversary.case import ALERT_1, ALERT_4, CLOSED, SESSION, Case, Outcome
from adversary.server_m1 import good_then, m1
from adversary.server_world import World, after_login, answer_on
from interop.base import PSS, need, u, vec
from interop.peer import ALERT, M1, M2, M3, M4, RECORD, frame, read_frame

__all__ = ["CASES", "Do", "flipped", "logs_in"]

Do = Callable[[World], Outcome]


def logs_in(choices: dict[str, object], who: str = "ann") -> Do:
    return lambda world: after_login(world, who, **choices)


def flipped(at: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    return flip


# ---- the sealed part and its plaintext

NAME, KEY_ID, COUNT, SIGALG, SIGNATURE = 1, 4, 36, 37, 45  # where they begin in ann's plaintext, all of RSA-2048
_SEALED = 2 + 1120  # of an M3 with swift, where the length of the sealed part stands


def resealed(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The sealed part changed, its length right."""
    return lambda body: body[:_SEALED] + vec(change(body[_SEALED + 2 :]), 2)


_SEALS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("seal-name-bit", "m3-seal", {"on_m3": resealed(flipped(NAME))}),
    ("seal-key_id-bit", "m3-seal", {"on_m3": resealed(flipped(KEY_ID))}),
    ("seal-count-bit", "m3-seal", {"on_m3": resealed(flipped(COUNT))}),
    ("seal-sigalg-bit", "m3-seal", {"on_m3": resealed(flipped(SIGALG))}),
    ("seal-signature-bit", "m3-seal", {"on_m3": resealed(flipped(SIGNATURE))}),
    ("seal-tag-first-bit", "m3-seal", {"on_m3": resealed(flipped(-16))}),
    ("seal-tag-last-bit", "m3-seal", {"on_m3": resealed(flipped(-1))}),
    ("seal-cut", "m3-seal", {"on_m3": resealed(lambda sealed: sealed[:-1])}),
    ("seal-longer", "m3-seal", {"on_m3": resealed(lambda sealed: sealed + b"\0")}),
    ("seal-empty", "m3-seal", {"on_m3": resealed(lambda _: b"")}),
    ("seal-15-bytes", "m3-seal", {"on_m3": resealed(lambda sealed: sealed[:15])}),
    ("seal-tag-only", "m3-seal", {"on_m3": resealed(lambda sealed: sealed[-16:])}),
    ("seal-tag-first", "m3-seal", {"on_m3": resealed(lambda sealed: sealed[-16:] + sealed[:-16])}),
    ("cut", "m3-seal", {"on_m3": lambda body: body[:-1]}),
    ("longer", "m3-seal", {"on_m3": lambda body: body + b"\0"}),
    ("empty", "m3-seal", {"on_m3": lambda _: b""}),
    ("plaintext-empty", "m3-plaintext", {"on_plain": lambda _: b""}),
    ("plaintext-longer", "m3-plaintext", {"on_plain": lambda plain: plain + b"\0"}),
    ("plaintext-cut", "m3-plaintext", {"on_plain": lambda plain: plain[:-1]}),
    ("plaintext-no-signatures", "m3-plaintext", {"on_plain": lambda plain: plain[:COUNT] + b"\0"}),
    ("plaintext-three-signatures", "m3-plaintext", {"on_plain": lambda p: p[:COUNT] + b"\3" + p[COUNT + 1 :] * 3}),
    ("plaintext-255-signatures", "m3-plaintext", {"on_plain": lambda p: p[:COUNT] + b"\xff" + p[COUNT + 1 :]}),
    ("plaintext-empty-signature", "m3-plaintext", {"on_plain": lambda p: p[:COUNT] + b"\1" + u(PSS, 2) + u(0, 2)}),
    ("plaintext-name-of-255", "m3-plaintext", {"on_plain": lambda p: b"\xff" + p[1:]}),
    ("plaintext-empty-name", "m3-username", {"on_plain": lambda p: b"\0" + p[4:]}),
    ("username-other", "m3-username", {"on_plain": lambda p: b"\3cid" + p[4:]}),
    ("username-other-spelling", "m3-username", {"on_plain": lambda p: b"\3Ann" + p[4:]}),
    ("username-other-and-signed", "m3-username", {"sealed_name": "cid"}),
    ("username-other-spelling-and-signed", "m3-username", {"sealed_name": "Ann"}),
    ("username-not-utf8", "m3-plaintext", {"on_plain": lambda p: b"\3\xff\xfe\xfd" + p[4:]}),
    ("key_id-zero", "m3-key-id", {"key_id": bytes(32)}),
)


def replayed(world: World) -> Outcome:
    """M1 and M3 of a good login, again, against another M2."""
    sent: list[bytes] = []

    def keep(body: bytes) -> bytes:
        sent.append(body)
        return body

    need(after_login(world, "cid", on_m1=keep, on_m3=keep) == SESSION, "a good login")
    world.log_off(world.open[0])
    sock = world.connect()
    sock.sendall(frame(M1, sent[0]))
    read_frame(sock, M2)
    sock.sendall(frame(M3, sent[1]))
    return answer_on(sock)


def half_then_end(world: World) -> Outcome:
    sock = world.connect()
    sock.sendall(frame(M1, m1()))
    read_frame(sock, M2)
    sock.sendall(frame(M3, bytes(1500))[:700])
    sock.shutdown(socket.SHUT_WR)
    return answer_on(sock)


_TURNS: tuple[tuple[str, bytes, Outcome], ...] = (
    ("M1-again", frame(M1, m1()), ALERT_1),
    ("M2-instead", frame(M2, bytes(64)), ALERT_1),
    ("M4-instead", frame(M4, bytes(64)), ALERT_1),
    ("record-instead", frame(RECORD, bytes(64)), ALERT_1),
    ("alert-instead", frame(ALERT, b"\1"), ALERT_1),
    ("length-0", u(0, 4) + b"\3", ALERT_4),
    ("length-8193", u(8193, 4) + b"\3", ALERT_4),
    ("8191-zeros", frame(M3, bytes(8191)), ALERT_1),
)

CASES: tuple[Case[World], ...] = (
    *(Case(f"m3/{name}", line, logs_in(choices), ALERT_1) for name, line, choices in _SEALS),
    Case("m3/replayed", "m3-replayed", replayed, ALERT_1),
    *(Case(f"m3/{name}", "m3-turn", good_then(data), seen) for name, data, seen in _TURNS),
    Case("m3/half-then-end", "m3-turn", half_then_end, CLOSED),
)
