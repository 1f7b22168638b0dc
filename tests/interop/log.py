"""The key log, §12, written from its text: notes, leaves, proofs, and what a server answers."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from interop.base import H, Identity, Reader, need, u, vec, verify
from interop.peer import Session

L_LOG, L_CHANGE, L_NEW = b"MessageApp v2, log key", b"MessageApp v2, key change", b"MessageApp v2, new key"
NONE = 2**64 - 1


@dataclass(frozen=True)
class Leaf:
    user: str
    version: int
    key_id: bytes
    previous: int
    flags: int
    signatures: bytes


def read_leaf(data: bytes) -> Leaf:
    reader = Reader(data)
    need(reader.u(1) == 1, "version of a leaf")
    reader.u(8)
    found = Leaf(reader.vec(1).decode(), reader.u(4), reader.take(32), reader.u(8), reader.u(1), reader.vec(2))
    reader.end()
    return found


def read_note(note: bytes, origin: str, public: bytes) -> tuple[int, bytes]:
    """(size, root) under a signature of the log's key."""
    text, _, lines = note.decode().partition("\n\n")
    first, size, root = text.split("\n")
    need(first == origin and size == str(int(size)), "checkpoint")
    dash, name, signature = lines.split("\n")[0].split(" ")
    data = base64.b64decode(signature, validate=True)
    need(dash == "\u2014" and name == origin and data[:4] == H(origin.encode(), b"\n\1", public)[:4], "line of a note")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(data[4:], text.encode() + b"\n")
    except InvalidSignature:
        need(False, "signature of a note")
    return int(size), base64.b64decode(root, validate=True)


def root_by(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """RFC 9162 §2.1.3.2: the root that an inclusion proof leads to."""
    need(index < size, "index")
    node, last, found = index, size - 1, H(b"\0", leaf)
    for other in proof:
        need(last > 0, "a hash too many")
        if node & 1 or node == last:
            found = H(b"\1", other, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = H(b"\1", found, other)
        node, last = node >> 1, last >> 1
    need(last == 0, "a hash too few")
    return found


class Log:
    """What one session is told; its key is the one that the server's certificate signed."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.server = Reader(session.tlvs[5]).vec(1).decode()
        head = self.ask(1)
        note, self.public, alg, signature = head.vec(2), head.take(32), head.u(2), head.vec(2)
        verify(alg, session.spki, L_LOG, vec(self.server.encode(), 1) + self.public, signature)
        self.size, self.root = self.read(note)

    def ask(self, op: int, operands: bytes = b"") -> Reader:
        verb, value = self.session.ask("klog", u(op, 1) + operands)
        reader = Reader(value)
        need(verb == "klog" and reader.u(1) == op, f"{verb} {value[:40]!r} instead of klog {op}")
        return reader

    def read(self, note: bytes) -> tuple[int, bytes]:
        return read_note(note, f"{self.server}/msgapp-keys", self.public)

    def leaves(self) -> list[Leaf]:
        """All of them, which give the root."""
        found: list[bytes] = []
        while len(found) < self.size:
            reader = self.ask(2, u(len(found), 8) + u(self.size, 8))
            need(reader.u(8) == len(found), "start of a range")
            while reader.at < len(reader.data):
                found.append(reader.vec(2))
        need(tree(found) == self.root, "root of all leaves")
        return [read_leaf(leaf) for leaf in found]

    def check(self, proof: bytes, user: str, key_id: bytes) -> None:
        """The proof in a `pubk` about `user`."""
        reader = Reader(proof)
        size, root = self.read(reader.vec(2))
        index, data, path = reader.u(8), reader.vec(2), []
        while reader.at < len(proof):
            path.append(reader.take(32))
        leaf = read_leaf(data)
        need((leaf.user, leaf.key_id, leaf.flags & 2) == (user, key_id, 0), "leaf of a proof")
        need(root_by(data, index, size, path) == root, "inclusion")


def tree(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return H(b"\0", leaves[0])
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return H(b"\1", tree(leaves[:half]), tree(leaves[half:]))


def new_key(server: str, user: str, version: int, old: Identity, new: Identity) -> bytes:
    """The argument of `newk`."""
    change = vec(server.encode(), 1) + vec(user.encode(), 1) + u(version, 4) + old.key_id + new.key_id
    parts = new.bundle, old.signatures(L_CHANGE, change), new.signatures(L_NEW, change)
    return b"".join(vec(part, 2) for part in parts)
