"""What tests ask of clients that store messages."""

from __future__ import annotations

from typing import Any

from messageapp.client.client import Client
from messageapp.store import outbox
from messageapp.store.states import Cause, State

from .world import World, settle

__all__ = ["enrol", "of", "state", "texts", "waiting"]


async def enrol(world: World, *names: str) -> None:
    """Each has been there once, so that there are prekeys."""
    for name in names:
        async with world.client(name) as client:
            await settle(client)


def of(events: list[Any], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def state(client: Client, number: int) -> tuple[State, Cause]:
    message = client.messages.message(number)
    return message.state, message.cause


def waiting(client: Client) -> int:
    """Rows of its outbox."""
    return outbox.count(client.account.trust.database, client.server_name)


def texts(client: Client, peer: str) -> list[str | None]:
    return [message.text for message in client.messages.history(peer, 1000)]
