"""`messageapp keys rotate`: a new key for a user, signed by the old one (protocol §12.4).

The new key lies sealed beside the old one, in identities/NAME.next, before a server hears of it, and takes the old
one's place when every server has it. Whatever is interrupted, running it again tries both keys and finishes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import click

from .account import (
    DEVICE_BYTES,
    OpenAccount,
    ReadyAccount,
    find_authority,
    load_authority,
    logged_in,
    open_account,
    server_name,
)
from .options import UsernameType, chosen_server, home_option, passphrase_option

__all__ = ["rotate"]

_FOLLOWED: Final = "your peers follow without asking; whoever had verified you must compare again"
_UNFINISHED: Final = "the change of the key is not finished; when it can go on: messageapp keys rotate"


@dataclass(slots=True)
class _Change:
    """`shown`: a server may have the new key, so that it must not be lost."""

    home: Any
    user: str
    old: Any
    new: Any
    shown: bool
    taken: list[str] = field(default_factory=list)  # canonical names of the servers that have it
    done: bool = False


@click.command()
@click.argument("host", required=False)
@click.argument("port", type=click.IntRange(1, 65535), required=False)
@click.option("--user", type=UsernameType(), help="Which identity of this home. Default: the only one.")
@click.option("--pq", is_flag=True, help="The new identity has an ML-DSA-65 key as well.")
@click.option("--only", is_flag=True, help="Only at HOST; the other servers will not know you any more.")
@passphrase_option
@home_option
def rotate(
    host: str | None, port: int | None, user: str | None, pq: bool, only: bool, passphrase_file: str | None, home: Any
) -> None:
    """Change your key: a new one takes the place of the old one, which signs it and is deleted.

    An RSA key becomes RSA-3072. An identity with an ML-DSA-65 key keeps having one, also without --pq.

    An identity has one key for all its servers. Without HOST and PORT (8081) the key is changed at every server that
    you have logged in to, and at none unless all can be reached. A server that is gone for good is left out by naming
    the other one, with --only.

    If it is interrupted, run it again: it goes on with the new key that was made.
    """
    import trio

    from messageapp.errors import UnusableSetup
    from messageapp_keys.fingerprint import key_fingerprint

    from .hardening import forbid_core_dumps

    forbid_core_dumps()
    if only and host is None:
        raise UnusableSetup("--only needs the server: messageapp keys rotate HOST PORT --only")
    with open_account(home, user, passphrase_file) as opened:
        addresses = _addresses(opened.database, host, port)
        with _open_change(home, opened, pq=pq) as change:
            accounts = [_ready(home, opened, change.old, *address) for address in addresses]
            trio.run(_change_everywhere, change, accounts, only)
    for age, identity in (("old", change.old), ("new", change.new)):
        click.echo(f"{age}: {identity.bundle.kind} {key_fingerprint(identity.key_id)}")
    click.echo(_FOLLOWED)


@contextmanager
def _open_change(home: Any, opened: OpenAccount, *, pq: bool) -> Iterator[_Change]:
    """Both keys, the new one on disk. What no server was shown is taken away again if the block fails."""
    from messageapp.store.identities import changing_identity, drop_next, find_next, save_next

    from .main import complain

    user, old, passphrase = opened.sealed.user, opened.identity, opened.passphrase
    with changing_identity(home, user):
        begun = find_next(home, user)
        if begun is None:
            change = _Change(home, user, old, _successor(old, pq=pq), shown=False)
            save_next(home, user, change.new, passphrase)
        else:
            change = _Change(home, user, old, _unseal_begun(begun, passphrase), shown=True)
            complain(f"a change of the key was begun before; going on with its {begun.bundle.kind} key")
        try:
            yield change
        finally:
            if not change.shown:
                drop_next(home, user)
                complain("the key was not changed")
            elif not change.done:
                complain(_UNFINISHED)


def _unseal_begun(begun: Any, passphrase: str) -> Any:
    """The new key that was made before, sealed with the passphrase that opened the old one."""
    from messageapp.errors import LoginRefused, UnusableSetup
    from messageapp.store.identities import unseal

    try:
        return unseal(begun, passphrase)
    except LoginRefused:
        raise UnusableSetup(
            "the new key has another passphrase: a change of your passphrase is not finished; this finishes it: "
            "messageapp passwd"
        ) from None


def _successor(old: Any, *, pq: bool) -> Any:
    """A new identity, of the same kind as the old one or stronger. RSA takes a moment."""
    from messageapp_keys.identity import PrivateIdentity
    from messageapp_keys.signing import SignatureAlgorithm

    algorithms = [algorithm for algorithm, _ in old.bundle.keys]
    post_quantum = pq or SignatureAlgorithm.ML_DSA_65 in algorithms
    kind: Any = "ed25519" if SignatureAlgorithm.ED25519 in algorithms else "rsa"
    return PrivateIdentity.generate(kind, post_quantum=post_quantum)


def _addresses(database: Any, host: str | None, port: int | None) -> list[tuple[str, int]]:
    """The server named, or every server that the account knows, each under the address of its newest first login."""
    from messageapp.store.trust import known_servers

    known = known_servers(database)
    if host is not None or not known:
        return [chosen_server(database, host, port)]
    return list({pin.canonical: (pin.name, pin.port) for pin in known}.values())


def _ready(home: Any, opened: OpenAccount, identity: Any, host: str, port: int) -> ReadyAccount:
    from messageapp.client.login import Account

    server = server_name(host)
    account = Account(
        user=opened.sealed.user,
        identity=identity,
        authority=load_authority(find_authority(home, opened.trust, server, port, None)),
        trust=opened.trust,
        server=server,
        port=port,
        device=os.urandom(DEVICE_BYTES),
    )
    return ReadyAccount(account, host, port, home, opened.database)


async def _change_everywhere(change: _Change, accounts: Sequence[ReadyAccount], only: bool) -> None:
    """At all or, where one cannot be reached or has no key log to write it to, at none."""
    from messageapp.store.identities import take_next

    async with AsyncExitStack() as stack:
        clients = [await _enter(stack, change, account) for account in accounts]
        if not only:
            _check_all_there(accounts[0].database, {client.server_name for client in clients})
        pairs = zip(clients, accounts, strict=True)
        waiting = [(client, ready) for client, ready in pairs if client.server_name not in change.taken]
        for client, _ in waiting:
            await client.log.caught_up()
            _tell_news(client)
        for client, ready in waiting:
            await _change_at(change, client, ready)
    take_next(change.home, change.user)
    change.done = True


async def _enter(stack: AsyncExitStack, change: _Change, ready: ReadyAccount) -> Any:
    """Logged in, with the new key where the server has that already."""
    from messageapp.errors import LoginRefused

    if change.shown:
        try:
            client = await stack.enter_async_context(logged_in(ready, identity=change.new))
        except LoginRefused:
            pass
        else:
            change.taken.append(client.server_name)
            return client
    return await stack.enter_async_context(logged_in(ready))


async def _change_at(change: _Change, client: Any, ready: ReadyAccount) -> None:
    from messageapp.client.keys import change_key
    from messageapp.errors import ConnectionCut, MessageAppError, RequestRefused, ServerGoodbye
    from messageapp.wire.commands import ErrorCode

    before, change.shown = change.shown, True
    try:
        await change_key(client, change.new)
    except RequestRefused as error:
        # An honest server refuses before it writes, but cannot always know what became of a write that failed.
        change.shown = before or error.code == ErrorCode.STORAGE
        raise
    except (ConnectionCut, ServerGoodbye) as ended:  # before the reply: whoever the server lets in has the right key
        try:
            async with logged_in(ready, identity=change.new):
                pass
        except MessageAppError:
            raise ended from None
    change.taken.append(client.server_name)


def _check_all_there(database: Any, there: set[str]) -> None:
    """`UnusableSetup` where the account knows a server that would be left with the old key."""
    from messageapp.errors import UnusableSetup
    from messageapp.store.trust import known_servers

    left = {pin.canonical: f"{pin.name}:{pin.port}" for pin in known_servers(database) if pin.canonical not in there}
    if left:
        raise UnusableSetup(
            f"this account knows other servers ({', '.join(left.values())}), which would not let you in with another "
            "key; without HOST the key is changed at all of them, with --only just there"
        )


def _tell_news(client: Any) -> None:
    """What the key log has told of peers, once: nobody will say it again."""
    import trio

    from messageapp.client import events as ev

    from .main import complain
    from .render import render

    news = (ev.KeyFollowed, ev.PeerKeyChanged, ev.OwnKeyHistory, ev.LogPinned)
    try:
        while True:
            event = client.events.receive_nowait()
            if isinstance(event, news):
                for line in render(event):
                    complain(line)
    except (trio.WouldBlock, trio.EndOfChannel):
        return
