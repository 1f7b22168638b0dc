"""An account and its passphrase: the key of its database, the old file that is moved in, a change that is cut short."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from messageapp.errors import LoginRefused, UnusableSetup
from messageapp.store import accounts as module
from messageapp.store import home as files
from messageapp.store import sealed
from messageapp.store.accounts import change_passphrase, find_database_key, open_account_database, unlock
from messageapp.store.database import apply_schemas, bring_up_to_date, schemas
from messageapp.store.home import Home
from messageapp.store.identities import find_identity, find_next, unseal
from messageapp.store.lock import locked_account
from messageapp.store.sealed import copy_rows
from messageapp.store.trust import Pin, ServerPin, device_id, find_pin, find_server, save_pin, save_server
from messageapp_keys.databasekey import seal_database_key
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keystore import seal_identity
from support import keys
from support.processes import LIGHT, PASSPHRASE, ROOT, open_account, save

OLD, NEW = PASSPHRASE, "another horse"
DEVICE = b"this very device"
PIN = Pin("bob", "chat.example", keys.identity().bundle, True, 7)
SERVER = ServerPin("chat.example", 8081, bytes(32), "chat.example", b"PEM", 5)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    save(found, "alice", PrivateIdentity.generate("ed25519"))
    return found


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "seal_identity", partial(seal_identity, cost=LIGHT))
    monkeypatch.setattr(module, "seal_database_key", lambda key, of, cost=LIGHT: seal_database_key(key, of, cost=LIGHT))


def opens(home: Home, passphrase: str) -> bool:
    """Whether the passphrase opens all that there is; it is all or nothing."""
    try:
        sealed_identity = find_identity(home, "alice")
        _, key = unlock(home, sealed_identity, passphrase)
    except LoginRefused:
        return False
    with closing(open_account_database(home, "alice", key)) as database:
        return device_id(database, bytes(16)) == DEVICE


# the key --------------------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_as_hard_to_guess_as_the_identity(home: Home) -> None:
    made = unlock(home, find_identity(home, "alice"), OLD)[1]
    found = find_database_key(home, "alice")
    assert found is not None
    assert [wrap.cost for wrap in found.wraps] == [LIGHT]
    assert home.account_key("alice").stat().st_mode & 0o777 == 0o600
    assert unlock(home, find_identity(home, "alice"), OLD)[1] == made


def test_a_wrong_passphrase_makes_nothing_and_says_so(home: Home) -> None:
    for _ in range(2):  # before there is a key, and when there is one
        before = sorted(home.path.rglob("*"))
        with pytest.raises(LoginRefused, match="wrong passphrase for alice"):
            unlock(home, find_identity(home, "alice"), "wrong")
        assert sorted(home.path.rglob("*")) == before
        unlock(home, find_identity(home, "alice"), OLD)


def test_a_key_of_another_passphrase_than_the_identity(home: Home) -> None:
    open_account(home, "alice").close()
    home.identity("alice").unlink()
    home.identity("alice").touch(0o600)
    home.identity("alice").write_bytes(seal_identity("alice", PrivateIdentity.generate("ed25519"), NEW, cost=LIGHT))
    before = home.account_key("alice").read_bytes()
    with pytest.raises(UnusableSetup, match=r"account\.key has another passphrase than the identity alice"):
        unlock(home, find_identity(home, "alice"), NEW)
    assert home.account_key("alice").read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "cut", "readable by others"])
def test_a_key_file_that_cannot_be_used_is_never_replaced(home: Home, damage: str) -> None:
    open_account(home, "alice").close()
    path = home.account_key("alice")
    whole, account = path.read_bytes(), home.account("alice").read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "readable by others":
            path.chmod(0o640)
        case _:
            path.write_bytes({"empty": b"", "garbage": os.urandom(200), "cut": whole[:-1]}[damage])
    for _ in range(2):
        with pytest.raises(UnusableSetup, match=r"account\.key"):
            unlock(home, find_identity(home, "alice"), OLD)
    assert home.account("alice").read_bytes() == account
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(whole)
    open_account(home, "alice").close()


# what was there before ------------------------------------------------------------------------------------------------


def write_trust(home: Home, version: int = 2) -> Path:
    """`trust.db` as it was written before it was encrypted, with what a client that was killed left in its log."""
    path = home.trust("alice")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        apply_schemas(database, schemas("account")[:2])
        device_id(database, DEVICE)
        save_pin(database, PIN)
        save_server(database, SERVER)
        if version == 1:
            for name in ("logs", "log_leaves", "log_tiles", "own_keys", "log_policy", "witnesses", "cosigned"):
                database.execute(f"DROP TABLE {name}")
            database.execute("ALTER TABLE pins DROP COLUMN how")
            database.execute("ALTER TABLE servers DROP COLUMN crl")
            database.execute("PRAGMA user_version = 1")
        copied = {end: Path(f"{path}{end}").read_bytes() for end in ("", "-wal", "-shm")}
    for end, data in copied.items():  # closing has moved the log into the file
        Path(f"{path}{end}").write_bytes(data)
    path.with_name("trust.before-2.db").write_bytes(b"a copy from an upgrade of then")
    return path


def moved_in(home: Home) -> None:
    with closing(open_account(home, "alice")) as database:
        assert device_id(database, bytes(16)) == DEVICE
        assert find_pin(database, "bob", "chat.example") == PIN
        assert find_server(database, "chat.example", 8081) == SERVER
        assert database.execute("PRAGMA user_version").fetchone() == (len(schemas("account")),)
    names = {entry.name for entry in home.account_folder("alice").iterdir()}
    assert names == {"account.db", "account.key"}
    for file in home.account_folder("alice").iterdir():
        assert b"chat.example" not in file.read_bytes()


@pytest.mark.parametrize("version", [1, 2])
def test_an_account_in_the_open_is_moved_in_and_then_gone(home: Home, version: int) -> None:
    assert b"chat.example" in b"".join(
        file.read_bytes() for file in write_trust(home, version).parent.iterdir() if file.is_file()
    )
    moved_in(home)
    moved_in(home)


class Killed(BaseException):
    """What takes the place of kill -9: nothing may catch it and tidy up."""


STEPS = ("open", "link", "unlink", "fsync", "replace")


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> bool:
    """Do `act`, but come no further than before the `step`-th change of the file system; whether it came so far."""
    left = step

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        patch.setattr(module, "copy_rows", counted(copy_rows))
        patch.setattr(sealed, "bring_up_to_date", counted(bring_up_to_date))
        try:
            act()
        except Killed:
            return False
    return True


def test_a_move_that_is_cut_short_anywhere_loses_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_trust(home)
    backup = path.parent.with_name("as it was")
    shutil.copytree(path.parent, backup)
    steps = 0
    while not killed_at(monkeypatch, steps, lambda: open_account(home, "alice").close()):
        assert home.trust("alice").exists() or home.account("alice").exists()
        for left in home.account_folder("alice").glob(".*"):  # nobody tidies up after kill -9; it may stay, encrypted
            assert b"chat.example" not in left.read_bytes()
            left.unlink()
        moved_in(home)
        shutil.rmtree(path.parent)
        shutil.copytree(backup, path.parent)
        steps += 1
    assert steps > 10
    moved_in(home)


@pytest.mark.parametrize("damage", ["garbage", "cut", "newer"])
def test_an_account_in_the_open_that_cannot_be_used_stays(home: Home, damage: str) -> None:
    path = write_trust(home)
    with closing(sqlite3.connect(path)) as database:  # closing moves the log in
        database.execute(f"PRAGMA user_version = {99 if damage == 'newer' else 2}")
    if damage != "newer":
        path.write_bytes({"garbage": b"no database" * 900, "cut": path.read_bytes()[:-4096]}[damage])
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(UnusableSetup, match="newer MessageApp" if damage == "newer" else r"cannot use .*trust\.db"):
            open_account(home, "alice")
    assert path.read_bytes() == before
    assert not home.account("alice").exists()


# another passphrase ---------------------------------------------------------------------------------------------------


def with_account(home: Home) -> None:
    with closing(open_account(home, "alice")) as database:
        device_id(database, DEVICE)


@pytest.mark.parametrize("account", [True, False])
def test_the_new_passphrase_opens_everything_and_the_old_one_nothing(home: Home, account: bool) -> None:
    if account:
        with_account(home)
    own = unseal(find_identity(home, "alice"), OLD)
    change_passphrase(home, "alice", OLD, NEW)
    assert unseal(find_identity(home, "alice"), NEW).pkcs8() == own.pkcs8()
    with pytest.raises(LoginRefused):
        unseal(find_identity(home, "alice"), OLD)
    assert home.account_key("alice").exists() is account
    if account:
        assert (opens(home, OLD), opens(home, NEW)) == (False, True)
        found = find_database_key(home, "alice")
        assert found is not None
        assert not found.changing


def test_also_the_key_that_is_being_made_known(home: Home) -> None:
    with_account(home)
    following = PrivateIdentity.generate("ed25519")
    files.write_file(home.next_identity("alice"), seal_identity("alice", following, OLD, cost=LIGHT))
    change_passphrase(home, "alice", OLD, NEW)
    found = find_next(home, "alice")
    assert found is not None
    assert unseal(found, NEW).pkcs8() == following.pkcs8()


def test_a_wrong_passphrase_changes_nothing(home: Home) -> None:
    with_account(home)
    before = {path: path.read_bytes() for path in (home.identity("alice"), home.account_key("alice"))}
    with pytest.raises(LoginRefused, match="wrong passphrase for alice"):
        change_passphrase(home, "alice", "wrong", NEW)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("rotating", [False, True])
def test_a_change_that_is_cut_short_anywhere(home: Home, monkeypatch: pytest.MonkeyPatch, rotating: bool) -> None:
    """One of the two passphrases opens identity and database, and doing the same again finishes it."""
    with_account(home)
    following = PrivateIdentity.generate("ed25519")
    if rotating:
        files.write_file(home.next_identity("alice"), seal_identity("alice", following, OLD, cost=LIGHT))
    backup = home.path.with_name("as it was")
    shutil.copytree(home.path, backup)
    steps, seen = 0, set()
    while not killed_at(monkeypatch, steps, lambda: change_passphrase(home, "alice", OLD, NEW)):
        which = (opens(home, OLD), opens(home, NEW))
        assert which in {(True, False), (False, True)}
        seen.add(which)
        change_passphrase(home, "alice", OLD, NEW)
        assert (opens(home, OLD), opens(home, NEW)) == (False, True)
        if rotating:
            found = find_next(home, "alice")
            assert found is not None
            assert unseal(found, NEW).pkcs8() == following.pkcs8()
        shutil.rmtree(home.path)
        shutil.copytree(backup, home.path)
        steps += 1
    assert seen == {(True, False), (False, True)}
    assert (opens(home, OLD), opens(home, NEW)) == (False, True)


# one client -----------------------------------------------------------------------------------------------------------


def test_a_second_client_is_refused_with_the_process_that_has_it(home: Home) -> None:
    script = (
        "import sys, pathlib\n"
        "from messageapp.store.home import Home\n"
        "from messageapp.store.lock import locked_account\n"
        "with locked_account(Home(pathlib.Path(sys.argv[1])), 'Alice'): print('has it', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'keys'}"}
    command = [sys.executable, "-c", script, str(home.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"has it\n"
        said = f"alice is in use by another client of this home (process {other.pid}); leave that first"
        for _ in range(2):
            with pytest.raises(UnusableSetup) as refused, locked_account(home, "alice"):
                pass
            assert str(refused.value) == said
        with pytest.raises(UnusableSetup, match="in use"):
            change_passphrase(home, "alice", OLD, NEW)
        with locked_account(home, "bob"):  # another account
            pass
        other.kill()  # however it ends
        other.wait()
    with locked_account(home, "alice"):
        pass
    assert (home.account_folder("alice") / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\x1b[31m\n", b"x" * 9000])
def test_a_lock_that_says_no_process(home: Home, content: bytes) -> None:
    with locked_account(home, "alice"):
        (home.account_folder("alice") / "lock").write_bytes(content)
        with pytest.raises(UnusableSetup) as refused, locked_account(home, "alice"):
            pass
    assert str(refused.value) == "alice is in use by another client of this home; leave that first"


def test_a_lock_that_cannot_be_made(home: Home) -> None:
    (home.account_folder("alice") / "lock").mkdir(parents=True)
    with pytest.raises(UnusableSetup, match="lock: is a directory"), locked_account(home, "alice"):
        pass
