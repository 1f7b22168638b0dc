"""`messageapp passwd`, and one client at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from messageapp.store.accounts import unlock
from messageapp.store.home import Home, write_file
from messageapp.store.identities import find_identity, unseal
from messageapp.store.lock import locked_account
from messageapp_keys.databasekey import seal_database_key
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keystore import seal_identity
from support.commands import Command, hide_terminal
from support.processes import LIGHT, PASSPHRASE, Site, open_account, open_site, save

NEW = "another horse"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    save(found, "alice", PrivateIdentity.generate("ed25519"))
    open_account(found, "alice").close()
    return found


@pytest.mark.parametrize("how", ["variable", "file"])
def test_another_passphrase(command: Command, home: Home, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    given: list[str] = []
    if how == "variable":
        monkeypatch.setenv("MESSAGEAPP_NEW_PASSPHRASE", NEW)
    else:
        (home.path / "new").write_text(f"{NEW}\nthe second line\n")
        given = ["--new-passphrase-file", str(home.path / "new")]
    assert command("passwd", *given) == (0, "", "messageapp: alice: the passphrase is changed\n")
    unseal(find_identity(home, "alice"), NEW)
    open_account(home, "alice", NEW).close()
    assert command("passwd", *given) == (0, "", "messageapp: alice: the passphrase is changed\n")  # once more: finished
    monkeypatch.setenv("MESSAGEAPP_NEW_PASSPHRASE", "a third one")
    assert command("passwd") == (4, "", "messageapp: wrong passphrase for alice\n")
    open_account(home, "alice", NEW).close()


def test_no_way_to_ask_for_the_new_one(command: Command, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_terminal(monkeypatch)
    code, _, err = command("passwd")
    assert code == 2
    assert "use --new-passphrase-file FILE or $MESSAGEAPP_NEW_PASSPHRASE" in err
    open_account(home, "alice").close()


@pytest.mark.parametrize("finished", [True, False])
def test_a_wrong_old_one_is_told_before_a_new_one_is_asked_for(
    command: Command, home: Home, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """Where a change was cut short, the old one opens the database's key still."""
    asked: list[str] = []

    def ask(file: str | None, question: str) -> str:
        asked.append(question)
        return NEW

    monkeypatch.setattr("messageapp_cli.passwd.ask_new_passphrase", ask)
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", "wrong")
    assert command("passwd") == (4, "", "messageapp: wrong passphrase for alice\n")
    assert asked == []
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", PASSPHRASE)
    if not finished:
        identity, key = unlock(home, find_identity(home, "alice"), PASSPHRASE)
        write_file(home.account_key("alice"), seal_database_key(key, [PASSPHRASE, NEW], cost=LIGHT), replace=True)
        write_file(home.identity("alice"), seal_identity("alice", identity, NEW, cost=LIGHT), replace=True)
    assert command("passwd")[0] == 0
    assert asked == ["new passphrase for alice"]
    open_account(home, "alice", NEW).close()


def test_an_empty_new_one_is_refused(command: Command, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = home.path / "empty"
    empty.write_bytes(b"\n")
    assert command("passwd", "--new-passphrase-file", str(empty)) == (2, "", "messageapp: the passphrase is empty\n")
    monkeypatch.setenv("MESSAGEAPP_NEW_PASSPHRASE", "")
    assert command("passwd") == (2, "", "messageapp: the passphrase is empty\n")
    open_account(home, "alice").close()


def test_not_while_a_client_has_the_account(command: Command, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESSAGEAPP_NEW_PASSPHRASE", NEW)
    with locked_account(home, "alice"):
        code, _, err = command("passwd")
    assert (code, "alice is in use by another client of this home (process " in err) == (2, True)
    open_account(home, "alice").close()


def test_a_change_that_was_cut_short_is_told_of(command: Command, home: Home) -> None:
    _, key = unlock(home, find_identity(home, "alice"), PASSPHRASE)
    write_file(home.account_key("alice"), seal_database_key(key, [PASSPHRASE, NEW], cost=LIGHT), replace=True)
    _, _, err = command("log", "key", "127.0.0.1")
    assert err.startswith(
        "messageapp: a change of your passphrase is not finished; this finishes it: messageapp passwd\n"
    )


def test_a_new_key_under_the_new_passphrase_beside_the_old_one(command: Command, home: Home) -> None:
    """Cut short between the two: a change of key says what to do."""
    following = PrivateIdentity.generate("ed25519")
    write_file(home.next_identity("alice"), seal_identity("alice", following, NEW, cost=LIGHT))
    code, _, err = command("keys", "rotate", "127.0.0.1")
    assert (code, "this finishes it: messageapp passwd" in err) == (2, True)
    found = home.next_identity("alice").read_bytes()
    assert command("keys", "rotate", "127.0.0.1")[0] == 2
    assert home.next_identity("alice").read_bytes() == found


# processes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path / "site", "alice") as made:
        yield made


def test_a_second_client_of_the_same_account_is_refused(site: Site) -> None:
    """Also before the passphrase is asked for; the first goes on, and commands that log in for a moment do, too."""
    first = site.client("alice")
    refused = site.run("connect", "127.0.0.1", str(site.port), "--user", "alice", MESSAGEAPP_PASSPHRASE="wrong")
    said = f"alice is in use by another client of this home (process {first.process.pid}); leave that first"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", f"messageapp: {said}\n")
    assert site.run("log", "show", "alice", "--user", "alice").returncode == 0
    first.send("status")
    first.until("alice@")
    first.process.kill()
    first.process.wait()
    assert site.connect("alice", stdin="exit\n").returncode == 0  # the lock goes with its process


def test_the_next_login_takes_the_new_passphrase(site: Site) -> None:
    assert site.connect("alice", stdin="exit\n").returncode == 0
    assert site.run("passwd", MESSAGEAPP_NEW_PASSPHRASE=NEW).returncode == 0
    assert site.connect("alice", stdin="exit\n").returncode == 4
    done = site.run("connect", "127.0.0.1", str(site.port), stdin="exit\n", MESSAGEAPP_PASSPHRASE=NEW)
    assert done.returncode == 0
