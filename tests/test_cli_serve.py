"""`serve`: settings and limits refused in words, ports that cannot be had; the rest is in e2e."""

from __future__ import annotations

import errno
import socket
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from messageapp.limits import Limits, limit_rows
from messageapp.server.setup import load_authority, prepare_server
from messageapp.store.home import Home
from messageapp_cli import serve as subject
from messageapp_keys.certificate import verify_chain_untrusted
from support.commands import Command
from support.processes import write_certificates


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    write_certificates(found)
    return found


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`serve`."""
    # The lines of a log would go to this test's own stderr.
    monkeypatch.setattr("messageapp_cli.logs.start_logging", lambda *args, **kwargs: None)
    # What ought to be refused would otherwise run until it is told to end.
    monkeypatch.setattr("messageapp.server.serve.Server.serve", None)
    return partial(command, "serve")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """With what the server would have been started."""
    found: list[tuple[object, ...]] = []

    async def record(*arguments: object) -> None:
        found.append(arguments)

    monkeypatch.setattr(subject, "_serve", record)
    return found


SETTINGS = """
port = 4321
host = "::1"
names = ["chat.example"]
classic = false
witnesses = ["w.example+…"]
[limits]
sessions = 10
ring_seconds = 30
"""


def test_the_defaults(command: Command, home: Home, served: list[tuple[object, ...]]) -> None:
    assert command() == (0, "", "")
    assert served == [(home, None, 8081, [], Limits(), True, [], False)]


def test_settings_that_stay(command: Command, home: Home, served: list[tuple[object, ...]]) -> None:
    home.server_settings.write_text(SETTINGS)
    assert command() == (0, "", "")
    limits = Limits.from_mapping({"sessions": 10, "ring_seconds": 30})
    assert served == [(home, "::1", 4321, ["chat.example"], limits, False, ["w.example+…"], False)]


def test_the_command_line_goes_before_the_settings(
    command: Command, home: Home, served: list[tuple[object, ...]]
) -> None:
    home.server_settings.write_text(SETTINGS)
    options = (
        "--host",
        "127.0.0.1",
        "--name",
        "b.example",
        "--limit",
        "sessions=20",
        "--limit",
        "ring_seconds=1.5",
        "--pq",
    )
    assert command("0", *options) == (0, "", "")
    limits = Limits.from_mapping({"sessions": 20, "ring_seconds": 1.5})
    assert served == [(home, "127.0.0.1", 0, ["chat.example", "b.example"], limits, False, ["w.example+…"], True)]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("port = ", "server.toml: "),
        ("\xff", "server.toml: "),
        ("[[[", "server.toml: "),
        ("prot = 1", "there is no setting prot; the settings are port, host, names, classic, limits"),
        ('port = "80"', "port is of the wrong kind"),
        ("port = true", "port is of the wrong kind"),
        ("port = 70000", "port"),
        ("port = -1", "port"),
        ("host = 1", "host is of the wrong kind"),
        ('names = "chat.example"', "names is of the wrong kind"),
        ("names = [1, 2]", "names"),
        ('port = 0\nnames = ["not a name"]', "not a name is neither a DNS name nor an IP address"),
        ("classic = 1", "classic is of the wrong kind"),
        ("limits = 5", "limits is of the wrong kind"),
        ('witnesses = "w+1+a"', "witnesses is of the wrong kind"),
        ("witnesses = [1]", "witnesses are texts in quotes"),
        ('port = 0\nwitnesses = ["w"]', "the witness 'w': a verifier key is name+hash+key"),
        ("[limits]\nsesions = 5", "there is no limit sesions; the limits are handshakes, "),
        ('[limits]\nsessions = "5"', "the limit sessions is a number above 0"),
        ("[limits]\nsessions = 0", "the limit sessions is a number above 0"),
        ("[limits]\nsessions = -3", "the limit sessions is a number above 0"),
        ("[limits]\nring_seconds = nan", "the limit ring_seconds is a number above 0"),
        ("[limits]\nsessions = inf", "the limit sessions is a number above 0"),
        ("[limits]\nsessions = 0.5", "the limit sessions is a whole number"),
    ],
)
def test_settings_that_cannot_be(command: Command, home: Home, settings: str, complaint: str) -> None:
    home.server_settings.write_bytes(settings.encode("latin-1"))
    code, out, err = command("--limit", "rsa_pool=1")
    assert (code, out) == (2, "")
    assert complaint in err


@pytest.mark.parametrize(
    "limit", ["sesions=5", "sessions=0", "sessions=-1", "=5", "sessions", "sessions=", "sessions=x"]
)
def test_limits_that_cannot_be(command: Command, limit: str, served: list[tuple[object, ...]]) -> None:
    code, out, err = command("--limit", limit)
    assert (code, out) == (2, "")
    assert "limit" in err
    assert served == []


def test_every_limit_can_be_set(command: Command, served: list[tuple[object, ...]]) -> None:
    options = [part for name, *_ in limit_rows() for part in ("--limit", f"{name}=7")]
    assert command(*options) == (0, "", "")
    limits = served[0][4]
    assert all(getattr(limits, name) == 7 for name, *_ in limit_rows())


def test_a_port_that_is_in_use(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command(str(port), "--host", "127.0.0.1") == (
            2,
            "",
            f"messageapp: 127.0.0.1:{port} is in use by another program; choose another port, or 0 for a free one\n",
        )
        code, _, err = command(str(port))
        assert code == 2
        assert f"port {port} is in use" in err


def test_a_host_that_is_not_ours(command: Command) -> None:
    code, _, err = command("0", "--host", "192.0.2.1")
    assert code == 2
    assert err == "messageapp: 192.0.2.1 is no address of this machine\n"


def test_a_host_that_does_not_exist(command: Command) -> None:
    code, _, err = command("0", "--host", "no such host")
    assert code == 2
    assert err == "messageapp: there is no host named no such host\n"


def test_reasons_for_not_listening() -> None:
    why = subject._why_not_listening
    assert "choose a port above 1023" in why(OSError(errno.EACCES, "x"), None, 80)
    assert (
        why(OSError(errno.EMFILE, "Too many open files"), None, 80) == "cannot listen on port 80: too many open files"
    )


@pytest.mark.parametrize("name", ["with space", "a" * 254, "-x", "under_score", "1.2.3.4.5.", ""])
def test_a_name_that_no_certificate_can_carry(command: Command, name: str) -> None:
    code, _, err = command("0", "--host", "127.0.0.1", "--name", name)
    assert code == 2
    assert "is neither a DNS name nor an IP address" in err


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("ca_certificate", "garbage"),
        ("ca_key", "garbage"),
        ("server_certificate", "garbage"),
        ("server_key", "garbage"),
        ("ca_key", "open to all"),
        ("server_key", "open to all"),
        ("ca_key", "missing"),
        ("server_key", "missing"),
    ],
)
def test_a_home_that_is_damaged(command: Command, home: Home, file: str, damage: str) -> None:
    path: Path = getattr(home, file)
    if damage == "open to all":
        path.chmod(0o640)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"garbage")
    # A name that is new makes the server use the CA's key.
    code, out, err = command("0", "--host", "127.0.0.1", "--name", "new.example")
    assert (code, out) == (2, "")
    assert str(path) in err


@pytest.mark.parametrize("left", ["ca_key", "ca_key and ca_certificate", "ca_key and ca_certificate and server_key"])
def test_a_first_start_that_was_interrupted_is_finished(home: Home, left: str) -> None:
    """Each file is whole or not there: what is there is kept, the rest is made."""
    files = ("ca_key", "ca_certificate", "server_key", "server_certificate")
    kept = {name: getattr(home, name).read_bytes() for name in files if name in left.split(" and ")}
    for name in files:
        if name not in kept:
            getattr(home, name).unlink()
    offer, told = prepare_server(home, [], datetime.now(UTC))
    assert told
    assert {name: getattr(home, name).read_bytes() for name in kept} == kept
    verify_chain_untrusted(list(offer.chain), load_authority(home), "127.0.0.1", datetime.now(UTC))
    again, told = prepare_server(home, [], datetime.now(UTC))
    assert (again.chain, again.leaf_spki_hash, told) == (offer.chain, offer.leaf_spki_hash, [])


@pytest.mark.parametrize("first", [True, False])
def test_names_are_in_lower_case_in_the_certificate(home: Home, first: bool) -> None:
    """Else the server would not be the one that a client asks for, who folds what was typed."""
    if first:
        home.server_certificate.unlink()
    offer, told = prepare_server(home, ["Chat.Example.ORG"], datetime.now(UTC))
    assert told
    assert "chat.example.org" in offer.names
    assert all(name == name.lower() for name in offer.names)
    assert prepare_server(home, ["CHAT.example.org"], datetime.now(UTC))[1] == []


def test_a_certificate_that_belongs_to_another_key(command: Command, home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    write_certificates(other)
    home.server_key.write_bytes(other.server_key.read_bytes())
    code, out, err = command("0", "--host", "127.0.0.1")
    assert (code, out) == (2, "")
    assert str(home.server_key) in err
