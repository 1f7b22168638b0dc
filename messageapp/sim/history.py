"""What happened in a run: lines for people, a digest over all of them, and the first invariant that broke."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Broken", "History", "seeded"]


def seeded(*parts: object) -> random.Random:
    """A generator of its own for each purpose, so that leaving out one step changes no other's choices."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - chooses what is tried, makes no key


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold."""

    invariant: str
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}"


@dataclass(slots=True)
class History:
    """`now` gives the simulated time in seconds. `on_break` is called once, at the first broken invariant."""

    now: Callable[[], float]
    on_break: Callable[[], None] = lambda: None
    lines: list[str] = field(default_factory=list)
    broken: Broken | None = None
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def note(self, who: str, text: str) -> None:
        """A line of the history."""
        line = f"{self.now():9.3f} {who:8} {text}"
        self.lines.append(line)
        self._digest.update(line.encode() + b"\n")

    def trace(self, *parts: object) -> None:
        """Part of the digest only: what is too much to read."""
        self._digest.update(repr((round(self.now(), 6), *parts)).encode())

    def breaks(self, invariant: str, detail: str) -> None:
        """Only the first counts: what follows from it is no news."""
        if self.broken is None:
            self.broken = Broken(invariant, detail)
            self.note("broken", f"{invariant}: {detail}")
            self.on_break()

    def digest(self) -> str:
        """Of everything so far, in hexadecimal."""
        return self._digest.hexdigest()
