"""A server and clients as processes: from the keyboard of one to the screen of the other, and what logs tell."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from messageapp.store.home import Home
from messageapp_keys.identity import PrivateIdentity
from support.processes import PASSPHRASE, SECONDS, Program, Site, open_site, run, save

SECRETS = ("a-secret-text", "another-secret-text")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site"), "alice", "bob", "carol", serving=False) as opened:
        opened.serve("--trace", "--debug")
        yield opened


@pytest.fixture(autouse=True)
def _nobody_stays(site: Site) -> Iterator[None]:
    yield
    site.end_clients()


def test_two_clients_chat(site: Site) -> None:
    alice, bob = site.client("alice"), site.client("bob")
    alice.until("key log: 3 entries")
    alice.send("list")
    assert [alice.until("") for _ in range(3)] == ["Online users:", "alice", "bob"]
    alice.send("chat bob")
    assert alice.until("Request") == "Request sent to bob"
    bob.until("REQUEST TO CHAT FROM: <alice> ACCEPT?")
    bob.send("acptalice")
    for one, peer in ((alice, "bob"), (bob, "alice")):
        one.until(f"CHAT IS SECURE! with {peer}")
        one.until(f"safety number with {peer}:")
    numbers = [[alice.until("  "), alice.until("  ")], [bob.until("  "), bob.until("  ")]]
    assert numbers[0] == numbers[1]
    assert re.fullmatch(r"(  (\d{5} ){5}\d{5}){2}", "".join(numbers[0]))
    alice.send(SECRETS[0])
    bob.until(f"<alice> {SECRETS[0]}")
    bob.send(SECRETS[1], "/list")
    alice.until(f"<bob> {SECRETS[1]}")
    assert [bob.until("") for _ in range(3)] == ["Online users:", "alice (in chat)", "bob (in chat)"]
    bob.send("/exit")
    alice.until("bob left the chat")
    bob.until("You left the chat with alice")
    bob.send("chat alice")
    alice.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
    alice.send("refubob")
    bob.until("alice refused the chat")
    bob.send("chatalice", "cachalice")
    assert bob.until("Call") == "Call to alice canceled"
    alice.until("bob canceled the call")
    alice.send("exitx")
    assert alice.finish(close=False) == 0
    assert bob.finish() == 0
    for program in (alice, bob):
        assert "\x1b" not in program.out + program.err
        assert "[CHAT]-> " not in program.out
        assert "[SERVER-COMMAND]-> " not in program.out
        assert program.err.count("[CHAT]-> ") >= 1


def test_who_is_blocked_is_not_told(site: Site) -> None:
    alice, bob = site.client("alice"), site.client("bob")
    alice.send("block bob", "blocked")
    alice.until("bob is blocked, and is not told; unblock bob ends it")
    assert [alice.until("") for _ in range(2)] == ["Blocked users:", "bob"]
    bob.send("chat alice", "list", "status")
    bob.until("alice is not available")
    assert [bob.until("") for _ in range(2)] == ["Online users:", "bob"]
    alice.send("chat bob", "unblock bob")
    alice.until("error: you block bob; unblock bob first")
    alice.until("bob is not blocked any more")
    bob.send("chat alice")
    alice.until("REQUEST TO CHAT FROM: <bob> ACCEPT?")
    done = run(site.path, "admin", "knows", "bob")
    assert done.returncode == 0
    assert "blocks: who blocks whom, both ways – nothing" in done.stdout


def test_a_filter(site: Site) -> None:
    """Commands from a pipe, as in a script."""
    done = site.connect("alice", stdin="list\nchat bob\nstatus\nexit\nnever read\n")
    assert done.returncode == 0
    assert "User Login Complete!\nOnline users:\nalice\nbob is not available\nalice@" in done.stdout
    assert "never" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_input_that_ends_at_once(site: Site) -> None:
    done = site.connect("alice")
    assert done.returncode == 0
    assert done.stdout.endswith("User Login Complete!\n")


def test_input_that_is_not_text(site: Site) -> None:
    done = site.connect("alice", stdin=b"li\xffst\nlist\nexit\n")
    assert done.returncode == 0
    assert "\nerror: input is not UTF-8, line 1 was not used\nOnline users:\nalice\n" in done.stdout


def test_a_message_of_a_megabyte(site: Site) -> None:
    alice, bob = site.client("alice"), site.client("bob")
    site.chat(alice, "alice", bob, "bob")
    alice.send("m" * 1_000_000, "short")
    assert "65,535 bytes" in alice.until("error: ")
    bob.until("<alice> short")
    assert "mmm" not in bob.out


def test_many_lines_arrive_in_order_and_none_is_lost(site: Site) -> None:
    alice, bob = site.client("alice"), site.client("bob")
    site.chat(alice, "alice", bob, "bob")
    lines = [f"line {number}" for number in range(150)]
    alice.send(*lines)
    assert alice.finish() == 0
    bob.until("alice left the chat")
    assert [line for line in bob.lines if line.startswith("<alice>")] == [f"<alice> {line}" for line in lines]


@pytest.mark.parametrize("state", ["calling", "ringing", "chat"])
def test_a_peer_that_is_killed(site: Site, state: str) -> None:
    """`state` is that of the one who is killed."""
    alice, bob, carol = site.client("alice"), site.client("bob"), site.client("carol")
    if state == "chat":
        site.chat(alice, "alice", bob, "bob")
    else:
        caller, called, name = (bob, alice, "alice") if state == "calling" else (alice, bob, "bob")
        caller.send(f"chat {name}")
        called.until("REQUEST TO CHAT FROM: ")
    bob.kill()
    expected = {"calling": "bob canceled the call", "ringing": "bob refused the chat", "chat": "bob disconnected"}
    assert alice.until("bob ") == expected[state]
    site.chat(alice, "alice", carol, "carol")
    for program in (alice, carol):
        assert program.finish() == 0


def test_a_client_is_told_to_end(site: Site) -> None:
    """SIGTERM and SIGINT leave the chat and log off."""
    alice, bob = site.client("alice"), site.client("bob")
    for number in (signal.SIGTERM, signal.SIGINT):
        site.chat(alice, "alice", bob, "bob")
        alice.signal(number)
        bob.until("alice left the chat")
        assert alice.finish(close=False) == 0
        alice = site.client("alice")


def test_users_come_and_go_while_the_server_runs(site: Site, tmp_path: Path) -> None:
    """`user add` and `user remove` of another process; and a new key of a user, whom the others must trust anew."""
    save(site.home, "dave", PrivateIdentity.generate("ed25519"))
    assert site.connect("dave").returncode == 4
    added = site.run("user", "add", "dave")
    assert added.returncode == 0
    assert added.stdout.startswith("added dave: Ed25519 ")
    dave, alice = site.client("dave"), site.client("alice")
    site.chat(alice, "alice", dave, "dave")
    alice.send("/verify confirm")
    alice.until("dave is verified")
    assert site.run("user", "remove", "dave").stdout == "removed dave\n"
    assert dave.until("error: ") == "error: this user was removed from the server, or has a new key there"
    assert dave.finish() == 5
    alice.until("dave disconnected")

    # A second machine: another home, another key, the same name.
    second = tmp_path / "second"
    save(Home(second), "dave", PrivateIdentity.generate("ed25519"))
    public = tmp_path / "dave.pem"
    public.write_text(run(second, "keys", "export", "dave").stdout)
    assert site.run("user", "add", "dave", str(public)).returncode == 0
    ca = tmp_path / "ca.pem"
    ca.write_text(site.run("ca", "show").stdout)
    dave = site.client("dave", "--ca", str(ca), home=second)
    alice.send("chat dave")
    dave.until("REQUEST TO CHAT FROM: <alice> ACCEPT?")
    dave.send("acpt")
    alice.until("KEY CHANGED for dave")
    old = alice.until("old safety number with dave:"), alice.until("  "), alice.until("  ")
    new = alice.until("new safety number with dave:"), alice.until("  "), alice.until("  ")
    dave.until("alice left the chat")
    (changed,) = {row.replace(" ", "") for row in new[1:]} - {row.replace(" ", "") for row in old[1:]}
    alice.send("trust dave 0000000000")
    alice.until("error: these are not the first 10 ")
    alice.send(f"trust dave {changed[:5]} {changed[5:10]}")
    assert alice.until("the new key") == "the new key of dave is trusted; not verified"
    site.chat(alice, "alice", dave, "dave")
    alice.send("/verify")
    alice.until("dave is not verified")
    assert alice.finish() == 0
    assert dave.finish() == 0
    # The CA was kept at the first login: it need not be named again.
    again = site.start("connect", "127.0.0.1", str(site.port), home=second)
    again.until("User Login Complete!")
    assert again.finish() == 0
    assert site.run("user", "remove", "dave").returncode == 0


@pytest.mark.parametrize("suite", ["hybrid", "swift", "classic"])
def test_keys_that_openssl_made(site: Site, tmp_path: Path, suite: str) -> None:
    """The report's own lines."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    private, public = tmp_path / "erinpriv.pem", tmp_path / "erinkey.pem"
    openssl("genrsa", "-aes256", "-passout", "pass:old-passphrase", "-out", str(private), "2048")
    openssl("rsa", "-in", str(private), "-passin", "pass:old-passphrase", "-pubout", "-out", str(public))
    home = tmp_path / "home"
    made = run(home, "keygen", "erin", "--import", str(private), MESSAGEAPP_PASSPHRASE="old-passphrase")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("erin: RSA-2048 ")
    assert f"delete it: shred -u {private}" in made.stderr
    added = site.run("user", "add", "erin", str(public))
    assert added.stdout == made.stdout.replace("erin: ", "added erin: ")
    assert run(home, "keys", "export", "erin").stdout == public.read_text()
    try:
        for options in ([], ["--hide-user"]):
            done = run(
                home,
                *("connect", "127.0.0.1", str(site.port), "--ca", str(site.home.ca_certificate), "--suite", suite),
                *options,
                stdin="status\n",
                MESSAGEAPP_PASSPHRASE="old-passphrase",
            )
            assert done.returncode == 0, done.stderr
            assert f"temporary key: {suite}, " in done.stdout
            assert "User Login Complete!\n" in done.stdout
    finally:
        assert site.run("user", "remove", "erin").returncode == 0


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=SECONDS)


def test_both_sides_of_the_network(site: Site, tmp_path: Path) -> None:
    """Without --host a server listens for IPv4 and IPv6 on one port; `localhost` and both addresses are its names."""
    with open_site(tmp_path, "alice", serving=False) as other:
        server = other.start("serve", "0", "--limit", "rsa_pool=1")
        lines = [server.until("listening on ")]
        if has_ipv6():
            lines.append(server.until("listening on "))
        ports = {line.rpartition(":")[2] for line in lines}
        assert len(ports) == 1
        assert lines[0].startswith("listening on 0.0.0.0:")
        hosts = ["127.0.0.1", "localhost"]
        if has_ipv6():
            assert lines[1].startswith("listening on [::]:")
            hosts += ["::1", "[::1]"]
        for host in hosts:
            done = other.run("connect", host, *ports, stdin="status\n")
            assert done.returncode == 0, done.stderr
            assert "\nalice@localhost · login " in done.stdout  # one name, so that safety numbers agree
        server.signal(signal.SIGTERM)
        assert server.finish(close=False) == 0


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    with open_site(tmp_path, "alice", "bob") as site:
        alice, bob = site.client("alice"), site.client("bob")
        site.chat(alice, "alice", bob, "bob")
        assert site.server is not None
        site.server.signal(number)
        assert site.server.finish(close=False) == 0
        for client in (alice, bob):
            assert client.until("error: ") == "error: the server is shutting down"
            assert client.finish(close=False) == 5
        # It starts again on the same home, with the same keys and users.
        site.serve(port=site.port)
        assert site.connect("alice").returncode == 0


def test_a_server_that_is_killed_in_a_chat(tmp_path: Path) -> None:
    with open_site(tmp_path, "alice", "bob") as site:
        alice, bob = site.client("alice"), site.client("bob")
        site.chat(alice, "alice", bob, "bob")
        assert site.server is not None
        site.server.kill()
        for client in (alice, bob):
            client.until("connection cut; the last messages may be missing")
            assert client.finish(close=False) == 5


def test_the_first_start_makes_what_is_missing(tmp_path: Path) -> None:
    """With real keys: RSA for the CA, the server and a user."""
    home = tmp_path / "home"
    server = Program(home, "serve", "0", "--host", "127.0.0.1", "--name", "chat.example", "--limit", "rsa_pool=1")
    try:
        port = server.until("listening on 127.0.0.1:").rpartition(":")[2]
        assert f"messageapp: made a certificate authority: {home}/ca/ca.pem" in server.err
        assert "messageapp: made a server certificate for chat.example, " in server.err
        assert run(home, "keygen", "alice").stdout.startswith("alice: RSA-3072 ")
        assert run(home, "user", "add", "alice").returncode == 0
        done = run(home, "connect", "127.0.0.1", port)
        assert done.returncode == 0
        assert "server certificate: subject CN=chat.example, issuer CN=MessageApp CA\n" in done.stdout
        server.signal(signal.SIGINT)
        assert server.finish(close=False) == 0
    finally:
        server.close()
    for path in home.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert {path.name for path in home.iterdir()} == {"ca", "server", "identities", "accounts"}


def test_lines_of_a_log(site: Site, tmp_path: Path) -> None:
    """With --log json each line of stderr is an object; with --trace, verbs and sizes."""
    with open_site(tmp_path, "alice", "bob", serving=False) as other:
        server = other.serve("--log", "json", "--trace", "--debug")
        alice, bob = other.client("alice"), other.client("bob")
        other.chat(alice, "alice", bob, "bob")
        alice.send(SECRETS[0])
        bob.until(f"<alice> {SECRETS[0]}")
        assert (alice.finish(), bob.finish()) == (0, 0)
        server.signal(signal.SIGTERM)
        assert server.finish(close=False) == 0
        entries = [json.loads(line) for line in server.err.splitlines()]
    assert all(set(entry) == {"time", "level", "logger", "message"} for entry in entries)
    messages = [entry["message"] for entry in entries]
    assert "#1 logged in (hybrid)" in messages or "#1 logged in (swift)" in messages
    assert any(re.fullmatch(r"frwd #1->#2 \d+ bytes", message) for message in messages)
    assert any(re.fullmatch(r"chat #1 \d+ bytes", message) for message in messages)
    assert "#1 closed" in messages


def test_the_log_tells_no_secret(site: Site) -> None:
    """After everything above: the whole log of the shared server, with --trace and --debug."""
    alice, bob = site.client("alice"), site.client("bob")
    site.chat(alice, "alice", bob, "bob")
    alice.send(SECRETS[0])
    bob.until(f"<alice> {SECRETS[0]}")
    session = next(line for line in alice.lines if line.startswith("session: ")).removeprefix("session: ")
    assert (alice.finish(), bob.finish()) == (0, 0)
    assert site.server is not None
    site.end_clients()
    log = site.server.err
    assert re.search(r"^messageapp: \S+Z frwd #\d+->#\d+ \d+ bytes$", log, re.MULTILINE)
    for secret in (*SECRETS, "alice", "bob", "carol", "dave", "erin", PASSPHRASE, session):
        assert secret not in log.lower()
    assert not re.search(r"[0-9a-f]{20}", log)  # nothing that looks like a key
    assert "error" not in log.lower()
