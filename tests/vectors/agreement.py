"""X25519, ML-KEM-768 and RSA-OAEP: published vectors through `kem`, `ratchetkeys` and `vectorkeys`."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives.asymmetric import mlkem, padding, rsa, x25519

from messageapp_keys import kem, labels
from messageapp_keys.kem import CLASSIC, SWIFT, TemporaryKey
from messageapp_keys.ratchetkeys import RatchetKeys
from messageapp_keys.vectorkeys import load_temporary_key_untrusted
from support.keys import rsa_key

from . import rsa_padding
from .published import Block, blocks

MLKEM_FILE = "asymmetric/MLKEM/kat_MLKEM_768.rsp"
X25519_FILE = "asymmetric/X25519/rfc7748.txt"


def _ratchet(x: bytes, seed: bytes) -> RatchetKeys:
    """The wrapper draws its keys itself; here they are the published ones."""
    keys = RatchetKeys()
    keys._x = x25519.X25519PrivateKey.from_private_bytes(x)
    keys._kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)
    return keys


def _clamped(scalar: bytes) -> bytes:
    """The same function in the one spelling that `load_temporary_key_untrusted` takes."""
    return bytes([scalar[0] & 0xF8]) + scalar[1:31] + bytes([scalar[31] & 0x3F | 0x40])


def _swift(x: bytes, seed: bytes) -> TemporaryKey:
    return load_temporary_key_untrusted(SWIFT, {"temp_x25519": _clamped(x), "temp_mlkem_seed": seed})


@cache
def _first(file: str, needs: str) -> Block:
    return next(blocks(file, needs))


def diffie_hellman(vector: Block) -> str | None:
    """The front half of `swift`'s keying material, and d of a ratchet turn; ML-KEM's part is its first vector."""
    scalar, point, wanted = (bytes.fromhex(vector[name]) for name in ("INPUT_SCALAR", "INPUT_U", "OUTPUT_U"))
    other = _first(MLKEM_FILE, "pk")
    seed, ciphertext, secret = (bytes.fromhex(text) for text in (other["d"] + other["z"], other["ct"], other["ss"]))
    assert _swift(scalar, seed).decapsulate_untrusted(point + ciphertext, bytes(32)) == wanted + secret
    assert _ratchet(scalar, seed).decapsulate_untrusted(point, ciphertext) == wanted + secret
    return None


def ml_kem(vector: Block) -> str | None:
    """The back half of the same, from the seed d || z; a wrong ciphertext gives the published rejection."""
    other = _first(X25519_FILE, "INPUT_U")
    scalar, point, shared = (bytes.fromhex(other[name]) for name in ("INPUT_SCALAR", "INPUT_U", "OUTPUT_U"))
    seed, public = bytes.fromhex(vector["d"] + vector["z"]), bytes.fromhex(vector["pk"])
    for ciphertext, secret in (("ct", "ss"), ("ct_n", "ss_n")):
        sent, wanted = bytes.fromhex(vector[ciphertext]), shared + bytes.fromhex(vector[secret])
        temporary = _swift(scalar, seed)
        assert temporary.public[32:] == public
        assert temporary.decapsulate_untrusted(point + sent, bytes(32)) == wanted
    keys = _ratchet(scalar, seed)
    assert keys.decapsulate_untrusted(point, bytes.fromhex(vector["ct"])) == shared + bytes.fromhex(vector["ss"])
    assert kem.load_mlkem_untrusted(public).public_bytes_raw() == public
    return None


def oaep(vector: Block) -> str | None:
    """One step below the wrapper, whose label and size no vector has: its own hash and mask objects, no label.

    The same vector also holds for the second decoder, `rsa_padding`, which then says what ours must do with a label.
    """
    n, e, d, p, q = (int(vector[name], 16) for name in ("Modulus", "Public exponent", "Exponent", "Prime 1", "Prime 2"))
    message, ciphertext = bytes.fromhex(vector["Message"]), bytes.fromhex(vector["Encryption"])
    crt = (rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q))
    key = rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(e, n)).private_key(
        unsafe_skip_rsa_key_validation=True
    )
    ours = padding.OAEP(kem._OAEP.mgf, kem._OAEP.algorithm, None)
    assert key.decrypt(ciphertext, ours) == message
    assert rsa_padding.oaep_decrypt(n, d, ciphertext, b"") == message
    return None


def check_oaep_wrapper() -> None:
    """Both ways between our wrapper and the second encoder, under our label; another label is not K."""
    private = rsa_key("oaep")
    numbers = private.private_numbers()
    n, e, d = numbers.public_numbers.n, numbers.public_numbers.e, numbers.d
    secret, rejection = bytes(range(32)), bytes(32)
    for label, opens in ((labels.OAEP_TEMP_PUB, True), (b"", False), (labels.OAEP_TEMP_PUB + b"x", False)):
        made = rsa_padding.oaep_encrypt(n, e, secret, label, seed=bytes(range(32, 64)))
        assert (TemporaryKey(CLASSIC, [private]).decapsulate_untrusted(made, rejection) == secret) is opens
    public = TemporaryKey(CLASSIC, [private]).public
    made, drawn = kem.encapsulate_untrusted(CLASSIC, public, lambda size: secret[:size])
    assert rsa_padding.oaep_decrypt(n, d, made, b"MessageApp v2 TempPub") == drawn == secret
