"""Messages of 64 KiB through the server, against what `cryptography` alone does with as many bytes on one core."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messageapp.wire.records import padded_length

from .rows import Rows
from .targets import Bare, Ours, measure
from .traffic import closed

__all__ = ["large"]

_SIZE: Final = 65_536
_ALONE_SECONDS: Final = 0.3
_AES: Final = "cryptography alone"


def large(job: dict[str, Any], rows: Rows) -> None:
    """The bare relay has no cryptography: it shows what the kernel takes for carrying so much in and out."""
    generator = Path(job["generator"])
    size = padded_length(1 + 4 + 4 + _SIZE + 1)
    alone = _open_and_seal(size)
    rows.add(f"{_AES}: open and seal {size:,} bytes", "messages/s", alone, cpu=1e6 / alone)
    ours = Ours("relay", Path(job["home"]), job["port"], int(job["pid"]), 5)
    bare = Bare("bare trio, best form, no cryptography", job["bare"]["port"], job["bare"]["pid"], 5)
    for pairs, flight in ((1, 1), (5, 1), (5, 8)):
        label = f"{pairs} {'pair' if pairs == 1 else 'pairs'}, {flight} in flight each"
        each = max(flight, job["large_messages"] // pairs)
        with rows.part(label):
            found = measure(ours, generator, pairs=pairs, each=each, size=_SIZE, load=closed(flight))
            rows.add(label, "messages/s", found.rate, **found.shares)
            other = measure(bare, generator, pairs=pairs, each=each, size=_SIZE, load=closed(flight))
            rows.add(f"{label}: {bare.name}", "messages/s", other.rate, **other.shares)
            rows.add(f"{label}: messages/s ÷ {_AES}", "ratio", found.rate / alone)
            per_cpu = 1e6 / found.figure("cpu")
            rows.add(f"{label}: messages per CPU second ÷ {_AES}", "ratio", per_cpu / alone)


def _open_and_seal(size: int) -> float:
    """Messages a CPU second."""
    cipher, other, nonce, name = AESGCM(os.urandom(32)), AESGCM(os.urandom(32)), os.urandom(12), os.urandom(20)
    sealed = cipher.encrypt(nonce, os.urandom(size), name)
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < _ALONE_SECONDS:
        for _ in range(20):
            other.encrypt(nonce, cipher.decrypt(nonce, sealed, name), name)
        count += 20
    return count / spent
