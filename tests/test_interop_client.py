"""The real client against the second implementation's server, and against its client through the real server.

Here both sides keep to the protocol; `test_adversary_client` has the sides that do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from interop.base import CLASSIC, DER, HYBRID, PSS, SPKI, SWIFT, Identity, Reader, tlv, u, vec
from interop.chat import C1, C2, C3, C4, RATCHET, Chat, Ratchet, safety_number
from interop.desk import Desk, to
from interop.peer import REPLY, REQUEST, Authority, Closed, Server, Session
from interop.programs import Home, Program, RealClient, RealServer, run, write_ca
from interop.sas import commitment, seven
from messageapp_keys.sas import EMOJI


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


def test_a_leaf_of_398_days_is_allowed(stage: Stage) -> None:
    client, desk = stage.logged_in(authority=Authority(days=398))
    client.say("exit")
    desk.exits()
    assert client.end() == 0


def test_another_server_key_must_be_confirmed(stage: Stage) -> None:
    client, desk = stage.logged_in()
    port = stage.last.port
    client.say("exit")
    desk.exits()
    assert client.end() == 0
    stage.last.listener.close()
    changed = stage.server(authority=Authority(), fixed_port=port)
    client = stage.client(changed)
    with pytest.raises(Closed):
        changed.accept()
    assert client.end() == 3
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


# ---- live checks


def _shows(client: Program, exporter: bytes, r_a: bytes, r_b: bytes) -> None:
    client.until("LIVE CHECK with bob")
    for place, number in enumerate(seven(exporter, r_a, r_b), 1):
        client.until(f"  {place}  {EMOJI[number][1]}")


def test_a_live_check_that_the_client_asks_for(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting()
    client.say("/verify live")
    asked = ratchet.open(desk.forwarded(RATCHET))[7]
    assert asked[0] == 1
    r_b = bytes(range(32))
    desk.forward(RATCHET, ratchet.text(None, tlv(7, b"\x02" + r_b)))
    opened = ratchet.open(desk.forwarded(RATCHET))[7]
    assert opened[0] == 3
    assert commitment(opened[1:]) == asked[1:]
    _shows(client, ratchet.exporter, opened[1:], r_b)
    client.say("/verify yes")
    assert ratchet.open(desk.forwarded(RATCHET))[7] == b"\x04\x01"
    client.until("bob is verified")


def test_a_live_check_that_the_peer_asks_for(stage: Stage) -> None:
    client, desk, ratchet = stage.chatting(client_calls=False)
    r_a = bytes(range(32))
    desk.forward(RATCHET, ratchet.text(None, tlv(7, b"\x01" + commitment(r_a))))
    replied = ratchet.open(desk.forwarded(RATCHET))[7]
    assert replied[0] == 2
    desk.forward(RATCHET, ratchet.text(None, tlv(7, b"\x03" + r_a)))
    _shows(client, ratchet.exporter, r_a, replied[1:])
    desk.forward(RATCHET, ratchet.text(None, tlv(7, b"\x04\x00")))
    client.until("NOT THE SAME, says the other side (bob)")
    client.say("/verify yes")
    client.until("error: no live check is waiting for an answer")
