"""`messageapp log` as whole programs: a server, accounts, a monitor, witnesses, and a server that lies."""

from __future__ import annotations

import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from messageapp.clock import wall_ms
from messageapp.errors import UnusableSetup
from messageapp.store.database import open_database
from messageapp.store.keylog import LogStore
from messageapp.store.trust import ServerPin, save_server
from messageapp.store.users import reset_user, revoke_user, writing_users
from messageapp_cli.options import DEFAULT_PORT, chosen_server
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keylog import Leaf
from messageapp_keys.notes import COSIGNER, LogKey
from support.commands import called
from support.processes import PASSPHRASE, Program, Site, open_site
from support.tlog_reader import cosigned_at, read_export


def new_key() -> PrivateIdentity:
    return PrivateIdentity.generate("ed25519")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """alice has logged in before. Tests add to its log, and change nothing that is there."""
    with open_site(tmp_path_factory.mktemp("site"), "alice", "bob") as found:
        assert found.run("log", "verify", "127.0.0.1", str(found.port), "--user", "alice").returncode == 0
        yield found


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command of a home, in this process: a new one takes most of a second to come up."""

    def call(
        site: Site, *words: str, user: str = "alice", passphrase: str = PASSPHRASE, home: Path | None = None
    ) -> Done:
        monkeypatch.setenv("MESSAGEAPP_HOME", str(home or site.path))
        monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", passphrase)
        return Done(*called(capsys, "log", *words, "--user", user))

    return call


def stop(site: Site) -> None:
    assert site.server is not None
    site.server.signal(signal.SIGTERM)
    assert site.server.finish() == 0


# one look -------------------------------------------------------------------------------------------------------------


def test_verify_tells_what_was_verified(site: Site, run: Run) -> None:
    done = run(site, "verify")
    rows = [line.split(None, 1) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name, _ in rows] == ["log", "entries", "root", "log", "your", "result"]
    assert rows[0][1] == "localhost/msgapp-keys"
    assert "  alice  version 1  enrolled  " in rows[4][1]
    assert rows[5][1].startswith("verified: all entries are there")
    key = run(site, "key")
    assert rows[3][1] == f"key     {key.stdout.strip()}"


def test_every_change_of_a_key_is_shown(site: Site, run: Run) -> None:
    site.enrol("carol")
    site.tell_directory(reset_user, "carol", new_key().bundle, wall_ms())
    site.tell_directory(revoke_user, "carol", wall_ms())
    done = run(site, "show", "CAROL")
    assert done.returncode == 0
    kinds = [line.split("  ")[4] for line in done.stdout.splitlines()]
    assert kinds == ["enrolled", "reset by the administrator", "revoked by the administrator"]
    assert [line.split("  ")[2:4] for line in done.stdout.splitlines()] == [
        ["carol", f"version {version}"] for version in (1, 2, 3)
    ]


def test_a_change_that_nobody_signed_is_shown_and_is_an_error(site: Site, run: Run) -> None:
    site.enrol("dave")
    append(site, "dave")
    done = run(site, "show", "dave")
    assert done.returncode == 3
    assert "  version 2  changed, NOT SIGNED by the old key  " in done.stdout
    assert "about dave: the key before has not signed this change" in done.stderr


def append(site: Site, user: str) -> None:
    """An entry that no honest server writes."""

    def write(database: sqlite3.Connection) -> None:
        store = LogStore(database)
        with writing_users(database):
            store.append([Leaf.after(store.latest(user), wall_ms(), user, new_key().key_id).encode()])

    site.tell_directory(write)


def test_nobody_of_that_name(site: Site, run: Run) -> None:
    done = run(site, "show", "nobody")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "messageapp: the key log has no entry of nobody\n"


def test_an_export_is_read_by_others(site: Site, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "out"
    done = run(site, "export", str(folder))
    checkpoint, entries = read_export(folder)
    assert (done.returncode, done.stdout) == (0, f"wrote {checkpoint.size} entries to {folder}\n")
    assert checkpoint.origin == "localhost/msgapp-keys"
    assert [Leaf.parse_untrusted(entry).user for entry in entries[:2]] == ["alice", "bob"]
    site.enrol("erin")
    assert run(site, "export", str(folder)).returncode == 0
    assert len(read_export(folder)[1]) == len(entries) + 1
    file = folder / "tile/entries" / f"000.p/{checkpoint.size + 1}"
    file.write_bytes(file.read_bytes()[:-1])
    done = run(site, "export", str(folder))
    assert done.returncode == 3
    assert "the folder holds another history of this log" in done.stderr


def test_a_client_that_runs_beside_goes_on(site: Site, run: Run) -> None:
    """The command is another device: it does not end the user's session."""
    client = site.client("bob")
    assert run(site, "verify", user="bob").returncode == 0
    client.send("list")
    client.until("Online users:")
    client.send("exit")
    assert client.finish() == 0


# what cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["verify"], ["show", "bob"], ["export", "x"], ["monitor"], ["witness"]])
def test_what_a_login_needs(site: Site, words: list[str], run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        done = run(site, *words, "127.0.0.1", port)
        assert (done.returncode, done.stdout) == (5, "")
        assert done.stderr == f"messageapp: nobody listens on 127.0.0.1:{port}\n"
    done = run(site, *words, passphrase="wrong")
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "messageapp: wrong passphrase for alice\n")


@pytest.mark.parametrize("words", [["verify"], ["key"], ["policy"], ["accept"]])
def test_an_account_that_was_nowhere_yet(tmp_path: Path, site: Site, words: list[str], run: Run) -> None:
    home = tmp_path / "home"
    shutil.copytree(site.path / "identities", home / "identities")
    done = run(site, *words, home=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("messageapp: this account has not logged in anywhere yet; name the server: HOST PORT\n")
    if words != ["verify"]:
        done = run(site, *words, "example.org", home=home)
        assert done.returncode == 2
        assert f"this account has not logged in to example.org:{DEFAULT_PORT} yet" in done.stderr


def test_somebody_who_is_not_enrolled(site: Site, run: Run) -> None:
    site.enrol("mallory")
    site.remove("mallory")
    done = run(site, "verify", "127.0.0.1", str(site.port), user="mallory")
    assert (done.returncode, done.stdout) == (4, "")


def test_there_is_no_alarm(site: Site, run: Run) -> None:
    done = run(site, "accept")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "messageapp: there is no alarm about the key log of localhost\n"


def pinned(name: str, port: int, canonical: str, first_ms: int) -> ServerPin:
    return ServerPin(name, port, canonical.encode().ljust(32), canonical, b"", first_ms)


def test_which_server_is_meant(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "a.db", "account")) as database:
        with pytest.raises(UnusableSetup, match="has not logged in anywhere yet"):
            chosen_server(database, None, None)
        assert chosen_server(database, "h", 5) == ("h", 5)
        assert chosen_server(database, "h", None) == ("h", DEFAULT_PORT)
        save_server(database, pinned("one", 1, "one", 10))
        assert chosen_server(database, None, None) == ("one", 1)
        save_server(database, pinned("127.0.0.1", 2, "one", 30))
        save_server(database, pinned("other", 3, "one", 20))
        assert chosen_server(database, None, None) == ("127.0.0.1", 2)  # one server, the newest address
        assert chosen_server(database, "h", 5) == ("h", 5)
        save_server(database, pinned("two", 4, "two", 40))
        with pytest.raises(UnusableSetup, match=r"knows several servers .*one:1, .*two:4.*; name one: HOST PORT"):
            chosen_server(database, None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--needed", "1"], "1 of 0 witnesses can never be"),
        (["--needed", "2", "--witness", "VKEY", "--witness", "VKEY"], "2 of 1 witnesses can never be"),
        (["--witness", "VKEY"], "say how many of the witnesses are needed"),
        (["--needed", "1", "--witness", "nonsense"], "nonsense: a verifier key is name+hash+key"),
        (["--needed", "1", "--witness", "LOG"], "is not the key of a witness"),
        (["--needed", "17"], "17 is not in the range"),
    ],
)
def test_a_policy_that_cannot_be(site: Site, vkeys: dict[str, str], options: list[str], words: str, run: Run) -> None:
    done = run(site, "policy", *(vkeys.get(option, option) for option in options))
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert run(site, "policy").stdout == "localhost: 0 of 0 witnesses needed\n"


@pytest.fixture
def vkeys(site: Site, run: Run) -> dict[str, str]:
    log = run(site, "key").stdout.strip()
    return {"LOG": log, "VKEY": LogKey.generate().verifier("w", COSIGNER).encode()}


# a server that lies ---------------------------------------------------------------------------------------------------


def test_a_log_that_goes_backwards(tmp_path: Path, run: Run) -> None:
    with open_site(tmp_path, "alice") as site:
        stop(site)
        with closing(sqlite3.connect(site.home.directory)) as now_there, closing(sqlite3.connect(tmp_path / "b")) as to:
            now_there.backup(to)
        site.enrol("bob")
        site.serve(port=site.port)
        assert run(site, "verify", "127.0.0.1", str(site.port)).returncode == 0
        stop(site)
        for file in site.home.directory.parent.glob("directory.db*"):
            file.unlink()
        (tmp_path / "b").rename(site.home.directory)
        site.serve(port=site.port)
        done = run(site, "verify")
        assert (done.returncode, done.stdout) == (3, "")
        told = done.stderr.splitlines()
        assert "the server shows an older key log than before: 1 entries after 2" in told[-1]
        evidence = Path(told[0].rpartition(" are in ")[2])
        assert "what: the server shows an older key log than before" in evidence.read_text()
        again = run(site, "monitor")
        assert again.returncode == 3
        assert again.stdout.startswith("ALARM: ")
        assert "messageapp log accept" in again.stdout
        accepted = run(site, "accept")
        assert accepted.returncode == 0
        assert accepted.stdout.splitlines()[1] == "the log is forgotten; the next login takes the one that it is shown"
        assert evidence.exists()
        assert run(site, "verify").returncode == 0


def test_the_monitor_sees_new_entries_and_an_alarm(tmp_path: Path, run: Run) -> None:
    """An entry under one's own name that one did not make; it comes back after the server was away."""
    with open_site(tmp_path, "alice") as site:
        monitor = site.start("log", "monitor", "127.0.0.1", str(site.port), "--user", "alice")
        assert "  alice  version 1  enrolled  " in monitor.until("#0")
        site.enrol("bob")
        assert "  bob  version 1  enrolled  " in monitor.until("#1")
        stop(site)
        site.enrol("carol")
        site.serve(port=site.port)
        assert "  carol  version 1  enrolled  " in monitor.until("#2")
        append(site, "alice")
        assert monitor.until("ALARM: your name: #3  ")
        monitor.until("ALARM: the key log of this server is not to be trusted: own-key: ")
        assert monitor.finish(close=False) == 3
        assert "the server is shutting down; logging in again in 1 s" in monitor.err
        done = run(site, "verify")
        assert done.returncode == 3
        accepted = run(site, "accept")
        assert accepted.stdout.splitlines()[1] == "the log is kept"
        assert run(site, "verify").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_monitor(site: Site, number: signal.Signals) -> None:
    monitor = site.start("log", "monitor", "127.0.0.1", str(site.port), "--user", "bob")
    monitor.until_err(_watching)
    site.enrol(f"guest-{number}")
    monitor.until("#")
    monitor.signal(number)
    assert monitor.finish(close=False) == 0


def _watching(err: str) -> bool:
    return "watching the key log of localhost" in err


# witnesses ------------------------------------------------------------------------------------------------------------


def test_chats_wait_for_the_word_of_a_witness(tmp_path: Path, run: Run) -> None:
    """A witness by whom the server is not asked; then one whose word counts, which goes away and comes back."""
    with open_site(tmp_path, "alice", "bob", "eve") as site:
        port = str(site.port)
        witness = site.start("log", "witness", "127.0.0.1", port, "--user", "eve", "--name", "example.org/w1")
        vkey = witness.until("witness key ").split()[2]
        assert witness.finish(close=False) == 2
        assert f'its owner writes into server.toml: witnesses = ["{vkey}"]' in witness.err
        assert vkey.startswith("example.org/w1+")

        (site.path / "server.toml").write_text(f'witnesses = ["{vkey}"]\n')
        stop(site)
        site.serve(port=site.port)
        witness = site.start("log", "witness", "--user", "eve", "127.0.0.1", port)
        assert witness.until("witness key ").split()[2] == vkey
        assert "cosigned 3 entries  " in witness.until("cosigned ")
        assert run(site, "verify", "127.0.0.1", port).returncode == 0
        done = run(site, "policy", "--needed", "1", "--witness", vkey)
        assert (done.returncode, done.stdout) == (0, f"localhost: 1 of 1 witnesses needed\n{vkey}\n")
        assert "witnessed   3 of 3 entries" in run(site, "verify").stdout

        alice, bob = site.client("alice"), site.client("bob")
        site.chat(alice, "alice", bob, "bob")
        alice.send("/exit")
        bob.until("alice left the chat")

        witness.signal(signal.SIGINT)
        assert witness.finish(close=False) == 0
        site.enrol("carol")
        carol = site.client("carol")
        call(alice, carol)
        alice.until("error: no chat with carol: the witnesses that you ask for have not confirmed the key of carol yet")
        witness = site.start("log", "witness", "--user", "eve")
        assert "cosigned 4 entries  " in witness.until("cosigned ")
        site.chat(alice, "alice", carol, "carol")

        out = tmp_path / "out"
        assert run(site, "export", str(out)).returncode == 0
        assert len(cosigned_at(read_export(out)[0], vkey)) == 1


def call(alice: Program, carol: Program) -> None:
    alice.send("chat carol")
    carol.until("REQUEST TO CHAT FROM: <alice> ACCEPT?")
    carol.send("acpt")


def test_a_witness_never_cosigns_another_history(tmp_path: Path, run: Run) -> None:
    """Its user has even accepted that."""
    with open_site(tmp_path, "alice", "eve") as site:
        port = str(site.port)
        witness = site.start("log", "witness", "127.0.0.1", port, "--user", "eve")
        vkey = witness.until("witness key ").split()[2]
        assert vkey.startswith("localhost/witness/eve+")
        witness.finish(close=False)
        stop(site)
        (site.path / "server.toml").write_text(f'witnesses = ["{vkey}"]\n')
        shutil.copytree(site.path / "server", tmp_path / "before")
        site.enrol("bob")
        site.serve(port=site.port)
        witness = site.start("log", "witness", "--user", "eve")
        witness.until("cosigned 3 entries")
        stop(site)
        shutil.rmtree(site.path / "server")
        (tmp_path / "before").rename(site.path / "server")
        site.enrol("mallory")
        site.serve(port=site.port)
        assert witness.finish(close=False) == 3
        assert "the server has signed two key logs that do not agree" in witness.err
        assert run(site, "accept", user="eve").returncode == 0
        again = run(site, "witness", user="eve")
        assert again.returncode == 3
        assert "3 entries do not continue the 3 that were cosigned" in again.stderr
        assert "both checkpoints, as the server signed them, are in " in again.stderr
        assert "cosigned" not in again.stdout
