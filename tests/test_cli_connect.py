"""`connect` until the first byte is sent: names, authorities, identities, passphrases. Nobody listens anywhere here."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from messageapp.errors import UnusableSetup
from messageapp.store.home import Home
from messageapp_cli.account import server_name
from messageapp_cli.connect import has_terminal
from messageapp_cli.main import main
from messageapp_keys.identity import PrivateIdentity
from support.commands import Command, hide_terminal
from support.processes import save, write_certificates


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    save(found, "alice", PrivateIdentity.generate("ed25519"))
    return found


@pytest.fixture
def port() -> Iterator[str]:
    """Taken, so that nobody else can listen on it, and nobody does."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield str(taken.getsockname()[1])


@pytest.fixture
def command(command: Command, port: str) -> Command:
    """`connect` to a port where nobody listens."""
    return partial(command, "connect", "127.0.0.1", port)


def test_nobody_listens(command: Command, home: Home, port: str) -> None:
    write_certificates(home)
    assert command() == (5, "", f"messageapp: nobody listens on 127.0.0.1:{port}\n")


def test_a_host_that_does_not_exist(command: Command, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    write_certificates(home)
    with pytest.raises(SystemExit) as caught:
        main(["connect", "no-such-host.invalid", "1"])
    assert caught.value.code == 5
    assert capsys.readouterr().err == "messageapp: there is no host named no-such-host.invalid\n"


def test_the_wrong_passphrase_is_known_before_a_byte_is_sent(
    command: Command, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_certificates(home)
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", "wrong")
    assert command() == (4, "", "messageapp: wrong passphrase for alice\n")


def test_no_way_to_ask_for_the_passphrase(command: Command, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write_certificates(home)
    monkeypatch.delenv("MESSAGEAPP_PASSPHRASE")
    hide_terminal(monkeypatch)
    code, _, err = command()
    assert code == 2
    assert "no terminal to ask for the passphrase; use --passphrase-file FILE or $MESSAGEAPP_PASSPHRASE" in err


def test_no_authority(command: Command, port: str) -> None:
    code, out, err = command()
    assert (code, out) == (2, "")
    assert f"no CA certificate for 127.0.0.1:{port}; " in err
    assert "--ca ca.pem" in err


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None]
)
def test_an_authority_that_cannot_be_used(command: Command, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    code, out, err = command("--ca", str(file))
    assert (code, out) == (2, "")
    assert "CA certificate cannot be used" in err or f"cannot read {file}" in err


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", None]
)
def test_a_revocation_list_that_cannot_be_used(
    command: Command, home: Home, tmp_path: Path, content: bytes | None
) -> None:
    """Never a login without the list that was asked for."""
    write_certificates(home)
    file = tmp_path / "list.crl"
    if content is not None:
        file.write_bytes(content)
    code, out, err = command("--crl", str(file))
    assert (code, out) == (2, "")
    assert str(file) in err


def test_which_identity(command: Command, home: Home) -> None:
    write_certificates(home)
    save(home, "bob", PrivateIdentity.generate("ed25519"))
    code, _, err = command()
    assert code == 2
    assert "there are several identities (alice, bob); choose one with --user NAME" in err
    assert command("--user", "BOB")[0] == 5
    code, _, err = command("--user", "carol")
    assert code == 2
    assert "there is no identity carol" in err


def test_no_identity_yet(command: Command, home: Home) -> None:
    home.identity("alice").unlink()
    code, _, err = command()
    assert code == 2
    assert f"there is no identity in {home.path} yet; make one: messageapp keygen NAME" in err


@pytest.mark.parametrize("damage", ["open", "cut", "garbage", "renamed"])
def test_a_key_file_that_cannot_be_used(command: Command, home: Home, damage: str) -> None:
    write_certificates(home)
    path = home.identity("alice")
    data = path.read_bytes()
    match damage:
        case "open":
            path.chmod(0o604)
        case "cut":
            path.write_bytes(data[:-1])
        case "garbage":
            path.write_bytes(os.urandom(200))
        case "renamed":
            path.rename(home.identity("mallory"))
    code, out, err = command(*(["--user", "mallory"] if damage == "renamed" else []))
    if damage == "renamed":  # the name is sealed with the key: the file's own does not count
        assert code == 5
    else:
        assert (code, out) == (2, "")
        assert str(path) in err


def test_a_key_file_with_one_byte_changed(command: Command, home: Home) -> None:
    write_certificates(home)
    path = home.identity("alice")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert command()[0] == 4  # not to be told from a wrong passphrase


def test_trust_that_is_damaged(command: Command, home: Home) -> None:
    write_certificates(home)
    assert command()[0] == 5  # there is a key now
    home.account("alice").unlink()
    for path in (home.trust("alice"), home.account("alice")):  # of before it was encrypted, and the encrypted one
        path.write_bytes(b"no database" * 1000)
        code, out, err = command()
        assert (code, out) == (2, "")
        assert str(path) in err
        assert path.read_bytes() == b"no database" * 1000


def test_a_lost_database_is_not_replaced_in_silence(command: Command, home: Home) -> None:
    write_certificates(home)
    assert command()[0] == 5
    home.account("alice").unlink()
    code, _, err = command()
    assert code == 5
    missing = f"messageapp: {home.account('alice')} is missing; begun anew: no messages, and nobody's key is known\n"
    assert missing in err
    assert missing not in command()[2]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("Chat.Example", "chat.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
    ],
)
def test_the_name_that_the_certificate_must_carry(host: str, name: str) -> None:
    assert server_name(host) == name


@pytest.mark.parametrize("host", ["", "a b", "a..b", "x" * 64, "\u2028"])
def test_no_name_of_a_host(host: str) -> None:
    with pytest.raises(UnusableSetup, match="is no name of a host"):
        server_name(host)


@pytest.mark.parametrize(
    ("stdin", "stdout", "term", "full"),
    [
        (True, True, "xterm", True),
        (False, True, "xterm", False),
        (True, False, "xterm", False),
        (True, True, "dumb", False),
        (True, True, "", False),
        (True, True, None, False),
    ],
)
def test_when_the_full_client_runs(
    monkeypatch: pytest.MonkeyPatch, stdin: bool, stdout: bool, term: str | None, full: bool
) -> None:
    class Stream(io.StringIO):
        def __init__(self, terminal: bool) -> None:
            super().__init__()
            self.terminal = terminal

        def isatty(self) -> bool:
            return self.terminal

    monkeypatch.setattr(sys, "stdin", Stream(stdin))
    monkeypatch.setattr(sys, "stdout", Stream(stdout))
    if term is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", term)
    assert has_terminal() is full
