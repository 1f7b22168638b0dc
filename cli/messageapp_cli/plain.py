"""The console without a terminal: commands from stdin, lines to stdout, prompts to stderr, no escape sequences.

For pipes, files, TERM=dumb and screen readers. The rule is lockstep: a line is taken from stdin's buffer only when the
caller asks for the next input, so a script's commands are carried out one after the other, and each prompt on stderr
already shows what the command before it changed.

stdin is read by one daemon thread with os.read, on demand, one chunk per request. A thread, because a regular file
cannot be polled; os.read, because a thread stuck in sys.stdin.buffer holds a lock that aborts the interpreter at exit.
A receive() that is cancelled leaves its request standing, and the next one gets the chunk: nothing is lost. A thread
still waiting when the console is left is abandoned; whatever it reads later is dropped.
"""

from __future__ import annotations

import errno
import os
import queue
import select
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TextIO

import trio

from .console import BadInput, Console, EndOfInput, Input, Line, View, neutral

__all__ = ["MAX_LINE", "LineSplitter", "open_plain"]

MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line, without its end; far above any message, so that a line is bounded memory."""

_CHUNK = 64 * 1024
_GONE = {errno.EPIPE, errno.EIO}  # nobody reads the pipe; the terminal hung up


class LineSplitter:
    """Bytes in, inputs out; any split of the bytes gives the same inputs.

    Lines end at LF or CR LF. A line that is not UTF-8 or longer than `limit` bytes gives one BadInput at its end
    (a long one as soon as it is known, the rest of it is skipped). Holds at most `limit` bytes and one chunk.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False
        self._number = 1

    def feed(self, data: bytes) -> list[Input]:
        """The inputs that `data` completes."""
        found: list[Input] = []
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._add(piece, found)
            self._finish(found)
        self._add(rest, found)
        return found

    def end(self) -> list[Input]:
        """The end of the bytes: a last line without a newline counts."""
        found: list[Input] = []
        if self._size and not self._skipping:
            self._finish(found)
        return found

    def _add(self, piece: bytes, found: list[Input]) -> None:
        if self._skipping or not piece:
            return
        self._parts.append(piece)
        self._size += len(piece)
        # One byte of grace: it may be the CR of the line's end.
        if self._size > self._limit + 1:
            self._refuse(found)

    def _refuse(self, found: list[Input]) -> None:
        found.append(BadInput(f"line {self._number} is longer than {self._limit} bytes and was not used"))
        self._parts.clear()
        self._size = 0
        self._skipping = True

    def _finish(self, found: list[Input]) -> None:
        if not self._skipping:
            raw = b"".join(self._parts).removesuffix(b"\r")
            if len(raw) > self._limit:
                self._refuse(found)
            else:
                found.append(self._decode(raw))
        self._parts.clear()
        self._size = 0
        self._skipping = False
        self._number += 1

    def _decode(self, raw: bytes) -> Input:
        try:
            return Line(raw.decode("utf-8"))
        except UnicodeDecodeError:
            return BadInput(f"input is not UTF-8, line {self._number} was not used")


class _ByteSource:
    """Chunks of a file descriptor, read by a daemon thread one request at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._token = trio.lowlevel.current_trio_token()
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        # One chunk requested, and one empty chunk from finish().
        self._put, self._get = trio.open_memory_channel[bytes | MemoryError](2)
        self._requested = False
        threading.Thread(target=self._run, name="messageapp-stdin", daemon=True).start()

    async def chunk(self) -> bytes:
        """The next bytes; empty at the end. Cancelled, it leaves its request to the next call. `MemoryError`."""
        if not self._requested:
            self._requested = True
            self._requests.put(True)
        data = await self._get.receive()
        self._requested = False
        if isinstance(data, MemoryError):
            raise data
        return data

    def finish(self) -> None:
        """Let a waiting chunk() see the end."""
        with suppress(trio.WouldBlock):
            self._put.send_nowait(b"")

    def close(self) -> None:
        self._requests.put(False)
        self._get.close()

    def _deliver(self, data: bytes | MemoryError) -> None:
        with suppress(trio.BrokenResourceError, trio.WouldBlock):
            self._put.send_nowait(data)

    def _run(self) -> None:
        while self._requests.get():
            data: bytes | MemoryError
            try:
                data = self._read()
            except MemoryError as error:  # dying alone, the thread would leave the program deaf
                data = error
            try:
                self._token.run_sync_soon(self._deliver, data)
            except trio.RunFinishedError:
                return

    def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._fd, _CHUNK)
            except BlockingIOError:  # somebody who shares it made it non-blocking
                select.select([self._fd], [], [])
            except OSError:  # the terminal hung up, or stdin is closed
                return b""


class _Inputs(trio.abc.ReceiveChannel[Input]):
    """Reads on receive(): the rendezvous that keeps the reader from running ahead."""

    def __init__(self, plain: _Plain, fd: int) -> None:
        self._plain = plain
        self._source = _ByteSource(fd)
        self._splitter = LineSplitter()
        self._ready: deque[Input] = deque()
        self._prompted = False
        self._ended = False
        self._closed = False
        self._turn = trio.Lock()

    async def receive(self) -> Input:
        async with self._turn:
            if self._closed:
                raise trio.ClosedResourceError
            if self._ended:
                raise trio.EndOfChannel
            if not self._prompted and not self._plain.broken:
                self._prompted = True
                self._plain.show_prompt()
            while not self._ready and not self._plain.broken:
                data = await self._source.chunk()
                if data:
                    self._ready.extend(self._splitter.feed(data))
                else:
                    self._ready.extend([*self._splitter.end(), EndOfInput()])
            self._prompted = False
            item = EndOfInput() if self._plain.broken else self._ready.popleft()
            self._ended = isinstance(item, EndOfInput)
            return item

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        self._source.finish()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._source.close()


class _Plain:
    def __init__(self, view: View, fd: int, stdout: TextIO, stderr: TextIO) -> None:
        self._view = view
        self._stdout = stdout
        self._stderr = stderr
        self.broken = False
        self.inputs = _Inputs(self, fd)

    def write(self, text: str, *, dim: bool = False) -> None:
        if self.broken:
            return
        line = neutral(text)
        if not _put(self._stdout, line if line.endswith("\n") else line + "\n"):
            self.broken = True
            self.inputs.wake()

    def show_prompt(self) -> None:
        _put(self._stderr, neutral(self._view.prompt()))

    def refresh(self) -> None:
        """Nothing: the next prompt reads the view anyway."""

    def typed(self) -> str:
        return ""

    def put_back(self, text: str) -> None:
        """Nothing: lines come whole."""


def _put(stream: TextIO, text: str) -> bool:
    """Write and flush; False if nobody reads the stream any more.

    The stream then leads to /dev/null, or the interpreter would complain about it once more at exit.
    """
    try:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        with open(os.devnull, "wb") as sink, suppress(OSError):
            os.dup2(sink.fileno(), stream.fileno())
        return False
    return True


@asynccontextmanager
async def open_plain(
    view: View, stdin_fd: int = 0, stdout: TextIO | None = None, stderr: TextIO | None = None
) -> AsyncIterator[Console]:
    """The console on a file descriptor (a pipe, a file, a terminal) and two text streams, sys.stdout and sys.stderr
    unless given.

    `inputs` gives one input per line read, then EndOfInput, then ends. The prompt is written to stderr, without a
    newline, when an input is asked for; never for a line that comes in. Lines written are flushed one by one; when
    stdout's reader is gone, or its terminal, the input ends too. Any other OSError of stdout is raised by write().

    Leaving takes no time: a read still waiting is abandoned with its daemon thread.
    """
    plain = _Plain(view, stdin_fd, stdout or sys.stdout, stderr or sys.stderr)
    try:
        yield plain
    finally:
        plain.inputs.close()
