"""The groups of rows: which servers each needs, and the job that measures it in a process of its own."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .generator import GeneratorMissing, build
from .proc import tied_to_us
from .rows import Row
from .world import RunningServer, start_bare, start_server, wait_for_pool

__all__ = ["GROUPS", "RSA_USERS", "Bench", "Found"]

RSA_USERS: Final = 64
_JOB_SECONDS: Final = 300.0
_POOL_SECONDS: Final = 120.0

Found = Iterator[tuple[str, list[Row]]]


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark: where, how much, against what."""

    home: Path  # of the server, and scratch
    counts: dict[str, Any]
    size: int  # of the argument of a chat message with a text of 100 bytes
    against: tuple[Path, ...] = ()  # other checkouts
    peers: bool = False

    def generator(self) -> Path:
        """Built once. `GeneratorMissing`."""
        target = self.home / "generator"
        return target if target.exists() else build(self.home, tls=self.peers)

    def run(self, module: str, job: dict[str, Any]) -> list[Row]:
        """One job in a process of its own; a row with the error where it gives nothing."""
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=tied_to_us(),
        )
        try:
            out, _ = process.communicate(json.dumps(job).encode(), _JOB_SECONDS)
            return [Row(**row) for row in json.loads(out)]
        except subprocess.TimeoutExpired:
            return [Row(job["name"], "", error=f"not done after {_JOB_SECONDS:.0f} s")]
        except ValueError:
            return [Row(job["name"], "", error=f"the job's process ended with {process.returncode}")]
        finally:
            process.kill()
            process.wait()

    def load(self, server: RunningServer, job: dict[str, Any]) -> list[Row]:
        """A job against our server."""
        return self.run("bench.load", {**job, "home": str(self.home), "port": server.port, "pid": server.pid})

    def with_server(self, job: dict[str, Any], *, rsa_pool: int = 1, generator: bool = True) -> list[Row]:
        """A server of its own for one job."""
        try:
            if generator:
                job = {**job, "generator": str(self.generator())}
            with start_server(self.home, {}, rsa_pool=rsa_pool) as server:
                wait_for_pool(server.pid, _POOL_SECONDS)
                return self.load(server, job)
        except (RuntimeError, OSError) as error:
            return [_failed(job, error)]

    def relay_job(self, *, pairs: list[int], in_flight: list[int], sizes: list[int], latency: int) -> dict[str, Any]:
        """`targets` are still to be put in."""
        return {
            "name": "relay",
            "generator": str(self.generator()),
            "pairs": pairs,
            "in_flight": in_flight,
            "messages": self.counts["messages"],
            "sizes": {f"{size:,} bytes": size for size in sizes},
            "latency_messages": latency,
        }


def _failed(job: dict[str, Any], error: Exception) -> Row:
    kind = "" if isinstance(error, GeneratorMissing) else f"{type(error).__name__}: "
    return Row(job["name"], "", error=f"{kind}{error}")


def _logins(bench: Bench) -> Found:
    counts = bench.counts
    job: dict[str, Any] = {
        "name": "logins",
        "pool": counts["pool"],
        "swift_logins": counts["swift_logins"],
        "rsa_users": RSA_USERS,
        "alone": counts["alone"],
        "storm": counts["storm"],
        "latency_messages": counts["latency_messages"],
    }
    try:
        job["generator"] = str(bench.generator())
    except GeneratorMissing as error:  # most of these rows do without
        job["no_generator"] = str(error)
    yield "logins", bench.with_server(job, rsa_pool=counts["pool"], generator=False)


def _relay(bench: Bench) -> Found:
    """Ours, another checkout, the bare relay in both forms, the generator alone: in turn, load by load."""
    counts = bench.counts
    try:
        job = bench.relay_job(
            pairs=counts["pairs"],
            in_flight=[1, 32],
            sizes=[100, bench.size],
            latency=counts["latency_messages"],
        )
        with ExitStack() as stack:
            servers = [("ours", "relay", stack.enter_context(start_server(bench.home, {})))]
            for checkout in bench.against:
                other = start_server(bench.home, {}, checkout=checkout)
                servers.append(("ours", f"relay of {checkout.name}", stack.enter_context(other)))
            for form, name in (("naive", "bare trio reader/writer"), ("best", "bare trio, best form")):
                server = stack.enter_context(start_bare(form, bench.home))
                servers.append(("bare", f"{name}, no cryptography", server))
            for kind, _, server in servers:
                if kind == "ours":
                    wait_for_pool(server.pid, _POOL_SECONDS)
            targets = [{"kind": kind, "name": name, "port": s.port, "pid": s.pid} for kind, name, s in servers]
            targets.append({"kind": "alone", "name": "the load generator alone, no server between"})
            yield "relay", bench.load(servers[0][2], {**job, "targets": targets})
    except (RuntimeError, OSError) as error:
        yield "relay", [_failed({"name": "relay"}, error)]


def _scaling(bench: Bench) -> Found:
    counts = bench.counts
    names = ("users", "scaling_messages", "turns", "longer")
    job: dict[str, Any] = {"name": "scaling", **{name: counts[name] for name in names}}
    try:
        bench.generator()
        with start_server(bench.home, {}) as small:
            job["small"] = {"port": small.port, "pid": small.pid}
            yield "scaling, 100 bytes", bench.with_server(job)
    except (RuntimeError, OSError) as error:
        yield "scaling, 100 bytes", [_failed(job, error)]


def _large(bench: Bench) -> Found:
    job: dict[str, Any] = {"name": "large", "large_messages": bench.counts["large_messages"]}
    try:
        bench.generator()
        with start_bare("best", bench.home) as bare:
            job["bare"] = {"port": bare.port, "pid": bare.pid}
            yield "64 KiB messages", bench.with_server(job)
    except (RuntimeError, OSError) as error:
        yield "64 KiB messages", [_failed(job, error)]


def _memory(bench: Bench) -> Found:
    yield "memory", bench.with_server({"name": "memory", "count": bench.counts["idle"]}, generator=False)


def _clients(bench: Bench) -> Found:
    job = {"name": "clients", "chats": bench.counts["chats"], "texts": bench.counts["texts"]}
    yield "two clients and the server", bench.with_server(job, generator=False)


def _mail(bench: Bench) -> Found:
    yield "stored messages", bench.with_server({"name": "mail", "mail": bench.counts["mail"]}, generator=False)


def _restart(bench: Bench) -> Found:
    job = {"name": "restart", "home": str(bench.home), "restart": bench.counts["restart"]}
    yield "restart of the server", bench.run("bench.restart", job)


def _library(bench: Bench) -> Found:
    yield "in the library", bench.run("bench.local", {"name": "layers", "texts": bench.counts["texts"]})
    yield "in the library", bench.run("bench.local", {"name": "keys", "repeats": bench.counts["repeats"]})


def _keylog(bench: Bench) -> Found:
    job = {"name": "log", "home": str(bench.home), "leaves": bench.counts["leaves"], "replay": bench.counts["replay"]}
    yield "key log", bench.run("bench.keylog", job)


def _search(bench: Bench) -> Found:
    job = {"name": "search", "home": str(bench.home), "stored": bench.counts["stored"]}
    yield "stored messages of a client", bench.run("bench.search", job)


def _peers(bench: Bench) -> Found:
    try:
        peers = importlib.import_module("bench.peers")
        yield from peers.rows(bench.generator(), bench.counts, bench.home)
    except (ImportError, RuntimeError, OSError) as error:
        yield "other servers", [_failed({"name": "other servers"}, error)]


GROUPS: Final[dict[str, Callable[[Bench], Found]]] = {
    "logins": _logins,
    "relay": _relay,
    "scaling": _scaling,
    "large": _large,
    "memory": _memory,
    "clients": _clients,
    "mail": _mail,
    "restart": _restart,
    "library": _library,
    "keylog": _keylog,
    "search": _search,
    "peers": _peers,
}
