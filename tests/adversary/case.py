"""The shape of a case: what is done to a real program, which rule it breaks, and what must be seen then.

A group is a tuple of cases in a module of its own (`server_m1.CASES`, …). `do` misbehaves and returns what it saw; the
test compares that with `expected`, so that any other answer, a second one, or none at all is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

__all__ = ["ALERT_1", "ALERT_3", "ALERT_4", "CLOSED", "DEADLINE", "SESSION", "Case", "Outcome", "Seen", "erro", "ids"]

World = TypeVar("World")

DEADLINE = 2.0
"""Seconds that one case may take in all; the sockets of a case enforce it."""


class Seen(StrEnum):
    ALERT = "ALERT"  # one ALERT with `code` and `retry`, then the end of the connection
    CLOSED = "closed"  # the end of the connection without a word
    ERRO = "erro"  # the reply `erro` with `code`, and the session goes on
    SESSION = "session"  # nothing is lost: the session goes on and answers
    EXIT = "exit"  # a client program ended with `code`
    LEFT = "left"  # a client left the chat (`exch`) and is still logged in


@dataclass(frozen=True, slots=True)
class Outcome:
    seen: Seen
    code: int | None = None
    retry: int | None = None  # of an ALERT: None where it has no such field
    detail: str = ""  # what must be shown

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.seen, self.code, self.retry, self.detail) if part not in (None, ""))


ALERT_1, ALERT_3, ALERT_4 = (Outcome(Seen.ALERT, code) for code in (1, 3, 4))
CLOSED, SESSION = Outcome(Seen.CLOSED), Outcome(Seen.SESSION)


def erro(code: int) -> Outcome:
    return Outcome(Seen.ERRO, code)


@dataclass(frozen=True, slots=True)
class Case(Generic[World]):
    """`name` is `group/what-is-wrong`; `line` the slug of a row of `lines.LINES`."""

    name: str
    line: str
    do: Callable[[World], Outcome]
    expected: Outcome


def ids(cases: Iterable[Case[World]]) -> list[str]:
    """For `pytest.mark.parametrize`; a name that stands twice is an error."""
    names = [case.name for case in cases]
    assert len(names) == len(set(names)), "two cases have one name"
    return names
