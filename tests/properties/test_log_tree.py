"""The key log for any leaves in any pieces: the tree is the naive one, no other proof is taken, forms are unique."""

from __future__ import annotations

import base64
import sqlite3
import string
from collections.abc import Callable
from contextlib import closing
from importlib import resources
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from messageapp.store.keylog import LogStore
from messageapp_keys.codec import Malformed
from messageapp_keys.keylog import FLAG_RESET, FLAG_REVOKED, Leaf, follows
from messageapp_keys.merkle import (
    ProofRefused,
    leaf_hash,
    verify_consistency_untrusted,
    verify_inclusion_untrusted,
)
from messageapp_keys.notes import COSIGNER, SIGNER, Checkpoint, Note, NoteSignature, VerifierKey
from support import naive_tree

SCHEMA = [resources.files("messageapp.store").joinpath("schema", f"server-{n}.sql").read_text() for n in (1, 2)]

u64s = st.integers(0, 2**64 - 1)
hashes = st.binary(min_size=32, max_size=32)
usernames = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,14}[A-Za-z0-9])?", fullmatch=True)
signatures = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=40)), min_size=1, max_size=2).map(tuple)
later = (u64s, usernames, st.integers(2, 2**32 - 1), hashes, st.integers(0, 2**64 - 2))
leaves = st.one_of(
    st.builds(Leaf, u64s, usernames, st.just(1), hashes),
    st.builds(Leaf, *later, st.sampled_from([0, FLAG_RESET, FLAG_REVOKED])),
    st.builds(Leaf, *later, st.just(0), signatures),
)
# Sizes around the edges of tiles as well as small ones.
sizes = st.integers(1, 40) | st.integers(250, 262) | st.integers(505, 520) | st.integers(1, 600)


def opened() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    for script in SCHEMA:
        database.executescript(script)
    return database


def encoded(number: int) -> bytes:
    return Leaf(number, f"u{number}", 1, bytes(32)).encode()


MANY = [encoded(number) for number in range(600)]


@settings(max_examples=60)
@given(size=sizes, data=st.data())
def test_any_pieces_give_the_naive_tree_and_its_proofs(size: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=5)))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    with closing(opened()) as database:
        store = LogStore(database)
        for start, end in zip([0, *cuts], [*cuts, size], strict=True):
            store.append(MANY[start:end])
        assert store.size == size
        whole, before = store.root(), store.root(old)
        assert (whole, before) == (naive_tree.mth(MANY[:size]), naive_tree.mth(MANY[:old]))
        inclusion, consistency = store.inclusion(index, size), store.consistency(old, size)
        assert inclusion == naive_tree.path(index, MANY[:size])
        assert consistency == naive_tree.proof(old, MANY[:size])
        part = store.inclusion(min(index, old - 1), old)
    verify_inclusion_untrusted(leaf_hash(MANY[index]), index, size, inclusion, whole)
    verify_inclusion_untrusted(leaf_hash(MANY[min(index, old - 1)]), min(index, old - 1), old, part, before)
    verify_consistency_untrusted(old, before, size, whole, consistency)


changes: dict[str, Callable[[list[bytes], int, bytes], list[bytes]]] = {
    "left out": lambda proof, at, value: proof[:at] + proof[at + 1 :],
    "put in": lambda proof, at, value: [*proof[:at], value, *proof[at:]],
    "replaced": lambda proof, at, value: [*proof[:at], value, *proof[at + 1 :]],
    "swapped": lambda proof, at, value: [*proof[:at], *reversed(proof[at : at + 2]), *proof[at + 2 :]],
    "twice": lambda proof, at, value: [*proof[:at], *proof[at : at + 1] * 2, *proof[at + 1 :]],
    "cut": lambda proof, at, value: [*proof[:at], value[:31], *proof[at + 1 :]],
    "reversed": lambda proof, at, value: proof[::-1],
}


@settings(max_examples=200)
@given(size=st.integers(1, 80), change=st.sampled_from(sorted(changes)), value=hashes, data=st.data())
def test_no_other_proof_is_taken(size: int, change: str, value: bytes, data: st.DataObject) -> None:
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    whole, before = naive_tree.mth(MANY[:size]), naive_tree.mth(MANY[:old])
    at = data.draw(st.integers(0, 8))
    inclusion, consistency = naive_tree.path(index, MANY[:size]), naive_tree.proof(old, MANY[:size])
    other = changes[change](inclusion, at, value)
    if other != inclusion:
        with pytest.raises(ProofRefused):
            verify_inclusion_untrusted(leaf_hash(MANY[index]), index, size, other, whole)
    other = changes[change](consistency, at, value)
    if other != consistency:
        with pytest.raises(ProofRefused):
            verify_consistency_untrusted(old, before, size, whole, other)


@settings(max_examples=200)
@given(size=st.integers(1, 80), data=st.data())
def test_no_proof_is_good_for_another_leaf_or_place_or_root(size: int, data: st.DataObject) -> None:
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    assume(index != other)
    proof, whole = naive_tree.path(index, MANY[:size]), naive_tree.mth(MANY[:size])
    forged = naive_tree.mth([*MANY[: size - 1], b"forged"])
    for leaf, place, root in ((index, other, whole), (other, index, whole), (index, index, forged)):
        with pytest.raises(ProofRefused):
            verify_inclusion_untrusted(leaf_hash(MANY[leaf]), place, size, proof, root)


@given(leaves)
def test_a_leaf_has_one_form(leaf: Leaf) -> None:
    data = leaf.encode()
    assert Leaf.parse_untrusted(data) == leaf
    assert Leaf.parse_untrusted(data).encode() == data


@given(st.lists(st.integers(0, 3), max_size=12))
def test_what_is_made_after_the_newest_leaf_follows_it(steps: list[int]) -> None:
    """Whatever the administrator and the user do, in any order that counts."""
    latest: tuple[int, Leaf] | None = None
    for number, step in enumerate(steps):
        key_id = bytes([number]) * 32
        revoked = latest is not None and latest[1].revoked
        if step == 0 and latest is not None and not revoked:
            leaf = Leaf.after(latest, number, "bob", latest[1].key_id, FLAG_REVOKED)
        elif step == 1 and not revoked:
            leaf = Leaf.after(latest, number, "bob", key_id, signatures=((0x0807, b"x"),))
        else:
            leaf = Leaf.after(latest, number, "Bob", key_id, FLAG_RESET)
        assert follows(leaf, latest)
        assert Leaf.parse_untrusted(leaf.encode()) == leaf
        latest = (number, leaf)


@given(leaves, leaves, u64s)
def test_what_follows_names_what_it_follows(leaf: Leaf, before: Leaf, index: int) -> None:
    good = follows(leaf, (index, before))
    named = (leaf.previous, leaf.version, leaf.folded) == (index, before.version + 1, before.folded)
    assert named or not good


names = st.text(string.ascii_letters + string.digits + "./:-é", min_size=1, max_size=20)
lines = st.builds(NoteSignature, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80))
texts = st.lists(st.text(string.printable.translate(dict.fromkeys(range(32))) + "—é"), min_size=1, max_size=5).map(
    lambda found: "\n".join(found) + "\n"
)


@given(texts, st.lists(lines, min_size=1, max_size=4).map(tuple))
def test_a_note_has_one_form(text: str, signatures: tuple[NoteSignature, ...]) -> None:
    note = Note(text, signatures)
    assert Note.parse_untrusted(note.encode()) == note


@given(names, hashes, st.sampled_from([SIGNER, COSIGNER]))
def test_a_verifier_key_has_one_form(name: str, public: bytes, kind: int) -> None:
    key = VerifierKey(name, public, kind)
    assert VerifierKey.parse_untrusted(key.encode()) == key


@given(names, st.integers(1, 2**63 - 1), hashes)
def test_a_checkpoint_has_one_form(origin: str, size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin, size, root)
    assert Checkpoint.parse_untrusted(checkpoint.encode()) == checkpoint
    assert checkpoint.encode() == f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


parsers: dict[str, Callable[[bytes], Any]] = {
    "leaf": Leaf.parse_untrusted,
    "note": Note.parse_untrusted,
    "line": lambda data: NoteSignature.parse_untrusted(data.decode("latin-1")),
    "key": lambda data: VerifierKey.parse_untrusted(data.decode("latin-1")),
    "checkpoint": lambda data: Checkpoint.parse_untrusted(data.decode("latin-1")),
}


@pytest.mark.parametrize("name", list(parsers))
@given(st.binary(max_size=200))
def test_garbage_raises_only_malformed(name: str, garbage: bytes) -> None:
    with pytest.raises(Malformed):
        parsers[name](garbage)
