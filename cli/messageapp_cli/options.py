"""Options that several subcommands share: the home folder, names, the passphrase."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

__all__ = [
    "NEW_PASSPHRASE_VARIABLE",
    "UsernameType",
    "ask_new_passphrase",
    "ask_passphrase",
    "chosen_server",
    "home_option",
    "new_passphrase_option",
    "passphrase_option",
]

PASSPHRASE_VARIABLE: Final = "MESSAGEAPP_PASSPHRASE"  # noqa: S105 - its name
NEW_PASSPHRASE_VARIABLE: Final = "MESSAGEAPP_NEW_PASSPHRASE"  # noqa: S105 - its name
HOME_VARIABLE: Final = "MESSAGEAPP_HOME"
DEFAULT_PORT: Final = 8081


def _home(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    from messageapp.store.home import Home

    chosen = value or os.environ.get(HOME_VARIABLE)
    if not chosen:
        import platformdirs

        chosen = platformdirs.user_data_dir("messageapp", appauthor=False)
    return Home(Path(chosen).expanduser())


home_option: Callable[[Any], Any] = click.option(
    "--home",
    metavar="DIR",
    callback=_home,
    help=f"Where everything lies. Default: ${HOME_VARIABLE}, else your user data folder.",
)

passphrase_option: Callable[[Any], Any] = click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help=f"Read the passphrase from the first line of FILE. Else ${PASSPHRASE_VARIABLE}, else it is asked for.",
)


new_passphrase_option: Callable[[Any], Any] = click.option(
    "--new-passphrase-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help=f"Read the new passphrase from the first line of FILE. Else ${NEW_PASSPHRASE_VARIABLE}, else it is asked for.",
)


class UsernameType(click.ParamType[str]):
    """A username, checked by the protocol's rule."""

    name = "NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from messageapp_keys.names import BadUsername, check_username

        try:
            return check_username(value)
        except BadUsername as error:
            self.fail(str(error), param, ctx)


def ask_passphrase(file: str | None, question: str, *, twice: bool = False) -> str:
    """From the file, the environment, or the terminal (never from stdin, which may be a script)."""
    return _ask(file, question, PASSPHRASE_VARIABLE, "--passphrase-file", twice=twice)


def ask_new_passphrase(file: str | None, question: str) -> str:
    """The one that takes the place of the old one, likewise; twice on the terminal."""
    return _ask(file, question, NEW_PASSPHRASE_VARIABLE, "--new-passphrase-file", twice=True)


def _ask(file: str | None, question: str, variable: str, option: str, *, twice: bool) -> str:
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public

    if file is not None:
        first = read_public(Path(file)).split(b"\n", 1)[0].rstrip(b"\r")
        try:
            return _not_empty(first.decode())
        except UnicodeDecodeError:
            raise UnusableSetup(f"the passphrase in {file} is not UTF-8") from None
    if (from_environment := os.environ.get(variable)) is not None:
        return _not_empty(from_environment)
    try:
        with open("/dev/tty", "r+b", buffering=0):
            pass
    except OSError:
        raise UnusableSetup(f"no terminal to ask for the passphrase; use {option} FILE or ${variable}") from None
    passphrase = _not_empty(getpass.getpass(f"{question}: "))
    if twice and getpass.getpass("again: ") != passphrase:
        raise UnusableSetup("the two passphrases differ; nothing was made")
    return passphrase


def _not_empty(passphrase: str) -> str:
    from messageapp.errors import UnusableSetup

    if not passphrase:
        raise UnusableSetup("the passphrase is empty")
    return passphrase


def chosen_server(database: Any, host: str | None, port: int | None) -> tuple[str, int]:
    """HOST and PORT as typed (without PORT 8081); without HOST the only server of the account in `database`.

    `UnusableSetup` where the account knows no server, or several. One server under several addresses is one: the
    address of the newest first login is taken.
    """
    from messageapp.errors import UnusableSetup
    from messageapp.store.trust import known_servers

    if host is not None:
        return host, port or DEFAULT_PORT
    known = known_servers(database)
    if not known:
        raise UnusableSetup("this account has not logged in anywhere yet; name the server: HOST PORT")
    if len({pin.canonical for pin in known}) > 1:
        names = ", ".join(f"{pin.name}:{pin.port}" for pin in known)
        raise UnusableSetup(f"this account knows several servers ({names}); name one: HOST PORT")
    return known[-1].name, known[-1].port
