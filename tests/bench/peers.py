"""Other servers on the same machine under the same loads: Prosody, ejabberd, ngIRCd, Mosquitto, each with its own TLS.

They run from the packages of the system, as processes of their own, for each of plain TCP and TLS a fresh one, in the
best reasonable configuration: each module `peers_*` says what was set and why. For all of them: no rate limits, no
debug log, TCP_NODELAY (ngIRCd, which has no setting for it, with and without), files up to the hard limit, a P-256
certificate, TLS 1.3, no client certificates, users enrolled beforehand, nothing kept on disk; the text has 100 bytes.
They read it as it is and send it on with the sender's address (Mosquitto: unchanged); XMPP servers also parse XML. Ours
relays what it cannot read, padded, opened and sealed once more on the way.

Messages are counted by their ends, their content is not compared; one that is lost stalls its pair and fails the row.
A load in flight lasts `_SECONDS` rather than for a count of messages: their rates are too far apart for one count.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .generator import Reins, Result, driven, generator_has_tls
from .peers_base import HOST, Peer, found
from .peers_ejabberd import EJABBERD
from .peers_mosquitto import MOSQUITTO
from .peers_nagle import without_nagle
from .peers_ngircd import NGIRCD
from .peers_process import Server, running
from .peers_prosody import PROSODY
from .rows import Row, Rows

__all__ = ["PEERS", "rows"]

PEERS: Final = (PROSODY, EJABBERD, NGIRCD, MOSQUITTO)
_LOADS: Final = ((20, 1), (20, 32), (200, 1))  # pairs, in flight
_SECONDS: Final = {True: 0.3, False: 1.0}  # by "quick"
_MOST: Final = 1 << 20  # messages of one load: the generator keeps a time for each
_NO_TLS: Final = "the load generator was built without TLS (apt install libssl-dev)"
_PATIENCE: Final = 40
_LIGHT: Final = 5000  # µs between messages
_FEW: Final = 20  # connections that are there before memory is measured: the first ones pay for what all share
_IDLE: Final = 500  # at least: a runtime's own memory changes by some MiB meanwhile
_REST: Final = 1.0  # runtimes give memory back a moment after a burst of logins


def rows(generator: Path, counts: dict[str, Any], home: Path) -> Iterator[tuple[str, list[Row]]]:
    """Group and rows of each server, plain and with TLS. One that is not installed is a group without figures.

    What fails becomes a row that says so. Servers and their folders are gone when the iterator is left.
    """
    for peer in PEERS:
        if found(peer.program) is None:
            yield f"{peer.name}: not installed (apt install {peer.package})", [Row("not installed", "")]
            continue
        name = f"{peer.name} {_version(peer)}".strip()
        for tls in (False, True):
            group = f"{name} with TLS" if tls else name
            if tls and not generator_has_tls(generator):
                yield f"{group}: {_NO_TLS}", [Row("not measured", "")]
                continue
            yield group, _measure(peer, generator, counts, home, tls=tls)
            if peer.lacks_no_delay:
                yield f"{group}, Nagle off from outside", _measure(peer, generator, counts, home, tls=tls, forced=True)


def _version(peer: Peer) -> str:
    """Of the package, "" where dpkg does not know it."""
    try:
        asked = ["dpkg-query", "-W", "-f=${Version}", peer.package]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _measure(
    peer: Peer, generator: Path, counts: dict[str, Any], home: Path, *, tls: bool, forced: bool = False
) -> list[Row]:
    rows, idle, quick = Rows(), max(_IDLE, int(counts["idle"])), bool(counts.get("quick"))
    users = max(2 * idle + _FEW, *(2 * pairs for pairs, _ in _LOADS))
    with rows.part("started"), running(peer, home, tls=tls, users=users) as server:
        if forced and not without_nagle(server.pid):
            return [Row("not measured: this takes Linux 5.6 and the right to trace the server's process", "")]
        script = _Script(peer, server.port, tls)
        with rows.part("idle connection, logged in"):
            _memory(server, generator, script, idle, rows)
        for pairs, flight in _LOADS:
            label = f"100 bytes: {pairs} pairs, {flight} in flight each"
            with rows.part(label):
                job = script.load(f"closed {flight}", pairs, _MOST // pairs)
                figures = _loaded(server, generator, job, _SECONDS[quick])
                rows.add(label, "messages/s", figures.rate, **figures.shares)
        label = f"100 bytes: 1 pair, {1_000_000 // _LIGHT} messages/s, p50"
        with rows.part(label):
            figures = _loaded(server, generator, script.load(f"paced {_LIGHT}", 1, int(counts["latency_messages"])))
            rows.add(label, "µs one way", figures.result.p50, **figures.shares)
    return rows.rows


@dataclass(frozen=True, slots=True)
class _Script:
    """Jobs for the generator, see its source for the format."""

    peer: Peer
    port: int
    tls: bool

    def load(self, load: str, pairs: int, each: int) -> str:
        lines = [f"load {load}", f"count {each}", f"seconds {_PATIENCE}", f"delimiter {self.peer.delimiter.hex()}"]
        for pair in range(pairs):
            lines += self._connection("sender", 2 * pair)
            lines.append(f"message {self.peer.message(2 * pair + 1).hex()}")
            lines += self._connection("receiver", 2 * pair + 1)
        return "\n".join(lines) + "\n"

    def idle(self, first: int, count: int) -> str:
        lines = ["count 0", f"seconds {_PATIENCE}"]
        for user in range(first, first + count):
            lines += self._connection("idle", user)
        return "\n".join(lines) + "\n"

    def _connection(self, role: str, user: int) -> Iterator[str]:
        yield f"connection {role} {HOST} {self.port}"
        if self.tls:
            yield "tls"
        for sent, awaited in self.peer.login(user):
            yield f"send {sent.hex()}"
            yield f"expect {awaited.hex()}"


@dataclass(frozen=True, slots=True)
class _Loaded:
    result: Result
    spent: float  # CPU seconds of the server
    rss: float  # MiB

    @property
    def rate(self) -> float:
        return self.result.messages / self.result.seconds

    @property
    def shares(self) -> dict[str, float]:
        result = self.result
        return {
            "server": self.spent / result.seconds,
            "load": result.cpu / result.seconds,
            "cpu": self.spent / result.messages * 1e6,
            "p50": result.p50,
            "p99": result.p99,
            "rss": self.rss,
        }


def _loaded(server: Server, generator: Path, job: str, seconds: float | None = None) -> _Loaded:
    """The whole job, or what of it is done in so many seconds."""
    with driven(generator, job, seconds=2 * _PATIENCE) as reins:
        before = server.cpu()
        result = _for_a_while(reins, seconds) if seconds else reins.go()
        if result.strange or result.answers:
            raise RuntimeError(f"{result.strange} strange frames, {result.answers} bytes of answers")
        return _Loaded(result, server.cpu() - before, server.resident_kib() / 1024)


def _for_a_while(reins: Reins, seconds: float) -> Result:
    reins.start()
    time.sleep(seconds)
    return reins.stop()


def _memory(server: Server, generator: Path, script: _Script, count: int, rows: Rows) -> None:
    """What each of `count` more connections takes, all logged in and none of them doing anything; and then as many.

    The second figure is for servers whose runtime has memory in hand that the first ones use up.
    """
    with ExitStack() as open_ones:
        taken, first = [], 0
        for more in (_FEW, count, count):
            open_ones.enter_context(driven(generator, script.idle(first, more), seconds=2 * _PATIENCE))
            first += more
            time.sleep(_REST)
            taken.append(server.resident_kib())
    few, one, two = taken
    rows.add(f"idle connection, logged in ({count} of them)", "KiB", (one - few) / count, rss=one / 1024)
    rows.add(f"idle connection, logged in ({count} more)", "KiB", (two - one) / count, rss=two / 1024)
