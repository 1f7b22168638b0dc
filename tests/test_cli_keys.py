"""`keygen`, `keys list`, `keys export`: identities on disk, the report's own PEM files, and what goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from messageapp.store.home import Home
from messageapp.store.identities import find_identity, unseal
from messageapp_keys.identity import PrivateIdentity
from support.commands import Command
from support.keys import rsa_key
from support.processes import PASSPHRASE, save

PEM = serialization.Encoding.PEM


def pem_file(path: Path, passphrase: bytes | None, form: str = "PKCS8") -> Path:
    """An RSA-2048 key as openssl writes it; TraditionalOpenSSL is the report's."""
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    key = rsa_key("imported", 2048)
    path.write_bytes(key.private_bytes(PEM, getattr(serialization.PrivateFormat, form), lock))
    return path


def test_a_new_identity(command: Command, home: Home) -> None:
    code, out, err = command("keygen", "Alice")
    assert code == 0
    assert out.startswith("Alice: RSA-3072 ")
    assert err == f"messageapp: sealed in {home.path}/identities/alice.key\n"
    path = home.identity("alice")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert unseal(find_identity(home, "alice"), PASSPHRASE).bundle == find_identity(home, "Alice").bundle
    assert command("keys", "list") == (0, out.replace(": RSA-3072 ", "  RSA-3072  "), "")
    assert os.listdir(path.parent) == ["alice.key"]


def test_an_identity_is_not_overwritten(command: Command, home: Home) -> None:
    save(home, "alice", PrivateIdentity.generate("ed25519"))
    before = home.identity("alice").read_bytes()
    for name in ("alice", "ALICE"):
        code, out, err = command("keygen", name)
        assert (code, out) == (2, "")
        assert "it is not overwritten" in err
    assert home.identity("alice").read_bytes() == before


def test_a_public_key_goes_out_and_comes_back(command: Command, home: Home, tmp_path: Path) -> None:
    save(home, "alice", PrivateIdentity.generate("ed25519"))
    code, out, err = command("keys", "export", "alice")
    assert (code, err) == (0, "")
    assert out.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert out.endswith("-----END PUBLIC KEY-----\n")
    (tmp_path / "alice.pem").write_text(out)
    assert command("user", "add", "alice", str(tmp_path / "alice.pem"))[0] == 0


def test_no_identity(command: Command, home: Home) -> None:
    assert command("keys", "list") == (0, "", "")
    code, out, err = command("keys", "export", "alice")
    assert (code, out) == (2, "")
    assert f"there is no identity alice in {home.path}; make it: messageapp keygen alice" in err


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_importing_a_locked_key(command: Command, home: Home, tmp_path: Path, form: str) -> None:
    file = pem_file(tmp_path / "alicepriv.pem", PASSPHRASE.encode(), form)
    code, out, err = command("keygen", "alice", "--import", str(file))
    assert code == 0
    assert out.startswith("alice: RSA-2048 ")
    assert f"{file} is no longer needed; delete it: shred -u {file}" in err
    assert unseal(find_identity(home, "alice"), PASSPHRASE).bundle.kind == "RSA-2048"


def test_importing_an_open_key_seals_it_with_a_new_passphrase(command: Command, home: Home, tmp_path: Path) -> None:
    file = pem_file(tmp_path / "alicepriv.pem", None)
    assert command("keygen", "alice", "--import", str(file))[0] == 0
    assert b"PRIVATE" not in home.identity("alice").read_bytes()


def test_importing_with_the_wrong_passphrase(command: Command, home: Home, tmp_path: Path) -> None:
    file = pem_file(tmp_path / "alicepriv.pem", b"another passphrase", "TraditionalOpenSSL")
    code, out, err = command("keygen", "alice", "--import", str(file))
    assert (code, out) == (4, "")
    assert "passphrase" in err
    assert not home.identity("alice").exists()


def bad_files(folder: Path) -> dict[str, Path]:
    ec_key = ec.generate_private_key(ec.SECP256R1())
    contents = {
        "nothing": b"",
        "garbage": os.urandom(3000),
        "text": b"hello\n",
        "cut": pem_file(folder / "whole.pem", None).read_bytes()[:700],
        "public": ec_key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "curve": ec_key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        "empty key": b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        "locked garbage": b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n"
        b"-----END RSA PRIVATE KEY-----\n",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents} | {"missing": folder / "missing", "folder": folder}


@pytest.mark.parametrize(
    "kind",
    ["nothing", "garbage", "text", "cut", "public", "curve", "empty key", "locked garbage", "missing", "folder"],
)
def test_importing_what_is_no_private_key(command: Command, home: Home, tmp_path: Path, kind: str) -> None:
    file = bad_files(tmp_path)[kind]
    code, out, err = command("keygen", "alice", "--import", str(file))
    assert (code, out) == (4 if kind == "locked garbage" else 2, "")  # what is locked may be anything
    assert str(file) in err
    assert not home.identity("alice").exists()


@pytest.mark.parametrize("begin", [b"", b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"])
def test_importing_a_file_that_is_far_too_long(command: Command, home: Home, tmp_path: Path, begin: bytes) -> None:
    file = tmp_path / "big.pem"
    file.write_bytes(begin + b"A" * 100_000)
    code, out, err = command("keygen", "alice", "--import", str(file))
    assert (code, out) == (2, "")
    assert err.startswith(f"messageapp: {file}: ")
    assert "KiB" in err or "bytes" in err or "long" in err or "large" in err
    assert not home.identity("alice").exists()


@pytest.mark.parametrize("kind", ["nothing", "garbage", "text", "cut", "curve", "empty key", "missing", "folder"])
def test_enrolling_what_is_no_public_key(command: Command, tmp_path: Path, kind: str) -> None:
    file = bad_files(tmp_path)[kind]
    code, out, err = command("user", "add", "alice", str(file))
    assert (code, out) == (2, "")
    assert str(file) in err
    assert command("user", "list") == (0, "", "")


@pytest.mark.parametrize("arguments", [("keys", "list"), ("keys", "export", "alice"), ("user", "add", "alice")])
def test_a_key_file_that_others_can_read(command: Command, home: Home, arguments: tuple[str, ...]) -> None:
    save(home, "alice", PrivateIdentity.generate("ed25519"))
    home.identity("alice").chmod(0o644)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert f"make it yours alone: chmod 600 {home.identity('alice')}" in err


@pytest.mark.parametrize("change", ["cut", "empty", "garbage", "longer", "folder"])
def test_a_key_file_that_is_damaged(command: Command, home: Home, change: str) -> None:
    save(home, "alice", PrivateIdentity.generate("ed25519"))
    path = home.identity("alice")
    whole = path.read_bytes()
    path.unlink()
    if change == "folder":
        path.mkdir(mode=0o700)
    else:
        damaged = {"cut": whole[:50], "empty": b"", "garbage": os.urandom(len(whole)), "longer": whole + b"\0"}
        path.write_bytes(damaged[change])
        path.chmod(0o600)
    code, out, err = command("keys", "export", "alice")
    assert (code, out) == (2, "")
    assert str(path) in err


# passphrases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "used"), [(b"from a file\n", "from a file"), (b"p\xc3\xa4ss\r\nx\n", "p\u00e4ss")])
def test_the_passphrase_from_a_file(command: Command, home: Home, tmp_path: Path, content: bytes, used: str) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(content)
    assert (
        command("keygen", "alice", "--import", str(pem_file(tmp_path / "k", None)), "--passphrase-file", str(file))[0]
        == 0
    )
    unseal(find_identity(home, "alice"), used)


@pytest.mark.parametrize("content", [b"", b"\nsecond line", b"\xff\xfe\n", None])
def test_a_passphrase_file_that_gives_none(command: Command, home: Home, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
    code, out, err = command("keygen", "alice", "--passphrase-file", str(file))
    assert (code, out) == (2, "")
    assert "passphrase" in err
    assert not home.identity("alice").exists()


def test_an_empty_passphrase(command: Command, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", "")
    assert command("keygen", "alice") == (2, "", "messageapp: the passphrase is empty\n")


@pytest.mark.parametrize("place", ["file as a folder", "folder that cannot be"])
def test_a_home_that_cannot_be_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("a file")
    folder = str(blocker if place == "file as a folder" else blocker / "home")
    for arguments in (("keygen", "alice"), ("user", "add", "alice"), ("user", "list"), ("connect",), ("serve", "0")):
        code, out, err = command(*arguments, "--home", folder)
        assert (code, out) == (2, "")
        assert folder in err
    assert blocker.read_text() == "a file"
