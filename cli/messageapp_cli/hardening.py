"""No core dumps: they would hold keys (protocol §7)."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from typing import Final

__all__ = ["forbid_core_dumps"]

_PR_SET_DUMPABLE: Final = 4


def forbid_core_dumps() -> None:
    """For this process and its children. Where the system knows no such thing, nothing happens."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
