"""Chat exchange C1 to C4 (§8), ratchet (§10) and safety number (§11) of the second implementation."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from interop.base import (
    HYBRID,
    L_C2,
    L_C3,
    SUITES,
    XL,
    H,
    Identity,
    ProtocolError,
    Reader,
    Temporary,
    encapsulate,
    expand,
    extract,
    key_id_of,
    mac,
    need,
    now_ms,
    pad,
    read_tlvs,
    tlv,
    u,
    unpad,
    vec,
    verify_list,
)

C1, C2, C3, C4, RATCHET = 1, 2, 3, 4, 5
SECURE = b"CHAT IS SECURE!"
HEADER = 8 + 1 + 32 + 1184 + 1088 + 16 + 4 + 16


def open_sealed(key: bytes, nonce: bytes, ciphertext_and_tag: bytes, aad: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, ciphertext_and_tag, aad)
    except InvalidTag:
        raise ProtocolError("does not open") from None


@dataclass
class Chat:
    """One chat exchange, either role; what both sides know before C1."""

    me: Identity
    peer: str
    peer_bundle: bytes
    server: str
    invite: bytes
    calling: bool
    suite: int = HYBRID
    offers: tuple[int, ...] = (HYBRID, 3, 0x3A5A)
    c1: bytes = b""
    c2: bytes = b""
    c3: bytes = b""
    prk: bytes = b""
    number: str = field(default="", repr=False)

    def _who(self) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
        """(caller, receiver), each a name and a key_id."""
        mine, other = (self.me.name, self.me.key_id), (self.peer, key_id_of(self.peer_bundle))
        return (mine, other) if self.calling else (other, mine)

    def ad(self) -> bytes:
        pairs = sorted(self._who(), key=lambda pair: pair[1])
        body = b"".join(vec(name.encode(), 1) + key_id for name, key_id in pairs)
        return H(b"MessageApp v2 chat ad\0", vec(self.server.encode(), 1), body)

    def _after_invite(self) -> bytes:
        (a, a_id), (b, b_id) = self._who()
        return vec(a.encode(), 1) + vec(b.encode(), 1) + a_id + b_id + vec(self.server.encode(), 1)

    def make_c1(self) -> bytes:
        offers = u(len(self.offers), 1) + b"".join(u(s, 2) for s in self.offers)
        tlvs = vec(tlv(0x7A7A, b"unused"), 2)
        self.c1 = b"MSGCHAT\x02" + os.urandom(32) + offers + self.invite + self._after_invite() + tlvs
        return self.c1

    def c2_from(self, c1: bytes) -> bytes:
        """The receiver's answer to C1."""
        self.check_c1(c1)
        self.c1, self.temporary = c1, Temporary(self.suite)
        self.x, self.m = x25519.X25519PrivateKey.generate(), mlkem.MLKEM768PrivateKey.generate()
        core = self.c2_core()
        self.c2 = core + self.c2_signatures(core)
        return self.c2

    def check_c1(self, c1: bytes) -> None:
        reader = Reader(c1)
        need(reader.take(8) == b"MSGCHAT\x02", "magic of C1")
        reader.take(32)
        offers = [reader.u(2) for _ in range(reader.u(1))]
        need(self.suite in offers, "suite not offered")
        need(reader.take(16) == self.invite, "invite of C1")
        wanted = self._after_invite()
        need(reader.take(len(wanted)) == wanted, "names or key_ids of C1")
        read_tlvs(reader.vec(2))
        reader.end()

    def c2_core(self) -> bytes:
        start = self.x.public_key().public_bytes_raw() + self.m.public_key().public_bytes_raw()
        core = os.urandom(32) + u(self.suite, 2) + vec(self.temporary.public(), 2) + vec(start, 2)
        return core + vec(tlv(0x0A4A, b""), 2)

    def c2_signatures(self, core: bytes) -> bytes:
        return self.me.signatures(L_C2, self.th_c2(core))

    def th_c2(self, core: bytes) -> bytes:
        return H(b"MessageApp v2 TH-C2\0", vec(self.c1, 3), vec(core, 3))

    def _keys(self, enc: bytes, ikm: bytes) -> tuple[bytes, bytes]:
        """(k_c3, TH_CE); keeps PRK."""
        th_ce = H(b"MessageApp v2 TH-CE\0", vec(self.c1, 3), vec(self.c2, 3), vec(enc, 2))
        self.prk = extract(H(b"MessageApp v2 chat extract", u(self.suite, 2)), ikm)
        return XL(self.prk, "c3 auth", th_ce), th_ce

    def _c3_body(self, th_ce: bytes) -> bytes:
        (_, a_id), (_, b_id) = self._who()
        return th_ce + a_id + b_id

    def _th_c3(self) -> bytes:
        return H(b"MessageApp v2 TH-C3\0", vec(self.c1, 3), vec(self.c2, 3), vec(self.c3, 3))

    def c3_from(self, c2: bytes) -> bytes:
        """The caller's answer to C2."""
        reader = Reader(c2)
        reader.take(32)
        self.suite = reader.u(2)
        need(self.suite in self.offers and self.suite in SUITES, "suite of C2")
        temp_pub, self.peer_start = reader.vec(2), reader.vec(2)
        need(len(self.peer_start) == 32 + 1184, "length of Ratchet")
        read_tlvs(reader.vec(2))
        self.c2 = c2
        self.check_c2(c2[: reader.at], reader)
        enc, ikm = self.encapsulate(temp_pub)
        key, th_ce = self._keys(enc, ikm)
        self.c3 = vec(enc, 2) + vec(AESGCM(key).encrypt(bytes(12), self.c3_signatures(th_ce), th_ce), 2)
        return self.c3

    def encapsulate(self, temp_pub: bytes) -> tuple[bytes, bytes]:
        return encapsulate(self.suite, temp_pub)

    def check_c2(self, core: bytes, rest: Reader) -> None:
        verify_list(self.peer_bundle, L_C2, self.th_c2(core), rest)
        rest.end()

    def c3_signatures(self, th_ce: bytes) -> bytes:
        return self.me.signatures(L_C3, self._c3_body(th_ce))

    def c4_from(self, c3: bytes) -> bytes:
        """The receiver's answer to C3."""
        reader = Reader(c3)
        enc, sealed = reader.vec(2), reader.vec(2)
        reader.end()
        key, th_ce = self._keys(enc, self.temporary.decapsulate(enc))
        signed = Reader(open_sealed(key, bytes(12), sealed, th_ce))
        verify_list(self.peer_bundle, L_C3, self._c3_body(th_ce), signed)
        signed.end()
        self.c3 = c3
        return self.make_c4()

    def make_c4(self, text: bytes = SECURE) -> bytes:
        th_c3 = self._th_c3()
        return AESGCM(XL(self.prk, "c4", th_c3)).encrypt(bytes(12), text, th_c3)

    def check_c4(self, c4: bytes) -> None:
        th_c3 = self._th_c3()
        need(open_sealed(XL(self.prk, "c4", th_c3), bytes(12), c4, th_c3) == SECURE, "text of C4")

    def exporter(self) -> bytes:
        return XL(self.prk, "chat exporter", self._th_c3())

    def ratchet(self) -> Ratchet:
        th_c3 = self._th_c3()
        made = Ratchet(XL(self.prk, "chat root", th_c3), XL(self.prk, "chat id", th_c3, 8), self.ad(), self.me.name,
                       self.peer)  # fmt: skip
        made.exporter = self.exporter()
        if self.calling:
            made.turn(self.peer_start[:32], self.peer_start[32:])
        else:
            made.x, made.m = self.x, self.m
        return made


class Ratchet:
    """§10, for one chat; messages are bytes in and out, nothing is stored on disk."""

    def __init__(self, rk: bytes, sid: bytes, ad: bytes, me: str, peer: str) -> None:
        self.rk, self.sid, self.ad, self.me, self.peer = rk, sid, ad, me, peer
        self.x, self.m = x25519.X25519PrivateKey.generate(), mlkem.MLKEM768PrivateKey.generate()
        self.peer_dh = self.cks = self.ckr = self.keys = b""
        self.ns = self.nr = self.pn = 0
        self.skipped: dict[tuple[bytes, int], bytes] = {}
        self.turns = 0
        self.exporter = b""

    def kdf_rk(self, dh: bytes, secret: bytes, keys: bytes) -> tuple[bytes, bytes]:
        out = expand(extract(self.rk, dh + secret), b"MessageApp v2 ratchet" + H(keys), 64)
        return out[:32], out[32:]

    def turn(self, dh: bytes, ek: bytes) -> None:
        self.x, self.m = x25519.X25519PrivateKey.generate(), mlkem.MLKEM768PrivateKey.generate()
        secret, ct = mlkem.MLKEM768PublicKey.from_public_bytes(ek).encapsulate()
        self.keys = self.x.public_key().public_bytes_raw() + self.m.public_key().public_bytes_raw() + ct
        shared = self.x.exchange(x25519.X25519PublicKey.from_public_bytes(dh))
        self.root = self.rk  # what this turn starts from
        self.rk, self.cks = self.kdf_rk(shared, secret, self.keys)
        self.pn, self.ns = self.ns, 0
        self.turns += 1

    def seal(self, plain: bytes) -> bytes:
        """A whole ratchet message of the padded plaintext."""
        need(bool(self.cks), "the caller speaks first")
        mk, self.cks = mac(self.cks, b"\x01"), mac(self.cks, b"\x02")
        counter, salt = self.ns.to_bytes(16, "little"), os.urandom(16)
        self.ns += 1
        header = self.sid + b"\x02" + self.keys + counter + u(self.pn, 4) + salt
        aad = vec(self.me.encode(), 1) + counter + header + self.ad
        sealed = AESGCM(XL(mk, "msg", salt)).encrypt(counter[:12], plain, aad)
        return header + sealed[-16:] + sealed[:-16]

    def text(self, text: str | None, *more: bytes) -> bytes:
        """A ratchet message with an id, a time, the text unless it is None, and more TLVs."""
        body = tlv(1, os.urandom(16)) + tlv(2, u(now_ms(), 8))
        body += b"" if text is None else tlv(3, text.encode())
        body += b"".join(more)
        return self.seal(pad(body, (len(body) // 160 + 1) * 160))

    def open(self, message: bytes) -> dict[int, bytes]:
        """The TLVs of a message; the state only changes if it opens."""
        reader = Reader(message)
        need(reader.take(8) == self.sid and reader.u(1) == 2, "sid or version")
        dh, ek, ct = reader.take(32), reader.take(1184), reader.take(1088)
        counter, pn, salt = reader.take(16), reader.u(4), reader.take(16)
        number = int.from_bytes(counter, "little")
        tag, ciphertext = reader.take(16), reader.rest()
        aad = vec(self.peer.encode(), 1) + counter + message[:HEADER] + self.ad

        def opened(mk: bytes) -> dict[int, bytes]:
            plain = open_sealed(XL(mk, "msg", salt), counter[:12], ciphertext + tag, aad)
            need(len(plain) % 160 == 0, "padding to 160")
            return read_tlvs(unpad(plain))

        if (dh, number) in self.skipped:
            found = opened(self.skipped[dh, number])
            del self.skipped[dh, number]
            return found
        skipped = dict(self.skipped)
        ckr, nr, rk = self.ckr, self.nr, self.rk
        new = dh != self.peer_dh
        if new:
            if ckr:
                ckr, nr = self._skip(skipped, self.peer_dh, ckr, nr, pn)
            shared = self.x.exchange(x25519.X25519PublicKey.from_public_bytes(dh))
            rk, ckr = self.kdf_rk(shared, self.m.decapsulate(ct), dh + ek + ct)
            nr = 0
        need(number >= nr, "replayed or unknown number")
        ckr, nr = self._skip(skipped, dh, ckr, nr, number)
        found = opened(mac(ckr, b"\x01"))
        self.skipped, self.rk, self.ckr, self.nr = skipped, rk, mac(ckr, b"\x02"), nr + 1
        if new:
            self.peer_dh = dh
            self.turn(dh, ek)
        return found

    @staticmethod
    def _skip(skipped: dict[tuple[bytes, int], bytes], dh: bytes, ck: bytes, n: int, to: int) -> tuple[bytes, int]:
        need(to - n <= 1000, "too many skipped")
        while n < to:
            skipped[dh, n] = mac(ck, b"\x01")
            ck, n = mac(ck, b"\x02"), n + 1
        return ck, n


def fingerprint(key: bytes, identifier: bytes, version: int = 0, rounds: int = 5200) -> str:
    """Thirty digits for one of the two."""
    h = u(version, 2) + key + identifier
    for _ in range(rounds):
        h = hashlib.sha512(h + key).digest()
    return "".join(f"{int.from_bytes(h[i : i + 5], 'big') % 100000:05d}" for i in range(0, 30, 5))


def safety_number(server: str, *people: tuple[str, bytes]) -> str:
    """Sixty digits for two (user, bundle) pairs."""
    return "".join(sorted(fingerprint(bundle, f"{user}@{server}".encode()) for user, bundle in people))
