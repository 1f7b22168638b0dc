"""The program that runs the ProVerif models, with a stand-in for ProVerif; and the results file fits the models."""

from __future__ import annotations

import re
import stat
import sys
from pathlib import Path

import pytest

from models.prove import MODELS, NOT_RUN, ProofFailed, models, prove, recorded, stale, verdicts

# As ProVerif 2.05 prints them.
OUTPUT = """\
Process 0 (that is, the initial process):
-- Query not attacker(secX[]) in process 0.
RESULT not attacker(secX[]) is true.
RESULT not attacker_p1(secY[]) is false.
RESULT inj-event(REnd(B[],A[],k_2)) ==> inj-event(RBegin(A[],B[],k_2)) is false.
RESULT (but event(REnd(B[],A[],k_2)) ==> event(RBegin(A[],B[],k_2)) is true.)
RESULT event(SEnd(u_2,s_2)) ==> event(CBegin(u_2,s_2)) cannot be proved.
RESULT Observational equivalence is true.
RESULT Observational equivalence is true (bad not derivable).
--------------------------------------------------------------
Verification summary:
Query not attacker(secX[]) is true.
"""
MODEL = """\
free c: channel.
query attacker(x).  (* expect: true *)
query event(e()).  (* expect: false *)
process 0
"""
SAYS = "RESULT not attacker(x[]) is true.\nRESULT not event(e) is false.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    models.mkdir()
    (models / "one.pv").write_text(MODEL)
    return models


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> Path:
    """A `proverif` that knows its version, says `says` about each model and notes how it was called."""
    program, calls = tmp_path / "bin" / "proverif", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"open({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        f"print('Proverif 2.05. Cryptographic protocol verifier' if sys.argv[1] == '-help' else {says!r})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    return calls


def test_result_lines_are_read() -> None:
    assert verdicts(OUTPUT) == ["true", "false", "false", "unproved", "true", "true"]


def test_verdicts_and_hashes_are_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, SAYS)
    text = prove(folder)
    assert "version: ProVerif 2.05\n" in text
    assert recorded(folder) == {"one.pv": (models(folder)[0].digest(), ["true", "false"])}
    assert not stale(folder)


@pytest.mark.parametrize(
    "says", [SAYS.replace("true", "false"), SAYS.replace("is true", "cannot be proved"), "Error: Syntax error.", ""]
)
def test_another_verdict_fails(says: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, says)
    with pytest.raises(ProofFailed, match=r"one\.pv: expected true false"):
        prove(folder)
    assert stale(folder) == ["one.pv: ProVerif did not say what was expected"]


def test_a_changed_model_is_noticed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, SAYS)
    prove(folder)
    (folder / "one.pv").write_text(MODEL.replace("process 0", "process out(c,c)"))
    assert stale(folder) == ["one.pv: changed after its run"]


def test_a_library_belongs_to_the_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install(tmp_path, monkeypatch, SAYS)
    (folder / "roles.pvl").write_text("free c: channel.\n")
    (folder / "one.pv").write_text("(* lib: roles.pvl *)\n" + MODEL)
    prove(folder)
    assert calls.read_text().splitlines()[1] == f"-lib {folder / 'roles.pvl'} {folder / 'one.pv'}"
    (folder / "roles.pvl").write_text("free d: channel.\n")
    assert stale(folder) == ["one.pv: changed after its run"]


def test_a_query_without_an_expectation(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, SAYS)
    (folder / "one.pv").write_text(MODEL.replace("(* expect: false *)", ""))
    with pytest.raises(ProofFailed, match="not every query says what is expected"):
        prove(folder)


def test_models_and_results_name_the_same_files(folder: Path) -> None:
    (folder / "results.txt").write_text("two.pv: not run\n")
    assert stale(folder) == ["one.pv: not in results.txt", "two.pv: in results.txt, but not here"]


def test_without_proverif(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(ProofFailed, match="proverif is not on the PATH"):
        prove(folder)
    assert not (folder / "results.txt").exists()


def test_our_results_fit_our_models() -> None:
    assert not stale()
    assert all(model.expected for model in models())
    assert all(path.is_file() for model in models() for path in model.libraries)


def test_the_page_says_which_models_were_run() -> None:
    """docs/models/README.md has a row for each; `not run` stands there exactly where results.txt has it."""
    page = (MODELS / "README.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.pv)` \|(.*)$", page, re.MULTILINE))
    ran = recorded()
    assert rows.keys() == ran.keys()
    assert {name for name, rest in rows.items() if NOT_RUN in rest} == {name for name in ran if not ran[name][0]}
