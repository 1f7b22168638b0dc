"""Prekeys: their one form, what is signed, who is refused, and the private halves at rest."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp_keys import labels
from messageapp_keys.codec import Malformed, Reader, u8, u16, u32, u64, vec8, vec16
from messageapp_keys.identity import write_signatures
from messageapp_keys.kem import CLASSIC, SWIFT, TemporaryKey, encapsulate_untrusted
from messageapp_keys.prekeys import Prekey, PrekeyKind, PrekeyRefused, PrivatePrekey
from messageapp_keys.ratchetkeys import RatchetKeys
from support.keys import USER_KINDS, identity, rsa_key, seeded

BOB, MALLORY = identity("ed25519", "bob"), identity("ed25519", "mallory")
NOW, LATER = 1_767_268_800_000, 1_767_268_800_000 + 86_400_000


def made(kind: PrekeyKind = PrekeyKind.ONE_TIME, number: int = 7) -> PrivatePrekey:
    return PrivatePrekey.generate(number, kind, LATER, "Bob", BOB, seeded())


PRIVATE = made()
PUBLIC = PRIVATE.public


def test_the_bytes() -> None:
    """Written out from protocol §9.1."""
    core = u32(7) + u8(1) + u64(LATER) + seeded()(32) + u16(3)
    core += vec16(PRIVATE.temporary.public) + vec16(PRIVATE.ratchet_keys.public) + vec8(b"Bob") + BOB.key_id
    assert PUBLIC.core == core
    assert PUBLIC.encode() == core + write_signatures(BOB.sign(labels.SIG_PREKEY, core))
    assert labels.SIG_PREKEY == b"MessageApp v2, prekey"


@pytest.mark.parametrize("kind", USER_KINDS)
def test_every_kind_of_user_key(kind: str) -> None:
    owner = identity(kind, "bob")
    prekey = PrivatePrekey.generate(1, PrekeyKind.LAST_RESORT, LATER, "bob", owner, os.urandom).public
    again = Prekey.parse_untrusted(prekey.encode())
    assert again == prekey
    again.verify_untrusted(owner.bundle, "bob", NOW)
    assert len(prekey.encode()) < 7000  # so that 16 of them fit a record


def test_prekeys_one_after_another() -> None:
    three = [made(number=number).public for number in range(3)]
    reader = Reader(b"".join(prekey.encode() for prekey in three))
    assert [Prekey.read_untrusted(reader) for _ in three] == three
    reader.end()


@given(
    st.builds(
        Prekey,
        st.integers(0, 2**32 - 1),
        st.sampled_from(PrekeyKind),
        st.integers(0, 2**64 - 1),
        st.binary(min_size=32, max_size=32),
        st.just(bytes(1216)),
        st.just(bytes(1216)),
        st.from_regex(r"\A[A-Za-z0-9]{1,16}\Z"),
        st.binary(min_size=32, max_size=32),
        st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=80)), min_size=1, max_size=2).map(tuple),
    )
)
def test_what_is_written_is_read(prekey: Prekey) -> None:
    assert Prekey.parse_untrusted(prekey.encode()) == prekey


ENCODED = PUBLIC.encode()
KIND, SUITE, TEMP, USER = 4, 4 + 1 + 8 + 32, 4 + 1 + 8 + 32 + 2, 4 + 1 + 8 + 32 + 2 + 2 * (2 + 1216)


def at(place: int, piece: bytes) -> bytes:
    return ENCODED[:place] + piece + ENCODED[place + len(piece) :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ENCODED[:-1],
        ENCODED + b"\0",
        at(KIND, b"\0"),
        at(KIND, b"\3"),
        at(SUITE, u16(2)),
        at(SUITE, u16(1)),
        replace(PUBLIC, temp_pub=PUBLIC.temp_pub[:-1]).encode(),
        replace(PUBLIC, ratchet=PUBLIC.ratchet + b"\0").encode(),
        at(USER + 1, b"b b"),
        at(USER + 1, b"-ob"),
        at(USER + 1, b"\xffob"),
        replace(PUBLIC, user="").encode(),
        replace(PUBLIC, user="b" * 17).encode(),
        replace(PUBLIC, signatures=()).encode(),
        replace(PUBLIC, signatures=PUBLIC.signatures * 3).encode(),
    ],
)
def test_another_form_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Prekey.parse_untrusted(data)


def test_expired_is_from_that_millisecond_on() -> None:
    PUBLIC.verify_untrusted(BOB.bundle, "Bob", LATER - 1)
    for now in (LATER, LATER + 1):
        with pytest.raises(PrekeyRefused, match="expired"):
            PUBLIC.verify_untrusted(BOB.bundle, "Bob", now)


@pytest.mark.parametrize("user", ["bob", "mallory", ""])
def test_of_another_user(user: str) -> None:
    with pytest.raises(PrekeyRefused, match="another user"):
        PUBLIC.verify_untrusted(BOB.bundle, user, NOW)


def test_of_another_key() -> None:
    with pytest.raises(PrekeyRefused, match="another key"):
        PUBLIC.verify_untrusted(MALLORY.bundle, "Bob", NOW)


CHANGED = {
    "id": replace(PUBLIC, id=8),
    "kind": replace(PUBLIC, kind=PrekeyKind.LAST_RESORT),
    "expires": replace(PUBLIC, expires_ms=LATER + 1),
    "random": replace(PUBLIC, random=bytes(32)),
    "TempPub": replace(PUBLIC, temp_pub=TemporaryKey.generate(SWIFT).public),
    "Ratchet": replace(PUBLIC, ratchet=RatchetKeys().public),
    "signer": replace(PUBLIC, signatures=MALLORY.sign(labels.SIG_PREKEY, PUBLIC.core)),
    "label of C2": replace(PUBLIC, signatures=BOB.sign(labels.SIG_C2, PUBLIC.core)),
    "algorithm": replace(PUBLIC, signatures=((0x0804, PUBLIC.signatures[0][1]),)),
    "two": replace(PUBLIC, signatures=PUBLIC.signatures * 2),
}


@pytest.mark.parametrize("name", CHANGED)
def test_every_field_is_signed(name: str) -> None:
    with pytest.raises(PrekeyRefused, match="not signed"):
        CHANGED[name].verify_untrusted(BOB.bundle, "Bob", NOW)


def test_both_keys_must_have_signed() -> None:
    owner = identity("ed25519+pq", "bob")
    prekey = PrivatePrekey.generate(1, PrekeyKind.ONE_TIME, LATER, "bob", owner, os.urandom).public
    for signatures in (prekey.signatures[:1], prekey.signatures[::-1], (prekey.signatures[0],) * 2):
        with pytest.raises(PrekeyRefused, match="not signed"):
            replace(prekey, signatures=signatures).verify_untrusted(owner.bundle, "bob", NOW)


# Private halves ---------------------------------------------------------------------------------------------------


def test_the_private_half_comes_back() -> None:
    again = PrivatePrekey.decode(PUBLIC, PRIVATE.encode())
    encapsulated, secret = encapsulate_untrusted(SWIFT, PUBLIC.temp_pub, os.urandom)
    for holder in (PRIVATE, again, again):  # it may serve again: who uses it up deletes it
        assert holder.temporary.decapsulate_untrusted(encapsulated, bytes(32)) == secret
    peer = RatchetKeys()
    ciphertext, shared = peer.encapsulate_untrusted(PUBLIC.ratchet[:32], PUBLIC.ratchet[32:])
    assert again.ratchet_keys.decapsulate_untrusted(peer.dh, ciphertext) == shared
    assert again.encode() == PRIVATE.encode()


@pytest.mark.parametrize(
    "data",
    [b"", PRIVATE.encode()[:-1], PRIVATE.encode() + b"\0", b"\2" + PRIVATE.encode()[1:], made().encode()],
    ids=["empty", "short", "long", "version", "of another"],
)
def test_another_private_half_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        PrivatePrekey.decode(PUBLIC, data)


def test_half_of_another_is_malformed() -> None:
    mine, other = PRIVATE.encode(), made().encode()
    for mixed in (mine[:97] + other[97:], other[:97] + mine[97:]):
        with pytest.raises(Malformed):
            PrivatePrekey.decode(PUBLIC, mixed)


def test_a_private_prekey_does_not_show_itself() -> None:
    shown = repr(PRIVATE)
    assert "RatchetKeys" in shown
    for start in range(1, 193, 32):
        assert repr(PRIVATE.encode()[start : start + 8])[2:-1] not in shown


def test_only_an_unused_key_of_swift_is_stored() -> None:
    used = TemporaryKey.generate(SWIFT)
    used.decapsulate_untrusted(encapsulate_untrusted(SWIFT, used.public, os.urandom)[0], bytes(32))
    for key in (used, TemporaryKey.generate(CLASSIC, rsa_key("temporary"))):
        with pytest.raises(RuntimeError):
            key.private_bytes()


@pytest.mark.parametrize("size", [0, 95, 97])
def test_private_keys_of_another_length(size: int) -> None:
    for read in (TemporaryKey.from_private_bytes, RatchetKeys.from_private_bytes):
        with pytest.raises(Malformed):
            read(bytes(size))
