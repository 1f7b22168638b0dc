"""The whole key log gone through once more, from its first entry, and a user's entries explained (protocol §12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from messageapp.errors import MessageAppError
from messageapp_keys.codec import Malformed
from messageapp_keys.keylog import Leaf, explain, follows

from .asking import LogUnavailable
from .following import LogState
from .tiles import Tiles

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Entry", "LogUnverified", "entries_between", "entries_of", "kind_of", "recompute"]

_PAGE: Final = 1_000  # leaves at a time, between which others have their turn


class LogUnverified(MessageAppError):
    """the key log does not verify"""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A leaf and whose doing it is: enrolled | signed | reset | revoked | unexplained | unknown."""

    number: int
    leaf: Leaf
    kind: str


async def recompute(
    client: Client, state: LogState, keep: Callable[[str, bytes], None] = lambda path, content: None
) -> None:
    """Hash every leaf anew and compare with the root in `state`; `keep` gets the files of the log (see `tiles`).

    The leaves are those of the account's store, or, where it holds not all of them, the server's. Raises
    `LogUnverified`, `LogUnavailable`, and what `keep` raises.
    """
    tiles, newest = Tiles(), dict[str, tuple[int, Leaf]]()
    while tiles.size < state.size:
        for encoded in await _page(client, state, tiles.size):
            number = tiles.size
            try:
                leaf = Leaf.parse_untrusted(encoded)
            except Malformed as error:
                raise LogUnverified(f"entry {number:,} of the key log: {error}") from None
            if not follows(leaf, newest.get(leaf.folded)):
                raise LogUnverified(f"entry {number:,} of the key log does not follow the one before of {leaf.user}")
            newest[leaf.folded] = (number, leaf)
            for path, content in tiles.add(encoded):
                keep(path, content)
    if tiles.root() != state.root:
        raise LogUnverified(f"the {state.size:,} entries of the key log do not make the root in its checkpoint")
    for path, content in tiles.rest():
        keep(path, content)


async def _page(client: Client, state: LogState, start: int) -> list[bytes]:
    """Encoded leaves from `start` on."""
    stop = min(state.size, start + _PAGE)
    if state.thin:
        return await client.log.ask.leaves(start, stop)
    await trio.lowlevel.checkpoint()
    return list(client.log.store.encoded_leaves(start, stop))


async def entries_of(client: Client, user: str) -> list[Entry]:
    """Every entry of `user`, oldest first; of a log that is not held as a whole, the newest 64, each proved."""
    if client.log.log.thin:
        held = {number for number, _ in client.log.store.of_user(user)}
        for number in await client.log.ask.numbers_of(user):
            if number not in held:
                await client.log.prove(number)
    found = client.log.store.of_user(user)
    return [Entry(number, leaf, await kind_of(client, leaf)) for number, leaf in found]


async def entries_between(client: Client, start: int, stop: int) -> list[Entry]:
    """The entries from `start` on, below `stop`, which the client holds or has proved."""
    found: list[Entry] = []
    for number in range(start, stop):
        leaf = await client.log.prove(number) if client.log.log.thin else client.log.store.leaf(number)
        found.append(Entry(number, leaf, await kind_of(client, leaf)))
    return found


async def kind_of(client: Client, leaf: Leaf) -> str:
    """Whose doing `leaf` is; a signature is checked with the bundle before, which the server gives."""
    if leaf.previous is None:
        return "enrolled"
    if leaf.flags:
        return "revoked" if leaf.revoked else "reset"
    if not leaf.signatures:
        return "unexplained"
    before = await client.log.prove(leaf.previous) if client.log.log.thin else client.log.store.leaf(leaf.previous)
    try:
        bundle = await client.log.ask.bundle(before.key_id)
    except LogUnavailable:
        return "unknown"
    return explain(bundle, leaf, client.server_name)
