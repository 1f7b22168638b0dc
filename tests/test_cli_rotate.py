"""`keys rotate`: a change of key at a running server, and every way in which it can stop on the way."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

import messageapp.client.keys
import messageapp.store.identities
import messageapp_cli.rotate
from messageapp.client.client import Client
from messageapp.client.login import log_in
from messageapp.clock import wall_ms
from messageapp.errors import ConnectionCut, RequestRefused, ServerGoodbye
from messageapp.store.database import open_database
from messageapp.store.home import Home
from messageapp.store.identities import find_identity, find_next, list_identities, unseal
from messageapp.store.keylog import LogStore
from messageapp.store.trust import ServerPin, find_server, save_server
from messageapp.store.users import add_user
from messageapp.wire.commands import ErrorCode
from messageapp.wire.login import LoggedIn
from messageapp_keys.fingerprint import key_fingerprint
from messageapp_keys.identity import PrivateIdentity
from support.commands import Command
from support.keys import rsa_key
from support.processes import PASSPHRASE, Site, open_account, open_site, save, write_certificates

UNFINISHED = "the change of the key is not finished"
UNCHANGED = "the key was not changed"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as opened:
        yield opened


@pytest.fixture
def home(site: Site) -> Home:
    return site.home


@pytest.fixture
def name(site: Site) -> Iterator[str]:
    """A user of the test's own."""
    chosen = f"u{len(list_identities(site.home))}"
    site.enrol(chosen)
    yield chosen
    site.end_clients()


def rotate(command: Command, site: Site, name: str, *options: str) -> tuple[int, str, str]:
    return command("keys", "rotate", "127.0.0.1", str(site.port), "--user", name, *options)


def own_line(identity: Any) -> str:
    return f"{identity.bundle.kind} {key_fingerprint(identity.bundle.key_id)}"


def logged_key_ids(site: Site, name: str) -> list[bytes]:
    with closing(open_database(site.home.directory, "server")) as database:
        return [leaf.key_id for _, leaf in LogStore(database).of_user(name)]


def changed(site: Site, name: str, old: Any) -> Any:
    """The identity of now, once it was changed exactly once and nothing is left over."""
    new = find_identity(site.home, name)
    assert logged_key_ids(site, name) == [old.bundle.key_id, new.bundle.key_id]
    assert unseal(new, PASSPHRASE).key_id == new.bundle.key_id
    assert [path.name for path in site.home.identity(name).parent.glob(f"*{name}.*")] == [f"{name}.key"]
    return new


def unchanged(site: Site, name: str, old: Any) -> None:
    assert find_identity(site.home, name).bundle == old.bundle
    assert find_next(site.home, name) is None
    assert logged_key_ids(site, name) == [old.bundle.key_id]


# as it should go ------------------------------------------------------------------------------------------------------


def test_a_peer_with_a_pin_follows(site: Site, name: str) -> None:
    """Whole programs: bob, who stays online, is told and chats on with the new key, unasked."""
    site.enrol("bob")
    bob, alice = site.client("bob"), site.client(name)
    site.chat(alice, name, bob, "bob")
    alice.send("/exit", "exitx")
    assert alice.finish(close=False) == 0
    old = find_identity(site.home, name)
    done = site.run("keys", "rotate", "--user", name)
    assert (done.returncode, done.stderr) == (0, "")
    new = changed(site, name, old)
    assert done.stdout.splitlines() == [
        f"old: {own_line(old)}",
        f"new: {own_line(new)}",
        "your peers follow without asking; whoever had verified you must compare again",
    ]
    assert new.user == name
    bob.until(f"{name} has a new key, signed by the old one; it is remembered from now on")
    alice = site.client(name)
    site.chat(alice, name, bob, "bob")
    alice.send("still me")
    bob.until(f"<{name}> still me")
    for program in (alice, bob):
        assert "KEY CHANGED" not in program.out
        assert "ALARM" not in program.out


def test_a_key_for_the_time_of_quantum_computers_and_after(command: Command, site: Site, name: str) -> None:
    old = find_identity(site.home, name)
    code, out, _ = rotate(command, site, name, "--pq")
    assert code == 0
    first = changed(site, name, old)
    assert first.bundle.kind == "Ed25519 + ML-DSA-65"
    assert f"new: {own_line(first)}\n" in out
    code, _, err = rotate(command, site, name)
    assert code == 0, err
    second = find_identity(site.home, name)
    assert second.bundle.kind == "Ed25519 + ML-DSA-65"
    assert logged_key_ids(site, name) == [each.bundle.key_id for each in (old, first, second)]
    assert site.connect(name, stdin="exitx\n").returncode == 0


def test_an_rsa_key_becomes_one_of_today() -> None:
    old = PrivateIdentity([rsa_key("imported", 2048)])
    assert messageapp_cli.rotate._successor(old, pq=False).bundle.kind == "RSA-3072"


def test_a_reply_that_is_lost(command: Command, site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may end the session before it answers: a login with the new key shows that it has it."""
    old = find_identity(site.home, name)
    change_key = messageapp.client.keys.change_key

    async def unheard(client: Client, new: PrivateIdentity) -> None:
        await change_key(client, new)
        raise ServerGoodbye("a new key", 5)

    monkeypatch.setattr(messageapp.client.keys, "change_key", unheard)
    code, _, err = rotate(command, site, name)
    assert code == 0, err
    assert UNFINISHED not in err
    changed(site, name, old)


# what changes nothing -------------------------------------------------------------------------------------------------


def test_a_wrong_passphrase(command: Command, site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = find_identity(site.home, name)
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", "another")
    code, out, err = rotate(command, site, name)
    assert (code, out, err) == (4, "", f"messageapp: wrong passphrase for {name}\n")
    unchanged(site, name, old)


def test_a_server_that_is_not_there(command: Command, site: Site, name: str) -> None:
    old = find_identity(site.home, name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, out, err = command("keys", "rotate", "127.0.0.1", str(free.getsockname()[1]), "--user", name)
    assert (code, out) == (5, "")
    assert UNCHANGED in err
    assert "nobody listens" in err
    unchanged(site, name, old)


def test_a_user_whom_the_server_does_not_know(command: Command, site: Site, name: str) -> None:
    site.home.identity(name).unlink()
    save(site.home, name, PrivateIdentity.generate("ed25519"))
    code, _, err = rotate(command, site, name)
    assert code == 4
    assert UNCHANGED in err
    assert find_next(site.home, name) is None


def test_a_server_without_a_key_log(command: Command, site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = find_identity(site.home, name)

    async def without_a_log(*args: Any) -> LoggedIn:
        info = await log_in(*args)
        assert info.welcome.checkpoint
        return replace(info, welcome=replace(info.welcome, checkpoint=b""))

    monkeypatch.setattr("messageapp.client.client.log_in", without_a_log)
    code, _, err = rotate(command, site, name)
    assert code == 5
    assert UNCHANGED in err
    assert "this server keeps no key log" in err
    unchanged(site, name, old)


@pytest.mark.parametrize(("reason", "kept"), [(ErrorCode.RATE, False), (ErrorCode.STORAGE, True)])
def test_a_server_that_refuses(
    command: Command, site: Site, name: str, monkeypatch: pytest.MonkeyPatch, reason: ErrorCode, kept: bool
) -> None:
    """What became of a write that failed, nobody knows: then the new key stays."""
    old = find_identity(site.home, name)

    async def refuse(client: Client, new: PrivateIdentity) -> None:
        raise RequestRefused(reason, "not today")

    with monkeypatch.context() as patch:
        patch.setattr(messageapp.client.keys, "change_key", refuse)
        _, out, err = rotate(command, site, name)
    assert out == ""
    assert "not today" in err
    assert (UNFINISHED if kept else UNCHANGED) in err
    if not kept:
        unchanged(site, name, old)
    code, _, err = rotate(command, site, name)
    assert code == 0, err
    changed(site, name, old)


def test_two_at_once(command: Command, site: Site, name: str) -> None:
    old = find_identity(site.home, name)
    folder = site.home.account_folder(name)
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        code, _, err = rotate(command, site, name)
    finally:
        os.close(handle)
    assert code == 2
    assert "is being changed by another process" in err
    unchanged(site, name, old)


# interrupted ----------------------------------------------------------------------------------------------------------


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """As if the program were killed there, or the connection cut: what comes after it does not happen."""
    change_key = messageapp.client.keys.change_key

    async def before_it_is_sent(client: Client, new: PrivateIdentity) -> None:
        raise ConnectionCut

    async def after_the_reply(client: Client, new: PrivateIdentity) -> None:
        await change_key(client, new)
        raise KeyboardInterrupt

    def not_renamed(home: Home, user: str) -> None:
        raise KeyboardInterrupt

    async def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    def kept(home: Home, user: str) -> None:
        """Whoever is killed takes nothing away."""

    match step:
        case "new key on disk":
            monkeypatch.setattr(messageapp_cli.rotate, "_change_everywhere", killed)
            monkeypatch.setattr(messageapp.store.identities, "drop_next", kept)
        case "before it is sent":
            monkeypatch.setattr(messageapp.client.keys, "change_key", before_it_is_sent)
        case "after the reply":
            monkeypatch.setattr(messageapp.client.keys, "change_key", after_the_reply)
        case "before the rename":
            monkeypatch.setattr(messageapp.store.identities, "take_next", not_renamed)


@pytest.mark.parametrize(
    ("step", "taken"),
    [
        ("new key on disk", False),
        ("before it is sent", False),
        ("after the reply", True),
        ("before the rename", True),
    ],
)
def test_what_was_interrupted_is_finished(
    command: Command, site: Site, name: str, monkeypatch: pytest.MonkeyPatch, step: str, taken: bool
) -> None:
    old = find_identity(site.home, name)
    with monkeypatch.context() as patch:
        fail_at(patch, step)
        code, out, err = rotate(command, site, name)
    assert code != 0
    assert out == ""
    assert (UNFINISHED in err) == (step != "new key on disk")
    begun = find_next(site.home, name)
    assert begun is not None
    assert site.home.next_identity(name).stat().st_mode & 0o777 == 0o600
    assert find_identity(site.home, name).bundle == old.bundle

    login = site.connect(name, stdin="exitx\n")
    hint = f"a change of the key of {name} was interrupted: messageapp keys rotate finishes it"
    assert (login.returncode, hint in login.stderr) == ((4, True) if taken else (0, False))

    code, out, err = rotate(command, site, name)
    assert code == 0
    assert "a change of the key was begun before; going on with its Ed25519 key" in err
    new = changed(site, name, old)
    assert new.bundle == begun.bundle
    assert out.startswith(f"old: {own_line(old)}\nnew: {own_line(new)}\n")
    assert site.connect(name, stdin="exitx\n").returncode == 0


def test_a_refused_login_says_nothing_of_a_change_that_is_none(site: Site, name: str) -> None:
    site.home.identity(name).unlink()
    save(site.home, name, PrivateIdentity.generate("ed25519"))
    login = site.connect(name)
    assert login.returncode == 4
    assert "rotate" not in login.stderr


def test_what_was_interrupted_stays_when_nobody_can_be_asked(
    command: Command, site: Site, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, "after the reply")
        rotate(command, site, name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, _, err = command("keys", "rotate", "127.0.0.1", str(free.getsockname()[1]), "--user", name)
    assert code == 5
    assert UNFINISHED in err
    assert find_next(site.home, name) is not None


# several servers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Another server, which calls itself otherwise."""
    with open_site(tmp_path_factory.mktemp("second"), serving=False) as opened:
        certificates = (opened.home.ca_certificate, opened.home.ca_key)
        for path in (*certificates, opened.home.server_certificate, opened.home.server_key):
            path.unlink()
        write_certificates(opened.home, names=("second.example", "127.0.0.1"))
        opened.serve()
        yield opened


@pytest.fixture
def both(site: Site, second: Site, name: str) -> str:
    """The user of the first server is enrolled at the second too, and has logged in to both."""
    second.tell_directory(add_user, name, find_identity(site.home, name).bundle, wall_ms())
    assert site.connect(name, stdin="exitx\n").returncode == 0
    options = ("--user", name, "--ca", str(second.home.ca_certificate))
    assert site.run("connect", "127.0.0.1", str(second.port), *options, stdin="exitx\n").returncode == 0
    return name


def test_one_of_two_servers_alone_is_refused(command: Command, site: Site, second: Site, both: str) -> None:
    old = find_identity(site.home, both)
    code, _, err = rotate(command, site, both)
    assert code == 2
    assert f"this account knows other servers (127.0.0.1:{second.port})" in err
    assert UNCHANGED in err
    unchanged(site, both, old)


def test_all_servers(command: Command, site: Site, second: Site, both: str) -> None:
    old = find_identity(site.home, both)
    code, _, err = command("keys", "rotate", "--user", both)
    assert code == 0, err
    new = changed(site, both, old)
    assert logged_key_ids(second, both) == [old.bundle.key_id, new.bundle.key_id]
    for each in (site, second):
        assert site.run("connect", "127.0.0.1", str(each.port), "--user", both, stdin="exitx\n").returncode == 0


def test_the_second_server_refuses_after_the_first_has_taken_it(
    command: Command, site: Site, second: Site, both: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = find_identity(site.home, both)
    change_key = messageapp.client.keys.change_key

    async def refuse(client: Client, new: PrivateIdentity) -> None:
        if client.server_name == "second.example":
            raise RequestRefused(ErrorCode.RATE, "not today")
        await change_key(client, new)

    with monkeypatch.context() as patch:
        patch.setattr(messageapp.client.keys, "change_key", refuse)
        _, out, err = command("keys", "rotate", "--user", both)
    assert out == ""
    assert UNFINISHED in err
    begun = find_next(site.home, both)
    assert begun is not None
    assert logged_key_ids(second, both) == [old.bundle.key_id]
    code, _, err = command("keys", "rotate", "--user", both)
    assert code == 0, err
    assert changed(site, both, old).bundle == begun.bundle
    assert logged_key_ids(second, both) == [old.bundle.key_id, begun.bundle.key_id]


def test_a_server_that_is_gone_for_good(command: Command, site: Site, name: str) -> None:
    assert site.connect(name, stdin="exitx\n").returncode == 0
    old = find_identity(site.home, name)
    with closing(open_account(site.home, name)) as database:
        pin = find_server(database, "127.0.0.1", site.port)
        assert pin is not None
        save_server(database, ServerPin("127.0.0.1", 9, bytes(32), "gone.example", pin.ca_pem, pin.first_ms + 1))
    code, _, err = command("keys", "rotate", "--user", name)
    assert code == 5
    assert UNCHANGED in err
    unchanged(site, name, old)
    code, _, err = command("keys", "rotate", "--user", name, "--only")
    assert (code, err) == (2, "messageapp: --only needs the server: messageapp keys rotate HOST PORT --only\n")
    code, _, err = rotate(command, site, name, "--only")
    assert code == 0, err
    changed(site, name, old)
