"""Simulated runs of the real server and clients: nothing breaks, everything is reached, and a seed says it all."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from messageapp.errors import UnusableSetup
from messageapp.sim.plan import FAULTS, make_plan
from messageapp.sim.run import run_plan
from messageapp_cli import sim as command
from messageapp_cli.sim import sim

SEEDS, CHUNK = 200, 20
USERS, STEPS = 3, 25


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of tests, the same for all of its workers."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def results(shared: Path, first: int) -> list[tuple[str | None, str]]:
    """(what broke, the history) of each seed of a chunk. Whoever asks first makes the runs, and the others wait."""
    with (shared / f"seeds-from-{first}.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if not (made := file.read()):
            runs = [run_plan(make_plan(seed, USERS, STEPS, FAULTS)) for seed in range(first, first + CHUNK)]
            made = json.dumps([(run.broken and str(run.broken), "\n".join(run.lines)) for run in runs])
            file.write(made)
    return [(broken, history) for broken, history in json.loads(made)]


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_nothing_breaks_whatever_goes_wrong(shared: Path, first: int) -> None:
    for seed, (broken, _) in enumerate(results(shared, first), first):
        assert broken is None, f"messageapp sim --seed {seed} --users {USERS} --steps {STEPS}: {broken}"


REACHED = {
    "a text": r"< \w+: ",
    "a text that came late": r"\(late\)",
    "a stored text": r"< \w+: .*\(stored\)",
    "a text that was asked for again": r"< \w+: .*\(healed\)",
    "a full mailbox, or disk": r"is queued mailbox-full|is queued server-disk-full",
    "a gap": r"< \d+ of \w+ missing",
    "a text that does not open": "< UndecryptableText",
    "a text that a chat did not carry": "is queued waiting",
    "held texts given back": r"< not delivered: .*before",
    "an exchange that was changed": "< ChatFailed .*somebody may be between",
    "an exchange that stalls": "< ChatFailed .*did not finish",
    "a peer that leaves": r"< ChatOver \w+: left",
    "a peer that is cut": r"< ChatOver \w+: disconnected",
    "a refusal": "< CallRefused",
    "a call taken back": "< CallCanceled",
    "a reader that is too slow": "< Ended: .*too slow",
    "a shutdown": "< Ended: .*shutting down",
    "a cut": "< Ended: connection cut",
    "a changed byte in a session": "< Ended: a record|< Ended: a frame",
    "a login that is disturbed": "cannot log in: ServerNotAuthenticated|cannot log in: LoginRefused",
    "a clock that is wrong": "cannot log in: .*(expired|not valid before)",
}


def test_everything_is_reached(shared: Path) -> None:
    """Otherwise the test above holds of little."""
    history = "\n".join(history for first in range(1, SEEDS + 1, CHUNK) for _, history in results(shared, first))
    assert [name for name, pattern in REACHED.items() if not re.search(pattern, history)] == []
    assert [name for name in FAULTS if f"] {name}" not in history] == []


def test_users_alone_break_nothing() -> None:
    """Without faults the invariants are stricter: no session ends, no login fails, no text is lost."""
    for seed in range(1, 11):
        result = run_plan(make_plan(seed, 4, 40, ()))
        assert result.broken is None, f"seed {seed}: {result.broken}"
        assert result.shown


def _simulate(hash_seed: int, *arguments: str) -> str:
    command = [sys.executable, "-m", "messageapp_cli.main", "sim", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert not done.stderr
    return done.stdout


def test_a_seed_gives_the_same_history_in_every_process() -> None:
    """The digest is over every step, event, log line and read of a stream; 10 is a seed with RSA."""
    arguments = ("--seed", "8", "--seeds", "3", "--users", "4", "--steps", "30", "--history")
    first, second = _simulate(1, *arguments), _simulate(2, *arguments)
    assert first == second
    assert "nothing broken" in first
    assert _simulate(1, *arguments[:1], "11", *arguments[2:]) != first


def test_leaving_out_a_step_changes_no_other() -> None:
    plan = make_plan(5, 3, 20, FAULTS)
    assert plan.steps[4:9] == plan.only(range(5, 10)).steps
    assert make_plan(5, 3, 20, FAULTS) == plan
    assert make_plan(6, 3, 20, FAULTS) != plan


def test_a_scheduler_that_cannot_repeat_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING")
    with pytest.raises(UnusableSetup, match="cannot repeat a schedule"):
        run_plan(make_plan(1, 2, 1, ()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--faults", "cut,rain"], "there is no fault 'rain'; the faults are split, delay, cut"),
        (["--faults", ""], "there is no fault ''"),
        (["--only", "1,x"], "numbers of steps, with commas between"),
        (["--only", "31"], "--only has numbers from 1 to 30"),
        (["--only", "1", "--seeds", "2"], "--only is of one seed"),
        (["--users", "1"], "1 is not in the range 2<=x<=8"),
        (["--seeds", "0"], "0 is not in the range x>=1"),
        (["--seed", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(sim, arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_steps_and_faults_can_be_chosen() -> None:
    result = CliRunner().invoke(
        sim, ["--seed", "4", "--steps", "12", "--faults", "reset, cut", "--only", "1,2,3,4,5,6", "--history"]
    )
    assert result.exit_code == 0, result.output
    assert not re.search(r"\[([7-9]|1\d)\]", result.output)
    assert not any(f"] {name}" in result.output for name in FAULTS if name not in ("reset", "cut"))


def test_many_runs_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_TOLD", 2)
    result = CliRunner().invoke(sim, ["--seeds", "5", "--steps", "0", "--users", "2"], standalone_mode=False)
    assert result.return_value == 0
    assert result.stderr.splitlines() == [f"messageapp: {done} of 5 runs, nothing broken so far" for done in (2, 4)]
    assert re.match(r"5 runs, nothing broken; \d+ texts shown; ", result.stdout)
