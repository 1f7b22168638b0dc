"""Joining, between the two machines: who has the code gets in, and nobody else; who is between learns nothing."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.errors import JoinRefused, ServerNotAuthenticated
from messageapp.wire.commands import ErrorCode, Errors
from messageapp.wire.frames import FRAME_LIMITS, FrameType, encode_frame
from messageapp.wire.joining import JOIN_REFUSALS, Invitation, Newcomer
from messageapp.wire.login import ClientLogin, LoginFailed, ServerOffer, m4_frame, refusal_frame
from messageapp.wire.messages import HIDE_USER, M1, M2, JoinProof
from messageapp.wire.records import Kind, Record
from messageapp_keys.certificate_reading import certificate_der
from messageapp_keys.codec import Malformed, vec8, vec16
from messageapp_keys.identity import IdentityBundle, PrivateIdentity, Signatures
from messageapp_keys.joincode import JoinCode
from messageapp_keys.kem import HYBRID, SUITES
from messageapp_keys.types import InviteKey, InviteSecret
from support.keys import NOW, SERVER, USER_KINDS, authority, identity, leaf, rsa_key
from support.pair import DEVICE, HandM3, LoginPair, changed_m1, frame_of, offer_of

SECRET = InviteSecret(bytes(range(50, 66)))
CA = certificate_der(authority()[1])
CODE = JoinCode(SERVER, 8081, "", hashlib.sha256(CA).digest(), SECRET)
INVITATION = Invitation.of(CODE)


def join_offer(*more: Any, ca: str = "MessageApp CA", kind: str = "p256") -> ServerOffer:
    return replace(offer_of(*leaf(kind, ca=ca), *more), authority=certificate_der(authority(ca)[1]))


@dataclass
class JoinPair(LoginPair):
    """A login of somebody who is not enrolled, by the invitation."""

    offer: ServerOffer | None = field(default_factory=join_offer)
    enrolled: dict[str, IdentityBundle] | None = field(default_factory=dict)
    invitation: Invitation = INVITATION
    invited: dict[bytes, InviteKey] = field(default_factory=lambda: {INVITATION.id: INVITATION.key})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.client = ClientLogin(
            username=self.username,
            identity=self.who,
            authority=self.invitation,
            server=self.server_name,
            suites=self.suites,
            random=os.urandom,
            device=DEVICE,
            **self.options,
        )

    def accept(self, m3: bytes) -> Any:
        assert self.enrolled is not None
        self.server_end.receive_data(m3)
        frame = self.server_end.next_frame()
        assert frame is not None
        return self.server.accept_untrusted(frame, self.enrolled.get, self.invited.get)

    def refused(self, m3: bytes) -> LoginFailed:
        with pytest.raises(LoginFailed) as failed:
            self.accept(m3)
        assert (str(failed.value), failed.value.alert) == ("login failed", 1)
        assert failed.value.cause.startswith("M3: ")
        return failed.value


@dataclass
class HandJoin(HandM3):
    """M3 of a join by hand: another implementation of the proof, with what may be set wrong."""

    username: str = "alice"
    key: bytes = INVITATION.key.expose()
    bundle: bytes | None = None
    proof: Callable[[bytes], bytes] = lambda tag: tag
    proved: dict[str, bytes] = field(default_factory=dict)
    tail: Callable[[bytes], bytes] = lambda raw: raw

    def __post_init__(self) -> None:
        wanted, signed = self.plaintext, self.body

        def plaintext(raw: bytes) -> bytes:
            bundle = self.bundle if self.bundle is not None else self.who.bundle.encode()
            parts = {
                "label": b"MessageApp v2 join",
                "zero": b"\0",
                "transcript": self.transcript,
                "username": vec8(self.username.encode()),
                "bundle": vec16(bundle),
            } | self.proved
            tag = self.proof(hmac.digest(self.key, b"".join(parts.values()), "sha256"))
            return wanted(raw + self.tail(vec16(bundle) + tag))

        def body(raw: bytes) -> bytes:
            self.transcript = raw[:32]
            return signed(raw)

        self.plaintext, self.body = plaintext, body


def nobody(name: str) -> IdentityBundle | None:
    return None


# what works -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", USER_KINDS)
@pytest.mark.parametrize("suite", list(SUITES.values()), ids=[suite.name for suite in SUITES.values()])
def test_a_newcomer_of_every_kind_joins_in_every_suite(kind: str, suite: Any) -> None:
    pair = JoinPair(who=identity(kind), suites=[suite])
    logged_in = pair.run()
    assert pair.accepted.newcomer == Newcomer(INVITATION.id, identity(kind).bundle)
    assert (pair.accepted.username, pair.accepted.key_id) == ("alice", identity(kind).key_id)
    assert logged_in.authority == authority()[1]
    assert logged_in.session_id == pair.accepted.session_id


def test_the_largest_m3_fits_its_frame() -> None:
    own = PrivateIdentity([rsa_key("4096", 4096), *identity("ed25519+pq")._keys[1:]])
    pair = JoinPair(who=own, suites=[HYBRID], username="a" * 16)
    m3 = pair.m3(pair.m2(pair.m1()))
    assert 7900 < len(m3) - 4 <= FRAME_LIMITS[FrameType.M3]
    assert pair.accept(m3).newcomer is not None


def test_a_newcomer_by_hand_gets_in() -> None:
    pair = JoinPair()
    m1 = pair.m1()
    assert pair.accept(HandJoin(m1, pair.m2(m1)).frame()).newcomer is not None


def test_m1_of_a_join_names_the_invitation_and_no_user() -> None:
    m1 = M1.parse_untrusted(JoinPair().m1()[5:])
    assert (m1.username, m1.flags, m1.tlvs[0x4A4E]) == ("", HIDE_USER, INVITATION.id)


def test_only_a_newcomer_gets_the_authoritys_certificate() -> None:
    pair = LoginPair(offer=join_offer())
    assert M2.parse_untrusted(pair.m2(pair.m1())[5:]).core.chain == pair.offer.chain  # type: ignore[union-attr]
    join = JoinPair()
    assert M2.parse_untrusted(join.m2(join.m1())[5:]).core.chain == (*join.offer.chain, CA)  # type: ignore[union-attr]


def test_a_chain_that_ends_in_the_authority_already_stays_as_it_is() -> None:
    for more, length in (((authority()[1],), 2), ((authority("A")[1], authority()[1]), 3)):
        pair = JoinPair(offer=join_offer(*more))
        assert len(M2.parse_untrusted(pair.m2(pair.m1())[5:]).core.chain) == length
    three = JoinPair(offer=join_offer(authority("A")[1], authority("B")[1]))
    chain = M2.parse_untrusted(three.m2(three.m1())[5:]).core.chain
    assert (len(chain), chain[-1]) == (3, CA)


def test_an_enrolled_user_logs_in_as_before_and_is_no_newcomer() -> None:
    pair = LoginPair(offer=join_offer())
    pair.run()
    assert pair.accepted.newcomer is None


# a wrong server -------------------------------------------------------------------------------------------------------


def test_a_server_of_another_authority_gets_nothing() -> None:
    """Also one that is between and has the right name in a chain of its own, or shows the right certificate as well."""
    right, wrong = authority()[1], authority("Mallory")[1]
    offers = [
        join_offer(ca="Mallory"),
        replace(offer_of(*leaf(ca="Mallory")), authority=CA),
        replace(offer_of(*leaf(ca="Mallory"), right), authority=certificate_der(wrong)),
        offer_of(*leaf()),  # the right one, but without its authority
        offer_of(authority()[0], right),
    ]
    for offer in offers:
        pair = JoinPair(offer=offer)
        with pytest.raises(ServerNotAuthenticated):
            pair.m3(pair.m2(pair.m1()))
        assert not hasattr(pair.client, "_secrets")


def test_what_is_said_of_another_authority() -> None:
    pair = JoinPair(offer=join_offer(ca="Mallory"))
    with pytest.raises(ServerNotAuthenticated, match="the server's authority is not the one in the join code"):
        pair.m3(pair.m2(pair.m1()))


def test_a_certificate_for_another_host_is_refused() -> None:
    pair = JoinPair(server_name="other.example.org")
    with pytest.raises(ServerNotAuthenticated, match=r"not for other\.example\.org"):
        pair.m3(pair.m2(pair.m1()))


def test_the_secret_and_what_proves_it_are_in_no_frame() -> None:
    pair = JoinPair()
    m1 = pair.m1()
    m2 = pair.m2(m1)
    m3 = pair.m3(m2)
    whole = m1 + m2 + m3 + pair.m4(m3)
    assert INVITATION.id in whole
    for secret in (SECRET.expose(), INVITATION.key.expose(), b"alice", identity().bundle.encode(), identity().key_id):
        assert secret not in whole


def test_a_recorded_join_cannot_be_played_again() -> None:
    first = JoinPair()
    m1 = first.m1()
    m3 = first.m3(first.m2(m1))
    first.accept(m3)
    again = JoinPair()
    again.m2(m1)
    again.refused(m3)


def test_who_knows_the_id_alone_does_not_get_in() -> None:
    pair = JoinPair(invitation=Invitation(INVITATION.id, InviteKey(bytes(32)), INVITATION.authority))
    pair.refused(pair.m3(pair.m2(pair.m1())))


def test_an_id_that_nobody_knows_is_not_proved_by_the_key_that_it_is_checked_with() -> None:
    pair = JoinPair(invitation=Invitation(bytes(16), InviteKey(bytes(32)), INVITATION.authority))
    pair.refused(pair.m3(pair.m2(pair.m1())))


# M1 and M3 of somebody else -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"tlvs": {0x4A4E: b""}},
        {"tlvs": {0x4A4E: bytes(15)}},
        {"tlvs": {0x4A4E: bytes(17)}},
        {"flags": 0, "username": "alice"},
    ],
    ids=["empty", "15 bytes", "17 bytes", "with a name"],
)
def test_m1_of_a_join_in_another_form(changes: dict[str, Any]) -> None:
    pair = JoinPair()
    with pytest.raises(LoginFailed) as failed:
        pair.m2(changed_m1(pair.m1(), **changes))
    assert failed.value.alert == 1


MALLORY = identity("ed25519", "mallory")

M3_REFUSED: dict[str, dict[str, Any]] = {
    "proof by another key": {"key": bytes(32)},
    "proof changed": {"proof": lambda tag: bytes((tag[0] ^ 1,)) + tag[1:]},
    "proof all zero": {"proof": lambda tag: bytes(32)},
    "proof of another transcript": {"proved": {"transcript": bytes(32)}},
    "proof for another name": {"proved": {"username": vec8(b"mallory")}},
    "proof for another bundle": {"proved": {"bundle": vec16(MALLORY.bundle.encode())}},
    "proof with another label": {"proved": {"label": b"MessageApp v2 sas"}},
    "proof without the label": {"proved": {"label": b"", "zero": b""}},
    "proof of 31 bytes": {"proof": lambda tag: tag[:31]},
    "proof of 33 bytes": {"proof": lambda tag: tag + b"\0"},
    "no bundle and no proof": {"tail": lambda raw: b""},
    "no proof": {"tail": lambda raw: raw[:-32]},
    "trailing byte": {"tail": lambda raw: raw + b"\0"},
    "somebody else's bundle": {"bundle": MALLORY.bundle.encode()},
    "somebody else's bundle and key id": {"bundle": MALLORY.bundle.encode(), "key_id": MALLORY.key_id},
    "another key id": {"key_id": MALLORY.key_id},
    "signed by somebody else": {"who": MALLORY, "bundle": identity().bundle.encode(), "key_id": identity().key_id},
    "signature empty": {"signatures": lambda made: ((made[0][0], b""),)},
    "no signature": {"signatures": lambda made: ()},
    "bundle empty": {"bundle": b""},
    "bundle of three keys": {"bundle": b"\3" + identity().bundle.encode()[1:] * 3},
    "bundle that cannot be read": {"bundle": identity().bundle.encode()[:-1]},
    "bundle with a key that is none": {"bundle": b"\1\x08\x07\0\2\x30\0"},
    "bundle with an RSA key of nothing": {"bundle": b"\1\x08\x04\0\0", "who": identity("rsa-2048")},
    "no name": {"username": ""},
    "a name that is none": {"username": "-alice"},
    "a name of 17": {"username": "a" * 17},
    "signature for another server": {"server": "other.example.org"},
    "signature for another leaf": {"leaf_hash": bytes(32)},
    "the seal changed": {"sealed": lambda raw: raw[:-1] + bytes((raw[-1] ^ 1,))},
}


@pytest.mark.parametrize("case", M3_REFUSED)
def test_m3_of_a_join_that_a_server_refuses_always_in_the_same_words(case: str) -> None:
    pair = JoinPair()
    m1 = pair.m1()
    pair.refused(HandJoin(m1, pair.m2(m1), **M3_REFUSED[case]).frame())


def test_a_server_without_invitations_refuses_alike() -> None:
    pair = JoinPair()
    m3 = pair.m3(pair.m2(pair.m1()))
    with pytest.raises(LoginFailed) as failed:
        pair.server.accept_untrusted(frame_of(m3), nobody)
    other = JoinPair(invited={})
    assert failed.value.cause == other.refused(other.m3(other.m2(other.m1()))).cause


def test_an_enrolled_user_needs_the_proof_too() -> None:
    """Not that enrolment is another way around the invitation: M3 of a login is no M3 of a join, nor the reverse."""
    pair = JoinPair(enrolled={"alice": identity().bundle})
    m1 = pair.m1()
    pair.refused(HandM3(m1, pair.m2(m1)).frame())
    login = LoginPair()
    m1 = login.m1()
    with pytest.raises(LoginFailed):
        login.accept(HandJoin(m1, login.m2(m1)).frame())


@pytest.mark.parametrize("kind", USER_KINDS)
def test_what_a_refusal_costs_depends_on_what_was_sent_alone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Whether the id is known or not: one look-up, one proof, one check of signatures of the form that they claim."""
    checked: list[tuple[tuple[int, int], ...]] = []
    real, looked = IdentityBundle.verify_untrusted, list[bytes]()

    def verify(bundle: IdentityBundle, label: bytes, body: bytes, signatures: Signatures) -> bool:
        checked.append(bundle.signature_sizes)
        return real(bundle, label, body, signatures)

    monkeypatch.setattr(IdentityBundle, "verify_untrusted", verify)
    for invited in ({}, {INVITATION.id: InviteKey(bytes(range(32)))}):
        pair = JoinPair(who=identity(kind, "mallory"), invited=invited)
        m3 = pair.m3(pair.m2(pair.m1()))

        def find(invite: bytes, invited: dict[bytes, InviteKey] = invited) -> InviteKey | None:
            looked.append(invite)
            return invited.get(invite)

        with pytest.raises(LoginFailed):
            pair.server.accept_untrusted(frame_of(m3), nobody, find)
    assert checked == [identity(kind, "mallory").bundle.signature_sizes] * 2
    assert looked == [INVITATION.id] * 2


# M4 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", JOIN_REFUSALS)
def test_who_is_not_let_in_is_told_why_under_the_sessions_key(code: ErrorCode) -> None:
    pair = JoinPair()
    accepted = pair.accept(pair.m3(pair.m2(pair.m1())))
    with pytest.raises(JoinRefused) as refused:
        pair.finish(pair.server_end.send_frame(FrameType.M4, refusal_frame(accepted.sealer, code)))
    assert (refused.value.code, str(refused.value)) == (code, JOIN_REFUSALS[code])


def test_a_refusal_by_somebody_else_is_not_believed() -> None:
    pair, other = JoinPair(), JoinPair()
    pair.accept(pair.m3(pair.m2(pair.m1())))
    foreign = other.accept(other.m3(other.m2(other.m1())))
    with pytest.raises(ServerNotAuthenticated):
        pair.finish(refusal_frame(foreign.sealer, ErrorCode.INVITE_USED))


@pytest.mark.parametrize(
    "record",
    [
        Record(Kind.EVENT, 0, b"erro", b""),
        Record(Kind.EVENT, 0, b"erro", Errors(29, "no such code").encode()),
        Record(Kind.EVENT, 0, b"erro", Errors(30, "and more").encode() + b"\0"),
        Record(Kind.EVENT, 1, b"erro", Errors(30, "another id").encode()),
        Record(Kind.REPLY, 0, b"erro", Errors(30, "another kind").encode()),
        Record(Kind.EVENT, 0, b"byee", b"\0"),
        Record(Kind.EVENT, 0, b"okay", b""),
    ],
    ids=["empty", "code 29", "trailing byte", "id 1", "a reply", "byee", "an empty okay"],
)
def test_another_m4_to_a_newcomer_is_refused(record: Record) -> None:
    pair = JoinPair()
    accepted = pair.accept(pair.m3(pair.m2(pair.m1())))
    with pytest.raises(ServerNotAuthenticated):
        pair.finish(encode_frame(FrameType.M4, accepted.sealer.seal(record)))


def test_a_login_that_is_no_join_is_not_refused_like_this() -> None:
    pair = LoginPair()
    accepted = pair.accept(pair.m3(pair.m2(pair.m1())))
    with pytest.raises(ServerNotAuthenticated, match="not the event that it should be"):
        pair.finish(refusal_frame(accepted.sealer, ErrorCode.INVITE_USED))


def test_the_text_of_a_refusal_is_our_own() -> None:
    pair = JoinPair()
    accepted = pair.accept(pair.m3(pair.m2(pair.m1())))
    record = Record(Kind.EVENT, 0, b"erro", Errors(31, "\x1b[2J the server's").encode())
    with pytest.raises(JoinRefused) as refused:
        pair.finish(encode_frame(FrameType.M4, accepted.sealer.seal(record)))
    assert str(refused.value) == JOIN_REFUSALS[ErrorCode.INVITE_USED]


# forms ----------------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.sampled_from(USER_KINDS))
def test_the_proof_round_trips_and_is_exact(tag: bytes, kind: str) -> None:
    own = identity(kind)
    proof = JoinProof("alice", own.key_id, own.sign(b"label", b"body"), own.bundle, tag)
    encoded = proof.encode()
    assert JoinProof.parse_untrusted(encoded) == proof
    for wrong in (encoded[:-1], encoded + b"\0", b""):
        with pytest.raises(Malformed):
            JoinProof.parse_untrusted(wrong)


def test_m4_of_a_join_is_that_of_any_login() -> None:
    pair = JoinPair()
    accepted = pair.accept(pair.m3(pair.m2(pair.m1())))
    assert pair.finish(m4_frame(accepted.sealer, pair.welcome)).welcome == pair.welcome


def test_now_is_what_the_chain_is_judged_at() -> None:
    pair = JoinPair()
    m2 = frame_of(pair.m2(pair.m1()))
    with pytest.raises(ServerNotAuthenticated, match="expired"):
        pair.client.receive_m2_untrusted(m2, NOW.replace(year=NOW.year + 3))
