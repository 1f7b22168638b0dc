"""Subcommands in this process: a new one takes most of a second to come up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from messageapp_cli.main import main
from messageapp_keys.backup import seal_backup
from messageapp_keys.databasekey import seal_database_key
from messageapp_keys.keystore import seal_identity

from .processes import LIGHT

__all__ = ["Command", "called", "hide_terminal", "stretch_lightly"]

Command = Callable[..., tuple[int, str, str]]
"""Words → (exit code, stdout, stderr)."""


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([*words])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    assert "internal error" not in captured.err, words
    return caught.value.code, captured.out, captured.err


def stretch_lightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program seals with a passphrase costs a test next to nothing."""
    for place in ("identities", "accounts", "backup"):
        monkeypatch.setattr(f"messageapp.store.{place}.seal_identity", partial(seal_identity, cost=LIGHT))
    for place in ("accounts", "backup"):
        monkeypatch.setattr(f"messageapp.store.{place}.seal_database_key", partial(seal_database_key, cost=LIGHT))
    monkeypatch.setattr("messageapp_keys.backup.seal_backup", partial(seal_backup, cost=LIGHT))


def hide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none that could be asked."""
    real = open

    def no_terminal(file: object, *args: object, **kwargs: object) -> object:
        if file == "/dev/tty":
            raise OSError("no such device")
        return real(file, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", no_terminal)
