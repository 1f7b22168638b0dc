"""`why N`, and the line for a message that does not go as it should: `causes.explain` with what is known here."""

from __future__ import annotations

from collections.abc import Sequence

from messageapp.client.causes import Context, explain
from messageapp.client.client import Client
from messageapp.client.messages import Message, State
from messageapp.client.unconnected import AnyClient
from messageapp.clock import wall_ms
from messageapp_keys.names import fold

from .safe import error_line, one_line

__all__ = ["trouble_line", "why_line"]


def why_line(client: AnyClient, message: Message, retry_s: int | None = None) -> str:
    """`retry_s`: when the connection is tried again; None where it is up, or is not tried."""
    whose = f"{'to' if message.own else 'from'} {message.peer}"
    return one_line(f"#{message.number} {whose}, {message.state}: {_explained(client, message, retry_s)}", 600)


def trouble_line(client: AnyClient, message: Message, numbers: Sequence[int]) -> str:
    """For own messages to one peer that fail or wait for one reason; `message` is the first of `numbers`."""
    failed, more = message.state is State.FAILED, len(numbers) - 1
    which = f"#{numbers[0]}{f' and {more} more' if more else ''} to {message.peer}"
    what = "failed" if failed else "wait" if more else "waits"
    remedy = f"why {numbers[0]}" if failed else f"why {numbers[0]}; delete {numbers[0]} withdraws it"
    line = f"{which} {what}: {_explained(client, message)} ({remedy})"
    return error_line(line) if failed else one_line(line, 500)


def _explained(client: AnyClient, message: Message, retry_s: int | None = None) -> str:
    conversation = client.messages.conversation(message.peer)
    context = Context(
        now_ms=wall_ms(),
        connected=client.ended is None,
        retry_s=retry_s,
        kept_s=client.mail.status().kept_s,
        seen_ms=0 if conversation is None else conversation.seen_ms,
        next_ms=client.messages.next_try(message.number),
        online=fold(message.peer) in map(fold, client.online),
        trouble=client.log.state().trouble if isinstance(client, Client) else "",
    )
    return explain(message, context)
