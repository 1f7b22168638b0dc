"""`keys backup`, `keys restore`, `keygen --pq`: a machine is lost, the identity and its trust come back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from messageapp.store.backup import LEFT_OUT
from messageapp.store.database import apply_schemas, schemas
from messageapp.store.home import Home, write_file
from messageapp.store.identities import find_identity, save_next, unseal
from messageapp.store.trust import Pin, ServerPin, device_id, find_pin, find_server, save_pin, save_server
from messageapp_cli.repl import Repl
from messageapp_keys.backup import Backup, seal_backup
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.pem import export_public_pem, import_public_pem
from support import keys
from support.commands import Command
from support.processes import LIGHT, PASSPHRASE, open_account, open_site, run, save
from support.world import open_world, start_chat

DEVICE = b"the old machine!"
SERVER = ServerPin("chat.example", 8081, bytes(32), "chat.example", b"PEM", 5)


@pytest.fixture
def backup_file(tmp_path: Path) -> str:
    return str(tmp_path / "backup")


def make_account(home: Home) -> PrivateIdentity:
    """alice, who knows a server and has verified bob."""
    own = PrivateIdentity.generate("ed25519", post_quantum=True)
    save(home, "Alice", own)
    with closing(open_account(home, "alice")) as database:
        device_id(database, DEVICE)
        save_server(database, SERVER)
        save_pin(database, Pin("bob", "chat.example", keys.identity().bundle, True, 7))
    return own


def assert_restored(place: Home, own: PrivateIdentity, passphrase: str = PASSPHRASE) -> None:
    assert unseal(find_identity(place, "alice"), passphrase).pkcs8() == own.pkcs8()
    for path in (place.identity("alice"), place.account("alice"), place.account_key("alice")):
        assert path.stat().st_mode & 0o777 == 0o600
    with closing(open_account(place, "alice", passphrase)) as database:
        assert database.execute("SELECT count(*) FROM device").fetchone() == (0,)
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
    identity, account = home.identity("alice").read_bytes(), home.account("alice").read_bytes()
    assert command("keys", "restore", backup_file)[0] == 2
    assert (home.identity("alice").read_bytes(), home.account("alice").read_bytes()) == (identity, account)
    place = Home(tmp_path / "only an account")
    write_file(place.account("alice"), account)
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
    assert not place.account("alice").exists()
    assert not place.account_key("alice").exists()


def test_an_identity_without_an_account(command: Command, home: Home, tmp_path: Path, backup_file: str) -> None:
    save(home, "alice", PrivateIdentity.generate("ed25519"))
    assert command("keys", "backup", backup_file)[0] == 0
    place = Home(tmp_path / "other")
    code, _, err = command("keys", "restore", backup_file, "--home", str(place.path))
    assert (code, "it had none yet" in err) == (0, True)
    assert not place.account("alice").exists()
    assert not place.account_key("alice").exists()


def test_messages_come_back_and_what_is_of_one_machine_does_not(
    command: Command, home: Home, tmp_path: Path, backup_file: str
) -> None:
    """What waited there to be sent or opened is settled, so that it can be sent or asked for anew."""
    make_account(home)
    states = ("queued", "sent", "read", "received", "held", "unreadable")
    with closing(open_account(home, "alice")) as database:
        database.execute("INSERT INTO conversations (server, peer, name) VALUES ('chat.example', 'bob', 'Bob')")
        for state in states:
            database.execute(
                "INSERT INTO messages (conversation, id, own, text, written_ms, stored_ms, state, cause, changed_ms)"
                " VALUES (1, ?, 1, ?, 5, 6, ?, 'as it was', 7)",
                (state.encode(), f"about the mill, {state}", state),
            )
        for statement in (
            "INSERT INTO sessions VALUES ('s', 'bob', x'01', x'', x'02', x'03', 1, 1, 1, x'04')",
            "INSERT INTO prekeys VALUES ('s', 1, 1, x'05', x'06', 1, 2, 1)",
            "INSERT INTO starts VALUES ('s', x'07', 1)",
            "INSERT INTO outbox (server, peer, id, made_ms) VALUES ('s', 'bob', x'08', 1)",
            "INSERT INTO held (server, peer, id, blob, ms) VALUES ('s', 'bob', x'09', x'0a', 1)",
        ):
            database.execute(statement)
        for table in LEFT_OUT:
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)  # noqa: S608
    assert command("keys", "backup", backup_file)[0] == 0
    place = Home(tmp_path / "other")
    assert command("keys", "restore", backup_file, "--home", str(place.path))[0] == 0
    with closing(open_account(place, "alice")) as database:
        for table in LEFT_OUT:
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608
        told = database.execute("SELECT text, state, cause FROM messages ORDER BY number").fetchall()
        settled = {"queued": ("failed", "gave-up"), "held": ("unreadable", "cannot-ask")}
        assert told == [(f"about the mill, {state}", *settled.get(state, (state, "as it was"))) for state in states]
        found = database.execute("SELECT count(*) FROM words WHERE words MATCH 'mill'").fetchone()
        assert found == (len(states),)


def test_a_backup_from_before_messages_were_kept(command: Command, home: Home, backup_file: str) -> None:
    own = PrivateIdentity.generate("ed25519")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as older:
        apply_schemas(older, schemas("account")[:2])
        save_server(older, SERVER)
        account = older.serialize()
    Path(backup_file).write_bytes(seal_backup("alice", Backup(own, account), PASSPHRASE, cost=LIGHT))
    assert command("keys", "restore", backup_file)[0] == 0
    with closing(open_account(home, "alice")) as database:
        assert find_server(database, "chat.example", 8081) == SERVER


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
        second.until("alice@localhost · login ")
        first.send("status")
        first.until("alice@localhost · login ")  # it was not put off the server


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
            assert "chat with bob, hybrid, auth RSA-3072, " in own.toolbar()
            assert own.toolbar().endswith(" · login hybrid, auth hybrid")
            assert "chat with alice, hybrid, auth hybrid, " in other.toolbar()
            assert other.toolbar().endswith(" · login hybrid, auth RSA-3072")
