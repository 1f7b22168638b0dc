"""Every way in which a login fails at M3, made by the second peer. They must look alike (protocol §4.4, §7.5)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509

from interop.base import HYBRID, Identity, Private, new_private
from interop.peer import WAIT, Alert, Closed, Login, log_in_on

__all__ = ["ENROLLED", "KINDS", "REMOVED", "People", "answer", "people"]

ENROLLED: Final = "alice"
REMOVED: Final = "removed"
_UNKNOWN: Final = "nobody"
_RSA, _X25519, _MLKEM = 384, 32, 1088  # bytes of each part of Enc(K), in this order


@dataclass(frozen=True, slots=True)
class People:
    """Who has one kind of key: the user, the removed one, and one whose key nobody knows."""

    enrolled: Identity
    removed: Identity
    mallory: tuple[Private, ...]
    ca: x509.Certificate
    suite: int

    def login(self) -> Login:
        return Login(self.enrolled, self.ca, suites=(self.suite,))

    def signed_by_another(self) -> Login:
        return replace(self.login(), signer=Identity(ENROLLED, self.mallory))

    def as_user(self, name: str) -> Login:
        return replace(self.login(), me=replace(self.enrolled, name=name))


def people(ca: x509.Certificate, suite: int, *kinds: str) -> People:
    """With new keys of these kinds. The enrolled and the removed one still have to be enrolled."""
    enrolled, removed = Identity.make(ENROLLED, *kinds), Identity.make(REMOVED, *kinds)
    return People(enrolled, removed, tuple(new_private(kind) for kind in kinds), ca, suite)


def _noise(start: int, size: int) -> Callable[[People], Login]:
    """Random bytes in place of one part of Enc(K): the client seals under the key that it thinks is right."""

    def make(them: People) -> Login:
        login, skipped = them.login(), 0 if them.suite == HYBRID else _RSA

        def encapsulating(suite: int, temp_pub: bytes) -> tuple[bytes, bytes]:
            enc, keying_material = login.encapsulating(suite, temp_pub)
            at = start - skipped
            noise = bytes([os.urandom(1)[0] >> 1]) + os.urandom(size - 1)  # below any modulus
            return enc[:at] + noise + enc[at + size :], keying_material

        return replace(login, encapsulating=encapsulating)

    return make


def _sealed_noise(them: People) -> Login:
    return replace(them.login(), on_m3=lambda body: body[:-1] + bytes([body[-1] ^ 1]))


KINDS: Final[Mapping[str, tuple[str, Callable[[People], Login]]]] = {
    "unknown user": ("user", lambda them: them.as_user(_UNKNOWN)),
    "removed user": ("user", lambda them: replace(them.login(), me=them.removed)),
    "another spelling": ("user", lambda them: them.as_user(ENROLLED.upper())),
    "another's signature": ("user", People.signed_by_another),
    "another's key_id": ("user", lambda them: replace(them.login(), key_id=os.urandom(32))),
    "another name sealed": ("user", lambda them: replace(them.login(), sealed_name="alicf")),
    "another server's name": (
        "user",
        lambda them: replace(them.login(), server="other.host", certified="127.0.0.1"),
    ),
    "broken seal": ("seal", _sealed_noise),
    "broken RSA part": ("seal", _noise(0, _RSA)),
    "broken X25519 part": ("seal", _noise(_RSA, _X25519)),
    "broken ML-KEM part": ("seal", _noise(_RSA + _X25519, _MLKEM)),
}
"""name: (what is wrong: who logs in, or the seal; the login)"""


def answer(port: int, login: Login, alerted: Callable[[], None] = lambda: None) -> bytes:
    """The body of the ALERT, and all that comes behind it, to the end. `alerted` is called when the ALERT is there."""
    with socket.create_connection(("127.0.0.1", port), WAIT) as sock:
        sock.settimeout(WAIT)
        try:
            log_in_on(sock, login)
        except Alert as alert:
            alerted()
            rest = b""
            while data := sock.recv(65_536):
                rest += data
            return bytes([alert.code]) + (b"" if alert.retry is None else alert.retry.to_bytes(2, "big")) + rest
        except Closed:
            return b""
        raise AssertionError("this login was to fail")
