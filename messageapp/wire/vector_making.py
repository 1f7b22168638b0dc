"""Making a document of known-answer vectors (protocol §19): four real logins, their temporary keys written down."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from messageapp_keys.certificate import (
    Certificate,
    certificate_der,
    leaf_names,
    make_ca,
    make_server_certificate,
    spki_hash,
)
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import CLASSIC, HYBRID, SWIFT, Suite, generate_rsa
from messageapp_keys.primitives import Random
from messageapp_keys.signing import algorithm_of
from messageapp_keys.vectorkeys import load_temporary_key_untrusted, make_temporary_key

from .frames import Frame, FrameType, encode_frame
from .login import ClientLogin, ServerLogin, ServerOffer, Welcome, m4_frame
from .records import Kind, Record
from .vector_cases import RECORD_0, RECORD_1, frame_untrusted
from .vectors import key_schedule_untrusted

__all__ = ["make"]

_NOTE: Final = (
    "MessageApp protocol v2, known answers of the login. Every private key in this file is a test key, published on"
    " purpose: never use one. OAEP, PSS, ML-DSA and encapsulation are randomised: verify this file, do not expect to"
    " reproduce it."
)
_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def make(now: datetime, random: Random) -> dict[str, object]:
    """A fresh document: classic, hybrid, swift, and hybrid with a user of two keys. Some seconds of key generation.

    `now` is aware and becomes the time of validation; `random` gives nonces, K and the unused codes of M1. Keys come
    from the operating system, so two documents never share one.
    """
    moment = now.replace(microsecond=0)
    ca_key, root = make_ca(moment, "MessageApp test vectors")
    # RSA, as the first servers had: its signature stays among the known answers.
    key, leaf = make_server_certificate(ca_key, root, _NAMES, moment, generate_rsa())
    offer = ServerOffer(
        (certificate_der(leaf),), key, algorithm_of(key), spki_hash(leaf), tuple(leaf_names(leaf)), random(32)
    )
    alice, bob = PrivateIdentity.generate(), PrivateIdentity.generate(post_quantum=True)
    logins = (
        ("classic", CLASSIC, "alice", alice),
        ("hybrid", HYBRID, "alice", alice),
        ("swift", SWIFT, "alice", alice),
        ("hybrid, composite user key", HYBRID, "bob", bob),
    )
    return {
        "note": _NOTE,
        "validation_time": moment.isoformat(),
        "root_der": certificate_der(root).hex(),
        "cases": [
            {"name": name, "suite": suite.code, "user": user, "server": _NAMES[0]}
            | _hexadecimal(_login(suite, user, identity, root, offer, moment, random))
            for name, suite, user, identity in logins
        ],
    }


def _hexadecimal(values: Mapping[str, bytes]) -> dict[str, object]:
    return {name: value.hex() for name, value in values.items()}


def _login(
    suite: Suite,
    user: str,
    identity: PrivateIdentity,
    root: Certificate,
    offer: ServerOffer,
    now: datetime,
    random: Random,
) -> dict[str, bytes]:
    temporary, privates = make_temporary_key(suite)
    client = ClientLogin(
        username=user,
        identity=identity,
        authority=root,
        server=_NAMES[0],
        suites=[suite],
        random=random,
        device=random(16),
    )
    m1 = frame_untrusted(FrameType.M1, client.start())
    server = ServerLogin(m1, offer, [suite])
    m2 = frame_untrusted(FrameType.M2, server.offer(temporary, random))
    m3 = frame_untrusted(FrameType.M3, client.receive_m2_untrusted(m2, now))
    accepted = server.accept_untrusted(m3, {user: identity.bundle}.get)
    m4 = frame_untrusted(
        FrameType.M4, m4_frame(accepted.sealer, Welcome(_NAMES[0], int(now.timestamp()) * 1000, other_sessions=1))
    )
    sealer = client.receive_m4_untrusted(m4).sealer
    first = sealer.seal(Record(Kind.REQUEST, 1, b"list", b"x"))
    sealer.update()
    second = sealer.seal(Record(Kind.REQUEST, 2, b"exit", b"x"))
    frames: dict[str, Frame] = {"M1": m1, "M2": m2, "M3": m3, "M4": m4}
    return {
        "identity_bundle": identity.bundle.encode(),
        "key_id": identity.key_id,
        **{name: frame.wire for name, frame in frames.items()},
        **key_schedule_untrusted(suite, load_temporary_key_untrusted(suite, privates), m1, m2, m3),
        RECORD_0: encode_frame(FrameType.RECORD, first),
        RECORD_1: encode_frame(FrameType.RECORD, second),
        **privates,
    }
