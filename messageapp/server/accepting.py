"""New connections: from a listener to whoever serves them.

`trio.serve_listeners` wraps each socket twice and closes it twice, which is a tenth of what a login costs. Here a
socket is accepted as it is, one a listener and scheduler pass, so that a flood of them keeps nobody from his turn.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
from collections.abc import Callable
from typing import Final

import trio

from messageapp.sockets import BareSocketStream

__all__ = ["Serve", "accept_until_cancelled"]

Serve = Callable[[trio.abc.Stream, str], object]
"""Takes over a stream and the address of its peer. Does not wait."""

_REST_SECONDS: Final = 0.1
_SILENT_SECONDS: Final = 60.0  # it is tried again all the time; the log need not say so
_GONE_BEFORE: Final = (errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO)  # before it was accepted
_log = logging.getLogger("messageapp.server")


async def accept_until_cancelled(listener: trio.abc.Listener[trio.abc.Stream], serve: Serve) -> None:
    """Closes the listener. Streams that are no sockets (in memory) count as of one host."""
    try:
        if isinstance(listener, trio.SocketListener):
            await _accept_sockets(listener.socket, serve)
        while True:
            serve(await listener.accept(), "memory")
    finally:
        await trio.aclose_forcefully(listener)


async def _accept_sockets(listening: trio.socket.SocketType, serve: Serve) -> None:
    shared, silent_until = os.dup(listening.fileno()), -math.inf
    with socket.socket(listening.family, listening.type, listening.proto, fileno=shared) as bare:
        bare.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(bare)
            try:
                sock, address = bare.accept()
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                if error.errno not in _GONE_BEFORE:  # above all too many open files: others must end first
                    if trio.current_time() >= silent_until:
                        _log.error("cannot accept connections now: %s", (error.strerror or str(error)).lower())
                        silent_until = trio.current_time() + _SILENT_SECONDS
                    await trio.sleep(_REST_SECONDS)
                continue
            serve(BareSocketStream(sock), str(address[0]))
