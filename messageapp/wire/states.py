"""What frame is legal when, as a table: {role: {state: {frame type: next state}}} (protocol §2, §6).

Nothing is skipped or ignored before M4, so nothing can be inserted or removed without changing the transcript.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from .frames import FrameType

__all__ = ["RECEIVES", "SENDS", "Role", "State"]


class Role(Enum):
    __hash__ = object.__hash__  # an enumeration's own is written in Python, and each frame asks twice

    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    __hash__ = object.__hash__

    START = "start"
    M1_DONE = "M1 done"
    M2_DONE = "M2 done"
    M3_DONE = "M3 done"
    SESSION = "session"
    CLOSED = "closed"
    ERROR = "error"


_FROM_CLIENT: Final = {
    State.START: {FrameType.M1: State.M1_DONE},
    State.M2_DONE: {FrameType.M3: State.M3_DONE},
    State.SESSION: {FrameType.RECORD: State.SESSION},
}
_FROM_SERVER: Final = {
    State.START: {FrameType.ALERT: State.CLOSED},
    State.M1_DONE: {FrameType.M2: State.M2_DONE, FrameType.ALERT: State.CLOSED},
    State.M2_DONE: {FrameType.ALERT: State.CLOSED},
    State.M3_DONE: {FrameType.M4: State.SESSION, FrameType.ALERT: State.CLOSED},
    State.SESSION: {FrameType.RECORD: State.SESSION},
}

SENDS: Final = {Role.CLIENT: _FROM_CLIENT, Role.SERVER: _FROM_SERVER}
RECEIVES: Final = {Role.CLIENT: _FROM_SERVER, Role.SERVER: _FROM_CLIENT}
