"""`nox -s crash -- [--seed N] [--points N] [--writes]`: a server or a client is killed under load; what was seen.

With `--writes` each statement of the databases fails in its turn, too: some 20 minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_LONG_SECONDS = 3600


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s crash --", description="kill -9 of server and clients under load.")
    parser.add_argument("--seed", type=int, help="of who is killed when; else drawn and told")
    parser.add_argument("--points", type=int, default=200, help="kills (200)")
    parser.add_argument("--writes", action="store_true", help="let each statement of the databases fail, too")
    asked = parser.parse_args(arguments)
    if asked.points < 1:
        parser.error("--points is at least 1")
    seed = random.randrange(1 << 31) if asked.seed is None else asked.seed
    os.chdir(_ROOT)
    sys.path[:0] = [str(_ROOT / folder) for folder in ("tests", ".", "cli", "keys")]

    from crash.story import Outcome, run

    def tell(outcome: Outcome) -> None:
        if outcome.points % 10 == 0:
            sys.stderr.write(f"{outcome.points} of {asked.points} points\n")

    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        outcome = run(Path(folder) / "home", asked.points, seed, tell)
    lines = [
        f"seed {seed}, points {outcome.points}: {dict(outcome.kills)}",
        f"written {outcome.written}, seen as sent by their senders {outcome.acknowledged}, shown live {outcome.live}",
        f"lost {outcome.lost}, twice {outcome.twice}, altered {outcome.altered}, healed {outcome.healed}",
    ]
    for what, seconds in (
        ("server, until it listens", outcome.server_starts),
        ("server, until it listens, processor time", outcome.server_work),
        ("client, until it is logged in", outcome.client_starts),
        ("all clients back, from the start of the server", outcome.returns),
    ):
        if seconds:
            median, longest = statistics.median(seconds), max(seconds)
            lines.append(f"{what}: median {median:.2f} s, longest {longest:.2f} s of {len(seconds)}")
    lines += [f"BROKEN: {violation}" for violation in outcome.violations[:50]]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(outcome.violations)) or (_writes() if asked.writes else 0)


def _writes() -> int:
    import pytest

    os.environ["MESSAGEAPP_CRASH_ALL"] = "1"
    return int(pytest.main(["-q", "-o", f"faulthandler_timeout={_LONG_SECONDS}", "tests/test_crash_writes.py"]))


if __name__ == "__main__":
    sys.exit(main())
