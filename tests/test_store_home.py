"""Files that are whole or not there, and nobody else's."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from messageapp.errors import UnusableSetup
from messageapp.store.home import Home, make_folder, read_public, read_secret, write_file, write_outside


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The modes must not depend on the user's umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_0600_and_every_folder_made_is_0700(tmp_path: Path) -> None:
    path = tmp_path / "home" / "accounts" / "alice" / "file"
    write_file(path, b"content")
    assert path.read_bytes() == b"content"
    assert mode(path) == 0o600
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert mode(folder) == 0o700, folder
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["file"]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    make_folder(tmp_path / "shared" / "home")
    assert mode(tmp_path / "shared") == 0o755
    assert mode(tmp_path / "shared" / "home") == 0o700


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"first")
    with pytest.raises(UnusableSetup, match="exists already"):
        write_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_not_followed_into_another_file(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "file").symlink_to(victim)
    with pytest.raises(UnusableSetup):
        write_file(tmp_path / "file", b"content")
    write_file(tmp_path / "file", b"content", replace=True)
    assert victim.read_bytes() == b"untouched"
    assert not (tmp_path / "file").is_symlink()


def test_replacing_keeps_the_mode_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_file(path, b"new", replace=True)
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("step", ["open", "fsync", "link", "replace"])
def test_a_failed_write_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, replace: bool
) -> None:
    path = tmp_path / "file"
    if replace:
        path.write_bytes(b"old")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    if (step, replace) in (("link", True), ("replace", False)):
        write_file(path, b"new", replace=replace)
        return
    with pytest.raises(UnusableSetup, match="no space left"):
        write_file(path, b"new", replace=replace)
    assert [entry.name for entry in tmp_path.iterdir()] == (["file"] if replace else [])
    assert not replace or path.read_bytes() == b"old"


@pytest.mark.parametrize("replace", [True, False])
def test_the_name_of_a_file_is_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool) -> None:
    """First the content, then the name, then the folder that holds the name."""
    path, steps = tmp_path / "file", []
    sync = os.fsync

    def fsync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "content")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("link", "replace"):
        real = getattr(os, name)

        def step(*arguments: object, name: str = name, real: Callable[..., None] = real) -> None:
            steps.append(name)
            real(*arguments)

        monkeypatch.setattr(os, name, step)
    write_file(path, b"content", replace=replace)
    assert steps == ["content", "replace" if replace else "link", "folder"]


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for bits in (0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777):
        path.write_bytes(b"hush hush")
        path.chmod(bits)
        with pytest.raises(UnusableSetup, match="chmod 600") as caught:
            read_secret(path)
        assert "hush" not in str(caught.value)
        assert read_public(path) == b"hush hush"
    for bits in (0o600, 0o400, 0o700):
        path.chmod(bits)
        assert read_secret(path) == b"hush hush"


@pytest.mark.parametrize("read", [read_public, read_secret])
def test_what_cannot_be_read_is_our_error(tmp_path: Path, read: object) -> None:
    folder = make_folder(tmp_path / "folder")
    for path in (tmp_path / "missing", folder, tmp_path / "missing" / "file"):
        with pytest.raises(UnusableSetup, match="cannot read"):
            read(path)  # type: ignore[operator]


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"")
    for path in (tmp_path / "home", tmp_path / "home" / "ca"):
        with pytest.raises(UnusableSetup, match="cannot make"):
            make_folder(path)
    with pytest.raises(UnusableSetup):
        write_file(tmp_path / "home" / "file", b"")


def test_names_of_users_become_names_of_files_only_if_they_are_names(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.identity("Alice") == tmp_path / "identities" / "alice.key"
    assert home.account("Alice") == tmp_path / "accounts" / "alice" / "account.db"
    assert home.account_key("Alice") == tmp_path / "accounts" / "alice" / "account.key"
    for name in ("", ".", "..", "../alice", "a/b", "a\0b", "al ice", "-alice", "a" * 17, "älice"):
        for place in (home.identity, home.account, home.account_key, home.trust):
            with pytest.raises(Exception, match=r"."):
                place(name)


def test_identities_are_listed_without_leftovers(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.identities() == []
    for name in ("bob", "alice"):
        write_file(home.identity(name), b"")
    (tmp_path / "identities" / ".carol.key.0011").write_bytes(b"")
    (tmp_path / "identities" / ".carol.key").write_bytes(b"")
    assert [path.stem for path in home.identities()] == ["alice", "bob"]


def test_a_file_outside_is_new_whole_and_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", None)  # as on a stick
    path = tmp_path / "backup"
    write_outside(path, b"all of it")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"all of it", 0o600)
    with pytest.raises(UnusableSetup, match="exists already"):
        write_outside(path, b"other")
    with pytest.raises(UnusableSetup, match="no such file"):
        write_outside(tmp_path / "no" / "folder", b"")
    assert not (tmp_path / "no").exists()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnusableSetup, match="no space left"):
        write_outside(tmp_path / "full", b"half of it")
    assert not (tmp_path / "full").exists()
