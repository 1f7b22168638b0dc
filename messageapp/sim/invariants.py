"""What must hold once everything has settled, and when all is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from messageapp.client.client import State
from messageapp.wire.commands import UserState

if TYPE_CHECKING:
    from .users import Seat
    from .world import World

__all__ = ["all_agree", "nothing_is_left", "server_is_empty"]


def all_agree(world: World) -> None:
    """Everybody is back, and idle or in a chat whose other end says the same; so does the server."""
    for seat in world.seats.values():
        _seat_agrees(world, seat)
    server = world.server
    assert server is not None  # noqa: S101 - it is started again
    for user in dict.fromkeys(seat.user for seat in world.seats.values()):
        entry = server.router._presence.find(user)
        chatting = any(
            seat.client is not None and seat.client.state is State.CHAT
            for seat in world.seats.values()
            if seat.user == user
        )
        expected = UserState.IN_CHAT if chatting else UserState.IDLE
        if entry is None or entry.state is not expected:
            found = "nobody" if entry is None else entry.state.name
            world.history.breaks("both ends agree", f"for the server {user} is {found}, for the users {expected.name}")
    live = {seat.wire for seat in world.seats.values()}
    for wire in world.wires.values():
        if wire in live:
            if any(pipe.spoilt for pipe in wire.pipes):
                world.history.breaks("a changed byte ends the session", f"{wire.name} goes on")
        elif not wire.closed:
            world.history.breaks("no stream is left", f"{wire.name} is still open")
    if server.router.session_count != len(world.seats):
        world.history.breaks("no session is left", f"{server.router.session_count} for {len(world.seats)} seats")


def _seat_agrees(world: World, seat: Seat) -> None:
    client = seat.client
    if client is None or client.ended is not None:
        world.history.breaks("nobody is kept out", f"{seat.name} is not back, long after the last fault")
        return
    if client.state not in (State.ONLINE, State.CHAT):
        world.history.breaks("both ends agree", f"{seat.name} is still {client.state.value}")
    if client.state is not State.CHAT:
        return
    end = world.ledger.ends[seat.owner][-1]
    other = world.ledger.other(end)
    peer = next((one for one in world.seats.values() if other is not None and one.owner == other.owner), None)
    if peer is None or peer.client is None or peer.client.state is not State.CHAT or peer.client.peer != seat.user:
        world.history.breaks("both ends agree", f"{seat.name} is in a chat with {client.peer}, who is not")
    elif world.ledger.ends[peer.owner][-1] is not other:
        world.history.breaks("both ends agree", f"{seat.name} and {peer.name} are in different chats")


def server_is_empty(world: World) -> None:
    """A server that has ended holds nothing: no session, no login under way, no call."""
    server = world.server
    assert server is not None  # noqa: S101 - the one that ended
    presence = server.router._presence
    if presence.session_count or presence._users or presence._ringing or server.quota.under_way:
        world.history.breaks("no session is left", f"{presence.session_count} sessions at a server that has ended")
    for wire in server.served.values():
        if not wire.far.closed:
            world.history.breaks("no stream is left", f"the server has not closed {wire.name}")


def nothing_is_left(world: World, tasks: int) -> None:
    """After all have left."""
    for wire in world.wires.values():
        if not wire.closed:
            world.history.breaks("no stream is left", f"{wire.name} is still open")
    living = trio.lowlevel.current_statistics().tasks_living
    if living != tasks:
        world.history.breaks("no task is left", f"{living - tasks} more than before")
