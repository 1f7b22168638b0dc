"""What a server may hand out or deliver for somebody who is away: prekeys, blobs, starts; and sessions at rest."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from messageapp.e2ee.exchange import ExchangeFailed, Parties
from messageapp.e2ee.offline import (
    Start,
    accept_untrusted,
    message_blob,
    read_start_untrusted,
    split_blob_untrusted,
    start_blob,
    start_untrusted,
)
from messageapp.e2ee.ratchet import Undecryptable, sid_of_untrusted
from messageapp.e2ee.session import ChatSession
from messageapp_keys import labels
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.prekeys import Prekey, PrekeyKind, PrekeyRefused, PrivatePrekey

from . import material
from .material import seeded
from .target import Harness, Target, require
from .wire_targets import form

__all__ = ["TARGETS"]

_VECTOR = Path(__file__).parents[1] / "data" / "offline-vector.json"
_MALFORMED = (Malformed,)


@cache
def _known() -> dict[str, Any]:
    """One start, with its private keys: `vectors/make_offline.py`."""
    read: dict[str, Any] = json.loads(_VECTOR.read_text("utf-8"))
    return read


def _bytes(name: str) -> bytes:
    return bytes.fromhex(_known()[name])


@cache
def _bundle(role: str) -> IdentityBundle:
    return IdentityBundle.parse_untrusted(_bytes(f"{role}_bundle"))


def _parties(invite: bytes) -> Parties:
    known = _known()
    return Parties(known["server"], invite, known["caller"], _bundle("caller"), known["receiver"], _bundle("receiver"))


@cache
def _prekey() -> PrivatePrekey:
    halves = (_bytes(f"{of}_{part}") for of in ("temp", "ratchet") for part in ("x25519", "mlkem_seed"))
    return PrivatePrekey.decode(Prekey.parse_untrusted(_bytes("prekey")), b"\1" + b"".join(halves))


# Prekeys ----------------------------------------------------------------------------------------------------------


def _prekeys() -> list[bytes]:
    last = replace(_prekey().public, kind=PrekeyKind.LAST_RESORT, id=0)
    signed = replace(last, signatures=material.identity(post_quantum=True).sign(labels.SIG_PREKEY, last.core))
    return [_bytes("prekey"), last.encode(), signed.encode()]


def _verified() -> Harness:
    known = _known()

    def attack(data: bytes) -> None:
        prekey = Prekey.parse_untrusted(data)
        prekey.verify_untrusted(_bundle("receiver"), known["receiver"], known["expires_ms"] - 1)

    return Harness(attack, [_bytes("prekey")])


def _started() -> Harness:
    """A receiver who lies: whatever stands in the prekey, it is signed."""
    bob, both = material.identity("bob"), material.parties()
    genuine = replace(_prekey().public, user="bob", key_id=bob.key_id)

    def attack(data: bytes) -> None:
        prekey = Prekey.parse_untrusted(data)
        prekey = replace(prekey, signatures=bob.sign(labels.SIG_PREKEY, prekey.core))
        start = start_untrusted(both, material.identity("alice"), prekey, seeded("start"), bytes(16))
        alice = ChatSession(
            start.secrets, user="alice", peer="bob", random=seeded("text"), peer_ratchet=start.peer_ratchet
        )
        read = read_start_untrusted(start_blob(start, alice.seal("hello", 0)))
        require((read.prekey_id, read.device) == (prekey.id, bytes(16)), "a start is not for this prekey")

    return Harness(attack, [genuine.encode()])


# Blobs ------------------------------------------------------------------------------------------------------------


def _blob() -> Harness:
    start = read_start_untrusted(_bytes("blob"))

    def attack(data: bytes) -> None:
        blob = split_blob_untrusted(data)
        as_start = replace(_empty_start(), c1=blob.c1, c3=blob.c3)
        written = start_blob(as_start, blob.message) if blob.kind == 2 else message_blob(blob.message)
        require(written == data, "one blob can be written in two ways")

    return Harness(attack, [_bytes("blob"), message_blob(start.message), message_blob(b""), b"\2" + bytes(6)])


@cache
def _empty_start() -> Start:
    accepted = accept_untrusted(
        read_start_untrusted(_bytes("blob")), _parties(_bytes("invite")), _prekey(), seeded("accept")
    )
    return Start(b"", b"", accepted.secrets, b"", accepted.transcript)


def _read() -> Harness:
    def attack(data: bytes) -> None:
        start = read_start_untrusted(data)
        require(len(start.device) in (0, 16) and start.prekey_id < 1 << 32, "a field has not its length")
        require(data.endswith(start.message) and start.c1 in data and start.c3 in data, "a start was made up")

    return Harness(attack, [_bytes("blob")])


def _accepted() -> Harness:
    """All of it, up to the text: nothing but the one start is taken."""
    known = _known()

    def attack(data: bytes) -> None:
        start = read_start_untrusted(data)
        accepted = accept_untrusted(start, _parties(start.invite), _prekey(), seeded("accept"))
        bob = ChatSession(
            accepted.secrets,
            user=known["receiver"],
            peer=known["caller"],
            random=seeded("answer"),
            own_ratchet=accepted.own_ratchet,
        )
        received = bob.open_untrusted(start.message, 0.0)
        require(received.envelope.text == known["text"], "another text")

    return Harness(attack, [_bytes("blob")])


def _sid() -> Harness:
    message = read_start_untrusted(_bytes("blob")).message

    def attack(data: bytes) -> None:
        require(sid_of_untrusted(data) == data[:8] and len(data) > 8, "not the beginning of the message")

    return Harness(attack, [message, material.recording()["ratchet"][0]])


# At rest ----------------------------------------------------------------------------------------------------------


def _session() -> Harness:
    """The file is encrypted; a fault in it must still not become a session that is written as another one."""
    accepted = accept_untrusted(
        read_start_untrusted(_bytes("blob")), _parties(_bytes("invite")), _prekey(), seeded("accept")
    )
    bob = ChatSession(
        accepted.secrets, user="bob", peer="alice", random=seeded("answer"), own_ratchet=accepted.own_ratchet
    )
    before = bob.encode()
    bob.open_untrusted(read_start_untrusted(_bytes("blob")).message, 0.0)

    def attack(data: bytes) -> None:
        written = ChatSession.decode(data, random=seeded("answer")).encode()
        require(ChatSession.decode(written, random=seeded("answer")).encode() == written, "a session changes at rest")

    return Harness(attack, [before, bob.encode()])


TARGETS = (
    Target("prekey-form", lambda: form(Prekey.parse_untrusted, _prekeys(), exact=True), _MALFORMED),
    Target("prekey-verified", _verified, (Malformed, PrekeyRefused), sealed=True, mutations=8000),
    Target("prekey-insider", _started, (Malformed, ExchangeFailed), mutations=2000),
    Target("blob-form", _blob, _MALFORMED),
    Target("start-form", _read, _MALFORMED),
    Target("start-accepted", _accepted, (Malformed, ExchangeFailed, Undecryptable), sealed=True, mutations=8000),
    Target("ratchet-sid", _sid, _MALFORMED, mutations=2000),
    Target("session-at-rest", _session, _MALFORMED, mutations=3000),
)
