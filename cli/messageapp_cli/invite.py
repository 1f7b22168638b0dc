"""`messageapp invite`: join codes, made by the owner of the server."""

from __future__ import annotations

import re
import sys
import time
from typing import Any, Final

import click

from messageapp.clock import wall_ms

from .directory import open_directory
from .options import UsernameType, home_option

__all__ = ["LIFETIME_MS", "invite", "invite_again", "make_code", "write_address"]

_UNITS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SHOWN_ID: Final = 8  # hexadecimal digits; `invite revoke` takes as many as tell them apart
LIFETIME_MS: Final = 86_400_000


class _Lifetime(click.ParamType[int]):
    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,6})([mhdw])", value)
        if found is None or not int(found[1]):
            self.fail(f"{value} is no time; say 30m, 12h, 1d or 2w", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


class _Group(click.Group):
    """`invite bob` is `invite new bob`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["new", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Group)
def invite() -> None:
    """Join codes for new users: `messageapp invite bob` makes one, and bob types `messageapp join CODE`.

    Whoever has a code can use it: give it to the user by a way that you trust.
    """


@invite.command("new")
@click.argument("name", required=False, type=UsernameType())
@click.option("--expires", metavar="TIME", type=_Lifetime(), default="1d", help="30m, 12h, 1d or 2w. Default: 1d.")
@click.option("--uses", type=click.IntRange(1), default=1, help="How many may join with it; with NAME only one can.")
@click.option("--at", metavar="HOST:PORT", help="Where the server is reached. Default: as it was started.")
@click.option("--qr/--no-qr", default=None, help="Show the code also as a QR code. Default: on a terminal.")
@home_option
def new(name: str | None, expires: int, uses: int, at: str | None, qr: bool | None, home: Any) -> None:
    """Make a join code for NAME; without NAME the new user chooses one."""
    from messageapp.errors import UnusableSetup
    from messageapp.store.users import registered_name

    if name is not None and uses > 1:
        raise UnusableSetup(f"only one user can be {name}: leave --uses or the name out")
    with open_directory(home) as database:
        if name is not None and registered_name(database, name) is not None:
            raise UnusableSetup(f"there is a user {name} already; a new key for {name}: messageapp user reset {name}")
        code = make_code(home, database, name or "", expires, uses=uses, at=at)
    show_code(code, name, expires, qr)


def invite_again(home: Any, name: str) -> None:
    """A join code that gives NAME another key. `UnusableSetup` where nobody has that name."""
    from messageapp.errors import UnusableSetup
    from messageapp.store.users import registered_name

    with open_directory(home) as database:
        registered = registered_name(database, name)
        if registered is None:
            raise UnusableSetup(f"there is no user {name}")
        code = make_code(home, database, registered, LIFETIME_MS, reset=True)
    show_code(code, registered, LIFETIME_MS, None)


def show_code(code: str, name: str | None, lifetime_ms: int, qr: bool | None) -> None:
    """On stdout, alone on its line; what to do with it on stderr."""
    from .main import complain
    from .qr import qr_lines

    click.echo(code)
    if sys.stdout.isatty() if qr is None else qr:
        for line in qr_lines(code):
            click.echo(line)
    until = _shown_time(wall_ms() + lifetime_ms)
    complain(f"a join code for {name or 'whoever has it'}, until {until}; join with: messageapp join CODE")


def make_code(
    home: Any,
    database: Any,
    name: str,
    lifetime_ms: int,
    *,
    uses: int = 1,
    reset: bool = False,
    first: bool = False,
    at: str | None = None,
) -> str:
    """A new join code for `name`, "" for whoever comes; `reset` gives an enrolled user another key.

    `UnusableSetup` where it is not known where the server is reached, or its certificate does not have that name.
    """
    from messageapp.server.setup import load_authority
    from messageapp.store.invites import create_invite
    from messageapp_keys.certificate import certificate_der
    from messageapp_keys.joincode import JoinCode
    from messageapp_keys.primitives import hash_bytes

    authority = hash_bytes(certificate_der(load_authority(home)))
    host, port = _reached_at(home, at)
    secret = create_invite(database, name, wall_ms(), lifetime_ms, uses=uses, reset=reset, first=first)
    return JoinCode(host, port, name, authority, secret).encode()


def write_address(home: Any, host: str, port: int) -> None:
    """Where join codes say that the server is, until its next start."""
    from messageapp.store.home import write_file

    shown = f"[{host}]" if ":" in host else host
    write_file(home.address, f"{shown}:{port}\n".encode(), replace=True)


def _reached_at(home: Any, at: str | None) -> tuple[str, int]:
    from messageapp.errors import UnusableSetup
    from messageapp.store.home import read_public
    from messageapp_keys.certificate import folded, leaf_names, load_certificate_untrusted

    from .account import server_name

    if at is None:
        if not home.address.exists():
            raise UnusableSetup("the server has not been started yet: messageapp serve; or say --at HOST:PORT")
        at = read_public(home.address).decode("ascii", "replace").strip()
    host, _, digits = at.rpartition(":")
    if not host or not digits.isdecimal() or not digits.isascii() or not 0 < int(digits) < 65536:
        raise UnusableSetup(f"{at} is not of the form HOST:PORT")
    host = server_name(host)
    names = leaf_names(load_certificate_untrusted(read_public(home.server_certificate)))
    if folded(host) not in map(folded, names):
        raise UnusableSetup(
            f"the server's certificate is for {', '.join(names)}, not for {host}; "
            f"start the server once with: messageapp serve --name {host}"
        )
    return host, int(digits)


@invite.command("list")
@home_option
def list_(home: Any) -> None:
    """Every invitation: id, for whom, how long, how often; never the code."""
    from messageapp.store.invites import list_invites

    with open_directory(home) as database:
        for entry in list_invites(database):
            fault = entry.fault(wall_ms())
            state = f"{entry.uses} left" if fault is None else fault.name.lower()
            words = [
                entry.id.hex()[:_SHOWN_ID],
                entry.name or "anybody",
                f"until {_shown_time(entry.expires_ms)}",
                f"used {entry.used}, {state}",
            ]
            click.echo("  ".join([*words, "new key"] if entry.reset else words))


@invite.command("revoke")
@click.argument("identifier", metavar="ID")
@home_option
def revoke(identifier: str, home: Any) -> None:
    """Nobody can join any more with the code whose ID `invite list` shows. Who has joined stays."""
    from messageapp.store.invites import revoke_invite

    with open_directory(home) as database:
        gone = revoke_invite(database, identifier, wall_ms())
    click.echo(f"revoked {gone.id.hex()[:_SHOWN_ID]}")


def _shown_time(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ms / 1000))
