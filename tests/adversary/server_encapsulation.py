"""Clients whose Enc(K) is not what it should be (protocol §4.2), in every suite in which that differs.

A changed Enc(K) counts in the transcript, and the keys come from the secret that a careless server would get: a case
fails when its check is missing, and not only when the seal is.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from adversary.case import ALERT_1, SESSION, Case, Outcome
from adversary.server_m3 import flipped, logs_in
from adversary.server_world import World, after_login
from interop.base import CLASSIC, HYBRID, SWIFT, Reader, encapsulate, need, oaep, u

__all__ = ["CASES"]

Encapsulating = Callable[[int, bytes], tuple[bytes, bytes]]
NAMES = {CLASSIC: "classic", HYBRID: "hybrid", SWIFT: "swift"}
# X25519 (RFC 7748): points whose product with any scalar is zero, so that a client knows the secret
LOW_ORDER = {
    "zero": bytes(32),
    "one": b"\1" + bytes(31),
    "order-8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order-8-other": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p-1": bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    "p": bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    "p+1": bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}


def enc_changed(change: Callable[[bytes], bytes]) -> Encapsulating:
    """Enc(K) is changed, the secret is not."""

    def changed(suite: int, temp_pub: bytes) -> tuple[bytes, bytes]:
        enc, ikm = encapsulate(suite, temp_pub)
        return change(enc), ikm

    return changed


def modulus(suite: int, temp_pub: bytes) -> tuple[bytes, bytes]:
    """The RSA part is the modulus itself."""
    enc, ikm = encapsulate(suite, temp_pub)
    key = serialization.load_der_public_key(Reader(temp_pub).vec(2))
    assert isinstance(key, rsa.RSAPublicKey)
    return u(key.public_numbers().n, 384) + enc[384:], ikm


def oaep_of(secret: bytes, how: padding.OAEP) -> Encapsulating:
    """The RSA part hides another secret, or hides it in another way; the keys come from that secret."""

    def other(suite: int, temp_pub: bytes) -> tuple[bytes, bytes]:
        enc, ikm = encapsulate(suite, temp_pub)
        key = serialization.load_der_public_key(Reader(temp_pub).vec(2))
        assert isinstance(key, rsa.RSAPublicKey)
        return key.encrypt(secret, how) + enc[384:], secret + ikm[32:]

    return other


def low_order(point: bytes) -> Encapsulating:
    """The X25519 secret is all zeros, which the client knows without any key."""

    def known(suite: int, temp_pub: bytes) -> tuple[bytes, bytes]:
        enc, ikm = encapsulate(suite, temp_pub)
        at = 384 if suite == HYBRID else 0
        zeros = 32 if suite == HYBRID else 0
        return enc[:at] + point + enc[at + 32 :], ikm[:zeros] + bytes(32) + ikm[zeros + 32 :]

    return known


def other_oaep(label: bytes | None = b"MessageApp v2 TempPub", sha1: bool = False) -> padding.OAEP:
    algorithm = hashes.SHA1() if sha1 else hashes.SHA256()  # noqa: S303 - what an old library does by itself
    return padding.OAEP(padding.MGF1(algorithm), algorithm, label)


def _encapsulations() -> list[tuple[str, str, int, Encapsulating]]:
    rows: list[tuple[str, str, int, Encapsulating]] = []
    for suite in NAMES:
        rows += [
            ("truncated", "m3-enc-length", suite, enc_changed(lambda enc: enc[:-1])),
            ("extended", "m3-enc-length", suite, enc_changed(lambda enc: enc + b"\0")),
            ("empty", "m3-enc-length", suite, enc_changed(lambda _: b"")),
            ("all-zero", "m3-enc-value", suite, enc_changed(lambda enc: bytes(len(enc)))),
            ("last-bit", "m3-enc-value", suite, enc_changed(flipped(-1))),
        ]
    for suite in (CLASSIC, HYBRID):
        rows += [
            ("rsa-first-bit", "m3-enc-value", suite, enc_changed(flipped(0))),
            ("rsa-modulus", "m3-enc-value", suite, modulus),
            ("oaep-no-label", "m3-oaep", suite, oaep_of(bytes(32), other_oaep(None))),
            ("oaep-K-33-bytes", "m3-oaep", suite, oaep_of(bytes(33), oaep())),
        ]
    rows += [
        ("rsa-all-ones", "m3-enc-value", CLASSIC, enc_changed(lambda enc: b"\xff" * 384)),
        ("oaep-label-of-v1", "m3-oaep", CLASSIC, oaep_of(bytes(32), other_oaep(b"MessageApp v1 TempPub"))),
        ("oaep-sha1", "m3-oaep", CLASSIC, oaep_of(bytes(32), other_oaep(sha1=True))),
        ("oaep-K-31-bytes", "m3-oaep", CLASSIC, oaep_of(bytes(31), oaep())),
        ("oaep-K-empty", "m3-oaep", CLASSIC, oaep_of(b"", oaep())),
    ]
    for point in LOW_ORDER:
        rows.append((f"x25519-{point}", "m3-enc-value", SWIFT, low_order(LOW_ORDER[point])))
    rows.append(("x25519-zero", "m3-enc-value", HYBRID, low_order(bytes(32))))
    rows.append(("x25519-bit", "m3-enc-value", SWIFT, enc_changed(flipped(3))))
    rows.append(("mlkem-first-bit", "m3-enc-value", SWIFT, enc_changed(flipped(32))))
    return rows


def replayed(world: World) -> Outcome:
    """Enc(K) and IKM of an earlier login under the temporary key of a new one; all the rest is fresh."""
    kept: list[tuple[bytes, bytes]] = []

    def once(suite: int, temp_pub: bytes) -> tuple[bytes, bytes]:
        kept.append(encapsulate(suite, temp_pub))
        return kept[0]

    need(after_login(world, "cid", encapsulating=once) == SESSION, "a good login")
    world.log_off(world.open[0])
    return after_login(world, "cid", encapsulating=once)


CASES: tuple[Case[World], ...] = (
    *(
        Case(f"m3/{NAMES[suite]}-{name}", line, logs_in({"suites": (suite,), "encapsulating": made}), ALERT_1)
        for name, line, suite, made in _encapsulations()
    ),
    Case("m3/enc-replayed", "m3-replayed", replayed, ALERT_1),
)
