"""Modules loaded beside the passphrase: really beside it, all there afterwards, and nothing heavy before."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from messageapp.store.home import Home
from messageapp_cli.loading import loading
from messageapp_keys.identity import PrivateIdentity
from support.processes import SECONDS, environment, save, write_certificates


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules of our own."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_block_and_the_loading_go_side_by_side(write: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other: one after the other would never end well."""
    gates: Any = ModuleType("gates")
    gates.loading, gates.block = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "gates", gates)
    (write / "beside.py").write_text("import gates\ngates.loading.set()\npassed = gates.block.wait(60)\n")
    with loading("beside"):
        assert gates.loading.wait(SECONDS)
        gates.block.set()
    assert sys.modules["beside"].passed


def test_all_is_there_afterwards_and_left_to_itself(write: Path) -> None:
    for name in ("one_of_two", "two_of_two"):
        (write / f"{name}.py").write_text("")
    gc.unfreeze()
    with loading("one_of_two", "two_of_two"):
        pass
    assert {"one_of_two", "two_of_two"} <= set(sys.modules)
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(thread.name == "loading" for thread in threading.enumerate())


def test_what_cannot_be_loaded_is_for_who_needs_it() -> None:
    with loading("no_such_module_anywhere"):
        pass
    assert gc.isenabled()


def test_a_block_that_fails() -> None:
    with pytest.raises(ValueError, match="the passphrase"), loading("json"):
        raise ValueError("the passphrase")
    assert gc.isenabled()
    assert not any(thread.name == "loading" for thread in threading.enumerate())


def test_nothing_heavy_is_loaded_before_the_passphrase_is_asked_for(tmp_path: Path) -> None:
    home = Home(tmp_path)
    save(home, "alice", PrivateIdentity.generate("ed25519"))
    write_certificates(home)
    code = (
        "import sys\n"
        "import messageapp_cli.loading\n"
        "from messageapp_cli import connect\n"
        "from messageapp_cli.main import main\n"
        "heavy = {'trio', 'asyncio', 'ssl', 'prompt_toolkit', 'cryptography.x509.verification', 'messageapp.wire'}\n"
        "def loading(*modules):\n"
        " print(sorted(heavy & set(sys.modules)), *modules)\n"
        " raise KeyboardInterrupt\n"
        "messageapp_cli.loading.loading = loading\n"
        "main(['connect'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    seen, _, modules = done.stdout.partition("]")
    assert seen == "["
    assert "messageapp_cli.plain" in modules.split()
