"""The login M1–M4: every suite with every kind of user key, and all that somebody between or at the other end may get
wrong. A refusal is always the same: `ServerNotAuthenticated` at the client, `LoginFailed` with alert 1 at the server.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messageapp.errors import RemoteProtocolError, ServerNotAuthenticated
from messageapp.wire import login
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.login import ClientLogin, LoginFailed, ServerLogin, ServerOffer, Welcome, m4_frame
from messageapp.wire.messages import HIDE_USER, M1, M2, M3, M2Core
from messageapp.wire.records import Kind, Record
from messageapp_keys import labels
from messageapp_keys.certificate_reading import certificate_der
from messageapp_keys.codec import u16, u64, vec8, vec16
from messageapp_keys.identity import IdentityBundle, Signatures
from messageapp_keys.kem import CLASSIC, HYBRID, SUITES, SWIFT, Suite
from messageapp_keys.signing import sign
from support.keys import (
    LEAF_KINDS,
    NOW,
    OTHER_SERVER,
    SERVER,
    USER_KINDS,
    authority,
    identity,
    leaf,
    rsa_key,
    temporary,
)
from support.pair import (
    DEVICE,
    HandM3,
    LoginPair,
    changed_m1,
    frame_of,
    hand_m2,
    offer_of,
    record_pair,
)

each_suite = pytest.mark.parametrize("suite", list(SUITES.values()), ids=[suite.name for suite in SUITES.values()])
each_kind = pytest.mark.parametrize("kind", USER_KINDS)
Change = Callable[[bytes], bytes]


def flip(position: int) -> Change:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return change


# What works -------------------------------------------------------------------------------------------------------


@each_suite
@each_kind
@pytest.mark.parametrize("hide_user", [False, True], ids=["shown", "hidden"])
def test_a_login_and_a_record_each_way(suite: Suite, kind: str, hide_user: bool) -> None:
    pair = LoginPair(suites=[suite], who=identity(kind), options={"hide_user": hide_user})
    result = pair.run()
    accepted = pair.accepted
    assert (accepted.username, accepted.suite, result.suite) == ("alice", suite, suite)
    assert accepted.session_id == result.session_id
    assert len(result.session_id) == 16
    assert accepted.device == DEVICE
    assert result.welcome == pair.welcome
    assert (M1.parse_untrusted(pair.client.start()[5:]).username == "") == hide_user
    hello = Record(Kind.REQUEST, 1, b"list", b"x")
    pair.server_end.receive_data(pair.client_end.send_record(hello, 0.0))
    assert pair.server_end.next_record() == hello
    pair.client_end.receive_data(pair.server_end.send_record(hello, 0.0))
    assert pair.client_end.next_record() == hello


@pytest.mark.parametrize("leaf_kind", LEAF_KINDS)
def test_every_kind_of_server_key(leaf_kind: str) -> None:
    pair = LoginPair(leaf_kind=leaf_kind)
    result = pair.run()
    assert result.leaf.names == (SERVER,)
    assert pair.offer is not None
    assert result.leaf.spki_hash == pair.offer.leaf_spki_hash


@each_suite
def test_a_client_by_hand_agrees_on_every_key(suite: Suite) -> None:
    """A second implementation, with hashlib and hmac, logs in and opens M4."""
    pair = LoginPair(suites=[suite], who=identity("rsa+pq"))
    m1 = pair.m1()
    m2 = pair.m2(m1)
    hand = HandM3(m1, m2, who=identity("rsa+pq"))
    m3 = hand.frame()
    m4 = pair.m4(m3)
    c2s, s2c = hand.traffic_keys(m3)
    body = m4[5:]
    plaintext = AESGCM(s2c).decrypt(bytes(12), body[32:] + body[16:32], b"alice" + bytes(16))
    welcome = pair.welcome.encode()
    assert plaintext == (b"\x02\0\0\0\0okay" + welcome + b"\x80").ljust(256, b"\0")
    assert welcome.startswith(b"\x14User Login Complete!")
    sealed = AESGCM(c2s).encrypt(bytes(12), b"\0\0\0\0\x01listx\x80", b"alice" + bytes(16))
    pair.server_end.receive_data(encode_frame(FrameType.RECORD, bytes(16) + sealed[-16:] + sealed[:-16]))
    assert pair.server_end.next_record() == Record(Kind.REQUEST, 1, b"list", b"x")


def test_a_server_by_hand_is_taken() -> None:
    pair = LoginPair(suites=[HYBRID])
    assert pair.offer is not None
    pair.m3(hand_m2(pair.m1(), pair.offer, HYBRID))


def test_what_both_sides_know_of_a_login() -> None:
    pair = LoginPair()
    m2 = pair.m2(pair.m1())
    result = pair.finish(pair.m4(pair.m3(m2)))
    assert result.temp_fingerprint == hashlib.sha256(M2.parse_untrusted(m2[5:]).core.temp_pub).digest()
    assert pair.accepted.key_id == identity().key_id


def test_a_client_need_not_name_its_device() -> None:
    pair = LoginPair()
    pair.client = ClientLogin(
        username="alice", identity=identity(), authority=authority()[1], server=SERVER, suites=[SWIFT],
        random=os.urandom,
    )  # fmt: skip
    pair.run()
    assert pair.accepted.device == bytes(16)


def test_two_logins_share_no_secret() -> None:
    first, second = LoginPair(suites=[CLASSIC]), LoginPair(suites=[CLASSIC])
    one, two = first.run(), second.run()
    assert one.session_id != two.session_id
    assert one.exporter != two.exporter


def test_session_secrets_are_in_no_repr() -> None:
    pair = LoginPair()
    result = pair.run()
    shown = repr(result) + repr(pair.accepted) + repr(pair.client) + repr(pair.server) + repr(pair.offer)
    shown += repr(vars(pair.client)) + repr(vars(pair.server))
    assert pair.offer is not None
    secrets = [result.exporter.expose(), pair.offer.rejection]
    for end in (pair.client_end, pair.server_end):
        for direction in (end._sealer, end._opener):
            assert direction is not None
            secrets.append(direction._secret.expose())
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


def test_grease_is_tolerated_and_there() -> None:
    seen = set()
    for _ in range(8):
        pair = LoginPair()
        m1 = M1.parse_untrusted(pair.m1()[5:])
        unused = set(m1.suites) - set(SUITES)
        assert len(unused) == 1
        assert all(code & 0x0F0F == 0x0A0A for code in unused)
        assert len([kind for kind in m1.tlvs if kind >= 0x8000]) == 1
        seen |= unused
    assert len(seen) > 1
    plain = M1.parse_untrusted(LoginPair(options={"grease": False}).m1()[5:])
    assert set(plain.suites) == {SWIFT.code}


def test_grease_is_made_of_the_random_bytes_that_were_asked_for() -> None:
    asked: list[int] = []

    def random(size: int) -> bytes:
        asked.append(size)
        return b"\x16" * size

    client = ClientLogin(
        username="alice", identity=identity(), authority=authority()[1], server=SERVER, suites=[HYBRID, SWIFT],
        random=random,
    )  # fmt: skip
    m1 = M1.parse_untrusted(client.start()[5:])
    assert m1.suites == (HYBRID.code, 0x6A6A, SWIFT.code)
    assert m1.tlvs == {0x9616: b"\x16" * 6}
    assert m1.random == b"\x16" * 32
    assert sorted(asked) == [1, 1, 1, 2, 6, 32]


def test_the_server_takes_its_own_best_and_without_an_rsa_key_the_best_that_needs_none() -> None:
    pair = LoginPair(suites=[SWIFT, CLASSIC, HYBRID], server_suites=[HYBRID, SWIFT, CLASSIC])
    pair.m2(pair.m1())
    assert pair.server.choose(rsa_ready=True) is HYBRID
    assert pair.server.choose(rsa_ready=False) is SWIFT
    alone = LoginPair(suites=[CLASSIC])
    alone.m2(alone.m1())
    assert alone.server.choose(rsa_ready=False) is CLASSIC


def test_accept_leaf_is_asked_after_the_signature_and_before_anything_is_sent() -> None:
    class Changed(Exception):
        pass

    asked = []

    def refuse(found: Any) -> None:
        asked.append(found.spki_hash)
        raise Changed

    pair = LoginPair(options={"accept_leaf": refuse})
    m1 = pair.m1()
    assert pair.offer is not None
    bad = hand_m2(m1, pair.offer, signer=lambda label, body: sign(leaf(serial=9)[0], label, body))
    with pytest.raises(ServerNotAuthenticated):
        pair.client.receive_m2_untrusted(frame_of(bad), NOW)
    assert asked == []
    with pytest.raises(Changed):
        pair.client.receive_m2_untrusted(frame_of(hand_m2(m1, pair.offer)), NOW)
    assert asked == [pair.offer.leaf_spki_hash]


# M1 at the server -------------------------------------------------------------------------------------------------

M1_REFUSED: dict[str, tuple[Callable[[M1], bytes], int]] = {
    "bad magic": (lambda m1: b"MSGAPP\0\x01" + m1.encode()[8:], 1),
    "zero suites": (lambda m1: replace(m1, suites=()).encode(), 1),
    "unknown version only": (lambda m1: replace(m1, versions=(3, 4)).encode(), 3),
    "unknown suites only": (lambda m1: replace(m1, suites=(0x0A0A, 0xFFFF)).encode(), 3),
    "a sigalg the server has no key for": (lambda m1: replace(m1, sigalgs=(0x0804,)).encode(), 3),
    "username of 17 bytes": (lambda m1: replace(m1, username="a" * 17).encode(), 1),
    "username empty": (lambda m1: replace(m1, username="").encode(), 1),
    "HIDE_USER with a name": (lambda m1: replace(m1, flags=HIDE_USER).encode(), 1),
    "trailing byte": (lambda m1: m1.encode() + b"\0", 1),
    "empty": (lambda m1: b"", 1),
}


@pytest.mark.parametrize("case", list(M1_REFUSED))
def test_m1_that_a_server_refuses(case: str) -> None:
    change, alert = M1_REFUSED[case]
    pair = LoginPair()
    body = change(M1.parse_untrusted(pair.m1()[5:]))
    with pytest.raises(LoginFailed) as failed:
        pair.m2(encode_frame(FrameType.M1, body))
    assert failed.value.alert == alert
    assert str(failed.value) == "login failed"
    assert failed.value.cause == "M1: nothing in common" if alert == 3 else failed.value.cause.startswith("M1: ")


def test_a_suite_that_the_server_does_not_take_is_refused() -> None:
    pair = LoginPair(suites=[CLASSIC], server_suites=[HYBRID, SWIFT])
    with pytest.raises(LoginFailed) as failed:
        pair.m2(pair.m1())
    assert failed.value.alert == 3


# M2 at the client -------------------------------------------------------------------------------------------------

M1_CHANGED: dict[str, dict[str, Any]] = {
    "R1": {"random": bytes(32)},
    "versions": {"versions": (2, 3)},
    "suites": {"suites": (SWIFT.code,)},
    "suites, classic added": {"suites": (SWIFT.code, CLASSIC.code)},
    "sigalgs": {"sigalgs": (0x0403,)},
    "flags": {"flags": 2},
    "server": {"server": OTHER_SERVER},
    "username": {"username": "mallory"},
    "username, other spelling": {"username": "Alice"},
    "TLVs": {"tlvs": {}},
    "device": {"tlvs": {1: bytes(16)}},
    "HIDE_USER": {"flags": HIDE_USER, "username": ""},
}


@pytest.mark.parametrize("case", list(M1_CHANGED))
def test_any_change_to_m1_between_the_two_is_found_by_the_client(case: str) -> None:
    pair = LoginPair(suites=[HYBRID, SWIFT])
    m1 = pair.m1()
    changed = changed_m1(m1, **M1_CHANGED[case])
    assert changed != m1
    with pytest.raises(ServerNotAuthenticated):
        pair.m3(pair.m2(changed))


@pytest.mark.parametrize("position", [5, 20, 40, -1])
def test_a_changed_byte_of_m1_is_in_the_signature(position: int) -> None:
    """Also where the server does not look: it signs over the whole frame."""
    pair = LoginPair()
    m1 = pair.m1()
    assert pair.offer is not None
    with pytest.raises(ServerNotAuthenticated):
        pair.m3(hand_m2(m1, pair.offer, signed_m1=flip(position)(m1)))


def pss(salt: int) -> Callable[[bytes, bytes], bytes]:
    def signer(label: bytes, body: bytes) -> bytes:
        message = b" " * 64 + label + b"\0" + body
        return rsa_key("leaf").sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())

    return signer


def pkcs1v15(label: bytes, body: bytes) -> bytes:
    return rsa_key("leaf").sign(b" " * 64 + label + b"\0" + body, padding.PKCS1v15(), hashes.SHA256())


def core(**fields: Any) -> dict[str, Any]:
    return {"core": lambda made: replace(made, **fields)}


def temp_pub(change: Change) -> dict[str, Any]:
    def changed(made: M2Core) -> M2Core:
        return replace(made, temp_pub=change(made.temp_pub))

    return {"core": changed}


def rsa_spki(key: rsa.RSAPublicKey) -> bytes:
    from messageapp_keys.signing import public_der

    return public_der(key)


def with_rsa(der: Callable[[], bytes]) -> dict[str, Any]:
    return {"suite": CLASSIC, **temp_pub(lambda _: vec16(der()))}


M2_REFUSED: dict[str, Callable[[], dict[str, Any]]] = {
    "suite not offered": lambda: {"suite": CLASSIC},
    "suite that does not exist": lambda: core(suite=0x0A0A),
    "suite named other than made": lambda: core(suite=HYBRID.code),
    "version not offered": lambda: core(version=1),
    "version 3": lambda: core(version=3),
    "a flag": lambda: {"raw_core": lambda raw: raw[:36] + b"\0\0\0\x01" + raw[40:]},
    "sigalg of another kind": lambda: core(sigalg=0x0403),
    "sigalg Ed25519": lambda: core(sigalg=0x0807),
    "sigalg PKCS#1 v1.5": lambda: core(sigalg=0x0401),
    "PSS salt 0": lambda: {"signer": pss(0)},
    "PSS salt 20": lambda: {"signer": pss(20)},
    "PKCS#1 v1.5": lambda: {"signer": pkcs1v15},
    "by a key that is not in the leaf": lambda: {"signer": lambda label, body: sign(rsa_key("user"), label, body)},
    "by the CA's key": lambda: {"signer": lambda label, body: sign(authority()[0], label, body)},
    "the login label": lambda: {"label": labels.SIG_M3},
    "the chat label": lambda: {"label": labels.SIG_C2},
    "empty signature": lambda: {"signer": lambda label, body: b""},
    "certificate of another CA": lambda: core(chain=(certificate_der(leaf("rsa-3072", ca="Other CA")[1]),)),
    "certificate for another name": lambda: core(chain=(certificate_der(leaf("rsa-3072", (OTHER_SERVER,))[1]),)),
    "certificate that is none": lambda: core(chain=(b"certificate",)),
    "certificate cut": lambda: core(chain=(certificate_der(leaf("rsa-3072")[1])[:-1],)),
    "the CA itself": lambda: core(chain=(certificate_der(authority()[1]),)),
    "temporary key: empty": lambda: temp_pub(lambda raw: b""),
    "temporary key: cut": lambda: temp_pub(lambda raw: raw[:-1]),
    "temporary key: longer": lambda: temp_pub(lambda raw: raw + b"\0"),
    "X25519 all zero": lambda: temp_pub(lambda raw: bytes(32) + raw[32:]),
    "X25519 of order 2": lambda: temp_pub(lambda raw: b"\xec" + b"\xff" * 30 + b"\x7f" + raw[32:]),
    "ML-KEM coefficient ≥ q": lambda: temp_pub(lambda raw: raw[:32] + b"\xff\x0f" + raw[34:]),
    "RSA 2048": lambda: with_rsa(lambda: rsa_spki(rsa_key("2048", 2048).public_key())),
    "RSA e = 3": lambda: with_rsa(
        lambda: rsa_spki(rsa.RSAPublicNumbers(3, rsa_key("leaf").public_key().public_numbers().n).public_key())
    ),
    "RSA in non-minimal DER": lambda: with_rsa(
        lambda: b"\x30\x83\x00" + rsa_spki(rsa_key("temporary").public_key())[2:]
    ),
}


@pytest.mark.parametrize("case", list(M2_REFUSED))
def test_m2_that_a_client_refuses(case: str) -> None:
    options = M2_REFUSED[case]()
    # Where the temporary key is the fault, its suite must be one that was offered.
    offered = [SWIFT, CLASSIC] if case.startswith("RSA") else [HYBRID, SWIFT]
    pair = LoginPair(suites=offered, leaf_kind="rsa-3072")
    assert pair.offer is not None
    with pytest.raises(ServerNotAuthenticated):
        pair.m3(hand_m2(pair.m1(), pair.offer, **options))


def test_the_cases_above_start_from_an_m2_that_is_taken() -> None:
    for offered, suite in (([HYBRID, SWIFT], SWIFT), ([SWIFT, CLASSIC], CLASSIC)):
        pair = LoginPair(suites=offered, leaf_kind="rsa-3072")
        assert pair.offer is not None
        pair.m3(hand_m2(pair.m1(), pair.offer, suite))


@pytest.mark.parametrize("position", [0, 33, 35, 36, 40, 100, 1300, 1700, -1])
def test_any_changed_byte_of_m2_is_refused(position: int) -> None:
    pair = LoginPair(leaf_kind="rsa-3072")
    m2 = pair.m2(pair.m1())
    body = flip(position)(m2[5:])
    with pytest.raises(ServerNotAuthenticated):
        pair.m3(encode_frame(FrameType.M2, body))


def test_an_m2_of_an_earlier_session_is_refused() -> None:
    earlier, now = LoginPair(), LoginPair()
    m2 = earlier.m2(earlier.m1())
    now.m1()
    with pytest.raises(ServerNotAuthenticated):
        now.m3(m2)


def test_a_second_m2_is_out_of_turn() -> None:
    pair = LoginPair()
    m2 = pair.m2(pair.m1())
    pair.m3(m2)
    pair.client_end.receive_data(m2)
    with pytest.raises(RemoteProtocolError):
        pair.client_end.next_frame()


@pytest.mark.parametrize("when", [timedelta(days=-2), timedelta(days=399)], ids=["not yet valid", "expired"])
def test_the_certificate_is_judged_at_the_time_given(when: timedelta) -> None:
    pair = LoginPair()
    m2 = pair.m2(pair.m1())
    with pytest.raises(ServerNotAuthenticated):
        pair.client.receive_m2_untrusted(frame_of(m2), NOW + when)
    pair.client.receive_m2_untrusted(frame_of(m2), NOW)


def test_a_revoked_certificate_is_refused() -> None:
    key, certificate = authority()
    hour = timedelta(hours=1)
    for serial, good in ((leaf()[1].serial_number, False), (leaf()[1].serial_number + 1, True)):
        gone = x509.RevokedCertificateBuilder(serial, NOW - hour).build()
        revoked = x509.CertificateRevocationListBuilder(certificate.subject, NOW - hour, NOW + hour)
        signed = revoked.add_revoked_certificate(gone).sign(key, hashes.SHA256())
        pair = LoginPair(options={"revoked": signed})
        m2 = pair.m2(pair.m1())
        if good:
            assert pair.m3(m2)
            continue
        with pytest.raises(ServerNotAuthenticated, match="revoked"):
            pair.m3(m2)


def test_only_another_authority_gets_the_hint_to_ask_the_owner() -> None:
    for options, hint in (({"authority": authority("Another CA")[1]}, True), ({"server": OTHER_SERVER}, False)):
        pair = LoginPair()
        chosen: dict[str, Any] = {"authority": authority()[1], "server": SERVER, **options}
        pair.client = ClientLogin(
            username="alice", identity=identity(), suites=[SWIFT], random=os.urandom, device=DEVICE, **chosen
        )
        assert pair.offer is not None
        with pytest.raises(ServerNotAuthenticated) as failed:
            pair.client.receive_m2_untrusted(frame_of(hand_m2(pair.client.start(), pair.offer)), NOW)
        said = "; this is another server, or its authority is a new one: ask its owner"
        assert (said in str(failed.value)) is hint
        assert hint or str(failed.value) == f"the certificate is for {SERVER}, not for {OTHER_SERVER}"


def test_an_m2_that_is_none_is_said_to_be_none() -> None:
    pair = LoginPair()
    pair.m1()
    with pytest.raises(ServerNotAuthenticated, match=r"^the server's answer is not valid: .+"):
        pair.m3(encode_frame(FrameType.M2, bytes(10)))


def test_nothing_is_sent_in_clear_to_a_server_that_is_not_proved() -> None:
    """The exception is all that comes out: no M3, no secrets kept."""
    pair = LoginPair()
    m1 = pair.m1()
    assert pair.offer is not None
    with pytest.raises(ServerNotAuthenticated):
        pair.m3(hand_m2(m1, pair.offer, label=labels.SIG_M3))
    assert not hasattr(pair.client, "_secrets")


# M3 at the server -------------------------------------------------------------------------------------------------


def oaep(content: bytes, label: bytes | None) -> Callable[[bytes], bytes]:
    scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label)
    return lambda _: rsa_key("temporary").public_key().encrypt(content, scheme)


GOOD_N = rsa_key("temporary").public_key().public_numbers().n
KEY = bytes(range(32))

M3_REFUSED: dict[str, tuple[Suite, Callable[[], dict[str, Any]]]] = {
    "Enc(K) truncated": (SWIFT, lambda: {"encapsulated": lambda raw: raw[:-1]}),
    "Enc(K) extended": (SWIFT, lambda: {"encapsulated": lambda raw: raw + b"\0"}),
    "Enc(K) empty": (SWIFT, lambda: {"encapsulated": lambda raw: b""}),
    "Enc(K) all zero": (SWIFT, lambda: {"encapsulated": lambda raw: bytes(len(raw))}),
    "X25519 of low order": (SWIFT, lambda: {"encapsulated": lambda raw: b"\x01" + bytes(31) + raw[32:]}),
    "ML-KEM ciphertext changed": (SWIFT, lambda: {"encapsulated": flip(-1)}),
    "RSA ciphertext all zero": (CLASSIC, lambda: {"encapsulated": lambda raw: bytes(384)}),
    "RSA ciphertext the modulus": (CLASSIC, lambda: {"encapsulated": lambda raw: GOOD_N.to_bytes(384, "big")}),
    "RSA ciphertext above the modulus": (CLASSIC, lambda: {"encapsulated": lambda raw: b"\xff" * 384}),
    "RSA ciphertext changed": (CLASSIC, lambda: {"encapsulated": flip(7)}),
    "RSA ciphertext of a hybrid changed": (HYBRID, lambda: {"encapsulated": flip(7)}),
    "OAEP wrong label": (
        CLASSIC,
        lambda: {"encapsulated": oaep(KEY, b"MessageApp TempPub"), "keying_material": KEY},
    ),
    "OAEP no label": (CLASSIC, lambda: {"encapsulated": oaep(KEY, None), "keying_material": KEY}),
    "31-byte K": (
        CLASSIC,
        lambda: {"encapsulated": oaep(KEY[:31], labels.OAEP_TEMP_PUB), "keying_material": KEY[:31]},
    ),
    "33-byte K": (
        CLASSIC,
        lambda: {"encapsulated": oaep(KEY + b"!", labels.OAEP_TEMP_PUB), "keying_material": KEY + b"!"},
    ),
    "sealed: first byte": (SWIFT, lambda: {"sealed": flip(0)}),
    "sealed: key id": (SWIFT, lambda: {"sealed": flip(10)}),
    "sealed: signature": (SWIFT, lambda: {"sealed": flip(60)}),
    "sealed: tag": (SWIFT, lambda: {"sealed": flip(-1)}),
    "sealed: cut": (SWIFT, lambda: {"sealed": lambda raw: raw[:-1]}),
    "sealed: extended": (SWIFT, lambda: {"sealed": lambda raw: raw + b"\0"}),
    "sealed: empty": (SWIFT, lambda: {"sealed": lambda raw: b""}),
    "sealed: in clear": (SWIFT, lambda: {"sealed": lambda raw: b"\x05alice" + raw[6:]}),
    "sealed: under another secret": (SWIFT, lambda: {"keying_material": bytes(64)}),
    "proof: trailing byte": (SWIFT, lambda: {"plaintext": lambda raw: raw + b"\0"}),
    "proof: cut": (SWIFT, lambda: {"plaintext": lambda raw: raw[:-1]}),
    "proof: empty": (SWIFT, lambda: {"plaintext": lambda raw: b""}),
    "username other than M1's": (SWIFT, lambda: {"username": "mallory", "who": identity("ed25519", "mallory")}),
    "username in another spelling": (SWIFT, lambda: {"username": "Alice"}),
    "username only in the proof": (SWIFT, lambda: {"plaintext": lambda raw: b"\x07mallory" + raw[6:]}),
    "key id of another user": (SWIFT, lambda: {"key_id": identity("ed25519", "mallory").key_id}),
    "key id changed": (SWIFT, lambda: {"key_id": bytes(32)}),
    "signature for another server": (SWIFT, lambda: {"server": OTHER_SERVER}),
    "signature for another leaf": (SWIFT, lambda: {"leaf_hash": bytes(32)}),
    "signature by another user": (
        SWIFT,
        lambda: {"who": identity("ed25519", "mallory"), "key_id": identity("ed25519", "alice").key_id},
    ),
    "signature by another user, with her key id": (SWIFT, lambda: {"who": identity("ed25519", "mallory")}),
    "signature by another kind of key": (SWIFT, lambda: {"who": identity("rsa-3072")}),
    "the C3 label": (SWIFT, lambda: {"label": labels.SIG_C3}),
    "the C2 label": (SWIFT, lambda: {"label": labels.SIG_C2}),
    "the M2 label": (SWIFT, lambda: {"label": labels.SIG_M2}),
    "signature over the transcript alone": (SWIFT, lambda: {"body": lambda raw: raw[:32]}),
    "no signature": (SWIFT, lambda: {"signatures": lambda made: ()}),
    "the signature twice": (SWIFT, lambda: {"signatures": lambda made: made * 2}),
    "signature empty": (SWIFT, lambda: {"signatures": lambda made: ((made[0][0], b""),)}),
    "signature under another algorithm": (SWIFT, lambda: {"signatures": lambda made: ((0x0804, made[0][1]),)}),
}


def refused_m3(pair: LoginPair, m3: bytes) -> LoginFailed:
    with pytest.raises(LoginFailed) as failed:
        pair.accept(m3)
    return failed.value


@pytest.mark.parametrize("case", list(M3_REFUSED))
def test_m3_that_a_server_refuses_always_in_the_same_words(case: str) -> None:
    suite, options = M3_REFUSED[case]
    mallory = identity("ed25519", "mallory")
    pair = LoginPair(suites=[suite], enrolled={"alice": identity().bundle, "mallory": mallory.bundle})
    m1 = pair.m1()
    error = refused_m3(pair, HandM3(m1, pair.m2(m1), **options()).frame())
    assert (str(error), error.alert) == ("login failed", 1)
    assert error.cause.startswith("M3: ")


@pytest.mark.parametrize(
    "change",
    [lambda raw: b"", lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: raw[:2], lambda raw: vec16(b"") * 3],
    ids=["empty", "cut", "trailing byte", "two bytes", "three fields"],
)
def test_m3_of_another_form_is_refused_alike(change: Change) -> None:
    pair = LoginPair()
    m3 = pair.m3(pair.m2(pair.m1()))
    error = refused_m3(pair, encode_frame(FrameType.M3, change(m3[5:])))
    assert (str(error), error.alert) == ("login failed", 1)


@each_kind
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_what_is_checked_has_the_form_that_the_signatures_claim(
    monkeypatch: pytest.MonkeyPatch, kind: str, known: bool
) -> None:
    """Whoever is enrolled, with whichever keys: so the work does not depend on it."""
    checked: list[tuple[tuple[int, int], ...]] = []
    real = IdentityBundle.verify_untrusted

    def verify(bundle: IdentityBundle, label: bytes, body: bytes, signatures: Signatures) -> bool:
        checked.append(bundle.signature_sizes)
        return real(bundle, label, body, signatures)

    monkeypatch.setattr(IdentityBundle, "verify_untrusted", verify)
    for enrolled in ("ed25519+pq", "ed25519"):
        pair = LoginPair(enrolled={"alice": identity(enrolled, "bob").bundle} if known else {})
        m1 = pair.m1()
        refused_m3(pair, HandM3(m1, pair.m2(m1), who=identity(kind, "mallory")).frame())
    assert checked == [identity(kind, "mallory").bundle.signature_sizes] * 2


def test_a_damaged_row_of_the_directory_lets_nobody_in() -> None:
    """Its form is the one that the signatures claim, but no key can be read from it."""
    ((algorithm, der),) = identity().bundle.keys
    damaged = IdentityBundle(((algorithm, der[:-1]),))
    pair = LoginPair(enrolled={"alice": damaged})
    assert damaged.signature_sizes == identity().bundle.signature_sizes
    assert refused_m3(pair, pair.m3(pair.m2(pair.m1()))).cause == "M3: the user is not proved"


def test_of_two_signatures_both_must_verify() -> None:
    own = identity("ed25519+pq")
    changes: list[Callable[[Any], Any]] = [
        lambda made: made[:1],
        lambda made: made[1:],
        lambda made: made[::-1],
        lambda made: (made[0], made[0]),
        lambda made: (made[0], (made[1][0], bytes(len(made[1][1])))),
        lambda made: ((made[0][0], bytes(64)), made[1]),
    ]
    for change in changes:
        pair = LoginPair(who=own)
        m1 = pair.m1()
        refused_m3(pair, HandM3(m1, pair.m2(m1), who=own, signatures=change).frame())
    pair = LoginPair(who=own)
    m1 = pair.m1()
    pair.accept(HandM3(m1, pair.m2(m1), who=own).frame())


def test_a_composite_user_is_not_served_by_the_classical_key_alone() -> None:
    """The enrolled bundle counts, not the one that the client would like."""
    pair = LoginPair(who=identity("ed25519"), enrolled={"alice": identity("ed25519+pq").bundle})
    refused_m3(pair, pair.m3(pair.m2(pair.m1())))


def test_m3_replayed_on_a_new_connection_is_refused() -> None:
    first = LoginPair()
    m1 = first.m1()
    m3 = first.m3(first.m2(m1))
    first.m4(m3)
    again = LoginPair()
    again.m2(m1)
    refused_m3(again, m3)


def test_a_temporary_key_serves_one_m3() -> None:
    pair = LoginPair()
    m3 = pair.m3(pair.m2(pair.m1()))
    pair.accept(m3)
    with pytest.raises(RuntimeError, match="once"):
        pair.server.accept_untrusted(frame_of(m3), lambda name: identity().bundle)


@pytest.mark.parametrize("hide_user", [False, True], ids=["shown", "hidden"])
def test_an_unknown_user_fails_like_a_wrong_key(hide_user: bool) -> None:
    errors = []
    for enrolled in ({}, {"alice": identity("ed25519", "mallory").bundle}):
        pair = LoginPair(enrolled=enrolled, options={"hide_user": hide_user})
        error = refused_m3(pair, pair.m3(pair.m2(pair.m1())))
        errors.append((type(error), str(error), error.alert, error.cause))
    assert errors[0] == errors[1]


def test_an_unknown_users_key_is_read_like_a_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory takes the bundle of a known user from its bytes; the time that takes must not be missing."""
    parsed: list[bytes] = []
    real = IdentityBundle.read_untrusted

    def parse(data: bytes) -> IdentityBundle:
        parsed.append(data)
        return real(data)

    known = identity("ed25519", "mallory").bundle.encode()
    lookups: dict[str, Callable[[str], IdentityBundle | None]] = {
        "known": lambda name: IdentityBundle.read_untrusted(known),
        "unknown": lambda name: None,
    }
    counts = {}
    for kind, enrolled in lookups.items():
        pair = LoginPair()
        m3 = pair.m3(pair.m2(pair.m1()))
        with monkeypatch.context() as patch:
            patch.setattr(IdentityBundle, "read_untrusted", staticmethod(parse))
            parsed.clear()
            with pytest.raises(LoginFailed):
                pair.server.accept_untrusted(frame_of(m3), enrolled)
        counts[kind] = [len(data) for data in parsed]
    assert counts == {"known": [len(known)], "unknown": [len(known)]}


@pytest.mark.parametrize(("dialled", "held"), [(SERVER.upper(), SERVER), (SERVER, SERVER.upper())])
def test_another_spelling_of_the_servers_name_is_the_same_name(dialled: str, held: str) -> None:
    pair = LoginPair(server_name=dialled, offer=replace(offer_of(*leaf("p256")), names=(held,)))
    pair.run()


def test_a_stand_ins_own_key_does_not_log_in_an_unknown_user(monkeypatch: pytest.MonkeyPatch) -> None:
    owned = identity("ed25519", "mallory")
    monkeypatch.setattr(login, "stand_in", lambda form: IdentityBundle(owned.bundle.keys))
    pair = LoginPair(who=owned, enrolled={})
    refused_m3(pair, pair.m3(pair.m2(pair.m1())))


def test_a_hidden_username_that_is_none_is_refused() -> None:
    for name in ("-alice", "a" * 40, "alice@x"):
        pair = LoginPair(enrolled={name: identity().bundle}, options={"hide_user": True})
        m1 = pair.m1()
        refused_m3(pair, HandM3(m1, pair.m2(m1), username=name).frame())


def test_a_name_is_taken_in_its_registered_spelling_only() -> None:
    for hide_user in (False, True):
        pair = LoginPair(username="ALICE", enrolled={"alice": identity().bundle}, options={"hide_user": hide_user})
        refused_m3(pair, pair.m3(pair.m2(pair.m1())))


def test_a_name_that_the_server_does_not_have_is_refused() -> None:
    """The client would have noticed; a client that does not look is refused all the same."""
    pair = LoginPair(offer=offer_of(*leaf(names=(OTHER_SERVER,))))
    m1 = pair.m1()
    refused_m3(pair, HandM3(m1, pair.m2(m1)).frame())


def test_the_cause_of_a_failure_holds_nothing_of_the_stranger() -> None:
    causes = set()
    for suite, options in M3_REFUSED.values():
        pair = LoginPair(suites=[suite])
        m1 = pair.m1()
        causes.add(refused_m3(pair, HandM3(m1, pair.m2(m1), **options()).frame()).cause)
    assert "M3: the user is not proved" in causes
    assert all(len(cause) > len("M3: None") and cause.startswith("M3: ") for cause in causes)
    assert not any("alice" in cause or "mallory" in cause for cause in causes)


# M4 at the client -------------------------------------------------------------------------------------------------


def m3_done() -> tuple[LoginPair, bytes]:
    pair = LoginPair()
    return pair, pair.m3(pair.m2(pair.m1()))


@pytest.mark.parametrize("position", [0, 15, 16, 31, 32, -1])
def test_any_changed_byte_of_m4_is_refused(position: int) -> None:
    pair, m3 = m3_done()
    body = flip(position)(pair.m4(m3)[5:])
    with pytest.raises(ServerNotAuthenticated):
        pair.finish(encode_frame(FrameType.M4, body))


def raw_welcome(text: bytes = b"User Login Complete!", **tlvs: bytes) -> bytes:
    values = {"t1": u64(0), "t2": bytes(4), "t5": vec8(SERVER.encode())} | tlvs
    return vec8(text) + b"".join(u16(int(name[1:])) + vec16(value) for name, value in values.items() if value)


EVENT = Kind.EVENT
M4_REFUSED = {
    "a reply": Record(Kind.REPLY, 0, b"okay", raw_welcome()),
    "another id": Record(EVENT, 1, b"okay", raw_welcome()),
    "another verb": Record(EVENT, 0, b"byee", b"\0"),
    "another text": Record(EVENT, 0, b"okay", raw_welcome(b"User Login Complete?")),
    "a text that is none": Record(EVENT, 0, b"okay", raw_welcome(b"\xff")),
    "no time": Record(EVENT, 0, b"okay", raw_welcome(t1=b"")),
    "no limits": Record(EVENT, 0, b"okay", raw_welcome(t2=b"")),
    "no name": Record(EVENT, 0, b"okay", raw_welcome(t5=b"")),
    "a short time": Record(EVENT, 0, b"okay", raw_welcome(t1=bytes(7))),
    "short limits": Record(EVENT, 0, b"okay", raw_welcome(t2=bytes(3))),
    "a short number of sessions": Record(EVENT, 0, b"okay", raw_welcome(t4=bytes(3))),
    "a name with bytes behind it": Record(EVENT, 0, b"okay", raw_welcome(t5=vec8(SERVER.encode()) + b"\0")),
    "a name that is not in the leaf": Record(EVENT, 0, b"okay", raw_welcome(t5=vec8(OTHER_SERVER.encode()))),
    "a TLV twice": Record(EVENT, 0, b"okay", raw_welcome() + u16(1) + vec16(u64(0))),
    "a byte behind": Record(EVENT, 0, b"okay", raw_welcome() + b"\0"),
    "empty": Record(EVENT, 0, b"okay", b""),
}


@pytest.mark.parametrize("case", list(M4_REFUSED))
def test_m4_that_a_client_refuses(case: str) -> None:
    pair, m3 = m3_done()
    sealer = pair.accept(m3).sealer
    with pytest.raises(ServerNotAuthenticated, match="the server did not prove that it has the session key: "):
        pair.finish(encode_frame(FrameType.M4, sealer.seal(M4_REFUSED[case])))


def test_m4_by_somebody_without_the_key_is_refused() -> None:
    pair, _ = m3_done()
    sealer, _ = record_pair()
    with pytest.raises(ServerNotAuthenticated):
        pair.finish(m4_frame(sealer, pair.welcome))


def test_m4_as_the_second_record_is_refused() -> None:
    pair, m3 = m3_done()
    sealer = pair.accept(m3).sealer
    m4_frame(sealer, pair.welcome)
    with pytest.raises(ServerNotAuthenticated):
        pair.finish(m4_frame(sealer, pair.welcome))


def test_m4_with_a_checkpoint_and_other_sessions() -> None:
    welcome = Welcome(SERVER, 2**63, 7, 3, b"a note\nof several lines")
    assert Welcome.parse_untrusted(welcome.encode()) == welcome
    assert LoginPair(welcome=welcome).run().welcome == welcome


def test_m4_with_a_later_tlv_is_taken() -> None:
    pair, m3 = m3_done()
    sealer = pair.accept(m3).sealer
    pair.finish(encode_frame(FrameType.M4, sealer.seal(Record(EVENT, 0, b"okay", raw_welcome(t9=b"new")))))


def test_the_name_in_m4_may_be_another_name_of_the_leaf() -> None:
    offer = offer_of(*leaf(names=("localhost", "127.0.0.1", "::1")))
    for name in ("localhost", "127.0.0.1", "::1"):
        result = LoginPair(offer=offer, server_name=name, welcome=Welcome("localhost", 0)).run()
        assert result.welcome.server_name == "localhost"


# One thing in the middle ------------------------------------------------------------------------------------------


def test_a_relay_with_a_certificate_of_its_own_cannot_pass_a_login_on() -> None:
    """Alice logs in to E, who has a valid certificate, and E passes everything to S: S refuses her M3."""
    evil = LoginPair(server_name=OTHER_SERVER, offer=offer_of(*leaf(names=(OTHER_SERVER,))))
    honest = LoginPair()
    m1 = evil.m1()
    m2_of_s = honest.m2(changed_m1(m1, server=SERVER))
    core_of_s = M2.parse_untrusted(m2_of_s[5:]).core
    assert evil.offer is not None
    m2_of_e = hand_m2(
        m1, evil.offer, core=lambda made: replace(made, random=core_of_s.random, temp_pub=core_of_s.temp_pub)
    )
    m3 = evil.m3(m2_of_e)
    refused_m3(honest, m3)


def test_what_is_signed_in_m2_depends_on_every_field() -> None:
    """The hand-made server with one field changed after signing."""
    pair = LoginPair(leaf_kind="p256")
    m1 = pair.m1()
    assert pair.offer is not None
    m2 = M2.parse_untrusted(hand_m2(m1, pair.offer)[5:])
    fields: dict[str, Any] = {
        "random": os.urandom(32),
        "temp_pub": temporary(SWIFT).public,
        "tlvs": {9: b""},
        "chain": (*pair.offer.chain, certificate_der(authority()[1])),
    }
    for name, value in fields.items():
        changed = replace(m2.core, **{name: value}).encode() + vec16(m2.signature)
        with pytest.raises(ServerNotAuthenticated):
            pair.client.receive_m2_untrusted(frame_of(encode_frame(FrameType.M2, changed)), NOW)
    pair.client.receive_m2_untrusted(frame_of(encode_frame(FrameType.M2, m2.encode())), NOW)


def test_server_login_takes_an_offer_with_a_chain_of_three() -> None:
    """The limits of M2 fit a chain; what a chain must be is the certificate tests' affair."""
    key = ec.generate_private_key(ec.SECP256R1())
    _, certificate = leaf()
    offer = ServerOffer((certificate_der(certificate),) * 3, key, LoginPair().offer.sigalg, bytes(32), (SERVER,), KEY)  # type: ignore[union-attr]
    m1 = LoginPair().m1()
    m2 = ServerLogin(frame_of(m1), offer, [SWIFT]).offer(temporary(SWIFT), os.urandom)
    assert len(M2.parse_untrusted(m2[5:]).core.chain) == 3
    assert M3.parse_untrusted(vec16(b"") + vec16(b"")) == M3(b"", b"")
