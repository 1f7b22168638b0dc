"""Makes tests/data/chat-vector.json: one chat exchange of the second implementation with itself, all keys written down.

    PYTHONPATH=tests python -m vectors.make_chat

Only when the protocol changes: encapsulation and salts are random, so each run makes another file. Nothing of the
product is imported here; `test_derivations.py` compares the product with what is in the file.
"""

from __future__ import annotations

import json
from pathlib import Path

from interop.base import SWIFT, XL, H, Identity, mac, vec
from interop.chat import Chat
from interop.sas import commitment, seven

FILE = Path(__file__).parents[1] / "data" / "chat-vector.json"
SERVER, INVITE = "chat.example.org", bytes(range(16))
R_A, R_B = bytes(range(32)), bytes(range(32, 64))
NOTE = (
    "MessageApp protocol v2, known answers of a chat exchange and its first ratchet messages, made by tests/interop."
    " Every private key in this file is a test key, published on purpose: never use one."
)


def main() -> None:
    alice, bob = Identity.make("alice", "ed25519"), Identity.make("bob", "ed25519", "mldsa65")
    while alice.key_id < bob.key_id:  # AD goes by key ids: another order than that of the names
        alice = Identity.make("alice", "ed25519")
    caller = Chat(alice, "bob", bob.bundle, SERVER, INVITE, True, SWIFT, (SWIFT,))
    receiver = Chat(bob, "alice", alice.bundle, SERVER, INVITE, False, SWIFT)
    c1 = caller.make_c1()
    c2 = receiver.c2_from(c1)
    c3 = caller.c3_from(c2)
    c4 = receiver.c4_from(c3)
    caller.check_c4(c4)
    th_c3, prk = H(b"MessageApp v2 TH-C3\0", vec(c1, 3), vec(c2, 3), vec(c3, 3)), caller.prk
    ratchet = caller.ratchet()
    chain = ratchet.cks
    messages = [ratchet.text(None), ratchet.text("known answer")]
    values = {
        "caller_bundle": alice.bundle,
        "receiver_bundle": bob.bundle,
        "invite": INVITE,
        "C1": c1,
        "C2": c2,
        "C3": c3,
        "C4": c4,
        "temp_x25519": receiver.temporary.x.private_bytes_raw(),
        "temp_mlkem_seed": receiver.temporary.kem.private_bytes_raw(),
        "ratchet_x25519": receiver.x.private_bytes_raw(),
        "ratchet_mlkem_seed": receiver.m.private_bytes_raw(),
        "PRK": prk,
        "RK0": XL(prk, "chat root", th_c3),
        "sid": XL(prk, "chat id", th_c3, 8),
        "X": XL(prk, "chat exporter", th_c3),
        "AD": caller.ad(),
        "sas_r_a": R_A,
        "sas_r_b": R_B,
        "sas_commit": commitment(R_A),
        "sas_numbers": bytes(seven(caller.exporter(), R_A, R_B)),
        "CK_0": chain,
        "MK_0": mac(chain, b"\x01"),
        "message_0": messages[0],
        "message_1": messages[1],
    }
    document = {"note": NOTE, "caller": "alice", "receiver": "bob", "server": SERVER, "text_1": "known answer"}
    FILE.write_text(json.dumps(document | {name: value.hex() for name, value in values.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
