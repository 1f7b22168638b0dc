"""Two real machines joined in memory, every byte through both `Connection`s; and a client and a server made by hand.

The hand-made ones (`hand_m2`, `HandM3`) are a second implementation with hashlib and hmac; they can be wrong on
purpose.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messageapp.e2ee.exchange import Caller, ChatSecrets, Parties, Receiver
from messageapp.e2ee.ratchet import Binding, Ratchet
from messageapp.e2ee.session import ChatSession
from messageapp.wire.connection import Connection
from messageapp.wire.frames import Frame, FrameType, encode_frame
from messageapp.wire.login import AcceptedLogin, ClientLogin, LoggedIn, ServerLogin, ServerOffer, Welcome, m4_frame
from messageapp.wire.messages import M1, M2, M2Core
from messageapp.wire.records import RecordOpener, RecordSealer
from messageapp.wire.states import Role, State
from messageapp_keys import labels
from messageapp_keys.certificate_reading import certificate_der, leaf_names, spki_hash
from messageapp_keys.codec import u16, vec8, vec16, vec24
from messageapp_keys.identity import IdentityBundle, PrivateIdentity, Signatures, write_signatures
from messageapp_keys.kem import HYBRID, SUITES, SWIFT, Suite, encapsulate_untrusted
from messageapp_keys.ratchetkeys import RatchetKeys
from messageapp_keys.signing import PrivateKey, algorithm_of, sign
from messageapp_keys.types import RootKey, TrafficSecret

from .keys import NOW, SERVER, authority, identity, leaf, temporary

ALL_SUITES = tuple(SUITES.values())
DEVICE = bytes(range(16))
Change = Callable[[bytes], bytes]


def offer_of(key: PrivateKey, certificate: x509.Certificate, *more: x509.Certificate) -> ServerOffer:
    return ServerOffer(
        chain=tuple(certificate_der(each) for each in (certificate, *more)),
        key=key,
        sigalg=algorithm_of(key),
        leaf_spki_hash=spki_hash(certificate),
        names=tuple(leaf_names(certificate)),
        rejection=bytes(range(32)),
    )


def frame_of(data: bytes) -> Frame:
    """The frame that `data` is."""
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return Frame(FrameType(data[4]), data[5:])


@dataclass
class LoginPair:
    """One login. Each step takes what the other side sent, so that a test can change it on the way."""

    suites: Sequence[Suite] = (SWIFT,)
    who: PrivateIdentity = field(default_factory=identity)
    username: str = "alice"
    server_name: str = SERVER
    leaf_kind: str = "p256"
    offer: ServerOffer | None = None
    server_suites: Sequence[Suite] = ALL_SUITES
    enrolled: dict[str, IdentityBundle] | None = None
    welcome: Welcome = field(default_factory=lambda: Welcome(SERVER, 1_767_268_800_000))
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.offer = self.offer or offer_of(*leaf(self.leaf_kind))
        if self.enrolled is None:
            self.enrolled = {self.username: self.who.bundle}
        self.client = ClientLogin(
            username=self.username,
            identity=self.who,
            authority=authority()[1],
            server=self.server_name,
            suites=self.suites,
            random=os.urandom,
            device=DEVICE,
            **self.options,
        )
        self.client_end = Connection(Role.CLIENT)
        self.server_end = Connection(Role.SERVER)

    def m1(self) -> bytes:
        return self.client_end.send_frame(FrameType.M1, self.client.start())

    def m2(self, m1: bytes) -> bytes:
        assert self.offer is not None
        self.server_end.receive_data(m1)
        frame = self.server_end.next_frame()
        assert frame is not None
        self.server = ServerLogin(frame, self.offer, self.server_suites)
        m2 = self.server.offer(temporary(self.server.choose(rsa_ready=True)), os.urandom)
        return self.server_end.send_frame(FrameType.M2, m2)

    def m3(self, m2: bytes) -> bytes:
        self.client_end.receive_data(m2)
        frame = self.client_end.next_frame()
        assert frame is not None
        return self.client_end.send_frame(FrameType.M3, self.client.receive_m2_untrusted(frame, NOW))

    def accept(self, m3: bytes) -> AcceptedLogin:
        assert self.enrolled is not None
        self.server_end.receive_data(m3)
        frame = self.server_end.next_frame()
        assert frame is not None
        return self.server.accept_untrusted(frame, self.enrolled.get)

    def m4(self, m3: bytes) -> bytes:
        self.accepted = self.accept(m3)
        m4 = self.server_end.send_frame(FrameType.M4, m4_frame(self.accepted.sealer, self.welcome))
        self.server_end.start_session(self.accepted.sealer, self.accepted.opener, 0.0)
        return m4

    def finish(self, m4: bytes) -> LoggedIn:
        self.client_end.receive_data(m4)
        frame = self.client_end.next_frame()
        assert frame is not None
        logged_in = self.client.receive_m4_untrusted(frame)
        self.client_end.start_session(logged_in.sealer, logged_in.opener, 0.0)
        return logged_in

    def run(self) -> LoggedIn:
        logged_in = self.finish(self.m4(self.m3(self.m2(self.m1()))))
        assert self.client_end.state is self.server_end.state is State.SESSION
        return logged_in


def logged_in_ends(**options: Any) -> tuple[Connection, Connection]:
    """(client, server), ready for records."""
    pair = LoginPair(**options)
    pair.run()
    return pair.client_end, pair.server_end


def record_pair(seed: int = 0, username: str = "alice") -> tuple[RecordSealer, RecordOpener]:
    """One direction."""
    secret = bytes((seed,)) * 32
    return RecordSealer(TrafficSecret(secret), username), RecordOpener(TrafficSecret(secret), username)


# By hand ----------------------------------------------------------------------------------------------------------


def digest(label: bytes, *parts: bytes) -> bytes:
    return hashlib.sha256(label + b"\0" + b"".join(parts)).digest()


def expand(secret: bytes, label: bytes, context: bytes, length: int = 32) -> bytes:
    """XL of protocol §1, for at most 32 bytes."""
    name = b"msgapp2 " + label
    info = length.to_bytes(2, "big") + bytes((len(name),)) + name + bytes((len(context),)) + context
    return hmac.digest(secret, info + b"\x01", "sha256")[:length]


def hand_m2(
    m1: bytes,
    offer: ServerOffer,
    suite: Suite = SWIFT,
    *,
    core: Callable[[M2Core], M2Core] = lambda core: core,
    raw_core: Callable[[bytes], bytes] = lambda raw: raw,
    label: bytes = labels.SIG_M2,
    signer: Callable[[bytes, bytes], bytes] | None = None,
    signed_m1: bytes | None = None,
) -> bytes:
    """M2 with whatever a server may get wrong. `signer(label, body)` makes the signature."""
    made = core(M2Core(os.urandom(32), 2, suite.code, temporary(suite).public, offer.chain, offer.sigalg))
    raw = raw_core(made.encode())
    body = digest(b"MessageApp v2 TH-M2", signed_m1 or m1, len(raw).to_bytes(4, "big"), raw)
    signature = signer(label, body) if signer else sign(offer.key, label, body)
    return encode_frame(FrameType.M2, raw + vec16(signature))


@dataclass
class HandM3:
    """The client's side of M3, with fields to be set wrong. Defaults make a right one."""

    m1: bytes
    m2: bytes
    username: str = "alice"
    who: PrivateIdentity = field(default_factory=identity)
    server: str = SERVER
    leaf_hash: bytes | None = None
    key_id: bytes | None = None
    label: bytes = labels.SIG_M3
    signatures: Callable[[Signatures], Signatures] = lambda signatures: signatures
    encapsulated: Callable[[bytes], bytes] = lambda raw: raw
    sealed: Callable[[bytes], bytes] = lambda raw: raw
    plaintext: Callable[[bytes], bytes] = lambda raw: raw
    body: Callable[[bytes], bytes] = lambda raw: raw
    keying_material: bytes | None = None

    def frame(self) -> bytes:
        core = M2.parse_untrusted(self.m2[5:]).core
        suite = SUITES[core.suite]
        raw, secret = encapsulate_untrusted(suite, core.temp_pub, os.urandom)
        encapsulated = self.encapsulated(raw)
        transcript = digest(b"MessageApp v2 TH-E", self.m1, self.m2, vec16(encapsulated))
        salt = hashlib.sha256(b"MessageApp v2 extract" + suite.code.to_bytes(2, "big")).digest()
        self.prk = hmac.digest(salt, self.keying_material or secret, "sha256")
        leaf_hash = self.leaf_hash or spki_hash(x509.load_der_x509_certificate(core.chain[0]))
        body = transcript + vec8(self.username.encode()) + vec8(self.server.encode()) + leaf_hash
        signatures = self.signatures(self.who.sign(self.label, self.body(body)))
        proof = vec8(self.username.encode()) + (self.key_id or self.who.key_id) + write_signatures(signatures)
        key = expand(self.prk, b"m3 auth", transcript)
        sealed = self.sealed(AESGCM(key).encrypt(bytes(12), self.plaintext(proof), transcript))
        return encode_frame(FrameType.M3, vec16(encapsulated) + vec16(sealed))

    def traffic_keys(self, m3: bytes) -> tuple[bytes, bytes]:
        """(client's, server's) first record key."""
        transcript = digest(b"MessageApp v2 TH-M3", self.m1, self.m2, m3)
        master = expand(self.prk, b"master", transcript)
        return (
            expand(expand(master, b"c2s traffic", transcript), b"key", b""),
            expand(expand(master, b"s2c traffic", transcript), b"key", b""),
        )


def changed_m1(m1: bytes, **fields: Any) -> bytes:
    """`m1` as somebody between could rewrite it."""
    return encode_frame(FrameType.M1, replace(M1.parse_untrusted(m1[5:]), **fields).encode())


# Chats ------------------------------------------------------------------------------------------------------------


@dataclass
class HandC3:
    """C3 of alice to bob over `offer`: a C2, or with its `temp_pub` a prekey."""

    c1: bytes
    offer: bytes
    who: PrivateIdentity = field(default_factory=lambda: identity("ed25519", "alice"))
    label: bytes = labels.SIG_C3
    caller_key: bytes = field(default_factory=lambda: identity("ed25519", "alice").key_id)
    receiver_key: bytes = field(default_factory=lambda: identity("ed25519", "bob").key_id)
    encapsulated: Change = lambda raw: raw
    sealed: Change = lambda raw: raw
    plaintext: Change = lambda raw: raw
    body: Change = lambda raw: raw
    signatures: Callable[[Signatures], Signatures] = lambda made: made
    temp_pub: bytes = b""

    def encode(self) -> bytes:
        suite, temp_pub = SWIFT, self.temp_pub
        if not temp_pub:
            suite, size = SUITES[int.from_bytes(self.offer[32:34], "big")], int.from_bytes(self.offer[34:36], "big")
            temp_pub = self.offer[36 : 36 + size]
        raw, secret = encapsulate_untrusted(suite, temp_pub, os.urandom)
        encapsulated = self.encapsulated(raw)
        transcript = digest(b"MessageApp v2 TH-CE", vec24(self.c1), vec24(self.offer), vec16(encapsulated))
        salt = hashlib.sha256(b"MessageApp v2 chat extract" + u16(suite.code)).digest()
        self.prk = hmac.digest(salt, secret, "sha256")
        body = self.body(transcript + self.caller_key + self.receiver_key)
        proof = write_signatures(self.signatures(self.who.sign(self.label, body)))
        key = expand(self.prk, b"c3 auth", transcript)
        sealed = self.sealed(AESGCM(key).encrypt(bytes(12), self.plaintext(proof), transcript))
        return vec16(encapsulated) + vec16(sealed)

    def transcript(self, c3: bytes) -> bytes:
        """TH_C3."""
        return digest(b"MessageApp v2 TH-C3", vec24(self.c1), vec24(self.offer), vec24(c3))


@dataclass
class ChatPair:
    """One chat exchange between alice, who calls, and bob."""

    alice: PrivateIdentity = field(default_factory=lambda: identity("ed25519", "alice"))
    bob: PrivateIdentity = field(default_factory=lambda: identity("ed25519", "bob"))
    suites: Sequence[Suite] = (HYBRID, SWIFT)
    bobs_view: dict[str, Any] = field(default_factory=dict)
    alices_view: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parties = Parties(SERVER, bytes(range(16)), "alice", self.alice.bundle, "bob", self.bob.bundle)
        self.parties = parties
        self.caller = Caller(replace(parties, **self.alices_view), self.alice, self.suites, os.urandom)
        self.receiver = Receiver(replace(parties, **self.bobs_view), self.bob, ALL_SUITES[::-1], os.urandom)
        self.ratchet = RatchetKeys()

    def c1(self) -> bytes:
        return self.caller.start()

    def c2(self, c1: bytes) -> bytes:
        return self.receiver.offer(temporary(self.receiver.receive_c1_untrusted(c1)), self.ratchet)

    def c3(self, c2: bytes) -> bytes:
        return self.caller.receive_c2_untrusted(c2)

    def c4(self, c3: bytes) -> bytes:
        c4, self.bobs_secrets = self.receiver.receive_c3_untrusted(c3)
        return c4

    def finish(self, c4: bytes) -> ChatSecrets:
        self.alices_secrets = self.caller.receive_c4_untrusted(c4)
        return self.alices_secrets

    def run(self) -> ChatSecrets:
        return self.finish(self.c4(self.c3(self.c2(self.c1()))))

    def sessions(self) -> tuple[ChatSession, ChatSession]:
        """(alice's, bob's); alice's first, empty message has been delivered."""
        self.run()
        alice = ChatSession(
            self.alices_secrets, user="alice", peer="bob", random=os.urandom, peer_ratchet=self.caller.peer_ratchet
        )
        bob = ChatSession(self.bobs_secrets, user="bob", peer="alice", random=os.urandom, own_ratchet=self.ratchet)
        bob.open_untrusted(alice.seal(None, 0), 0.0)
        return alice, bob


def ratchets() -> tuple[Ratchet, Ratchet]:
    """(alice, who may send at once; bob, who may after her first message)."""
    keys, root = RatchetKeys(), RootKey(os.urandom(32))
    alice = Ratchet.for_caller(root, keys.public, Binding(b"chat id.", b"ad" * 16, "alice", "bob"))
    bob = Ratchet.for_receiver(root, keys, Binding(b"chat id.", b"ad" * 16, "bob", "alice"))
    return alice, bob
