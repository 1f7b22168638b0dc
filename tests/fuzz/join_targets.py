"""Joining: what is typed as a join code, and each side against an insider who has the keys of the handshake."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from messageapp.errors import ServerNotAuthenticated
from messageapp.wire.commands import Errors
from messageapp.wire.frames import Frame, FrameType
from messageapp.wire.joining import JOIN_REFUSALS, Invitation, join_refused_untrusted
from messageapp.wire.login import ClientLogin, LoginFailed, ServerLogin, ServerOffer, handshake_prk, transcript_e
from messageapp.wire.messages import M2, M3, JoinProof
from messageapp_keys import labels
from messageapp_keys.certificate_reading import CertificateRefused, certificate_der
from messageapp_keys.codec import Malformed, vec16
from messageapp_keys.joincode import JoinCode, MistypedCode
from messageapp_keys.kem import SWIFT
from messageapp_keys.primitives import expand_label, hash_bytes, open_once, seal_once
from messageapp_keys.types import HandshakeKey, InviteSecret

from . import material
from .material import NOW, SERVER, USER
from .target import Harness, Target, require, same_after_refusal
from .wire_targets import form

__all__ = ["TARGETS"]


def _offer() -> ServerOffer:
    return replace(material.offer(), authority=certificate_der(material.root()))


def _code() -> JoinCode:
    authority = hash_bytes(certificate_der(material.root()))
    return JoinCode(SERVER, 8081, USER, authority, InviteSecret(material.drawn("invitation", 16)))


def _invitation() -> Invitation:
    return Invitation.of(_code())


def _client() -> ClientLogin:
    return ClientLogin(
        username=USER,
        identity=material.identity(),
        authority=_invitation(),
        server=SERVER,
        suites=[SWIFT],
        random=material.seeded("join"),
    )


@cache
def _joined() -> tuple[ServerLogin, bytes, bytes]:
    """(a server that has sent M2, that M2, the right M3)."""
    client = _client()
    server = ServerLogin(material.frame_of(client.start()), _offer(), [SWIFT])
    m2 = server.offer(material.temporary(), material.seeded("join M2"))
    return server, m2, client.receive_m2_untrusted(material.frame_of(m2), NOW)


def _typed() -> Harness:
    def attack(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        code = JoinCode.parse_untrusted(text)
        require(code == _code(), "another code has the right checksum")
        require(JoinCode.parse_untrusted(code.encode()) == code, "what was read is written as something else")

    text = _code().encode()
    return Harness(attack, [text.encode(), text.lower().replace("-", "").encode()])


def _proof() -> Harness:
    identities = [material.identity(post_quantum=pq) for pq in (False, True)]
    proofs = [JoinProof(USER, bytes(32), own.sign(b"", b""), own.bundle, material.drawn("tag")) for own in identities]
    return form(JoinProof.parse_untrusted, [proof.encode() for proof in proofs], exact=True)


def _m2() -> Harness:
    client = _client()

    def attack(data: bytes) -> None:
        client.receive_m2_untrusted(Frame(FrameType.M2, data), NOW)

    return Harness(attack, [_joined()[1][5:]])


def _chain() -> Harness:
    """The last certificate of an M2: nothing but the one that the code means is taken."""

    def attack(data: bytes) -> None:
        core = M2.parse_untrusted(_joined()[1][5:]).core
        try:
            _invitation().authority_untrusted([core.chain[0], data])
        except CertificateRefused:
            raise ServerNotAuthenticated from None

    return Harness(attack, [certificate_der(material.root())])


def _m3_insider() -> Harness:
    """The plaintext of M3, sealed as the newcomer would: without the invitation's key nobody gets in."""
    base, m2, m3 = _joined()
    good = M3.parse_untrusted(m3[5:])
    prk = handshake_prk(SWIFT, material.temporary().decapsulate_untrusted(good.encapsulated, _offer().rejection))
    transcript = transcript_e(_client().start(), m2, good.encapsulated)
    key = expand_label(prk, labels.M3_AUTH, transcript, HandshakeKey)
    invited = {_invitation().id: _invitation().key}

    def attack(data: bytes) -> None:
        base._temporary = material.temporary()
        frame = Frame(FrameType.M3, vec16(good.encapsulated) + vec16(seal_once(key, data, transcript)))
        with same_after_refusal(lambda: {name: id(value) for name, value in vars(base).items()}):
            accepted = base.accept_untrusted(frame, lambda name: None, invited.get)
        require(accepted.username == USER, "somebody else joins")

    return Harness(attack, [open_once(key, good.sealed, transcript)])


def _refusal() -> Harness:
    def attack(data: bytes) -> None:
        error = join_refused_untrusted(data)
        require(str(error) in JOIN_REFUSALS.values(), "the text is the server's")

    return Harness(attack, [Errors(code, text).encode() for code, text in JOIN_REFUSALS.items()])


TARGETS = (
    Target("join-code", _typed, (MistypedCode,), mutations=20_000),
    Target("join-proof-form", _proof, (Malformed,), mutations=20_000),
    Target("join-m2", _m2, (ServerNotAuthenticated,), sealed=True, mutations=3000),
    Target("join-authority", _chain, (ServerNotAuthenticated,), sealed=True, mutations=5000),
    Target("join-m3-insider", _m3_insider, (LoginFailed,), sealed=True, mutations=3000),
    Target("join-refusal", _refusal, (Malformed,), mutations=20_000),
)
