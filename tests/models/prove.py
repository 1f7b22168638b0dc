"""Runs the ProVerif models of docs/models and compares each verdict with the one written beside its query.

    python tests/models/prove.py      needs `proverif` on the PATH; writes docs/models/results.txt

A query stands on one line with `(* expect: true *)` (or `false`) behind it; `true` means that the property holds. A
line `(* lib: FILE *)` names a library. Results hold for one text: the file has the SHA-256 of each model that was run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODELS: Final = Path(__file__).resolve().parents[2] / "docs" / "models"
RESULTS: Final = "results.txt"
NOT_RUN: Final = "not run"
_SECONDS: Final = 900  # for one model
_EXPECT: Final = re.compile(r"\(\* expect: (true|false) \*\)")
_QUERY: Final = re.compile(r"^query\b|^\(\* equivalence \*\)", re.MULTILINE)
_LIB: Final = re.compile(r"^\(\* lib: (\S+) \*\)$", re.MULTILINE)
_RESULT: Final = re.compile(
    r"^RESULT (?!\(but)(.*?)(?: is (true|false)(?: \(.*\))?| (cannot be proved))\.?$", re.MULTILINE
)
_VERSION: Final = re.compile(r"proverif (\d[\w.]*\w)", re.IGNORECASE)
_HEAD: Final = """\
# What ProVerif said about the models here. Written by `nox -s prove`; a test compares it with the models.
# "not run": nobody has a verdict for this text yet.
"""


class ProofFailed(Exception):
    """a model could not be run, or its verdicts are not the expected ones"""


@dataclass(frozen=True, slots=True)
class Model:
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def libraries(self) -> list[Path]:
        return [self.path.parent / name for name in _LIB.findall(self.text)]

    @property
    def expected(self) -> list[str]:
        """One verdict for each query; `ProofFailed` where one has none."""
        wanted = _EXPECT.findall(self.text)
        if len(wanted) != len(_QUERY.findall(self.text)):
            raise ProofFailed(f"{self.path.name}: not every query says what is expected")
        return wanted

    def digest(self) -> str:
        """SHA-256 over the libraries and the model, in this order."""
        return hashlib.sha256(b"".join(path.read_bytes() for path in [*self.libraries, self.path])).hexdigest()


def models(folder: Path = MODELS) -> list[Model]:
    return [Model(path) for path in sorted(folder.glob("*.pv"))]


def verdicts(output: str) -> list[str]:
    """true, false or unproved, one for each query, in ProVerif's order."""
    return [verdict or "unproved" for _, verdict, _ in _RESULT.findall(output)]


def recorded(folder: Path = MODELS) -> dict[str, tuple[str, list[str]]]:
    """Of results.txt: model → (digest, verdicts). A model that was not run has neither."""
    found = dict[str, tuple[str, list[str]]]()
    for line in (folder / RESULTS).read_text("utf-8").splitlines():
        if line and not line.startswith(("#", "version")):
            name, rest = line.split(": ", 1)
            digest, *said = ["", *[]] if rest == NOT_RUN else rest.split()
            found[name] = (digest, said)
    return found


def stale(folder: Path = MODELS) -> list[str]:
    """What is wrong between the models and results.txt, in words; empty where all is well."""
    found, here = recorded(folder), {model.path.name: model for model in models(folder)}
    wrong = [f"{name}: not in {RESULTS}" for name in here.keys() - found.keys()]
    wrong += [f"{name}: in {RESULTS}, but not here" for name in found.keys() - here.keys()]
    for name in sorted(here.keys() & found.keys()):
        digest, said = found[name]
        if digest and digest != here[name].digest():
            wrong.append(f"{name}: changed after its run")
        elif digest and said != here[name].expected:
            wrong.append(f"{name}: ProVerif did not say what was expected")
    return wrong


def _run(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False, encoding="utf-8"
        )
    except subprocess.TimeoutExpired:
        raise ProofFailed(f"{' '.join(arguments)}: no verdict in {_SECONDS} s") from None
    return done.stdout + done.stderr


def prove(folder: Path = MODELS) -> str:
    """Run every model and write results.txt, which is also the value. `ProofFailed` after that, if anything differs."""
    program = shutil.which("proverif")
    if program is None:
        raise ProofFailed("proverif is not on the PATH; it comes with `opam install proverif`. Nothing was written")
    version = _VERSION.search(_run(program, "-help"))
    lines, wrong = [f"version: ProVerif {version[1] if version else 'unknown'}"], list[str]()
    for model in models(folder):
        libraries = [word for path in model.libraries for word in ("-lib", str(path))]
        output = _run(program, *libraries, str(model.path))
        said = verdicts(output)
        lines.append(" ".join((f"{model.path.name}: {model.digest()}", *said)))
        if said != model.expected:
            last = output.strip().splitlines()[-1:] or ["no output"]
            wrong.append(f"{model.path.name}: expected {' '.join(model.expected)}; said {' '.join(said) or last[0]}")
    text = _HEAD + "\n".join(lines) + "\n"
    (folder / RESULTS).write_text(text, "utf-8")
    if wrong:
        raise ProofFailed("\n".join(wrong))
    return text


if __name__ == "__main__":
    try:
        print(prove())
    except ProofFailed as error:
        sys.exit(str(error))
