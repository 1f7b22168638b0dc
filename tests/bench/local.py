"""What needs no server: the two layers of encryption, the exchange, keys, the key file. One process, one core."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from messageapp.e2ee.exchange import Caller, Parties, Receiver
from messageapp.e2ee.session import ChatSession
from messageapp.wire.records import Kind, Record, RecordOpener, RecordSealer
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import HYBRID, SWIFT, Suite, TemporaryKey, generate_rsa
from messageapp_keys.keystore import SealedIdentity, seal_identity
from messageapp_keys.ratchetkeys import RatchetKeys
from messageapp_keys.types import TrafficSecret

from .rows import Rows, run_job

TEXT = "x" * 100
__all__ = ["make_chat", "message_size"]


def make_chat(suite: Suite = SWIFT, rsa_key: Any = None, kind: Any = "ed25519") -> tuple[ChatSession, ChatSession]:
    """(caller's, receiver's) ends of a chat after C1–C4 and the caller's first message."""
    return _Exchange(suite, rsa_key, kind).run()


class _Exchange:
    def __init__(self, suite: Suite, rsa_key: Any, kind: Any) -> None:
        self._suite, self._rsa_key = suite, rsa_key
        self._alice, self._bob = PrivateIdentity.generate(kind), PrivateIdentity.generate(kind)
        bundles = self._alice.bundle, self._bob.bundle
        self._parties = Parties("localhost", os.urandom(16), "alice", bundles[0], "bob", bundles[1])

    def run(self) -> tuple[ChatSession, ChatSession]:
        caller = Caller(self._parties, self._alice, [self._suite], os.urandom)
        receiver = Receiver(self._parties, self._bob, [self._suite], os.urandom)
        suite = receiver.receive_c1_untrusted(caller.start())
        ratchet = RatchetKeys()
        c3 = caller.receive_c2_untrusted(receiver.offer(TemporaryKey.generate(suite, self._rsa_key), ratchet))
        c4, bobs = receiver.receive_c3_untrusted(c3)
        alices = caller.receive_c4_untrusted(c4)
        alice = ChatSession(alices, user="alice", peer="bob", random=os.urandom, peer_ratchet=caller.peer_ratchet)
        bob = ChatSession(bobs, user="bob", peer="alice", random=os.urandom, own_ratchet=ratchet)
        bob.open_untrusted(alice.seal(None, 0), 0.0)
        return alice, bob


def message_size() -> int:
    """Bytes of a `frwd` argument that carries a text of 100 bytes."""
    alice, _ = make_chat()
    return 1 + len(alice.seal(TEXT, 0))


class _Hops:
    """Both record layers of a message's way: alice → server → bob."""

    def __init__(self) -> None:
        up, down = TrafficSecret(os.urandom(32)), TrafficSecret(os.urandom(32))
        self._ends = (
            (RecordSealer(up, "alice"), RecordOpener(up, "alice")),
            (RecordSealer(down, "bob"), RecordOpener(down, "bob")),
        )

    def carry(self, message: bytes) -> bytes:
        for kind, (sealer, opener) in zip((Kind.REQUEST, Kind.EVENT), self._ends, strict=True):
            message = opener.open_untrusted(sealer.seal(Record(kind, 0, b"frwd", message))).argument
        return message


def layers(job: dict[str, Any], rows: Rows) -> None:
    count = int(job["texts"])
    with rows.part("ratchet, one direction"):
        a, b = make_chat()
        rows.add("ratchet, one direction: seal and open", "texts/s", _rate(count, lambda: _pass(a, b)))
    with rows.part("ratchet, taking turns"):
        a, b = make_chat()
        rows.add(
            "ratchet, taking turns (new keys each)",
            "texts/s",
            2 * _rate(count // 4, lambda: _turns(a, b)),
        )
    with rows.part("both layers"):
        a, b = make_chat()
        hops = _Hops()
        rows.add("both layers, client → server → client", "texts/s", _rate(count, lambda: _pass(a, b, hops.carry)))
    with rows.part("record layer"):
        message, hops = os.urandom(message_size()), _Hops()
        rows.add("record layer alone, both hops", "messages/s", _rate(count, lambda: hops.carry(message)))


def keys(job: dict[str, Any], rows: Rows) -> None:
    count = int(job["repeats"])
    rsa_key = generate_rsa()
    for suite, kind in ((HYBRID, "rsa"), (SWIFT, "rsa"), (SWIFT, "ed25519")):
        with rows.part(f"exchange {suite.name}"):
            exchange = _Exchange(suite, rsa_key if suite.needs_rsa else None, kind)
            label = f"chat exchange C1–C4 and first message, both sides: {suite.name}, {kind} users"
            rows.add(label, "ms", _median_ms(count * 4, exchange.run))
    with rows.part("RSA-3072 key"):
        rows.add("RSA-3072 key (temporary or identity)", "ms", _median_ms(count, generate_rsa))
    with rows.part("swift key"):
        rows.add("temporary key of swift", "ms", _median_ms(count * 20, lambda: TemporaryKey.generate(SWIFT)))
    with rows.part("identity"):
        rows.add("identity, Ed25519", "ms", _median_ms(count * 20, lambda: PrivateIdentity.generate("ed25519")))
    with rows.part("key file"):
        who = PrivateIdentity.generate("ed25519")
        sealed = SealedIdentity.parse_untrusted(seal_identity("alice", who, "a passphrase"))
        rows.add(
            "open a key file (Argon2id 64 MiB, 3 passes)",
            "ms",
            _median_ms(count, lambda: sealed.unseal("a passphrase")),
        )


def _pass(
    sender: ChatSession, receiver: ChatSession, carry: Callable[[bytes], bytes] = lambda message: message
) -> None:
    received = receiver.open_untrusted(carry(sender.seal(TEXT, 0)), 0.0)
    if received.envelope.text != TEXT or received.missing:
        raise RuntimeError("another text came out than went in")


def _turns(a: ChatSession, b: ChatSession) -> None:
    _pass(a, b)
    _pass(b, a)


def _rate(count: int, step: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(count):
        step()
    return count / (time.perf_counter() - began)


def _median_ms(count: int, step: Callable[[], object]) -> float:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[count // 2] * 1e3


if __name__ == "__main__":
    run_job({"layers": layers, "keys": keys})
