"""Makes `recording.json` anew, for where a format has changed: `python -m fuzz.record` in tests/."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.session import ChatSession
from messageapp.wire.login import ServerLogin
from messageapp_keys.certificate import certificate_der, make_ca, make_server_certificate
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import HYBRID, SWIFT
from messageapp_keys.keystore import Argon2Cost, seal_identity
from messageapp_keys.pem import export_public_pem
from messageapp_keys.signing import sign

from . import key_targets, material
from .key_targets import BODY, LABEL
from .material import NAMES, NOW, drawn, seeded


def main() -> None:
    recorded = material._recorded  # later parts read earlier ones
    ca_key, ca = make_ca(NOW, key=material.p256("ca"))
    leaf = make_server_certificate(ca_key, ca, NAMES, NOW, material.p256("leaf"))[1]
    later = mldsa.MLDSA65PrivateKey.from_seed_bytes(drawn("leaf"))
    recorded["ca"], recorded["leaf"] = certificate_der(ca), certificate_der(leaf)
    recorded["leaf ml-dsa"] = certificate_der(make_server_certificate(ca_key, ca, NAMES, NOW, later)[1])
    recorded["crl"] = _crl(ca_key, ca).public_bytes(Encoding.DER)
    for suite in (SWIFT, HYBRID):
        server = ServerLogin(material.frame_of(material.client_login(suite).start()), material.offer(), [suite])
        m2 = server.offer(material.temporary(suite), seeded("M2"))
        recorded[f"m2 {suite.name}"] = m2[5:]
        m3 = material.client_login(suite).receive_m2_untrusted(material.frame_of(m2), NOW)
        recorded[f"m3 {suite.name}"] = m3[5:]
    recorded["c3"] = material.caller().receive_c2_untrusted(material.receiver()[1])
    recorded["chat messages"] = _chat_messages()
    alice = material.alices_ratchet()
    texts = (None, "hello", "a longer text " * 20, "last")
    envelopes = [Envelope(drawn(f"id {n}", 16), n, text) for n, text in enumerate(texts)]
    recorded["ratchet"] = [alice.encrypt(envelope.encode(), seeded("salt")) for envelope in envelopes]
    cost = Argon2Cost(kib=8, passes=1)
    recorded["key file"] = seal_identity("alice", material.identity(), "pass", cost=cost, random=seeded("key file"))
    recorded |= _signatures()
    everybody = [material.identity(kind=kind, post_quantum=pq) for kind in ("ed25519", "rsa") for pq in (False, True)]
    recorded["public pem"] = [export_public_pem(who.bundle).encode() for who in everybody]
    recorded["private pem"] = [_pem(material.identity())]
    text = {
        name: [v.hex() for v in value] if isinstance(value, list) else value.hex() for name, value in recorded.items()
    }
    material.RECORDING.write_text(json.dumps(text, indent=1) + "\n")


def _chat_messages() -> list[bytes]:
    """The caller's first two, of the chat that the recorded C3 leads to."""
    secrets, peer_ratchet = material.chat_secrets(), material.ratchet_keys().public
    alice = ChatSession(secrets, user="alice", peer="bob", random=seeded("session"), peer_ratchet=peer_ratchet)
    return [alice.seal(None, 0), alice.seal("hello", 1)]


def _signatures() -> dict[str, bytes]:
    keys = key_targets._keys().values()
    names = ("rsa", "p256", "ed25519", "ml-dsa")
    return {f"signature {name}": sign(key, LABEL, BODY) for name, key in zip(names, keys, strict=True)}


def _pem(who: PrivateIdentity) -> bytes:
    """Without a passphrase: a file with one says itself how often it is to be hashed, which a mutation makes years."""
    pem: bytes = who._keys[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _crl(ca_key: Any, ca: x509.Certificate) -> x509.CertificateRevocationList:
    entry = x509.RevokedCertificateBuilder().serial_number(4711).revocation_date(NOW).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject).add_revoked_certificate(entry)
    return builder.last_update(NOW).next_update(NOW + timedelta(days=30)).sign(ca_key, hashes.SHA256())


if __name__ == "__main__":
    main()
