"""One session a purpose; without -s those that must hold: tests, types, lint, wheel, docs."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.sessions = ["tests", "types", "lint", "wheel", "docs"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

PINS = ("-c", "constraints.txt")
GROUPS = nox.project.load_toml("pyproject.toml")["dependency-groups"]
ON_ALL_CORES = ("-q", "-n", "auto", "--dist", "worksteal")  # neighbours share what they have made
PATIENT = ("-o", "faulthandler_timeout=900")  # measured, a test takes three times as long
WHOLE = "*/wire/login.py,*/wire/messages.py,*/wire/records.py,*/e2ee/ratchet.py,*/e2ee/exchange.py"
WHOLE += ",*/e2ee/agreement.py,*/e2ee/offline.py,*/e2ee/ratchet_state.py"


def _install(session: nox.Session, *groups: str, editable: bool = True) -> None:
    wanted = [requirement for group in groups for requirement in GROUPS[group]]
    session.install(*PINS, *(["-e", "."] if editable else []), *wanted)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that must hold; `-- PATH` or pytest options narrow it."""
    _install(session, "test")
    session.run("pytest", *(session.posargs or ON_ALL_CORES))


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over everything."""
    _install(session, "test", "types")
    session.install(*PINS, "nox")
    session.run("mypy", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    _install(session, "lint", editable=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def wheel(session: nox.Session) -> None:
    """What ships works outside the checkout: build sdist → wheel, install it, run it from an empty folder."""
    dist = Path(session.create_tmp()).resolve() / "dist"
    session.install(*PINS, "build", "hatchling")
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(dist), ".")
    (built,) = dist.glob("*.whl")
    session.run("python", "-m", "pip", "install", "-q", *PINS, "--force-reinstall", str(built))
    with session.chdir(session.create_tmp()):
        session.run("messageapp", "--version")
        session.run("messageapp", "vectors", "check")
        session.run(
            "python",
            "-c",
            "import messageapp_cli, messageapp_keys, sys; assert 'site-packages' in messageapp_cli.__file__",
        )
        script = Path("story.txt")
        script.write_text("list\nchat bob\nhello\n/exit\nexit\n")
        session.run("sh", "-c", f"messageapp demo < {script} > story.out", external=True)
        assert "CHAT IS SECURE! with bob" in Path("story.out").read_text()
    for path in dist.iterdir():
        path.unlink()


@nox.session
def docs(session: nox.Session) -> None:
    """The generated parts of docs/ are current."""
    _install(session)
    session.run("python", "-m", "messageapp_cli.docs", *(session.posargs or ["--check"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Figures, never verdicts: `-- --quick` for a short run, `-- --plot FOLDER [FILE]` to draw the last one."""
    if session.posargs[:1] == ["--plot"]:
        _install(session, "plot", editable=False)
        folder, *results = session.posargs[1:]
        session.run("python", "tests/bench/plot.py", *(results or ["bench-results.json"]), folder)
        return
    _install(session, "test")
    session.run("python", "tests/bench/run.py", *session.posargs)


@nox.session
def sim(session: nox.Session) -> None:
    """Simulated runs with faults, a process a core: `-- --seeds N --seed FIRST`; 10,000 if nothing is said."""
    parser = argparse.ArgumentParser(prog="nox -s sim --")
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(session.posargs)
    if asked.seeds < 1 or asked.seed < 0:
        session.error("--seeds is at least 1, --seed at least 0")
    _install(session)
    program = shutil.which("messageapp", path=session.bin)
    assert program is not None
    share = -(-asked.seeds // (os.cpu_count() or 1))
    last = asked.seed + asked.seeds
    running = [
        subprocess.Popen([program, "sim", "--seed", str(first), "--seeds", str(min(share, last - first))])
        for first in range(asked.seed, last, share)
    ]
    if any([one.wait() for one in running]):  # noqa: C419 - all of them
        session.error("a seed breaks an invariant, or a run could not be made: see above")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzzing guided by coverage: `-- --seconds 60 --only NAME --seed N --keep`; each target 10 s if not said."""
    _install(session, "test")
    try:
        session.install(*PINS, *GROUPS["fuzz"])
    except nox.command.CommandFailed:
        session.error("atheris cannot be installed here: it has wheels for CPython 3.11 to 3.13 on Linux")
    with session.chdir("tests"):
        session.run("python", "-m", "fuzz.guided", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Floods, dead peers, kills, no files, disk or memory: `-- --long --seed N`; a table of figures at the end."""
    _install(session, "test")
    session.run("python", "tests/faults/run.py", *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """kill -9 of server and clients under load, 200 times: `-- --seed N --points N`; `--writes`: failing disks too."""
    _install(session, "test")
    session.run("python", "tests/crash/run.py", *session.posargs)


@nox.session
def timing(session: nox.Session) -> None:
    """Does the time of a failed login tell why it failed? `-- --tries 10000` on a quiet machine."""
    _install(session, "test")
    session.run("python", "tests/bench/timing.py", *session.posargs)


@nox.session
def prove(session: nox.Session) -> None:
    """The ProVerif models of docs/models, where `proverif` is on the PATH; writes docs/models/results.txt."""
    session.run("python", "tests/models/prove.py")


@nox.session
def coverage(session: nox.Session) -> None:
    """All tests with branch coverage: 95 % in all, 100 % where strangers come first. Three times as slow."""
    _install(session, "test", "coverage")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *ON_ALL_CORES, *PATIENT, *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report", "--fail-under=95")
    session.run("coverage", "report", f"--include={WHOLE}", "--fail-under=100")


@nox.session
def mutation(session: nox.Session) -> None:
    """Mutants of login, messages, records, exchange, ratchet: 90 % killed, the others listed with a reason."""
    _install(session, "test", "mutation")
    session.run("python", "tests/mutation/run.py", str(Path(session.create_tmp()).resolve() / "mutation"))


@nox.session
def audit(session: nox.Session) -> None:
    """Known holes of the pinned dependencies; fails, too, where the advisories cannot be asked."""
    _install(session, "audit", editable=False)
    session.log("where the network cannot be reached, it says of each package that it was not found")
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", "constraints.txt")
