"""Why a login failed is told to nobody: not by what is answered, not by the log, not by the work that it takes."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from faults.refusals import KINDS, REMOVED, answer, people
from interop.base import HYBRID, SWIFT
from interop.programs import RealServer, run
from messageapp.wire.login import LoginFailed
from messageapp_keys.codec import u8, u16, vec16
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.kem import TemporaryKey
from messageapp_keys.signing import SignatureAlgorithm, VerifyingKey, public_der
from messageapp_keys.standins import form_of, prepare_stand_ins, stand_in
from support.keys import USER_KINDS, identity, rsa_key
from support.pair import HandM3, LoginPair, frame_of

ALERT_1 = b"\x01"

# what is answered and logged ------------------------------------------------------------------------------------------

KEYS = {"Ed25519, swift": (SWIFT, ["ed25519"]), "RSA and ML-DSA, hybrid": (HYBRID, ["rsa3072", "mldsa65"])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.mark.parametrize("keys", KEYS)
def test_failed_logins_look_alike(server: RealServer, keys: str) -> None:
    """To the stranger and in the log, at a real server: the same bytes, the same end, the same lines."""
    suite, kinds = KEYS[keys]
    them = people(server.ca, suite, *kinds)
    server.enrol(them.enrolled, them.removed)
    run("user", "remove", REMOVED, "--home", server.home)
    log_before = server.complaints()
    told = {}
    for kind, (_, make) in KINDS.items():
        if suite == HYBRID or "RSA" not in kind:
            told[kind] = answer(server.port, make(them))
    assert told == dict.fromkeys(told, ALERT_1)
    with server.log_in(them.enrolled, suites=(suite,)).sock:
        pass
    run("user", "remove", them.enrolled.name, "--home", server.home)
    lines = server.complaints().removeprefix(log_before).splitlines()
    refused = [re.sub(r"\S+Z #\d+ ", "", line) for line in lines if "no login" in line]
    assert refused == ["messageapp: no login"] * len(told)
    assert not [line for line in lines[: len(told)] if "no login" not in line], "and nothing else"


def test_the_log_is_where_a_failure_would_show(tmp_path: Path) -> None:
    """What the last test looks for is there when it is asked for."""
    with RealServer(tmp_path) as server:
        them = people(server.ca, SWIFT, "ed25519")
        assert answer(server.port, them.login()) == ALERT_1
        server.child.send_signal(signal.SIGTERM)
        assert server.end() == 0
        assert server.complaints().count("no login") == 1


# the work -------------------------------------------------------------------------------------------------------------

Change = Callable[[tuple[tuple[int, bytes], ...]], tuple[tuple[int, bytes], ...]]
CLAIMS: dict[str, tuple[str, Change]] = {
    **{kind: (kind, lambda made: made) for kind in USER_KINDS},
    "rsa-2056": ("rsa-3072", lambda made: ((made[0][0], bytes(257)),)),
    "rsa of 0 bytes": ("rsa-3072", lambda made: ((made[0][0], b""),)),
    "rsa of 1 KiB": ("rsa-3072", lambda made: ((made[0][0], bytes(1024)),)),
    "a short ed25519": ("ed25519", lambda made: ((made[0][0], bytes(10)),)),
    "no algorithm": ("ed25519", lambda made: ((0, made[0][1]),)),
    "p256": ("ed25519", lambda made: ((int(SignatureAlgorithm.ECDSA_P256), made[0][1]),)),
    "ml-dsa first": ("ed25519+pq", lambda made: made[::-1]),
    "ml-dsa alone": ("ed25519+pq", lambda made: made[1:]),
    "twice the same": ("ed25519+pq", lambda made: (made[0], made[0])),
}


def damaged() -> IdentityBundle:
    """As a directory may hold it: of the usual form, but no key."""
    algorithm, der = identity("rsa-3072").bundle.keys[0]
    return IdentityBundle(((algorithm, der[:40] + bytes(len(der) - 40)),))


ENROLLED: dict[str, Callable[[], IdentityBundle | None]] = {
    "nobody": lambda: None,
    **{kind: lambda kind=kind: identity(kind, "mallory").bundle for kind in USER_KINDS},  # type: ignore[misc]
    "rsa-2050": lambda: PrivateIdentity([rsa_key("odd", 2050)]).bundle,
    "damaged": damaged,
}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("hidden", [False, True], ids=["", "hidden"])
def test_the_work_depends_on_the_message_alone(monkeypatch: pytest.MonkeyPatch, claim: str, hidden: bool) -> None:
    """Which keys are read and which signatures are checked, whoever is enrolled and with whichever key."""
    kind, change = CLAIMS[claim]
    work = {}
    for name, enrolled in ENROLLED.items():
        bundle = enrolled()
        read = None if bundle is None else IdentityBundle.read_untrusted(bundle.encode())
        pair = LoginPair(who=identity(kind), options={"hide_user": hidden})
        m1 = pair.m1()
        m3 = HandM3(m1, pair.m2(m1), who=identity(kind), label=b"another", signatures=change).frame()
        work[name] = work_of(monkeypatch, lambda pair=pair, m3=m3, read=read: refuse(pair, m3, read))  # type: ignore[misc]
    del work["damaged"]  # an operator's matter: it may cost more, but see below
    assert work == dict.fromkeys(work, work["nobody"])
    assert [step for step in work["nobody"] if step[0] == "check"]


def test_a_broken_seal_costs_what_a_wrong_signature_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the usual kind of key."""
    work = []
    for changes in ({"label": b"another"}, {"sealed": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])},
                    {"plaintext": lambda raw: b"\xff" + raw}):  # fmt: skip
        pair = LoginPair(who=identity("rsa-3072"))
        m1 = pair.m1()
        m3 = HandM3(m1, pair.m2(m1), who=identity("rsa-3072"), **changes).frame()
        enrolled = IdentityBundle.read_untrusted(identity("rsa-3072").bundle.encode())
        work.append(work_of(monkeypatch, lambda pair=pair, m3=m3, read=enrolled: refuse(pair, m3, read)))  # type: ignore[misc]
    assert work[0] == work[1] == work[2]


def refuse(pair: LoginPair, m3: bytes, bundle: IdentityBundle | None) -> None:
    with pytest.raises(LoginFailed):
        pair.server.accept_untrusted(frame_of(m3), lambda name: bundle)


def work_of(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[tuple[Any, ...]]:
    """What is done that takes long: keys read (of which kind and size), signatures checked, secrets decapsulated."""
    done: list[tuple[Any, ...]] = []
    prepare_stand_ins()

    def size(key: VerifyingKey) -> int:
        return (key.key.key_size + 7) // 8 if isinstance(key.key, rsa.RSAPublicKey) else 0

    def of(self: type[VerifyingKey], key: Any) -> VerifyingKey:
        made = real_of(key)
        done.append(("read", made.algorithm, size(made)))
        return made

    def verify(self: VerifyingKey, label: bytes, body: bytes, signature: bytes) -> bool:
        done.append(("check", self.algorithm, size(self), len(signature)))
        return real_verify(self, label, body, signature)

    def decapsulate(self: TemporaryKey, *arguments: Any) -> bytes:
        done.append(("decapsulate",))
        return real_decapsulate(self, *arguments)

    real_of, real_verify = VerifyingKey.of, VerifyingKey.verify_untrusted
    real_decapsulate = TemporaryKey.decapsulate_untrusted
    with monkeypatch.context() as patch:
        patch.setattr(VerifyingKey, "of", classmethod(of))
        patch.setattr(VerifyingKey, "verify_untrusted", verify)
        patch.setattr(TemporaryKey, "decapsulate_untrusted", decapsulate)
        act()
    return done


@pytest.mark.parametrize("kind", USER_KINDS)
@pytest.mark.parametrize("hidden", [False, True], ids=["", "hidden"])
def test_the_right_key_logs_in(kind: str, hidden: bool) -> None:
    LoginPair(who=identity(kind), options={"hide_user": hidden}).run()


def test_a_damaged_key_in_the_directory_lets_nobody_in() -> None:
    pair = LoginPair(who=identity("rsa-3072"), enrolled={"alice": damaged()})
    with pytest.raises(LoginFailed):
        pair.accept(pair.m3(pair.m2(pair.m1())))


@pytest.mark.parametrize("bits", [2048, 2049, 2050, 2055, 2056, 3071, 3072, 4095, 4096])
def test_the_size_of_signatures_of_an_unread_key(bits: int) -> None:
    """For every size that is taken, and a login with it."""
    modulus = 1 << (bits - 1) | 12345
    der = public_der(rsa.RSAPublicNumbers(65537, modulus).public_key())
    bundle = IdentityBundle.read_untrusted(u8(1) + u16(SignatureAlgorithm.RSA_PSS) + vec16(der))
    assert bundle.signature_sizes == ((SignatureAlgorithm.RSA_PSS, (bits + 7) // 8),)
    assert stand_in(bundle.signature_sizes).signature_sizes == bundle.signature_sizes
    assert form_of(((SignatureAlgorithm.RSA_PSS, bytes((bits + 7) // 8)),)) == bundle.signature_sizes


def test_a_user_with_an_odd_size_of_key_logs_in() -> None:
    LoginPair(who=PrivateIdentity([rsa_key("odd", 2050)])).run()


def test_stand_ins_are_no_key_of_anybody() -> None:
    forms = [identity(kind).bundle.signature_sizes for kind in USER_KINDS]
    made = [stand_in(form) for form in forms]
    assert [bundle.signature_sizes for bundle in made] == forms
    assert made == [stand_in(form) for form in forms], "the same each time"
    for bundle, kind in zip(made, USER_KINDS, strict=True):
        assert bundle.checked_untrusted().kind == identity(kind).bundle.kind
        assert bundle.keys[0] != identity(kind).bundle.keys[0]
