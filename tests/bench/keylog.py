"""The key log with many leaves: what the server appends and proves, what a client replays, how large the files are.

One leaf in ten is a change of key that an RSA-3072 key has signed; the others are enrolments.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final

from messageapp.client.keylog import KeyLog
from messageapp.store.database import open_database, transaction
from messageapp.store.keylog import LogStore
from messageapp.store.logs import KnownLog, save_log
from messageapp_keys.keylog import Leaf, log_origin
from messageapp_keys.merkle import leaf_hash, verify_consistency_untrusted, verify_inclusion_untrusted
from messageapp_keys.notes import Checkpoint, LogKey, sign_note

from .rows import Rows, run_job

_SERVER: Final = "chat.example.org"
_SIGNED: Final = 10  # one leaf in so many is a change of key
_PROOFS: Final = 200
_LATE: Final = 100  # leaves that a client of yesterday has not seen


def leaves(count: int, random: Random) -> Iterator[bytes]:
    """Encoded; each follows those before."""
    latest: list[tuple[int, Leaf]] = []
    for number in range(count):
        key_id = random.randbytes(32)
        if number % _SIGNED == _SIGNED - 1:
            place = random.randrange(len(latest))
            before = latest[place]
            signatures = ((0x0804, random.randbytes(384)),)
            leaf = Leaf.after(before, number, before[1].user, key_id, signatures=signatures)
            latest[place] = (number, leaf)
        else:
            leaf = Leaf.after(None, number, f"user-{number:x}", key_id)
            latest.append((number, leaf))
        yield leaf.encode()


def log(job: dict[str, Any], rows: Rows) -> None:
    count, random = int(job["leaves"]), Random(1)
    rows.group = f"key log of {count:,} leaves"
    encoded = list(leaves(count + _LATE, random))
    with tempfile.TemporaryDirectory(prefix="keylog-", dir=job["home"]) as folder:
        server, client = Path(folder, "directory.db"), Path(folder, "trust.db")
        with closing(open_database(server, "server")) as database, rows.part("server"):
            _server(rows, LogStore(database), encoded[:count], random)
            rows.add("on the server's disk", "bytes/leaf", _size_of(database, server) / count)
        with closing(open_database(client, "account")) as database, rows.part("client"):
            _client(rows, database, encoded, count, int(job["replay"]))
            rows.add("on a client's disk", "bytes/leaf", _size_of(database, client) / len(encoded))


def _server(rows: Rows, store: LogStore, encoded: list[bytes], random: Random) -> None:
    count = len(encoded)
    with transaction(store.database):
        began = time.perf_counter()
        store.append(encoded)
    rows.add("append them all, one transaction", "leaves/s", count / (time.perf_counter() - began))
    whole = store.root()
    places = [random.randrange(1, count) for _ in range(_PROOFS)]
    steps: dict[str, Callable[[int], object]] = {
        "root": lambda _: store.root(),
        "inclusion proof": lambda place: store.inclusion(place, count),
        "consistency proof": lambda place: store.consistency(place, count),
    }
    for label, step in steps.items():
        rows.add(label, "ms", _median_ms(step, places))
    proofs = {place: (store.inclusion(place, count), store.consistency(place, count)) for place in places}
    roots = {place: store.root(place) for place in places}
    checks: dict[str, Callable[[int], object]] = {
        "check an inclusion proof": lambda place: verify_inclusion_untrusted(
            leaf_hash(encoded[place]), place, count, proofs[place][0], whole
        ),
        "check a consistency proof (a client that does not replay)": lambda place: verify_consistency_untrusted(
            place, roots[place], count, whole, proofs[place][1]
        ),
    }
    for label, step in checks.items():
        rows.add(label, "ms", _median_ms(step, places))
    late = [Leaf.after(None, number, f"late-{number:x}", os.urandom(32)).encode() for number in range(_LATE)]

    def append(number: int) -> None:
        with transaction(store.database):
            store.append([late[number]])

    rows.add("append one leaf, synced", "ms", _median_ms(append, list(range(_LATE))))


def _client(rows: Rows, database: sqlite3.Connection, encoded: list[bytes], count: int, replay: int) -> None:
    """As after a login: the new leaves are there, their rules and root are checked, then they are stored, synced."""
    key = LogKey.generate()
    save_log(database, KnownLog(_SERVER, key.public))
    log = KeyLog(database, _SERVER, "nobody")
    roots = _roots(encoded, [size for size in (replay, count, len(encoded)) if size])
    for size, root in roots.items():
        fresh = encoded[log.size : size]
        if not fresh:
            continue
        text = Checkpoint(log_origin(_SERVER), size, root).encode()
        shown = log.read_untrusted(sign_note(text, log_origin(_SERVER), key).encode())
        began = time.perf_counter()
        if not log.replay(shown, fresh):
            raise RuntimeError("the replay was not taken")
        rows.add(f"a client replays {len(fresh):,} new leaves, up to {size:,}", "s", time.perf_counter() - began)


def _roots(encoded: list[bytes], sizes: list[int]) -> dict[int, bytes]:
    """By size, from a log of its own in memory."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        memory.execute("CREATE TABLE log_leaves (log, number INTEGER, folded, leaf, PRIMARY KEY (log, number))")
        memory.execute("CREATE TABLE log_tiles (log, level, number, hashes, PRIMARY KEY (log, level, number))")
        store = LogStore(memory)
        with transaction(memory):
            store.append(encoded)
        return {size: store.root(size) for size in sorted(set(sizes))}


def _median_ms(step: Callable[[int], object], places: list[int]) -> float:
    taken = []
    for place in places:
        began = time.perf_counter()
        step(place)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2] * 1e3


def _size_of(database: sqlite3.Connection, path: Path) -> int:
    """Bytes of the file once all is in it."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


if __name__ == "__main__":
    run_job({"log": log})
