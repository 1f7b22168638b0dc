"""What a message and a connection cost the server with more and more users logged in, and after many messages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from messageapp.wire.commands import Nothing
from messageapp_keys.kem import SWIFT

from .proc import cpu_of, resident_kib, settle
from .rows import Rows
from .targets import Figures, Ours, measure
from .traffic import closed
from .wire import Session

__all__ = ["memory", "scaling"]

_AT_ONCE: Final = 8
_SIZE: Final = 100


def scaling(job: dict[str, Any], rows: Rows) -> None:
    """`job["users"]`: how many are logged in, rising. Twenty pairs talk; five with the first and the last number.

    A second server, which stays at 50 users, gets every load in turn with the first: what else goes on in the machine
    falls on both, so their ratio shows what the users alone do.
    """
    pid, home, port = int(job["pid"]), Path(job["home"]), job["port"]
    longer, turns = int(job["longer"]), int(job["turns"])
    small, online, idle = _Small(job), 10, list[Session]()
    talking = {5: Ours("five", home, port, pid, 5)}
    ratio: dict[tuple[int, int], float] = {}
    for users in job["users"]:
        if 20 not in talking and users >= 50:
            talking[20] = Ours("twenty", home, port, pid, 20, first=10)
            online += 40
        with rows.part(f"{users:,} users log in"):
            idle += _log_in(job, talking[5], online, users - online, rows)
            online = users
        for pairs, target in talking.items():
            for flight in (1, 32) if pairs == 20 or users in (job["users"][0], job["users"][-1]) else ():
                label = f"{pairs} pairs, {flight} in flight each, of {users:,} users"
                with rows.part(label):
                    found, ratio[pairs, flight] = small.compare(target, pairs, flight)
                    rows.add(label, "messages/s", found.rate, **found.shares)
                    rows.add(f"{label}: CPU ÷ with 50 users", "ratio", ratio[pairs, flight])
    pairs = max(talking)
    with rows.part("many messages"):
        for _ in range(longer * turns):
            small.one(talking[pairs], pairs, 32)
    for flight in (1, 32):
        label = f"{pairs} pairs, {flight} in flight each"
        with rows.part(f"{label}, after many messages"):
            found, after = small.compare(talking[pairs], pairs, flight)
            rows.add(f"{label}, after {longer} times as many messages", "messages/s", found.rate, **found.shares)
            rows.add(f"{label}: CPU after {longer} times as many ÷ before", "ratio", after / ratio[pairs, flight])
    everyone = len(idle[0].ask("list", Nothing(), "list").entries) if idle else online
    if everyone != online:
        raise RuntimeError(f"only {everyone} of {online} are still online")


class _Small:
    """The second server with its pairs."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        home, port, pid = Path(job["home"]), job["small"]["port"], job["small"]["pid"]
        self._pairs = {5: Ours("five", home, port, pid, 5), 20: Ours("twenty", home, port, pid, 20, first=10)}

    def compare(self, target: Ours, pairs: int, flight: int) -> tuple[Figures, float]:
        """(the median measurement there, CPU of a message there by that here), the servers in turn, again and again."""
        there, here, turns = [], [], int(self._job["turns"])
        for _ in range(turns):
            there.append(self.one(target, pairs, flight))
            here.append(self.one(self._pairs[pairs], pairs, flight).figure("cpu"))
        there.sort(key=lambda found: found.figure("cpu"))
        found = there[turns // 2]
        return found, found.figure("cpu") / sorted(here)[turns // 2]

    def one(self, target: Ours, pairs: int, flight: int) -> Figures:
        each = max(flight, self._job["scaling_messages"][str(flight)] // pairs)
        generator = Path(self._job["generator"])
        return measure(target, generator, pairs=pairs, each=each, size=_SIZE, load=closed(flight))


def _log_in(job: dict[str, Any], target: Ours, first: int, count: int, rows: Rows) -> list[Session]:
    """Users that stay and say nothing, and what they cost in memory."""
    pid = int(job["pid"])
    if count <= 0:
        return []
    before, spent = resident_kib(pid), cpu_of(pid)
    sessions, seconds = target.dialler.log_in([f"user{first + i}" for i in range(count)], SWIFT, _AT_ONCE)
    used = cpu_of(pid).since(spent).loop
    shares = {"server": used / seconds, "load": target.dialler.cpu / seconds, "cpu": used / count * 1e6}
    rows.add(f"swift logins from {first:,} to {first + count:,} users", "logins/s", count / seconds, **shares)
    if count >= 500:
        settle(pid)
        each = (resident_kib(pid) - before) / count
        rows.add(f"idle connection, {first:,} to {first + count:,} users", "KiB", each, rss=resident_kib(pid) / 1024)
    return list(sessions)


def memory(job: dict[str, Any], rows: Rows) -> None:
    """Resident memory of the server before and after `count` logins that stay and say nothing."""
    pid, count = int(job["pid"]), int(job["count"])
    warm = Ours("warm", Path(job["home"]), job["port"], pid, 10)
    before = _settled_memory(pid)
    idle, _ = warm.dialler.log_in([f"user{i}" for i in range(20, 20 + count)], SWIFT, _AT_ONCE)
    after = _settled_memory(pid)
    rows.add(f"idle connection, logged in ({count} of them)", "KiB", (after - before) / count, rss=after / 1024)
    rows.add("server with 20 connections", "MiB", before / 1024)
    everyone = len(idle[0].ask("list", Nothing(), "list").entries)
    if everyone != count + 20:
        raise RuntimeError(f"only {everyone} of {count + 20} are still online")


def _settled_memory(pid: int) -> int:
    settle(pid)
    seen = resident_kib(pid)
    for _ in range(20):
        time.sleep(0.25)
        now = resident_kib(pid)
        if now == seen:
            return now
        seen = now
    return seen
