"""The chat exchange C1–C4 with the server between the two as the attacker."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp.e2ee.exchange import ExchangeFailed, Parties
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.login import LoginFailed
from messageapp_keys import labels
from messageapp_keys.codec import u8, u16, vec8, vec16, vec24
from messageapp_keys.identity import PrivateIdentity, Signatures, write_signatures
from messageapp_keys.kem import CLASSIC, HYBRID, SUITES, SWIFT, Suite
from messageapp_keys.ratchetkeys import RatchetKeys
from support.keys import OTHER_SERVER, SERVER, USER_KINDS, identity, temporary
from support.pair import Change, ChatPair, HandC3, HandM3, LoginPair, digest, expand

ALICE, BOB, MALLORY = (identity("ed25519", name) for name in ("alice", "bob", "mallory"))
INVITE = bytes(range(16))


def flip(position: int) -> Change:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return change


@dataclass
class HandC1:
    """C1 written out (protocol §8)."""

    random: bytes = bytes(32)
    suites: tuple[int, ...] = (SWIFT.code,)
    invite: bytes = INVITE
    caller: bytes = b"alice"
    receiver: bytes = b"bob"
    caller_key: bytes = ALICE.key_id
    receiver_key: bytes = BOB.key_id
    server: bytes = SERVER.encode()
    magic: bytes = b"MSGCHAT\x02"
    extra: bytes = vec16(b"")

    def encode(self) -> bytes:
        suites = u8(len(self.suites)) + b"".join(map(u16, self.suites))
        names = vec8(self.caller) + vec8(self.receiver)
        keys = self.caller_key + self.receiver_key
        return self.magic + self.random + suites + self.invite + names + keys + vec8(self.server) + self.extra


def hand_c2(
    c1: bytes,
    suite: Suite = SWIFT,
    *,
    who: PrivateIdentity = BOB,
    label: bytes = labels.SIG_C2,
    code: int | None = None,
    temp_pub: Change = lambda raw: raw,
    ratchet: Change = lambda raw: raw,
    signed: Change = lambda raw: raw,
    signatures: Callable[[Signatures], Signatures] = lambda made: made,
) -> bytes:
    core = os.urandom(32) + u16(suite.code if code is None else code) + vec16(temp_pub(temporary(suite).public))
    core += vec16(ratchet(RatchetKeys().public)) + vec16(b"")
    offer = digest(b"MessageApp v2 TH-C2", vec24(c1), vec24(signed(core)))
    return core + write_signatures(signatures(who.sign(label, offer)))


# What works -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", list(SUITES.values()), ids=[suite.name for suite in SUITES.values()])
def test_both_sides_end_with_the_same_secrets(suite: Suite) -> None:
    pair = ChatPair(suites=[suite])
    alice = pair.run()
    bob = pair.bobs_secrets
    assert alice == bob
    assert alice.suite is suite
    assert pair.caller.peer_ratchet == pair.ratchet.public


@pytest.mark.parametrize("kind", USER_KINDS)
def test_every_kind_of_user_key(kind: str) -> None:
    ChatPair(alice=identity(kind, "alice"), bob=identity("ed25519+pq", "bob")).run()
    ChatPair(alice=identity("ed25519", "alice"), bob=identity(kind, "bob")).run()


def test_the_exchange_by_hand() -> None:
    """Every derived value, written again with hashlib and hmac."""
    pair = ChatPair(suites=[SWIFT])
    c1 = HandC1(random=os.urandom(32)).encode()
    c2 = pair.c2(c1)
    hand = HandC3(c1, c2)
    c3 = hand.encode()
    c4 = pair.c4(c3)
    transcript = digest(b"MessageApp v2 TH-C3", vec24(c1), vec24(c2), vec24(c3))
    assert AESGCM(expand(hand.prk, b"c4", transcript)).decrypt(bytes(12), c4, transcript) == b"CHAT IS SECURE!"
    secrets = pair.bobs_secrets
    assert secrets.root.expose() == expand(hand.prk, b"chat root", transcript)
    assert secrets.chat_id == expand(hand.prk, b"chat id", transcript, 8)
    assert secrets.exporter.expose() == expand(hand.prk, b"chat exporter", transcript)
    pairs = sorted([(ALICE.key_id, b"alice"), (BOB.key_id, b"bob")])
    expected = digest(b"MessageApp v2 chat ad", vec8(SERVER.encode()), *(vec8(name) + key for key, name in pairs))
    assert secrets.associated_data == expected


def test_the_associated_data_does_not_depend_on_who_called() -> None:
    one = Parties(SERVER, INVITE, "alice", ALICE.bundle, "bob", BOB.bundle)
    other = Parties(SERVER, bytes(16), "bob", BOB.bundle, "alice", ALICE.bundle)
    assert one.associated_data() == other.associated_data()
    for changed in (replace(one, server=OTHER_SERVER), replace(one, caller="alicia"), replace(one, receiver="rob")):
        assert changed.associated_data() != one.associated_data()
    assert replace(one, caller_bundle=MALLORY.bundle).associated_data() != one.associated_data()


def test_the_associated_data_goes_by_key_ids_and_not_by_names() -> None:
    low, high = sorted((ALICE, BOB), key=lambda who: who.key_id)
    for first, second in (("anna", "zoe"), ("zoe", "anna")):
        expected = digest(
            b"MessageApp v2 chat ad",
            vec8(SERVER.encode()),
            vec8(first.encode()) + low.key_id + vec8(second.encode()) + high.key_id,
        )
        assert Parties(SERVER, INVITE, first, low.bundle, second, high.bundle).associated_data() == expected
        assert Parties(SERVER, INVITE, second, high.bundle, first, low.bundle).associated_data() == expected


def test_a_c1_with_a_later_tlv_is_taken() -> None:
    ChatPair().c2(HandC1(extra=vec16(u16(99) + vec16(b"new"))).encode())


def test_the_receivers_best_suite_is_chosen() -> None:
    assert ChatPair().receiver.receive_c1_untrusted(HandC1(suites=(1, 2, 3, 0x0A0A)).encode()) is SWIFT


def test_secrets_are_in_no_repr() -> None:
    pair = ChatPair()
    secrets = pair.run()
    shown = repr(secrets) + repr(vars(pair.caller)) + repr(vars(pair.receiver))
    assert secrets.root.expose().hex() not in shown
    assert repr(secrets.root.expose())[2:-1] not in shown
    assert "<RootKey>" in shown


# C1 at the receiver -----------------------------------------------------------------------------------------------

C1_REFUSED: dict[str, dict[str, Any]] = {
    "magic": {"magic": b"MSGCHAT\x01"},
    "a login's magic": {"magic": b"MSGAPP\0\x02"},
    "no suites": {"suites": ()},
    "unknown suites": {"suites": (0x0A0A, 4)},
    "other invite": {"invite": bytes(16)},
    "other caller": {"caller": b"mallory"},
    "caller in another spelling": {"caller": b"Alice"},
    "other receiver": {"receiver": b"carol"},
    "roles swapped": {
        "caller": b"bob",
        "receiver": b"alice",
        "caller_key": BOB.key_id,
        "receiver_key": ALICE.key_id,
    },
    "names swapped": {"caller": b"bob", "receiver": b"alice"},
    "key ids swapped": {"caller_key": BOB.key_id, "receiver_key": ALICE.key_id},
    "caller's key id of a third user": {"caller_key": MALLORY.key_id},
    "receiver's key id of a third user": {"receiver_key": MALLORY.key_id},
    "other server": {"server": OTHER_SERVER.encode()},
    "server in another spelling": {"server": SERVER.upper().encode()},
    "a name with control characters": {"caller": b"al\x1bce"},
    "duplicate TLV": {"extra": vec16((u16(1) + vec16(b"")) * 2)},
    "trailing byte": {"extra": vec16(b"") + b"\0"},
    "cut": {"extra": b"\0"},
}


@pytest.mark.parametrize("case", list(C1_REFUSED))
def test_c1_that_a_receiver_refuses(case: str) -> None:
    with pytest.raises(ExchangeFailed):
        ChatPair().receiver.receive_c1_untrusted(HandC1(**C1_REFUSED[case]).encode())


@pytest.mark.parametrize(
    "view",
    [
        {"invite": bytes(16)},
        {"server": OTHER_SERVER},
        {"caller_bundle": MALLORY.bundle},
        {"receiver_bundle": ALICE.bundle},
    ],
    ids=lambda view: next(iter(view)),
)
def test_the_receivers_own_knowledge_decides(view: dict[str, Any]) -> None:
    """What the server told the two of them differs."""
    pair = ChatPair(bobs_view=view)
    with pytest.raises(ExchangeFailed):
        pair.c2(pair.c1())


@given(st.binary(max_size=300))
def test_garbage_as_c1(garbage: bytes) -> None:
    pair = ChatPair()
    for data in (garbage, b"MSGCHAT\x02" + garbage):
        with pytest.raises(ExchangeFailed):
            pair.receiver.receive_c1_untrusted(data)


C1_CHANGED: dict[str, dict[str, Any]] = {
    "R1": {"random": b"\x01" * 32},
    "suites": {"suites": (SWIFT.code, CLASSIC.code)},
    "TLVs": {"extra": vec16(u16(5) + vec16(b"added"))},
}


@pytest.mark.parametrize("case", list(C1_CHANGED))
def test_what_the_receiver_cannot_judge_in_c1_the_caller_finds_in_the_signature(case: str) -> None:
    """No downgrade: the suites that the relay took away or added are in TH_C2."""
    pair = ChatPair(suites=[SWIFT])
    pair.c1()
    c2 = pair.c2(HandC1(**C1_CHANGED[case]).encode())
    with pytest.raises(ExchangeFailed):
        pair.c3(c2)


# C2 at the caller -------------------------------------------------------------------------------------------------

C2_REFUSED: dict[str, dict[str, Any]] = {
    "suite not offered": {"suite": CLASSIC},
    "suite unknown": {"code": 0x0A0A},
    "suite named other than made": {"code": HYBRID.code},
    "by a third user": {"who": MALLORY},
    "by the caller herself": {"who": ALICE},
    "the C3 label": {"label": labels.SIG_C3},
    "the M2 label": {"label": labels.SIG_M2},
    "the M3 label": {"label": labels.SIG_M3},
    "no signature": {"signatures": lambda made: ()},
    "two signatures": {"signatures": lambda made: made * 2},
    "signature changed": {"signatures": lambda made: ((made[0][0], flip(3)(made[0][1])),)},
    "signature under another algorithm": {"signatures": lambda made: ((0x0804, made[0][1]),)},
    "signed other bytes": {"signed": flip(40)},
    "temporary key cut": {"temp_pub": lambda raw: raw[:-1]},
    "temporary key extended": {"temp_pub": lambda raw: raw + b"\0"},
    "X25519 of low order": {"temp_pub": lambda raw: bytes(32) + raw[32:]},
    "ML-KEM coefficient ≥ q": {"temp_pub": lambda raw: raw[:32] + b"\xff\x0f" + raw[34:]},
    "ratchet keys cut": {"ratchet": lambda raw: raw[:-1]},
    "ratchet keys extended": {"ratchet": lambda raw: raw + b"\0"},
    "no ratchet keys": {"ratchet": lambda raw: b""},
}


@pytest.mark.parametrize("case", list(C2_REFUSED))
def test_c2_that_a_caller_refuses(case: str) -> None:
    pair = ChatPair(suites=[HYBRID, SWIFT])
    c2 = hand_c2(pair.c1(), **C2_REFUSED[case])
    with pytest.raises(ExchangeFailed):
        pair.c3(c2)


def test_the_hand_made_c2_is_taken() -> None:
    pair = ChatPair(suites=[HYBRID, SWIFT])
    pair.c3(hand_c2(pair.c1()))


@pytest.mark.parametrize("position", [0, 32, 33, 34, 36, 300, 1260, 1290, 2470, -80, -66, -64, -1])
def test_any_byte_of_c2_changed_by_the_relay_is_refused(position: int) -> None:
    pair = ChatPair(suites=[SWIFT])
    with pytest.raises(ExchangeFailed):
        pair.c3(flip(position)(pair.c2(pair.c1())))


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b""])
def test_c2_is_exact(change: Change) -> None:
    pair = ChatPair(suites=[SWIFT])
    with pytest.raises(ExchangeFailed):
        pair.c3(change(pair.c2(pair.c1())))


def test_a_c2_of_another_exchange_is_refused() -> None:
    earlier, now = ChatPair(), ChatPair()
    c2 = earlier.c2(earlier.c1())
    now.c1()
    with pytest.raises(ExchangeFailed):
        now.c3(c2)


def test_a_second_c2_is_refused() -> None:
    """One call makes one C3: a relay gets no second signature out of it, after a failure neither."""
    pair = ChatPair(suites=[SWIFT])
    c2 = pair.c2(pair.c1())
    pair.c3(c2)
    with pytest.raises(ExchangeFailed):
        pair.c3(c2)
    pair = ChatPair(suites=[SWIFT])
    c2 = pair.c2(pair.c1())
    with pytest.raises(ExchangeFailed):
        pair.c3(flip(0)(c2))
    with pytest.raises(ExchangeFailed):
        pair.c3(c2)


# C3 at the receiver -----------------------------------------------------------------------------------------------

C3_REFUSED: dict[str, dict[str, Any]] = {
    "Enc(K) truncated": {"encapsulated": lambda raw: raw[:-1]},
    "Enc(K) extended": {"encapsulated": lambda raw: raw + b"\0"},
    "Enc(K) all zero": {"encapsulated": lambda raw: bytes(len(raw))},
    "Enc(K) changed": {"encapsulated": flip(-1)},
    "sealed: first byte": {"sealed": flip(0)},
    "sealed: tag": {"sealed": flip(-1)},
    "sealed: cut": {"sealed": lambda raw: raw[:-1]},
    "sealed: empty": {"sealed": lambda raw: b""},
    "trailing byte inside": {"plaintext": lambda raw: raw + b"\0"},
    "cut inside": {"plaintext": lambda raw: raw[:-1]},
    "by a third user": {"who": MALLORY},
    "by a third user, naming her key": {"who": MALLORY, "caller_key": MALLORY.key_id},
    "by the receiver himself": {"who": BOB},
    "for a third receiver": {"receiver_key": MALLORY.key_id},
    "key ids swapped": {"caller_key": BOB.key_id, "receiver_key": ALICE.key_id},
    "the C2 label": {"label": labels.SIG_C2},
    "the login's label": {"label": labels.SIG_M3},
    "transcript alone": {"body": lambda raw: raw[:32]},
    "no signature": {"signatures": lambda made: ()},
    "two signatures": {"signatures": lambda made: made * 2},
    "signature changed": {"signatures": lambda made: ((made[0][0], flip(3)(made[0][1])),)},
}


@pytest.mark.parametrize("case", list(C3_REFUSED))
def test_c3_that_a_receiver_refuses(case: str) -> None:
    pair = ChatPair(suites=[SWIFT])
    c1 = pair.c1()
    c3 = HandC3(c1, pair.c2(c1), **C3_REFUSED[case]).encode()
    with pytest.raises(ExchangeFailed):
        pair.c4(c3)


@pytest.mark.parametrize(
    "change", [lambda raw: b"", lambda raw: raw[:-1], lambda raw: raw + b"\0", flip(0), flip(1200)]
)
def test_c3_changed_by_the_relay_is_refused(change: Change) -> None:
    pair = ChatPair(suites=[SWIFT])
    with pytest.raises(ExchangeFailed):
        pair.c4(change(pair.c3(pair.c2(pair.c1()))))


def test_of_two_signatures_both_must_verify_in_c2_and_c3() -> None:
    alice, bob = identity("ed25519+pq", "alice"), identity("ed25519+pq", "bob")
    pair = ChatPair(alice=alice, bob=bob, suites=[SWIFT])
    with pytest.raises(ExchangeFailed):
        pair.c3(hand_c2(pair.c1(), who=bob, signatures=lambda made: made[:1]))
    pair = ChatPair(alice=alice, bob=bob, suites=[SWIFT])
    c1 = pair.c1()
    keys: dict[str, Any] = {"caller_key": alice.key_id, "receiver_key": bob.key_id}
    c3 = HandC3(c1, pair.c2(c1), who=alice, signatures=lambda made: made[:1], **keys).encode()
    with pytest.raises(ExchangeFailed):
        pair.c4(c3)


def test_a_c3_serves_once() -> None:
    pair = ChatPair(suites=[SWIFT])
    c3 = pair.c3(pair.c2(pair.c1()))
    pair.c4(c3)
    with pytest.raises(ExchangeFailed):
        pair.c4(c3)


def test_a_c3_before_a_c2_is_refused() -> None:
    with pytest.raises(ExchangeFailed):
        ChatPair().c4(vec16(b"") * 2)


def test_a_c3_of_another_exchange_is_refused() -> None:
    earlier, now = ChatPair(suites=[SWIFT]), ChatPair(suites=[SWIFT])
    c1 = earlier.c1()
    c3 = earlier.c3(earlier.c2(c1))
    now.c2(c1)
    with pytest.raises(ExchangeFailed):
        now.c4(c3)


@settings(max_examples=40)
@given(st.binary(max_size=1500))
def test_garbage_as_c3(garbage: bytes) -> None:
    pair = ChatPair(suites=[SWIFT])
    pair.c2(pair.c1())
    with pytest.raises(ExchangeFailed):
        pair.c4(garbage)


# C4 at the caller -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [flip(0), flip(-1), lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b""])
def test_a_changed_c4_is_refused_and_no_secrets_come_out(change: Change) -> None:
    """The original ignored the result and said that the chat was secure."""
    pair = ChatPair(suites=[SWIFT])
    with pytest.raises(ExchangeFailed):
        pair.finish(change(pair.c4(pair.c3(pair.c2(pair.c1())))))
    assert not hasattr(pair, "alices_secrets")


def test_a_c4_that_says_something_else_is_refused() -> None:
    pair = ChatPair(suites=[SWIFT])
    pair.c4(pair.c3(pair.c2(pair.c1())))
    finished = pair.caller._finished
    assert finished is not None
    key = AESGCM(finished.confirmation.expose())
    with pytest.raises(ExchangeFailed):
        pair.finish(key.encrypt(bytes(12), b"CHAT IS SECURE?", finished.transcript))


def test_a_c4_before_c2_is_refused() -> None:
    with pytest.raises(ExchangeFailed):
        ChatPair().finish(bytes(31))


def test_a_c4_of_another_exchange_is_refused() -> None:
    earlier, now = ChatPair(suites=[SWIFT]), ChatPair(suites=[SWIFT])
    c4 = earlier.c4(earlier.c3(earlier.c2(earlier.c1())))
    now.c4(now.c3(now.c2(now.c1())))
    with pytest.raises(ExchangeFailed):
        now.finish(c4)


# Chats and logins -------------------------------------------------------------------------------------------------


def test_a_login_proof_is_no_c3_and_a_c3_no_login_proof() -> None:
    """The same key signs both; the labels and transcripts keep them apart even if the relay picks the rest."""
    pair = ChatPair(suites=[SWIFT])
    c1 = pair.c1()
    c2 = pair.c2(c1)
    m1 = LoginPair().m1()
    login = LoginPair()
    m2 = login.m2(login.m1())
    login_signature = HandM3(login.client.start(), m2).who.sign(labels.SIG_M3, b"")
    with pytest.raises(ExchangeFailed):
        pair.c4(HandC3(c1, c2, signatures=lambda made: login_signature).encode())

    chat_signature = ALICE.sign(labels.SIG_C3, b"")
    m3 = HandM3(login.client.start(), m2, signatures=lambda made: chat_signature).frame()
    with pytest.raises(LoginFailed):
        login.accept(m3)
    assert m1 != login.client.start()


def test_an_m1_is_no_c1_and_a_c1_no_m1() -> None:
    m1 = LoginPair().m1()
    with pytest.raises(ExchangeFailed):
        ChatPair().receiver.receive_c1_untrusted(m1[5:])
    with pytest.raises(LoginFailed):
        LoginPair().m2(encode_frame(FrameType.M1, ChatPair().c1()))
