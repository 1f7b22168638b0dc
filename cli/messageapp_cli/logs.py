"""Log lines of the server: stderr, one line each; connection numbers, never names, texts or keys."""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import lru_cache

__all__ = ["start_logging"]


def _one_line(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        text += f" ({record.exc_info[0].__name__})"
    if text.isprintable() and "  " not in text and text.strip() == text:
        return text
    # Nothing of a stranger's should come here; if it does, it neither fakes a line nor talks to the terminal.
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


@lru_cache(1)
def _when(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"messageapp: {_when(int(record.created))} {level}{_one_line(record)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": round(record.created, 3),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _one_line(record),
            }
        )


def start_logging(form: str, *, trace: bool, debug: bool) -> None:
    """`form` is text or json. `trace` adds a line per frame with its verb and size, `debug` the causes of refusals."""
    # What no line shows is not looked up: each login logs two lines.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the manual's way to leave out the caller's place
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("messageapp").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("messageapp.server.trace").setLevel(logging.INFO if trace else logging.WARNING)
