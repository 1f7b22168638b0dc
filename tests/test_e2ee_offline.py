"""Starting a chat with somebody who is away, with the server between the two as the attacker."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from messageapp.e2ee.agreement import C1, ExchangeFailed, Parties
from messageapp.e2ee.offline import (
    MESSAGE,
    START,
    Blob,
    OfferedStart,
    Start,
    accept_untrusted,
    message_blob,
    read_start_untrusted,
    split_blob_untrusted,
    start_blob,
    start_untrusted,
)
from messageapp.e2ee.ratchet import Undecryptable
from messageapp.e2ee.session import ChatSession
from messageapp.wire.records import MAX_ARGUMENT
from messageapp_keys import labels
from messageapp_keys.codec import Malformed, u8, vec24
from messageapp_keys.identity import PrivateIdentity, write_signatures
from messageapp_keys.kem import SWIFT
from messageapp_keys.prekeys import PrekeyKind, PrivatePrekey
from messageapp_keys.ratchetkeys import RatchetKeys
from support.keys import OTHER_SERVER, SERVER, USER_KINDS, identity
from support.pair import HandC3, expand

ALICE, BOB, MALLORY = (identity("ed25519", name) for name in ("alice", "bob", "mallory"))
INVITE, DEVICE = bytes(range(16)), bytes(range(16, 32))
LATER = 1_767_268_800_000


def parties(**changed: object) -> Parties:
    both = Parties(SERVER, INVITE, "alice", ALICE.bundle, "bob", BOB.bundle)
    return replace(both, **changed)  # type: ignore[arg-type]


def prekey_of(
    owner: PrivateIdentity = BOB, user: str = "bob", kind: PrekeyKind = PrekeyKind.ONE_TIME, number: int = 5
) -> PrivatePrekey:
    return PrivatePrekey.generate(number, kind, LATER, user, owner, os.urandom)


@dataclass
class Away:
    """Alice writes to Bob, who is away."""

    prekey: PrivatePrekey = field(default_factory=prekey_of)
    alice: PrivateIdentity = ALICE
    both: Parties = field(default_factory=parties)

    def start(self) -> Start:
        return start_untrusted(self.both, self.alice, self.prekey.public, os.urandom, DEVICE)

    def sender(self, start: Start) -> ChatSession:
        return ChatSession(start.secrets, user="alice", peer="bob", random=os.urandom, peer_ratchet=start.peer_ratchet)

    def accept(self, blob: bytes) -> ChatSession:
        offered = read_start_untrusted(blob)
        accepted = accept_untrusted(offered, self.both, self.prekey, os.urandom)
        return ChatSession(
            accepted.secrets, user="bob", peer="alice", random=os.urandom, own_ratchet=accepted.own_ratchet
        )


def test_a_message_a_reply_and_a_conversation() -> None:
    away = Away()
    start = away.start()
    alice = away.sender(start)
    blob = start_blob(start, alice.seal("are you there?", 1000))
    bob = away.accept(blob)
    assert bob.open_untrusted(read_start_untrusted(blob).message, 0.0).envelope.text == "are you there?"
    assert alice.open_untrusted(bob.seal("now I am", 2000), 0.0).envelope.text == "now I am"
    for number in range(3):
        assert bob.open_untrusted(alice.seal(f"a{number}", 0), 0.0).envelope.text == f"a{number}"
        assert alice.open_untrusted(bob.seal(f"b{number}", 0), 0.0).envelope.text == f"b{number}"


def test_both_sides_hold_the_same() -> None:
    away = Away()
    start = away.start()
    offered = read_start_untrusted(start_blob(start, b"first"))
    accepted = accept_untrusted(offered, parties(), away.prekey, os.urandom)
    assert accepted.secrets == start.secrets
    assert accepted.transcript == start.transcript
    assert len(start.transcript) == 32
    assert start.secrets.suite is SWIFT
    assert start.peer_ratchet == away.prekey.public.ratchet == accepted.own_ratchet.public
    assert start.secrets.associated_data == parties().associated_data()
    assert offered == OfferedStart(
        caller="alice",
        receiver="bob",
        caller_key=ALICE.key_id,
        receiver_key=BOB.key_id,
        server=SERVER,
        invite=INVITE,
        prekey_id=5,
        device=DEVICE,
        c1=start.c1,
        c3=start.c3,
        message=b"first",
    )


@pytest.mark.parametrize("kind", USER_KINDS)
def test_every_kind_of_user_key(kind: str) -> None:
    alice, bob = identity(kind, "alice"), identity(kind, "bob")
    both = parties(caller_bundle=alice.bundle, receiver_bundle=bob.bundle)
    away = Away(prekey_of(bob), alice, both)
    start = away.start()
    away.accept(start_blob(start, b""))


def test_the_start_by_hand() -> None:
    """C3 and every derived value written again with hashlib and hmac: the prekey stands in the place of C2."""
    away = Away()
    offer = away.prekey.public.encode()
    c1 = C1.of(parties(), (SWIFT.code,), os.urandom, {1: b"\0\0\0\5"}).encode()
    hand = HandC3(c1, offer, temp_pub=away.prekey.public.temp_pub)
    c3 = hand.encode()
    offered = read_start_untrusted(u8(2) + vec24(c1) + vec24(c3))
    accepted = accept_untrusted(offered, parties(), away.prekey, os.urandom)
    assert accepted.transcript == hand.transcript(c3)
    assert accepted.secrets.root.expose() == expand(hand.prk, b"chat root", hand.transcript(c3))
    assert offered.device == b""


# Blobs ------------------------------------------------------------------------------------------------------------


def test_the_bytes_of_blobs() -> None:
    start = Away().start()
    assert message_blob(b"ratchet") == b"\1ratchet"
    assert start_blob(start, b"ratchet") == b"\2" + vec24(start.c1) + vec24(start.c3) + b"ratchet"
    assert split_blob_untrusted(b"\1ratchet") == Blob(MESSAGE, b"ratchet")
    assert split_blob_untrusted(start_blob(start, b"x")) == Blob(START, b"x", start.c1, start.c3)


@pytest.mark.parametrize("blob", [b"", b"\0", b"\3abc", b"\2", b"\2" + vec24(b"c1"), b"\2" + vec24(b"") + b"\0\0\1"])
def test_other_blobs_are_malformed(blob: bytes) -> None:
    with pytest.raises(Malformed):
        split_blob_untrusted(blob)


def test_the_largest_start_fits_a_record() -> None:
    """Both keys of a composite identity, and the longest text."""
    alice = identity("rsa+pq", "alice")
    away = Away(alice=alice, both=parties(caller_bundle=alice.bundle))
    start = away.start()
    assert len(start_blob(start, away.sender(start).seal("x" * 65_535, 0))) < 128_000 < MAX_ARGUMENT


def hand_blob(suites: tuple[int, ...] = (3,), extra: dict[int, bytes] | None = None) -> bytes:
    extra = {1: b"\0\0\0\5"} if extra is None else extra
    return b"\2" + vec24(C1.of(parties(), suites, os.urandom, extra).encode()) + vec24(b"c3")


def test_a_start_is_read_with_later_fields() -> None:
    assert read_start_untrusted(hand_blob(extra={1: b"\0\0\0\5", 9: b"later"})).prekey_id == 5


@pytest.mark.parametrize(
    "blob",
    [
        b"\1message",
        b"\2" + vec24(b"no C1") + vec24(b"c3"),
        hand_blob(suites=()),
        hand_blob(suites=(2,)),
        hand_blob(suites=(3, 2)),
        hand_blob(extra={}),
        hand_blob(extra={1: b"\5"}),
        hand_blob(extra={1: bytes(5)}),
        hand_blob(extra={1: bytes(4), 2: bytes(15)}),
    ],
)
def test_other_starts_are_malformed(blob: bytes) -> None:
    with pytest.raises(Malformed):
        read_start_untrusted(blob)


# The server as the attacker ---------------------------------------------------------------------------------------


def refused(blob: bytes, both: Parties | None = None, prekey: PrivatePrekey | None = None) -> None:
    offered = read_start_untrusted(blob)
    with pytest.raises(ExchangeFailed):
        accept_untrusted(offered, both or parties(), prekey or prekey_of(), os.urandom)


PREKEY = prekey_of()
START_OF_ALICE = Away(PREKEY).start()
GENUINE = start_blob(START_OF_ALICE, b"message")


def test_a_prekey_serves_again_after_garbage() -> None:
    """What is refused uses nothing up: a server could take one-time prekeys away else."""
    broken = replace(START_OF_ALICE, c3=START_OF_ALICE.c3[:-1] + bytes([START_OF_ALICE.c3[-1] ^ 1]))
    refused(start_blob(broken, b""), prekey=PREKEY)
    accept_untrusted(read_start_untrusted(GENUINE), parties(), PREKEY, os.urandom)


@pytest.mark.parametrize(
    "changed",
    [
        {"server": OTHER_SERVER},
        {"invite": bytes(16)},
        {"caller": "mallory"},
        {"caller": "Alice"},
        {"receiver": "carol"},
        {"caller_bundle": MALLORY.bundle},
        {"receiver_bundle": MALLORY.bundle},
        {"caller": "bob", "receiver": "alice", "caller_bundle": BOB.bundle, "receiver_bundle": ALICE.bundle},
    ],
)
def test_a_start_counts_only_between_these_two_here(changed: dict[str, object]) -> None:
    refused(GENUINE, parties(**changed), PREKEY)


def test_a_start_over_another_prekey() -> None:
    """Same number, other keys; other number; of another user; of a key before."""
    for other in (
        prekey_of(),
        prekey_of(number=6),
        prekey_of(user="carol"),
        prekey_of(MALLORY),
        replace(PREKEY, public=replace(PREKEY.public, expires_ms=1)),
        replace(PREKEY, public=replace(PREKEY.public, random=bytes(32))),
        replace(PREKEY, public=replace(PREKEY.public, signatures=MALLORY.sign(labels.SIG_PREKEY, PREKEY.public.core))),
    ):
        refused(GENUINE, prekey=other)


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_every_part_of_c1_is_bound(place: int) -> None:
    c1 = bytearray(START_OF_ALICE.c1)
    c1[place % len(c1)] ^= 1
    blob = start_blob(replace(START_OF_ALICE, c1=bytes(c1)), b"")
    try:
        refused(blob, prekey=PREKEY)
    except Malformed:
        return


@pytest.mark.parametrize("place", range(0, 1400, 29))
def test_every_part_of_c3_is_bound(place: int) -> None:
    c3 = bytearray(START_OF_ALICE.c3)
    c3[place % len(c3)] ^= 1
    refused(start_blob(replace(START_OF_ALICE, c3=bytes(c3)), b""), prekey=PREKEY)


@pytest.mark.parametrize("change", [lambda c3: c3[:-1], lambda c3: c3 + b"\0", lambda c3: b""])
def test_c3_has_one_length(change: Callable[[bytes], bytes]) -> None:
    refused(start_blob(replace(START_OF_ALICE, c3=change(START_OF_ALICE.c3)), b""), prekey=PREKEY)


def hand(**changed: object) -> bytes:
    c1 = C1.of(parties(), (SWIFT.code,), os.urandom, {1: b"\0\0\0\5"}).encode()
    made = HandC3(c1, PREKEY.public.encode(), temp_pub=PREKEY.public.temp_pub)
    return b"\2" + vec24(c1) + vec24(replace(made, **changed).encode())  # type: ignore[arg-type]


def test_only_the_callers_signature_over_these_keys_counts() -> None:
    accept_untrusted(read_start_untrusted(hand()), parties(), PREKEY, os.urandom)
    for changed in (
        {"who": MALLORY},
        {"who": BOB},
        {"label": labels.SIG_M3},
        {"label": labels.SIG_PREKEY},
        {"caller_key": MALLORY.key_id},
        {"receiver_key": MALLORY.key_id},
        {"caller_key": BOB.key_id, "receiver_key": ALICE.key_id},
        {"signatures": lambda made: made * 2},
        {"plaintext": lambda proof: proof + b"\0"},
        {"plaintext": lambda proof: write_signatures(())},
    ):
        refused(hand(**changed), prekey=PREKEY)


@pytest.mark.parametrize("other", [prekey_of(MALLORY), prekey_of(user="carol")])
def test_a_start_over_a_prekey_of_a_key_before_or_of_another_account(other: PrivatePrekey) -> None:
    """Everything else in it is right: only the prekey itself says that it is not for these two."""
    c1 = C1.of(parties(), (SWIFT.code,), os.urandom, {1: b"\0\0\0\5"}).encode()
    c3 = HandC3(c1, other.public.encode(), temp_pub=other.public.temp_pub).encode()
    refused(b"\2" + vec24(c1) + vec24(c3), prekey=other)


def test_a_start_replayed_is_the_same_start() -> None:
    """It is accepted again, so who keeps a last-resort prekey remembers the transcript, which is the same."""
    last = prekey_of(kind=PrekeyKind.LAST_RESORT)
    blob = start_blob(Away(last).start(), b"message")
    first, again = (
        accept_untrusted(read_start_untrusted(blob), parties(), last, os.urandom).transcript for _ in range(2)
    )
    other = accept_untrusted(
        read_start_untrusted(start_blob(Away(last).start(), b"message")), parties(), last, os.urandom
    )
    assert first == again != other.transcript
    assert read_start_untrusted(blob[:-1] + b"!").c3 == read_start_untrusted(blob).c3  # the message is not in it


def test_the_message_of_one_start_does_not_open_in_another() -> None:
    away = Away()
    one, two = away.start(), away.start()
    blob = start_blob(one, away.sender(two).seal("other", 0))
    with pytest.raises(Undecryptable):
        away.accept(blob).open_untrusted(read_start_untrusted(blob).message, 0.0)


# The prekey of a server -------------------------------------------------------------------------------------------


def test_a_prekey_that_is_not_the_receivers_starts_nothing() -> None:
    for prekey in (prekey_of(MALLORY), prekey_of(user="carol"), prekey_of(user="Bob")):
        with pytest.raises(ExchangeFailed):
            start_untrusted(parties(), ALICE, prekey.public, os.urandom, DEVICE)


@pytest.mark.parametrize(
    "temp_pub", [bytes(32) + PREKEY.public.temp_pub[32:], PREKEY.public.temp_pub[:32] + b"\xff" * 1184]
)
def test_temporary_keys_that_nobody_may_have(temp_pub: bytes) -> None:
    """Signed by the receiver himself."""
    with pytest.raises(ExchangeFailed):
        start_untrusted(parties(), ALICE, replace(PREKEY.public, temp_pub=temp_pub), os.urandom)


def test_ratchet_keys_that_nobody_may_have() -> None:
    for ratchet in (bytes(32) + RatchetKeys().ek, RatchetKeys().dh + b"\xff" * 1184):
        start = start_untrusted(parties(), ALICE, replace(PREKEY.public, ratchet=ratchet), os.urandom)
        with pytest.raises(ExchangeFailed):
            Away().sender(start)


def test_no_two_starts_share_anything() -> None:
    one, two = Away(PREKEY).start(), Away(PREKEY).start()
    assert one.c1 != two.c1
    assert one.c3[:1122] != two.c3[:1122]
    assert one.secrets.chat_id != two.secrets.chat_id
    assert one.transcript != two.transcript
