"""Numbers, hashes, identities and key-encapsulation suites of the wire protocol, §1 to §4.2, written from its text.

It imports nothing of the project on purpose: two readings of one text can only disagree when neither saw the other.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, padding, rsa, x25519

CLASSIC, HYBRID, SWIFT = 1, 2, 3
SUITES = {CLASSIC: ("rsa",), HYBRID: ("rsa", "x", "kem"), SWIFT: ("x", "kem")}
PSS, P256, ED25519, MLDSA65 = 0x0804, 0x0403, 0x0807, 0x0905
L_M2, L_M3 = b"MessageApp v2, server key offer (M2)", b"MessageApp v2, user login (M3)"
L_C2, L_C3 = b"MessageApp v2, chat key offer (C2)", b"MessageApp v2, chat key (C3)"
DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo

Private = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey | ec.EllipticCurvePrivateKey


class ProtocolError(Exception):
    """The other side did something the text does not allow."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolError(what)


def u(value: int, size: int) -> bytes:
    """`value` as `size` bytes, big-endian."""
    return value.to_bytes(size, "big")


def vec(value: bytes, size: int) -> bytes:
    """vec8, vec16 or vec24: the length in `size` bytes, then the value."""
    return u(len(value), size) + value


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Reader:
    """Takes a structure apart; `end` refuses whatever is left."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        need(self.at + n <= len(self.data), "short field")
        self.at += n
        return self.data[self.at - n : self.at]

    def u(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vec(self, size: int) -> bytes:
        return self.take(self.u(size))

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        need(self.at == len(self.data), "trailing bytes")


def tlv(kind: int, value: bytes) -> bytes:
    return u(kind, 2) + vec(value, 2)


def read_tlvs(data: bytes) -> dict[int, bytes]:
    reader, found = Reader(data), dict[int, bytes]()
    while reader.at < len(data):
        kind = reader.u(2)
        need(kind not in found, "duplicate TLV")
        found[kind] = reader.vec(2)
    return found


def H(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


extract = mac  # RFC 5869: PRK = HMAC(salt, IKM)


def expand(prk: bytes, info: bytes, size: int) -> bytes:
    out, block, i = b"", b"", 1
    while len(out) < size:
        block = mac(prk, block + info + bytes([i]))
        out, i = out + block, i + 1
    return out[:size]


def XL(secret: bytes, label: str, ctx: bytes, size: int = 32) -> bytes:
    return expand(secret, u(size, 2) + vec(b"msgapp2 " + label.encode(), 1) + vec(ctx, 1), size)


def pad(data: bytes, size: int) -> bytes:
    """80 00 … up to exactly `size` bytes."""
    need(size > len(data), "no room for the padding byte")
    return data + b"\x80" + bytes(size - len(data) - 1)


def unpad(data: bytes) -> bytes:
    stripped = data.rstrip(b"\0")
    need(stripped.endswith(b"\x80"), "no padding byte")
    return stripped[:-1]


def pss() -> padding.PSS:
    return padding.PSS(padding.MGF1(hashes.SHA256()), 32)


def sign(key: Private, label: bytes, body: bytes, salt: int = 32) -> tuple[int, bytes]:
    """SIG(label, body): the algorithm that the kind of key implies, and the signature."""
    text = b"\x20" * 64 + label + b"\0" + body
    if isinstance(key, rsa.RSAPrivateKey):
        return PSS, key.sign(text, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return P256, key.sign(text, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, mldsa.MLDSA65PrivateKey):
        return MLDSA65, key.sign(text, label)
    return ED25519, key.sign(text)


def verify(alg: int, spki: bytes, label: bytes, body: bytes, signature: bytes) -> None:
    """Raises ProtocolError unless `signature` is SIG(label, body) by the key in `spki`."""
    text = b"\x20" * 64 + label + b"\0" + body
    key = serialization.load_der_public_key(spki)
    try:
        if alg == PSS and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, text, pss(), hashes.SHA256())
        elif alg == P256 and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        elif alg == ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, text)
        elif alg == MLDSA65 and isinstance(key, mldsa.MLDSA65PublicKey):
            key.verify(signature, text, label)
        else:
            raise ProtocolError("algorithm does not fit the key")
    except InvalidSignature:
        raise ProtocolError("bad signature") from None


def key_id_of(bundle: bytes) -> bytes:
    return H(b"MessageApp v2 identity\0", bundle)


def verify_list(bundle: bytes, label: bytes, body: bytes, reader: Reader) -> None:
    """Reads `u8 n, n × (u16 sigalg, vec16 sig)` and verifies all of it against all keys of the bundle, in order."""
    keys = Reader(bundle)
    count = keys.u(1)
    need(reader.u(1) == count, "number of signatures")
    for _ in range(count):
        alg = reader.u(2)
        need(alg == keys.u(2), "order of signatures")
        verify(alg, keys.vec(2), label, body, reader.vec(2))
    keys.end()


@dataclass(frozen=True, repr=False)
class Identity:
    """A name and one or two private keys, the classical one first."""

    name: str
    keys: tuple[Private, ...]

    @classmethod
    def make(cls, name: str, *kinds: str) -> Identity:
        return cls(name, tuple(new_private(kind) for kind in kinds or ("rsa3072",)))

    @property
    def bundle(self) -> bytes:
        entries = [u(sign(k, b"", b"")[0], 2) + vec(k.public_key().public_bytes(DER, SPKI), 2) for k in self.keys]
        return u(len(entries), 1) + b"".join(entries)

    @property
    def key_id(self) -> bytes:
        return key_id_of(self.bundle)

    def pem(self) -> bytes:
        return b"".join(k.public_key().public_bytes(PEM, SPKI) for k in self.keys)

    def signatures(self, label: bytes, body: bytes) -> bytes:
        return signature_list([sign(key, label, body) for key in self.keys])


def signature_list(made: list[tuple[int, bytes]]) -> bytes:
    return u(len(made), 1) + b"".join(u(alg, 2) + vec(signature, 2) for alg, signature in made)


def new_private(kind: str) -> Private:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "mldsa65":
        return mldsa.MLDSA65PrivateKey.generate()
    if kind == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"MessageApp v2 TempPub")


class Temporary:
    """The private side of one TempPub."""

    def __init__(self, suite: int) -> None:
        self.suite = suite
        self.x = x25519.X25519PrivateKey.generate()
        self.kem = mlkem.MLKEM768PrivateKey.generate()
        if "rsa" in SUITES[suite]:
            self.rsa = rsa.generate_private_key(65537, 3072)

    def public(self) -> bytes:
        parts = {"x": self.x.public_key().public_bytes_raw(), "kem": self.kem.public_key().public_bytes_raw()}
        if "rsa" in SUITES[self.suite]:
            parts["rsa"] = vec(self.rsa.public_key().public_bytes(DER, SPKI), 2)
        return b"".join(parts[name] for name in SUITES[self.suite])

    def decapsulate(self, enc: bytes) -> bytes:
        """IKM from Enc(K)."""
        reader, ikm = Reader(enc), b""
        for name in SUITES[self.suite]:
            if name == "rsa":
                ikm += self.rsa.decrypt(reader.take(384), oaep())
            elif name == "x":
                ikm += self.x.exchange(x25519.X25519PublicKey.from_public_bytes(reader.take(32)))
            else:
                ikm += self.kem.decapsulate(reader.take(1088))
        reader.end()
        need(len(ikm) == 32 * len(SUITES[self.suite]), "length of K")
        return ikm


def encapsulate(suite: int, temp_pub: bytes) -> tuple[bytes, bytes]:
    """(Enc(K), IKM) for TempPub, after the client's checks of §4.2."""
    reader, enc, ikm = Reader(temp_pub), b"", b""
    for name in SUITES[suite]:
        if name == "rsa":
            der = reader.vec(2)
            key = serialization.load_der_public_key(der)
            need(isinstance(key, rsa.RSAPublicKey) and key.key_size == 3072, "RSA-3072 wanted")
            assert isinstance(key, rsa.RSAPublicKey)
            numbers = key.public_numbers()
            need(numbers.e == 65537 and numbers.n % 2 == 1 and key.public_bytes(DER, SPKI) == der, "RSA key")
            secret = os.urandom(32)
            enc, ikm = enc + key.encrypt(secret, oaep()), ikm + secret
        elif name == "x":
            mine = x25519.X25519PrivateKey.generate()
            ikm += mine.exchange(x25519.X25519PublicKey.from_public_bytes(reader.take(32)))
            enc += mine.public_key().public_bytes_raw()
        else:
            secret, ct = mlkem.MLKEM768PublicKey.from_public_bytes(reader.take(1184)).encapsulate()
            enc, ikm = enc + ct, ikm + secret
    reader.end()
    return enc, ikm
