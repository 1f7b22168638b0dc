"""`messageapp vectors`: known answers of the login, for whoever builds a second implementation (protocol §19)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

__all__ = ["vectors"]

_MAX_SIZE: Final = 16 * 2**20  # four cases are 0.1 MB; a larger file is something else


@click.group()
def vectors() -> None:
    """Known-answer vectors of the login protocol."""


@vectors.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Check the vectors in FILE (default: those that come with MessageApp).

    Prints a line for every check that fails, then "N passed, M failed". Ends with 0 if none failed, else 1.
    """
    from messageapp.wire.vectors import check as check_document

    passed, failures = check_document(_load(file or _own_file()))
    for failure in failures:
        click.echo(failure)
    click.echo(f"{passed} passed, {len(failures)} failed")
    if failures:
        raise SystemExit(1)


@vectors.command(hidden=True)
@click.argument("file", type=click.Path(path_type=Path))
def make(file: Path) -> None:
    """Write a new document of vectors to FILE; its private keys are test keys and are in it."""
    import json
    import os
    from datetime import UTC, datetime

    from messageapp.errors import UnusableSetup
    from messageapp.wire.vector_making import make as make_document

    from .render import one_line

    text = json.dumps(make_document(datetime.now(UTC), os.urandom), indent=1) + "\n"
    try:
        file.write_text(text, encoding="ascii")
    except OSError as error:
        raise UnusableSetup(f"cannot write the vectors: {error.strerror}") from None
    click.echo(f"vectors written to {one_line(str(file))}", err=True)


def _own_file() -> Path:
    """Ours: in the checkout, else where the wheel puts its data."""
    import sysconfig

    import messageapp_keys

    checkout = Path(messageapp_keys.__file__).parents[1] / "vectors" / "login.json"
    if checkout.is_file():
        return checkout
    return Path(sysconfig.get_path("data")) / "share" / "messageapp" / "vectors" / "login.json"


def _load(file: Path) -> object:
    import json

    from messageapp.errors import UnusableSetup

    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_SIZE + 1)
    except OSError as error:
        raise UnusableSetup(f"cannot read the vectors: {error.strerror}; give the path of a JSON file") from None
    if len(data) > _MAX_SIZE:
        raise UnusableSetup("cannot read the vectors: the file is far too large for any")
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError):
        raise UnusableSetup("cannot read the vectors: the file is not JSON") from None
    return document
