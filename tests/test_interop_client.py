"""The real client against the second implementation's server, and against its client through the real server."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from interop.base import CLASSIC, DER, HYBRID, PSS, SPKI, SWIFT, Identity, ProtocolError, Reader, tlv, u, vec
from interop.chat import C1, C2, C3, C4, RATCHET, Chat, Ratchet, safety_number
from interop.desk import Desk, to
from interop.peer import EVENT, RECORD, REPLY, REQUEST, Authority, Closed, Server, Session, frame
from interop.programs import Home, Program, RealClient, RealServer, run, write_ca

Flip = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("interop-home") / "home", "ann")


@pytest.fixture(scope="module")
def bundle(home: Home) -> bytes:
    spki = serialization.load_pem_public_key(home.pem.encode()).public_bytes(DER, SPKI)
    return u(1, 1) + u(PSS, 2) + vec(spki, 2)


@pytest.fixture(scope="module")
def bob() -> Identity:
    return Identity.make("bob", "rsa2048")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Stage:
    """Starts servers, clients and desks for one test and ends them all."""

    def __init__(
        self, folder: Path, home: Home, bundle: bytes, bob: Identity, authority: Authority, stack: ExitStack
    ) -> None:
        self.folder, self.bundle, self.bob, self.authority, self.stack = folder, bundle, bob, authority, stack
        self.home = home.copy(folder / "home")

    def server(self, **choices: object) -> Server:
        server = Server(**{"authority": self.authority, "users": {"ann": self.bundle}, "suite": SWIFT, **choices})  # type: ignore[arg-type]
        self.last = server
        return self.stack.enter_context(server)

    def client(self, server: Server, *words: object, ca: Authority | None = None) -> Program:
        ca_file = write_ca(ca or server.authority, self.folder)
        return self.stack.enter_context(RealClient(self.home, server.port, ca_file, *words))

    def session(self, server: Server) -> Session:
        session = server.accept()
        self.stack.callback(session.close)
        return session

    def logged_in(self, *words: object, **choices: object) -> tuple[Program, Desk]:
        server = self.server(**choices)
        client = self.client(server, *words)
        desk = Desk(self.session(server), self.bob, self.bundle, server.canonical)
        client.until("User Login Complete!")
        return client, desk

    def chatting(self, client_calls: bool = True, **choices: object) -> tuple[Program, Desk, Ratchet]:
        client, desk = self.logged_in(**choices)
        if client_calls:
            client.say("chat bob")
            ratchet = desk.called_by_client()
        else:
            invite = desk.ring()
            client.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
            client.say("acpt bob")
            desk.accepted(invite)
            ratchet = desk.as_caller(invite)
        client.until("CHAT IS SECURE! with bob")
        return client, desk, ratchet


@pytest.fixture
def stage(tmp_path: Path, home: Home, bundle: bytes, bob: Identity, authority: Authority) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, home, bundle, bob, authority, stack)


def flip(at: int) -> Flip:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    return change


# ---- login


@pytest.mark.parametrize("leaf", ["rsa2048", "rsa3072", "p256", "mldsa65"])
def test_login_with_every_kind_of_server_key(stage: Stage, leaf: str) -> None:
    client, desk = stage.logged_in(authority=Authority(leaf))
    client.say("list", "exit")
    desk.exits()
    client.until("Online users:")
    client.until("bob")
    assert client.end() == 0


@pytest.mark.parametrize(("suite", "words"), [
    (SWIFT, ()), (HYBRID, ()), (SWIFT, ("--suite", "swift")), (HYBRID, ("--suite", "hybrid")),
    (CLASSIC, ("--suite", "classic")), (SWIFT, ("--hide-user",)),
])  # fmt: skip
def test_login_in_every_suite(stage: Stage, suite: int, words: tuple[str, ...]) -> None:
    server = stage.server(suite=suite)
    client = stage.client(server, *words)
    desk = Desk(stage.session(server), stage.bob, stage.bundle, server.canonical)
    client.until("User Login Complete!")
    known = [code for code in server.offers.suites if code in (CLASSIC, HYBRID, SWIFT)]
    unused = [code for code in server.offers.suites if code not in known]
    assert known == ([HYBRID, SWIFT] if "--suite" not in words else [suite])
    assert len(unused) == 1
    assert unused[0] & 0x0F0F == 0x0A0A
    assert len(server.offers.tlvs[1]) == 16
    assert len(server.offers.tlvs) == 2
    assert (server.offers.user == "", server.offers.flags) == (("--hide-user" in words), int("--hide-user" in words))
    client.say("exit")
    desk.exits()
    assert client.end() == 0


def test_the_device_id_is_kept_and_the_rest_of_m1_is_fresh(stage: Stage) -> None:
    server, offers = stage.server(), []
    for _ in range(2):
        client = stage.client(server)
        desk = Desk(stage.session(server), stage.bob, stage.bundle, server.canonical)
        client.until("User Login Complete!")
        client.say("exit")
        desk.exits()
        assert client.end() == 0
        offers.append(server.offers)
    assert offers[0].tlvs[1] == offers[1].tlvs[1]


def test_ping_key_update_and_an_odd_padding_from_the_server(stage: Stage) -> None:
    client, desk = stage.logged_in()
    for i in range(3):
        desk.session.send(REQUEST, 1000 + i, "ping", u(i, 8), 300 + i)
        assert desk.session.receive() == (REPLY, 1000 + i, "pong", u(i, 8))
        desk.session.update()
    client.say("exit")
    desk.exits()
    assert client.end() == 0


def refused(stage: Stage, server: Server, *words: object, ca: Authority | None = None) -> int:
    """The exit code of a client that must not send M3, or not be content with M4."""
    client = stage.client(server, *words, ca=ca)
    try:
        session = stage.session(server)
    except (Closed, ProtocolError):
        session = None
    code = client.end()
    assert not any("User Login Complete!" in line for line in client.seen)
    if session is not None:
        session.close()
    return code


TAMPERED: dict[str, dict[str, object]] = {
    "R2": {"on_core": flip(0)},
    "version": {"on_core": flip(33)},
    "suite": {"on_core": flip(35)},
    "flags": {"on_core": flip(39)},
    "TempPub": {"on_core": flip(50)},
    "sigalg": {"on_core": flip(-1)},
    "TLV": {"on_core": flip(-4)},
    "signature": {"on_m2": flip(-1)},
    "cut": {"on_m2": lambda m2: m2[:-1]},
    "trailing byte": {"on_m2": lambda m2: m2 + b"\0"},
    "PSS salt 0": {"pss_salt": 0},
    "PSS salt 20": {"pss_salt": 20},
    "M4 counter": {"on_m4": flip(5)},
    "M4 tag": {"on_m4": flip(5 + 16)},
    "M4 ciphertext": {"on_m4": flip(-1)},
    "M4 as RECORD": {"on_m4": lambda m4: m4[:4] + u(RECORD, 1) + m4[5:]},
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_m2_or_m4_is_exit_3(stage: Stage, case: str) -> None:
    assert refused(stage, stage.server(**TAMPERED[case])) == 3


@pytest.mark.parametrize("offset", [1, 32 + 5, 420])
def test_a_tampered_hybrid_temppub_is_exit_3(stage: Stage, offset: int) -> None:
    assert refused(stage, stage.server(suite=HYBRID, on_core=flip(42 + offset))) == 3


LOW_ORDER = [  # RFC 7748, and the list of the curve's small points
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
]


def rsa_temp(bits: int, e: int) -> bytes:
    return vec(rsa.generate_private_key(e, bits).public_key().public_bytes(DER, SPKI), 2)


TEMPPUBS: dict[str, tuple[int, Flip]] = {
    **{f"low order {i}": (SWIFT, lambda t, p=p: p + t[32:]) for i, p in enumerate(LOW_ORDER)},  # type: ignore[misc]
    "ML-KEM coefficient over q": (SWIFT, lambda t: t[:32] + b"\xff\xff\xff" + t[35:]),
    "ML-KEM short": (SWIFT, lambda t: t[:-1]),
    "ML-KEM long": (SWIFT, lambda t: t + b"\0"),
    "RSA-2048": (CLASSIC, lambda t: rsa_temp(2048, 65537)),
    "RSA-4096": (CLASSIC, lambda t: rsa_temp(4096, 65537)),
    "RSA e = 3": (CLASSIC, lambda t: rsa_temp(3072, 3)),
    "RSA even": (CLASSIC, lambda t: t[:-6] + bytes([t[-6] & 0xFE]) + t[-5:]),
    "RSA trailing byte": (CLASSIC, lambda t: vec(t[2:] + b"\0", 2)),
}


@pytest.mark.parametrize("case", TEMPPUBS)
def test_a_signed_but_unusable_temppub_is_exit_3(stage: Stage, case: str) -> None:
    suite, change = TEMPPUBS[case]
    words = ("--suite", "classic") if suite == CLASSIC else ()
    assert refused(stage, stage.server(suite=suite, on_temp=change), *words) == 3


ELSEWHERE = (x509.DNSName("elsewhere.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.2")))
CERTIFICATES: dict[str, dict[str, object]] = {
    "other name": {"names": ELSEWHERE},
    "no serverAuth": {"eku": ExtendedKeyUsageOID.CLIENT_AUTH},
    "expired": {"days": 0},
    "399 days": {"days": 399},
    "Ed25519 leaf": {"leaf_kind": "ed25519"},
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_a_wrong_certificate_is_exit_3(stage: Stage, case: str) -> None:
    assert refused(stage, stage.server(authority=Authority(**CERTIFICATES[case]), careless=True)) == 3  # type: ignore[arg-type]


def test_a_leaf_of_398_days_is_allowed(stage: Stage) -> None:
    client, desk = stage.logged_in(authority=Authority(days=398))
    client.say("exit")
    desk.exits()
    assert client.end() == 0


def test_another_authority_is_exit_3(stage: Stage) -> None:
    assert refused(stage, stage.server(), ca=Authority()) == 3


def test_a_suite_that_was_not_offered_is_exit_3(stage: Stage) -> None:
    assert refused(stage, stage.server(suite=CLASSIC, careless=True)) == 3


def test_a_canonical_name_that_is_not_in_the_leaf_is_exit_3(stage: Stage) -> None:
    assert refused(stage, stage.server(canonical="elsewhere.example")) == 3


@pytest.mark.parametrize(("body", "code"), [(b"\1", 4), (b"\2\0\5", 5), (b"\3", 3), (b"\4", 5)])
@pytest.mark.parametrize("when", ["M1", "M3"])
def test_alerts_and_exit_codes(stage: Stage, body: bytes, code: int, when: str) -> None:
    server = stage.server(on_m4=lambda _: frame(0x1F, body))
    client = stage.client(server)
    if when == "M1":
        sock, _ = server.accept_m1()
        sock.sendall(frame(0x1F, body))
        stage.stack.callback(sock.close)
    else:
        stage.session(server)
    assert client.end() == code


def test_an_alert_is_never_answered_by_a_weaker_try(stage: Stage) -> None:
    server = stage.server()
    client = stage.client(server)
    sock, _ = server.accept_m1()
    sock.sendall(frame(0x1F, b"\3"))
    sock.close()
    assert client.end() == 3
    server.listener.settimeout(0.2)
    with pytest.raises(TimeoutError):
        server.listener.accept()


def test_an_alert_after_login_ends_the_session(stage: Stage) -> None:
    client, desk = stage.logged_in()
    desk.session.sock.sendall(frame(0x1F, b"\1"))
    assert client.end() in (3, 5)


@pytest.mark.parametrize("reason", [1, 2, 3, 4, 5, 99])
def test_byee_is_exit_5(stage: Stage, reason: int) -> None:
    client, desk = stage.logged_in()
    desk.event("byee", u(reason, 1))
    desk.session.close()
    assert client.end() == 5
    assert len(client.seen) > 1


def test_a_cut_connection_is_said_and_exit_5(stage: Stage) -> None:
    client, desk = stage.logged_in()
    desk.session.close()
    client.until("connection cut; the last messages may be missing")
    assert client.end() == 5


@pytest.mark.parametrize("at", [5, 20, 21, 40])
def test_a_bad_record_ends_the_client(stage: Stage, at: int) -> None:
    client, desk = stage.logged_in()
    desk.session.sock.sendall(flip(at)(frame(RECORD, desk.session.record(EVENT, 0, "reqt", to("bob", bytes(16))))))
    assert client.end() in (3, 5)
    assert not any("REQUEST TO CHAT" in line for line in client.seen)


def test_another_server_key_must_be_confirmed(stage: Stage) -> None:
    client, desk = stage.logged_in()
    port = stage.last.port
    client.say("exit")
    desk.exits()
    assert client.end() == 0
    stage.last.listener.close()
    changed = stage.server(authority=Authority(), fixed_port=port)
    assert refused(stage, changed) == 3
    client = stage.client(changed, "--trust-server")
    desk = Desk(stage.session(changed), stage.bob, stage.bundle, changed.canonical)
    client.until("User Login Complete!")
    client.say("exit")
    desk.exits()
    assert client.end() == 0


# ---- chats


BOTH, CURVES = ("rsa3072", "mldsa65"), ("ed25519", "mldsa65")


@pytest.mark.parametrize(("client_calls", "suite", "kinds"), [
    (True, HYBRID, ("rsa2048",)), (False, HYBRID, ("ed25519",)), (True, SWIFT, ("ed25519",)),
    (False, CLASSIC, ("rsa2048",)), (True, HYBRID, BOTH), (False, SWIFT, BOTH), (True, SWIFT, CURVES),
    (False, HYBRID, CURVES),
])  # fmt: skip
def test_a_chat_of_many_turns(stage: Stage, client_calls: bool, suite: int, kinds: tuple[str, ...]) -> None:
    stage.bob = Identity.make("bob", *kinds)
    words, login = (("--suite", "classic"), CLASSIC) if suite == CLASSIC else ((), SWIFT)
    client, desk = stage.logged_in(*words, suite=login)
    desk.suite = suite
    if client_calls:
        client.say("chat bob")
        ratchet = desk.called_by_client()
    else:
        invite = desk.ring()
        client.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
        client.say("acpt bob")
        desk.accepted(invite)
        ratchet = desk.as_caller(invite, offers=(suite,))
    client.until("CHAT IS SECURE! with bob")
    for turn in range(8):
        for line in range(turn % 3 + 1):
            client.say(f"to you {turn} {line}")
            assert ratchet.open(desk.forwarded(RATCHET))[3] == f"to you {turn} {line}".encode()
        for line in range(turn % 2 + 1):
            desk.forward(RATCHET, ratchet.text(f"to me {turn} {line}"))
            client.until(f"<bob> to me {turn} {line}")
    assert ratchet.turns >= 8
    client.say("/exit")
    desk.left()
    client.say("exit")
    desk.exits()
    assert client.end() == 0


def test_a_chat_in_the_classic_suite_alone_is_refused_unless_asked_for(stage: Stage) -> None:
    client, desk = stage.logged_in()
    desk.suite = CLASSIC
    invite = desk.ring()
    client.until("ACCEPT?")
    client.say("acpt bob")
    desk.accepted(invite)
    desk.forward(C1, desk.chat(invite, True, offers=(CLASSIC,)).make_c1())
    desk.left()
    client.say("exit")
    desk.exits()
    assert client.end() == 0


def test_the_peer_leaves_and_vanishes(stage: Stage) -> None:
    client, desk, _ = stage.chatting()
    desk.event("exch", b"\0")
    client.until("bob left the chat")
    client.say("chat bob")
    desk.called_by_client()
    client.until("CHAT IS SECURE! with bob")
    desk.event("exch", b"\1")
    client.until("bob disconnected")


def test_messages_out_of_order_lost_and_replayed(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting()
    first = [ratchet.text(f"first {i}") for i in range(6)]
    for i in (3, 0, 5):
        desk.forward(RATCHET, first[i])
        client.until(f"<bob> first {i}")
    client.say("a turn")
    assert ratchet.open(desk.forwarded(RATCHET))[3] == b"a turn"
    second = [ratchet.text(f"second {i}") for i in range(3)]
    for name, message in (
        ("second 2", second[2]),
        ("first 4", first[4]),
        ("second 0", second[0]),
        ("first 1", first[1]),
    ):
        desk.forward(RATCHET, message)
        client.until(f"<bob> {name}")
    for replay in (first[0], first[4], second[2]):
        desk.forward(RATCHET, replay)
    desk.forward(RATCHET, second[1])
    client.until("<bob> second 1")
    shown = [line for line in client.seen if line.startswith("<bob>")]
    assert len(shown) == len(set(shown))


def test_forged_messages_change_nothing(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting()
    good = ratchet.text("one")
    for at in (0, 8, 9, 41, 1225, 2313, 2329, 2333, 2349, 2365, -1):
        desk.forward(RATCHET, flip(at)(good))
    for bad in (b"", good[:100], good[:2365], good + b"\0"):
        desk.forward(RATCHET, bad)
    desk.forward(RATCHET, good)
    client.until("<bob> one")
    client.say("two")
    assert ratchet.open(desk.forwarded(RATCHET))[3] == b"two"


def test_a_thousand_skipped_and_not_one_more(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting()
    desk.forward(RATCHET, ratchet.text("start"))
    client.until("<bob> start")
    lost = [ratchet.text(f"lost {i}") for i in range(1002)]
    desk.forward(RATCHET, lost[1001])
    desk.forward(RATCHET, lost[1000])
    client.until("<bob> lost 1000")
    assert not any("lost 1001" in line for line in client.seen)
    desk.forward(RATCHET, lost[0])
    client.until("<bob> lost 0")
    desk.forward(RATCHET, lost[1001])
    client.until("<bob> lost 1001")


def test_two_thousand_skipped_in_a_session_and_not_one_more(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting()
    for turn in range(2):
        many = [ratchet.text(f"turn {turn} {i}") for i in range(1001)]
        desk.forward(RATCHET, many[1000])
        client.until(f"<bob> turn {turn} 1000")
        client.say("turn")
        ratchet.open(desk.forwarded(RATCHET))
    held, beyond = ratchet.text("held"), ratchet.text("beyond")
    desk.forward(RATCHET, beyond)
    desk.forward(RATCHET, held)
    client.until("<bob> held")
    assert not any("beyond" in line for line in client.seen)
    desk.forward(RATCHET, beyond)
    client.until("<bob> beyond")


def test_refusals_and_cancels_both_ways(stage: Stage) -> None:
    client, desk = stage.logged_in()
    client.say("chat bob")
    invite = desk.take_call()
    client.until("Request sent to bob")
    desk.event("refu", to("bob", invite))
    client.until("bob refused")
    client.say("chat bob")
    invite = desk.take_call()
    client.until("Request sent to bob")
    client.say("cach")
    number, argument = desk.session.requested("cach")
    assert argument == invite
    desk.session.send(REPLY, number, "okay", b"")
    client.until("canceled")
    invite = desk.ring()
    client.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
    client.say("refu bob")
    number, argument = desk.session.requested("refu")
    assert argument == to("bob", invite)
    desk.session.send(REPLY, number, "okay", b"")
    client.until("refused")
    invite = desk.ring()
    client.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
    desk.event("cach", invite)
    client.until("bob canceled")
    client.say("chat carl")
    number, _ = desk.session.requested("chat")
    desk.session.send(REPLY, number, "erro", u(10, 2) + vec(b"carl is not available\x1b[2J", 1))
    client.until("carl is not available")
    client.say("chat bob")
    desk.called_by_client()
    client.until("CHAT IS SECURE! with bob")
    assert not any("\x1b" in line for line in client.seen)


def test_a_message_that_the_server_dropped_is_said_and_skipped(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting()
    client.say("lost")
    number, _ = desk.session.requested("frwd")
    desk.session.send(REPLY, number, "erro", u(12, 2) + vec(b"queue full", 1))
    client.until("bob")
    client.say("found")
    assert ratchet.open(desk.forwarded(RATCHET))[3] == b"found"


def test_a_call_is_not_answered_by_the_key_of_somebody_else(stage: Stage) -> None:
    client, desk = stage.logged_in()
    client.say("chat bob")
    invite = desk.take_call()
    desk.me = Identity.make("mallory", "ed25519")
    desk.event("pubk", desk.pubk(invite, 1))
    with pytest.raises(Closed):
        desk.forwarded(C1)
    assert client.end() in (3, 5)


def test_text_from_others_cannot_move_the_cursor(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting()
    desk.forward(RATCHET, ratchet.text("a\x1b[2Jb\rc\nd\u202ee\x85f\u2028g"))
    desk.forward(RATCHET, ratchet.text("after"))
    client.until("<bob> after")
    first = next(i for i, line in enumerate(client.seen) if line.startswith("<bob> a"))
    shown = client.seen[first:]
    assert all(line.startswith("<bob> ") for line in shown)  # "c" cannot pass for a line of the client's own
    assert not set("".join(shown)) & set("\x1b\r\u202e\x85\u2028")


def test_unknown_tlvs_and_no_text_are_not_shown(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting()
    desk.forward(RATCHET, ratchet.text(None))
    desk.forward(RATCHET, ratchet.text("seen", tlv(0x4A4A, b"?"), tlv(4, bytes(16))))
    client.until("<bob> seen")
    assert [line for line in client.seen if line.startswith("<bob>")] == ["<bob> seen"]


def test_the_receiver_holds_text_until_the_first_message(stage: Stage) -> None:
    client, desk = stage.logged_in()
    invite = desk.ring()
    client.until("ACCEPT?")
    client.say("acpt bob", "typed early")
    desk.accepted(invite)
    ratchet = desk.as_caller(invite)
    assert ratchet.open(desk.forwarded(RATCHET))[3] == b"typed early"


@pytest.mark.parametrize("client_is_caller", [True, False])
@pytest.mark.parametrize("ringing", [True, False])
def test_glare_towards_the_client(stage: Stage, ringing: bool, client_is_caller: bool) -> None:
    client, desk = stage.logged_in()
    theirs = desk.ring() if ringing else b"t" * 16
    if ringing:
        client.until("ACCEPT?")
        client.say("chat bob")
        number, argument = desk.session.requested("chat")
        mine = argument[-16:]
    else:
        client.say("chat bob")
        mine = desk.take_call()
        client.until("Request sent to bob")
    invite, role = (mine, 1) if client_is_caller else (theirs, 2)
    if ringing:
        desk.session.send(REPLY, number, "pubk", desk.pubk(invite, role))
    else:
        desk.event("pubk", desk.pubk(invite, role))
    ratchet = desk.as_receiver(invite) if client_is_caller else desk.as_caller(invite)
    client.until("CHAT IS SECURE! with bob")
    desk.forward(RATCHET, ratchet.text("met"))
    client.until("<bob> met")


def test_a_changed_c2_or_c4_is_refused_by_the_caller(stage: Stage) -> None:
    client, desk = stage.logged_in()
    changes: list[tuple[int, Flip]] = [
        (C2, flip(0)), (C2, flip(33)), (C2, flip(40)), (C2, flip(1300)), (C2, flip(-1)), (C2, lambda b: b + b"\0"),
        (C2, lambda b: b[:-1]), (C4, flip(0)), (C4, flip(-1)), (C4, lambda b: b[:-1]), (C4, lambda b: b""),
    ]  # fmt: skip
    for kind, change in changes:
        client.say("chat bob")
        invite = desk.take_call()
        desk.event("pubk", desk.pubk(invite, 1))
        chat = desk.chat(invite, False)
        c2 = chat.c2_from(desk.forwarded(C1))
        desk.forward(C2, change(c2) if kind == C2 else c2)
        if kind == C4:
            desk.forward(C4, change(chat.c4_from(desk.forwarded(C3))))
        desk.left()
    client.say("exit")
    desk.exits()
    assert client.end() == 0
    assert not any("SECURE" in line for line in client.seen)


def ringing_to_c2(client: Program, desk: Desk) -> bytes:
    invite = desk.ring()
    client.until("ACCEPT?")
    client.say("acpt bob")
    desk.accepted(invite)
    return invite


def test_a_changed_c1_or_c3_is_refused_by_the_receiver(stage: Stage) -> None:
    client, desk = stage.logged_in()
    sample = desk.chat(bytes(16), True).make_c1()
    at = sample.index(bytes(16))
    names = at + 16
    ids = names + 4 + 4
    for where in (0, 7, at, at + 15, names, names + 2, names + 6, ids, ids + 31, ids + 32, ids + 64, ids + 66, -1):
        invite = ringing_to_c2(client, desk)
        desk.forward(C1, flip(where)(desk.chat(invite, True).make_c1()))
        if where == -1:  # the value of an unknown TLV: only the transcript tells
            chat = desk.chat(invite, True)
            chat.make_c1()
            with pytest.raises(ProtocolError):
                chat.c3_from(desk.forwarded(C2))
            desk.event("exch", b"\0")
            client.until("bob left")
        else:
            desk.left()
    for change in (flip(2), flip(1200), flip(-1), lambda b: b + b"\0", lambda b: b[:-1]):
        invite = ringing_to_c2(client, desk)
        chat = desk.chat(invite, True)
        desk.forward(C1, chat.make_c1())
        desk.forward(C3, change(chat.c3_from(desk.forwarded(C2))))
        desk.left()
    client.say("exit")
    desk.exits()
    assert client.end() == 0
    assert not any("SECURE" in line for line in client.seen)


def test_a_changed_key_stops_the_chat(stage: Stage) -> None:
    client, desk, _ = stage.chatting()
    desk.event("exch", b"\0")
    client.until("bob left")
    desk.me = Identity.make("bob", "rsa2048")
    client.say("chat bob")
    invite = desk.take_call()
    desk.event("pubk", desk.pubk(invite, 1))
    client.until("KEY CHANGED for bob")
    desk.left()
    client.say("exit")
    desk.exits()
    assert client.end() == 0


def test_the_safety_number_is_the_same_on_both_sides(stage: Stage) -> None:
    client, desk, _ = stage.chatting()
    number = safety_number(desk.server, ("ann", stage.bundle), ("bob", stage.bob.bundle))
    client.say("/verify")
    digits = ""
    while number not in digits:
        line = client.until("")
        digits += "".join(c for c in line if c.isdigit())


# ---- through the real server


@pytest.mark.parametrize("client_calls", [True, False])
@pytest.mark.parametrize("kinds", [("rsa2048",), ("ed25519", "mldsa65")])
def test_real_client_and_second_client_through_the_real_server(
    tmp_path: Path, home: Home, bundle: bytes, client_calls: bool, kinds: tuple[str, ...]
) -> None:
    bob = Identity.make("bob", *kinds)
    with RealServer(tmp_path / "server") as server, ExitStack() as stack:
        (tmp_path / "ann.pem").write_text(home.pem)
        run("user", "add", "ann", tmp_path / "ann.pem", "--home", server.home)
        server.enrol(bob)
        session = server.log_in(bob)
        stack.callback(session.close)
        client = stack.enter_context(RealClient(home.copy(tmp_path / "home"), server.port, server.ca_file))
        client.until("User Login Complete!")
        name = Reader(session.tlvs[5]).vec(1).decode()
        if client_calls:
            client.say("chat bob")
            invite = session.event("reqt")[4:]
            assert session.ask("acpt", to("ann", invite))[0] == "pubk"
            chat = Chat(bob, "ann", bundle, name, invite, False)
            session.relay(C2, chat.c2_from(session.event("frwd")[1:]))
            session.relay(C4, chat.c4_from(session.event("frwd")[1:]))
            ratchet = chat.ratchet()
            ratchet.open(session.event("frwd")[1:])
        else:
            invite = b"my own invite 16"
            assert session.ask("chat", to("ann", invite))[0] == "reqt"
            client.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
            client.say("acpt bob")
            session.event("pubk")
            chat = Chat(bob, "ann", bundle, name, invite, True)
            session.relay(C1, chat.make_c1())
            session.relay(C3, chat.c3_from(session.event("frwd")[1:]))
            chat.check_c4(session.event("frwd")[1:])
            ratchet = chat.ratchet()
            session.relay(RATCHET, ratchet.text(None))
        client.until("CHAT IS SECURE! with bob")
        for i in range(5):
            session.relay(RATCHET, ratchet.text(f"hello {i}"))
            client.until(f"<bob> hello {i}")
            client.say(f"world {i}")
            assert ratchet.open(session.event("frwd")[1:])[3] == f"world {i}".encode()
            session.update()
        client.say("/exit")
        assert session.event("exch") == b"\0"
        client.say("chat bob")
        invite = session.event("reqt")[4:]
        assert session.ask("refu", to("ann", invite)) == ("okay", b"")
        client.say("exit")
        assert client.end() == 0
