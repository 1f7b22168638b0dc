"""A known answer for every label: if one label, or what stands behind it, changes, an answer is wrong.

The answers: the logins in keys/vectors/login.json, computed here again by the second implementation (tests/interop),
a whole chat in tests/data/chat-vector.json and a start towards somebody who is away in offline-vector.json, which the
second implementation made (`vectors/make_chat.py`, `make_offline.py`), and a key log of two leaves in log-vector.json,
made from the text of protocol §12 with hashlib and `openssl`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import load_der_private_key

import messageapp_keys
from interop.base import XL, H, Reader, Temporary, read_tlvs, u, vec
from interop.peer import m3_keys, traffic
from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.exchange import Caller, ExchangeFailed, Parties, Receiver
from messageapp.e2ee.offline import accept_untrusted, read_start_untrusted
from messageapp.e2ee.ratchet import Binding, Ratchet, Undecryptable
from messageapp.wire.joining import Invitation
from messageapp.wire.messages import M3Proof
from messageapp.wire.vectors import check
from messageapp_keys import kem, labels, ratchetkeys
from messageapp_keys.backup import SealedBackup, WrongBackupKey, read_words_untrusted, recovery_words
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.joincode import JoinCode
from messageapp_keys.kem import SWIFT
from messageapp_keys.keylog import Leaf, change_body, explain, follows, log_key_body, log_origin
from messageapp_keys.merkle import leaf_hash, node_hash
from messageapp_keys.notes import Checkpoint, Note, VerifierKey, verify_untrusted
from messageapp_keys.prekeys import Prekey, PrekeyRefused, PrivatePrekey
from messageapp_keys.ratchetkeys import RatchetKeys
from messageapp_keys.sas import commitment, seven_numbers
from messageapp_keys.types import ExporterSecret, RootKey
from messageapp_keys.vectorkeys import load_temporary_key_untrusted
from support.keys import identity, seeded

LOGINS: Final[dict[str, Any]] = json.loads(
    (Path(messageapp_keys.__file__).parents[1] / "vectors" / "login.json").read_text()
)
CHAT: Final[dict[str, str]] = json.loads((Path(__file__).parent / "data" / "chat-vector.json").read_text())
LABELS: Final = [name for name, value in vars(labels).items() if isinstance(value, bytes)]
LOG: Final[dict[str, str]] = json.loads((Path(__file__).parent / "data" / "log-vector.json").read_text("utf-8"))
JOIN: Final[dict[str, str]] = json.loads((Path(__file__).parent / "data" / "join-vector.json").read_text("utf-8"))
OFFLINE: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "offline-vector.json").read_text("utf-8"))
BACKUP: Final[dict[str, str]] = json.loads((Path(__file__).parent / "data" / "backup-vector.json").read_text("utf-8"))
CLASSIC_CASE, SWIFT_CASE = 0, 2
_TEXTS: Final = {"note", "caller", "receiver", "server", "text"}


def of(name: str) -> bytes:
    return bytes.fromhex(CHAT[name])


def _parties() -> Parties:
    caller, receiver = (IdentityBundle.parse_untrusted(of(f"{role}_bundle")) for role in ("caller", "receiver"))
    return Parties(CHAT["server"], of("invite"), CHAT["caller"], caller, CHAT["receiver"], receiver)


def _ratchet_keys() -> RatchetKeys:
    keys = RatchetKeys()
    keys._x = x25519.X25519PrivateKey.from_private_bytes(of("ratchet_x25519"))
    keys._kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(of("ratchet_mlkem_seed"))
    keys.dh, keys.ek = keys._x.public_key().public_bytes_raw(), keys._kem.public_key().public_bytes_raw()
    return keys


def _clamped(scalar: bytes) -> bytes:
    return bytes([scalar[0] & 0xF8]) + scalar[1:31] + bytes([scalar[31] & 0x3F | 0x40])


def wrong_in_caller() -> list[str]:
    """The product as caller, given the C1 and C2 of the file: it must believe them. Its own C3 would be another."""
    caller = Caller(_parties(), identity("ed25519"), [SWIFT], seeded())
    caller._c1 = of("C1")
    try:
        caller.receive_c2_untrusted(of("C2"))
    except ExchangeFailed:
        return ["C2"]
    return []


def wrong_in_receiver() -> list[str]:
    """The product as receiver, with the temporary key of the file: every value up to the text of the second message."""
    parties = _parties()
    receiver = Receiver(parties, identity("ed25519"), [SWIFT], seeded())
    fields = {"temp_x25519": _clamped(of("temp_x25519")), "temp_mlkem_seed": of("temp_mlkem_seed")}
    try:
        receiver.receive_c1_untrusted(of("C1"))
        receiver._temporary, receiver._c2 = load_temporary_key_untrusted(SWIFT, fields), of("C2")
        c4, secrets = receiver.receive_c3_untrusted(of("C3"))
    except ExchangeFailed:
        return ["C1 or C3"]
    found = {
        "C4": c4,
        "RK0": secrets.root.expose(),
        "sid": secrets.chat_id,
        "X": secrets.exporter.expose(),
        "AD": secrets.associated_data,
    }
    wrong = [name for name, value in found.items() if value != of(name)]
    binding = Binding(secrets.chat_id, secrets.associated_data, CHAT["receiver"], CHAT["caller"])
    ratchet = Ratchet.for_receiver(secrets.root, _ratchet_keys(), binding)
    try:
        texts = [
            Envelope.parse_untrusted(ratchet.decrypt_untrusted(of(name), 0.0).plaintext).text
            for name in ("message_0", "message_1")
        ]
    except Undecryptable:
        return [*wrong, "messages"]
    return wrong if texts == [None, CHAT["text_1"]] else [*wrong, "texts"]


def wrong_in_start() -> list[str]:
    """A prekey, and the product as receiver of a start over it: every value up to the text of its message."""
    value = {
        name: bytes.fromhex(text) for name, text in OFFLINE.items() if isinstance(text, str) and name not in _TEXTS
    }
    caller, receiver = (IdentityBundle.parse_untrusted(value[f"{role}_bundle"]) for role in ("caller", "receiver"))
    public = Prekey.parse_untrusted(value["prekey"])
    try:
        public.verify_untrusted(receiver, OFFLINE["receiver"], OFFLINE["expires_ms"] - 1)
    except PrekeyRefused:
        return ["prekey"]
    halves = (value[f"{of}_{part}"] for of in ("temp", "ratchet") for part in ("x25519", "mlkem_seed"))
    prekey = PrivatePrekey.decode(public, b"\1" + b"".join(halves))
    start = read_start_untrusted(value["blob"])
    parties = Parties(OFFLINE["server"], start.invite, OFFLINE["caller"], caller, OFFLINE["receiver"], receiver)
    try:
        accepted = accept_untrusted(start, parties, prekey, seeded())
    except ExchangeFailed:
        return ["start"]
    secrets = accepted.secrets
    found = {
        "invite": start.invite,
        "device": start.device,
        "TH_C3": accepted.transcript,
        "RK0": secrets.root.expose(),
        "sid": secrets.chat_id,
        "AD": secrets.associated_data,
    }
    wrong = [name for name, each in found.items() if each != value[name]]
    binding = Binding(secrets.chat_id, secrets.associated_data, OFFLINE["receiver"], OFFLINE["caller"])
    ratchet = Ratchet.for_receiver(secrets.root, accepted.own_ratchet, binding)
    try:
        text = Envelope.parse_untrusted(ratchet.decrypt_untrusted(start.message, 0.0).plaintext).text
    except Undecryptable:
        return [*wrong, "message"]
    return wrong if (text, start.prekey_id) == (OFFLINE["text"], OFFLINE["prekey_id"]) else [*wrong, "text"]


def wrong_in_log() -> list[str]:
    """Both leaves, the checkpoint over them, and what old key, new key and certificate sign."""
    old, new = (IdentityBundle.parse_untrusted(bytes.fromhex(LOG[name])) for name in ("old_bundle", "new_bundle"))
    first, change = (Leaf.parse_untrusted(bytes.fromhex(LOG[name])) for name in ("leaf_0", "leaf_1"))
    server, log_public = LOG["server"], bytes.fromhex(LOG["log_public"])
    body = change_body(server, change.user, change.version, old.key_id, new.key_id)
    possession, binding = (((0x0807, bytes.fromhex(LOG[name])),) for name in ("possession", "log_key"))
    note = Note.parse_untrusted(LOG["note"].encode())
    top = node_hash(leaf_hash(first.encode()), leaf_hash(change.encode()))
    found = {
        "leaves": (first.key_id, change.key_id) == (old.key_id, new.key_id) and follows(change, (0, first)),
        "change": explain(old, change, server) == "signed",
        "possession": new.verify_untrusted(labels.SIG_NEW_KEY, body, possession),
        "log key": old.verify_untrusted(labels.SIG_LOG_KEY, log_key_body(server, log_public), binding),
        "checkpoint": Checkpoint.parse_untrusted(note.text) == Checkpoint(log_origin(server), 2, top),
        "note": verify_untrusted(note, VerifierKey(log_origin(server), log_public)),
    }
    return [name for name, good in found.items() if not good]


def wrong_in_live_check() -> list[str]:
    numbers = seven_numbers(ExporterSecret(of("X")), of("sas_r_a"), of("sas_r_b"))
    found = {"sas_commit": commitment(of("sas_r_a")), "sas_numbers": bytes(numbers)}
    return [name for name, value in found.items() if value != of(name)]


def wrong_in_join() -> list[str]:
    """A join code, what is derived from its secret, and the proof in M3."""
    code = JoinCode.parse_untrusted(JOIN["code"])
    invitation = Invitation.of(code)
    bundle = IdentityBundle.parse_untrusted(bytes.fromhex(JOIN["bundle"]))
    proof = invitation.prove(M3Proof(code.username, bundle.key_id, ()), bundle, bytes.fromhex(JOIN["TH_E"]))
    found = {
        "authority": code.authority,
        "secret": code.secret.expose(),
        "id": invitation.id,
        "key": invitation.key.expose(),
        "proof": proof.tag,
    }
    return [name for name, value in found.items() if value.hex() != JOIN[name]]


def wrong_in_backup() -> list[str]:
    """A backup with words, opened; a section of a later version is in it."""
    secret = read_words_untrusted(BACKUP["words"])
    try:
        opened = SealedBackup.parse_untrusted(bytes.fromhex(BACKUP["file"])).open(secret)
    except WrongBackupKey:
        return ["backup"]
    found = {
        "entropy": secret.expose().hex(),
        "words": " ".join(recovery_words(secret)),
        "public": opened.identity.bundle.keys[0][1].hex(),
        "account": opened.account.hex(),
    }
    wrong = [name for name, value in found.items() if value != BACKUP[name]]
    return wrong if opened.unknown == (9,) else [*wrong, "unknown"]


def wrong_answers(login: int = SWIFT_CASE) -> list[str]:
    _, failures = check({**LOGINS, "cases": [LOGINS["cases"][login]]})
    return [
        *failures,
        *wrong_in_caller(),
        *wrong_in_receiver(),
        *wrong_in_start(),
        *wrong_in_live_check(),
        *wrong_in_log(),
        *wrong_in_join(),
        *wrong_in_backup(),
    ]


def test_the_product_gives_every_known_answer() -> None:
    assert wrong_answers() == []
    assert wrong_answers(CLASSIC_CASE) == []


@pytest.mark.parametrize("name", LABELS)
def test_every_label_has_a_known_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = getattr(labels, name) + b"?"
    monkeypatch.setattr(labels, name, other)
    if name == "OAEP_TEMP_PUB":  # used when the module is loaded
        monkeypatch.setattr(kem, "_OAEP", padding.OAEP(kem._OAEP.mgf, kem._OAEP.algorithm, other))
        assert wrong_answers(CLASSIC_CASE)
    else:
        assert wrong_answers()


def test_no_label_is_used_twice() -> None:
    assert len(LABELS) == 42
    assert len({getattr(labels, name) for name in LABELS}) == len(LABELS)


def test_the_chains_of_the_ratchet() -> None:
    """KDF_RK and KDF_CK of §10.2: RK0 and the private keys give the file's first chain key and message key."""
    keys, message = _ratchet_keys(), of("message_0")
    dh, ek, ciphertext = message[9:41], message[41:1225], message[1225:2313]
    secrets = keys.decapsulate_untrusted(dh, ciphertext)
    _, chain = ratchetkeys.kdf_root(RootKey(of("RK0")), secrets, dh + ek + ciphertext)
    assert chain.expose() == of("CK_0")
    assert ratchetkeys.kdf_chain(chain)[0].expose() == of("MK_0")


@pytest.mark.parametrize("case", LOGINS["cases"], ids=lambda case: case["name"])
def test_the_logins_by_the_second_implementation(case: dict[str, str]) -> None:
    """Every value between the frames and the record keys, with nothing of the product but the file."""
    value = {
        name: bytes.fromhex(text) for name, text in case.items() if name not in ("name", "suite", "user", "server")
    }
    m1, m2, m3, suite = value["M1"], value["M2"], value["M3"], int(case["suite"])
    temporary = Temporary.__new__(Temporary)
    temporary.suite = suite
    if "temp_rsa_pkcs8" in value:
        private = load_der_private_key(value["temp_rsa_pkcs8"], None)
        assert isinstance(private, rsa.RSAPrivateKey)
        temporary.rsa = private
    if "temp_x25519" in value:
        temporary.x = x25519.X25519PrivateKey.from_private_bytes(value["temp_x25519"])
        temporary.kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(value["temp_mlkem_seed"])
    core = _core(m2[5:])
    enc = Reader(m3[5:]).vec(2)
    ikm = temporary.decapsulate(enc)
    prk, k_m3, th_e = m3_keys(suite, ikm, m1 + m2, enc)
    frames = m1 + m2 + m3
    c2s, s2c, session_id, exporter = traffic(prk, frames)
    th_3 = H(b"MessageApp v2 TH-M3\0", frames)
    assert {
        "key_id": H(b"MessageApp v2 identity\0", value["identity_bundle"]),
        "TH_M2": H(b"MessageApp v2 TH-M2\0", m1, u(len(core), 4), core),
        "TH_E": th_e,
        "IKM": ikm,
        "PRK": prk,
        "k_m3": k_m3,
        "TH_M3": th_3,
        "master": XL(prk, "master", th_3),
        "s_c2s_0": c2s,
        "s_s2c_0": s2c,
        "k_c2s_0": XL(c2s, "key", b""),
        "k_s2c_0": XL(s2c, "key", b""),
        "session_id": session_id,
        "exporter": exporter,
        "k_c2s_1": XL(XL(c2s, "traffic upd", b""), "key", b""),
    }.items() <= value.items()


def _core(body: bytes) -> bytes:
    """M2 up to its signature (§4.3)."""
    reader = Reader(body)
    reader.take(40)
    reader.vec(2)
    for _ in range(reader.u(1)):
        reader.vec(3)
    read_tlvs(reader.vec(2))
    reader.take(2)
    core = body[: reader.at]
    assert vec(reader.vec(2), 2) == body[len(core) :]
    return core
