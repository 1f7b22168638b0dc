"""Changing one's own key at the server (protocol §12.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from messageapp.errors import RequestRefused
from messageapp.store.logs import add_own_key
from messageapp.wire.commands import ErrorCode
from messageapp.wire.keylog_forms import NewKey
from messageapp_keys import labels
from messageapp_keys.identity import PrivateIdentity, write_signatures
from messageapp_keys.keylog import change_body

if TYPE_CHECKING:
    from .client import Client

__all__ = ["change_key"]


async def change_key(client: Client, new: PrivateIdentity) -> None:
    """Make `new` the key of this user, signed by the present one and written to the key log.

    `new` must be stored before: from the reply on only it logs in, and the server ends this session (`Ended` follows).
    Raises `RequestRefused`, and what `LogFollower.caught_up` raises: without a key log no key can be changed. If the
    session ends before the reply, the change may have been made or not: log in with the one, else with the other.
    """
    found = await client.log.own_leaf()
    if found is None:
        raise RequestRefused(ErrorCode.NOT_NOW, "the key log of this server does not have your key")
    account = client.account
    old, version = account.identity, found[1].version + 1
    body = change_body(client.server_name, account.user, version, old.key_id, new.key_id)
    add_own_key(account.trust.database, new.key_id)  # first: the leaf may come before the reply
    request = NewKey(
        new.bundle.encode(),
        write_signatures(old.sign(labels.SIG_KEY_CHANGE, body)),
        write_signatures(new.sign(labels.SIG_NEW_KEY, body)),
    )
    await client.ask("newk", request)
