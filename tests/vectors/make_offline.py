"""Makes tests/data/offline-vector.json: one start of the second implementation with itself, all keys written down.

    PYTHONPATH=tests python -m vectors.make_offline

As `make_chat`: only when the protocol changes, and without the product, which `test_derivations.py` compares with it.
"""

from __future__ import annotations

import json
from pathlib import Path

from interop.base import XL, H, Identity, Reader, vec
from interop.offline import Offline, Prekey, Read, Theirs

FILE = Path(__file__).parents[1] / "data" / "offline-vector.json"
SERVER, INVITE, DEVICE = "chat.example.org", bytes(range(16)), bytes(range(16, 32))
EXPIRES = 1_767_268_800_000  # 2026-01-01
NOTE = (
    "MessageApp protocol v2, known answers of a start towards somebody who is away, made by tests/interop."
    " Every private key in this file is a test key, published on purpose: never use one."
)


def main() -> None:
    alice, bob = Identity.make("alice", "ed25519", "mldsa65"), Identity.make("bob", "ed25519")
    while alice.key_id < bob.key_id:  # AD goes by key ids: another order than that of the names
        bob = Identity.make("bob", "ed25519")
    prekey = Prekey(bob, 0x01020304, EXPIRES)
    sender = Offline(alice, "bob", bob.bundle, SERVER, INVITE, True, device=DEVICE)
    sender.start(Theirs.read(Reader(prekey.bytes), "bob", bob.bundle, EXPIRES - 1))
    blob = sender.blob(sender.ratchet().text("known answer"))
    receiver = Offline(bob, "alice", alice.bundle, SERVER, INVITE, False)
    read = Read.blob(blob)
    receiver.accept(read, prekey)
    assert receiver.ratchet().open(read.message)[3] == b"known answer"
    th_c3 = H(b"MessageApp v2 TH-C3\0", vec(sender.c1, 3), vec(prekey.bytes, 3), vec(sender.c3, 3))
    values = {
        "caller_bundle": alice.bundle,
        "receiver_bundle": bob.bundle,
        "invite": INVITE,
        "device": DEVICE,
        "prekey": prekey.bytes,
        "temp_x25519": prekey.temporary.x.private_bytes_raw(),
        "temp_mlkem_seed": prekey.temporary.kem.private_bytes_raw(),
        "ratchet_x25519": prekey.x.private_bytes_raw(),
        "ratchet_mlkem_seed": prekey.m.private_bytes_raw(),
        "blob": blob,
        "TH_C3": th_c3,
        "RK0": XL(sender.prk, "chat root", th_c3),
        "sid": XL(sender.prk, "chat id", th_c3, 8),
        "AD": sender.ad(),
    }
    document = {
        "note": NOTE, "caller": "alice", "receiver": "bob", "server": SERVER, "prekey_id": prekey.number,
        "expires_ms": EXPIRES, "text": "known answer",
    }  # fmt: skip
    FILE.write_text(json.dumps(document | {name: value.hex() for name, value in values.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
