"""The key pair of a ratchet turn and its two key derivations, the latter written again with hmac."""

import hashlib
import hmac

import pytest

from messageapp_keys.codec import Malformed
from messageapp_keys.ratchetkeys import CIPHERTEXT_SIZE, DH_SIZE, EK_SIZE, RatchetKeys, kdf_chain, kdf_root
from messageapp_keys.types import ChainKey, RootKey


def test_sizes() -> None:
    keys = RatchetKeys()
    assert (len(keys.dh), len(keys.ek)) == (DH_SIZE, EK_SIZE) == (32, 1184)
    assert keys.public == keys.dh + keys.ek
    assert repr(keys) == "<RatchetKeys>"


def test_both_sides_get_the_same_two_secrets() -> None:
    alice, bob = RatchetKeys(), RatchetKeys()
    ciphertext, made = alice.encapsulate_untrusted(bob.dh, bob.ek)
    assert len(ciphertext) == CIPHERTEXT_SIZE == 1088
    assert bob.decapsulate_untrusted(alice.dh, ciphertext) == made
    assert len(made) == 64


def test_each_component_counts() -> None:
    alice, bob, other = RatchetKeys(), RatchetKeys(), RatchetKeys()
    ciphertext, made = alice.encapsulate_untrusted(bob.dh, bob.ek)
    other_dh = bob.decapsulate_untrusted(other.dh, ciphertext)
    assert (other_dh[:32] == made[:32], other_dh[32:] == made[32:]) == (False, True)
    changed = bytes((ciphertext[0] ^ 1,)) + ciphertext[1:]
    other_ct = bob.decapsulate_untrusted(alice.dh, changed)
    assert (other_ct[:32] == made[:32], other_ct[32:] == made[32:]) == (True, False)


def test_bad_public_keys_are_refused() -> None:
    keys, peer = RatchetKeys(), RatchetKeys()
    with pytest.raises(Malformed):
        keys.encapsulate_untrusted(bytes(32), peer.ek)
    with pytest.raises(Malformed):
        keys.encapsulate_untrusted(peer.dh, b"\xff" * EK_SIZE)
    with pytest.raises(Malformed):
        keys.encapsulate_untrusted(peer.dh, peer.ek[:-1])
    with pytest.raises(Malformed):
        keys.decapsulate_untrusted(bytes(32), bytes(CIPHERTEXT_SIZE))


def test_kdf_root_against_hmac() -> None:
    root, secrets, keys = bytes(range(32)), bytes(range(64)), b"dh ek ct"
    prk = hmac.digest(root, secrets, "sha256")
    info = b"MessageApp v2 ratchet" + hashlib.sha256(keys).digest()
    first = hmac.digest(prk, info + b"\x01", "sha256")
    second = hmac.digest(prk, first + info + b"\x02", "sha256")
    assert kdf_root(RootKey(root), secrets, keys) == (RootKey(first), ChainKey(second))


def test_kdf_chain_against_hmac() -> None:
    chain = bytes(range(32))
    key, following = kdf_chain(ChainKey(chain))
    assert key.expose() == hmac.digest(chain, b"\x01", "sha256")
    assert following.expose() == hmac.digest(chain, b"\x02", "sha256")
