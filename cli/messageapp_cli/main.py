"""The `messageapp` command: subcommands loaded when they are used, exit codes, the outermost border of errors.

Exit codes: 0 done · 1 internal error · 2 usage or a local file, folder or port · 3 server not authenticated ·
4 login refused · 5 cannot connect, or connection lost.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any, Final

import click

__all__ = ["cli", "main"]

COMMANDS: Final = {
    "serve": ("serve", "Run a server."),
    "join": ("join", "Join a server by a join code, and chat."),
    "connect": ("connect", "Log in to a server and chat."),
    "demo": ("demo", "A server and a friendly peer in a temporary folder: try it."),
    "keygen": ("keys", "Make an identity."),
    "keys": ("keys", "List, export, change, back up and restore identities."),
    "passwd": ("passwd", "Change the passphrase of an identity and its messages."),
    "invite": ("invite", "Make, list and revoke join codes."),
    "log": ("log", "The key log: verify, watch, export, witness."),
    "user": ("users", "The server's directory of users."),
    "ca": ("ca", "The server's certificate authority."),
    "admin": ("admin", "What the server knows of a user."),
    "vectors": ("vectors", "Check known-answer vectors."),
    "sim": ("sim", "Simulate servers, users and faults, and look for what may not be."),
}
_INTERRUPTED: Final = 130
_MOST: Final = 5000  # characters of a complaint: more than a path and a sentence have


class LazyGroup(click.Group):
    """Names and help without importing the commands: `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __package__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"messageapp {version('messageapp')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Private messaging for people who own their server and live in a terminal."""


def complain(text: str) -> None:
    click.echo(f"messageapp: {_shown(text)}", err=True)


def _shown(text: str) -> str:
    """One line: the name of a file, which can hold anything, must not talk to the terminal."""
    if text.isascii() and text.isprintable():  # nearly always; then nothing is loaded, also where memory is short
        return text[:_MOST]
    from .render import one_line

    return one_line(text, _MOST)


def _complain_of_usage(error: click.ClickException) -> None:
    """As click itself shows it, but what was typed made printable."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # nothing was: this is the help
        error.show()
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", err=True)
    click.echo(f"Error: {_shown(error.format_message())}", err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run and exit. The border: a traceback only with MESSAGEAPP_DEBUG, as it could show what was typed."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="messageapp", standalone_mode=False)
    except click.ClickException as error:
        _complain_of_usage(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except BaseExceptionGroup as group:
        return _report(group)
    except Exception as error:
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    from messageapp.errors import MessageAppError

    for leaf in _leaves(error):
        if isinstance(leaf, MessageAppError):
            complain(str(leaf))
            return leaf.exit_code
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in _leaves(error)):
        return _INTERRUPTED
    if any(isinstance(leaf, MemoryError) for leaf in _leaves(error)):
        complain("there is not enough memory")
        return 1
    if os.environ.get("MESSAGEAPP_DEBUG"):
        traceback.print_exception(error)
    complain(f"internal error ({type(_leaves(error)[0]).__name__}); with MESSAGEAPP_DEBUG=1 it shows where")
    return 1


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    main()
