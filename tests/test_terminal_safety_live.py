"""Nothing that a stranger chooses reaches a screen or a log as more than text: whole programs, a malicious peer.

The peer is the second implementation (tests/interop): as the server with every text that a server sends, as bob with
every text of a chat, as a client towards a server that logs all it can.
"""

from __future__ import annotations

import io
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pexpect
import pyte
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from interop.base import DER, PSS, SPKI, SWIFT, Identity, pad, tlv, u, vec
from interop.chat import RATCHET, Ratchet
from interop.desk import Desk
from interop.peer import M1, RECORD, REPLY, REQUEST, Authority, Login, Server, frame, log_in, padded_length
from interop.programs import PATIENT, Home, Program, RealClient, command, environment, run, write_ca
from messageapp.e2ee.envelope import MAX_TEXT_BYTES
from support.hostile import HOSTILE, LOOK_ALIKES, MOST_MARKS, SHORT, highest_pile, invisible_in, raw_in

END = "that was the last one"
MOST_ERROR = 255  # bytes of the text in `erro`


def wire(text: str) -> bytes:
    """As a stranger sends it: a lone byte stays one."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


TEXTS = {name: wire(text)[:MAX_TEXT_BYTES] for name, text in HOSTILE.items()}
ERRORS = {name: wire(text) for name, text in HOSTILE.items() if len(wire(text)) <= MOST_ERROR}


class HostileAuthority(Authority):
    """Certificates whose names talk to the terminal; what the client dials stands in them all the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        server, by = "\x1b]0;owned\x07\r[CHAT]-> \x9b2J\u202e", "CA\n\x1b[31m\u2028CHAT IS SECURE! with bob"
        ca_key = self.ca_key
        self.ca = self._certificate(by, ca_key, by, ca_key, 3650, True)
        self.leaf = self._certificate(server, self.key, by, ca_key, self.days, False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("safety") / "home", "ann")


@pytest.fixture(scope="module")
def bob() -> Identity:
    return Identity.make("bob", "ed25519")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def malicious(stack: ExitStack, home: Home) -> Server:
    key = load_pem_public_key(home.pem.encode()).public_bytes(DER, SPKI)
    notes = tlv(0x1A1A, b"".join(ERRORS.values())[:2000])
    server = Server(HostileAuthority(), {"ann": u(1, 1) + u(PSS, 2) + vec(key, 2)}, SWIFT, m4_tlvs=notes)
    return stack.enter_context(server)


def at_desk(stack: ExitStack, server: Server, bob: Identity) -> Desk:
    session = server.accept()
    stack.callback(session.close)
    return Desk(session, bob, server.users["ann"], server.canonical)


def send_text(desk: Desk, ratchet: Ratchet, text: bytes) -> None:
    body = tlv(1, os.urandom(16)) + tlv(2, u(0, 8)) + tlv(3, text)
    desk.forward(RATCHET, ratchet.seal(pad(body, (len(body) // 160 + 1) * 160)))


def refuse(desk: Desk, verb: str, code: int, text: bytes) -> None:
    number, _ = desk.session.requested(verb)
    desk.session.send(REPLY, number, "erro", u(code, 2) + vec(text, 1))


_OURS = (
    "<bob> ",
    "this server keeps no key log: ",
    "error: ",
    "server certificate: ",
    "  valid ",
    "  fingerprint of ",
    "temporary key: ",
    "session: ",
    "User Login Complete!",
    "You are logged in on ",
    "Request sent to bob",
    "carol is not available",
    "CHAT IS SECURE! with bob",
    "This is the first chat with bob",
    "safety number with bob",
    "Compare it with bob",
    "REQUEST TO CHAT FROM: <bob> ACCEPT?",
)


_OF_A_TEXT = ("<bob> ", "error: ")


def marker(number: int) -> str:
    """Said behind each hostile text; so what is before it is of that one."""
    return f"behind text {number}."


def check_lines(lines: list[str]) -> None:
    for line in lines:
        assert raw_in(line) == invisible_in(line) == [], line[:200]
        assert highest_pile(line) <= MOST_MARKS
        assert line.startswith(_OURS) or re.fullmatch(r"  \d{5}( \d{5}){5}", line), line[:200]
    secure = "CHAT IS SECURE! with bob"
    assert [line for line in lines if line.startswith(secure)] == [secure] * lines.count(secure)
    assert lines.count(secure) == 1  # ours; each of a stranger's has something before it


def test_a_script_sees_one_line_of_text_behind_its_sender(
    tmp_path: Path, home: Home, bob: Identity, stack: ExitStack
) -> None:
    server = malicious(stack, home)
    client = stack.enter_context(
        RealClient(home.copy(tmp_path / "home"), server.port, write_ca(server.authority, tmp_path))
    )
    desk = at_desk(stack, server, bob)
    for text in ERRORS.values():
        client.say("chat carol")
        refuse(desk, "chat", 3, text)
    for text in map(wire, LOOK_ALIKES.values()):  # in the place of the server's text there is one of ours
        client.say("chat carol")
        refuse(desk, "chat", 10, text)
        client.until("carol is not available")
    for text in map(wire, LOOK_ALIKES.values()):  # "not available", which has no `error:` before it, to another request
        desk.ring()
        client.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
        client.say("refu bob")
        refuse(desk, "refu", 10, text)
    client.say("chat bob")
    ratchet = desk.called_by_client()
    for number, text in enumerate(TEXTS.values()):
        send_text(desk, ratchet, text)
        send_text(desk, ratchet, marker(number).encode())
    client.until("CHAT IS SECURE! with bob")
    errors = [line for line in client.seen if line.startswith("error: ")]
    assert len(errors) >= len(ERRORS) + len(LOOK_ALIKES)
    for number, name in enumerate(TEXTS):
        before = len(client.seen)
        assert client.until(marker(number)) == f"<bob> {marker(number)}"
        assert any(line.startswith(_OF_A_TEXT) for line in client.seen[before:-1]), f"nothing is shown of {name}"
    check_lines(client.seen)
    prompts = client.complaints()
    assert raw_in(prompts) == []
    assert re.fullmatch(r"(\[SERVER-COMMAND\]-> |\[CHAT\]-> )+", prompts)


_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])|[\x00-\x1f\x7f]|\xc2[\x80-\x9f]")


def kinds(stream: bytes) -> set[bytes]:
    """The sequences, whatever their numbers; a cursor that moves by one place needs none."""
    found = {re.sub(rb"[0-9]+", b"N", each) for each in _SEQUENCE.findall(stream)}
    return {re.sub(rb"^\x1b\[([A-D])$", b"\x1b[N\\1", each) for each in found}


def test_a_terminal_gets_no_sequence_of_a_stranger(tmp_path: Path, home: Home, bob: Identity, stack: ExitStack) -> None:
    server = malicious(stack, home)
    program, *words = command("connect", "127.0.0.1", server.port, "--home", home.copy(tmp_path / "home"),
                              "--ca", write_ca(server.authority, tmp_path))  # fmt: skip
    env = {**environment(), "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(program, words, env=env, dimensions=(40, 120), timeout=60)
    stack.callback(child.close, force=True)
    child.logfile_read = stream = io.BytesIO()
    desk = at_desk(stack, server, bob)
    child.expect_exact("User Login Complete!")
    child.send("chat bob\r")
    ratchet = desk.called_by_client()
    child.expect_exact("verify confirm")
    texts = [wire(text) for text in SHORT.values()]
    for text in [*(b"x" * len(text) for text in texts), b"harmless"]:
        send_text(desk, ratchet, text)
    child.expect_exact("harmless")
    before = stream.getvalue()
    for number, text in enumerate(texts):
        send_text(desk, ratchet, text)
        send_text(desk, ratchet, marker(number).encode())
    send_text(desk, ratchet, END.encode())
    child.expect_exact(END)
    child.send("/exit\r")
    desk.left()
    child.expect_exact("You left the chat")
    after = stream.getvalue()[len(before) :]

    assert kinds(after) <= kinds(before)
    assert not any(
        kind.startswith((b"\x1b]", b"\x1bP", b"\x1b_", b"\x1b^", b"\x1bX", b"\xc2", b"\x07")) for kind in kinds(before)
    )
    for name, hostile in SHORT.items():
        if raw_in(hostile):
            assert b"<bob> " + wire(hostile) not in after, name
    assert raw_in(_SEQUENCE.sub(b"", before + after).decode()) == []
    screen = pyte.HistoryScreen(120, 40, history=10_000)
    pyte.ByteStream(screen).feed(before + after)
    assert (screen.title, screen.icon_name) == ("", "")
    shown = ["".join(row[column].data for column in range(120)) for row in screen.history.top]
    shown += screen.display
    said = [line.rstrip() for line in shown if re.match(r"\d\d:\d\d #\d+ <bob> |error: ", line)]
    bobs = [re.sub(r"^\d\d:\d\d #\d+ ", "", line) for line in said]
    places = [bobs.index(f"<bob> {text}") for text in ("harmless", *map(marker, range(len(texts))))]
    assert min(later - earlier for earlier, later in pairwise(places)) > 1, "nothing was wiped; of each text is a line"
    assert sum(line.startswith("CHAT IS SECURE! with bob") for line in shown) == 1


def test_the_log_of_a_server_holds_nothing_of_a_stranger(tmp_path: Path, stack: ExitStack) -> None:
    home, alice = tmp_path / "home", Identity.make("alice", "ed25519")
    limits = [f"--limit={name}={value}" for name, value in PATIENT.items()]
    words = ("serve", 0, "--host", "127.0.0.1", "--home", home, "--trace", "--debug", *limits)
    server = stack.enter_context(Program(*words))
    port = int(server.until("listening on").rsplit(":", 1)[1])
    (tmp_path / "alice.pem").write_bytes(alice.pem())
    run("user", "add", "alice", tmp_path / "alice.pem", "--home", home)
    for text in ERRORS.values():
        m1 = b"MSGAPP\0\2" + bytes(32) + u(1, 1) + u(2, 2) + u(1, 1) + u(3, 2) + u(1, 1) + u(0x0403, 2) + u(0, 4)
        with socket.create_connection(("127.0.0.1", port), 20) as sock:
            sock.sendall(frame(M1, m1 + vec(text, 1) + vec(text, 1) + vec(b"", 2)))
            assert sock.recv(100)[4:] == b"\x1f\1"  # ALERT 1
    session = log_in(port, Login(alice, load_pem_x509_certificate((home / "ca" / "ca.pem").read_bytes())))
    stack.callback(session.close)
    for number, text in enumerate(ERRORS.values(), 1):
        plain = u(REQUEST, 1) + u(number, 4) + text[:4].ljust(4, b"\x1b") + text
        session.sock.sendall(frame(RECORD, session.seal(pad(plain, padded_length(len(plain) + 1)))))
        assert session.receive()[1:3] == (number, "erro")
    server.child.send_signal(signal.SIGTERM)
    assert server.end() == 0
    log = os.pread(server.errors.fileno(), 10_000_000, 0).decode()
    lines = log.removesuffix("\n").split("\n")
    assert len(lines) > 3 * len(ERRORS)
    own = re.compile(r"messageapp: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ |made a )[\x20-\x7e]+")
    assert [line for line in lines if not own.fullmatch(line)] == []
    assert "alice" not in log
    assert "carol" not in log
    odd = [text for text in ERRORS.values() if re.fullmatch(rb"[A-Za-z]{4}", text[:4]) is None]
    assert sum(" ???? #" in line for line in lines) == len(odd) > 200  # a verb is shown only if it is four letters
