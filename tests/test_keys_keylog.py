"""Leaves of the key log: their one encoding, what may follow what, and by whose word a key changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from messageapp_keys import labels
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle, PrivateIdentity, Signatures
from messageapp_keys.keylog import (
    FLAG_RESET,
    FLAG_REVOKED,
    MAX_LEAF,
    Leaf,
    change_body,
    explain,
    follows,
    log_key_body,
    log_origin,
)
from support.keys import SERVER, USER_KINDS, identity

KEY = bytes(range(32))
NEW = bytes(range(32, 64))
FIRST = Leaf(1_700_000_000_000, "Alice", 1, KEY)
CHANGE = Leaf(2, "alice", 2, NEW, 7, 0, ((0x0807, b"s" * 64),))
RESET = Leaf(3, "alice", 3, KEY, 9, FLAG_RESET)
REVOKED = Leaf(4, "alice", 4, KEY, 2**63, FLAG_REVOKED)
UNEXPLAINED = Leaf(5, "alice", 5, KEY, 12)

# By hand, from protocol §12: version, ms, name, version of the key, key_id, previous, flags, signatures.
FIRST_BYTES = "01 0000018bcfe56800 05 416c696365 00000001" + KEY.hex() + "ffffffffffffffff 00 0000"
CHANGE_BYTES = (
    "01 0000000000000002 05 616c696365 00000002" + NEW.hex() + "0000000000000007 00 0045 01 0807 0040" + "73" * 64
)


def signed(old: PrivateIdentity, new: bytes, version: int = 2, user: str = "alice", server: str = SERVER) -> Signatures:
    return old.sign(labels.SIG_KEY_CHANGE, change_body(server, user, version, old.key_id, new))


@pytest.mark.parametrize(("leaf", "encoded"), [(FIRST, FIRST_BYTES), (CHANGE, CHANGE_BYTES)])
def test_the_encoding_is_that_of_the_protocol(leaf: Leaf, encoded: str) -> None:
    assert leaf.encode() == bytes.fromhex(encoded)
    assert Leaf.parse_untrusted(bytes.fromhex(encoded)) == leaf


@pytest.mark.parametrize("leaf", [FIRST, CHANGE, RESET, REVOKED, UNEXPLAINED])
def test_what_is_written_is_read_and_nothing_beside_it(leaf: Leaf) -> None:
    encoded = leaf.encode()
    assert Leaf.parse_untrusted(encoded) == leaf
    for end in range(len(encoded)):
        with pytest.raises(Malformed):
            Leaf.parse_untrusted(encoded[:end])
    with pytest.raises(Malformed):
        Leaf.parse_untrusted(encoded + b"\0")


@pytest.mark.parametrize("kind", USER_KINDS)
def test_a_leaf_carries_the_signatures_of_every_kind_of_key(kind: str) -> None:
    leaf = Leaf(2, "alice", 2, NEW, 0, 0, signed(identity(kind), NEW))
    assert Leaf.parse_untrusted(leaf.encode()) == leaf
    assert len(leaf.encode()) < MAX_LEAF


def test_a_leaf_has_8192_bytes_at_most() -> None:
    room = MAX_LEAF - len(replace(CHANGE, signatures=((0x0807, b""),)).encode())
    longest = replace(CHANGE, signatures=((0x0807, bytes(room)),)).encode()
    assert len(Leaf.parse_untrusted(longest).encode()) == MAX_LEAF
    with pytest.raises(Malformed, match="too long"):
        Leaf.parse_untrusted(replace(CHANGE, signatures=((0x0807, bytes(room + 1)),)).encode())


BAD = {
    "version 0 of the form": b"\0" + FIRST.encode()[1:],
    "version 2 of the form": b"\2" + FIRST.encode()[1:],
    "no name": replace(FIRST, user="").encode(),
    "a name of 17": replace(FIRST, user="a" * 17).encode(),
    "a name with a blank": replace(FIRST, user="a b").encode(),
    "a name with a dot": replace(FIRST, user="a.b").encode(),
    "a name with a hyphen at its end": replace(FIRST, user="ab-").encode(),
    "version 0": replace(FIRST, version=0).encode(),
    "version 0 with a previous": replace(RESET, version=0).encode(),
    "a first of version 2": replace(FIRST, version=2).encode(),
    "a previous one and version 1": replace(RESET, version=1).encode(),
    "a first that is a reset": replace(FIRST, flags=FLAG_RESET).encode(),
    "a first that is revoked": replace(FIRST, flags=FLAG_REVOKED).encode(),
    "both flags": replace(RESET, flags=FLAG_RESET | FLAG_REVOKED).encode(),
    "flag 4": replace(RESET, flags=4).encode(),
    "flag 128": replace(RESET, flags=128).encode(),
    "a first with signatures": replace(FIRST, signatures=CHANGE.signatures).encode(),
    "a reset with signatures": replace(CHANGE, flags=FLAG_RESET).encode(),
    "revoked with signatures": replace(CHANGE, flags=FLAG_REVOKED).encode(),
    "three signatures": replace(CHANGE, signatures=CHANGE.signatures * 3).encode(),
    "no signature in the list": UNEXPLAINED.encode()[:-2] + b"\0\1\0",
    "a byte behind the signatures": CHANGE.encode()[:-69].removesuffix(b"\0\x45")
    + b"\0\x46"
    + CHANGE.encode()[-69:]
    + b"x",
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_honest_server_writes_is_malformed(name: str) -> None:
    with pytest.raises(Malformed):
        Leaf.parse_untrusted(BAD[name])


# What may follow what ---------------------------------------------------------------------------------------------

HELD = (7, FIRST)


@pytest.mark.parametrize(
    "leaf",
    [
        CHANGE,
        replace(CHANGE, user="ALICE"),
        replace(CHANGE, signatures=()),  # which `explain` calls unexplained
        replace(CHANGE, flags=FLAG_RESET, signatures=()),
        replace(CHANGE, flags=FLAG_RESET, signatures=(), key_id=KEY),
        replace(CHANGE, flags=FLAG_REVOKED, signatures=(), key_id=KEY),
    ],
)
def test_what_follows_a_key(leaf: Leaf) -> None:
    assert follows(leaf, HELD)


@pytest.mark.parametrize(
    "leaf",
    [
        FIRST,
        replace(CHANGE, previous=6),
        replace(CHANGE, previous=8),
        replace(CHANGE, version=3),
        replace(CHANGE, version=1),
        replace(CHANGE, user="bob"),
        replace(CHANGE, flags=FLAG_REVOKED, signatures=()),  # another key than the one that counts
    ],
)
def test_what_does_not_follow_a_key(leaf: Leaf) -> None:
    assert not follows(leaf, HELD)


def test_a_name_begins_with_a_first_leaf() -> None:
    assert follows(FIRST, None)
    for leaf in (CHANGE, RESET, REVOKED):
        assert not follows(leaf, None)


def test_after_a_revocation_only_a_reset_counts() -> None:
    gone = (9, Leaf(3, "alice", 2, KEY, 7, FLAG_REVOKED))
    for key_id in (KEY, NEW):
        reset = Leaf(4, "alice", 3, key_id, 9, FLAG_RESET)
        assert follows(reset, gone)
        for leaf in (replace(reset, flags=0), replace(reset, flags=0, signatures=CHANGE.signatures)):
            assert not follows(leaf, gone)
        assert not follows(replace(reset, flags=FLAG_REVOKED), gone)


def test_a_leaf_is_made_after_the_newest_one() -> None:
    assert Leaf.after(None, 1_700_000_000_000, "Alice", KEY) == FIRST
    assert Leaf.after((7, FIRST), 2, "alice", NEW, signatures=CHANGE.signatures) == CHANGE
    assert Leaf.after((9, CHANGE), 3, "alice", KEY, FLAG_RESET) == RESET
    assert Leaf.after((9, CHANGE), 3, "alice", NEW, FLAG_REVOKED).revoked
    assert follows(Leaf.after((9, CHANGE), 3, "alice", KEY, FLAG_RESET), (9, CHANGE))
    assert follows(Leaf.after(None, 3, "alice", KEY), None)
    again = Leaf.after((9, replace(CHANGE, flags=FLAG_REVOKED, signatures=())), 3, "alice", KEY, FLAG_RESET)
    assert again.reset


# By whose word ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", USER_KINDS)
def test_a_change_that_the_old_key_signed_is_signed(kind: str) -> None:
    old, new = identity(kind, "old"), identity("ed25519", "new").key_id
    leaf = Leaf(2, "alice", 2, new, 0, 0, signed(old, new))
    assert explain(old.bundle, leaf, SERVER) == "signed"
    for other in (
        replace(leaf, user="alicf"),
        replace(leaf, user="Alice"),
        replace(leaf, version=3),
        replace(leaf, key_id=NEW),
        replace(leaf, signatures=()),
        replace(leaf, signatures=leaf.signatures * 2),
        replace(leaf, signatures=tuple((code, value[:-1] + b"\0") for code, value in leaf.signatures)),
        replace(leaf, signatures=tuple((code ^ 1, value) for code, value in leaf.signatures)),
    ):
        assert explain(old.bundle, other, SERVER) == "unexplained"
    assert explain(old.bundle, leaf, "other.example.org") == "unexplained"
    assert explain(identity("ed25519", "third").bundle, leaf, SERVER) == "unexplained"


def test_each_of_two_keys_has_to_sign() -> None:
    old = identity("ed25519+pq", "old")
    leaf = Leaf(2, "alice", 2, NEW, 0, 0, signed(old, NEW))
    first, second = leaf.signatures
    for signatures in ((first,), (second,), (second, first), (first, first)):
        assert explain(old.bundle, replace(leaf, signatures=signatures), SERVER) == "unexplained"


def test_the_signature_of_the_new_key_is_not_that_of_the_old_one() -> None:
    """The same body under the other label: what shows that somebody has the new key moves no pin."""
    old = identity("ed25519", "old")
    body = change_body(SERVER, "alice", 2, old.key_id, NEW)
    leaf = Leaf(2, "alice", 2, NEW, 0, 0, old.sign(labels.SIG_NEW_KEY, body))
    assert explain(old.bundle, leaf, SERVER) == "unexplained"


def test_what_the_administrator_did_is_called_so() -> None:
    bundle: IdentityBundle = identity().bundle
    assert explain(bundle, RESET, SERVER) == "reset"
    assert explain(bundle, REVOKED, SERVER) == "revoked"
    assert explain(bundle, FIRST, SERVER) == "unexplained"


def test_names_and_bodies() -> None:
    assert log_origin("chat.example.org") == "chat.example.org/msgapp-keys"
    assert log_key_body("ab", KEY) == b"\2ab" + KEY
    assert change_body("ab", "me", 258, KEY, NEW) == b"\2ab\2me\0\0\1\2" + KEY + NEW
