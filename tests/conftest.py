"""For every test: no deadlines of hypothesis, programs start from compiled modules, nothing waits for the disk, and
what a test sets up in its process does not outlive it.

Fixtures that several modules share; a module may have its own of the same name.
"""

from __future__ import annotations

import gc
import logging
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings

from messageapp.store import database as databases
from messageapp.store.database import Database
from messageapp.store.home import Home
from support.accounts import KINDS, in_memory
from support.commands import Command, called, stretch_lightly
from support.processes import PASSPHRASE

# A deadline would be an assertion about time, and this machine may be busy.
settings.register_profile("messageapp", deadline=None)
settings.load_profile("messageapp")


def pytest_configure(config: pytest.Config) -> None:
    """Where no compiled module may be left beside its source, a program that a test starts would compile them all, and
    take twice as long to start: for this run they are kept elsewhere. The workers of xdist inherit it."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        folder = tempfile.TemporaryDirectory(prefix="messageapp-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["PYTHONPYCACHEPREFIX"] = folder.name


_LOGGERS = (None, "messageapp", "messageapp.server", "messageapp.server.trace")


_DURABLE = databases._DURABLE


@pytest.fixture(autouse=True, scope="session")
def no_loss_of_power() -> Iterator[None]:
    """There is none in this process, and to wait for the disk after each of so many commits takes minutes."""
    with patch.object(databases, "_DURABLE", "PRAGMA synchronous = OFF"):
        yield


@pytest.fixture
def durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases as users have them, also in this respect."""
    monkeypatch.setattr(databases, "_DURABLE", _DURABLE)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    levels = [logging.getLogger(name).level for name in _LOGGERS]
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in zip(_LOGGERS, levels, strict=True):
        logging.getLogger(name).setLevel(level)


@pytest.fixture(autouse=True)
def collector_as_it_was() -> Iterator[None]:
    """A program hides what it has loaded from the collector, for the rest of a process that is not its own here."""
    yield
    gc.unfreeze()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def command(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a subcommand in this process, at `home`; key stretching is light."""
    monkeypatch.setenv("MESSAGEAPP_HOME", str(home.path))
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", PASSPHRASE)
    stretch_lightly(monkeypatch)
    return partial(called, capsys)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An account's, through each of the two libraries."""
    opened = in_memory(request.param)
    yield opened
    opened.close()
