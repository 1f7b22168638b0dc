"""Messages prepared beforehand, carried by the generator, and everything that came, to be looked at afterwards."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .generator import Reins, Result, driven

__all__ = ["Carried", "Lane", "closed", "paced", "prepared"]

_SPARE: Final = 1 << 16  # for what nobody has sent: key updates, pings
_SECONDS: Final = 40


@dataclass(frozen=True, slots=True)
class Lane:
    """A pair: two connected sockets and the bytes of every message. All lanes of a load have equally many."""

    sender: socket.socket
    receiver: socket.socket
    messages: Sequence[bytes]


def closed(in_flight: int) -> str:
    """Each pair keeps so many in flight."""
    return f"closed {in_flight}"


def paced(microseconds: int) -> str:
    """One message every so many µs, the pairs in turn."""
    return f"paced {microseconds}"


class Carried:
    """A load that is ready (`reins`). After it, `received(i, result)` is all that came to the receiver of lane i."""

    def __init__(self, reins: Reins, descriptor: int, each: int) -> None:
        self.reins = reins
        self._descriptor = descriptor
        self._each = each

    def received(self, lane: int, result: Result) -> bytes:
        return os.pread(self._descriptor, result.pairs[lane][2], lane * self._each)


@contextmanager
def prepared(generator: Path, lanes: Sequence[Lane], load: str, seconds: int = _SECONDS) -> Iterator[Carried]:
    """Hand the lanes to a generator. Their sockets are non-blocking afterwards.

    `RuntimeError` as from `driven`, and where `seconds` are not enough.

    A frame counts as a message where it is as long as the first message's own first frame: relays forward frames of
    equal length.
    """
    starts = array("Q")
    position, most = 0, 0
    frames, index, kept = (os.memfd_create(name) for name in ("frames", "index", "received"))
    try:
        for lane in lanes:
            begin = position
            for message in lane.messages:
                starts.append(position)
                position += len(message)
            starts.append(position)
            most = max(most, position - begin)
            _write(frames, b"".join(lane.messages))
        _write(index, starts.tobytes())
        each = most + _SPARE
        os.ftruncate(kept, each * len(lanes))
        ours = f"/proc/{os.getpid()}/fd"
        job = [
            f"load {load}",
            f"count {len(lanes[0].messages)}",
            f"seconds {seconds}",
            f"frame {4 + int.from_bytes(lanes[0].messages[0][:4], 'big')}",
            f"frames {ours}/{frames}",
            f"index {ours}/{index}",
            f"received {ours}/{kept} {each}",
            *(f"pair {lane.sender.fileno()} {lane.receiver.fileno()}" for lane in lanes),
        ]
        sockets = [sock.fileno() for lane in lanes for sock in (lane.sender, lane.receiver)]
        with driven(generator, "\n".join(job) + "\n", sockets, seconds + 5) as reins:
            yield Carried(reins, kept, each)
    finally:
        for descriptor in (frames, index, kept):
            os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
