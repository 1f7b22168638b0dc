"""The terminal console against keys from a pipe and a screen kept by pyte, on the real clock."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pyte
import pytest
import trio
import trio.testing
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from messageapp_cli.console import Completion, Console, EndOfInput, Input, Interrupt, Jump, Line
from messageapp_cli.terminal import INPUT_BUFFER, open_terminal

ENTER, TAB, CTRL_C, CTRL_D, CTRL_R, LEFT, ALT_ENTER = "\r", "\t", "\x03", "\x04", "\x12", "\x1b[D", "\x1b\r"
WORDS = ["/chat ", "/channel ", "/users"]


class FakeView:
    def __init__(self) -> None:
        self.name = "[SERVER-COMMAND]-> "
        self.fails = False

    def prompt(self) -> str:
        if self.fails:
            raise ZeroDivisionError("a bug in the view")
        return self.name

    def complete(self, text: str) -> Sequence[Completion]:
        return [Completion(word, -len(text), "about " + word) for word in WORDS if word.startswith(text)]

    def toolbar(self) -> str:
        return ""


class Screen(io.StringIO):
    """A stdout that draws on a pyte screen, in the trio thread, and wakes whoever waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._token = trio.lowlevel.current_trio_token()
        self._changed = trio.Event()
        self._screen = pyte.HistoryScreen(80, 24, history=10_000, ratio=0.5)
        self._stream = pyte.Stream(self._screen)
        self.raw: list[str] = []
        self.dead = False
        self.takes = threading.Event()
        self.takes.set()

    def write(self, text: str) -> int:
        self.takes.wait()
        if self.dead:
            raise OSError(5, "hung up")
        self.raw.append(text)
        self._token.run_sync_soon(self._draw, text)
        return len(text)

    def _draw(self, text: str) -> None:
        self._stream.feed(text)
        self._changed.set()
        self._changed = trio.Event()

    def lines(self) -> list[str]:
        """Everything above and on the screen, without empty lines."""
        above = ["".join(row[column].data for column in range(80)) for row in self._screen.history.top]
        return [line.rstrip() for line in [*above, *self._screen.display] if line.strip()]

    def last(self) -> str:
        return self._screen.display[self._screen.cursor.y].rstrip()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    async def until_last(self, line: str) -> None:
        await self.until(lambda: self.last() == line)


class World:
    def __init__(self, keys: PipeInput, view: FakeView, screen: Screen, console: Console) -> None:
        self.keys = keys
        self.view = view
        self.screen = screen
        self.console = console

    async def next(self) -> Input:
        return await self.console.inputs.receive()


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


@asynccontextmanager
async def world(keys: PipeInput) -> AsyncIterator[World]:
    view, screen = FakeView(), Screen()
    output = Vt100_Output(screen, lambda: Size(rows=24, columns=80), term="xterm", enable_cpr=False)
    with trio.fail_after(30):
        async with open_terminal(view, keyboard=keys, screen=output) as console:
            yield World(keys, view, screen, console)
        await trio.testing.wait_all_tasks_blocked()
    assert not [t for t in threading.enumerate() if t.name == "messageapp-terminal"]


async def test_a_line_is_submitted(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("/users" + ENTER + "hällo" + ENTER)
        assert [await w.next(), await w.next()] == [Line("/users"), Line("hällo")]


async def test_typed_text_survives_a_prompt_switch_and_incoming_lines(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("hello wrld" + LEFT * 3)
        await w.screen.until_last("[SERVER-COMMAND]-> hello wrld")
        w.console.write("bob: one\nbob: two")
        await w.screen.until(lambda: "bob: two" in w.screen.lines())
        w.view.name = "[CHAT]-> "
        w.console.refresh()
        await w.screen.until_last("[CHAT]-> hello wrld")
        assert w.screen.lines() == ["bob: one", "bob: two", "[CHAT]-> hello wrld"]
        keys.send_text("o" + ENTER)
        assert await w.next() == Line("hello world")


async def test_alt_enter_inserts_a_newline(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("one" + ALT_ENTER + "two" + ENTER)
        assert await w.next() == Line("one\ntwo")


async def test_alt_and_a_digit_takes_the_half_typed_line_along(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("hällo wrld" + LEFT * 3 + "\x1b2")
        assert await w.next() == Jump(2, "hällo wrld")
        await w.screen.until_last("[SERVER-COMMAND]->")
        keys.send_text("\x1b9" + "again" + ENTER)
        assert [await w.next(), await w.next()] == [Jump(9, ""), Line("again")]
        assert "wrld" not in repr(Jump(2, "hällo wrld"))


async def test_a_line_is_put_back_before_what_was_typed_meanwhile(keys: PipeInput) -> None:
    async with world(keys) as w:
        assert w.console.typed() == ""
        keys.send_text("rld" + LEFT)
        await w.screen.until_last("[SERVER-COMMAND]-> rld")
        assert w.console.typed() == "rld"
        w.console.put_back("hello w")
        await w.screen.until_last("[SERVER-COMMAND]-> hello wrld")
        keys.send_text("!" + ENTER)  # the cursor has not moved within it
        assert await w.next() == Line("hello wrl!d")


async def test_what_was_half_typed_is_known_after_a_hang_up(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("half a line")
        await w.screen.until_last("[SERVER-COMMAND]-> half a line")
        keys.close()
        assert await w.next() == EndOfInput()
        assert w.console.typed() == "half a line"


async def test_what_was_submitted_is_half_typed_no_more(keys: PipeInput) -> None:
    async with world(keys) as w:
        for _ in range(20):
            keys.send_text("sent" + ENTER)
            assert await w.next() == Line("sent")
            assert w.console.typed() == ""


async def test_a_dim_line_stands_back(keys: PipeInput, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(keys) as w:
        w.console.write("bob: hi  — 1 unread, to bob", dim=True)
        await w.screen.until(lambda: "bob: hi  — 1 unread, to bob" in w.screen.lines())
        assert any("\x1b[2mbob: hi  — 1 unread, to bob\x1b[22m" in text for text in w.screen.raw)
        monkeypatch.setenv("NO_COLOR", "1")
        w.console.write("carol: hi", dim=True)
        await w.screen.until(lambda: "carol: hi" in w.screen.lines())
        assert not any("\x1b[2mcarol" in text for text in w.screen.raw)


async def test_a_paste_of_lines_is_one_input(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("\x1b[200~one\r\ntwo\nthree\x1b[201~")
        await w.screen.until(lambda: w.screen.lines()[-1:] == ["three"])
        with pytest.raises(trio.WouldBlock):
            w.console.inputs.receive_nowait()  # type: ignore[attr-defined]
        keys.send_text("!" + ENTER)
        assert await w.next() == Line("one\ntwo\nthree!")


async def test_tab_inserts_a_single_completion(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("/u" + TAB)
        await w.screen.until_last("[SERVER-COMMAND]-> /users")
        keys.send_text(ENTER)
        assert await w.next() == Line("/users")


async def test_enter_right_after_tab_submits_the_completed_text(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("/u" + TAB + ENTER)
        assert await w.next() == Line("/users")


async def test_tab_without_a_completion_does_nothing(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("/nothing" + TAB + ENTER)
        assert await w.next() == Line("/nothing")


async def test_tab_inserts_the_common_part_and_shows_the_rest(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("/c" + TAB)
        await w.screen.until(lambda: any("about /channel" in line for line in w.screen.lines()))
        assert w.screen.last() == "[SERVER-COMMAND]-> /cha"
        w.console.write("bob: hi")
        await w.screen.until(lambda: w.screen.lines()[:1] == ["bob: hi"])
        keys.send_text("t bob" + ENTER)
        assert await w.next() == Line("/chat bob")


async def test_no_completion_while_typing(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("/ch")
        await w.screen.until_last("[SERVER-COMMAND]-> /ch")
        assert len(w.screen.lines()) == 1


async def test_ctrl_c_clears_the_line_and_interrupts_an_empty_one(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("half a line" + CTRL_C)
        keys.send_text("whole" + ENTER + CTRL_C)
        assert [await w.next(), await w.next()] == [Line("whole"), Interrupt(had_text=False)]
        keys.send_text("again" + ENTER)
        assert await w.next() == Line("again")


async def test_ctrl_d_deletes_or_ends_and_the_prompt_goes_on(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("abx" + LEFT + CTRL_D + ENTER + CTRL_D + "stay" + ENTER)
        assert [await w.next(), await w.next(), await w.next()] == [Line("ab"), EndOfInput(), Line("stay")]


async def test_the_history_is_searched_and_written_nowhere(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("/chat bob" + ENTER + "other" + ENTER)
        assert [await w.next(), await w.next()] == [Line("/chat bob"), Line("other")]
        keys.send_text(CTRL_R + "chat")
        await w.screen.until(lambda: any("reverse-i-search" in line for line in w.screen.lines()))
        keys.send_text(ENTER)
        await w.screen.until_last("[SERVER-COMMAND]-> /chat bob")
        keys.send_text(ENTER)
        assert await w.next() == Line("/chat bob")


async def test_bytes_that_are_no_text_become_marks(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_bytes(b"a\xffb\r")
        item = await w.next()
        assert isinstance(item, Line)
        assert item.text.encode().decode() == item.text
        assert "\ufffd" in item.text


async def test_a_burst_of_2000_lines_while_typing(keys: PipeInput) -> None:
    expected = [f"bob: message {number}" for number in range(2000)]
    async with world(keys) as w:
        await w.screen.until_last("[SERVER-COMMAND]->")
        for number, line in enumerate(expected):
            w.console.write(line)
            if number % 500 == 0:
                keys.send_text(str(number))
                await trio.lowlevel.checkpoint()
        await w.screen.until(lambda: expected[-1] in w.screen.lines())
        await w.screen.until_last("[SERVER-COMMAND]-> 050010001500")
        assert w.screen.lines()[:-1] == expected
        keys.send_text(ENTER)
        assert await w.next() == Line("050010001500")
    # Each flush and each key draws the prompt once; far fewer than there are lines.
    assert sum("[SERVER-COMMAND]" in text for text in w.screen.raw) < 500


async def test_lines_written_before_the_first_prompt_are_printed(keys: PipeInput) -> None:
    async with world(keys) as w:
        w.console.write("welcome")
        await w.screen.until(lambda: w.screen.lines() == ["welcome", "[SERVER-COMMAND]->"])


async def test_controls_do_not_reach_the_terminal(keys: PipeInput) -> None:
    async with world(keys) as w:
        w.console.write("x\x1b[2J\x9b2J\ry\x07")
        await w.screen.until(lambda: len(w.screen.lines()) == 2)
        assert w.screen.lines()[0] == "x\ufffd[2J\ufffd2J\ufffdy\ufffd"


async def test_markup_is_plain_text(keys: PipeInput) -> None:
    async with world(keys) as w:
        w.console.write("<b>no</b> &amp; {0} %s")
        await w.screen.until(lambda: "<b>no</b> &amp; {0} %s" in w.screen.lines())


async def test_a_slow_consumer_holds_the_keyboard_and_loses_nothing(keys: PipeInput) -> None:
    count = INPUT_BUFFER + 40
    async with world(keys) as w:
        keys.send_text("".join(f"{number}\r" for number in range(count)))
        await w.screen.until(lambda: f"[SERVER-COMMAND]-> {INPUT_BUFFER}" in w.screen.lines())
        assert [await w.next() for _ in range(count)] == [Line(str(number)) for number in range(count)]


async def test_leaving_frees_a_thread_that_waits_to_submit(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.send_text("".join(f"{number}\r" for number in range(INPUT_BUFFER + 3)))
        await w.screen.until(lambda: f"[SERVER-COMMAND]-> {INPUT_BUFFER}" in w.screen.lines())


async def test_leaving_prints_what_is_queued(keys: PipeInput) -> None:
    async with world(keys) as w:
        screen = w.screen
        await screen.until_last("[SERVER-COMMAND]->")
        for number in range(100):
            w.console.write(f"last words {number}")
    assert [line for line in screen.lines() if "last" in line] == [f"last words {number}" for number in range(100)]
    w.console.write("too late")
    w.console.refresh()
    await trio.testing.wait_all_tasks_blocked()
    assert "too late" not in screen.lines()


async def test_leaving_by_cancellation_is_as_orderly(keys: PipeInput) -> None:
    with trio.CancelScope() as scope:
        async with world(keys) as w:
            keys.send_text("half a line")
            await w.screen.until_last("[SERVER-COMMAND]-> half a line")
            w.console.write("last words")
            scope.cancel()
            await w.next()
    assert scope.cancelled_caught
    assert "last words\r\n" in "".join(w.screen.raw)
    assert not [t for t in threading.enumerate() if t.name == "messageapp-terminal"]


async def test_a_terminal_that_takes_nothing_is_given_up(keys: PipeInput, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messageapp_cli.terminal.LEAVE_SECONDS", 0.05)
    screen = Screen()
    output = Vt100_Output(screen, lambda: Size(rows=24, columns=80), term="xterm", enable_cpr=False)
    with trio.fail_after(30):
        async with open_terminal(FakeView(), keyboard=keys, screen=output) as console:
            await screen.until_last("[SERVER-COMMAND]->")
            screen.takes.clear()
            console.write("stuck")
        (thread,) = (t for t in threading.enumerate() if t.name == "messageapp-terminal")
        assert thread.daemon
        screen.takes.set()
        await trio.to_thread.run_sync(thread.join)


async def test_a_terminal_that_takes_nothing_does_not_fill_the_memory(
    keys: PipeInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messageapp_cli.terminal.MAX_WAITING", 100)
    async with world(keys) as w:
        await w.screen.until_last("[SERVER-COMMAND]->")
        w.screen.takes.clear()
        try:
            for number in range(1000):
                w.console.write(f"line {number:03}")
                assert len(w.console._lines) <= 101  # type: ignore[attr-defined]
        finally:
            w.screen.takes.set()
        await w.screen.until(lambda: "line 999" in w.screen.lines())
        shown = w.screen.lines()
        dropped = shown.index("error: the terminal was too slow; lines before this one were dropped")
        rest = [line for line in shown[dropped + 1 :] if line.startswith("line ")]
        assert rest == [f"line {number:03}" for number in range(1000 - len(rest), 1000)]
        assert 0 < len(rest) <= 100


async def test_errors_of_the_body_come_out_as_they_are(keys: PipeInput) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with world(keys):
            raise KeyError("mine")


async def test_the_end_of_the_keyboard_ends_the_input(keys: PipeInput) -> None:
    async with world(keys) as w:
        keys.close()
        assert await w.next() == EndOfInput()
        with pytest.raises(trio.EndOfChannel):
            await w.next()
        w.console.write("nobody sees this")


async def test_a_screen_that_dies_ends_the_input(keys: PipeInput) -> None:
    async with world(keys) as w:
        await w.screen.until_last("[SERVER-COMMAND]->")
        w.screen.dead = True
        w.console.write("bob: hi")
        assert await w.next() == EndOfInput()
        with pytest.raises(trio.EndOfChannel):
            await w.next()


async def test_a_bug_in_the_view_ends_the_input_and_is_raised_on_leaving(keys: PipeInput) -> None:
    async def use() -> None:
        async with world(keys) as w:
            await w.screen.until_last("[SERVER-COMMAND]->")
            w.view.fails = True
            w.console.refresh()
            with pytest.raises(trio.EndOfChannel):
                await w.next()

    with pytest.raises(ZeroDivisionError):
        await use()
    assert not [t for t in threading.enumerate() if t.name == "messageapp-terminal"]
