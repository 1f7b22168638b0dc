"""The console on a real terminal: the only module that knows prompt_toolkit.

Theory of operation. One thread of our own runs one asyncio loop with one PromptSession. The prompt is always up; what
is submitted goes to the trio side through a bounded channel, and if that side is behind, the thread waits, and with it
the keyboard, rather than lose a line. The terminal stays in raw mode from start to end, also between two prompts and
while lines are printed, so keys never echo by themselves and Ctrl-C never becomes a signal. Keys typed meanwhile wait
in the kernel.

Lines to print are collected under a lock; the first of a burst schedules one flush, which hides the prompt, prints
everything collected so far and draws the prompt again. Text and cursor live in the session's buffer and survive both
this and a change of prompt, since prompt, completions and toolbar are read from the view at every drawing.

Leaving: the receiving end is closed (which frees a thread that waits to submit), then app.exit is called on the loop's
own thread; the thread prints what is still collected, restores the terminal and is joined. A thread stuck in a write
to a terminal that takes nothing is given up after LEAVE_SECONDS, with the terminal's modes restored from here.

States of the thread: starting → prompting ⇄ submitting → (stopped | hung up | broken) → ended. After a hang-up
EndOfInput is sent and the channel ends. A bug in the view ends the channel too; the error is raised on leaving.

Not handled: Ctrl-Z (the key is off), and modes changed by another process while we run.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import select
import sys
import termios
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any

import trio
from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session, in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, get_common_complete_suffix
from prompt_toolkit.completion import Completion as MenuEntry
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import Input as KeyInput
from prompt_toolkit.input.posix_utils import PosixStdinReader
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.styles import Style

from .console import Console, EndOfInput, Input, Interrupt, Jump, Line, View, neutral

__all__ = ["INPUT_BUFFER", "LEAVE_SECONDS", "open_terminal"]

INPUT_BUFFER = 64
"""Inputs the trio side may be behind; more than anyone types during one slow command."""

MAX_WAITING = 20_000  # writes that are not on the screen yet
LEAVE_SECONDS = 5.0
"""For the last drawing. A terminal that answers no cursor requests costs prompt_toolkit about one second of it."""

_SIZE_SECONDS = 0.25
"""Between two looks at the window's size. SIGWINCH reaches only the main thread, whose signals are the caller's."""

_DIM, _NORMAL = "\x1b[2m", "\x1b[22m"
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse dim", "bottom-toolbar.text": "noreverse dim"})


class _Interrupted(Exception):
    """Ctrl-C on an empty line. Not KeyboardInterrupt: asyncio re-raises that out of its loop."""


class _EndTyped(Exception):
    """Ctrl-D on an empty line; prompt_toolkit itself raises EOFError for the terminal's end."""


class _Stop(Exception):
    """The context is being left."""


class _TtyReader(PosixStdinReader):
    """Takes a read error for the end of the input; its parent ignores it and would spin on a dead terminal."""

    def read(self, count: int = 1024) -> str:
        if self.closed:
            return ""
        try:
            if not select.select([self.stdin_fd], [], [], 0)[0]:
                return ""
            data = os.read(self.stdin_fd, count)
        except OSError:
            data = b""
        self.closed = not data
        return self._stdin_decoder.decode(data)


class _Tty(Vt100Input):
    """stdin that stays raw while lines are printed: keys must not echo then, nor Ctrl-C become a signal."""

    def __init__(self) -> None:
        super().__init__(sys.stdin)
        self.stdin_reader = _TtyReader(sys.stdin.fileno(), encoding=sys.stdin.encoding)

    def cooked_mode(self) -> AbstractContextManager[None]:
        return nullcontext()


class _ViewCompleter(Completer):
    def __init__(self, view: View) -> None:
        self._view = view

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[MenuEntry]:
        for item in self._view.complete(document.text_before_cursor):
            yield MenuEntry(item.text, start_position=item.start, display_meta=item.meta)


def _whole(text: str) -> str:
    """Bytes that are no UTF-8 come in as half surrogates, which nothing behind us could encode."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _bindings(completer: Completer, jump: Callable[[int, str], None]) -> KeyBindings:
    keys = KeyBindings()

    def add_jump(place: int) -> None:
        @keys.add("escape", str(place), filter=has_focus(DEFAULT_BUFFER))
        def leave_line(event: KeyPressEvent) -> None:
            typed = event.current_buffer.text
            event.current_buffer.reset()
            jump(place, _whole(typed))

    for place in range(1, 10):
        add_jump(place)

    @keys.add("tab", filter=has_focus(DEFAULT_BUFFER))
    def complete(event: KeyPressEvent) -> None:
        # prompt_toolkit completes in a task; a quick Enter after TAB would submit the text without it.
        buffer = event.current_buffer
        if buffer.complete_state:
            buffer.complete_next()
            return
        found = list(completer.get_completions(buffer.document, CompleteEvent(completion_requested=True)))
        if len(found) == 1:
            buffer.apply_completion(found[0])
        elif found:
            buffer.insert_text(get_common_complete_suffix(buffer.document, found))
            buffer.start_completion()

    @keys.add("c-c", filter=has_focus(DEFAULT_BUFFER))
    def clear_or_interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=_Interrupted())

    @keys.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


class _Terminal:
    """Both halves of the console. Methods marked (ui) run in the thread, the others in trio."""

    def __init__(self, view: View, keyboard: KeyInput, screen: Output) -> None:
        self._view = view
        self._keyboard = keyboard
        self._screen = screen
        self._send, self.inputs = trio.open_memory_channel[Input](INPUT_BUFFER)
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="messageapp-terminal", daemon=True)
        self._done = trio.Event()
        self._error: BaseException | None = None
        self._stopping = False
        self._session: PromptSession[str]
        self._typed: Callable[[], str] = lambda: ""
        self._flush_task: asyncio.Task[None] | None = None
        # Guarded by the lock, as both threads use them.
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._flush_due = False
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = contextvars.Context()

    # The trio side

    def start(self) -> None:
        self._thread.start()

    def write(self, text: str, *, dim: bool = False) -> None:
        line = neutral(text)
        if dim and not os.environ.get("NO_COLOR"):
            line = f"{_DIM}{line.removesuffix(chr(10))}{_NORMAL}"
        with self._lock:
            if self._over:
                return
            if len(self._lines) >= MAX_WAITING:  # a terminal that takes no output must not fill our memory
                self._lines = ["error: the terminal was too slow; lines before this one were dropped\n"]
            self._lines.append(line if line.endswith("\n") else line + "\n")
            if self._flush_due or self._loop is None:
                return
            self._flush_due = True
            self._loop.call_soon_threadsafe(self._start_flush, context=self._context)

    def refresh(self) -> None:
        self._post(self._invalidate)

    def typed(self) -> str:
        return _whole(self._typed())

    def put_back(self, text: str) -> None:
        if text:
            self._post(lambda: self._insert_before(text))

    async def leave(self) -> None:
        """End the prompt, print what is collected, restore the terminal and join the thread.

        Not cancellable, but bounded by LEAVE_SECONDS. Raises what broke the thread, if something did.
        """
        self.inputs.close()
        self._stopping = True
        self._post(self._stop)
        with trio.move_on_after(LEAVE_SECONDS, shield=True):
            await self._done.wait()
        if not self._done.is_set():
            return
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _ended(self) -> None:
        self._send.close()
        self._done.set()

    def _post(self, step: Callable[[], None]) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(step, context=self._context)

    # The thread

    def _run(self) -> None:  # (ui)
        try:
            # A fresh context: prompt_toolkit keeps its session in one, and trio's marks do not belong here.
            contextvars.Context().run(self._run_loop)
        except BaseException as error:  # carried over to leave()
            self._error = self._error or error
        finally:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._ended)

    def _run_loop(self) -> None:  # (ui)
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:  # (ui)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        with create_app_session(self._keyboard, self._screen):
            self._session = self._make_session()
            with self._keyboard.raw_mode():
                with self._lock:
                    self._context = contextvars.copy_context()
                    self._loop = loop
                try:
                    self._print_lines()
                    watch = loop.create_task(self._watch_size())
                    watch.add_done_callback(self._task_done)
                    while not self._stopping:
                        await self._one_prompt()
                    watch.cancel()
                finally:
                    with self._lock:
                        self._loop = None
                        self._over = True
                    if self._flush_task is not None:
                        await asyncio.wait([self._flush_task])
                    with suppress(OSError):
                        self._print_lines()

    def _make_session(self) -> PromptSession[str]:  # (ui)
        completer = _ViewCompleter(self._view)
        session = PromptSession[str](
            self._view.prompt,
            input=self._keyboard,
            output=self._screen,
            history=InMemoryHistory(),  # never a file: chat lines are secrets
            completer=completer,
            complete_while_typing=False,
            key_bindings=_bindings(completer, lambda place, typed: self._submit(Jump(place, typed))),
            bottom_toolbar=self._view.toolbar,
            style=_STYLE,
            color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
            interrupt_exception=_Interrupted,
            eof_exception=_EndTyped,
        )
        session.app.terminal_size_polling_interval = None  # see _watch_size
        self._typed = lambda: session.default_buffer.text  # also after a hang-up
        return session

    async def _one_prompt(self) -> None:  # (ui)
        try:
            text = await self._session.prompt_async(handle_sigint=False, set_exception_handler=False)
        except _Stop:
            return
        except _Interrupted:
            self._submit(Interrupt(had_text=False))
        except _EndTyped:
            self._submit(EndOfInput())
        except (EOFError, OSError):  # the terminal is gone
            self._stopping = True
            if self._error is None:
                self._submit(EndOfInput())
        else:
            self._session.default_buffer.reset()  # it is half typed no more, though the next prompt is still to come
            self._submit(Line(_whole(text)))

    def _submit(self, item: Input) -> None:  # (ui)
        try:
            trio.from_thread.run(self._send.send, item, trio_token=self._token)
        except trio.BrokenResourceError:  # leaving
            self._stopping = True

    def _start_flush(self) -> None:  # (ui)
        self._flush_task = asyncio.ensure_future(self._flush())
        self._flush_task.add_done_callback(self._task_done)

    async def _flush(self) -> None:  # (ui)
        async with in_terminal():
            self._print_lines()

    def _task_done(self, task: asyncio.Task[None]) -> None:  # (ui)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _print_lines(self) -> None:  # (ui)
        with self._lock:
            lines, self._lines, self._flush_due = self._lines, [], False
        if lines:
            self._screen.write_raw("".join(lines).replace("\n", "\r\n"))
            self._screen.flush()

    async def _watch_size(self) -> None:  # (ui)
        """Draw again when the window's size has changed. prompt_toolkit's own watch starts anew with each prompt and
        misses a change soon after an Enter."""
        size = self._screen.get_size()
        while True:
            await asyncio.sleep(_SIZE_SECONDS)
            before, size = size, self._screen.get_size()
            app = self._session.app
            if size != before and app.is_running and not app.is_done:
                app.renderer.erase(leave_alternate_screen=False)
                app.renderer.request_absolute_cursor_position()
                app.invalidate()

    def _insert_before(self, text: str) -> None:  # (ui)
        buffer = self._session.default_buffer
        buffer.document = Document(text + buffer.text, len(text) + buffer.cursor_position)

    def _invalidate(self) -> None:  # (ui)
        self._session.app.invalidate()

    def _stop(self) -> None:  # (ui)
        self._session.app.erase_when_done = True  # no prompt is left behind the last line
        self._exit(_Stop())

    def _exit(self, reason: Exception) -> None:  # (ui)
        app = self._session.app
        if app.future is not None and not app.future.done():
            app.exit(exception=reason)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # (ui)
        self._fail(context.get("exception") or RuntimeError(context["message"]))

    def _fail(self, error: BaseException) -> None:  # (ui)
        """A callback or task failed: a dead terminal is a hang-up, anything else a bug that leave() will raise."""
        if isinstance(error, OSError):
            self._exit(EOFError())
            return
        self._error = self._error or error
        self._stopping = True
        self._exit(_Stop())


@asynccontextmanager
async def open_terminal(
    view: View, *, keyboard: KeyInput | None = None, screen: Output | None = None
) -> AsyncIterator[Console]:
    """The console on stdin and stdout, which must both be terminals (else use `open_plain`).

    Enter submits, Alt+Enter inserts a newline, Alt+1 to Alt+9 send Jump with the half-typed line, TAB completes, Ctrl-R
    searches the history of this run, Ctrl-C clears
    the line or, on an empty one, sends Interrupt; Ctrl-D on an empty line sends EndOfInput and the prompt goes on.
    After the terminal's own end EndOfInput is sent and the channel ends.

    Leaving ends the prompt, prints what was written, restores the terminal and joins the thread, also when cancelled;
    it takes at most LEAVE_SECONDS. An error of the view ends `inputs` and is raised on leaving. SIGTERM and SIGHUP
    must become a cancellation at the caller's, or the process dies with the terminal raw. `keyboard` and `screen` are
    for tests.
    """
    fd = sys.stdin.fileno() if keyboard is None else -1
    modes = termios.tcgetattr(fd) if fd >= 0 else None
    terminal = _Terminal(view, keyboard or _Tty(), screen or create_output(sys.stdout))
    terminal.start()
    try:
        yield terminal
    finally:
        try:
            await terminal.leave()
        finally:
            if modes is not None:
                with suppress(termios.error):  # the terminal may be gone
                    termios.tcsetattr(fd, termios.TCSANOW, modes)
