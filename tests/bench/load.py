"""The load generator's process: one job from stdin, its rows to stdout. `run.py` starts it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from messageapp_keys.kem import CLASSIC, HYBRID, SWIFT, Suite

from .clients import clients
from .proc import cpu_of, resident_kib
from .relay import relay
from .rows import Rows, run_job
from .wire import Dialler, Session

_AT_ONCE = 8
_SUITES: dict[str, Suite] = {suite.name: suite for suite in (CLASSIC, HYBRID, SWIFT)}


def logins(job: dict[str, Any], rows: Rows) -> None:
    """`count` logins of RSA-3072 users, eight at a time, each closed as soon as it is complete."""
    pid, suite = int(job["pid"]), _SUITES[job["suite"]]
    users = [f"rsa{i % job['rsa_users']}" for i in range(job["count"])]
    dialler = Dialler(Path(job["home"]), job["port"])
    server, own = cpu_of(pid), time.process_time()
    sessions, seconds = dialler.log_in(users, suite, _AT_ONCE)
    busy = (time.process_time() - own) / seconds
    loop_then = cpu_of(pid).since(server).loop
    for session in sessions:
        session.close()
    _settle(pid)
    spent = cpu_of(pid).since(server).loop
    shares = {"server": loop_then / seconds, "load": busy}
    label = f"{suite.name}{job['note']}"
    rows.add(label, "logins/s", len(users) / seconds, **shares)
    rows.add(f"{label}, server CPU", "ms/login", spent / len(users) * 1e3)
    alone = []
    for i in range(job["alone"]):
        one, taken = dialler.log_in([f"rsa{i}"], suite, 1)
        alone.append(taken)
        one[0].close()
    if alone:
        rows.add(f"{label}, one at a time", "ms", sorted(alone)[len(alone) // 2] * 1e3)


def memory(job: dict[str, Any], rows: Rows) -> None:
    """Resident memory of the server before and after `count` logins that stay and say nothing."""
    pid, count = int(job["pid"]), int(job["count"])
    dialler = Dialler(Path(job["home"]), job["port"])
    warm, _ = dialler.log_in([f"user{i}" for i in range(20)], SWIFT, _AT_ONCE)
    before = _settled_memory(pid)
    idle, _ = dialler.log_in([f"user{i}" for i in range(20, 20 + count)], SWIFT, _AT_ONCE)
    after = _settled_memory(pid)
    rows.add(f"idle connection, logged in ({count} of them)", "KiB", (after - before) / count)
    rows.add("server with 20 connections", "MiB", before / 1024)
    everyone = _online(idle[0])
    if everyone != count + 20:
        raise RuntimeError(f"only {everyone} of {count + 20} are still online")
    for session in (*warm, *idle):
        session.close()


def _online(session: Session) -> int:
    from messageapp.wire.commands import Nothing

    return len(session.ask("list", Nothing(), "list").entries)


def _settle(pid: int) -> None:
    """Until the server's loop does next to nothing, at most 3 s."""
    last = cpu_of(pid).loop
    for _ in range(15):
        time.sleep(0.2)
        now = cpu_of(pid).loop
        if now - last < 0.005:
            return
        last = now


def _settled_memory(pid: int) -> int:
    _settle(pid)
    seen = resident_kib(pid)
    for _ in range(20):
        time.sleep(0.25)
        now = resident_kib(pid)
        if now == seen:
            return now
        seen = now
    return seen


if __name__ == "__main__":
    run_job({"logins": logins, "memory": memory, "relay": relay, "clients": clients})
