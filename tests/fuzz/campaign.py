"""Mutations by number: `python -m fuzz.campaign NAME…` in tests/ attacks those targets, each with its own number.

    --count N    mutations of each target instead of its own number
    --seed N     another row of mutations (default 0)
    --json       one line of JSON a target
    --replay F   only this input, with the traceback of what escapes

Ends with 1 where something was found. The inputs follow from name, seed and number alone, so a finding comes again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .mutator import Mutator
from .target import Target

__all__ = ["MOST_RSS", "Finding", "Result", "attack", "corpus", "minimal", "shown"]

CORPUS = Path(__file__).with_name("corpus")
MOST_RSS = 512 << 20  # bytes that a process may hold at most while it is attacked


@dataclass(frozen=True, slots=True)
class Finding:
    """`error` is the last line of the traceback."""

    data: bytes
    error: str
    place: str


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    inputs: int
    accepted: int
    cpu: float  # seconds
    finding: str = ""


def escaped(target: Target, data: bytes) -> Finding | None:
    """What one input makes escape, if anything does."""
    try:
        target.accepts(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also the panic of a library in Rust, which is no Exception
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        frames = traceback.extract_tb(error.__traceback__)
        place = " < ".join(f"{Path(frame.filename).name}:{frame.name}" for frame in frames[::-1][:4])
        return Finding(data, f"{type(error).__name__}: {error}".partition("\n")[0], place)
    return None


def minimal(target: Target, finding: Finding) -> Finding:
    """A short input that makes the same escape from the same place."""
    size = len(finding.data) // 2
    while size:
        start = 0
        while start < len(finding.data):
            shorter = escaped(target, finding.data[:start] + finding.data[start + size :])
            if shorter is not None and shorter.place == finding.place:
                finding = shorter
            else:
                start += size
        size //= 2
    return finding


def corpus(name: str, folder: Path = CORPUS) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / name).glob("*"))]


def attack(target: Target, count: int, seed: int = 0) -> tuple[int, int, Finding | None]:
    """(inputs tried, how many of them were accepted, what escaped): seeds, corpus, then `count` mutations of them."""
    seeds = list(target.harness.seeds)
    for data in seeds:
        if (finding := escaped(target, data)) is not None:
            return 0, 0, finding
        if not target.accepts(data):
            raise ValueError(
                f"{target.name} refuses its own seed; a new format? then: python -m fuzz.record, in tests/"
            )
    kept = corpus(target.name)
    mutator = Mutator(seeds + kept, seed)
    accepted = 0

    def inputs() -> Iterator[bytes]:
        yield from kept
        for _ in range(count):
            yield mutator.next()

    number = 0
    accepts: Callable[[bytes], bool] = target.accepts
    for number, data in enumerate(inputs(), 1):
        try:
            accepted += accepts(data)
        except KeyboardInterrupt:
            raise
        except BaseException:  # also the panic of a library in Rust, which is no Exception
            finding = escaped(target, data)
            if finding is None:
                raise
            return number, accepted, minimal(target, finding)
    return number, accepted, None


def shown(target: Target, finding: Finding) -> str:
    """For people: what escaped, where, the input (it is written to a file) and the command that shows it again."""
    path = Path(tempfile.gettempdir()) / f"fuzz-{target.name}-{hashlib.sha256(finding.data).hexdigest()[:16]}"
    path.write_bytes(finding.data)
    return (
        f"{target.name}: {finding.error} in {finding.place}\n  {len(finding.data)} bytes: {finding.data.hex()}\n"
        f"  again: cd tests && PYTHONPATH=..:../cli:../keys python -m fuzz.campaign {target.name} --replay {path}"
    )


def main(arguments: list[str]) -> int:
    from .registry import TARGETS

    parser = argparse.ArgumentParser(
        prog="fuzz.campaign", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], metavar="NAME")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args(arguments)
    warnings.simplefilter("error")  # nor may a stranger make us write warnings on a terminal
    chosen = [TARGETS[name] for name in given.names or TARGETS]
    if given.replay is not None:
        print("accepted" if chosen[0].accepts(given.replay.read_bytes()) else "refused")
        return 0
    good = True
    for target in chosen:
        began = time.process_time()
        count = target.mutations if given.count is None else given.count
        inputs, accepted, finding = attack(target, count, given.seed)
        found = "" if finding is None else shown(target, finding)
        good = good and not found
        result = Result(target.name, inputs, accepted, round(time.process_time() - began, 2), found)
        line = f"{result.name:30} {inputs:8,} inputs {accepted:8,} accepted {result.cpu:7.2f} s CPU  {found}"
        print(json.dumps(asdict(result)) if given.json else line, flush=True)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({"rss": rss}) if given.json else f"at most {rss >> 20} MiB", flush=True)
    return 0 if good and rss <= MOST_RSS else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
