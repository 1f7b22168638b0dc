"""Mutation testing of what strangers reach first (login, messages, records, exchange, ratchet), with mutmut.

    python tests/mutation/run.py FOLDER            copy the checkout into FOLDER, run there, print the score
    python tests/mutation/run.py FOLDER --score    print the score of the run that is in FOLDER

Of every module at least `LEAST` of the mutants must be killed, of which there are none left out but the words of
errors: what a sentence says is no behaviour. Those that live must stand in `equivalent.toml`, each with the reason why
no test can tell it from the original. Exit code 1 where one of the two does not hold. A run takes 20 minutes of one
core; a second one in the same folder only tries what has changed.
"""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

LEAST = 0.90
KILLED = (1, 3, 36, 37, 24, -24, 152, 255, -9, -11)  # of mutmut: a test failed, or it took too long, or crashed
ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = ROOT / "tests" / "mutation" / "equivalent.toml"
COPIED = ("messageapp", "cli", "keys", "tests", "docs")
MODULES = (
    "wire/login",
    "wire/messages",
    "wire/records",
    "e2ee/exchange",
    "e2ee/ratchet",
    "e2ee/agreement",
    "e2ee/offline",
)
TESTS = (
    "tests/test_wire_login.py",
    "tests/test_wire_messages.py",
    "tests/test_wire_records.py",
    "tests/test_wire_connection.py",
    "tests/test_wire_vectors.py",
    "tests/test_derivations.py",
    "tests/test_e2ee_exchange.py",
    "tests/test_e2ee_ratchet.py",
    "tests/test_e2ee_ratchet_state.py",
    "tests/test_e2ee_offline.py",
    "tests/test_e2ee_session.py",
)
SETTINGS = f"""

[tool.mutmut]
source_paths = ["messageapp"]
only_mutate = {json.dumps([f"messageapp/{module}.py" for module in MODULES])}
also_copy = ["cli", "keys", "docs"]
pytest_add_cli_args_test_selection = {json.dumps(TESTS)}
do_not_mutate_patterns = ['raise \\w+\\("[^"]*"\\)']
"""

Mutant = tuple[str, str, str]  # function, was, becomes


def prepare(folder: Path) -> None:
    """The checkout as it is now; what an earlier run found stays."""
    for name in COPIED:
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text("utf-8") + SETTINGS, "utf-8")


def survivors(folder: Path, module: str) -> tuple[int, int, list[Mutant]]:
    """(killed, not tried, those that live) of one module."""
    made = folder / "mutants" / "messageapp" / f"{module}.py"
    codes: dict[str, int | None] = json.loads(made.with_suffix(".py.meta").read_text("utf-8"))["exit_code_by_key"]
    functions = _functions(made.read_text("utf-8"))
    living = [_changed(functions, key.rpartition(".")[2]) for key, code in codes.items() if code == 0]
    killed = sum(code in KILLED for code in codes.values())
    return killed, len(codes) - killed - len(living), living


def _functions(source: str) -> dict[str, list[str]]:
    """The lines below the `def` of each function, in a file that mutmut made: one function for each mutant."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in source.splitlines():
        if line.lstrip().startswith("def "):
            lines = found.setdefault(line.split("def ")[1].partition("(")[0], [])
        elif line.strip() and not line.lstrip().startswith("@") and "mutmut" not in line:
            lines.append(line)
    return found


def _changed(functions: dict[str, list[str]], name: str) -> Mutant:
    original = name.partition("__mutmut_")[0]
    before, after = functions[f"{original}__mutmut_orig"], functions[name]
    diff = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
    was, becomes = (" ".join(line[1:].strip() for line in diff if line.startswith(sign)) for sign in "-+")
    return original.removeprefix("x_").removeprefix("xǁ").replace("ǁ", "."), was, becomes


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def score(folder: Path) -> int:
    """Prints a table and what is wrong; 0 where all is well."""
    listed: dict[str, list[dict[str, str]]] = tomllib.loads(
        (ROOT / "tests/mutation/equivalent.toml").read_text("utf-8")
    )
    wrong: list[str] = []
    for module in MODULES:
        killed, untried, living = survivors(folder, module)
        share = killed / (killed + len(living))
        say(f"{module:14} {killed:4} of {killed + len(living):4} killed: {share:6.1%}, {len(living)} live")
        if share < LEAST or untried:
            wrong.append(f"{module}: {share:.1%} killed, {LEAST:.0%} wanted; {untried} not tried")
        known = Counter((row["function"], row["was"], row["becomes"]) for row in listed.get(module.split("/")[1], []))
        left = Counter(living) - known
        wrong += [f"{module}: {function} lives\n    - {was}\n    + {becomes}" for function, was, becomes in left]
        wrong += [f"{module}: no mutant of {gone[0]} lives as listed: {gone[2]}" for gone in known - Counter(living)]
    say("\n".join(wrong))
    return 1 if wrong else 0


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    if sys.argv[2:] != ["--score"]:
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder)
        subprocess.run([sys.executable, "-m", "mutmut", "run"], cwd=folder, check=True)
    return score(folder)


if __name__ == "__main__":
    sys.exit(main())
