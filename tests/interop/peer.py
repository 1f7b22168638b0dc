"""Frames, login and records (§2 to §6) of the second implementation, both sides, on plain blocking sockets.

`log_in` is a client; `Server` takes one connection at a time. Both end in a `Session`. Every wait has a deadline.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from interop.base import (
    DER,
    HYBRID,
    L_M2,
    L_M3,
    MLDSA65,
    P256,
    PSS,
    SPKI,
    SUITES,
    SWIFT,
    XL,
    H,
    Identity,
    Private,
    ProtocolError,
    Reader,
    Temporary,
    encapsulate,
    extract,
    need,
    new_private,
    now_ms,
    pad,
    read_tlvs,
    sign,
    tlv,
    u,
    unpad,
    vec,
    verify,
    verify_list,
)

WAIT = 20.0
REQUEST, REPLY, EVENT = 0, 1, 2
M1, M2, M3, M4, RECORD, ALERT = 1, 2, 3, 4, 0x10, 0x1F
LIMITS = {M1: 4096, M2: 32768, M3: 8192, M4: 4096, RECORD: 131072, ALERT: 4}
Message = tuple[int, int, str, bytes]
NOT_SERVED = ("erro", u(2, 2) + vec(b"not served here", 1))


class Closed(Exception):
    """The other side ended the connection."""


class Alert(Exception):
    def __init__(self, body: bytes) -> None:
        need(len(body) in (1, 3), "length of ALERT")
        super().__init__(f"ALERT {body.hex()}")
        self.code = body[0]
        self.retry = int.from_bytes(body[1:], "big") if len(body) == 3 else None


def frame(kind: int, body: bytes) -> bytes:
    return u(1 + len(body), 4) + u(kind, 1) + body


def read_exactly(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        try:
            more = sock.recv(n - len(data))
        except ConnectionError:
            more = b""
        if not more:
            raise Closed(f"after {len(data)} of {n} bytes")
        data += more
    return data


def read_frame(sock: socket.socket, wanted: int) -> bytes:
    """One whole frame of the wanted type, length and type included; an ALERT raises Alert."""
    head = read_exactly(sock, 5)
    size, kind = int.from_bytes(head[:4], "big"), head[4]
    need(size >= 1 and size <= LIMITS.get(kind, 0), f"frame type {kind} of {size} bytes")
    body = read_exactly(sock, size - 1)
    if kind == ALERT:
        raise Alert(body)
    need(kind == wanted, f"frame type {kind} instead of {wanted}")
    return head + body


def padded_length(n: int) -> int:
    """`n` with the 0x80 counted, to the canonical record length of §5."""
    if n <= 4096:
        return -(-n // 256) * 256
    e = n.bit_length() - 1
    step = max(256, 1 << (e - e.bit_length()))
    return -(-n // step) * step


class Session:
    """Records in both directions, requests and replies."""

    def __init__(
        self, sock: socket.socket, user: str, out: bytes, into: bytes, session_id: bytes, exporter: bytes
    ) -> None:
        self.sock, self.user, self.secrets = sock, user.encode(), {"out": out, "in": into}
        self.session_id, self.exporter = session_id, exporter
        self.counters, self.generation = {"out": 0, "in": 0}, {"out": 0, "in": 0}
        self.next_id, self.events, self.pings = 1, deque[Message](), 0
        self.tlvs: dict[int, bytes] = {}
        self.spki = b""  # of the server's certificate, in a client's session
        self.roster = b""  # what a server answers to `list`, whenever it comes
        self.answers: dict[str, Callable[[bytes], tuple[str, bytes]]] = {}  # and to other verbs

    def _crypt(self, way: str) -> tuple[AESGCM, bytes]:
        counter = self.counters[way].to_bytes(16, "little")
        self.counters[way] += 1
        return AESGCM(XL(self.secrets[way], "key", b"")), counter

    def seal(self, plain: bytes) -> bytes:
        """The body of the next record for an already padded plaintext."""
        gcm, counter = self._crypt("out")
        sealed = gcm.encrypt(counter[:12], plain, self.user + counter)
        return counter + sealed[-16:] + sealed[:-16]

    def open(self, body: bytes) -> bytes:
        gcm, counter = self._crypt("in")
        need(body[:16] == counter, "counter")
        try:
            return gcm.decrypt(counter[:12], body[32:] + body[16:32], self.user + counter)
        except InvalidTag:
            raise ProtocolError("record does not open") from None

    def send(self, kind: int, number: int, verb: str, argument: bytes = b"x", padded: int = 0) -> None:
        self.sock.sendall(frame(RECORD, self.record(kind, number, verb, argument, padded)))

    def record(self, kind: int, number: int, verb: str, argument: bytes = b"x", padded: int = 0) -> bytes:
        plain = u(kind, 1) + u(number, 4) + verb.encode() + argument
        return self.seal(pad(plain, padded or padded_length(len(plain) + 1)))

    def update(self) -> None:
        """Goes on under the next sending key."""
        self.send(EVENT, 0, "rkey", u(self.generation["out"] + 1, 4))
        self.advance("out")

    def advance(self, way: str) -> None:
        """The next key of that direction, "out" or "in"."""
        self.secrets[way] = XL(self.secrets[way], "traffic upd", b"")
        self.generation[way] += 1

    def receive(self, kind: int = RECORD) -> Message:
        """The next message other than `rkey`; pings are answered and counted, a server answers `list`."""
        deadline = time.monotonic() + WAIT  # for all of it: a client that polls the roster must not prolong it
        while True:
            need(time.monotonic() < deadline, "nothing but housekeeping came")
            plain = self.open(read_frame(self.sock, kind)[5:])
            need(len(plain) == padded_length(len(unpad(plain)) + 1), "canonical padding of a sender")
            reader = Reader(unpad(plain))
            got = reader.u(1), reader.u(4), reader.take(4).decode(), reader.rest()
            need(got[0] in (REQUEST, REPLY, EVENT) and (got[0] != EVENT or got[1] == 0), f"kind and id of {got[2]}")
            if got[2] == "rkey":
                need(got[3] == u(self.generation["in"] + 1, 4) and got[0] == EVENT, "rkey")
                self.advance("in")
            elif got[0] == REQUEST and got[2] == "list" and self.roster:
                self.send(REPLY, got[1], "list", self.roster)
            elif got[0] == REQUEST and got[2] in self.answers:
                self.send(REPLY, got[1], *self.answers[got[2]](got[3]))
            elif got[2] == "ping":
                self.pings += 1
                self.send(REPLY, got[1], "pong", got[3])
            else:
                return got

    def ask(self, verb: str, argument: bytes = b"x", padded: int = 0) -> tuple[str, bytes]:
        """Sends a request and waits for its reply; events that come before it wait for `event`."""
        number, self.next_id = self.next_id, self.next_id + 1
        self.send(REQUEST, number, verb, argument, padded)
        while True:
            kind, got, answer, value = self.receive()
            if kind == EVENT:
                self.events.append((kind, got, answer, value))
                continue
            need(kind == REPLY and got == number, f"{answer} is not the reply to {verb}")
            return answer, value

    def event(self, verb: str) -> bytes:
        """The argument of the next event, which must be `verb`."""
        kind, _, got, value = self.events.popleft() if self.events else self.receive()
        need((kind, got) == (EVENT, verb), f"{got} {value[:40]!r} instead of {verb}")
        return value

    def requested(self, verb: str) -> tuple[int, bytes]:
        """(id, argument) of the next request, which must be `verb`."""
        kind, number, got, value = self.receive()
        need((kind, got) == (REQUEST, verb), f"{got} {value[:40]!r} instead of {verb}")
        return number, value

    def relay(self, kind: int, body: bytes) -> None:
        """A client's `frwd`."""
        number, self.next_id = self.next_id, self.next_id + 1
        self.send(REQUEST, number, "frwd", u(kind, 1) + body)

    def close(self) -> None:
        self.sock.close()


@dataclass
class Login:
    """What a client offers, with every choice open, so that tests can make it wrong."""

    me: Identity
    ca: x509.Certificate
    server: str = "127.0.0.1"
    suites: tuple[int, ...] = (HYBRID, SWIFT, 0x5A5A)
    sigalgs: tuple[int, ...] = (PSS, P256, MLDSA65)
    versions: tuple[int, ...] = (2,)
    hide: bool = False
    flags: int = 0
    tlvs: bytes = field(default_factory=lambda: tlv(1, os.urandom(16)) + tlv(0xDADA, os.urandom(random.randrange(9))))
    signer: Identity | None = None  # whose keys sign instead of mine
    signatures: Callable[[Identity, bytes, bytes], bytes] = Identity.signatures
    label: bytes = L_M3
    key_id: bytes | None = None
    signed_leaf: bytes | None = None  # H(leaf SPKI) as signed
    signed_server: str | None = None
    sealed_name: str | None = None
    certified: str | None = None  # the name that the certificate must carry, if not `server`
    encapsulating: Callable[[int, bytes], tuple[bytes, bytes]] = encapsulate  # its Enc(K) counts in all that follows
    on_m1: Callable[[bytes], bytes] = bytes
    on_plain: Callable[[bytes], bytes] = bytes  # what is sealed in M3
    on_m3: Callable[[bytes], bytes] = bytes

    def m1(self) -> bytes:
        name = b"" if self.hide else self.me.name.encode()
        lists = (self.versions, self.suites, self.sigalgs)
        return (
            b"MSGAPP\0\2"
            + os.urandom(32)
            + b"".join(u(len(codes), 1) + b"".join(u(code, 2) for code in codes) for codes in lists)
            + u(self.flags | self.hide, 4)
            + vec(self.server.encode(), 1)
            + vec(name, 1)
            + vec(self.tlvs, 2)
        )


def check_chain(chain: list[bytes], ca: x509.Certificate, server: str) -> bytes:
    """The SPKI of the leaf, after the checks of §3."""
    leaf, *others = [x509.load_der_x509_certificate(der) for der in chain]
    subject: x509.GeneralName
    try:
        subject = x509.IPAddress(ipaddress.ip_address(server))
    except ValueError:
        subject = x509.DNSName(server)
    PolicyBuilder().store(Store([ca])).build_server_verifier(subject).verify(leaf, others)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    need(ExtendedKeyUsageOID.SERVER_AUTH in usage, "serverAuth")
    need(leaf.not_valid_after_utc - leaf.not_valid_before_utc <= datetime.timedelta(days=398), "lifetime of the leaf")
    return leaf.public_key().public_bytes(DER, SPKI)


def traffic(prk: bytes, frames: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """(c2s secret, s2c secret, session_id, exporter) of §4.5."""
    th_3 = H(b"MessageApp v2 TH-M3\0", frames)
    master = XL(prk, "master", th_3)
    return (XL(master, "c2s traffic", th_3), XL(master, "s2c traffic", th_3), XL(master, "session id", th_3, 16),
            XL(master, "exporter", th_3))  # fmt: skip


def th_m2(m1: bytes, core: bytes) -> bytes:
    return H(b"MessageApp v2 TH-M2\0", m1, u(len(core), 4), core)


def m3_keys(suite: int, ikm: bytes, frames: bytes, enc: bytes) -> tuple[bytes, bytes, bytes]:
    """(PRK, k_m3, TH_E) of §4.4."""
    th_e = H(b"MessageApp v2 TH-E\0", frames, vec(enc, 2))
    prk = extract(H(b"MessageApp v2 extract", u(suite, 2)), ikm)
    return prk, XL(prk, "m3 auth", th_e), th_e


def log_in(port: int, how: Login) -> Session:
    """The client's side of M1 to M4."""
    sock = socket.create_connection(("127.0.0.1", port), WAIT)
    try:
        sock.settimeout(WAIT)
        return log_in_on(sock, how)
    except BaseException:
        sock.close()
        raise


def log_in_on(sock: socket.socket, how: Login) -> Session:
    """As `log_in`, over a connection that stays the caller's."""
    m1 = frame(M1, how.on_m1(how.m1()))
    sock.sendall(m1)
    m2 = read_frame(sock, M2)
    reader = Reader(m2[5:])
    reader.take(32)
    version, suite, flags, temp_pub = reader.u(2), reader.u(2), reader.u(4), reader.vec(2)
    need(version in how.versions and suite in how.suites and suite in SUITES and flags == 0, "choice of M2")
    count = reader.u(1)
    need(1 <= count <= 3, "chain length")
    chain = [reader.vec(3) for _ in range(count)]
    read_tlvs(reader.vec(2))
    alg = reader.u(2)
    core = reader.data[: reader.at]
    need(alg in how.sigalgs, "sigalg not offered")
    spki = check_chain(chain, how.ca, how.certified or how.server)
    verify(alg, spki, L_M2, th_m2(m1, core), reader.vec(2))
    reader.end()
    enc, ikm = how.encapsulating(suite, temp_pub)
    prk, key, th_e = m3_keys(suite, ikm, m1 + m2, enc)
    name = vec((how.sealed_name or how.me.name).encode(), 1)
    signed = th_e + name + vec((how.signed_server or how.server).encode(), 1) + (how.signed_leaf or H(spki))
    plain = name + (how.key_id or how.me.key_id) + how.signatures(how.signer or how.me, how.label, signed)
    m3 = frame(M3, how.on_m3(vec(enc, 2) + vec(AESGCM(key).encrypt(bytes(12), how.on_plain(plain), th_e), 2)))
    sock.sendall(m3)
    c2s, s2c, session_id, exporter = traffic(prk, m1 + m2 + m3)
    session = Session(sock, how.me.name, c2s, s2c, session_id, exporter)
    kind, number, verb, argument = session.receive(M4)
    need((kind, number, verb) == (EVENT, 0, "okay"), f"M4 says {verb} {argument[:2].hex()}")
    reader = Reader(argument)
    need(reader.vec(1) == b"User Login Complete!", "text of M4")
    session.tlvs = read_tlvs(reader.rest())
    session.spki = spki
    return session


@dataclass
class Authority:
    """A certificate authority and one leaf for 127.0.0.1 and localhost."""

    leaf_kind: str = "rsa2048"
    days: int = 397
    path_length: int | None = 0  # of the CA
    eku: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
    names: tuple[x509.GeneralName, ...] = (
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    )

    def __post_init__(self) -> None:
        self.key, self.ca_key = new_private(self.leaf_kind), new_private("p256")
        self.ca = self._certificate("An interop CA", self.ca_key, "An interop CA", self.ca_key, 3650, True)
        self.leaf = self._certificate("An interop server", self.key, "An interop CA", self.ca_key, self.days, False)

    def _certificate(self, name: str, key: Private, by: str, by_key: Private, days: int, ca: bool) -> x509.Certificate:
        start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)  # noqa: UP017
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False)  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca, self.path_length if ca else None), True)
            .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by_key.public_key()), False)
        )
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(self.names)), False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([self.eku]), False)
        return builder.sign(by_key, hashes.SHA256())


@dataclass
class Server:
    """One listening socket; `accept` takes the login of one client whose bundle is known.

    A misbehaving server overrides `make_m2` or `make_m4`.
    """

    authority: Authority
    users: dict[str, bytes]
    suite: int = HYBRID
    canonical: str = "localhost"
    m4_tlvs: bytes = tlv(4, u(1, 4)) + tlv(0x1A1A, b"?")
    fixed_port: int = 0

    def __enter__(self) -> Server:
        self.listener = socket.create_server(("127.0.0.1", self.fixed_port))
        self.listener.settimeout(WAIT)
        self.port: int = self.listener.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def accept_m1(self) -> tuple[socket.socket, bytes]:
        sock, _ = self.listener.accept()
        sock.settimeout(WAIT)
        try:
            return sock, read_frame(sock, M1)
        except BaseException:
            sock.close()
            raise

    def accept(self) -> Session:
        sock, m1 = self.accept_m1()
        try:
            return self._take(sock, m1)
        except BaseException:
            sock.close()
            raise

    def _take(self, sock: socket.socket, m1: bytes) -> Session:
        self.offers = offers = read_m1(m1[5:])
        temporary = Temporary(self.suite)
        m2 = self.make_m2(m1, temporary)
        sock.sendall(m2)
        m3 = read_frame(sock, M3)
        reader = Reader(m3[5:])
        enc, sealed = reader.vec(2), reader.vec(2)
        reader.end()
        prk, key, th_e = m3_keys(self.suite, temporary.decapsulate(enc), m1 + m2, enc)
        try:
            signed = Reader(AESGCM(key).decrypt(bytes(12), sealed, th_e))
        except InvalidTag:
            raise ProtocolError("M3 does not open") from None
        user = signed.vec(1).decode()
        need(user == offers.user if offers.user else bool(offers.flags & 1), "username of M3")
        bundle, key_id = self.users[user], signed.take(32)
        need(key_id == H(b"MessageApp v2 identity\0", bundle), "key_id of M3")
        spki = self.authority.key.public_key().public_bytes(DER, SPKI)
        body = th_e + vec(user.encode(), 1) + vec(offers.server.encode(), 1) + H(spki)
        verify_list(bundle, L_M3, body, signed)
        signed.end()
        c2s, s2c, session_id, exporter = traffic(prk, m1 + m2 + m3)
        session = Session(sock, user, s2c, c2s, session_id, exporter)
        session.roster = vec(user.encode(), 1) + b"\0" + vec(b"bob", 1) + b"\2"
        session.answers["prek"] = lambda _: NOT_SERVED  # it stores no messages
        sock.sendall(self.make_m4(session))
        return session

    def make_m2(self, m1: bytes, temporary: Temporary) -> bytes:
        """The whole frame."""
        need(self.suite in self.offers.suites and 2 in self.offers.versions, "offers")
        alg = sign(self.authority.key, b"", b"")[0]
        need(alg in self.offers.sigalgs, "my signature algorithm is not offered")
        core = os.urandom(32) + u(2, 2) + u(self.suite, 2) + u(0, 4) + vec(temporary.public(), 2)
        core += u(1, 1) + vec(self.authority.leaf.public_bytes(DER), 3) + vec(tlv(0x2A2A, b"unused"), 2) + u(alg, 2)
        _, signature = sign(self.authority.key, L_M2, th_m2(m1, core))
        return frame(M2, core + vec(signature, 2))

    def welcome(self) -> bytes:
        """The argument of M4."""
        now, name = u(now_ms(), 8), vec(self.canonical.encode(), 1)
        return vec(b"User Login Complete!", 1) + tlv(1, now) + tlv(2, u(1, 4)) + tlv(5, name) + self.m4_tlvs

    def make_m4(self, session: Session) -> bytes:
        """The whole frame."""
        return frame(M4, session.record(EVENT, 0, "okay", self.welcome()))


@dataclass(frozen=True)
class Offers:
    versions: list[int]
    suites: list[int]
    sigalgs: list[int]
    flags: int
    server: str
    user: str
    tlvs: dict[int, bytes]


def read_m1(body: bytes) -> Offers:
    reader = Reader(body)
    need(reader.take(8) == b"MSGAPP\0\2", "magic of M1")
    reader.take(32)
    versions, suites, sigalgs = ([reader.u(2) for _ in range(reader.u(1))] for _ in range(3))
    flags, server, user = reader.u(4), reader.vec(1).decode("ascii"), reader.vec(1).decode("ascii")
    tlvs = read_tlvs(reader.vec(2))
    reader.end()
    need(1 <= len(versions) <= 8 and 1 <= len(suites) <= 16 and 1 <= len(sigalgs) <= 8, "counts of M1")
    need(bool(user) != bool(flags & 1), "HIDE_USER and the name")
    return Offers(versions, suites, sigalgs, flags, server, user, tlvs)
