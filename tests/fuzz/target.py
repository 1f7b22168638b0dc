"""What a target is: bytes go in, and only what is declared may come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

__all__ = ["Attack", "Harness", "Target", "Wrong", "require", "same_after_refusal"]

Attack = Callable[[bytes], object]
MANY = 100_000


class Wrong(AssertionError):
    """Nothing was raised that may not be raised, and yet something happened that may not happen."""


def require(good: bool, text: str) -> None:
    if not good:
        raise Wrong(text)


@contextmanager
def same_after_refusal(state: Callable[[], object]) -> Iterator[None]:
    """`Wrong` where what is raised inside leaves another `state` behind."""
    before = state()
    try:
        yield
    except Exception:
        require(state() == before, "what was refused has changed something")
        raise


@dataclass(frozen=True, slots=True)
class Harness:
    """`attack` raises a declared error to refuse its input; `seeds` are inputs that it accepts."""

    attack: Attack
    seeds: Sequence[bytes]


@dataclass(frozen=True)
class Target:
    """`refusals` is what may be raised. Of a `sealed` one nothing is accepted but its seeds."""

    name: str
    make: Callable[[], Harness] = field(repr=False)
    refusals: tuple[type[Exception], ...]
    sealed: bool = False
    mutations: int = MANY  # in a test run

    @cached_property
    def harness(self) -> Harness:
        return self.make()

    @cached_property
    def _genuine(self) -> frozenset[bytes]:
        return frozenset(self.harness.seeds)

    def accepts(self, data: bytes) -> bool:
        """Whether it was taken. Raises whatever is not declared, `Wrong` for a forgery that was taken."""
        try:
            self.harness.attack(data)
        except self.refusals:
            return False
        require(not self.sealed or data in self._genuine, "a forgery was taken for genuine")
        return True
