"""Where the server's time goes while it relays: cProfile (built in) or py-spy (where installed)."""

from __future__ import annotations

import io
import pstats
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, Final

from .groups import Bench
from .proc import tied_to_us
from .rows import Row, Table
from .world import RunningServer, start_server

__all__ = ["profile"]

_SHOWN: Final = 25
_SPY_SECONDS: Final = 60


def profile(bench: Bench, tool: str) -> tuple[str, bool]:
    """(what to show, whether all went well). cProfile slows small functions most: read shares, not times."""
    job = bench.relay_job(pairs=[20], in_flight=[1, 32], sizes=[bench.size], latency=0)
    table = Table()
    if tool == "cprofile":
        found = bench.home / "relay.prof"
        with start_server(bench.home, {}, before=["-m", "cProfile", "-o", str(found)]) as server:
            rows = _relayed(bench, server, job)
        text = _of_cprofile(found)
    else:
        spy = shutil.which("py-spy")
        if spy is None:
            return "py-spy is not installed: pip install py-spy\n", False
        found = bench.home / "relay.raw"
        with start_server(bench.home, {}) as server:
            command = [spy, "record", f"--pid={server.pid}", f"--output={found}", "--format=raw"]
            watcher = subprocess.Popen(
                [*command, "--rate=500", f"--duration={_SPY_SECONDS}"],
                stdout=subprocess.DEVNULL,
                preexec_fn=tied_to_us(),
            )
            try:
                rows = _relayed(bench, server, job)
            except BaseException:
                watcher.terminate()
                raise
        watcher.wait(_SPY_SECONDS + 5)  # it ends with the server
        text = _of_py_spy(found)
    for row in rows:
        table.add(f"relay under {tool}", row)
    return f"{table.text()}\n\n{text}", not table.failed


def _relayed(bench: Bench, server: RunningServer, job: dict[str, Any]) -> list[Row]:
    target = {"kind": "ours", "name": "relay", "port": server.port, "pid": server.pid}
    rows = bench.load(server, {**job, "targets": [target]})
    for row in rows:
        row.group = ""
    return rows


def _of_cprofile(path: Path) -> str:
    kept = io.StringIO()
    statistics = pstats.Stats(str(path), stream=kept)
    statistics.strip_dirs().sort_stats("tottime").print_stats(_SHOWN)
    return kept.getvalue()


def _of_py_spy(path: Path) -> str:
    """Each sample is `frame;frame;… count`; the last frame is where the time went."""
    own: Counter[str] = Counter()
    for line in path.read_text(errors="replace").splitlines():
        stack, _, count = line.rpartition(" ")
        own[stack.rpartition(";")[2]] += int(count)
    total = own.total() or 1
    return "".join(f"{count / total:6.1%}  {frame}\n" for frame, count in own.most_common(_SHOWN))
