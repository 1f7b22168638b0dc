"""Ratchet messages that a peer who does wrong has sealed well: other state, other keys, other plaintext (§10)."""

from __future__ import annotations

import copy
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from adversary.case import Case, Outcome
from adversary.client_live import Live
from adversary.client_ratchet import Do, case
from adversary.client_rogue import Flip
from adversary.client_temporary import LOW_ORDER, MLKEM_OVER_Q
from adversary.client_world import FORGED
from interop.base import pad, tlv
from interop.chat import Ratchet

__all__ = ["CASES", "forged", "new_turn"]


def _fork(live: Live) -> Ratchet:
    """Bob's state, to do wrong with; the chat goes on from the state as it is."""
    return copy.copy(live.ratchet)


def forged(change: Callable[[Ratchet], None]) -> Do:
    """A message that is well sealed, in a state that was changed."""

    def do(live: Live) -> Outcome:
        fork = _fork(live)
        change(fork)
        live.deliver(fork.text(FORGED))
        return live.goes_on()

    return do


def _set(**values: object) -> Callable[[Ratchet], None]:
    def change(ratchet: Ratchet) -> None:
        for name, value in values.items():
            setattr(ratchet, name, value)

    return change


def _counter(step: int) -> Callable[[Ratchet], None]:
    def change(ratchet: Ratchet) -> None:
        ratchet.ns += step

    return change


def _sealed(plain: bytes) -> Do:
    """By Bob himself: the message is spent, so it is his own counter."""

    def do(live: Live) -> Outcome:
        live.deliver(live.ratchet.seal(plain))
        return live.goes_on()

    return do


def _padded(*tlvs: bytes) -> Do:
    body = b"".join(tlvs)
    return _sealed(pad(body, (len(body) // 160 + 1) * 160))


def new_turn(live: Live, point: bytes = b"", ek: Flip = bytes) -> Outcome:
    """A turn of Bob's own with a key that nobody may use; everything else fits it."""
    fork = _fork(live)
    theirs_dh, theirs_ek = live.last[9:41], live.last[41:1225]
    own, lattice = x25519.X25519PrivateKey.generate(), mlkem.MLKEM768PrivateKey.generate()
    secret, ct = mlkem.MLKEM768PublicKey.from_public_bytes(theirs_ek).encapsulate()
    shared = bytes(32) if point else own.exchange(x25519.X25519PublicKey.from_public_bytes(theirs_dh))
    dh = point or own.public_key().public_bytes_raw()
    fork.keys = dh + ek(lattice.public_key().public_bytes_raw()) + ct
    assert fork.ns == 0  # the client has seen nothing of Bob's own turn: this one takes its place
    fork.rk = fork.root
    fork.rk, fork.cks = fork.kdf_rk(shared, secret, fork.keys)
    live.deliver(fork.text(FORGED))
    return live.goes_on()


def _dh(point: bytes) -> Do:
    return lambda live: new_turn(live, point)


def _ek(change: Flip) -> Do:
    return lambda live: new_turn(live, ek=change)


_ID, _TIME, _TEXT = tlv(1, bytes(16)), tlv(2, bytes(8)), tlv(3, FORGED.encode())

CASES: tuple[Case[Live], ...] = (
    case("other-sid", "ratchet-sealed", forged(_set(sid=bytes(8)))),
    case("other-sender", "ratchet-sealed", forged(_set(me="carl"))),
    case("other-people", "ratchet-sealed", forged(_set(ad=bytes(32)))),
    case("other-chain", "ratchet-sealed", forged(_set(cks=bytes(32)))),
    case("counter-one-more", "ratchet-sealed", forged(_counter(1))),
    case("counter-2^32", "ratchet-sealed", forged(_counter(1 << 32))),
    case("counter-2^96", "ratchet-sealed", forged(_counter(1 << 96))),
    case("counter-largest", "ratchet-sealed", forged(_set(ns=(1 << 128) - 1))),
    *(case(f"turn-dh-{name}", "ratchet-keys", _dh(point)) for name, point in LOW_ORDER.items()),
    *(case(f"turn-ek-{name}", "ratchet-keys", _ek(change)) for name, change in MLKEM_OVER_Q.items()),
    case("no-padding", "ratchet-plaintext", _sealed(_ID + _TIME + _TEXT)),
    case("zeros", "ratchet-plaintext", _sealed(bytes(160))),
    case("no-plaintext", "ratchet-plaintext", _sealed(b"")),
    case("id-of-15", "ratchet-plaintext", _padded(tlv(1, bytes(15)), _TIME, _TEXT)),
    case("time-of-9", "ratchet-plaintext", _padded(_ID, tlv(2, bytes(9)), _TEXT)),
    case("text-not-utf8", "ratchet-plaintext", _padded(_ID, _TIME, tlv(3, FORGED.encode() + b"\xff"))),
    case("text-surrogate", "ratchet-plaintext", _padded(_ID, _TIME, tlv(3, FORGED.encode() + b"\xed\xa0\x80"))),
    case("text-twice", "ratchet-plaintext", _padded(_ID, _TIME, _TEXT, _TEXT)),
    case("tlv-cut", "ratchet-plaintext", _padded(_ID, _TIME, _TEXT[:-1])),
)
