"""How full the disk is."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

__all__ = ["DiskWatch"]


class DiskWatch:
    """Is the disk so full that nothing more is stored? Looked at once a second at most."""

    def __init__(self, folder: Path, percent: float) -> None:
        self._folder, self._percent = folder, percent
        self._looked, self._full = -1.0, False

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._looked >= 1 or self._looked < 0:
            self._looked = now
            try:
                usage = shutil.disk_usage(self._folder)
            except OSError:
                return self._full  # then storing fails too, and says so
            self._full = usage.used * 100 >= self._percent * (usage.used + usage.free)  # as df counts
        return self._full
