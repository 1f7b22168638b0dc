"""The login handshake M1–M4, both sides, sans-IO (protocol §4; the report's figure of M1–M4).

Order of each side, and what is believed when:

    client  start → M1 │ M2: sizes, offers; chain, name, time; signature; TempPub → M3 │ M4 opens → logged in
    server  M1: form, offers │ temporary key → M2 │ M3: decapsulate, open, every signature, then names → M4

The server learns nothing and changes nothing before the last check of M3, and every way to fail from M3 on is the one
ALERT 1. The client believes nothing before M2's signature and is logged in only when M4 opened. The secrets between
(PRK, k_m3, master) live in local variables of one call, or until M4 in the client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from messageapp.errors import RemoteProtocolError, ServerNotAuthenticated
from messageapp_keys import labels
from messageapp_keys.certificate import (
    Certificate,
    CertificateRefused,
    Refusal,
    RevocationList,
    ServerLeaf,
    folded,
    verify_chain_untrusted,
)
from messageapp_keys.codec import Malformed, Reader, tlvs, u16, u32, u64, vec8, vec16
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.kem import Suite, TemporaryKey, encapsulate_untrusted
from messageapp_keys.names import is_username
from messageapp_keys.primitives import (
    OpenFailed,
    Random,
    expand_bytes,
    expand_label,
    extract,
    hash_bytes,
    hash_labelled,
    open_once,
    same,
    seal_once,
)
from messageapp_keys.signing import PrivateKey, SignatureAlgorithm, sign
from messageapp_keys.standins import NO_SIGNATURES, USUAL, Form, form_of, stand_in
from messageapp_keys.types import ExporterSecret, HandshakeKey, MasterSecret, PseudoRandomKey, TrafficSecret

from .commands import ErrorCode, Errors
from .frames import Frame, FrameType, encode_frame
from .joining import (
    JOIN_REFUSALS,
    FindInvite,
    Invitation,
    Newcomer,
    join_refused_untrusted,
    newcomer_untrusted,
    nobody_invited,
)
from .messages import (
    HIDE_USER,
    M1,
    M2,
    M3,
    MAX_CHAIN,
    TLV_DEVICE,
    TLV_INVITE,
    VERSION,
    JoinProof,
    M3Proof,
    m2_head,
    m2_tail,
)
from .records import Kind, Record, RecordOpener, RecordSealer

__all__ = [
    "ALERT_LOGIN_FAILED",
    "ALERT_NO_OFFER",
    "ClientLogin",
    "LoggedIn",
    "LoginFailed",
    "ServerLogin",
    "ServerOffer",
    "SessionSecrets",
    "Welcome",
]

ALERT_LOGIN_FAILED: Final = 1
ALERT_NO_OFFER: Final = 3
SERVER_SIGALGS: Final = (SignatureAlgorithm.ML_DSA_65, SignatureAlgorithm.ECDSA_P256, SignatureAlgorithm.RSA_PSS)
LOGIN_COMPLETE: Final = "User Login Complete!"
_UNUSED_SUITES: Final = tuple(0x0A0A + 0x1010 * i for i in range(16))  # {0x?A?A}: keeps servers tolerant (§4.1)
_NO_PROOF: Final = M3Proof("", bytes(32), NO_SIGNATURES)  # where M3 does not open
_REMEDIES: Final = {
    Refusal.WRONG_CA: "; this is another server, or its authority is a new one: ask its owner, and if so, get what "
    "`messageapp ca show` prints there and connect once with --ca FILE",
    Refusal.CRL: "; get a new one from the server's owner (`messageapp ca crl`) and connect once with --crl FILE",
}
_TLV_TIME, _TLV_LIMITS, _TLV_LOG, _TLV_SESSIONS, _TLV_SERVER = 1, 2, 3, 4, 5


class LoginFailed(RemoteProtocolError):
    """login failed

    Every cause alike. `cause` is for a debug log only and holds no name, key or text of the stranger.
    """

    def __init__(self, cause: str, alert: int = ALERT_LOGIN_FAILED) -> None:
        super().__init__("login failed", alert)
        self.cause = cause


@dataclass(slots=True)
class SessionSecrets:
    """What a finished handshake leaves behind."""

    c2s: TrafficSecret
    s2c: TrafficSecret
    session_id: bytes  # [16], may be shown
    exporter: ExporterSecret


def handshake_prk(suite: Suite, keying_material: bytes) -> PseudoRandomKey:
    return PseudoRandomKey(extract(hash_bytes(labels.EXTRACT_LOGIN + u16(suite.code)), keying_material))


def transcript_m2(m1: bytes, core: bytes) -> bytes:
    """TH_M2 over frame(M1) and M2-core."""
    return hash_labelled(labels.TH_M2, m1, u32(len(core)), core)


def transcript_e(m1: bytes, m2: bytes, encapsulated: bytes) -> bytes:
    """TH_E over frame(M1), frame(M2) and Enc(K)."""
    return hash_labelled(labels.TH_E, m1, m2, vec16(encapsulated))


def transcript_3(m1: bytes, m2: bytes, m3: bytes) -> bytes:
    return hash_labelled(labels.TH_M3, m1, m2, m3)


def master_secret(prk: PseudoRandomKey, transcript: bytes) -> MasterSecret:
    return expand_label(prk, labels.MASTER, transcript, MasterSecret)


def traffic_secrets(master: MasterSecret, transcript: bytes) -> tuple[TrafficSecret, TrafficSecret]:
    """(c2s, s2c)."""
    return (
        expand_label(master, labels.C2S_TRAFFIC, transcript, TrafficSecret),
        expand_label(master, labels.S2C_TRAFFIC, transcript, TrafficSecret),
    )


def session_id_of(master: MasterSecret, transcript: bytes) -> bytes:
    return expand_bytes(master, labels.SESSION_ID, transcript, 16)


def session_secrets(master: MasterSecret, transcript: bytes) -> SessionSecrets:
    c2s, s2c = traffic_secrets(master, transcript)
    exporter = expand_label(master, labels.EXPORTER, transcript, ExporterSecret)
    return SessionSecrets(c2s, s2c, session_id_of(master, transcript), exporter)


def login_body(transcript: bytes, username: str, server: str, leaf_spki_hash: bytes) -> bytes:
    """What the user signs in M3."""
    return transcript + vec8(username.encode()) + vec8(server.encode()) + leaf_spki_hash


@dataclass(frozen=True, slots=True)
class Welcome:
    """M4's text and TLVs."""

    server_name: str  # canonical: the name in C1, AD, pins and safety numbers (§3.2)
    time_ms: int
    limits_version: int = 1
    other_sessions: int = 0
    checkpoint: bytes = b""
    text: str = LOGIN_COMPLETE

    def encode(self) -> bytes:
        entries = {
            _TLV_TIME: u64(self.time_ms),
            _TLV_LIMITS: u32(self.limits_version),
            _TLV_SERVER: vec8(self.server_name.encode()),
        }
        if self.checkpoint:
            entries[_TLV_LOG] = self.checkpoint
        if self.other_sessions:
            entries[_TLV_SESSIONS] = u32(self.other_sessions)
        return vec8(self.text.encode()) + tlvs(entries)

    @classmethod
    def parse_untrusted(cls, argument: bytes) -> Welcome:
        """`Malformed` for anything but the text and well-formed TLVs with 1, 2 and 5 among them."""
        reader = Reader(argument)
        text = reader.vec8().decode("ascii", "replace")
        found = reader.tlvs()
        try:
            name = Reader(found[_TLV_SERVER])
            canonical = name.ascii8()
            name.end()
            sessions = found.get(_TLV_SESSIONS, bytes(4))
            sizes_fit = len(found[_TLV_TIME]) == 8 and len(found[_TLV_LIMITS]) == 4 and len(sessions) == 4
        except KeyError:
            raise Malformed("M4 lacks a TLV") from None
        if not sizes_fit or text != LOGIN_COMPLETE:
            raise Malformed("M4 has not the form of one")
        return cls(
            canonical,
            int.from_bytes(found[_TLV_TIME], "big"),
            int.from_bytes(found[_TLV_LIMITS], "big"),
            int.from_bytes(sessions, "big"),
            found.get(_TLV_LOG, b""),
            text,
        )


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A finished login, client side."""

    session_id: bytes
    welcome: Welcome
    suite: Suite
    leaf: ServerLeaf
    temp_fingerprint: bytes  # [32] SHA-256 of TempPub
    sealer: RecordSealer
    opener: RecordOpener
    exporter: ExporterSecret
    authority: Certificate  # that the chain was verified with; in a join the one that the code means
    news: tuple[str, ...] = ()  # sentences about the server's authority that the user is to be told


class ClientLogin:
    """One login attempt. `start()` → M1; `receive_m2_untrusted` → M3; `receive_m4_untrusted` → `LoggedIn`.

    `server` is the name that the certificate must carry, `now` an aware datetime, `accept_leaf` is asked once the chain
    and M2's signature stand, before anything of ours is sent: it raises to refuse a changed server key (protocol §3).
    An `Invitation` as authority makes it a join (§3.3), which hides the user.
    """

    def __init__(
        self,
        *,
        username: str,
        identity: PrivateIdentity,
        authority: Certificate | Invitation,
        server: str,
        suites: Sequence[Suite],
        random: Random,
        device: bytes | None = None,
        hide_user: bool = False,
        revoked: RevocationList | None = None,
        accept_leaf: Callable[[ServerLeaf], None] = lambda leaf: None,
        grease: bool = True,
    ) -> None:
        self._username = username
        self._identity = identity
        self._invitation = authority if isinstance(authority, Invitation) else None
        self._authority = authority
        self._revoked = revoked
        self._server = server
        self._offered = {suite.code: suite for suite in suites}
        self._random = random
        self._accept_leaf = accept_leaf
        extra = {} if device is None else {TLV_DEVICE: device}
        if self._invitation is not None:
            extra[TLV_INVITE], hide_user = self._invitation.id, True
        codes = list(self._offered)
        if grease:
            codes.insert(random(1)[0] % (len(codes) + 1), _UNUSED_SUITES[random(1)[0] % 16])
            extra[0x8000 | int.from_bytes(random(2), "big")] = random(random(1)[0] % 16)
        self._m1 = encode_frame(
            FrameType.M1,
            M1(
                random=random(32),
                versions=(VERSION,),
                suites=tuple(codes),
                sigalgs=SERVER_SIGALGS,
                server=server,
                username="" if hide_user else username,
                flags=HIDE_USER if hide_user else 0,
                tlvs=extra,
            ).encode(),
        )

    def start(self) -> bytes:
        return self._m1

    def receive_m2_untrusted(self, frame: Frame, now: datetime) -> bytes:
        """M3, or `ServerNotAuthenticated`. About 2 ms, most of it our signature."""
        m1, m2_frame = self._m1, frame.wire
        try:
            m2 = M2.parse_untrusted(frame.body)
            suite = self._offered.get(m2.core.suite)
            if suite is None or m2.core.version != VERSION or m2.core.sigalg not in SERVER_SIGALGS:
                raise ServerNotAuthenticated("the server answered with a version, suite or signature nobody offered")
            authority = self._authority
            if isinstance(authority, Invitation):
                authority = authority.authority_untrusted(m2.core.chain)
            leaf = verify_chain_untrusted(m2.core.chain, authority, self._server, now, self._revoked)
            verifier = leaf.verifying_key
            signed = verifier.algorithm == m2.core.sigalg and verifier.verify_untrusted(
                labels.SIG_M2, transcript_m2(m1, m2.core_bytes), m2.signature
            )
            if not signed:
                raise ServerNotAuthenticated("the server's signature is not by the key in its certificate")
            self._accept_leaf(leaf)
            encapsulated, keying_material = encapsulate_untrusted(suite, m2.core.temp_pub, self._random)
        except CertificateRefused as error:
            raise ServerNotAuthenticated(f"{error}{_REMEDIES.get(error.reason, '')}") from None
        except Malformed as error:
            raise ServerNotAuthenticated(f"the server's answer is not valid: {error}") from None
        transcript = transcript_e(m1, m2_frame, encapsulated)
        prk = handshake_prk(suite, keying_material)
        body = login_body(transcript, self._username, self._server, leaf.spki_hash)
        proof = M3Proof(self._username, self._identity.key_id, self._identity.sign(labels.SIG_M3, body))
        if self._invitation is not None:
            proof = self._invitation.prove(proof, self._identity.bundle, transcript)
        sealed = seal_once(expand_label(prk, labels.M3_AUTH, transcript, HandshakeKey), proof.encode(), transcript)
        m3_frame = encode_frame(FrameType.M3, M3(encapsulated, sealed).encode())
        final = transcript_3(m1, m2_frame, m3_frame)
        self._secrets = session_secrets(master_secret(prk, final), final)
        self._leaf, self._suite, self._temp_pub, self._verified_by = leaf, suite, m2.core.temp_pub, authority
        return m3_frame

    def receive_m4_untrusted(self, frame: Frame) -> LoggedIn:
        """The login is complete only when this returns; raises `ServerNotAuthenticated`, a join `JoinRefused` too."""
        secrets = self._secrets
        sealer = RecordSealer(secrets.c2s, self._username)
        opener = RecordOpener(secrets.s2c, self._username)
        try:
            record = opener.open_untrusted(frame.body)
            if self._invitation is not None and (record.kind, record.id, record.verb) == (Kind.EVENT, 0, b"erro"):
                raise join_refused_untrusted(record.argument)
            if record.kind is not Kind.EVENT or record.id != 0 or record.verb != b"okay":
                raise Malformed("M4 is not the event that it should be")
            welcome = Welcome.parse_untrusted(record.argument)
            if welcome.server_name not in self._leaf.names:
                raise Malformed("the server's own name is not in its certificate")
        except (RemoteProtocolError, Malformed) as error:
            raise ServerNotAuthenticated(f"the server did not prove that it has the session key: {error}") from None
        return LoggedIn(
            session_id=secrets.session_id,
            welcome=welcome,
            suite=self._suite,
            leaf=self._leaf,
            temp_fingerprint=hash_bytes(self._temp_pub),
            sealer=sealer,
            opener=opener,
            exporter=secrets.exporter,
            authority=self._verified_by,
        )


@dataclass(frozen=True, slots=True)
class ServerOffer:
    """What a server puts under its signature. What is the same in each login is made once."""

    chain: tuple[bytes, ...]  # DER, leaf first
    key: PrivateKey
    sigalg: SignatureAlgorithm
    leaf_spki_hash: bytes
    names: tuple[str, ...]  # of the leaf; the first is the canonical one
    rejection: bytes = field(repr=False)  # [32] per-process key of the implicit rejection (§4.2)
    authority: bytes = b""  # DER of the CA's certificate, which ends the chain that a newcomer gets (§3.3)
    m2_tail: bytes = field(init=False, repr=False)  # of M2-core, behind TempPub
    join_tail: bytes = field(init=False, repr=False)
    folded_names: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "m2_tail", m2_tail(self.chain, self.sigalg))
        whole = self.chain if self.authority in (b"", *self.chain) else (*self.chain[: MAX_CHAIN - 1], self.authority)
        object.__setattr__(self, "join_tail", m2_tail(whole, self.sigalg))
        object.__setattr__(self, "folded_names", frozenset(map(folded, self.names)))

    def is_ours(self, server: str) -> bool:
        """Is this a name or address of the leaf, in any spelling?"""
        return server in self.names or folded(server) in self.folded_names


@dataclass(slots=True)
class AcceptedLogin:
    """A finished login, server side. `m4` is still to be sent."""

    username: str
    key_id: bytes
    device: bytes
    session_id: bytes
    suite: Suite
    sealer: RecordSealer
    opener: RecordOpener
    offer: ServerOffer  # under which it was: the server may have another certificate by now
    newcomer: Newcomer | None = None  # of a join: not enrolled yet


class ServerLogin:
    """One handshake of a stranger. Made with a whole M1 (or `LoginFailed`), then `offer`, then `accept_untrusted`."""

    def __init__(self, frame: Frame, offer: ServerOffer, suites: Sequence[Suite]) -> None:
        """`suites`: what this server takes, best first."""
        self._m1_frame = frame.wire
        self._offer = offer
        try:
            self._m1 = m1 = M1.parse_untrusted(frame.body)
        except Malformed as error:
            raise LoginFailed(f"M1: {error}") from None
        self.suites = tuple(suite for suite in suites if suite.code in m1.suites)
        if VERSION not in m1.versions or not self.suites or offer.sigalg not in m1.sigalgs:
            raise LoginFailed("M1: nothing in common", ALERT_NO_OFFER)

    def choose(self, *, rsa_ready: bool) -> Suite:
        """Our best among those offered; with no RSA key at hand the best that needs none, if there is one (§4.2)."""
        if not rsa_ready:
            for suite in self.suites:
                if not suite.needs_rsa:
                    return suite
        return self.suites[0]

    def offer(self, temporary: TemporaryKey, random: Random) -> bytes:
        """M2. One signature: 0.03 ms with P-256, 1 ms with RSA-3072."""
        own = self._offer
        tail = own.join_tail if TLV_INVITE in self._m1.tlvs else own.m2_tail
        core = m2_head(random(32), VERSION, temporary.suite.code, temporary.public) + tail
        signature = sign(own.key, labels.SIG_M2, transcript_m2(self._m1_frame, core))
        self._m2_frame = encode_frame(FrameType.M2, core + vec16(signature))
        self._temporary = temporary
        return self._m2_frame

    def accept_untrusted(
        self,
        frame: Frame,
        enrolled: Callable[[str], IdentityBundle | None],
        invited: FindInvite = nobody_invited,
    ) -> AcceptedLogin:
        """Check M3. Raises `LoginFailed` for every cause; past the form, after work that depends on the frame alone.

        `enrolled` gives the bundle of a user in exactly the registered spelling, or None. Its keys may be unread. Where
        they are not of the form that the signatures claim, or there are none, stand-ins of that form take their place,
        so that nobody learns from the time who is enrolled and with which kind of key (§4.4). In a join (§3.3) the
        stranger brings the bundle, and `invited` finds the invitation's key.
        """
        m1, own, suite = self._m1, self._offer, self._temporary.suite
        invite = m1.tlvs.get(TLV_INVITE)
        try:
            m3 = M3.parse_untrusted(frame.body)
            keying_material = self._temporary.decapsulate_untrusted(m3.encapsulated, own.rejection)
            prk = handshake_prk(suite, keying_material)
            transcript = transcript_e(self._m1_frame, self._m2_frame, m3.encapsulated)
            key = expand_label(prk, labels.M3_AUTH, transcript, HandshakeKey)
        except Malformed as error:
            raise LoginFailed(f"M3: {error}") from None
        cause = "the user is not proved"
        try:
            form = M3Proof if invite is None else JoinProof
            proof = form.parse_untrusted(open_once(key, m3.sealed, transcript))
        except (Malformed, OpenFailed) as error:
            proof, cause = _NO_PROOF, str(error)
        hidden = bool(m1.flags & HIDE_USER)
        username = proof.username if hidden else m1.username
        if invite is None:
            known = enrolled(username) if is_username(username) else None
        else:
            known = newcomer_untrusted(proof, invite, invited, transcript)
        bundle = _to_check_with(known, form_of(proof.signatures))
        body = login_body(transcript, username, m1.server, own.leaf_spki_hash)
        checks = (
            bundle.verify_untrusted(labels.SIG_M3, body, proof.signatures),
            same(proof.key_id, bundle.key_id),
            proof.username == username,
            own.is_ours(m1.server),
            proof is not _NO_PROOF,
            bundle is known,
        )
        if not all(checks):
            raise LoginFailed(f"M3: {cause}")
        final = transcript_3(self._m1_frame, self._m2_frame, frame.wire)
        master = master_secret(prk, final)
        c2s, s2c = traffic_secrets(master, final)
        return AcceptedLogin(
            username=username,
            key_id=bundle.key_id,
            device=m1.tlvs.get(TLV_DEVICE, bytes(16)),
            session_id=session_id_of(master, final),
            suite=suite,
            sealer=RecordSealer(s2c, username),
            opener=RecordOpener(c2s, username),
            offer=own,
            newcomer=None if invite is None else Newcomer(invite, bundle),
        )


def _to_check_with(known: IdentityBundle | None, form: Form | None) -> IdentityBundle:
    """`known` if its keys are of that form and can be used, else a stand-in."""
    other = stand_in(form or USUAL)
    # Read anew, as the directory reads a known one: the time must not tell them apart.
    found = known or IdentityBundle.read_untrusted(other.encode())
    try:
        return (found if found.signature_sizes == form else other).checked_untrusted()
    except Malformed:  # a damaged row lets nobody in
        return other.checked_untrusted()


def m4_frame(sealer: RecordSealer, welcome: Welcome) -> bytes:
    """M4: the first record of the server's direction, counter 0."""
    return encode_frame(FrameType.M4, sealer.seal(Record(Kind.EVENT, 0, b"okay", welcome.encode())))


def refusal_frame(sealer: RecordSealer, code: ErrorCode) -> bytes:
    """M4 to a newcomer who is not let in (§3.3); nothing follows it. `code` is one of `JOIN_REFUSALS`."""
    refusal = Errors(code, JOIN_REFUSALS[code])
    return encode_frame(FrameType.M4, sealer.seal(Record(Kind.EVENT, 0, b"erro", refusal.encode())))
