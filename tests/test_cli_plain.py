"""The plain console: line splitting, lockstep, bad input, broken pipes; real pipes, real threads."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from messageapp_cli.console import BadInput, Completion, Console, EndOfInput, Input, Line, neutral
from messageapp_cli.plain import MAX_LINE, LineSplitter, open_plain

CLI = Path(__file__).parents[1] / "cli"


class FakeView:
    def __init__(self) -> None:
        self.name = "[SERVER-COMMAND]-> "

    def prompt(self) -> str:
        return self.name

    def complete(self, text: str) -> Sequence[Completion]:
        return []

    def toolbar(self) -> str:
        return ""


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


@pytest.fixture
def stdin() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close_writer()
    # An abandoned read ends now; only then may the number of its descriptor be used again.
    for thread in threading.enumerate():
        if thread.name == "messageapp-stdin":
            thread.join(10)
            assert not thread.is_alive()
    os.close(pipe.reader)


async def drain(console: Console) -> list[Input]:
    return [item async for item in console.inputs]


def split(data: bytes, cuts: Sequence[int], limit: int) -> list[Input]:
    splitter = LineSplitter(limit)
    found: list[Input] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        found += splitter.feed(data[start:stop])
    return found + splitter.end()


def reference(data: bytes, limit: int) -> list[Input]:
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found: list[Input] = []
    for number, raw in enumerate((line.removesuffix(b"\r") for line in lines), 1):
        if len(raw) > limit:
            found.append(BadInput(f"line {number} is longer than {limit} bytes and was not used"))
            continue
        try:
            found.append(Line(raw.decode()))
        except UnicodeDecodeError:
            found.append(BadInput(f"input is not UTF-8, line {number} was not used"))
    return found


PIECES = st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"\r", b"\xff", "ä".encode(), "\u20ac".encode(), b"12345678"])


@given(data=st.lists(PIECES, max_size=30).map(b"".join), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_any_split_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    assert split(data, cuts, 8) == reference(data, 8)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_limit_is_exact(end: bytes) -> None:
    assert split(b"x" * 8 + end, [], 8) == [Line("x" * 8)]
    assert split(b"x" * 9 + end, [], 8) == [BadInput("line 1 is longer than 8 bytes and was not used")]


def test_a_long_line_is_refused_before_it_ends_and_holds_no_memory() -> None:
    splitter = LineSplitter(8)
    assert splitter.feed(b"x" * 20) == [BadInput("line 1 is longer than 8 bytes and was not used")]
    assert splitter.feed(b"x" * 1000) == []
    assert splitter.feed(b"x\nok\n") == [Line("ok")]


def test_the_text_of_a_line_is_not_in_its_repr() -> None:
    assert "secret" not in repr(Line("secret"))


@given(st.text(st.characters(exclude_categories=[])))
def test_neutral_leaves_no_control(text: str) -> None:
    clean = neutral(text)
    assert len(clean) == len(text)
    assert not any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 for c in clean)
    clean.encode()


async def test_lines_then_the_end(stdin: Pipe) -> None:
    with trio.fail_after(10):
        async with open_plain(FakeView(), stdin.reader, io.StringIO(), io.StringIO()) as console:
            os.write(stdin.writer, b"/users\r\n\n/chat bob\nlast")
            stdin.close_writer()
            assert await drain(console) == [Line("/users"), Line(""), Line("/chat bob"), Line("last"), EndOfInput()]


async def test_a_bad_line_does_not_end_the_input(stdin: Pipe) -> None:
    with trio.fail_after(10):
        async with open_plain(FakeView(), stdin.reader, io.StringIO(), io.StringIO()) as console:
            os.write(stdin.writer, b"\xff\xfe\nhi\n")
            stdin.close_writer()
            assert await drain(console) == [
                BadInput("input is not UTF-8, line 1 was not used"),
                Line("hi"),
                EndOfInput(),
            ]


async def test_a_line_beyond_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"y" * MAX_LINE + b"\n" + b"x" * (MAX_LINE + 1) + b"\nok\n")
    with trio.fail_after(20), path.open("rb") as file:
        async with open_plain(FakeView(), file.fileno(), io.StringIO(), io.StringIO()) as console:
            first, second, third, end = await drain(console)
    assert first == Line("y" * MAX_LINE)
    assert isinstance(second, BadInput)
    assert str(MAX_LINE) in second.reason
    assert [third, end] == [Line("ok"), EndOfInput()]


async def test_each_prompt_shows_what_the_command_before_it_changed(stdin: Pipe) -> None:
    view, err, out = FakeView(), io.StringIO(), io.StringIO()
    with trio.fail_after(10):
        async with open_plain(view, stdin.reader, out, err) as console:
            os.write(stdin.writer, b"/chat bob\nhi\n")
            assert err.getvalue() == ""
            await console.inputs.receive()
            await trio.testing.wait_all_tasks_blocked()
            assert err.getvalue() == "[SERVER-COMMAND]-> "
            view.name = "[CHAT]-> "
            console.write("bob: hello")
            console.refresh()
            assert err.getvalue() == "[SERVER-COMMAND]-> "
            await console.inputs.receive()
    assert err.getvalue() == "[SERVER-COMMAND]-> [CHAT]-> "
    assert out.getvalue() == "bob: hello\n"


async def test_a_cancelled_receive_loses_nothing_and_prompts_once(stdin: Pipe) -> None:
    err = io.StringIO()
    with trio.fail_after(10):
        async with open_plain(FakeView(), stdin.reader, io.StringIO(), err) as console:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(console.inputs.receive)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            os.write(stdin.writer, b"one\ntwo\n")
            assert await console.inputs.receive() == Line("one")
            assert err.getvalue() == "[SERVER-COMMAND]-> "
            assert await console.inputs.receive() == Line("two")


async def test_leaving_does_not_wait_for_stdin(stdin: Pipe) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, open_plain(FakeView(), stdin.reader) as console:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await console.inputs.receive()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await console.inputs.receive()


async def test_a_nonblocking_stdin_is_waited_for(stdin: Pipe) -> None:
    os.set_blocking(stdin.reader, False)
    with trio.fail_after(10):
        async with open_plain(FakeView(), stdin.reader) as console, trio.open_nursery() as nursery:

            async def take() -> None:
                assert await console.inputs.receive() == Line("late")

            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            os.write(stdin.writer, b"late\n")


async def test_controls_are_replaced_and_the_encoding_never_fails(stdin: Pipe) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    with trio.fail_after(10):
        async with open_plain(FakeView(), stdin.reader, out, io.StringIO()) as console:
            console.write("a\x1b[2Jb\r\x9b1mc\tä\nnext\n")
    assert raw.getvalue() == b"a?[2Jb??1mc\t?\nnext\n"


async def test_a_broken_stdout_ends_the_input(stdin: Pipe) -> None:
    reader, writer = os.pipe()
    with trio.fail_after(10), os.fdopen(writer, "w") as out:
        os.close(reader)
        got: list[Input] = []
        async with (
            open_plain(FakeView(), stdin.reader, out, io.StringIO()) as console,
            trio.open_nursery() as nursery,
        ):

            async def take() -> None:
                got.extend(await drain(console))

            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            console.write("nobody reads this")
            console.write("nor this")
    assert got == [EndOfInput()]


SCRIPT = """
import trio
import trio.testing
from messageapp_cli.console import Line
from messageapp_cli.plain import open_plain
class View:
    def prompt(self): return "> "
    def complete(self, text): return []
    def toolbar(self): return ""
async def main():
    async with open_plain(View()) as console:
        async for item in console.inputs:
            console.write(item.text if isinstance(item, Line) else repr(item))
trio.run(main)
"""


def start() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, "PYTHONPATH": str(CLI)},
    )


def test_a_process_as_a_filter() -> None:
    with start() as process:
        out, err = process.communicate(b"one\ntwo", timeout=30)
    assert (out, err, process.returncode) == (b"one\ntwo\nEndOfInput()\n", b"> > > ", 0)


def test_a_process_whose_reader_went_away_ends_quietly() -> None:
    with start() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.write(b"one\ntwo\n" * 1000)
            process.stdin.flush()
        err = process.stderr.read()
        assert process.wait(timeout=30) == 0
        with suppress(BrokenPipeError):
            process.stdin.close()
    assert err == b"> "
