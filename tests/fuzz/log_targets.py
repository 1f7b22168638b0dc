"""The key log as strangers may write it: leaves, signed notes, cosignatures, proofs."""

from __future__ import annotations

from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519

from messageapp_keys.codec import Malformed, reading_untrusted, u64
from messageapp_keys.keylog import FLAG_RESET, FLAG_REVOKED, Leaf
from messageapp_keys.merkle import (
    Node,
    ProofRefused,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency_untrusted,
    verify_inclusion_untrusted,
)
from messageapp_keys.notes import (
    COSIGNER,
    Checkpoint,
    LogKey,
    Note,
    NoteSignature,
    VerifierKey,
    cosign,
    sign_note,
    verify_cosignature_untrusted,
    verify_untrusted,
)

from . import material
from .target import Harness, Target, require

__all__ = ["TARGETS"]

ORIGIN: Final = f"{material.SERVER}/msgapp-keys"
SIZE: Final = 21
SECONDS: Final = material.TIME_MS // 1000


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None


def _leaves() -> list[bytes]:
    signatures = ((0x0807, material.recording()["signature ed25519"]),)
    keys = [material.drawn(f"key {number}") for number in range(4)]
    return [
        Leaf(material.TIME_MS, "alice", 1, keys[0]).encode(),
        Leaf(material.TIME_MS, "alice", 2, keys[1], 0, 0, signatures).encode(),
        Leaf(material.TIME_MS, "ALICE", 3, keys[1], 1, FLAG_REVOKED).encode(),
        Leaf(material.TIME_MS, "alice", 4, keys[2], 2, FLAG_RESET).encode(),
        Leaf(material.TIME_MS, "alice", 5, keys[3], 3).encode(),
    ]


def _leaf() -> Harness:
    def attack(data: bytes) -> None:
        leaf = Leaf.parse_untrusted(data)
        require(leaf.encode() == data, "one leaf can be written in two ways")
        require(not (leaf.signatures and (leaf.flags or leaf.previous is None)), "a signature where none belongs")

    return Harness(attack, _leaves())


def _key(name: str) -> LogKey:
    return LogKey(ed25519.Ed25519PrivateKey.from_private_bytes(material.drawn(name)))


def _note() -> Harness:
    """A checkpoint of the log with two cosignatures. Lines of unknown keys may be anything, what is signed may not."""
    log, witness, other = _key("log"), _key("witness"), _key("other witness")
    text = Checkpoint(ORIGIN, SIZE, material.drawn("root")).encode()
    signed = sign_note(text, ORIGIN, log)
    lines = [cosign(text, "w1", witness, SECONDS), cosign(text, "w2", other, SECONDS + 1)]
    keys = log.verifier(ORIGIN), witness.verifier("w1", COSIGNER)

    def attack(data: bytes) -> None:
        note = Note.parse_untrusted(data)
        require(note.encode() == data, "one note can be written in two ways")
        checkpoint = Checkpoint.parse_untrusted(note.text)
        require(checkpoint.encode() == note.text, "one checkpoint can be written in two ways")
        seconds = verify_cosignature_untrusted(note, keys[1])
        require(seconds is None or (note.text, seconds) == (text, SECONDS), "a forged cosignature counts")
        if not verify_untrusted(note, keys[0]):
            raise Malformed("the log did not sign this")
        require(note.text == text, "another checkpoint than was signed")

    return Harness(attack, [signed.encode(), signed.adding(lines).encode(), signed.adding(lines[:1]).encode()])


def _cosignature() -> Harness:
    """The line of a witness, as it sends it to the server."""
    key = _key("witness")
    text = Checkpoint(ORIGIN, SIZE, material.drawn("root")).encode()

    def attack(data: bytes) -> None:
        entry = NoteSignature.parse_untrusted(_text(data))
        require(entry.encode().encode() == data, "one line can be written in two ways")
        if verify_cosignature_untrusted(Note(text, (entry,)), key.verifier("w1", COSIGNER)) is None:
            raise Malformed("a cosignature does not verify")

    return Harness(attack, [cosign(text, "w1", key, SECONDS).encode().encode()])


def _verifier_key() -> Harness:
    def attack(data: bytes) -> None:
        key = VerifierKey.parse_untrusted(_text(data))
        require(key.encode().encode() == data and len(key.public) == 32, "one key can be written in two ways")

    keys = _key("log").verifier(ORIGIN), _key("witness").verifier("w1", COSIGNER)
    return Harness(attack, [key.encode().encode() for key in keys])


def _tree() -> Node:
    levels = [[leaf_hash(material.drawn(f"leaf {number}")) for number in range(SIZE)]]
    while len(levels[-1]) > 1:
        row = levels[-1]
        levels.append([node_hash(*row[at : at + 2]) for at in range(0, len(row) - 1, 2)])
    return lambda level, index: levels[level][index]


def _hashes(data: bytes) -> list[bytes]:
    """The last one may be cut, which the wire's reader would not let through."""
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def _inclusion(index: int) -> Harness:
    """`u64 index | hashes`, for one leaf of the tree. (The root comes with its size: they are signed together.)"""
    node, whole = _tree(), root(SIZE, _tree())

    def attack(data: bytes) -> None:
        with reading_untrusted(data) as reader:
            verify_inclusion_untrusted(node(0, index), reader.u64(), SIZE, _hashes(reader.rest()), whole)

    return Harness(attack, [u64(index) + b"".join(inclusion_proof(index, SIZE, node))])


def _consistency(old: int) -> Harness:
    """The hashes alone: both sizes and roots are signed."""
    node = _tree()

    def attack(data: bytes) -> None:
        verify_consistency_untrusted(old, root(old, node), SIZE, root(SIZE, node), _hashes(data))

    return Harness(attack, [b"".join(consistency_proof(old, SIZE, node))])


_MALFORMED: Final = (Malformed,)
_REFUSED: Final = (Malformed, ProofRefused)

TARGETS = (
    Target("log-leaf", _leaf, _MALFORMED),
    Target("log-note", _note, _MALFORMED, mutations=20_000),
    Target("log-cosignature", _cosignature, _MALFORMED, sealed=True, mutations=5000),
    Target("log-verifier-key", _verifier_key, _MALFORMED, mutations=10_000),
    Target("log-inclusion-inside", partial(_inclusion, 5), _REFUSED, sealed=True, mutations=5000),
    Target("log-inclusion-at-the-edge", partial(_inclusion, SIZE - 1), _REFUSED, sealed=True, mutations=5000),
    Target("log-consistency", partial(_consistency, 11), _REFUSED, sealed=True, mutations=5000),
    Target("log-consistency-of-a-power-of-two", partial(_consistency, 16), _REFUSED, sealed=True, mutations=5000),
)
