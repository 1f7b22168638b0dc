"""The border: help without loading anything, exit codes, and no traceback for anybody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from messageapp import errors
from messageapp.errors import MessageAppError
from messageapp_cli import main as border
from support.processes import SECONDS, environment, run


def result(monkeypatch: pytest.MonkeyPatch, outcome: object) -> int:
    """The exit code where a command returns or raises `outcome`."""

    @click.command()
    def command() -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(border, "cli", command)
    with pytest.raises(SystemExit) as caught:
        border.main([])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, 0),
        (0, 0),
        (5, 5),
        (errors.UnusableSetup("the file is not there"), 2),
        (errors.ServerNotAuthenticated("the file is not there"), 3),
        (errors.LoginRefused("the file is not there"), 4),
        (errors.CannotConnect("the file is not there"), 5),
        (errors.ConnectionCut("the file is not there"), 5),
        (errors.ServerGoodbye("the file is not there", 1), 5),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], outcome: object, code: int
) -> None:
    assert result(monkeypatch, outcome) == code
    expected = "messageapp: the file is not there\n" if isinstance(outcome, MessageAppError) else ""
    assert capsys.readouterr().err.lstrip("\n") == expected  # after ^C a new line


def test_errors_in_groups_are_unpacked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    inner = ExceptionGroup("", [errors.LoginRefused()])
    assert result(monkeypatch, ExceptionGroup("", [inner, ValueError("hidden")])) == 4
    assert capsys.readouterr().err.startswith("messageapp: the server refused the login: ")


def test_a_bug_shows_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MESSAGEAPP_DEBUG", raising=False)
    assert result(monkeypatch, ValueError("what was typed")) == 1
    err = capsys.readouterr().err
    assert err.startswith("messageapp: internal error (ValueError)")
    assert "what was typed" not in err
    monkeypatch.setenv("MESSAGEAPP_DEBUG", "1")
    assert result(monkeypatch, ValueError("what was typed")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_every_error_has_an_exit_code_of_the_contract() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MessageAppError)]
    assert len(kinds) > 8
    assert {kind.exit_code for kind in kinds} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["connect", "127.0.0.1", "0"],
        ["connect", "127.0.0.1", "65536"],
        ["connect", "127.0.0.1", "port"],
        ["connect", "--suite", "rot13"],
        ["connect", "--user", "-bad-"],
        ["serve", "99999"],
        ["serve", "--log", "xml"],
        ["serve", "--limit", "sessions"],
        ["serve", "--limit", "sessions=many"],
        ["keygen"],
        ["keygen", "bad name"],
        ["keygen", "a" * 17],
        ["user", "add", "b\u00f6b"],
        ["user", "remove"],
    ],
)
def test_usage_errors(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESSAGEAPP_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as caught:
        border.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], *([name, "--help"] for name in border.COMMANDS)])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        border.main(arguments)
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert "Usage: messageapp" in out
    assert err == ""
    if arguments in (["--help"], ["-h"]):
        for name, (_, text) in border.COMMANDS.items():
            assert f"  {name} " in out
            assert text in out


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from messageapp_cli.main import main\n"
        "try:\n main(['--help'])\n"
        "finally:\n"
        " print(sorted({'trio', 'cryptography', 'prompt_toolkit', 'sqlite3'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        # Measured, it would load what the measuring needs.
        env={name: value for name, value in environment(tmp_path).items() if not name.startswith("COVERAGE")},
        timeout=SECONDS,
        check=True,
    )
    assert done.stderr == "[]\n"


def test_the_version(tmp_path: Path) -> None:
    pytest.importorskip("importlib.metadata").version  # noqa: B018 - a bare checkout has none
    done = run(tmp_path, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("messageapp ")


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`messageapp --help | head -0` ends quietly."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "messageapp_cli.main", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdout is not None
    process.stdout.close()
    with process:
        _, err = process.communicate(timeout=SECONDS)
    assert b"Traceback" not in err
    assert b"internal error" not in err
