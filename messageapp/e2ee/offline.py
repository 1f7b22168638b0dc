"""A chat that starts while its receiver is away (protocol §9): the exchange of §8 over a prekey, and blobs.

    sender                                  server                receiver
      | bndl: bundle, log proof, prekey         |                     |
      | prekey.verify_untrusted                 |                     |
      | start_untrusted                         |                     |
      |--- u8 2 | C1 | C3 | ratchet message --->|-------------------->| read_start_untrusted: who, which prekey?
      |                                         |                     | accept_untrusted: the sender is proved
      |<--------------------------------- u8 1 | ratchet message -----| confirms

The prekey's bytes stand where C2 stands in TH_CE and TH_C3. There is no C4: until the first ratchet message of the
other side came, a session is not confirmed. What is proved and opened may still be a start that was taken before: under
a last-resort prekey the receiver remembers the `transcript` of each and takes none twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from messageapp_keys.codec import Malformed, reading_untrusted, u8, u32, vec24
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import SWIFT
from messageapp_keys.prekeys import Prekey, PrivatePrekey
from messageapp_keys.primitives import Random, same
from messageapp_keys.ratchetkeys import RatchetKeys

from .agreement import C1, ChatSecrets, Parties, checking, open_proof_untrusted, prove_untrusted

__all__ = [
    "MESSAGE",
    "START",
    "Accepted",
    "Blob",
    "OfferedStart",
    "Start",
    "accept_untrusted",
    "message_blob",
    "read_start_untrusted",
    "split_blob_untrusted",
    "start_blob",
    "start_untrusted",
]

MESSAGE: Final = 1  # kinds of a blob
START: Final = 2
_PREKEY_ID, _DEVICE = 1, 2  # TLVs of C1
_DEVICE_SIZE: Final = 16
_SUITES: Final = (SWIFT.code,)


# Blobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blob:
    """What one `send` stores. C1 and C3 stand in a start only."""

    kind: int  # MESSAGE or START
    message: bytes  # the ratchet message
    c1: bytes = b""
    c3: bytes = b""


def message_blob(ratchet_message: bytes) -> bytes:
    """`u8 1 | ratchet message`: in a session that both have."""
    return u8(MESSAGE) + ratchet_message


def start_blob(start: Start, ratchet_message: bytes) -> bytes:
    """`u8 2 | vec24 C1 | vec24 C3 | ratchet message`: `start` with its first message."""
    return u8(START) + vec24(start.c1) + vec24(start.c3) + ratchet_message


def split_blob_untrusted(blob: bytes) -> Blob:
    """The parts of a blob, none of them looked at. `Malformed` for an unknown kind, or one that is cut short."""
    with reading_untrusted(blob) as reader:
        kind = reader.u8()
        if kind == MESSAGE:
            return Blob(kind, reader.rest())
        if kind != START:
            raise Malformed("a stored message is of an unknown kind")
        c1, c3 = reader.vec24(), reader.vec24()
        return Blob(kind, reader.rest(), c1, c3)


# Sender -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """`ChatSession(start.secrets, …, peer_ratchet=start.peer_ratchet)` is the session; `start_blob` what is sent."""

    c1: bytes
    c3: bytes
    secrets: ChatSecrets
    peer_ratchet: bytes  # [1216]
    transcript: bytes  # [32] TH_C3


def start_untrusted(
    parties: Parties, identity: PrivateIdentity, prekey: Prekey, random: Random, device: bytes = b""
) -> Start:
    """A start towards `parties.receiver`, with a `prekey` for which `verify_untrusted` has returned.

    `parties.invite` are 16 random bytes of ours, `device` is [16] our own. `ExchangeFailed` where the prekey is of
    another user or key, or its TempPub is not acceptable. 0.3 ms and a signature.
    """
    extra = {_PREKEY_ID: u32(prekey.id)} | ({_DEVICE: device} if device else {})
    c1 = C1.of(parties, _SUITES, random, extra).encode()
    with checking():
        if not _fits(prekey, parties):
            raise Malformed("the prekey is not the receiver's")
        c3, finished = prove_untrusted(parties, identity, SWIFT, c1, prekey.encode(), prekey.temp_pub, random)
    return Start(c1, c3, finished.secrets, prekey.ratchet, finished.transcript)


def _fits(prekey: Prekey, parties: Parties) -> bool:
    return prekey.user == parties.receiver and same(prekey.key_id, parties.receiver_bundle.key_id)


# Receiver ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfferedStart:
    """What a start says of itself; nothing is proved yet. Names and keys are a stranger's."""

    caller: str
    receiver: str
    caller_key: bytes  # [32]
    receiver_key: bytes  # [32]
    server: str
    invite: bytes  # [16]
    prekey_id: int  # u32
    device: bytes  # [16] of the caller; empty where it is not said
    c1: bytes
    c3: bytes
    message: bytes  # the first ratchet message


@dataclass(frozen=True, slots=True)
class Accepted:
    """`ChatSession(accepted.secrets, …, own_ratchet=accepted.own_ratchet)` is the session; it opens the message."""

    secrets: ChatSecrets
    own_ratchet: RatchetKeys
    transcript: bytes  # [32] TH_C3: what a receiver remembers under a last-resort prekey


def read_start_untrusted(blob: bytes) -> OfferedStart:
    """The form of a blob of kind `START`. `Malformed` for another kind, form, suite, or without a prekey id."""
    parts = split_blob_untrusted(blob)
    c1 = C1.parse_untrusted(parts.c1)
    prekey_id, device = c1.extra.get(_PREKEY_ID, b""), c1.extra.get(_DEVICE, b"")
    if c1.suites != _SUITES:
        raise Malformed("a start is of another suite than swift")
    if len(prekey_id) != 4 or len(device) not in (0, _DEVICE_SIZE):
        raise Malformed("a TLV of a start has not its length")
    return OfferedStart(
        caller=c1.caller,
        receiver=c1.receiver,
        caller_key=c1.caller_key,
        receiver_key=c1.receiver_key,
        server=c1.server,
        invite=c1.invite,
        prekey_id=int.from_bytes(prekey_id, "big"),
        device=device,
        c1=parts.c1,
        c3=parts.c3,
        message=parts.message,
    )


def accept_untrusted(start: OfferedStart, parties: Parties, prekey: PrivatePrekey, random: Random) -> Accepted:
    """The caller is proved when this returns; else `ExchangeFailed`, and the prekey may serve for another start.

    `parties` are as we hold them ourselves: our server, name and present bundle, the caller's accepted bundle;
    `parties.invite` is `start.invite`. Whether this start was taken before is for the caller of this to look up.
    """
    with checking():
        if not C1.parse_untrusted(start.c1).names(parties):
            raise Malformed("C1 is for somebody else")
        if prekey.public.id != start.prekey_id or not _fits(prekey.public, parties):
            raise Malformed("the prekey is another one")
        offer = prekey.public.encode()
        finished = open_proof_untrusted(parties, prekey.temporary, start.c1, offer, start.c3, random)
    return Accepted(finished.secrets, prekey.ratchet_keys, finished.transcript)
