"""The login's machines, at the client and at the server. An insider holds the keys of the other side and lies."""

from __future__ import annotations

from functools import partial

from messageapp.errors import ServerNotAuthenticated
from messageapp.wire.frames import Frame, FrameType
from messageapp.wire.login import ClientLogin, LoginFailed, ServerLogin, transcript_e, transcript_m2
from messageapp.wire.messages import M3
from messageapp.wire.records import Kind, Record, RecordSealer
from messageapp_keys import labels
from messageapp_keys.codec import vec16
from messageapp_keys.kem import CLASSIC, HYBRID, SWIFT, Suite
from messageapp_keys.primitives import open_once, seal_once
from messageapp_keys.signing import sign
from messageapp_keys.types import HandshakeKey, TrafficSecret

from . import material
from .material import NOW, USER
from .target import Harness, Target, require, same_after_refusal

__all__ = ["TARGETS"]


def _m1() -> Harness:
    suites = (HYBRID, SWIFT, CLASSIC)

    def attack(data: bytes) -> None:
        login = ServerLogin(Frame(FrameType.M1, data), material.offer(), suites)
        require(bool(login.suites) and login.choose(rsa_ready=False) in suites, "a login has no suite")

    return Harness(attack, material.seeds_of_m1())


def _client_state(client: ClientLogin) -> object:
    return {name: id(value) for name, value in vars(client).items()}


def _m2(suite: Suite) -> Harness:
    client = material.client_login(suite)

    def attack(data: bytes) -> None:
        fresh = ClientLogin.__new__(ClientLogin)
        vars(fresh).update(vars(client))
        with same_after_refusal(partial(_client_state, fresh)):
            fresh.receive_m2_untrusted(Frame(FrameType.M2, data), NOW)

    return Harness(attack, [material.recording()[f"m2 {suite.name}"]])


def _m2_insider(suite: Suite) -> Harness:
    """M2-core, signed by the server's own key. What it holds is checked behind the signature."""
    client, key = material.client_login(suite), material.offer().key

    def attack(data: bytes) -> None:
        signature = sign(key, labels.SIG_M2, transcript_m2(client.start(), data))
        m3 = material.client_login(suite).receive_m2_untrusted(Frame(FrameType.M2, data + vec16(signature)), NOW)
        M3.parse_untrusted(m3[5:])

    return Harness(attack, [material.m2_parts(suite)[0]])


def _m3(suite: Suite) -> Harness:
    base = material.server_login(suite)

    def attack(data: bytes) -> None:
        _accept(base, suite, data)

    return Harness(attack, [material.recording()[f"m3 {suite.name}"]])


def _accept(base: ServerLogin, suite: Suite, body: bytes) -> None:
    """M3 at a server whose temporary key was not used."""
    base._temporary = material.temporary(suite)
    with same_after_refusal(lambda: {name: id(value) for name, value in vars(base).items()}):
        accepted = base.accept_untrusted(Frame(FrameType.M3, body), material.users().get)
    require(accepted.username == USER, "somebody else is logged in")


def _m3_insider() -> Harness:
    """The proof, sealed as the client would: only the user's own signature counts."""
    base, (_, m3) = material.server_login(), material.m2_parts()
    key = HandshakeKey(material.schedule()["k_m3"])
    m1, m2 = base._m1_frame, base._m2_frame
    transcript = transcript_e(m1, m2, m3.encapsulated)

    def attack(data: bytes) -> None:
        _accept(base, SWIFT, M3(m3.encapsulated, seal_once(key, data, transcript)).encode())

    return Harness(attack, [open_once(key, m3.sealed, transcript)])


def _m4() -> Harness:
    client, genuine = material.client_before_m4(), material.m4()

    def attack(data: bytes) -> None:
        with same_after_refusal(partial(_client_state, client)):
            client.receive_m4_untrusted(Frame(FrameType.M4, data))

    return Harness(attack, [genuine.body])


def _m4_insider() -> Harness:
    """The argument of M4, sealed by the server."""
    client, secret = material.client_before_m4(), TrafficSecret(material.schedule()["s_s2c_0"])

    def attack(data: bytes) -> None:
        body = RecordSealer(secret, USER).seal(Record(Kind.EVENT, 0, b"okay", data))
        done = client.receive_m4_untrusted(Frame(FrameType.M4, body))
        require(done.welcome.server_name in material.NAMES, "the server has a name that is not in its certificate")

    return Harness(attack, [material.welcome().encode()])


_REFUSED = (ServerNotAuthenticated,)
_FAILED = (LoginFailed,)

TARGETS = (
    Target("login-m1", _m1, _FAILED),
    Target("login-m2", partial(_m2, SWIFT), _REFUSED, sealed=True, mutations=20_000),
    Target("login-m2-hybrid", partial(_m2, HYBRID), _REFUSED, sealed=True, mutations=500),
    Target("login-m2-insider", partial(_m2_insider, SWIFT), _REFUSED, mutations=3000),
    Target("login-m2-hybrid-insider", partial(_m2_insider, HYBRID), _REFUSED, mutations=500),
    Target("login-m3", partial(_m3, SWIFT), _FAILED, sealed=True, mutations=20_000),
    Target("login-m3-hybrid", partial(_m3, HYBRID), _FAILED, sealed=True, mutations=1000),
    Target("login-m3-insider", _m3_insider, _FAILED, sealed=True, mutations=3000),
    Target("login-m4", _m4, _REFUSED, sealed=True),
    Target("login-m4-insider", _m4_insider, _REFUSED, mutations=30_000),
)
