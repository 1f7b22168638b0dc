"""The tree of a transparency log: roots, and proofs that one leaf, or one tree, is in another (RFC 6962 §2.1).

Pure arithmetic over hashes of complete subtrees, wherever they are kept. `node(level, index)` gives the hash of the
2^level leaves from index * 2^level on. Checking follows RFC 9162 §2.1.3.2 and RFC 9162 §2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .primitives import hash_bytes

__all__ = [
    "EMPTY_ROOT",
    "HASH_SIZE",
    "Node",
    "ProofRefused",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root",
    "verify_consistency_untrusted",
    "verify_inclusion_untrusted",
]

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = hash_bytes(b"")

Node = Callable[[int, int], bytes]
"""(level, index) -> [32]; asked only for subtrees that are complete in the tree that is meant."""


class ProofRefused(ValueError):
    """A proof does not show what it is meant to show."""


def leaf_hash(data: bytes) -> bytes:
    return hash_bytes(b"\0" + data)


def node_hash(left: bytes, right: bytes) -> bytes:
    return hash_bytes(b"\1" + left + right)


def root(size: int, node: Node) -> bytes:
    """[32] MTH of the first `size` leaves."""
    return _range(0, size, node) if size else EMPTY_ROOT


def _range(start: int, end: int, node: Node) -> bytes:
    """MTH of the leaves from `start` to before `end`, as a subtree of RFC 6962: `start` is where one begins."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(node(level, start >> level))
        start += 1 << level
    found = parts.pop()
    while parts:
        found = node_hash(parts.pop(), found)
    return found


def _split(size: int) -> int:
    """The largest power of two below `size`, which is 2 or more."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """PATH(index, D[size]): the neighbours from the leaf up. Needs 0 <= index < size."""
    if not 0 <= index < size:
        raise ValueError("no such leaf in a tree of that size")
    start, end, found = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            found.append(_range(middle, end, node))
            end = middle
        else:
            found.append(_range(start, middle, node))
            start = middle
    return found[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """PROOF(old, D[new]): empty where they are equal. Needs 0 < old <= new."""
    if not 0 < old <= new:
        raise ValueError("no proof between trees of these sizes")
    start, end, found, whole = 0, new, list[bytes](), True
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            found.append(_range(middle, end, node))
            end = middle
        else:
            found.append(_range(start, middle, node))
            start, whole = middle, False
    if not whole:
        found.append(_range(start, end, node))
    return found[::-1]


def verify_inclusion_untrusted(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """`ProofRefused` unless the leaf with this hash is number `index` of the tree with this size and root."""
    _check_hashes(leaf, root, *proof)
    if not 0 <= index < size:
        raise ProofRefused("a leaf is outside of its tree")
    at, last, found = index, size - 1, leaf
    for neighbour in proof:
        if not last:
            raise ProofRefused("a proof is too long")
        if at & 1 or at == last:
            found = node_hash(neighbour, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, neighbour)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofRefused("a proof is too short")
    if found != root:
        raise ProofRefused("a leaf is not in the log")


def verify_consistency_untrusted(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """`ProofRefused` unless the tree with the old size and root is how the one with the new size and root began."""
    _check_hashes(old_root, new_root, *proof)
    if not 0 < old_size <= new_size:
        raise ProofRefused("there is no proof between trees of these sizes")
    if old_size == new_size:
        if proof:
            raise ProofRefused("a proof is too long")
        if old_root != new_root:
            raise ProofRefused("two trees of one size differ")
        return
    hashes = list(reversed(proof))
    if old_size & (old_size - 1) == 0:  # a complete subtree: its root is not sent
        hashes.append(old_root)
    if not hashes:
        raise ProofRefused("a proof is too short")
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = hashes.pop()
    while hashes:
        if not last:
            raise ProofRefused("a proof is too long")
        neighbour = hashes.pop()
        if at & 1 or at == last:
            old, new = node_hash(neighbour, old), node_hash(neighbour, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, neighbour)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofRefused("a proof is too short")
    if old != old_root or new != new_root:
        raise ProofRefused("the log does not go on from what it was")


def _check_hashes(*hashes: bytes) -> None:
    if any(len(value) != HASH_SIZE for value in hashes):
        raise ProofRefused("a hash in a proof has a wrong length")
