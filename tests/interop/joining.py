"""Joining (§3.3) in the second implementation: a join code read, and the newcomer's half of the login."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from interop.base import XL, H, Identity, Reader, extract, mac, need, tlv, vec
from interop.peer import Login

__all__ = ["Code", "joining"]

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LABEL = b"MessageApp v2 join"


@dataclass(frozen=True)
class Code:
    host: str
    port: int
    name: str
    authority: bytes
    secret: bytes

    @classmethod
    def read(cls, text: str) -> Code:
        """As it was printed."""
        head, *groups = text.split("-")
        need(head == "MSGAPP", "the beginning of a join code")
        letters = "".join(groups)
        number = 0
        for letter in letters:
            number = number << 5 | ALPHABET.index(letter)
        unused = len(letters) * 5 % 8
        need(number & (1 << unused) - 1 == 0, "bits behind a join code")
        data = (number >> unused).to_bytes(len(letters) * 5 // 8, "big")
        need(H(data[:-4])[:4] == data[-4:], "the check of a join code")
        reader = Reader(data[:-4])
        need(reader.u(1) == 1, "the version of a join code")
        code = cls(reader.vec(1).decode(), reader.u(2), reader.vec(1).decode(), reader.take(32), reader.take(16))
        reader.end()
        return code

    def _derived(self, label: str, size: int) -> bytes:
        return XL(extract(b"MessageApp v2 invite", self.secret), label, b"", size)

    @property
    def id(self) -> bytes:
        return self._derived("invite id", 16)

    @property
    def key(self) -> bytes:
        return self._derived("invite key", 32)


def joining(
    login: Login,
    code: Code,
    *,
    id_: bytes | None = None,
    key: bytes | None = None,
    bundle: bytes | None = None,
    transcript: Callable[[bytes], bytes] = bytes,
    name: Callable[[bytes], bytes] = bytes,
    on_tag: Callable[[bytes], bytes] = bytes,
    on_join: Callable[[bytes], bytes] = bytes,
) -> Login:
    """`login`, made a join by `code`; the rest is to be set wrong, `on_join` what goes on behind the signatures."""
    signed: list[bytes] = []
    sign = login.signatures

    def signatures(me: Identity, label: bytes, body: bytes) -> bytes:
        signed.append(body[:32])
        return sign(me, label, body)

    def on_plain(plain: bytes) -> bytes:
        own = login.me.bundle if bundle is None else bundle
        proved = LABEL + b"\0" + transcript(signed[-1]) + name(plain[: 1 + plain[0]]) + vec(own, 2)
        return plain + on_join(vec(own, 2) + on_tag(mac(key or code.key, proved)))

    login.hide, login.tlvs = True, tlv(0x4A4E, code.id if id_ is None else id_)
    login.signatures, login.on_plain = signatures, on_plain
    return login
