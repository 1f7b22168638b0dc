"""For every test: no deadlines of hypothesis, and the logging that a test sets up does not outlive it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A deadline would be an assertion about time, and this machine may be busy.
settings.register_profile("messageapp", deadline=None)
settings.load_profile("messageapp")

_LOGGERS = (None, "messageapp", "messageapp.server", "messageapp.server.trace")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    levels = [logging.getLogger(name).level for name in _LOGGERS]
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in zip(_LOGGERS, levels, strict=True):
        logging.getLogger(name).setLevel(level)
