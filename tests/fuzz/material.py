"""Fixed keys, and machines in the middle of a login or of a chat, the same in every process.

What draws from the system's randomness cannot be made again and is recorded in `recording.json` (see `record.py`):
certificates, M2, M3, C3 and messages of a ratchet. Every private key here is a test key, published on purpose.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa, x25519

from messageapp.e2ee.agreement import Finished
from messageapp.e2ee.agreement import chat_prk as prk_of
from messageapp.e2ee.exchange import Caller, ChatSecrets, Parties, Receiver
from messageapp.e2ee.ratchet import Binding, Ratchet
from messageapp.wire.frames import Frame, FrameType, encode_frame
from messageapp.wire.login import ClientLogin, ServerLogin, ServerOffer, SessionSecrets, Welcome, m4_frame
from messageapp.wire.messages import M1, M2, M3
from messageapp.wire.records import RecordOpener, RecordSealer
from messageapp.wire.vectors import key_schedule_untrusted
from messageapp_keys import labels
from messageapp_keys.certificate import load_certificate_untrusted, spki_hash, verify_chain_untrusted
from messageapp_keys.codec import Reader, vec16, vec24
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.kem import HYBRID, SWIFT, Suite, TemporaryKey
from messageapp_keys.primitives import hash_labelled
from messageapp_keys.ratchetkeys import RatchetKeys
from messageapp_keys.signing import SignatureAlgorithm
from messageapp_keys.types import ExporterSecret, PseudoRandomKey, RootKey, TrafficSecret
from support.keys import NOW, SERVER

__all__ = ["NOW", "SERVER", "USER"]

USER: Final = "alice"
NAMES: Final = (SERVER, "127.0.0.1")
RECORDING: Final = Path(__file__).with_name("recording.json")
VECTORS: Final = Path(__file__).parents[2] / "keys" / "vectors" / "login.json"
TIME_MS: Final = 1_767_268_800_000


def drawn(name: str, size: int = 32) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


def seeded(name: str) -> Callable[[int], bytes]:
    return Random(name).randbytes


_recorded: dict[str, Any] = {}


def recording() -> dict[str, Any]:
    """By name, bytes or a list of bytes. While it is made anew it holds what was made so far."""
    if not _recorded:
        for name, value in json.loads(RECORDING.read_text()).items():
            _recorded[name] = [*map(bytes.fromhex, value)] if isinstance(value, list) else bytes.fromhex(value)
    return _recorded


@cache
def vectors() -> dict[str, Any]:
    """The published known answers: a document of four logins."""
    found: dict[str, Any] = json.loads(VECTORS.read_text())
    return found


# Keys -------------------------------------------------------------------------------------------------------------


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    key = serialization.load_der_private_key(bytes.fromhex(vectors()["cases"][0]["temp_rsa_pkcs8"]), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def p256(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(drawn(name, 31)), ec.SECP256R1())


@cache
def identity(name: str = USER, *, kind: str = "ed25519", post_quantum: bool = False) -> PrivateIdentity:
    first = rsa_key() if kind == "rsa" else ed25519.Ed25519PrivateKey.from_private_bytes(drawn(name))
    return PrivateIdentity([first, mldsa.MLDSA65PrivateKey.from_seed_bytes(drawn(name))] if post_quantum else [first])


@cache
def _temporary(suite: Suite, name: str) -> TemporaryKey:
    curve = x25519.X25519PrivateKey.from_private_bytes(drawn(name))
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(drawn(name, 64))
    return TemporaryKey(suite, [rsa_key(), curve, lattice] if suite.needs_rsa else [curve, lattice])


def temporary(suite: Suite = SWIFT, name: str = "temporary") -> TemporaryKey:
    """Each a copy that was not used: such a key serves once."""
    return copy.copy(_temporary(suite, name))


@cache
def ratchet_keys(name: str = "ratchet") -> RatchetKeys:
    keys = RatchetKeys()
    keys._x = x25519.X25519PrivateKey.from_private_bytes(drawn(name))
    keys._kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(drawn(name, 64))
    keys.dh, keys.ek = keys._x.public_key().public_bytes_raw(), keys._kem.public_key().public_bytes_raw()
    return keys


# Logins -----------------------------------------------------------------------------------------------------------


@cache
def root() -> Any:
    return load_certificate_untrusted(recording()["ca"])


@cache
def offer() -> ServerOffer:
    der = recording()["leaf"]
    leaf_hash = spki_hash(load_certificate_untrusted(der))
    return ServerOffer((der,), p256("leaf"), SignatureAlgorithm.ECDSA_P256, leaf_hash, NAMES, drawn("rejection"))


def client_login(suite: Suite = SWIFT) -> ClientLogin:
    """Its M1 is sent."""
    return ClientLogin(
        username=USER,
        identity=identity(),
        authority=root(),
        server=SERVER,
        suites=[suite],
        random=seeded(f"M1 {suite.name}"),
        device=drawn("device", 16),
    )


def frame_of(wire: bytes) -> Frame:
    return Frame(FrameType(wire[4]), wire[5:])


def server_login(suite: Suite = SWIFT) -> ServerLogin:
    """Its M2 is sent: the one that is recorded."""
    login = ServerLogin(frame_of(client_login(suite).start()), offer(), [suite])
    login._m2_frame, login._temporary = encode_frame(FrameType.M2, recording()[f"m2 {suite.name}"]), temporary(suite)
    return login


@cache
def schedule(suite: Suite = SWIFT) -> dict[str, bytes]:
    frames = (Frame(kind, recording()[f"{kind.name.lower()} {suite.name}"]) for kind in (FrameType.M2, FrameType.M3))
    return key_schedule_untrusted(suite, temporary(suite), frame_of(client_login(suite).start()), *frames)


def record_pair(direction: str = "c2s") -> tuple[RecordSealer, RecordOpener]:
    """Both ends of one direction of the session of that login."""
    secret = TrafficSecret(schedule()[f"s_{direction}_0"])
    return RecordSealer(secret, USER), RecordOpener(secret, USER)


def welcome() -> Welcome:
    return Welcome(SERVER, TIME_MS, other_sessions=1, checkpoint=b"checkpoint")


def m4() -> Frame:
    return frame_of(m4_frame(record_pair("s2c")[0], welcome()))


def client_before_m4() -> ClientLogin:
    """Its M3 is sent: the one that is recorded."""
    client, known = client_login(), schedule()
    client._secrets = SessionSecrets(
        TrafficSecret(known["s_c2s_0"]),
        TrafficSecret(known["s_s2c_0"]),
        known["session_id"],
        ExporterSecret(known["exporter"]),
    )
    client._leaf = verify_chain_untrusted(offer().chain, root(), SERVER, NOW)
    client._suite, client._temp_pub, client._verified_by = SWIFT, temporary().public, root()
    return client


def seeds_of_m1() -> list[bytes]:
    """Bodies, of a shown and of a hidden user."""
    shown = client_login(HYBRID).start()[5:]
    parsed = M1.parse_untrusted(shown)
    hidden = M1(parsed.random, (2, 3), (1, 2, 3), parsed.sigalgs, "127.0.0.1", "", 1, {1: bytes(16), 9: b"later"})
    return [shown, client_login().start()[5:], hidden.encode()]


def m2_parts(suite: Suite = SWIFT) -> tuple[bytes, M3]:
    """(M2-core, M3) as they were recorded."""
    recorded = recording()
    return M2.parse_untrusted(recorded[f"m2 {suite.name}"]).core_bytes, M3.parse_untrusted(recorded[f"m3 {suite.name}"])


# Chats ------------------------------------------------------------------------------------------------------------


@cache
def parties() -> Parties:
    return Parties(SERVER, drawn("invite", 16), "alice", identity("alice").bundle, "bob", identity("bob").bundle)


def caller() -> Caller:
    """Alice, whose C1 is sent."""
    return Caller(parties(), identity("alice"), [SWIFT], seeded("C1"))


def receiver() -> tuple[Receiver, bytes]:
    """(Bob after C1, his C2)."""
    bob = Receiver(parties(), identity("bob"), [SWIFT], seeded("C2"))
    bob.receive_c1_untrusted(caller().start())
    return bob, bob.offer(temporary(name="chat"), ratchet_keys())


def caller_before_c4() -> tuple[Caller, bytes]:
    """(Alice, whose C3 is sent: the one that is recorded; C4)."""
    alice, (bob, c2), c3 = caller(), receiver(), recording()["c3"]
    c4, _ = bob.receive_c3_untrusted(c3)
    alice._awaits_c2, alice.peer_ratchet = False, ratchet_keys().public
    alice._finished = finished(c2, c3)
    return alice, c4


def chat_prk(encapsulated: bytes) -> PseudoRandomKey:
    return prk_of(SWIFT, temporary(name="chat").decapsulate_untrusted(encapsulated, bytes(32)))


def finished(c2: bytes, c3: bytes) -> Finished:
    return Finished.derive(parties(), SWIFT, chat_prk(Reader(c3).vec16()), caller().start(), c2, c3)


def c3_transcript(c2: bytes, encapsulated: bytes) -> bytes:
    return hash_labelled(labels.TH_CE, vec24(caller().start()), vec24(c2), vec16(encapsulated))


def chat_secrets() -> ChatSecrets:
    return finished(receiver()[1], recording()["c3"]).secrets


def binding(user: str, peer: str) -> Binding:
    return Binding(drawn("chat", 8), drawn("associated"), user, peer)


def alices_ratchet() -> Ratchet:
    """Only for the recording: it draws keys."""
    return Ratchet.for_caller(RootKey(drawn("root")), ratchet_keys().public, binding("alice", "bob"))


def bobs_ratchet() -> Ratchet:
    """Before the first message."""
    return Ratchet.for_receiver(RootKey(drawn("root")), ratchet_keys(), binding("bob", "alice"))


@cache
def users() -> dict[str, IdentityBundle]:
    return {name: identity(name).bundle for name in ("alice", "bob")}
