"""Stored messages as lines: the stable texts, and what strangers wrote made harmless."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from messageapp.client import events as ev
from messageapp.client.messages import Cause, Conversation, Message, State
from messageapp.clock import wall_ms
from messageapp.store.changes import Version
from messageapp_cli.message_lines import (
    FOLD_CHARACTERS,
    NEEDS_YOU,
    Style,
    clock,
    conversation_lines,
    divider,
    first_message_lines,
    found_lines,
    message_lines,
    notice,
    pending_lines,
    quote,
    span,
    version_lines,
)
from messageapp_cli.render import render
from support.hostile import HOSTILE, MOST_MARKS, highest_pile, invisible_in, raw_in

NOW = wall_ms()
STYLE = Style("alice", pictures=True)
OLD = 951_782_400_000  # 2000-02-29


def received(**changes: Any) -> Message:
    message = Message(
        number=41,
        peer="bob",
        server="chat.example",
        id=bytes(16),
        own=False,
        text="hello",
        written_ms=OLD,
        stored_ms=OLD,
        state=State.RECEIVED,
        cause=Cause.NONE,
        changed_ms=OLD,
        reply_to=None,
        edited_ms=None,
        versions=0,
        reactions=(),
        expires_ms=None,
        expire_s=0,
        live=False,
        reply_id=None,
        conversation=1,
    )
    return replace(message, **changes)


def own(**changes: Any) -> Message:
    return received(**({"number": 42, "own": True, "state": State.SENT, "text": "see you"} | changes))


def conversation(peer: str, **changes: Any) -> Conversation:
    return replace(Conversation(1, peer, 0, 0, None, "", 0, False, 0, 0), **changes)


def told(message: Message, answered: Message | None = None) -> list[str]:
    """Without the day and the time."""
    return [line.removeprefix(f"{clock(OLD)} ") for line in message_lines(message, STYLE, answered)]


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        (received(), ["#41 <bob> hello"]),
        (received(text="a\nb"), ["#41 <bob> a", "#41 <bob> b"]),
        (received(cause=Cause.LATE), ["#41 <bob> hello (late)"]),
        (received(edited_ms=NOW, text="a\nb"), ["#41 <bob> a", "#41 <bob> b (edited)"]),
        (received(reactions=((True, "👍"), (False, "🙂"))), ["#41 <bob> hello (👍 you, 🙂 bob)"]),
        (received(text=None, state=State.UNREADABLE), ["#41 bob: it could not be read; why 41"]),
        (received(text=None, state=State.HELD), ["#41 bob: it is kept closed; why 41"]),
        (received(reply_to=38), ["↳ #38", "#41 <bob> hello"]),
        (own(), ["#42 <alice> see you (sent)"]),
        (own(state=State.READ, edited_ms=NOW), ["#42 <alice> see you (read, edited)"]),
    ],
)
def test_a_message_in_a_conversation(message: Message, lines: list[str]) -> None:
    assert told(message) == lines


@pytest.mark.parametrize(
    ("text", "shown", "more"),
    [
        ("\n".join("x" * 12), 12, ""),
        ("\n".join("x" * 13), 12, "… 1 more line: /history bob 1"),
        ("\r\n".join("x" * 50), 12, "… 38 more lines: /history bob 1"),
        ("x" * FOLD_CHARACTERS, 1, ""),
        ("x" * (FOLD_CHARACTERS + 1), 1, "… 1 more characters: /history bob 1"),
        ("\n".join(["x" * 400] * 20), 3, "… 7,019 more characters: /history bob 1"),
    ],
)
def test_a_long_message_is_folded(text: str, shown: int, more: str) -> None:
    lines = message_lines(own(text=text), STYLE, unfolds="/history bob 1")
    assert len(lines) == shown + bool(more)
    assert lines[shown - 1].endswith(" (sent)")
    assert lines[shown:] == [more] * bool(more)
    assert len(message_lines(own(text=text), STYLE)) == len(text.splitlines())


def test_an_answer_shows_what_it_answers() -> None:
    assert told(own(reply_to=41), received(text="one\ntwo")) == [
        "↳ #41 <bob> one two",
        "#42 <alice> see you (sent)",
    ]
    assert quote(42, replace(STYLE, pictures=False), own()) == "re #42 <alice> see you"
    assert quote(41, STYLE, received(text=None)) == "↳ #41 <bob> …"


def test_the_day_stands_where_it_is_not_today() -> None:
    assert len(clock(NOW, NOW)) == len("12:31")
    assert clock(OLD, NOW).startswith("2000-02-")
    assert message_lines(received(written_ms=NOW), STYLE, day=True)[0].startswith(time.strftime("20"))
    for odd in (-1 << 70, 1 << 63, (1 << 64) - 1):
        assert clock(odd)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (30, "30s"), (90, "1m 30s"), (3600, "1h"), (180_000, "2d 2h"), (-1 + (1 << 32), "")],
)
def test_a_span_of_time(seconds: int, text: str) -> None:
    assert span(seconds).startswith(text)


def test_small_lines() -> None:
    assert notice("bob", "hi\nthere", 2, OLD, STYLE) == f"{clock(OLD)} bob: hi there  — 2 unread, to bob"
    assert notice("bob", "hi", 0, OLD, replace(STYLE, pictures=False)) == f"{clock(OLD)} bob: hi  -- to bob"
    assert divider("2 new", STYLE) == "── 2 new ──"
    assert divider("bob", Style("alice", pictures=False)) == "-- bob --"
    assert first_message_lines("bob", ["digits"], to_us=True)[:2] == [
        "This is the first message from bob; the key is remembered from now on.",
        "digits",
    ]
    assert version_lines([Version("before", OLD)]) == [f"  before, {clock(OLD)}: before"]


def test_the_list_of_conversations() -> None:
    rows = [
        (1, conversation("bob", unread=2, last=received())),
        (2, conversation("caroline", draft="half", expire_s=3600, receipts=True, last=own())),
        (3, conversation("dan")),
    ]
    assert conversation_lines(rows) == [
        "Conversations:",
        f"  1  bob       (2 unread)  {clock(OLD)}  hello",
        f"  2  caroline  (draft, vanish after 1h, told what you read)  {clock(OLD)}  you: see you",
        "  3  dan",
    ]
    assert conversation_lines([]) == ["No conversations yet; msg USER TEXT begins one."]


def test_what_is_pending_and_what_was_found() -> None:
    assert pending_lines([]) == ["No message of yours is under way."]
    assert pending_lines([own()])[1:] == [f"  #42 to bob  sent  {clock(OLD)}  see you"]
    assert found_lines([], STYLE) == ["Nothing found."]
    assert found_lines([received(), own()], STYLE) == [
        f"{clock(OLD)} #41 <bob> hello",
        f"{clock(OLD)} #42 to bob <alice> see you",
    ]


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (ev.MessageReceived("bob", 41, "a\nb", 0), ["<bob> a", "<bob> b"]),
        (ev.MessageReceived("bob", 41, "a", 0, late=True), ["<bob> a (late)"]),
        (ev.MessageEdited("bob", 41, "b"), ["<bob> b (edited)"]),
        (ev.MessageChanged(42, "bob", "delivered", ""), []),
        (ev.MessageChanged(42, "bob", "failed", "refused"), ["error: #42 to bob was not sent; why 42"]),
        (ev.MessageUnreadable("bob", 41), ["a message from bob cannot be read yet; asked for again (why 41)"]),
        (ev.MessageHeld("bob", 41), ["error: #41 from bob is kept closed; why 41"]),
        (ev.Reacted("bob", 42, "👍"), ["bob reacts to #42: 👍"]),
        (ev.Reacted("bob", 42, ""), ["bob takes the reaction to #42 back"]),
        (
            ev.TimerChanged("bob", 3600, by_us=False),
            ["Messages with bob vanish after 1h, from now on (bob says so; expire bob off ends it)."],
        ),
        (ev.TimerChanged("bob", 0, by_us=True), ["Messages with bob stay, from now on (you say so)."]),
        (ev.MailMoved(to_us=True), ["This device receives your messages from now on."]),
    ],
)
def test_events_as_a_script_reads_them(event: ev.Event, lines: list[str]) -> None:
    assert render(event) == lines


def test_a_reaction_is_shown_with_16_letters_at_most() -> None:
    assert render(ev.Reacted("bob", 42, "x" * 16)) == [f"bob reacts to #42: {'x' * 16}"]
    assert render(ev.Reacted("bob", 42, "x" * 17)) == [f"bob reacts to #42: {'x' * 15}…"]
    (line,) = told(received(reactions=((False, "x" * 17),)))
    assert line == f"#41 <bob> hello ({'x' * 15}… bob)"


def test_the_causes_that_are_told_at_once() -> None:
    assert {Cause.KEY_CHANGED, Cause.BLOCKED, Cause.NO_MAIL, Cause.MAILBOX_FULL, Cause.NO_PREKEYS} <= NEEDS_YOU
    assert not NEEDS_YOU & {Cause.WAITING, Cause.NOT_CONNECTED, Cause.BUSY, Cause.IN_CHAT, Cause.NONE}


def test_no_stranger_chooses_more_than_text() -> None:
    for name, whole in HOSTILE.items():
        text = whole[:2000]  # the longest are in test_terminal_safety
        message = received(text=text, reply_to=38, reactions=((False, text),))
        lines = [
            *message_lines(message, STYLE, message),
            notice("bob", text, 1, NOW, STYLE),
            *message_lines(message, STYLE, message, unfolds="/history bob 1"),
            *conversation_lines([(1, conversation("bob", last=message))]),
            *pending_lines([own(text=text)]),
            *found_lines([message], STYLE),
            *version_lines([Version(text, 0)]),
            *render(ev.MessageReceived("bob", 1, text, 0)),
            *render(ev.MessageEdited("bob", 1, text)),
            *render(ev.Reacted("bob", 1, text)),
        ]
        assert not raw_in("".join(lines)), name
        assert not invisible_in("".join(lines)), name
        assert max(map(highest_pile, lines)) <= MOST_MARKS, name
        assert not any("\n" in line for line in lines), name
