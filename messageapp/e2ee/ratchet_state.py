"""The state of a ratchet (protocol §10.2), and its bytes in an encrypted file (§15.2).

    state     = u8 version | [32] RK | u32 PN | u8 flags | own? | sending? | receiving? | u16 n, n × skipped
    own       = [96] private keys                                              flag 1
    sending   = [96] private keys | [1088] ct | [32] CKs | u32 Ns              flag 2
    receiving = [32] dh | [32] CKr | u32 Nr                                    flag 4
    skipped   = [32] dh | u32 counter | [32] MK | f64 seconds

The pieces are frozen: a step makes new ones, and the old ones are what a failed step goes back to.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from messageapp_keys.codec import Malformed, Reader, reading_untrusted, u8, u16, u32
from messageapp_keys.kem import PAIR_SIZE
from messageapp_keys.ratchetkeys import CIPHERTEXT_SIZE, DH_SIZE, RatchetKeys
from messageapp_keys.types import ChainKey, MessageKey, RootKey

__all__ = [
    "MAX_SKIPPED_SESSION",
    "Receiving",
    "Sending",
    "Skipped",
    "Snapshot",
    "State",
    "decode_state",
    "encode_state",
]

MAX_SKIPPED_SESSION: Final = 2000  # bounds what we keep
_VERSION: Final = 1
_OWN, _SENDING, _RECEIVING = 1, 2, 4
_KEY: Final = 32
_SKIPPED: Final = struct.Struct(f">{DH_SIZE}sI{_KEY}sd")

# (dh of the chain, number in it) → (its key, the second in which it was found missing)
Skipped = dict[tuple[bytes, int], tuple[MessageKey, float]]


@dataclass(frozen=True, slots=True)
class Sending:
    """Our half of the current turn."""

    keys: RatchetKeys
    ciphertext: bytes
    chain: ChainKey
    sent: int = 0  # Ns


@dataclass(frozen=True, slots=True)
class Receiving:
    """The peer's half of the current turn."""

    dh: bytes
    chain: ChainKey
    received: int = 0  # Nr


@dataclass(frozen=True, slots=True)
class State:
    root: RootKey
    own: RatchetKeys | None  # the receiver's keys of C2, until the first message came
    sending: Sending | None = None
    receiving: Receiving | None = None
    previous: int = 0  # PN


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ratchet at one moment; opaque."""

    state: State = field(repr=False)
    skipped: Skipped = field(repr=False)


def encode_state(state: State, skipped: Skipped) -> bytes:
    parts = [b""]
    flags = 0
    if state.own is not None:
        flags |= _OWN
        parts.append(state.own.private_bytes())
    if (sending := state.sending) is not None:
        flags |= _SENDING
        parts += (sending.keys.private_bytes(), sending.ciphertext, sending.chain.expose(), u32(sending.sent))
    if (receiving := state.receiving) is not None:
        flags |= _RECEIVING
        parts += (receiving.dh, receiving.chain.expose(), u32(receiving.received))
    parts[0] = u8(_VERSION) + state.root.expose() + u32(state.previous) + u8(flags)
    parts.append(u16(len(skipped)))
    parts += [_SKIPPED.pack(dh, number, key.expose(), since) for (dh, number), (key, since) in skipped.items()]
    return b"".join(parts)


def decode_state(data: bytes) -> tuple[State, Skipped]:
    """The reverse. `Malformed` for what `encode_state` does not write."""
    with reading_untrusted(data) as reader:
        if reader.u8() != _VERSION:
            raise Malformed("a ratchet is of another version")
        root, previous, flags = RootKey(reader.take(_KEY)), reader.u32(), reader.u8()
        # One of the two always stands, and nothing is received without an answer being under way.
        if flags not in (_OWN, _SENDING, _SENDING | _RECEIVING):
            raise Malformed("the parts of a ratchet do not fit together")
        own = _keys(reader) if flags & _OWN else None
        sending = (
            Sending(_keys(reader), reader.take(CIPHERTEXT_SIZE), ChainKey(reader.take(_KEY)), reader.u32())
            if flags & _SENDING
            else None
        )
        receiving = (
            Receiving(reader.take(DH_SIZE), ChainKey(reader.take(_KEY)), reader.u32()) if flags & _RECEIVING else None
        )
        count = reader.u16()
        if count > MAX_SKIPPED_SESSION:
            raise Malformed("a ratchet keeps more keys than it may")
        skipped: Skipped = {}
        for dh, number, key, since in _SKIPPED.iter_unpack(reader.take(count * _SKIPPED.size)):
            if not isfinite(since):
                raise Malformed("a kept key has no age")
            skipped[dh, number] = (MessageKey(key), since)
        if len(skipped) != count:
            raise Malformed("a key is kept twice")
    return State(root, own, sending, receiving, previous), skipped


def _keys(reader: Reader) -> RatchetKeys:
    return RatchetKeys.from_private_bytes(reader.take(PAIR_SIZE))
