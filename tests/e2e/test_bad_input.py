"""What may go wrong between a client and a server: a clear sentence, the right exit code, and nothing lost."""

from __future__ import annotations

import os
import queue
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from messageapp.server.serve import Server, open_listeners
from messageapp.server.setup import make_offer
from messageapp.store.home import Home
from messageapp_keys.certificate import load_certificate_untrusted, load_private_key_pem
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import SWIFT
from support.processes import SECONDS, Site, open_site, run, save, write_certificates
from support.world import EndlessKeys, MemoryDirectory


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site"), "alice", "bob") as opened:
        yield opened
        # Whatever the tests did: the server serves.
        assert opened.connect("alice", stdin="list\n").returncode == 0


@pytest.fixture(autouse=True)
def _the_server_lives(site: Site) -> Iterator[None]:
    yield
    site.end_clients()
    assert site.server is not None
    assert site.server.process.poll() is None
    assert "error" not in site.server.err


# the server is not who it should be -----------------------------------------------------------------------------------


def test_another_authority(site: Site, tmp_path: Path) -> None:
    other = Home(tmp_path)
    write_certificates(other)
    done = site.connect("bob", "--ca", str(other.ca_certificate))
    assert done.returncode == 3
    assert done.stdout == ""
    assert "certificate" in done.stderr


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_a_certificate_that_was_revoked(site: Site, tmp_path: Path, form: str) -> None:
    now = datetime.now(UTC)
    ca = x509.load_pem_x509_certificate(site.home.ca_certificate.read_bytes())
    key = load_private_key_pem(site.home.ca_key.read_bytes())
    leaf = x509.load_pem_x509_certificate(site.home.server_certificate.read_bytes())
    file = tmp_path / "list.crl"

    def revoke(*serials: int) -> None:
        builder = x509.CertificateRevocationListBuilder(ca.subject, now - timedelta(days=1), now + timedelta(days=1))
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(serial, now - timedelta(days=1)).build()
            builder = builder.add_revoked_certificate(entry)
        encoding = getattr(serialization.Encoding, form)
        file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(encoding))

    revoke(leaf.serial_number + 1)
    done = site.connect("bob", "--crl", str(file), stdin="exit\n")
    assert done.returncode == 0, done.stderr
    assert "User Login Complete!" in done.stdout
    revoke(leaf.serial_number)
    done = site.connect("bob", "--crl", str(file), stdin="exit\n")
    assert (done.returncode, done.stdout) == (3, "")
    assert "the certificate was revoked on " in done.stderr
    done = site.connect("bob", stdin="exit\n")
    assert done.returncode == 3  # the list is remembered
    assert "the certificate was revoked on " in done.stderr
    revoke(leaf.serial_number + 1)
    assert site.connect("bob", "--crl", str(file), stdin="exit\n").returncode == 0


@pytest.mark.parametrize(
    ("names", "days", "word"),
    [
        (["127.0.0.1"], -500, "expired"),
        (["127.0.0.1"], +10, "not valid before"),
        (["chat.example", "localhost"], 0, "127.0.0.1"),
    ],
)
def test_a_certificate_that_is_not_good(tmp_path: Path, names: list[str], days: int, word: str) -> None:
    """Such a server cannot be made with `serve`, which renews its certificate; so it is made here."""
    home = Home(tmp_path)
    save(home, "alice", PrivateIdentity.generate("ed25519"))
    write_certificates(home, names=names, when=datetime.now(UTC) + timedelta(days=days))
    with serving(home) as port:
        done = run(tmp_path, "connect", "127.0.0.1", str(port))
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("messageapp: ")
    assert word in done.stderr


def test_a_server_with_another_key(tmp_path: Path) -> None:
    """The same authority, another key: refused until it is said to be right; then it is the known one."""
    with open_site(tmp_path, "alice") as site:
        assert site.connect("alice").returncode == 0
        renew_the_key(site)
        done = site.connect("alice")
        assert done.returncode == 3
        assert done.stdout == ""
        assert "another key than before" in done.stderr
        assert "--trust-server" in done.stderr
        assert site.connect("alice").returncode == 3
        assert site.connect("alice", "--trust-server").returncode == 0
        assert site.connect("alice").returncode == 0


def renew_the_key(site: Site) -> None:
    assert site.server is not None
    site.server.kill()
    site.home.server_key.unlink()
    site.home.server_certificate.unlink()
    site.serve(port=site.port)


@contextmanager
def serving(home: Home) -> Iterator[int]:
    """The server of `home`, as its certificate is, in a thread; the port."""
    leaf = load_certificate_untrusted(home.server_certificate.read_bytes())
    server = Server(
        offer=make_offer(leaf, load_private_key_pem(home.server_key.read_bytes())),
        directory=MemoryDirectory(),
        keys=EndlessKeys(),
        suites=(SWIFT,),
    )
    started: queue.SimpleQueue[tuple[int, trio.lowlevel.TrioToken]] = queue.SimpleQueue()

    async def serve() -> None:
        listeners = await open_listeners("127.0.0.1", 0)
        started.put((listeners[0].socket.getsockname()[1], trio.lowlevel.current_trio_token()))
        await server.serve(listeners)

    # trio.run restores signals only in the main thread; here it has none to restore.
    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    port, token = started.get(timeout=SECONDS)
    try:
        yield port
    finally:
        token.run_sync_soon(server.shutdown)
        thread.join(SECONDS)
        assert not thread.is_alive()


# the user is not who it should be -------------------------------------------------------------------------------------


def test_an_unknown_user_and_a_wrong_key_are_told_the_same(site: Site, tmp_path: Path) -> None:
    stranger, mallory = Home(tmp_path / "stranger"), Home(tmp_path / "mallory")
    save(stranger, "nobody", PrivateIdentity.generate("ed25519"))
    save(mallory, "alice", PrivateIdentity.generate("ed25519"))
    told = []
    for home in (stranger, mallory):
        for options in ([], ["--hide-user"]):
            done = run(
                home.path, "connect", "127.0.0.1", str(site.port), "--ca", str(site.home.ca_certificate), *options
            )
            assert (done.returncode, done.stdout) == (4, "")
            told.append(done.stderr)
    expected = "messageapp: the server refused the login: unknown user, or another key than the one it has\n"
    assert told == [expected] * 4


def test_another_spelling_of_the_name(site: Site, tmp_path: Path) -> None:
    """Names are unique whatever their case, and good in the registered spelling only."""
    other = Home(tmp_path)
    identity_file = site.home.identity("alice")
    other.identity("alice").parent.mkdir(parents=True, mode=0o700)
    other.identity("alice").write_bytes(identity_file.read_bytes())
    other.identity("alice").chmod(0o600)
    ca = ("--ca", str(site.home.ca_certificate))
    assert run(tmp_path, "connect", "127.0.0.1", str(site.port), "--user", "ALICE", *ca).returncode == 0


# what answers is no server of ours ------------------------------------------------------------------------------------


def say(data: bytes) -> Callable[[socket.socket], None]:
    return lambda guest: guest.sendall(data)


def answer(data: bytes) -> Callable[[socket.socket], None]:
    def after_m1(guest: socket.socket) -> None:
        guest.recv(65_536)
        guest.sendall(data)

    return after_m1


STRANGERS: dict[str, tuple[Callable[[socket.socket], None], int, str]] = {
    "closes at once": (lambda guest: None, 5, "closed the connection"),
    "closes after M1": (answer(b""), 5, "closed the connection"),
    "ssh": (say(b"SSH-2.0-OpenSSH_9.6\r\n"), 3, "does not speak MessageApp"),
    "http": (answer(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), 3, "does not speak MessageApp"),
    "zeros": (answer(bytes(1000)), 3, "does not speak MessageApp"),
    "noise": (answer(b"\x00\x00\x01\x00\x02" + os.urandom(255)), 3, "messageapp: "),
    "a record before keys": (answer(b"\x00\x00\x00\x03\x10ab"), 3, "does not speak MessageApp"),
    "half an M2": (answer(b"\x00\x00\x08\x00\x02" + bytes(100)), 5, "closed the connection"),
    "busy": (answer(b"\x00\x00\x00\x04\x1f\x02\x00\x07"), 5, "the server is busy; try again in 7 seconds"),
    "refusal": (answer(b"\x00\x00\x00\x02\x1f\x01"), 4, "refused the login"),
    "no common suite": (answer(b"\x00\x00\x00\x02\x1f\x03"), 3, "none of the versions or suites"),
    "too slow": (answer(b"\x00\x00\x00\x02\x1f\x04"), 5, "too slow or too large"),
    "an alert of another kind": (answer(b"\x00\x00\x00\x02\x1f\x63"), 5, "the server gave up"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_listener_that_is_no_server(site: Site, kind: str) -> None:
    behave, code, text = STRANGERS[kind]
    with listening(behave) as port:
        done = site.run("connect", "127.0.0.1", str(port), "--user", "alice", stdin="list\n")
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("messageapp: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


@contextmanager
def listening(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP port where one guest is treated so, then the connection ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)

        def host() -> None:
            guest, _ = listener.accept()
            with guest, suppress(OSError):
                guest.settimeout(SECONDS)
                behave(guest)
                guest.shutdown(socket.SHUT_WR)
                while guest.recv(65_536):
                    pass

        thread = threading.Thread(target=host)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            thread.join(SECONDS)


# who speaks to the server is no client of ours ------------------------------------------------------------------------

M1_HEAD = b"\x00\x00\x00\x80\x01MSGAPP\x00\x02"
GARBAGE = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(196),
    "ssh": b"SSH-2.0-client\r\n",
    "zeros": bytes(10_000),
    "length 0": b"\x00\x00\x00\x00",
    "length 4 GiB": b"\xff\xff\xff\xff\x01",
    "length over the limit": b"\x00\x00\x10\x01\x01" + bytes(5000),
    "half an M1": M1_HEAD,
    "an M1 of noise": M1_HEAD + os.urandom(118),
    "a record": b"\x00\x00\x00\x21\x10" + bytes(32),
    "an alert": b"\x00\x00\x00\x02\x1f\x01",
    "noise": os.urandom(3000),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_on_the_port(site: Site, kind: str) -> None:
    """At most one ALERT, then the end; the server goes on (see the fixture)."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=SECONDS) as guest:
        answered = b""
        with suppress(ConnectionError):  # closed before it has read all of ours
            guest.sendall(GARBAGE[kind])
            guest.shutdown(socket.SHUT_WR)
            while data := guest.recv(65_536):
                answered += data
    assert answered == b"" or answered[4:5] == b"\x1f"
    assert len(answered) <= 8


# the network ----------------------------------------------------------------------------------------------------------


class Wire:
    """A port that leads to another one, until it is cut."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SECONDS)
        self.port = int(self._listener.getsockname()[1])
        self._to = port
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(SECONDS)
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._to), timeout=SECONDS)
        self._ends += [near, far]
        for one, other in ((near, far), (far, near)):
            one.settimeout(None)
            thread = threading.Thread(target=self._carry, args=(one, other), daemon=True)
            self._threads.append(thread)
            thread.start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)


@pytest.mark.parametrize("state", ["online", "calling", "ringing", "chat"])
def test_the_connection_is_cut(site: Site, state: str) -> None:
    """`state` is that of the one who is cut off; the other is told and goes on, and the lost one can log in again."""
    wire = Wire(site.port)
    alice = site.start("connect", "127.0.0.1", str(wire.port), "--user", "alice", "--ca", str(site.home.ca_certificate))
    try:
        alice.until("User Login Complete!")
        bob = site.client("bob")
        match state:
            case "calling":
                alice.send("chat bob")
                bob.until("REQUEST TO CHAT FROM: <alice> ACCEPT?")
            case "ringing":
                bob.send("chat alice")
                alice.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
            case "chat":
                site.chat(alice, "alice", bob, "bob")
                alice.send("before the cut")
                bob.until("<alice> before the cut")
    finally:
        wire.cut()
    alice.until("connection cut; the last messages may be missing")
    assert alice.finish(close=False) == 5
    expected = {"calling": "alice canceled the call", "ringing": "alice refused the chat", "chat": "alice disconnected"}
    if state in expected:
        assert bob.until("alice ") == expected[state]
    again = site.client("alice")
    site.chat(again, "alice", bob, "bob")
    assert (again.finish(), bob.finish()) == (0, 0)


def test_logging_in_twice_replaces_the_first(site: Site, tmp_path: Path) -> None:
    """The same device once more, from a copied home; a second client of one home is refused before that."""
    assert site.client("alice").finish() == 0
    copy = shutil.copytree(site.path, tmp_path / "copy")
    first = site.client("alice")
    second = site.client("alice", home=copy)
    assert first.until("error: ") == "error: this account logged in again on this device"
    assert first.finish(close=False) == 5
    second.send("list")
    assert [second.until("") for _ in range(2)] == ["Online users:", "alice"]
    assert second.finish() == 0
