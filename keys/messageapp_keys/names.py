"""Usernames (protocol §3): 1–16 of A–Z a–z 0–9 and `-`, not at either end, unique after lower-casing."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_USERNAME", "BadUsername", "check_username", "fold", "is_username"]

MAX_USERNAME: Final = 16
_USERNAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,14}[A-Za-z0-9])?", re.ASCII)


class BadUsername(ValueError):
    """A username has 1 to 16 characters of A-Z a-z 0-9 and -, and neither begins nor ends with -."""

    def __init__(self) -> None:
        super().__init__("a username has 1 to 16 characters of A-Z a-z 0-9 and -, and neither begins nor ends with -")


def is_username(text: str) -> bool:
    return _USERNAME.fullmatch(text) is not None


def check_username(text: str) -> str:
    """Return `text`, or raise `BadUsername`, whose text is the sentence for the user."""
    if not is_username(text):
        raise BadUsername
    return text


def fold(name: str) -> str:
    """The form under which names are unique."""
    return name.lower()
