"""`messageapp admin`: what the owner of a server may want to see."""

from __future__ import annotations

from typing import Any

import click

from .directory import open_directory
from .options import UsernameType, home_option

__all__ = ["admin"]


@click.group()
def admin() -> None:
    """What the server knows. Nothing is changed."""


@admin.command("knows")
@click.argument("name", type=UsernameType())
@home_option
def knows(name: str, home: Any) -> None:
    """Everything that this server holds about NAME: on disk, in memory while NAME is online, and what it never has."""
    from contextlib import closing

    from messageapp.errors import UnusableSetup
    from messageapp.store.database import stored
    from messageapp.store.knowledge import FILES, IN_MEMORY, MAIL_TABLES, NEVER, NOBODYS, TABLES
    from messageapp.store.mailbox import open_mailbox

    if not home.directory.exists():
        raise UnusableSetup(f"there is no server in {home.path}")
    with open_directory(home) as database, stored("the directory of users"):
        click.echo(f"What is stored about {name}, in {home.directory}:")
        for table in TABLES:
            _show_table(database, table, name)
    if home.mail.exists():
        with closing(open_mailbox(home.mail)) as database, stored("the mailbox"):
            click.echo(f"\nWhat is stored about {name}, in {home.mail}:")
            for table in MAIL_TABLES:
                _show_table(database, table, name)
    click.echo("\nTables without anything of a single user:")
    _show(f"{table}: {what}" for table, what in NOBODYS.items())
    click.echo("\nFiles of the server:")
    found = (
        (what, sorted(path.relative_to(home.path) for path in home.path.glob(place))) for place, what in FILES.items()
    )
    _show(f"{path}: {what}" for what, paths in found for path in paths)
    click.echo(f"\nIn memory, only while {name} is online unless it says otherwise:")
    _show(IN_MEMORY)
    click.echo("\nNever on the server:")
    _show(NEVER)


def _show_table(database: Any, table: str, name: str) -> None:
    from messageapp.store.knowledge import MAIL_TABLES, TABLES, rows_about

    from .render import one_line

    rows = list(rows_about(database, table, name))
    click.echo(f"\n{table}: {(TABLES.get(table) or MAIL_TABLES[table]).about}" + ("" if rows else " – nothing"))
    for number, row in enumerate(rows):
        if number:
            click.echo()
        width = max(len(column) for column, _, _ in row)
        for column, value, what in row:
            click.echo(f"  {column:<{width}}  {one_line(value)}  ({what})")


def _show(lines: Any) -> None:
    for line in lines:
        click.echo(f"  {line}")
