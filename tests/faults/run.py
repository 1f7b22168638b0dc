"""`nox -s faults -- [--long] [--seed N] [pytest options]`: floods, deaths and scarcity, and a table of what was seen.

Short, it is what the ordinary test run does. Long, it takes about ten minutes of a quiet machine with two cores.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_LONG_SECONDS: Final = 1800  # of one test; then it hangs
_TESTS: Final = [f"tests/test_faults_{name}.py" for name in ("login", "floods", "deaths", "scarcity")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s faults --", description="Faults and floods against real processes.")
    parser.add_argument("--long", action="store_true", help="as many as before a release")
    parser.add_argument("--seed", type=int, help="of the moments at which programs are killed; else drawn and told")
    options, others = parser.parse_known_args(arguments)
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    os.environ.update(MESSAGEAPP_FAULTS_LONG=str(int(options.long)), MESSAGEAPP_FAULTS_SEED=str(seed))
    os.chdir(_ROOT)
    sys.path[:0] = [str(_ROOT / folder) for folder in ("tests", ".", "cli", "keys")]

    import pytest

    from bench.proc import machine
    from faults.figures import table

    named = any(other.startswith("tests/") for other in others)
    patience = ["-o", f"faulthandler_timeout={_LONG_SECONDS}"] if options.long else []
    code = int(pytest.main(["-q", *patience, *([] if named else _TESTS), *others]))
    about = "".join(f"{name}: {value}\n" for name, value in machine().items())
    sys.stdout.write(f"\n{about}seed: {seed}\n\n{table()}")
    return code


if __name__ == "__main__":
    sys.exit(main())
