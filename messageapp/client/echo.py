"""A friendly peer: accepts every call, greets, and says again what it is told. Also the shortest example of a bot."""

from __future__ import annotations

from messageapp.errors import MessageAppError

from . import events as ev
from .client import Client

__all__ = ["run_echo"]


async def run_echo(client: Client) -> None:
    """Until the session ends. Cancellable at any moment."""
    async for event in client.events:
        try:
            match event:
                case ev.IncomingCall():
                    await client.accept()
                case ev.ChatSecure(peer=peer):
                    await client.say(f"Hello {peer}! I am a friendly echo: say something.")
                case ev.TextReceived(text=text):
                    await client.say(f"You said: {text[:60_000]}")
                case ev.MessageReceived(peer=peer, text=text):
                    await client.write(peer, f"You wrote: {text[:60_000]}")
        except MessageAppError:
            continue  # the caller was faster: gone, or the chat is over
