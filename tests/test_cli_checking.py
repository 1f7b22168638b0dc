"""What is shown of a live check, and where there are no pictures."""

from __future__ import annotations

import pytest
import trio
from wcwidth import wcswidth

from messageapp.client import events as ev
from messageapp_cli.checking import printable, shown_lines
from messageapp_cli.repl import Repl
from messageapp_keys.fingerprint import numeric_fingerprint, safety_code, safety_number
from messageapp_keys.sas import EMOJI
from support.fake_console import FakeConsole, open_stage, settled


def test_a_row_has_number_name_and_the_picture_last() -> None:
    lines = shown_lines(ev.CheckShown("bob", (0, 21, 36, 41, 53, 61, 63)), pictures=True)
    assert lines[1:8] == [
        "  1  Dog         🐶",
        "  2  Cloud       ☁️",
        "  3  Thumbs Up   👍",
        "  4  Light Bulb  💡",
        "  5  Aeroplane   ✈️",
        "  6  Headphones  🎧",
        "  7  Pin         📌",
    ]


def test_whatever_a_terminal_makes_of_a_picture_what_stands_before_is_aligned() -> None:
    for start in range(0, 63, 7):
        rows = shown_lines(ev.CheckShown("bob", tuple(range(start, start + 7))), pictures=True)[1:8]
        before = {row.rindex(EMOJI[start + place][0]) for place, row in enumerate(rows)}
        assert len(before) == 1
        assert all(row[: before.copy().pop()].isascii() for row in rows)
        assert all(wcswidth(row) < 40 for row in rows)


def test_without_pictures_everything_is_ascii() -> None:
    for number in range(64):
        lines = shown_lines(ev.CheckShown("bob", (number,)))
        assert "".join(lines).isascii()
        assert lines[1] == f"  1  {EMOJI[number][1]}"


@pytest.mark.parametrize(
    ("encoding", "has_them"), [("utf-8", True), ("ascii", False), ("iso-8859-1", False), ("cp437", False), ("?", False)]
)
def test_which_encodings_have_pictures(encoding: str, has_them: bool) -> None:
    assert printable(encoding) is has_them


@pytest.mark.parametrize(("plain", "encoding", "mark"), [(True, "utf-8", ""), (False, "iso-8859-1", "verified ")])
async def test_where_there_are_no_pictures(plain: bool, encoding: str, mark: str) -> None:
    """A script sees no marks at all; a terminal without pictures sees them as a word."""
    with trio.fail_after(60):
        async with open_stage("alice") as stage, stage.world.client("bob") as bob:
            console, repl = FakeConsole(), Repl(bob, plain=plain, encoding=encoding)
            alice = stage.players["alice"]
            async with trio.open_nursery() as nursery:

                async def play() -> None:
                    await repl.run(console)

                nursery.start_soon(play)
                await settled()
                alice.type("chat bob")
                await settled()
                await bob.accept()
                await settled()
                alice.type("/verify live")
                await settled()
                await bob.checks.answer(True)
                alice.type("/verify yes", "hello")
                await settled()
                assert repl.prompt() == f"{mark}[CHAT]-> "
                assert repl.toolbar().partition(" · ")[0].endswith(", verified")
                assert console.lines[-1].endswith(f"{mark}<alice> hello")
                assert console.lines[-1].startswith("<") is plain
                assert "".join(console.lines).isascii()
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("key", [b"%d" % number for number in range(8)])
def test_the_code_for_a_qr_is_the_same_for_both_and_in_the_order_of_the_digits(key: bytes) -> None:
    one, other = (key, "alice@chat.example"), (key + b"other", "bob@chat.example")
    code, number = safety_code(*one, *other), safety_number(*one, *other)
    assert code == safety_code(*other, *one)
    assert len(code) == 65
    assert code[0] == 0
    for half, digest in ((number[:30], code[1:33]), (number[30:], code[33:])):
        chunks = (int.from_bytes(digest[at : at + 5], "big") % 100_000 for at in range(0, 30, 5))
        assert "".join(f"{chunk:05d}" for chunk in chunks) == half
    assert {code[1:33], code[33:]} == {numeric_fingerprint(key, name.encode())[:32] for key, name in (one, other)}
