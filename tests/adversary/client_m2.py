"""M2 of a misbehaving server: its form, its choices, its signature, and what is sent in its place (protocol §4.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from adversary.case import Case, Outcome, Seen
from adversary.client_rogue import Flip, Offer, Plan, cut, flip, longer, signed_by
from adversary.client_world import Stage
from interop.base import CLASSIC, ED25519, HYBRID, L_C2, L_M3, MLDSA65, P256, Private, Reader, new_private, tlv, u
from interop.peer import ALERT, M1, M2, M3, M4, RECORD, frame, read_m1

__all__ = ["CASES"]

_CHOICE = "a version, suite or signature nobody offered"
_SIGNATURE = "the server's signature is not by the key in its certificate"
_FORM = "the server's answer is not valid"
_FOREIGN = "what answers there does not speak MessageApp"
_GONE = "the server closed the connection during the login"


def _case(name: str, line: str, plan: Plan, text: str, code: int = 3) -> Case[Stage]:
    return Case(f"m2/{name}", line, lambda stage: stage.login(plan), Outcome(Seen.EXIT, code, detail=text))


def _offer(**changes: object) -> Callable[[Offer], Offer]:
    return lambda offer: replace(offer, **changes)  # type: ignore[arg-type]


def m1_fields(m1: bytes) -> dict[str, int]:
    """Where one byte of each field of the frame M1 lies."""
    reader = Reader(m1)
    at = {"length": 3, "type": 4, "magic": 5, "R1": 13}
    reader.take(5 + 8 + 32)
    for name in ("versions", "suites", "sigalgs"):
        count = reader.u(1)
        at[name] = reader.at + 1
        reader.take(2 * count)
    at["flags"] = reader.at + 3
    reader.take(4)
    for name in ("server", "username"):
        reader.vec(1)
        at[name] = reader.at - 1
    at["TLVs"] = len(m1) - 1
    return at


M1_FIELDS = ("length", "type", "magic", "R1", "versions", "suites", "sigalgs", "flags", "server", "username", "TLVs")

CHANGED = (("R2", 0, _SIGNATURE), ("TempPub", 60, _SIGNATURE), ("TLV", -4, _SIGNATURE), ("version", 33, _CHOICE),
           ("suite", 35, _SIGNATURE), ("flags", 39, _FORM))  # fmt: skip


def _signed_over_another_m1(field: str) -> Plan:
    return Plan(lambda offer: replace(offer, m1=flip(m1_fields(offer.m1)[field])(offer.m1)))


def _unused_suite_of_the_client(offer: Offer) -> Offer:
    offered = read_m1(offer.m1[5:]).suites
    return replace(offer, suite=next(code for code in offered if code & 0x0F0F == 0x0A0A))


def _by(maker: Callable[[Private], Flip]) -> Plan:
    return Plan(lambda offer: replace(offer, signature=maker(offer.key)))


def _pkcs1(key: Private) -> Flip:
    assert isinstance(key, rsa.RSAPrivateKey)
    text = b"\x20" * 64 + b"MessageApp v2, server key offer (M2)\0"
    return lambda body: key.sign(text + body, padding.PKCS1v15(), hashes.SHA256())


def _pss_sha1_mask(key: Private) -> Flip:
    assert isinstance(key, rsa.RSAPrivateKey)
    text = b"\x20" * 64 + b"MessageApp v2, server key offer (M2)\0"
    scheme = padding.PSS(padding.MGF1(hashes.SHA1()), 32)  # noqa: S303
    return lambda body: key.sign(text + body, scheme, hashes.SHA256())


def _p256_signature_under(sigalg: int) -> Plan:
    key = new_private("p256")
    return Plan(lambda offer: replace(offer, sigalg=sigalg, signature=signed_by(key)))


def _in_place(kind: int, body: bytes = b"") -> Plan:
    return Plan(m2=lambda _: frame(kind, body))


def _replayed(stage: Stage) -> Outcome:
    """Recorded in a session of this client that was good, and given to its next one."""
    earlier = stage.copied("m2-earlier")
    server = earlier.server()
    earlier.client(server)
    earlier.session(server).close()
    return stage.login(Plan(m2=lambda _: server.m2))


_LEAF_KEY_OF_ANOTHER = Plan(lambda offer: replace(offer, signature=signed_by(new_private("rsa2048"))))

CASES: tuple[Case[Stage], ...] = (
    _case("suite-classic", "m2-suite", Plan(_offer(suite=CLASSIC)), _CHOICE),
    _case("suite-unknown", "m2-suite", Plan(_offer(suite=0x00FF)), _CHOICE),
    _case("suite-that-nobody-defines", "m2-suite", Plan(_unused_suite_of_the_client), _CHOICE),
    _case("suite-hybrid-to-swift", "m2-suite", Plan(_offer(suite=HYBRID), words=("--suite", "swift")), _CHOICE),
    _case("suite-of-another-key", "m2-suite", Plan(_offer(suite=HYBRID)), _FORM),
    _case("version-1", "m2-version", Plan(_offer(version=1)), _CHOICE),
    _case("version-3", "m2-version", Plan(_offer(version=3)), _CHOICE),
    *(_case(f"signed-M1-{f}", "m2-transcript", _signed_over_another_m1(f), _SIGNATURE) for f in M1_FIELDS),
    *(_case(f"changed-{name}", "m2-transcript", Plan(core=flip(at)), text) for name, at, text in CHANGED),
    _case("sigalg-changed", "m2-sigalg", Plan(core=flip(-1)), _CHOICE),
    _case("sigalg-ed25519", "m2-sigalg", Plan(_offer(sigalg=ED25519)), _CHOICE),
    _case("sigalg-p256", "m2-sigalg", _p256_signature_under(P256), _SIGNATURE),
    _case("sigalg-mldsa65", "m2-sigalg", Plan(_offer(sigalg=MLDSA65)), _SIGNATURE),
    _case("signature-changed", "m2-other-key", Plan(m2=flip(-1)), _SIGNATURE),
    _case("signature-empty", "m2-other-key", Plan(_offer(signature=lambda _: b"")), _SIGNATURE),
    _case("signature-label-m3", "m2-other-key", _by(lambda key: signed_by(key, L_M3)), _SIGNATURE),
    _case("signature-label-c2", "m2-other-key", _by(lambda key: signed_by(key, L_C2)), _SIGNATURE),
    _case("pss-salt-0", "m2-pss-salt", _by(lambda key: signed_by(key, salt=0)), _SIGNATURE),
    _case("pss-salt-20", "m2-pss-salt", _by(lambda key: signed_by(key, salt=20)), _SIGNATURE),
    _case("pss-mask-sha1", "m2-pss-salt", _by(_pss_sha1_mask), _SIGNATURE),
    _case("pkcs1-v1.5", "m2-pkcs1", _by(_pkcs1), _SIGNATURE),
    _case("key-not-in-the-leaf", "m2-other-key", _LEAF_KEY_OF_ANOTHER, _SIGNATURE),
    _case("flags-1", "m2-form", Plan(_offer(flags=1)), _FORM),
    _case("flags-high", "m2-form", Plan(_offer(flags=1 << 31)), _FORM),
    _case("tlv-twice", "m2-form", Plan(_offer(tlvs=tlv(9, b"") * 2)), _FORM),
    _case("tlv-short", "m2-form", Plan(_offer(tlvs=b"\0\x09\0\x01")), _FORM),
    _case("trailing-byte", "m2-form", Plan(m2=lambda m2: frame(M2, longer(m2[5:]))), _FORM),
    _case("short", "m2-form", Plan(m2=lambda m2: frame(M2, cut(m2[5:]))), _FORM),
    _case("empty", "m2-form", _in_place(M2), _FORM),
    Case("m2/replayed", "m2-replayed", _replayed, Outcome(Seen.EXIT, 3, detail=_SIGNATURE)),
    _case("length-0", "m2-length", Plan(m2=lambda _: bytes(5)), _FOREIGN),
    _case("length-32769", "m2-length", Plan(m2=lambda _: u(32769, 4) + u(M2, 1)), _FOREIGN),
    _case("length-2^32-1", "m2-length", Plan(m2=lambda _: b"\xff" * 4), _FOREIGN),
    _case("reflected-M1", "m2-turn", _in_place(M1, b"MSGAPP\0\2"), _FOREIGN),
    *(
        _case(f"turn-{name}", "m2-turn", _in_place(kind, bytes(64)), _FOREIGN)
        for name, kind in (("M3", M3), ("M4", M4), ("RECORD", RECORD), ("type-0", 0), ("type-255", 255))
    ),
    _case("long-alert", "m2-turn", _in_place(ALERT, bytes(4)), _FOREIGN),
    _case("http", "m2-turn", Plan(m2=lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"), _FOREIGN),
    _case("half", "m2-turn", Plan(m2=lambda m2: m2[:700], hang_up=True), _GONE, 5),
    _case("nothing", "m2-turn", Plan(m2=lambda _: b"", hang_up=True), _GONE, 5),
    _case("twice", "m2-twice", Plan(m4=lambda server, _: server.m2), _FOREIGN),
)
