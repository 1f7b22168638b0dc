"""The weaknesses of the original protocol, one test each: what was wrong there, and what holds here.

These stand beside the negative tests of each module, which go further into every one of them.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messageapp.e2ee.exchange import ExchangeFailed
from messageapp.e2ee.ratchet import Undecryptable
from messageapp.errors import RemoteProtocolError, ServerNotAuthenticated
from messageapp.wire.connection import Connection
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.login import LoginFailed, Welcome
from messageapp.wire.messages import M2
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_keys import labels
from messageapp_keys.codec import Malformed, vec16, vec24
from messageapp_keys.identity import write_signatures
from messageapp_keys.kem import CLASSIC, DEFAULT_SUITES, HYBRID, SWIFT, encapsulate_untrusted
from messageapp_keys.primitives import counter_bytes
from messageapp_keys.signing import VerifyingKey, public_der
from support.keys import OTHER_SERVER, identity, leaf, rsa_key, temporary
from support.pair import (
    ChatPair,
    HandM3,
    LoginPair,
    changed_m1,
    digest,
    expand,
    frame_of,
    hand_m2,
    logged_in_ends,
    offer_of,
    ratchets,
)

ALICE, BOB, MALLORY = (identity("ed25519", name) for name in ("alice", "bob", "mallory"))
HELLO = Record(Kind.REQUEST, 1, b"list", b"x")


def test_p01_one_key_for_both_directions() -> None:
    """There record i of either side had the same key and IV, so known text of one opened the other; here each direction
    has a key of its own, and a record does not open when it is sent back."""
    client, server = logged_in_ends()
    up, down = client._sealer, server._sealer
    assert up is not None
    assert down is not None
    keys = set()
    for _ in range(3):
        keys |= {direction._secret.expose() for direction in (up, down)}
        up.update()
        down.update()
    assert len(keys) == 6

    pair = LoginPair(welcome=Welcome("chat.example.org", 0))
    pair.run()
    first = pair.client_end.send_record(Record(Kind.REQUEST, 0, b"frwd", b"A" * 60), 0.0)[5:]
    second = pair.server_end.send_record(Record(Kind.REQUEST, 0, b"frwd", b"A" * 60), 0.0)[5:]
    assert first[:16] == bytes(16)
    assert second[:16] != first[:16]  # M4 was the server's first
    pair.client_end.receive_data(encode_frame(FrameType.RECORD, first))
    with pytest.raises(RemoteProtocolError):
        pair.client_end.next_record()


def test_p01_known_text_of_one_direction_says_nothing_about_the_other() -> None:
    """There "User Login Complete!" XOR its record XOR the client's first record was the client's first command."""
    pair = LoginPair()
    m4 = pair.m4(pair.m3(pair.m2(pair.m1())))
    pair.finish(m4)
    known = (b"\x02\0\0\0\0okay" + pair.welcome.encode() + b"\x80").ljust(256, b"\0")
    command = pair.client_end.send_record(HELLO, 0.0)[5:]
    assert command[:16] == m4[5:21]  # the same counter, as there
    guess = bytes(a ^ b ^ c for a, b, c in zip(known, m4[5 + 32 :], command[32:], strict=True))
    assert guess[:10] != b"\0\0\0\0\x01listx"


def test_p01_chat_messages_share_no_key_either() -> None:
    """There the server read the caller's first message: "CHAT IS SECURE!" was sent under the same key and IV."""
    alice, bob = ratchets()
    one = alice.encrypt(b"A" * 100, os.urandom)
    bob.decrypt_untrusted(one, 0.0)
    two = bob.encrypt(b"A" * 100, os.urandom)
    assert one[2313:2329] == two[2313:2329]  # both are number 0
    assert one[-100:] != two[-100:]
    with pytest.raises(Undecryptable):
        alice.decrypt_untrusted(one, 0.0)


def test_p02_a_signature_made_in_a_chat_does_not_log_in() -> None:
    """There both signed the same bytes R2 || Enc(K), so the callee of a chat could log in as its caller; here labels
    and transcripts differ, even where the callee offers a login's temporary key as its own."""
    login = LoginPair(who=ALICE, suites=[SWIFT])
    m2 = login.m2(login.m1())
    core = M2.parse_untrusted(m2[5:]).core
    chat = ChatPair(alice=ALICE, bob=MALLORY, suites=[SWIFT])
    chat.c2(chat.c1())
    c1 = chat.c1()
    ratchet = chat.ratchet.public
    core2 = core.random + b"\0\x03" + vec16(core.temp_pub) + vec16(ratchet) + vec16(b"")
    offer = digest(b"MessageApp v2 TH-C2", vec24(c1), vec24(core2))
    c3 = chat.c3(core2 + write_signatures(MALLORY.sign(labels.SIG_C2, offer)))  # alice answers the relayed key
    with pytest.raises(LoginFailed):
        login.accept(encode_frame(FrameType.M3, c3))  # C3 has the very form of M3


def test_p02_a_signature_made_in_a_login_does_not_open_a_chat() -> None:
    """The reverse of the above: here a login's proof, signature and all, is no C3."""
    login = LoginPair(who=ALICE, suites=[SWIFT])
    m3 = login.m3(login.m2(login.m1()))
    chat = ChatPair(alice=ALICE, bob=BOB, suites=[SWIFT])
    chat.c2(chat.c1())
    with pytest.raises(ExchangeFailed):
        chat.c4(m3[5:])
    for label in (labels.SIG_M3, labels.SIG_C3):
        signature = ALICE.sign(label, b"the same body")
        assert ALICE.bundle.verify_untrusted(label, b"the same body", signature)
        for other in {labels.SIG_M2, labels.SIG_M3, labels.SIG_C2, labels.SIG_C3} - {label}:
            assert not ALICE.bundle.verify_untrusted(other, b"the same body", signature)


def test_p03_a_login_is_for_one_server_and_one_certificate() -> None:
    """There M3 named neither, so a server with a valid certificate could pass its user's login on to another; here the
    user signs the name that was checked, the leaf's key and the whole transcript."""
    honest = LoginPair()
    evil = LoginPair(server_name=OTHER_SERVER, offer=offer_of(*leaf(names=(OTHER_SERVER,))))
    m1 = evil.m1()
    core = M2.parse_untrusted(honest.m2(changed_m1(m1, server="chat.example.org"))[5:]).core
    assert evil.offer is not None
    relayed = hand_m2(m1, evil.offer, core=lambda made: replace(made, random=core.random, temp_pub=core.temp_pub))
    with pytest.raises(LoginFailed):
        honest.accept(evil.m3(relayed))

    for wrong in ({"server": OTHER_SERVER}, {"leaf_hash": leaf(serial=1)[1].fingerprint(hashes.SHA256())}):
        pair = LoginPair()
        m1 = pair.m1()
        with pytest.raises(LoginFailed):
            pair.accept(HandM3(m1, pair.m2(m1), **wrong).frame())


def test_p04_who_called_cannot_be_exchanged() -> None:
    """There the caller's signature could be replaced by another user's over the same Enc(K), and her messages were
    shown as his; here C1 names both keys, which are in every hash and in the signature itself."""
    to_mallory = ChatPair(alice=ALICE, bob=BOB, suites=[SWIFT])
    bobs_view = {"caller": "mallory", "caller_bundle": MALLORY.bundle}
    told_mallory = ChatPair(alice=ALICE, bob=BOB, suites=[SWIFT], bobs_view=bobs_view)
    with pytest.raises(ExchangeFailed):
        told_mallory.c2(told_mallory.c1())  # alice's own C1 names alice

    mallorys = ChatPair(alice=MALLORY, bob=BOB, suites=[SWIFT], alices_view={"caller": "mallory"})
    bobs = ChatPair(alice=MALLORY, bob=BOB, suites=[SWIFT], bobs_view={"caller": "mallory"})
    c2_for_mallory = bobs.c2(mallorys.c1())
    to_mallory.c1()
    with pytest.raises(ExchangeFailed):
        to_mallory.c3(c2_for_mallory)  # alice does not answer an offer that was made to mallory
    assert mallorys.c3(c2_for_mallory)


def test_p05_keys_that_are_not_the_peers_end_the_exchange() -> None:
    """There the server could hand out its own keys and sit in the middle; here the exchange runs on the bundles that
    each side holds (the pins), and a key in between shows as a failed exchange."""
    in_between = ChatPair(alice=ALICE, bob=MALLORY)
    pinned = ChatPair(alice=ALICE, bob=BOB)
    with pytest.raises(ExchangeFailed):
        in_between.c2(pinned.c1())
    pinned.receiver = ChatPair(alice=ALICE, bob=MALLORY, bobs_view={"receiver_bundle": BOB.bundle}).receiver
    with pytest.raises(ExchangeFailed):
        pinned.c3(pinned.c2(pinned.c1()))


def test_p06_both_sides_confirm_the_key() -> None:
    """There the server acted before the client had shown that it knows K, and the confirmation was not looked at; here
    M3 is sealed under a key from K, nothing comes of it before that, and no login is complete without M4."""
    pair = LoginPair()
    m1 = pair.m1()
    with pytest.raises(LoginFailed):
        pair.accept(HandM3(m1, pair.m2(m1), keying_material=bytes(64)).frame())  # signed, but sealed without K
    pair = LoginPair()
    m4 = pair.m4(pair.m3(pair.m2(pair.m1())))
    with pytest.raises(ServerNotAuthenticated):
        pair.finish(m4[:-1] + bytes((m4[-1] ^ 1,)))
    chat = ChatPair(suites=[SWIFT])
    c4 = chat.c4(chat.c3(chat.c2(chat.c1())))
    with pytest.raises(ExchangeFailed):
        chat.finish(c4[:-1] + bytes((c4[-1] ^ 1,)))


def test_p07_the_username_in_m1_cannot_be_swapped() -> None:
    """There M1 was under no signature, and only luck stopped a swapped name later; here both signatures cover M1."""
    pair = LoginPair(enrolled={"alice": ALICE.bundle, "mallory": MALLORY.bundle})
    m2 = pair.m2(changed_m1(pair.m1(), username="mallory"))
    with pytest.raises(ServerNotAuthenticated):
        pair.m3(m2)
    with pytest.raises(LoginFailed):
        pair.accept(HandM3(pair.client.start(), m2, who=ALICE).frame())


def test_p08_a_login_can_do_without_an_rsa_key() -> None:
    """There every M1 of a stranger made the server generate an RSA key; here keys come from outside, and a server that
    has none ready takes the suite that needs none."""
    pair = LoginPair(suites=DEFAULT_SUITES, server_suites=DEFAULT_SUITES)
    pair.m2(pair.m1())
    assert pair.server.choose(rsa_ready=False) is SWIFT
    assert not SWIFT.needs_rsa


def test_p09_an_unknown_user_is_refused_like_a_wrong_key() -> None:
    """There three texts told who is registered and who is logged in; here every refusal of M3 is the same."""
    errors = []
    for enrolled in ({}, {"alice": BOB.bundle}):
        pair = LoginPair(who=ALICE, enrolled=enrolled)
        with pytest.raises(LoginFailed) as failed:
            pair.accept(pair.m3(pair.m2(pair.m1())))
        errors.append((str(failed.value), failed.value.alert, failed.value.cause))
    assert errors[0] == errors[1]


def test_p10_suites_are_negotiated_and_nobody_between_shapes_the_choice() -> None:
    """There everything was RSA-2048, for whoever factors it later; here a post-quantum hybrid is offered first, and
    taking it out of M1 is found."""
    assert DEFAULT_SUITES[0] is HYBRID
    pair = LoginPair(suites=[HYBRID, CLASSIC])
    with pytest.raises(ServerNotAuthenticated):
        pair.m3(pair.m2(changed_m1(pair.m1(), suites=(CLASSIC.code,))))
    chat = ChatPair(suites=[HYBRID, CLASSIC])
    c1 = chat.c1()
    at = c1.index(b"\x02\0\x02\0\x01", 40)
    with pytest.raises(ExchangeFailed):
        chat.c3(chat.c2(c1[:at] + b"\x01\0\x01" + c1[at + 5 :]))


def test_p11_keys_move_on() -> None:
    """There one stolen key opened the whole session; here old record keys and old ratchet states open nothing new."""
    client, server = logged_in_ends()
    assert client._sealer is not None
    stolen = AESGCM(_record_key(client))
    server.receive_data(client.send_record(HELLO, 4000.0))  # an hour is over
    assert [server.next_record(), server.next_record()] == [HELLO, None]
    body = client.send_record(HELLO, 4000.0)[5:]
    with pytest.raises(InvalidTag):
        stolen.decrypt(body[:12], body[32:] + body[16:32], b"alice" + body[:16])
    AESGCM(_record_key(client)).decrypt(body[:12], body[32:] + body[16:32], b"alice" + body[:16])


def _record_key(end: Connection) -> bytes:
    assert end._sealer is not None
    return expand(end._sealer._secret.expose(), b"key", b"")


def test_p12_lengths_hide_the_command_and_the_name() -> None:
    """There a record was as long as its text and named the user; here commands have one length and no name."""
    client, _ = logged_in_ends()
    invite = bytes(16)
    commands = [
        Record(Kind.REQUEST, 1, b"list", b"x"),
        Record(Kind.REQUEST, 2, b"chat", b"\x03bob" + invite),
        Record(Kind.REQUEST, 3, b"chat", b"\x10" + b"b" * 16 + invite),
        Record(Kind.REQUEST, 4, b"exit", b"x"),
        Record(Kind.REQUEST, 5, b"frwd", bytes(200)),
    ]
    frames = [client.send_record(command, 0.0) for command in commands]
    assert {len(frame) for frame in frames} == {4 + 1 + 16 + 16 + 256}
    assert not any(b"alice" in frame or b"list" in frame for frame in frames)
    alice, _ = ChatPair(suites=[SWIFT]).sessions()
    assert len({len(alice.seal("x" * size, 0)) for size in (1, 5, 50, 100)}) == 1


def test_p13_the_iv_changes_with_every_record() -> None:
    """There "the first 12 bytes of the counter" did not say which end; big-endian would be one IV for 2^32 records."""
    client, _ = logged_in_ends()
    ivs = {client.send_record(HELLO, 0.0)[5 : 5 + 12] for _ in range(300)}
    assert len(ivs) == 300
    assert counter_bytes(0x010203)[:3] == b"\x03\x02\x01"


def test_p14_no_key_is_shown() -> None:
    """There the session key was displayed; here what may be shown is the session id, and keys print as their kind."""
    pair = LoginPair()
    result = pair.run()
    sealer = pair.client_end._sealer
    assert sealer is not None
    shown = repr(result) + repr(vars(pair.client)) + repr(pair.accepted)
    assert result.session_id == pair.accepted.session_id
    for secret in (sealer._secret.expose(), result.exporter.expose()):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    assert "<ExporterSecret>" in shown


def test_p15_signatures_and_encryption_have_one_modern_form() -> None:
    """There PKCS#1 v1.5 signed and OAEP used SHA-1; here neither is taken, nor PSS with another salt."""
    key = rsa_key("2048", 2048)
    message = b" " * 64 + labels.SIG_M3 + b"\0body"
    for scheme in (padding.PKCS1v15(), padding.PSS(padding.MGF1(hashes.SHA256()), 0)):
        signature = key.sign(message, scheme, hashes.SHA256())
        assert not VerifyingKey.of(key.public_key()).verify_untrusted(labels.SIG_M3, b"body", signature)
    old = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - the original's
    ciphertext = rsa_key("temporary").public_key().encrypt(b"k" * 32, old)
    assert temporary(CLASSIC).decapsulate_untrusted(ciphertext, bytes(32)) != b"k" * 32


def test_p16_a_temporary_key_of_any_other_size_is_read_and_refused() -> None:
    """There the parser took 426 bytes of PEM, whatever they were; here the length is written and the DER exact."""
    for bits in (2048, 3072):
        der = public_der(rsa_key("2048" if bits == 2048 else "temporary", bits).public_key())
        for change in (der, der + b"\0", der[:-1], b"\x30\x83\x00" + der[2:]):
            good = bits == 3072 and change == der
            if good:
                encapsulate_untrusted(CLASSIC, vec16(change), os.urandom)
            else:
                with pytest.raises(Malformed):
                    encapsulate_untrusted(CLASSIC, vec16(change), os.urandom)


def test_p17_an_end_is_said_and_a_cut_frame_is_noticed() -> None:
    """There one read was one message and a cut passed for a logout; here frames have lengths, and the end is a sealed
    `byee` that nobody between can make or, without its absence being seen, take away."""
    client, server = logged_in_ends()
    stream = server.send_record(HELLO, 0.0) + server.send_record(Record(Kind.EVENT, 0, b"byee", b"\0"), 0.0)
    client.receive_data(stream[:-1])
    assert client.next_record() == HELLO
    assert client.next_record() is None
    assert client.mid_frame
    client.receive_data(stream[-1:])
    record = client.next_record()
    assert record is not None
    assert record.verb == b"byee"
    assert not client.mid_frame

    forged = Connection(Role.CLIENT)
    forged.receive_data(encode_frame(FrameType.RECORD, b""))
    with pytest.raises(RemoteProtocolError):
        forged.next_frame()
    assert frame_of(stream[: len(stream) // 2]).type is FrameType.RECORD
