"""`user add|list|remove` and `ca show`: the owner's side."""

from __future__ import annotations

from pathlib import Path

import pytest

from messageapp.store.home import Home
from messageapp_keys.certificate_reading import load_certificate_untrusted
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.pem import export_public_pem
from support.commands import Command
from support.processes import save, write_certificates


@pytest.fixture
def public(tmp_path: Path) -> str:
    file = tmp_path / "public.pem"
    file.write_text(export_public_pem(PrivateIdentity.generate("ed25519").bundle))
    return str(file)


def test_users_are_added_listed_and_removed(command: Command, home: Home, public: str) -> None:
    save(home, "bob", PrivateIdentity.generate("ed25519"))
    code, added, err = command("user", "add", "bob")
    assert (code, err) == (0, "")
    assert added.startswith("added bob: Ed25519 ")
    assert command("user", "add", "Alice", public)[0] == 0
    code, out, _ = command("user", "list")
    assert [line.split("  ")[0] for line in out.splitlines()] == ["Alice", "bob"]
    assert out.splitlines()[1] == added.removeprefix("added ").replace(": Ed25519 ", "  Ed25519  ").rstrip()
    assert command("user", "remove", "ALICE") == (0, "removed ALICE\n", "")
    assert command("user", "list")[1].startswith("bob  ")
    assert home.directory.stat().st_mode & 0o777 == 0o600


def test_without_a_file_the_identity_gives_the_spelling(command: Command, home: Home) -> None:
    save(home, "Bob", PrivateIdentity.generate("ed25519"))
    assert command("user", "add", "bob")[1].startswith("added Bob: ")


@pytest.mark.parametrize("again", ["bob", "BOB"])
def test_a_name_is_taken_once(command: Command, public: str, again: str) -> None:
    command("user", "add", "bob", public)
    code, out, err = command("user", "add", again, public)
    assert (code, out) == (2, "")
    assert err == f"messageapp: there is a user {again} already (capital letters make no difference)\n"


def test_removing_nobody(command: Command) -> None:
    assert command("user", "remove", "bob") == (2, "", "messageapp: there is no user bob\n")


def test_a_key_is_revoked_and_reset(command: Command, public: str, tmp_path: Path) -> None:
    command("user", "add", "Bob", public)
    first = command("user", "list")[1].rstrip()
    assert command("user", "revoke", "BOB") == (0, "revoked BOB\n", "")
    assert command("user", "list") == (0, f"{first}  revoked\n", "")
    assert command("user", "revoke", "bob") == (2, "", "messageapp: the key of bob is revoked already\n")
    assert command("user", "add", "bob", public)[0] == 2
    other = tmp_path / "other.pem"
    other.write_text(export_public_pem(PrivateIdentity.generate("ed25519").bundle))
    code, out, err = command("user", "reset", "bob", str(other))
    assert (code, err) == (0, "")
    fingerprint = out.removeprefix("reset bob: Ed25519 ")
    assert command("user", "list")[1] == f"Bob  Ed25519  {fingerprint}"
    assert fingerprint not in first


@pytest.mark.parametrize("arguments", [("revoke", "bob"), ("reset", "bob")])
def test_nobody_is_revoked_or_reset(command: Command, public: str, arguments: tuple[str, ...]) -> None:
    file = [public] if arguments[0] == "reset" else []
    assert command("user", *arguments, *file) == (2, "", "messageapp: there is no user bob\n")


def test_a_reset_with_a_file_that_is_no_key(command: Command, public: str, tmp_path: Path) -> None:
    command("user", "add", "bob", public)
    before = command("user", "list")
    (tmp_path / "garbage").write_text("garbage")
    for file in ("garbage", "missing"):
        code, out, err = command("user", "reset", "bob", str(tmp_path / file))
        assert (code, out) == (2, "")
        assert file in err
    assert command("user", "list") == before


def test_adding_without_a_key(command: Command, home: Home) -> None:
    code, _, err = command("user", "add", "bob")
    assert code == 2
    assert "there is no identity bob" in err


@pytest.mark.parametrize("damage", [b"this is no database, whatever it is called" * 100, b""])
@pytest.mark.parametrize("arguments", [("list",), ("remove", "bob")])
def test_a_directory_that_is_no_database(
    command: Command, home: Home, damage: bytes, arguments: tuple[str, ...]
) -> None:
    home.directory.parent.mkdir(parents=True, mode=0o700)
    home.directory.write_bytes(damage)
    code, out, err = command("user", *arguments)
    if damage:
        assert (code, out) == (2, "")
        assert str(home.directory) in err
        assert home.directory.read_bytes() == damage
    else:  # an empty file is a new directory
        assert code == (0 if arguments == ("list",) else 2)


def test_a_directory_that_is_damaged_inside(command: Command, home: Home, public: str) -> None:
    command("user", "add", "bob", public)
    data = bytearray(home.directory.read_bytes())
    data[100:] = bytes(len(data) - 100)
    home.directory.write_bytes(data)
    for path in home.directory.parent.glob("directory.db-*"):
        path.unlink()
    for arguments in (("list",), ("remove", "bob"), ("add", "carol", public)):
        code, out, err = command("user", *arguments)
        assert (code, out) == (2, "")
        assert "directory" in err


def test_the_authority(command: Command, home: Home) -> None:
    code, out, err = command("ca", "show")
    assert (code, out) == (2, "")
    assert "the first `messageapp serve` makes it" in err
    write_certificates(home)
    code, out, err = command("ca", "show")
    assert code == 0
    assert out.encode() == home.ca_certificate.read_bytes()
    load_certificate_untrusted(out.encode())
    assert err.startswith("messageapp: fingerprint ")
    assert "PRIVATE" not in out


def test_an_authority_that_is_damaged(command: Command, home: Home) -> None:
    write_certificates(home)
    home.ca_certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    code, out, err = command("ca", "show")
    assert (code, out) == (2, "")
    assert str(home.ca_certificate) in err
