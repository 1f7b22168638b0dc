"""What every part of a logged-in client is given: whose it is and where, its only clock, its only randomness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from messageapp.store.database import Database
from messageapp_keys.primitives import Random

from .login import Account

__all__ = ["ClientContext"]


@dataclass(frozen=True, slots=True)
class ClientContext:
    account: Account
    server: str  # canonical: the one in pins and safety numbers
    random: Random
    wall_ms: Callable[[], int]

    @property
    def database(self) -> Database:
        """The account's own."""
        return self.account.trust.database
