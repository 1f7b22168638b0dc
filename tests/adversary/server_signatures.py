"""Clients that prove nothing, or somebody else, within an M3 that opens (protocol §4.4)."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa, padding, rsa

from adversary.case import ALERT_1, Case, Outcome
from adversary.server_m3 import Do, flipped, logs_in
from adversary.server_world import World, after_login
from interop.base import ED25519, L_C3, L_M2, MLDSA65, PSS, H, Identity, sign, signature_list

__all__ = ["CASES"]

Signatures = Callable[[Identity, bytes, bytes], bytes]


def rsa_signature(scheme: padding.AsymmetricPadding, alg: int = PSS) -> Signatures:
    def made(who: Identity, label: bytes, body: bytes) -> bytes:
        (key,) = who.keys
        assert isinstance(key, rsa.RSAPrivateKey)
        text = b"\x20" * 64 + label + b"\0" + body
        return signature_list([(alg, key.sign(text, scheme, hashes.SHA256()))])

    return made


def salted(length: int) -> padding.PSS:
    return padding.PSS(padding.MGF1(hashes.SHA256()), length)


def without_context(who: Identity, label: bytes, body: bytes) -> bytes:
    """ML-DSA-65 over the right bytes with no context string."""
    classical, pq = who.keys
    assert isinstance(pq, mldsa.MLDSA65PrivateKey)
    return signature_list([sign(classical, label, body), (MLDSA65, pq.sign(b"\x20" * 64 + label + b"\0" + body))])


def only(*indexes: int) -> Signatures:
    return lambda who, label, body: signature_list([sign(who.keys[i], label, body) for i in indexes])


def second_bit(who: Identity, label: bytes, body: bytes) -> bytes:
    first, (alg, signature) = (sign(key, label, body) for key in who.keys)
    return signature_list([first, (alg, flipped(100)(signature))])


_SIGNATURES: tuple[tuple[str, str, str, dict[str, object]], ...] = (
    ("signed-other-server", "m3-server", "ann", {"signed_server": "example.org"}),
    ("signed-other-name-of-this-server", "m3-server", "ann", {"signed_server": "localhost"}),
    ("both-other-server", "m3-server", "ann", {"server": "example.org", "certified": "localhost"}),
    ("signed-other-leaf", "m3-leaf", "ann", {"signed_leaf": H(b"another leaf")}),
    ("label-of-C3", "m3-label", "ann", {"label": L_C3}),
    ("label-of-M2", "m3-label", "ann", {"label": L_M2}),
    ("label-empty", "m3-label", "ann", {"label": b""}),
    ("pss-salt-0", "m3-signer", "ann", {"signatures": rsa_signature(salted(0))}),
    ("pss-salt-20", "m3-signer", "ann", {"signatures": rsa_signature(salted(20))}),
    ("pkcs1-v1.5", "m3-signer", "ann", {"signatures": rsa_signature(padding.PKCS1v15())}),
    ("sigalg-of-ed25519", "m3-signer", "ann", {"signatures": rsa_signature(salted(32), ED25519)}),
    ("sigalg-0", "m3-signer", "ann", {"signatures": rsa_signature(salted(32), 0)}),
    ("first-of-two-only", "m3-one-of-two", "dan", {"signatures": only(0)}),
    ("second-of-two-only", "m3-one-of-two", "dan", {"signatures": only(1)}),
    ("first-of-two-twice", "m3-one-of-two", "dan", {"signatures": only(0, 0)}),
    ("two-in-other-order", "m3-one-of-two", "dan", {"signatures": only(1, 0)}),
    ("second-of-two-bit", "m3-one-of-two", "dan", {"signatures": second_bit}),
    ("second-of-two-without-context", "m3-one-of-two", "dan", {"signatures": without_context}),
)


# ---- persons


def signed_by_another(world: World) -> Outcome:
    """cid signs as ann, with ann's key_id."""
    return after_login(world, "ann", signer=world.people["cid"])


def other_key(world: World) -> Outcome:
    """cid's key and key_id under ann's name."""
    return after_login(world, Identity("ann", world.people["cid"].keys))


def key_id_of_another(world: World) -> Outcome:
    return after_login(world, "ann", key_id=world.people["cid"].key_id)


def other_second_key(world: World) -> Outcome:
    """dan's RSA key with somebody else's ML-DSA-65 key."""
    dan = world.people["dan"]
    return after_login(world, dan, signer=Identity("dan", (dan.keys[0], mldsa.MLDSA65PrivateKey.generate())))


def half_a_bundle(world: World) -> Outcome:
    """dan with the first of his keys alone, key_id and all."""
    return after_login(world, Identity("dan", world.people["dan"].keys[:1]))


def named(name: str, **choices: object) -> Do:
    """ann's keys under another name."""
    return lambda world: after_login(world, Identity(name, world.people["ann"].keys), **choices)


CASES: tuple[Case[World], ...] = (
    *(Case(f"m3/{name}", line, logs_in(choices, who), ALERT_1) for name, line, who, choices in _SIGNATURES),
    Case("m3/second-of-two-other-key", "m3-one-of-two", other_second_key, ALERT_1),
    Case("m3/bundle-of-one-of-two", "m3-key-id", half_a_bundle, ALERT_1),
    Case("m3/key_id-of-another", "m3-key-id", key_id_of_another, ALERT_1),
    Case("m3/signed-by-another", "m3-signer", signed_by_another, ALERT_1),
    Case("m3/key-of-another", "m3-signer", other_key, ALERT_1),
    Case("m3/unknown-user", "m3-unknown-user", named("nobody"), ALERT_1),
    Case("m3/unknown-user-hidden", "m3-unknown-user", named("nobody", hide=True), ALERT_1),
    Case("m3/other-spelling", "m3-unknown-user", named("Ann"), ALERT_1),
    Case("m3/other-spelling-hidden", "m3-unknown-user", named("ANN", hide=True), ALERT_1),
    Case("m3/name-of-17-hidden", "m3-unknown-user", named("a" * 17, hide=True), ALERT_1),
    Case("m3/name-with-NUL-hidden", "m3-unknown-user", named("ann\0", hide=True), ALERT_1),
)
