"""Keys and certificates, each made once a test run: RSA-3072 takes 120 to 560 ms, and tests need the same few again."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

from messageapp_keys.authority import make_ca, make_server_certificate
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import Suite, TemporaryKey
from messageapp_keys.signing import PrivateKey

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SERVER = "chat.example.org"
OTHER_SERVER = "other.example.org"
USER_KINDS = ("rsa-2048", "rsa-3072", "ed25519", "rsa+pq", "ed25519+pq")
LEAF_KINDS = ("rsa-3072", "p256", "ml-dsa-65")


@cache
def _rsa_key(name: str, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def rsa_key(name: str, bits: int = 3072) -> rsa.RSAPrivateKey:
    return _rsa_key(name, bits)


@cache
def _mldsa_key(name: str) -> mldsa.MLDSA65PrivateKey:
    return mldsa.MLDSA65PrivateKey.generate()


@cache
def _ed25519_key(name: str) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def identity(kind: str = "ed25519", name: str = "alice") -> PrivateIdentity:
    """A user's keys; one identity for each kind and name, but all names have the same RSA key."""
    return _identity(kind, name)


@cache
def _identity(kind: str, name: str) -> PrivateIdentity:
    keys: list[PrivateKey]
    match kind.removesuffix("+pq"):
        case "rsa-2048":
            keys = [rsa_key("2048", 2048)]
        case "rsa-3072" | "rsa":
            keys = [rsa_key("user")]
        case "ed25519":
            keys = [_ed25519_key(name)]
        case _:
            raise ValueError(kind)
    if kind.endswith("+pq"):
        keys.append(_mldsa_key(name))
    return PrivateIdentity(keys)


def authority(name: str = "MessageApp CA") -> tuple[PrivateKey, x509.Certificate]:
    """On P-256, which is quick to make and to use."""
    return _authority(name)


@cache
def _authority(name: str) -> tuple[PrivateKey, x509.Certificate]:
    return make_ca(NOW, name, ec.generate_private_key(ec.SECP256R1()))


def leaf(
    kind: str = "p256", names: tuple[str, ...] = (SERVER,), ca: str = "MessageApp CA", serial: int = 0
) -> tuple[PrivateKey, x509.Certificate]:
    """A server's key and certificate; another `serial` is another certificate, and another key except for RSA."""
    return _leaf(kind, names, ca, serial)


@cache
def _leaf(kind: str, names: tuple[str, ...], ca: str, serial: int) -> tuple[PrivateKey, x509.Certificate]:
    keys: dict[str, Callable[[], PrivateKey]] = {
        "rsa-3072": lambda: rsa_key("leaf"),
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    }
    return make_server_certificate(*authority(ca), names, NOW, keys[kind]())


def temporary(suite: Suite) -> TemporaryKey:
    """Fresh, but for its RSA part, which is one and the same for all: only tests may do that."""
    return TemporaryKey.generate(suite, rsa_key("temporary") if suite.needs_rsa else None)


def seeded(seed: int = 0) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    return random.Random(seed).randbytes
