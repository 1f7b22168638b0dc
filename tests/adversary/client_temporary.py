"""Temporary keys that are signed but must not be used: RSA, X25519, ML-KEM-768 (protocol §4.2)."""

from __future__ import annotations

import secrets
from dataclasses import replace

from adversary.case import Case, Outcome, Seen
from adversary.client_rogue import Flip, Offer, Plan
from adversary.client_world import Stage
from interop.base import HYBRID, vec

__all__ = ["CASES", "LOW_ORDER", "MLKEM_OVER_Q", "N", "hybrid_with", "rsa_spki"]

P = 2**255 - 19
LOW_ORDER: dict[str, bytes] = {  # every u of order 1, 2, 4 or 8 on the curve and its twist, also as u + p (RFC 7748 §7)
    "zero": bytes(32),
    "one": (1).to_bytes(32, "little"),
    "eight": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "eight-twist": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p-1": (P - 1).to_bytes(32, "little"),
    "p": P.to_bytes(32, "little"),
    "p+1": (P + 1).to_bytes(32, "little"),
    "zero-high-bit": (1 << 255).to_bytes(32, "little"),
}


def _over_q(at: int) -> Flip:
    """Coefficient pair `at` of an ML-KEM key becomes 4095, 4095; q is 3329."""
    return lambda key: key[: 3 * at] + b"\xff\xff\xff" + key[3 * at + 3 :]


MLKEM_OVER_Q: dict[str, Flip] = {
    "first": _over_q(0),
    "last": _over_q(383),
    "exactly-q": lambda key: b"\x01" + bytes([key[1] & 0xF0 | 0x0D]) + key[2:],
}


def der(tag: int, body: bytes, long_form: bool = False) -> bytes:
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8 or 1, "big")
    if long_form:
        size = b"\0" + size
    return bytes([tag]) + (size if len(body) < 128 and not long_form else bytes([0x80 | len(size)]) + size) + body


def integer(value: int, more: bytes = b"") -> bytes:
    return der(2, more + value.to_bytes(value.bit_length() // 8 + 1, "big"))


NULL, RSA_OID = der(5, b""), der(6, bytes.fromhex("2a864886f70d010101"))


def rsa_spki(n: int, e: int, *, more: bytes = b"", parameters: bytes = NULL, long_form: bool = False) -> bytes:
    """By hand, since no library writes a bad one."""
    key = der(0x30, integer(n, more) + integer(e))
    return der(0x30, der(0x30, RSA_OID + parameters) + der(3, b"\0" + key), long_form)


def _modulus(bits: int) -> int:
    """Odd, of exactly this size; nobody has its factors, and nobody gets as far as needing them."""
    return secrets.randbits(bits) | 1 << (bits - 1) | 1


N = _modulus(3072)
RSA: dict[str, bytes] = {
    "2048": rsa_spki(_modulus(2048), 65537),
    "3071": rsa_spki(_modulus(3071), 65537),
    "3073": rsa_spki(_modulus(3073), 65537),
    "even": rsa_spki(N - 1, 65537),
    "e-3": rsa_spki(N, 3),
    "e-1": rsa_spki(N, 1),
    "e-even": rsa_spki(N, 65536),
    "modulus-with-a-zero-in-front": rsa_spki(N, 65537, more=b"\0"),
    "length-in-a-longer-form": rsa_spki(N, 65537, long_form=True),
    "no-parameters": rsa_spki(N, 65537, parameters=b""),
    "trailing-byte": rsa_spki(N, 65537) + b"\0",
    "no-der": b"\x30",
    "empty": b"",
}


def _with(temp_pub: Flip) -> Plan:
    return Plan(lambda offer: replace(offer, temp_pub=temp_pub(offer.temp_pub)))


def hybrid_with(spki: bytes) -> Plan:
    """In front of good other parts, as the suite that is offered first has it."""

    def hybrid(offer: Offer) -> Offer:
        return replace(offer, suite=HYBRID, temp_pub=vec(spki, 2) + offer.temp_pub)

    return Plan(hybrid)


def _case(name: str, line: str, plan: Plan) -> Case[Stage]:
    seen = Outcome(Seen.EXIT, 3, detail="the server's answer is not valid")
    return Case(f"temporary/{name}", line, lambda stage: stage.login(plan), seen)


CASES: tuple[Case[Stage], ...] = (
    *(_case(f"rsa-{name}", "m2-rsa", hybrid_with(spki)) for name, spki in RSA.items()),
    *(
        _case(f"x25519-{name}", "m2-x25519", _with(lambda temp, point=point: point + temp[32:]))  # type: ignore[misc]
        for name, point in LOW_ORDER.items()
    ),
    *(
        _case(f"mlkem-{name}", "m2-mlkem", _with(lambda temp, change=change: temp[:32] + change(temp[32:])))  # type: ignore[misc]
        for name, change in MLKEM_OVER_Q.items()
    ),
    _case("short", "m2-mlkem", _with(lambda temp: temp[:-1])),
    _case("long", "m2-mlkem", _with(lambda temp: temp + b"\0")),
    _case("none", "m2-mlkem", _with(lambda temp: b"")),
)
