"""MessageApp: private messaging over a server of one's own. The names here are the library's; the rest is inside.

    async with open_pool(2) as keys, open_client(await dial(host, port), account, keys) as client:
        async for event in client.events: ...

Names are loaded when they are used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .client.client import Client, open_client
    from .client.login import Account, dial
    from .client.trust import Trust
    from .errors import MessageAppError
    from .keypool import open_pool
    from .limits import Limits
    from .server.serve import Server, open_listeners

__all__ = [
    "Account",
    "Client",
    "Limits",
    "MessageAppError",
    "Server",
    "Trust",
    "dial",
    "open_client",
    "open_listeners",
    "open_pool",
]

_HOMES: Final = {
    "Account": "client.login",
    "Client": "client.client",
    "Limits": "limits",
    "MessageAppError": "errors",
    "Server": "server.serve",
    "Trust": "client.trust",
    "dial": "client.login",
    "open_client": "client.client",
    "open_listeners": "server.serve",
    "open_pool": "keypool",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
