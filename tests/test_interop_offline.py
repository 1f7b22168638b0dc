"""Starts towards somebody who is away between the product and the second implementation, in both directions."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.base import SWIFT, Identity, ProtocolError, Reader, tlv
from interop.chat import Ratchet
from interop.offline import LAST_RESORT, Offline, Prekey, Read, Theirs
from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.exchange import ExchangeFailed, Parties
from messageapp.e2ee.offline import accept_untrusted, read_start_untrusted, start_blob, start_untrusted
from messageapp.e2ee.ratchet import Undecryptable
from messageapp.e2ee.session import ChatSession
from messageapp_keys import prekeys
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.prekeys import PrekeyKind, PrekeyRefused, PrivatePrekey
from support.keys import SERVER, identity

INVITE, DEVICE = bytes(range(16)), bytes(range(16, 32))
NOW, LATER = 1_767_268_800_000, 1_767_268_900_000
PEER = Identity.make("peer", "ed25519", "mldsa65")  # plays the second implementation's side


def bundle_of(who: Identity) -> IdentityBundle:
    return IdentityBundle.parse_untrusted(who.bundle)


def product(kind: str = "ed25519") -> PrivateIdentity:
    return identity(kind, "alice")


def to_peer(me: PrivateIdentity) -> Parties:
    return Parties(SERVER, INVITE, "alice", me.bundle, "peer", bundle_of(PEER))


def talk(session: ChatSession, ratchet: Ratchet, rounds: int = 3) -> None:
    for number in range(rounds):
        assert session.open_untrusted(ratchet.text(f"peer {number}"), 0.0).envelope.text == f"peer {number}"
        assert ratchet.open(session.seal(f"ours {number}", 0))[3] == b"ours %d" % number


def accept_with_product(blob: bytes, mine: PrivatePrekey, me: PrivateIdentity, invite: bytes = INVITE) -> ChatSession:
    parties = Parties(SERVER, invite, "peer", bundle_of(PEER), "alice", me.bundle)
    accepted = accept_untrusted(read_start_untrusted(blob), parties, mine, os.urandom)
    return ChatSession(accepted.secrets, user="alice", peer="peer", random=os.urandom, own_ratchet=accepted.own_ratchet)


@pytest.mark.parametrize("kind", ["ed25519", "ed25519+pq", "rsa-3072"])
def test_the_product_starts_over_a_prekey_of_the_peer(kind: str) -> None:
    me, mine = product(kind), Prekey(PEER, 9, LATER)
    public = prekeys.Prekey.parse_untrusted(mine.bytes)
    public.verify_untrusted(bundle_of(PEER), "peer", NOW)
    start = start_untrusted(to_peer(me), me, public, os.urandom, DEVICE)
    alice = ChatSession(start.secrets, user="alice", peer="peer", random=os.urandom, peer_ratchet=start.peer_ratchet)
    read = Read.blob(start_blob(start, alice.seal("are you there?", 0)))
    assert (read.prekey, read.device, read.invite) == (9, DEVICE, INVITE)
    peer = Offline(PEER, "alice", me.bundle.encode(), SERVER, INVITE, False)
    peer.accept(read, mine)
    ratchet = peer.ratchet()
    assert ratchet.open(read.message)[3] == b"are you there?"
    talk(alice, ratchet)


@pytest.mark.parametrize("kind", ["ed25519", "ed25519+pq", "rsa-3072"])
@pytest.mark.parametrize("device", [b"", DEVICE])
def test_the_peer_starts_over_a_prekey_of_the_product(kind: str, device: bytes) -> None:
    me = product(kind)
    mine = PrivatePrekey.generate(77, PrekeyKind.LAST_RESORT, LATER, "alice", me, os.urandom)
    theirs = Theirs.read(Reader(mine.public.encode()), "alice", me.bundle.encode(), NOW)
    assert (theirs.number, theirs.kind) == (77, LAST_RESORT)
    peer = Offline(PEER, "alice", me.bundle.encode(), SERVER, INVITE, True, device=device, extra=tlv(99, b"later"))
    peer.start(theirs)
    ratchet = peer.ratchet()
    blob = peer.blob(ratchet.text("hello"))
    # from here on with what a disk gives back
    stored = PrivatePrekey.decode(prekeys.Prekey.parse_untrusted(mine.public.encode()), mine.encode())
    alice = accept_with_product(blob, stored, me)
    assert alice.open_untrusted(read_start_untrusted(blob).message, 0.0).envelope.text == "hello"
    talk(ChatSession.decode(alice.encode(), random=os.urandom), ratchet)


def test_notes_are_read_on_the_other_side() -> None:
    me, mine = product(), Prekey(PEER, 1, LATER)
    start = start_untrusted(to_peer(me), me, prekeys.Prekey.parse_untrusted(mine.bytes), os.urandom)
    alice = ChatSession(start.secrets, user="alice", peer="peer", random=os.urandom, peer_ratchet=start.peer_ratchet)
    one, two = bytes(16), bytes([1] * 16)
    note = Envelope(
        one, 1, receipts=(one, two), reply_to=two, expire_s=60, read=(one,), resend=(two,), edits=one, react=(two, "x")
    )
    read = Read.blob(start_blob(start, alice.seal_envelope(note)))
    peer = Offline(PEER, "alice", me.bundle.encode(), SERVER, INVITE, False)
    peer.accept(read, mine)
    ratchet = peer.ratchet()
    found = ratchet.open(read.message)
    expected = {4: one + two, 9: two, 10: b"\0\0\0\x3c", 11: one, 12: two, 13: one, 14: two + b"x"}
    assert {kind: found[kind] for kind in expected} == expected
    entries = (tlv(kind, value) for kind, value in expected.items())
    back = alice.open_untrusted(ratchet.text(None, *entries), 0.0).envelope
    assert (back.receipts, back.reply_to, back.expire_s, back.read) == ((one, two), two, 60, (one,))
    assert (back.resend, back.edits, back.react) == ((two,), one, (two, "x"))


# A peer that is wrong on purpose ----------------------------------------------------------------------------------

OTHER = Identity.make("peer", "ed25519")
FORM: dict[str, dict[str, Any]] = {
    "kind": {"kind": 3},
    "suite": {"suite": 2},
    "TempPub": {"temp_pub": b"short"},
    "Ratchet": {"ratchet": b"short"},
    "name": {"user": "-peer"},
}
REFUSED: dict[str, dict[str, Any]] = {
    "user": {"user": "carol"},
    "spelling": {"user": "Peer"},
    "key": {"key_id": bytes(32)},
    "label": {"label": b"MessageApp v2, chat key offer (C2)"},
    "changed": {"on_core": lambda core: bytes([core[0] ^ 1]) + core[1:]},
    "expired": {"expires": NOW},
}


def wrong_prekey(fields: dict[str, Any]) -> Prekey:
    return Prekey(PEER, 1, **({"expires": LATER} | fields))


@pytest.mark.parametrize("name", FORM)
def test_a_prekey_of_another_form(name: str) -> None:
    with pytest.raises(Malformed):
        prekeys.Prekey.parse_untrusted(wrong_prekey(FORM[name]).bytes)


@pytest.mark.parametrize("name", REFUSED)
def test_a_prekey_that_is_not_the_peers_or_has_expired(name: str) -> None:
    public = prekeys.Prekey.parse_untrusted(wrong_prekey(REFUSED[name]).bytes)
    with pytest.raises(PrekeyRefused):
        public.verify_untrusted(bundle_of(PEER), "peer", NOW)


def test_the_second_implementation_refuses_the_same_prekeys() -> None:
    """So that the tests above do not hang on what only the product thinks is wrong."""
    for fields in (*FORM.values(), *REFUSED.values()):
        if fields not in (FORM["TempPub"], FORM["name"]):  # looked at when it encapsulates; names are the server's
            with pytest.raises(ProtocolError):
                Theirs.read(Reader(wrong_prekey(fields).bytes), "peer", PEER.bundle, NOW)


MINE = PrivatePrekey.generate(5, PrekeyKind.LAST_RESORT, LATER, "alice", product(), os.urandom)


def offline(**choices: object) -> Offline:
    made = {"me": PEER, "peer": "alice", "peer_bundle": product().bundle.encode(), "server": SERVER, "invite": INVITE}
    return Offline(**(made | {"calling": True} | choices))  # type: ignore[arg-type]


def blob_of(start: Offline, number: int | None = None) -> bytes:
    start.start(Theirs.read(Reader(MINE.public.encode()), "alice", product().bundle.encode(), NOW), number)
    return start.blob(b"message")


WRONG = {
    "another server": lambda: blob_of(offline(server="other.example.org")),
    "another caller": lambda: blob_of(offline(me=OTHER)),
    "another name": lambda: blob_of(offline(me=Identity("carol", PEER.keys))),
    "another receiver": lambda: blob_of(offline(peer="carol")),
    "another key of the receiver": lambda: blob_of(offline(peer_bundle=OTHER.bundle)),
    "another number": lambda: blob_of(offline(), 6),
    "one of two signatures": lambda: blob_of(offline(on_proof=lambda proof: b"\1" + proof[1 : 1 + 4 + 64])),
    "a byte behind the signatures": lambda: blob_of(offline(on_proof=lambda proof: proof + b"\0")),
    "no signatures": lambda: blob_of(offline(on_proof=lambda _: b"\0")),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_start_that_is_not_for_us_from_this_peer(name: str) -> None:
    with pytest.raises(ExchangeFailed):
        accept_with_product(WRONG[name](), MINE, product())


def test_the_right_one_is_accepted() -> None:
    accept_with_product(blob_of(offline()), MINE, product())


@pytest.mark.parametrize(
    "choices", [{"suites": ()}, {"suites": (2,)}, {"suites": (SWIFT, 2)}, {"extra": tlv(1, b"x")}, {"device": b"short"}]
)
def test_a_start_of_another_form(choices: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        read_start_untrusted(blob_of(offline(**choices)))


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_of_a_start_may_change(place: int, bit: int) -> None:
    """C1, C3 and the first message: one of the three checks refuses."""
    start = offline()
    start.start(Theirs.read(Reader(MINE.public.encode()), "alice", product().bundle.encode(), NOW))
    blob = bytearray(start.blob(start.ratchet().text("hello")))
    blob[place % len(blob)] ^= 1 << bit

    def take_in() -> None:
        read = read_start_untrusted(bytes(blob))
        accept_with_product(bytes(blob), MINE, product(), read.invite).open_untrusted(read.message, 0.0)

    with pytest.raises((Malformed, ExchangeFailed, Undecryptable)):
        take_in()
