"""Log lines: one line each, whatever is in them; quiet unless asked."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from messageapp_cli.logs import start_logging

SERVER, TRACE = "messageapp.server", "messageapp.server.trace"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    names = ("", "messageapp", SERVER, TRACE)
    handlers, levels = logging.getLogger().handlers[:], [logging.getLogger(name).level for name in names]
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in zip(names, levels, strict=True):
        logging.getLogger(name).setLevel(level)


def logged(capsys: pytest.CaptureFixture[str], form: str = "text", *, trace: bool = False, debug: bool = False) -> str:
    start_logging(form, trace=trace, debug=debug)
    logging.getLogger(SERVER).info("#%d logged in (%s)", 1, "hybrid")
    logging.getLogger(SERVER).debug("#1 no login: why")
    logging.getLogger(SERVER).warning("two\nlines\x1b and\tmore")
    logging.getLogger(TRACE).info("frwd #1->#2 512 bytes")
    logging.getLogger("trio").info("chatter of a library")
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    lines = logged(capsys).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"messageapp: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ #1 logged in \(hybrid\)", lines[0])
    assert lines[1].endswith("Z warning: two lines\ufffd and more")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [json.loads(line) for line in logged(capsys, "json").splitlines()]
    assert [(entry["level"], entry["logger"]) for entry in entries] == [("info", SERVER), ("warning", SERVER)]
    assert entries[0]["message"] == "#1 logged in (hybrid)"
    assert entries[0]["time"] > 1.7e9


def test_trace_adds_frames_and_debug_adds_causes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "frwd #1->#2 512 bytes" in logged(capsys, trace=True)
    assert "why" not in logged(capsys, trace=True)
    assert "Z #1 no login: why" in logged(capsys, debug=True)
    assert "frwd" not in logged(capsys, debug=True)


def test_of_an_exception_only_its_kind_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("text", trace=False, debug=False)
    try:
        raise ValueError("a stranger's bytes")
    except ValueError:
        logging.getLogger(SERVER).error("internal error", exc_info=sys.exc_info())
    err = capsys.readouterr().err
    assert err.endswith("error: internal error (ValueError)\n")
    assert "stranger" not in err
