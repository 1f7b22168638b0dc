"""Fuzzing guided by coverage, with atheris: `nox -s fuzz -- --seconds 60 --only NAME --seed N --keep`.

Each target gets a process of its own, that many seconds and 512 MiB; it starts from its seeds and `corpus/NAME/`. What
escapes is made short and shown with the command that shows it again, and the run ends with 1. Inputs that reach a step
of the code that nothing in the corpus reaches are counted; `--keep` puts them into the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from .campaign import CORPUS, MOST_RSS, corpus, escaped, minimal, shown
from .mutator import Mutator

__all__ = ["steps"]

_INPUT_SECONDS: Final = 20  # one input that takes longer has found something, too
_OWN: Final = ("messageapp", "messageapp_keys")
_MODULES: Final = ("fuzz.registry",)
Step = tuple[object, int, int]


def steps(attack: Callable[[bytes], object], data: bytes) -> set[Step]:
    """Pairs of lines of ours that one input ran one after the other."""
    found: set[Step] = set()

    def line(frame: FrameType, event: str, _: object) -> Any:
        before = 0

        def each(frame: FrameType, event: str, _: object) -> Any:
            nonlocal before
            found.add((frame.f_code, before, frame.f_lineno))
            before = frame.f_lineno
            return each

        name = frame.f_globals.get("__name__", "")
        return each if name.partition(".")[0] in _OWN else None

    before = sys.gettrace()
    sys.settrace(line)
    try:
        attack(data)
    except Exception:  # noqa: S110 - what it reached is wanted, not how it ended
        pass
    finally:
        sys.settrace(before)
    return found


def _one(name: str, options: Sequence[str]) -> None:
    """In a process of its own: does not return."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=[*_OWN], enable_loader_override=False):
        target = importlib.import_module("fuzz.registry").TARGETS[name]
    warnings.simplefilter("error")
    harness = target.harness
    longest = 2 * max(map(len, harness.seeds)) + 64

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 4:
            return bytes(atheris.Mutate(data, most))
        return Mutator([data or harness.seeds[0]], seed).next()[:most]

    options = [*options, f"-max_len={longest}", f"-rss_limit_mb={MOST_RSS >> 20}", f"-timeout={_INPUT_SECONDS}"]
    atheris.Setup([sys.argv[0], *options], target.accepts, custom_mutator=mutate)
    atheris.Fuzz()


def _run(name: str, seconds: int, seed: int, folder: Path) -> tuple[int, str]:
    """(exit code, last line that counts) of one target; finds are in `folder`/found, inputs in `folder`/inputs."""
    from .registry import TARGETS

    (folder / "inputs").mkdir()
    (folder / "found").mkdir()
    for number, data in enumerate([*TARGETS[name].harness.seeds, *corpus(name)]):
        (folder / "inputs" / f"{number}").write_bytes(data)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-artifact_prefix={folder}/found/",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "fuzz.guided", "--child", name, "--", *options, str(folder / "inputs")]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    stats = [
        line.split()[1]
        for line in done.stderr.splitlines()
        if line.startswith(("stat::number_of_exec", "stat::peak_rss"))
    ]
    (folder / "log").write_text(done.stdout + done.stderr)
    return done.returncode, " runs, MiB ".join(stats)


def _new_inputs(name: str, folder: Path) -> list[bytes]:
    """Short ones first: each that reaches a step that none before it reaches."""
    from .registry import TARGETS

    harness = TARGETS[name].harness
    known: set[Step] = set()
    for data in [*harness.seeds, *corpus(name)]:
        known |= steps(harness.attack, data)
    new = []
    for data in sorted((path.read_bytes() for path in folder.iterdir()), key=lambda data: (len(data), data)):
        reached = steps(harness.attack, data)
        if reached - known:
            known |= reached
            new.append(data)
    return new


def _keep(name: str, inputs: Sequence[bytes]) -> None:
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (CORPUS / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _above_zero(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def _say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="nox -s fuzz --", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=_above_zero, default=10, help="for each target")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="put new inputs into the corpus")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        _one(given.child, given.options)
        return 0
    try:
        importlib.import_module("atheris")
    except ImportError:
        _say("atheris is not installed, and there is no other guide: pip install atheris (CPython 3.11 to 3.13, Linux)")
        return 2
    from .registry import TARGETS

    unknown = [name for name in given.only if name not in TARGETS]
    if unknown:
        near = [name for name in TARGETS if unknown[0] in name]
        _say(f"there is no target {unknown[0]}; the targets are\n" + "\n".join(f"  {name}" for name in near or TARGETS))
        return 2
    good = True
    for name in given.only or TARGETS:
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as made:
            folder = Path(made)
            code, stats = _run(name, given.seconds, given.seed, folder)
            found = [escaped(TARGETS[name], path.read_bytes()) for path in sorted((folder / "found").iterdir())]
            new = _new_inputs(name, folder / "inputs")
            _say(f"{name:30} {stats:>28}  {len(new)} new inputs{' kept' if given.keep and new else ''}")
            if given.keep and new:
                _keep(name, new)
            for finding in filter(None, found):
                _say(shown(TARGETS[name], minimal(TARGETS[name], finding)))
            if code and not any(found):  # too slow, too large, or killed: the file of libFuzzer says it
                kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
                for path in [*(folder / "found").iterdir(), folder / "log"]:
                    (kept / path.name).write_bytes(path.read_bytes())
                _say(f"{name}: ended with {code}; its log and the input are in {kept}")
            good = good and code == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
