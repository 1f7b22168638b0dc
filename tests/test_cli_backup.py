"""`keys backup`, `keys restore`, `keygen --pq`: a machine is lost, the identity and its trust come back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from messageapp.store.database import open_database
from messageapp.store.home import Home, write_file
from messageapp.store.identities import find_identity, save_next, unseal
from messageapp.store.trust import Pin, ServerPin, device_id, find_pin, find_server, save_pin, save_server
from messageapp_cli.main import main
from messageapp_cli.repl import Repl
from messageapp_keys import backup as module
from messageapp_keys import keystore
from messageapp_keys.backup import Backup, seal_backup
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.pem import export_public_pem, import_public_pem
from support import keys
from support.processes import LIGHT, PASSPHRASE, open_site, run, save
from support.world import open_world, start_chat

Command = Callable[..., tuple[int, str, str]]
DEVICE = b"the old machine!"
SERVER = ServerPin("chat.example", 8081, bytes(32), "chat.example", b"PEM", 5)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def backup_file(tmp_path: Path) -> str:
    return str(tmp_path / "backup")


@pytest.fixture
def command(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a subcommand in this process: (exit code, stdout, stderr). Key stretching is light."""
    monkeypatch.setenv("MESSAGEAPP_HOME", str(home.path))
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", PASSPHRASE)
    seal, bound = keystore.seal_identity, seal_backup

    def light(user: str, identity: PrivateIdentity, passphrase: str) -> bytes:
        return seal(user, identity, passphrase, cost=LIGHT)

    monkeypatch.setattr("messageapp.store.identities.seal_identity", light)
    monkeypatch.setattr("messageapp.store.backup.seal_identity", light)
    monkeypatch.setattr(module, "seal_backup", lambda *given: bound(*given, cost=LIGHT))

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([*arguments])
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        assert "internal error" not in captured.err
        return caught.value.code, captured.out, captured.err

    return call


def make_account(home: Home) -> PrivateIdentity:
    """alice, who knows a server and has verified bob."""
    own = PrivateIdentity.generate("ed25519", post_quantum=True)
    save(home, "Alice", own)
    with closing(open_database(home.trust("alice"), "account")) as database:
        device_id(database, DEVICE)
        save_server(database, SERVER)
        save_pin(database, Pin("bob", "chat.example", keys.identity().bundle, True, 7))
    return own


def assert_restored(place: Home, own: PrivateIdentity, passphrase: str = PASSPHRASE) -> None:
    assert unseal(find_identity(place, "alice"), passphrase).pkcs8() == own.pkcs8()
    for path in (place.identity("alice"), place.trust("alice")):
        assert path.stat().st_mode & 0o777 == 0o600
    assert DEVICE not in place.trust("alice").read_bytes()
    with closing(open_database(place.trust("alice"), "account")) as database:
        assert find_server(database, "chat.example", 8081) == SERVER
        found = find_pin(database, "bob", "chat.example")
        assert found == Pin("bob", "chat.example", keys.identity().bundle, True, 7)
        assert device_id(database, b"the new machine!") == b"the new machine!"


def test_with_a_passphrase_of_its_own(command: Command, home: Home, tmp_path: Path, backup_file: str) -> None:
    own = make_account(home)
    (tmp_path / "p").write_text("of the backup\n")
    (tmp_path / "new").write_text("a new one\n")
    its = ("--backup-passphrase-file", str(tmp_path / "p"))
    assert command("keys", "backup", backup_file, *its) == (0, "", f"messageapp: Alice: sealed in {backup_file}\n")
    assert Path(backup_file).stat().st_mode & 0o777 == 0o600
    place = Home(tmp_path / "other")
    to = ("--home", str(place.path))
    refused = command("keys", "restore", backup_file, *to)
    assert refused == (4, "", "messageapp: the passphrase of the backup is wrong (or the file was changed)\n")
    assert not place.path.exists()
    code, out, _ = command("keys", "restore", backup_file, *its, *to, "--passphrase-file", str(tmp_path / "new"))
    assert code == 0
    assert out.startswith("Alice: Ed25519 + ML-DSA-65 ")
    assert_restored(place, own, "a new one")


def test_with_words(command: Command, home: Home, tmp_path: Path, backup_file: str) -> None:
    own = make_account(home)
    code, words, err = command("keys", "backup", backup_file, "--words")
    assert code == 0
    assert [line.split()[0] for line in words.splitlines()] == [str(number) for number in range(1, 25)]
    assert "shown this once" in err
    assert not any(word in err.split() for word in words.split()[1::2] if len(word) > 5)
    _, others, _ = command("keys", "backup", backup_file + "2", "--words")
    lines = words.splitlines()
    place = Home(tmp_path / "other")
    for text, said in (
        (others, "another backup"),
        ("\n".join([lines[1], lines[0], *lines[2:]]), "changed places"),
        ("\n".join(lines[:-1]), "these are 23"),
        ("pa55", "word 1 is not in the list"),
    ):
        (tmp_path / "words").write_text(text)
        code, out, err = command(
            "keys", "restore", backup_file, "--home", str(place.path), "--words-file", str(tmp_path / "words")
        )
        if said == "changed places" and "another backup" in err:
            continue  # one in 256 orders has the right checksum
        assert (code, out) == (4, "")
        assert said in err
        assert not place.path.exists()
    (tmp_path / "words").write_text(words)
    assert (
        command("keys", "restore", backup_file, "--home", str(place.path), "--words-file", str(tmp_path / "words"))[0]
        == 0
    )
    assert_restored(place, own)


def test_nothing_is_overwritten(command: Command, home: Home, tmp_path: Path, backup_file: str) -> None:
    make_account(home)
    assert command("keys", "backup", backup_file)[0] == 0
    before = Path(backup_file).read_bytes()
    code, _, err = command("keys", "backup", backup_file)
    assert (code, "it is not overwritten" in err) == (2, True)
    assert Path(backup_file).read_bytes() == before
    identity, account = home.identity("alice").read_bytes(), home.trust("alice").read_bytes()
    assert command("keys", "restore", backup_file)[0] == 2
    assert (home.identity("alice").read_bytes(), home.trust("alice").read_bytes()) == (identity, account)
    place = Home(tmp_path / "only an account")
    write_file(place.trust("alice"), account)
    code, _, err = command("keys", "restore", backup_file, "--home", str(place.path))
    assert (code, "there is an account Alice already" in err) == (2, True)
    assert not place.identity("alice").exists()


def test_an_identity_that_cannot_be_written_leaves_no_account(
    command: Command, home: Home, tmp_path: Path, backup_file: str
) -> None:
    make_account(home)
    command("keys", "backup", backup_file)
    place = Home(tmp_path / "other")
    place.path.mkdir()
    (place.path / "identities").write_text("a file in the way")
    assert command("keys", "restore", backup_file, "--home", str(place.path))[0] == 2
    assert not place.trust("alice").exists()


def test_an_identity_without_an_account(command: Command, home: Home, tmp_path: Path, backup_file: str) -> None:
    save(home, "alice", PrivateIdentity.generate("ed25519"))
    assert command("keys", "backup", backup_file)[0] == 0
    place = Home(tmp_path / "other")
    code, _, err = command("keys", "restore", backup_file, "--home", str(place.path))
    assert (code, "it had none yet" in err) == (0, True)
    assert not place.trust("alice").exists()


def test_not_in_the_middle_of_a_change_of_key(command: Command, home: Home, backup_file: str) -> None:
    make_account(home)
    save_next(home, "alice", PrivateIdentity.generate("ed25519"), PASSPHRASE)
    code, _, err = command("keys", "backup", backup_file)
    assert (code, "finish it first: messageapp keys rotate" in err) == (2, True)
    assert not Path(backup_file).exists()


def test_an_account_of_a_newer_version_or_none_at_all(command: Command, home: Home, backup_file: str) -> None:
    with closing(sqlite3.connect(":memory:")) as newer:
        newer.execute("PRAGMA user_version = 1000")
        newer.execute("CREATE TABLE t (a)")
        accounts = {b"garbage" * 999: "cannot be used", newer.serialize(): "newer MessageApp"}
    for account, said in accounts.items():
        data = seal_backup("alice", Backup(PrivateIdentity.generate("ed25519"), account), PASSPHRASE, cost=LIGHT)
        Path(backup_file).write_bytes(data)
        code, _, err = command("keys", "restore", backup_file)
        assert (code, said in err) == (2, True)
        assert not home.path.exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "cut", "flipped", "larger than any"])
def test_a_file_that_is_no_backup(command: Command, home: Home, backup_file: str, kind: str) -> None:
    path = Path(backup_file)
    whole = seal_backup("alice", Backup(PrivateIdentity.generate("ed25519")), PASSPHRASE, cost=LIGHT)
    if kind == "folder":
        path.mkdir()
    elif kind == "larger than any":
        with path.open("wb") as file:
            file.truncate(2**40)  # no room on the disk, and must have none in memory
    elif kind != "missing":
        path.write_bytes({"text": b"hello", "cut": whole[:-1], "flipped": whole[:-40] + b"x" + whole[-39:]}[kind])
    code, out, err = command("keys", "restore", backup_file)
    assert (code, out) == (2, "")
    assert backup_file in err
    assert {"cut": "cut short", "flipped": "damaged", "larger than any": "larger than any"}.get(kind, "") in err
    assert not home.path.exists()


def test_the_other_kind_of_secret(command: Command, home: Home, tmp_path: Path, backup_file: str) -> None:
    make_account(home)
    command("keys", "backup", backup_file)
    command("keys", "backup", backup_file + "w", "--words")
    file = str(tmp_path / "x")
    assert "with a passphrase, not" in command("keys", "restore", backup_file, "--words-file", file, "--home", file)[2]
    arguments = ("keys", "restore", backup_file + "w", "--backup-passphrase-file", file, "--home", file)
    assert "opens with 24 words" in command(*arguments)[2]
    both = ("keys", "backup", "b", "--words", "--backup-passphrase-file", file)
    assert "takes the place of a passphrase" in command(*both)[2]


def test_a_restored_home_works_at_once(tmp_path: Path) -> None:
    """On another machine, without --ca; and beside the old one, as a device of its own."""
    with open_site(tmp_path / "site", "alice") as site:
        assert site.connect("alice", stdin="exit\n").returncode == 0
        file = str(tmp_path / "backup")
        assert site.run("keys", "backup", file, "--user", "alice").returncode == 0
        other = tmp_path / "other"
        assert run(other, "keys", "restore", file).returncode == 0
        first = site.client("alice")
        second = site.client("alice", home=other)
        second.send("status")
        second.until("alice@localhost · login hybrid, auth Ed25519")
        first.send("status")
        first.until("alice@localhost · login hybrid, auth Ed25519")  # it was not put off the server


# keygen --pq ----------------------------------------------------------------------------------------------------------


def test_a_new_identity_with_two_keys_is_enrolled_from_two_keys_in_pem(
    command: Command, home: Home, tmp_path: Path
) -> None:
    code, out, _ = command("keygen", "alice", "--pq")
    assert code == 0
    assert out.startswith("alice: RSA-3072 + ML-DSA-65 ")
    pem = command("keys", "export", "alice")[1]
    assert pem.count("-----BEGIN PUBLIC KEY-----") == 2
    (tmp_path / "alice.pem").write_text(pem)
    assert command("user", "add", "alice", str(tmp_path / "alice.pem"))[0] == 0
    assert "RSA-3072 + ML-DSA-65" in command("user", "list")[1]
    assert command("keygen", "bob", "--pq", "--import", str(tmp_path / "alice.pem"))[0] == 2


async def test_two_keys_log_in_and_chat_with_one_and_the_screen_says_so() -> None:
    hybrid = PrivateIdentity.generate("ed25519", post_quantum=True)
    rsa = PrivateIdentity([keys.rsa_key("bob")])
    assert import_public_pem(export_public_pem(hybrid.bundle).encode()) == hybrid.bundle
    with trio.fail_after(60):
        async with (
            open_world() as world,
            world.client("alice", identity=hybrid) as alice,
            world.client("bob", identity=rsa) as bob,
        ):
            await start_chat(alice, bob)
            own, other = Repl(alice, plain=True), Repl(bob, plain=True)
            assert "login hybrid, auth hybrid · chat with bob, hybrid, auth RSA-3072, " in own.toolbar()
            assert "login hybrid, auth RSA-3072 · chat with alice, hybrid, auth hybrid, " in other.toolbar()
