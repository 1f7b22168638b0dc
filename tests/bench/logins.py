"""Logins: how many, what they cost, and what those who are already in notice of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from messageapp_keys.kem import CLASSIC, HYBRID, SWIFT, Suite

from .generator import GeneratorMissing
from .proc import cpu_of, settle
from .rows import Rows
from .targets import Figures, Ours, check, figures, measure
from .traffic import paced, prepared
from .wire import Dialler
from .world import wait_for_pool

__all__ = ["logins"]

_AT_ONCE: Final = 8
_SIZE: Final = 100
_LIGHT: Final = 5000  # µs between the messages of a quiet relay
_EVERY: Final = 2000  # µs: five pairs, each every 10 ms
_STORM_SECONDS: Final = 20
_POOL_SECONDS: Final = 120.0
_FIRST_OF_STORM: Final = 1000  # number of the first user that storms in


def logins(job: dict[str, Any], rows: Rows) -> None:
    pid = int(job["pid"])
    dialler = Dialler(Path(job["home"]), job["port"])
    edwards = [f"user{i % 900 + 100}" for i in range(job["swift_logins"])]
    _burst(pid, dialler, SWIFT, edwards, "swift, Ed25519 users", rows)
    rsa = [f"rsa{i % job['rsa_users']}" for i in range(job["swift_logins"] // 2)]
    _burst(pid, dialler, SWIFT, rsa, "swift, RSA-3072 users", rows)
    with rows.part("swift, one at a time"):
        _alone(dialler, int(job["alone"]), rows)
    with rows.part("login storm"):
        _storm(job, pid, dialler, rows)
    note = f", burst of {job['pool']} from a full pool"
    found: dict[str, Figures] = {}
    with rows.part("quiet relay, pool full"):
        found["full"] = _quiet(job, "quiet relay, pool full", rows)
    _burst(pid, dialler, HYBRID, edwards[: job["pool"]], f"hybrid{note}", rows)
    with rows.part("quiet relay, pool refilling"):
        before, began = cpu_of(pid).others, time.monotonic()
        found["refilling"] = _quiet(job, "quiet relay, pool refilling", rows)
        share = (cpu_of(pid).others - before) / (time.monotonic() - began)
        rows.add("quiet relay, pool refilling: the thread that makes keys", "% of a core", share * 100)
    if len(found) == 2:
        for name in ("p50", "p99"):
            ratio = found["refilling"].figure(name) / found["full"].figure(name)
            rows.add(f"quiet relay, {name}: pool refilling ÷ full", "ratio", ratio)
    with rows.part(f"classic{note}"):
        wait_for_pool(pid, _POOL_SECONDS)
        _burst(pid, dialler, CLASSIC, edwards[: job["pool"]], f"classic{note}", rows)


def _generator(job: dict[str, Any]) -> Path:
    if "generator" not in job:
        raise GeneratorMissing(job["no_generator"])
    return Path(job["generator"])


def _burst(pid: int, dialler: Dialler, suite: Suite, users: Sequence[str], label: str, rows: Rows) -> None:
    """Logins, eight at a time, closed when all are complete. Closing is part of what a login costs."""
    with rows.part(label):
        server = cpu_of(pid)
        sessions, seconds = dialler.log_in(users, suite, _AT_ONCE)
        loop_then = cpu_of(pid).since(server).loop
        for session in sessions:
            session.close()
        settle(pid)
        spent = cpu_of(pid).since(server).loop
        shares = {"server": loop_then / seconds, "load": dialler.cpu / seconds, "cpu": spent / len(users) * 1e6}
        rows.add(label, "logins/s", len(users) / seconds, **shares)
        rows.add(f"{label}, by what they cost the server", "logins/CPU s", len(users) / spent)


def _alone(dialler: Dialler, count: int, rows: Rows) -> None:
    taken = []
    for i in range(count):
        sessions, seconds = dialler.log_in([f"user{100 + i}"], SWIFT, 1)
        taken.append(seconds)
        sessions[0].close()
    rows.add("swift, one at a time, Ed25519 users", "ms", sorted(taken)[len(taken) // 2] * 1e3)


def _quiet(job: dict[str, Any], label: str, rows: Rows) -> Figures:
    generator = _generator(job)
    target = Ours(label, Path(job["home"]), job["port"], int(job["pid"]), 1)
    try:
        found = measure(
            target,
            generator,
            pairs=1,
            each=int(job["latency_messages"]),
            size=_SIZE,
            load=paced(_LIGHT),
        )
    finally:
        target.close()
    rows.add(f"{label}, p99", "ms one way", found.figure("p99") / 1e3, **found.shares)
    return found


def _storm(job: dict[str, Any], pid: int, dialler: Dialler, rows: Rows) -> None:
    """Many at once log in while five pairs go on talking."""
    count = int(job["storm"])
    users = [f"user{_FIRST_OF_STORM + i}" for i in range(count)]
    target = Ours("storm", Path(job["home"]), job["port"], pid, 5)
    each = _STORM_SECONDS * 1_000_000 // _EVERY // 5
    with prepared(_generator(job), target.lanes(5, each, _SIZE), paced(_EVERY)) as carried:
        server = cpu_of(pid)
        carried.reins.start()
        sessions, seconds = dialler.log_in(users, SWIFT, count)
        result = carried.reins.stop()
        spent = cpu_of(pid).since(server).loop
        check(target, carried, result)
    target.close()
    for session in sessions:
        session.close()
    found = figures(pid, result, spent)
    label = f"login storm of {count} at once"
    rows.add(f"{label}: all are in after", "s", seconds, server=spent / seconds, load=dialler.cpu / seconds)
    shares = {name: found.shares[name] for name in ("p50", "p99", "rss")}
    rows.add(f"{label}: messages of others, p99", "ms one way", result.p99 / 1e3, **shares)
    rows.add(f"{label}: messages of others, latest", "ms one way", result.max / 1e3)
    settle(pid)
