"""`messageapp log`: what the key log of a server says, and whether all of it holds (protocol §12)."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from .account import logged_in, open_account, ready_account, server_name
from .options import UsernameType, chosen_server, home_option, passphrase_option

__all__ = ["entry_line", "log"]

KINDS: Final = {
    "enrolled": "enrolled",
    "signed": "changed, signed by the old key",
    "reset": "reset by the administrator",
    "revoked": "revoked by the administrator",
    "unexplained": "changed, NOT SIGNED by the old key",
    "unknown": "changed; the signature could not be checked",
}
"""Whose doing an entry is, in words."""
_BAD: Final = {
    "unexplained": "the key before has not signed this change, and no administrator says that it was reset",
    "unknown": "the server does not give the key before, which must have signed this change",
}
_KEEP: Final = ("own-key", "own-missing")  # alarms about the own name: the log itself is not in doubt


@click.group()
def log() -> None:
    """The key log of a server: every enrolment, change and revocation of a key.

    Clients check it by themselves. Exit code 3 means that something in it does not hold.
    """


def server_arguments(command: Any) -> Any:
    """HOST PORT, whose account, how it opens, and where it lies."""
    for add in (
        home_option,
        passphrase_option,
        click.option("--user", type=UsernameType(), help="Which identity of this home. Default: the only one."),
        click.argument("port", type=click.IntRange(1, 65535), required=False),
        click.argument("host", required=False),
    ):
        command = add(command)
    return command


def login_arguments(command: Any) -> Any:
    """The same for commands that log in."""
    ca = click.option("--ca", metavar="FILE.pem", type=click.Path(dir_okay=False), help="The server's CA certificate.")
    return server_arguments(ca(command))


def _in_session(work: Callable[[Any, Any], Awaitable[int]], where: dict[str, Any]) -> int:
    """Log in, wait until the log is followed, and do `work(client, state)`; its exit code."""
    import trio

    async def run(ready: Any) -> int:
        async with logged_in(ready) as client:
            return await work(client, await followed(client))
        return 0  # never comes here; a type checker cannot know that the context swallows nothing

    with ready_account(**where) as ready:
        return trio.run(run, ready)


async def followed(client: Any) -> Any:
    """The log's state once all that the server has shown is verified.

    `UnusableSetup` where there is no log, `KeyRefused` at an alarm, `LogUnavailable`, or what ended the session.
    """
    from messageapp.client.asking import LogUnavailable
    from messageapp.client.lies import KeyRefused
    from messageapp.errors import UnusableSetup

    from .main import complain

    if not client.log.kept:
        raise UnusableSetup("this server keeps no key log")
    try:
        await client.log.caught_up()
    except KeyRefused:
        for path in _evidence(client):
            complain(f"the checkpoints, as the server signed them, are in {path}")
        raise
    except LogUnavailable:
        if client.ended is not None:  # which says more
            raise client.ended from None
        raise
    return client.log.state()


def _evidence(client: Any) -> list[str]:
    """The files that the alarm just raised has left."""
    import trio

    found: list[str] = []
    try:
        while True:
            found.append(getattr(client.events.receive_nowait(), "evidence", ""))
    except (trio.WouldBlock, trio.EndOfChannel):
        return [path for path in found if path]


def day_and_time(ms: int) -> str:
    """UTC; whatever a server has written there."""
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, OSError, ValueError):
        return "at no possible time"


def entry_line(entry: Any) -> str:
    """One entry: number, time, user, version, whose doing, the key."""
    from messageapp_keys.fingerprint import key_fingerprint

    leaf = entry.leaf
    fields = (f"#{entry.number}", day_and_time(leaf.ms), leaf.user, f"version {leaf.version}", KINDS[entry.kind])
    return "  ".join((*fields, key_fingerprint(leaf.key_id)))


def root_text(root: bytes) -> str:
    return base64.b64encode(root).decode()


@log.command("verify", short_help="Read the whole log and check it.")
@login_arguments
def verify(**where: Any) -> int:
    """Read the whole log from its first entry, hash it anew, and compare with the server's signed checkpoint.

    HOST and PORT may be left out where the account knows one server only.
    """
    return _in_session(_verify, where)


async def _verify(client: Any, state: Any) -> int:
    from messageapp.client.auditing import LogUnverified, entries_of, recompute
    from messageapp.store.logs import find_policy

    await recompute(client, state)
    rows = [("log", client.log.log.origin), ("entries", f"{state.size}"), ("root", root_text(state.root))]
    rows.append(("log key", state.vkey))
    needed = find_policy(client.account.trust.database, client.server_name).needed
    if needed:
        rows.append(("witnessed", f"{state.witnessed_size} of {state.size} entries (by {needed} or more)"))
    for entry in await entries_of(client, client.account.user):
        rows.append(("your entry", entry_line(entry)))
    for name, text in rows:
        click.echo(f"{name:<12}{text}")
    own = client.log.log.own_entries().own
    if own.value not in ("fine", "revoked"):
        raise LogUnverified("the key log does not have your key")
    click.echo(f"{'result':<12}verified: all entries are there and make the root of the signed checkpoint")
    return 0


@log.command("show", short_help="Every entry of one user.")
@click.argument("name", type=UsernameType())
@login_arguments
def show(name: str, **where: Any) -> int:
    """Every entry of the user NAME: when, whose doing, which key, and whether its signature verifies."""

    async def work(client: Any, state: Any) -> int:
        from messageapp.client.auditing import LogUnverified, entries_of
        from messageapp.errors import UnusableSetup

        entries = await entries_of(client, name)
        if not entries:
            raise UnusableSetup(f"the key log has no entry of {name}")
        for entry in entries:
            click.echo(entry_line(entry))
        for entry in entries:
            if entry.kind in _BAD:
                raise LogUnverified(f"entry {entry.number} of the key log, about {name}: {_BAD[entry.kind]}")
        return 0

    return _in_session(work, where)


@log.command("export", short_help="Write the log to files for other tools.")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@login_arguments
def export(folder: Path, **where: Any) -> int:
    """Verify the log and write it to DIR for other tools: checkpoint, tiles and entries as in c2sp.org/tlog-tiles.

    An older export in DIR is brought up to date; if it does not begin as the log does, that is an error (exit code 3).
    """

    async def work(client: Any, state: Any) -> int:
        from messageapp.client.export import export_log

        await export_log(client, state, folder)
        click.echo(f"wrote {state.size} entries to {folder}")
        return 0

    return _in_session(work, where)


@log.command("monitor", short_help="Print each new entry as it comes.")
@login_arguments
def monitor(**where: Any) -> int:
    """Stay connected and print a line for each new entry, until Ctrl-C.

    It begins with what is new since this account's last session. An alarm, such as an entry for your own name that is
    not your doing, ends it with exit code 3. After a lost connection it logs in again. Where the owner has reset or
    revoked your key, the server ends the session first and refuses the next: exit code 4 then says the same.
    """
    from .watching import run_monitor

    with ready_account(**where) as ready:
        return run_monitor(ready)


@log.command("witness", short_help="Cosign the server's checkpoints.")
@click.option("--name", help="What the witness's key is called, the first time. Default: SERVER/witness/USER.")
@login_arguments
def witness(name: str | None, **where: Any) -> int:
    """Stay connected and cosign every checkpoint that continues the one before, until Ctrl-C.

    The first line on stdout is the witness's public key. The server's owner writes it into server.toml, as one of
    `witnesses`; whoever wants this witness's word takes it with `messageapp log policy`. The private key is made the
    first time and lies in accounts/USER/witness.key of this home.
    """
    from .watching import run_witness

    with ready_account(**where) as ready:
        return run_witness(ready, name)


# without logging in ---------------------------------------------------------------------------------------------------


def _canonical(opened: Any, host: str | None, port: int | None) -> str:
    """What the server calls itself. `UnusableSetup` where this account has never logged in there."""
    from messageapp.errors import UnusableSetup

    host, port = chosen_server(opened.database, host, port)
    known = opened.trust.known_server(server_name(host), port)
    if known is None:
        raise UnusableSetup(f"this account has not logged in to {host}:{port} yet")
    return str(known.canonical)


def _known(opened: Any, host: str | None, port: int | None) -> Any:
    from messageapp.errors import UnusableSetup
    from messageapp.store.logs import find_log

    server = _canonical(opened, host, port)
    known = find_log(opened.database, server)
    if known is None:
        raise UnusableSetup(f"this account has not seen a key log of {server} yet")
    return known


@log.command("key", short_help="The public key of the server's log.")
@server_arguments
def key(host: str | None, port: int | None, user: str | None, passphrase_file: str | None, home: Any) -> None:
    """The public key of the server's log, as this account has pinned it, for other tools: name+hash+key."""
    from messageapp_keys.keylog import log_origin
    from messageapp_keys.notes import VerifierKey

    with open_account(home, user, passphrase_file) as opened:
        known = _known(opened, host, port)
        click.echo(VerifierKey(log_origin(known.server), known.log_key).encode())


@log.command("policy", short_help="Ask for the word of witnesses.")
@server_arguments
@click.option("--needed", metavar="K", type=click.IntRange(0, 16), help="So many must have cosigned. 0: none.")
@click.option("--witness", "witnesses", metavar="VKEY", multiple=True, help="A witness's public key.")
def policy(
    host: str | None,
    port: int | None,
    user: str | None,
    passphrase_file: str | None,
    home: Any,
    needed: int | None,
    witnesses: tuple[str, ...],
) -> None:
    """Ask for the word of witnesses: a peer's key counts only in a checkpoint that K of the VKEYs have cosigned.

    Without options it shows what is asked for now. --witness replaces all that were named before.
    """
    from messageapp.store.logs import find_policy, save_policy

    with open_account(home, user, passphrase_file) as opened:
        server = _canonical(opened, host, port)
        now = find_policy(opened.database, server)
        if needed is not None or witnesses:
            chosen = _witnesses(witnesses) if witnesses else now.witnesses
            if needed is None:
                raise click.UsageError("say how many of the witnesses are needed: --needed K")
            if needed > len(chosen):
                raise click.UsageError(f"{needed} of {len(chosen)} witnesses can never be; name more with --witness")
            save_policy(opened.database, server, needed, chosen)
            now = find_policy(opened.database, server)
        click.echo(f"{server}: {now.needed} of {len(now.witnesses)} witnesses needed")
        for vkey in now.witnesses:
            click.echo(vkey)


def _witnesses(given: tuple[str, ...]) -> tuple[str, ...]:
    """Each once, each a witness's."""
    from messageapp_keys.codec import Malformed
    from messageapp_keys.notes import COSIGNER, VerifierKey

    for text in given:
        try:
            if VerifierKey.parse_untrusted(text).kind != COSIGNER:
                raise click.UsageError(f"{text} is not the key of a witness")
        except Malformed as error:
            raise click.UsageError(f"{text}: {error}") from None
    return tuple(dict.fromkeys(given))


@log.command("accept", short_help="Say that an alarm is settled.")
@server_arguments
def accept(host: str | None, port: int | None, user: str | None, passphrase_file: str | None, home: Any) -> None:
    """Say that an alarm about the key log is settled; chats are possible again.

    After an alarm about your own name the log is kept, and what it says of you so far is accepted. After any other all
    that is known of this log is forgotten, and the next login takes the log that it is shown. The evidence stays.
    """
    from messageapp.errors import UnusableSetup
    from messageapp.store.logs import accept_alarm

    with open_account(home, user, passphrase_file) as opened:
        known = _known(opened, host, port)
        if not known.alarm:
            raise UnusableSetup(f"there is no alarm about the key log of {known.server}")
        keep = known.alarm.partition(":")[0] in _KEEP
        accept_alarm(opened.database, known.server, keep=keep)
        click.echo(f"accepted: {known.alarm}")
        click.echo("the log is kept" if keep else "the log is forgotten; the next login takes the one that it is shown")
