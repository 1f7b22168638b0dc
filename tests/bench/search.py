"""An encrypted account with many messages: how long a search, the history and the list of conversations take."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any, Final

from messageapp.client.messages import Messages
from messageapp.store.conversations import conversation_of
from messageapp.store.database import Database, transaction
from messageapp.store.messages import add_own, add_received
from messageapp.store.sealed import open_sealed
from messageapp_keys.databasekey import DatabaseKey

from .rows import Rows, run_job

__all__ = ["search"]

_SERVER: Final = "chat.example.org"
_PEERS: Final = 50
_WORDS: Final = 20_000
_WORDS_EACH: Final = 12
_RARE_EVERY: Final = 5000
_REPEATS: Final = 15


def search(job: dict[str, Any], rows: Rows) -> None:
    count, random = int(job["stored"]), Random(1)
    rows.group = f"account of {count:,} messages, encrypted"
    with tempfile.TemporaryDirectory(prefix="search-", dir=job["home"]) as folder:
        path = Path(folder, "account.db")
        with closing(open_sealed(path, "account", DatabaseKey(random.randbytes(32)))) as database:
            began = time.perf_counter()
            _fill(database, count, random)
            rows.add("store them all, one transaction", "messages/s", count / (time.perf_counter() - began))
            _measure(rows, Messages(database, _SERVER, "alice", lambda: count, random.randbytes), count)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            rows.add("on the disk", "bytes/message", path.stat().st_size / count)


def _fill(database: Database, count: int, random: Random) -> None:
    """Every message has the word "every", one in 5,000 "rare"; with "once" there is one, the first."""
    words = ["".join(random.choices(ascii_lowercase, k=random.randint(3, 9))) for _ in range(_WORDS)]
    with transaction(database):
        once, *peers = (
            conversation_of(database, _SERVER, name) for name in ("once", *(f"peer{i}" for i in range(_PEERS)))
        )
        for number in range(count):
            peer = peers[min(int(random.paretovariate(0.7)), _PEERS) - 1] if number else once
            chosen = [words[min(int(random.paretovariate(0.6)), _WORDS) - 1] for _ in range(_WORDS_EACH)]
            text = " ".join(["every", *chosen, *(["rare"] if number % _RARE_EVERY == 0 else [])])
            if number % 2:
                add_own(database, peer, random.randbytes(16), text, written_ms=number)
            else:
                add_received(database, peer, random.randbytes(16), text, written_ms=number, now_ms=number)


def _measure(rows: Rows, messages: Messages, count: int) -> None:
    rare = -(-count // _RARE_EVERY)
    steps: dict[str, tuple[Callable[[], Sequence[object]], int]] = {
        "search a rare word": (lambda: messages.search("rare"), min(50, rare)),
        "search a word that is in every message": (lambda: messages.search("every"), 50),
        "search two words, one in every message": (lambda: messages.search("every rare"), min(50, rare)),
        "search words that begin so": (lambda: messages.search("e*"), 50),
        "search what is not there": (lambda: messages.search("nowhere-at-all"), 0),
        "search a word of every message with a peer of one": (lambda: messages.search("every in:once"), 1),
        "search by a date alone, nothing so old": (lambda: messages.search("before:1969-12-01"), 0),
        "history of the largest conversation": (lambda: messages.history("peer0"), 20),
        "list of the conversations, with unread counts": (messages.conversations, _PEERS + 1),
    }
    for label, (step, found) in steps.items():
        with rows.part(label):
            if len(step()) != found:
                raise RuntimeError("another number of results than there are")
            taken = []
            for _ in range(_REPEATS):
                began = time.perf_counter()
                step()
                taken.append(time.perf_counter() - began)
            rows.add(label, "ms", sorted(taken)[_REPEATS // 2] * 1e3)


if __name__ == "__main__":
    run_job({"search": search})
