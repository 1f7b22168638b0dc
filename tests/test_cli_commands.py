"""What a typed line means: with and without the x, glued or spaced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp_cli.commands import ROWS, help_lines, nearest, parse, seconds_of


def meaning(line: str) -> tuple[str, tuple[str, ...]] | None:
    found = parse(line)
    return None if found is None else (found.command.name, found.words)


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        ("list", "list", ()),
        ("listx", "list", ()),
        ("list x", "list", ()),
        ("  LIST ", "list", ()),
        ("exitx", "exit", ()),
        ("helpx", "help", ()),
        ("help", "help", ()),
        ("status", "status", ()),
        ("chat bob", "chat", ("bob",)),
        ("chatbob", "chat", ("bob",)),
        ("CHATBob", "chat", ("Bob",)),
        ("chat  bob ", "chat", ("bob",)),
        ("chatx", "chat", ("x",)),  # x is a name like any other
        ("chat x", "chat", ("x",)),
        ("acpt", "acpt", ()),
        ("acptalice", "acpt", ("alice",)),
        ("acpt alice", "acpt", ("alice",)),
        ("acptx", "acpt", ("x",)),
        ("refu", "refu", ()),
        ("refualice", "refu", ("alice",)),
        ("cach", "cach", ()),
        ("cachx", "cach", ("x",)),
        ("cachbob", "cach", ("bob",)),
        ("verify", "verify", ()),
        ("verify confirm", "verify", ("confirm",)),
        ("verify bob", "verify", ("bob",)),
        ("verify bob confirm", "verify", ("bob", "confirm")),
        ("trust bob 1234567890", "trust", ("bob", "1234567890")),
        ("trust bob 12345 67890", "trust", ("bob", "12345", "67890")),
        ("chat help", "chat", ("help",)),
        ("chathelp", "chat", ("help",)),
        ("msg bob hello", "msg", ("bob", "hello")),
        ("msg bob   two  spaces", "msg", ("bob", "  two  spaces")),
        ("  MSG   bob hello ", "msg", ("bob", "hello ")),
        ("msg bob\ttab", "msg", ("bob", "tab")),
        ("msg bob one\ntwo\n\n", "msg", ("bob", "one\ntwo")),
        ("msg bob x", "msg", ("bob", "x")),
        ("to", "to", ()),
        ("to bob", "to", ("bob",)),
        ("conversations x", "conversations", ()),
        ("history", "history", ()),
        ("history bob", "history", ("bob",)),
        ("history bob 5", "history", ("bob", "5")),
        ("search x", "search", ("x",)),
        ("search in:bob  two words", "search", ("in:bob  two words",)),
        ("why 42", "why", ("42",)),
        ("why #42", "why", ("#42",)),
        ("reply 41  yes ", "reply", ("41", " yes ")),
        ("edit 42 text", "edit", ("42", "text")),
        ("react 41 👍", "react", ("41", "👍")),
        ("react 41", "react", ("41",)),
        ("expire bob 1h", "expire", ("bob", "1h")),
        ("expire bob off", "expire", ("bob", "off")),
        ("receipts bob on", "receipts", ("bob", "on")),
        ("expire bob", "expire", ("bob",)),
        ("receipts bob", "receipts", ("bob",)),
        ("help x", "help", ()),
        ("help expire", "help", ("expire",)),
        ("help /Expire", "help", ("/Expire",)),
        ("export bob --json", "export", ("bob", "--json")),
        ("export bob --text my file.txt", "export", ("bob", "--text", "my file.txt")),
    ],
)
def test_commands(line: str, name: str, words: tuple[str, ...]) -> None:
    assert meaning(line) == (name, words)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "  ",
        "lis",
        "lists",
        "list all",
        "listx x",
        "exit now",
        "exitnow",
        "chat",
        "chat bob alice",
        "chat bob x",
        "chatbob now",
        "chat -bob",
        "chat bob-",
        "chat b_b",
        "chat bób",
        "chat " + "b" * 17,
        "acpt a b",
        "statusx",
        "verify bob nonsense",
        "verifybob",
        "trust bob",
        "trust bob digits",
        "trust bob 12345 67890 12345",
        "trust 1234567890",
        "hello",
        "chatting is fun",
        "listen!",
        "msg",
        "msg bob",
        "msg bob  ",
        "msg b_b hello",
        "msgbob hello",
        "tobob",
        "to bob hello",
        "history bob many",
        "search",
        "why",
        "why x",
        "why 4x",
        "why ##4",
        "why \u0664",
        "why " + "4" * 19,
        "edit42 text",
        "edit 42",
        "edit bob text",
        "react 41 a b",
        "expire bob 1",
        "expire bob 0s",
        "expire bob 366d",
        "expire bob 1w",
        "receipts bob maybe",
        "help nothing",
        "help to me",
        "export bob",
        "export bob --xml",
    ],
)
def test_no_commands(line: str) -> None:
    assert parse(line) is None


@given(st.text(max_size=40))
def test_any_line_is_a_command_or_none(line: str) -> None:
    found = parse(line)
    assert found is None or found.command in ROWS
    nearest(line)


@given(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,14}[A-Za-z0-9])?", fullmatch=True),
    st.sampled_from(["chat", "acpt", "refu"]),
)
def test_glued_means_the_same_as_spaced(name: str, verb: str) -> None:
    assert meaning(verb + name) == meaning(f"{verb} {name}") == (verb, (name,))


@pytest.mark.parametrize(
    ("line", "usage"),
    [
        ("lits", "list"),
        ("exut", "exit"),
        ("quit", "exit"),
        ("stat", "status"),
        ("aceptt", "acpt [USER]"),
        ("chat", "chat USER"),
        ("chatbob now", "chat USER"),
        ("trust bob", "trust USER DIGITS"),
        ("VERIFI", "verify [USER] [live|yes|no|confirm]"),
    ],
)
def test_the_nearest_command(line: str, usage: str) -> None:
    assert nearest(line) == usage


@pytest.mark.parametrize("line", ["", "12345", "\u202ex", "zzzzzzzz"])
def test_no_command_is_near(line: str) -> None:
    assert nearest(line) is None


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("30s", 30), ("10m", 600), ("1h", 3600), ("2d", 172_800), ("365d", 31_536_000), ("off", 0), ("-1h", None)],
)
def test_a_time(word: str, seconds: int | None) -> None:
    assert seconds_of(word) == seconds


def test_the_help_has_a_line_for_every_command() -> None:
    lines = help_lines()
    for row in ROWS:
        assert sum(line.strip().startswith(row.usage + "  ") and line.endswith(row.help) for line in lines) == 1
    assert all(len(line) <= 120 for line in lines)
    assert help_lines("/Retry") == ["  retry N  send message N again, which failed or is not confirmed"]


def test_names_are_short_and_distinct() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert {"list", "chat", "acpt", "refu", "cach", "help", "exit"} <= set(names)  # the report's
    glued = [row.name for row in ROWS if row.glues]  # the others need a space: `blocked` is not `block ed`
    assert {len(name) for name in glued} == {4}
    assert not any(one != two and two.startswith(one) for one in glued for two in names)
