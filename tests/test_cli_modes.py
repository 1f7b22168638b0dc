"""The two prompts: what a line means there, and what completes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.client.client import State
from messageapp.wire.commands import UserState
from messageapp_cli.commands import ROWS, Command
from messageapp_cli.console import Completion
from messageapp_cli.modes import Complain, Recent, Run, Say, Screen, Write, complete, prompt, step

ONLINE = {
    "alice": UserState.IDLE,
    "bob": UserState.IDLE,
    "Bert": UserState.IDLE,
    "carol": UserState.IN_CHAT,
    "dave": UserState.RINGING,
    "erin": UserState.CALLING,
}
HOME = Screen("alice", State.ONLINE, online=ONLINE)
RINGING = Screen("alice", State.RINGING, peer="bob", caller="bob", online=ONLINE)
CALLING = Screen("alice", State.CALLING, peer="bob", online=ONLINE)
KEYING = Screen("alice", State.KEYING, peer="bob", online=ONLINE)
CHAT = Screen("alice", State.CHAT, peer="bob", online=ONLINE)
OPEN = Screen("alice", State.ONLINE, online=ONLINE, open="dan")
OPEN_AND_CHAT = Screen("alice", State.CHAT, peer="bob", online=ONLINE, open="dan")
MAIL = Screen(
    "alice",
    State.ONLINE,
    online={"alice": UserState.IDLE, "dave": UserState.IDLE},
    known=("dan", "Dave"),
    recent=(Recent(42, True, "see you"), Recent(41, False, "hello")),
)


@pytest.mark.parametrize("screen", [HOME, RINGING, CALLING])
def test_the_command_prompt(screen: Screen) -> None:
    assert prompt(screen) == "[SERVER-COMMAND]-> "


@pytest.mark.parametrize("screen", [KEYING, CHAT])
def test_the_chat_prompt(screen: Screen) -> None:
    assert prompt(screen) == "[CHAT]-> "


@pytest.mark.parametrize("state", [State.ONLINE, State.RINGING, State.CHAT])
def test_the_prompt_of_an_open_conversation_says_who_gets_what_is_typed(state: State) -> None:
    assert prompt(Screen("alice", state, peer="bob", open="dan")) == "[CHAT dan]-> "


def test_the_mark_is_of_whoever_gets_what_is_typed() -> None:
    assert prompt(Screen("alice", State.CHAT, peer="bob", mark="✓ ")) == "✓ [CHAT]-> "
    assert prompt(Screen("alice", State.CHAT, peer="bob", open="dan", open_mark="✓ ", mark="")) == "✓ [CHAT dan]-> "
    assert prompt(Screen("alice", State.CHAT, peer="bob", open="dan", mark="✓ ")) == "[CHAT dan]-> "


def told(screen: Screen, line: str) -> str:
    """The command that is carried out, the text that is said (in quotes), or the complaint."""
    match step(screen, line):
        case Run(command, words):
            return " ".join([command.name, *words])
        case Say(text):
            return repr(text)
        case Write(peer, text):
            return f"to {peer}: {text!r}"
        case Complain(text):
            return f"error: {text}"
    return ""


@pytest.mark.parametrize("line", ["", "   ", "\t", "\n"])
@pytest.mark.parametrize("screen", [HOME, CHAT])
def test_an_empty_line_is_nothing(screen: Screen, line: str) -> None:
    assert step(screen, line) is None


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("list", "list"),
        ("/list", "list"),
        (" exit ", "exit"),
        ("/exit", "exit"),
        ("chat bob", "chat bob"),
        ("chatbob", "chat bob"),
        ("/chat bob", "chat bob"),
        ("hello", "error: unknown command “hello”; did you mean `help [COMMAND]`?"),
        ("//list", "error: unknown command “//list”; did you mean `list`?"),
    ],
)
def test_lines_at_the_command_prompt(line: str, meaning: str) -> None:
    assert told(HOME, line) == meaning


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("hello", "'hello'"),
        ("list", "'list'"),
        ("exit", "'exit'"),
        (" hello  ", "' hello  '"),
        ("two\nlines", "'two\\nlines'"),
        (" /exit", "' /exit'"),
        ("//exit", "'/exit'"),
        ("///", "'//'"),
        ("/exit", "exit"),
        ("/EXITx", "exit"),
        ("/list", "list"),
        ("/verify confirm", "verify confirm"),
        ("/status", "status"),
        ("/help", "help"),
        ("/chat carol", "error: chat is not for a chat; /exit leaves it"),
        ("/acpt", "error: acpt is not for a chat; /exit leaves it"),
        ("/trust bob 1234567890", "error: trust is not for a chat; /exit leaves it"),
        ("/exti", "error: unknown command “/exti”; did you mean `exit`?"),
        ("/", "error: unknown command “/”; `help` lists the commands"),
        ("/exit\nand more", "error: usage: exit"),
    ],
)
@pytest.mark.parametrize("screen", [CHAT, KEYING])
def test_lines_in_a_chat(screen: Screen, line: str, meaning: str) -> None:
    assert told(screen, line) == meaning


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("hello", "to dan: 'hello'"),
        ("list", "to dan: 'list'"),
        ("  two  spaces ", "to dan: '  two  spaces '"),
        ("two\nlines\n", "to dan: 'two\\nlines'"),
        ("//exit", "to dan: '/exit'"),
        ("/exit", "exit"),
        ("/to carol", "to carol"),
        ("/to", "to"),
        ("/chat carol", "chat carol"),  # calls are made from here, too
        ("/acpt", "acpt"),
        ("/history", "history"),
        ("/msg carol  hi ", "msg carol  hi "),
        ("/edit", "error: usage: edit N TEXT"),
        ("/what?", "error: unknown command “/what?”; did you mean `chat USER`?"),
    ],
)
@pytest.mark.parametrize("screen", [OPEN, OPEN_AND_CHAT])
def test_lines_in_an_open_conversation(screen: Screen, line: str, meaning: str) -> None:
    assert told(screen, line) == meaning


def test_a_text_keeps_its_spaces_at_the_command_prompt() -> None:
    assert step(HOME, "msg bob   two  spaces ") == Run(_row("msg"), ("bob", "  two  spaces "))
    assert step(HOME, "  /msg bob see\nyou") == Run(_row("msg"), ("bob", "see\nyou"))


def test_a_chat_with_the_peer_of_the_open_conversation() -> None:
    assert Screen("alice", State.CHAT, peer="Bob", open="bob").with_open
    assert not OPEN_AND_CHAT.with_open
    assert not OPEN.with_open
    assert not CHAT.with_open


@given(st.text())
def test_no_text_is_lost_in_a_chat(line: str) -> None:
    """Said as it is but for empty lines at its end, with one slash less, or answered; never silently something else."""
    action = step(CHAT, line)
    if not line.strip():
        assert action is None
    elif not line.startswith("/"):
        assert action == Say(line.rstrip("\n"))
    elif line.startswith("//"):
        assert action == Say(line[1:].rstrip("\n"))
    else:
        assert isinstance(action, Run | Complain)
    opened = step(OPEN, line)
    assert opened == (Write("dan", action.text) if isinstance(action, Say) else opened)
    assert isinstance(opened, Write) == isinstance(action, Say)


def _row(name: str) -> Command:
    return next(row for row in ROWS if row.name == name)


def test_a_text_for_a_chat_that_has_just_ended_is_no_command() -> None:
    ended = Screen("alice", State.ONLINE, chat_just_ended=True)
    assert step(ended, "see you there") == Complain("the chat is over; not sent: see you there")
    assert isinstance(step(Screen("alice", State.ONLINE), "see you there"), Complain)
    assert isinstance(step(ended, "list"), Run)


def test_leaving_a_chat_that_has_just_ended_does_not_log_off() -> None:
    ended = Screen("alice", State.ONLINE, chat_just_ended=True)
    assert told(ended, "/exit") == "error: the chat was over already; exit logs off"
    assert told(ended, "/exitx") == "error: the chat was over already; exit logs off"
    assert told(ended, "exit") == "exit"
    assert told(ended, "exitx") == "exit"


def test_a_complaint_shows_nothing_dangerous() -> None:
    complaint = told(HOME, "\x1b[2J\u202ebad\nnext")
    assert "\x1b" not in complaint
    assert "\u202e" not in complaint
    assert "\n" not in complaint
    assert len(told(HOME, "z" * 100_000)) < 120


# completion -----------------------------------------------------------------------------------------------------------


def lines(screen: Screen, text: str) -> list[str]:
    return [text[: len(text) + item.start] + item.text for item in complete(screen, text)]


def test_an_empty_line_offers_every_command_with_its_help() -> None:
    offered = complete(HOME, "")
    assert [item.text.strip() for item in offered] == [row.name for row in ROWS]
    assert [item.meta for item in offered] == [row.help for row in ROWS]


@pytest.mark.parametrize(
    ("screen", "text", "offered"),
    [
        (HOME, "l", ["list"]),
        (HOME, "/l", ["/list"]),
        (HOME, "L", ["list"]),
        (HOME, "ch", ["chat "]),
        (HOME, "e", ["edit ", "expire ", "export ", "exit"]),
        (HOME, "exit", []),
        (HOME, "q", []),
        (HOME, "chat ", ["chat Bert", "chat bob"]),  # who is free, and not oneself
        (HOME, "chat b", ["chat Bert", "chat bob"]),
        (HOME, "chat BE", ["chat Bert"]),
        (HOME, "chat c", []),  # in a chat
        (HOME, "chat a", []),
        (HOME, "chatb", ["chatBert", "chatbob"]),
        (HOME, "/chat bo", ["/chat bob"]),
        (HOME, "chat bob ", []),
        (HOME, "acpt ", []),
        (RINGING, "acpt ", ["acpt bob"]),
        (RINGING, "acpt", ["acptbob"]),
        (RINGING, "refu B", ["refu bob"]),
        (RINGING, "refuc", []),
        (HOME, "verify c", ["verify carol"]),
        (HOME, "verify carol ", ["verify carol confirm"]),
        (HOME, "verify carol x", []),
        (HOME, "trust d", ["trust dave"]),
        (HOME, "trust dave ", []),
        (HOME, "list ", []),
        (HOME, "a\nli", []),
        (CHAT, "", []),
        (CHAT, "li", []),
        (CHAT, "chat ", []),
        (CHAT, "/", [f"/{row.name}{' ' if row.argument else ''}" for row in ROWS if row.in_chat]),
        (CHAT, "/c", ["/conversations"]),  # not the calls
        (CHAT, "/verify ", ["/verify bob", "/verify live", "/verify confirm"]),
        (KEYING, "/ex", ["/expire ", "/export ", "/exit"]),
        (OPEN, "", []),
        (OPEN, "his", []),
        (OPEN, "/c", ["/chat ", "/cach ", "/conversations"]),
        (OPEN, "/verify ", ["/verify dan"]),
        (HOME, "msg ", ["msg Bert", "msg bob", "msg carol", "msg dave", "msg erin"]),
        (MAIL, "msg d", ["msg dan", "msg dave"]),
        (MAIL, "msgd", []),
        (MAIL, "msg dan ", []),
        (MAIL, "to D", ["to dan", "to dave"]),
        (MAIL, "edit ", ["edit 42 "]),
        (MAIL, "reply ", ["reply 42 ", "reply 41 "]),
        (MAIL, "why 4", ["why 42", "why 41"]),
        (MAIL, "why 41", ["why 41"]),
        (MAIL, "why 5", []),
        (MAIL, "why 42 ", []),
        (MAIL, "expire dan ", ["expire dan off"]),
        (MAIL, "receipts dan o", ["receipts dan on", "receipts dan off"]),
        (MAIL, "export dan --j", ["export dan --json"]),
        (MAIL, "export dan --json ", []),
    ],
)
def test_completion(screen: Screen, text: str, offered: list[str]) -> None:
    assert lines(screen, text) == offered


def test_a_number_is_offered_with_the_beginning_of_its_message() -> None:
    assert [(item.text, item.meta) for item in complete(MAIL, "why ")] == [("42", "see you"), ("41", "hello")]


@given(st.sampled_from([HOME, RINGING, CALLING, KEYING, CHAT, OPEN, MAIL]), st.text(max_size=30))
def test_completion_only_replaces_what_was_typed(screen: Screen, text: str) -> None:
    for item in complete(screen, text):
        assert isinstance(item, Completion)
        assert -len(text) <= item.start <= 0
        replaced = text[len(text) + item.start :]
        assert item.text.lower().startswith(replaced.lower())
