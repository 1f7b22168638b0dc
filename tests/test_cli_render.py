"""The stable texts, and strangers' text made harmless."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.client import events as ev
from messageapp.client.following import LogState
from messageapp.errors import ConnectionCut, ServerGoodbye
from messageapp.wire.commands import ListEntry, Listing, UserState
from messageapp_cli.render import (
    MAX_LINES,
    MAX_MARKS,
    error_line,
    first_chat_lines,
    listing_lines,
    log_line,
    number_lines,
    one_line,
    render,
    safe_lines,
)
from messageapp_keys.identity import PrivateIdentity

BUNDLE = PrivateIdentity.generate("ed25519").bundle
NUMBER = "".join(f"{group:05}" for group in range(12))
OTHER = "9" * 60


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (ev.IncomingCall("alice"), ["REQUEST TO CHAT FROM: <alice> ACCEPT?"]),
        (ev.CallRefused("bob"), ["bob refused the chat"]),
        (ev.CallCanceled("alice"), ["alice canceled the call"]),
        (ev.CallRefused("bob", unanswered=True), ["bob refused the chat: no answer"]),
        (ev.CallCanceled("alice", unanswered=True), ["alice canceled the call: you did not answer"]),
        (
            ev.ChatOver("bob", by_us=False, disconnected=False, secure=False),
            ["bob left the chat", "It was not secure yet. If bob is told that your key changed: verify bob"],
        ),
        (ev.Keying("bob"), []),
        (ev.ChatSecure("bob", "hybrid", BUNDLE, False, True), ["CHAT IS SECURE! with bob"]),
        (ev.TextReceived("bob", "hello", 0, False), ["<bob> hello"]),
        (ev.TextReceived("bob", "", 0, False), ["<bob> "]),
        (ev.TextReceived("bob", "late", 0, True), ["<bob> late (late)"]),
        (ev.TextReceived("bob", "a\nb\r\nc\rd", 0, False), ["<bob> a", "<bob> b", "<bob> c", "<bob> d"]),
        (ev.ChatOver("bob", by_us=False, disconnected=False), ["bob left the chat"]),
        (ev.ChatOver("bob", by_us=False, disconnected=True), ["bob disconnected"]),
        (ev.ChatOver("bob", by_us=True, disconnected=False), ["You left the chat with bob"]),
        (ev.Missing("bob", 1), ["error: 1 message from bob did not arrive"]),
        (ev.Missing("bob", 2), ["error: 2 messages from bob did not arrive"]),
        (ev.UndecryptableText("bob"), ["error: a message from bob could not be decrypted; nothing of it is shown"]),
        (
            ev.NotDelivered("bob", "my\ntext", "the chat was over"),
            ["error: not delivered to bob, the chat was over: my text"],
        ),
        (ev.ChatFailed("bob", "a reason"), ["error: no chat with bob: a reason"]),
        (ev.Ended(None), []),
        (ev.Ended(ConnectionCut()), ["connection cut; the last messages may be missing"]),
        (ev.Ended(ServerGoodbye("the server is shutting down", 1)), ["error: the server is shutting down"]),
        (ev.LogAbsent(), ["this server keeps no key log: keys rest on pins and safety numbers alone"]),
        (ev.LogPinned(1, "key"), ["key log: 1 entry; the key of this log is remembered from now on"]),
        (ev.LogPinned(1200, "key"), ["key log: 1,200 entries; the key of this log is remembered from now on"]),
        (ev.LogGrew(1, 2), []),
        (ev.LogTrouble("no answer"), ["error: no answer; no chat begins until it can be read"]),
        (ev.OwnKeyHistory(1), ["key log: 1 entry under your name from before this account's key"]),
        (ev.OwnKeyHistory(2), ["key log: 2 entries under your name from before this account's key"]),
        (ev.OwnKeyRevoked(), ["YOUR KEY WAS REVOKED by the server's administrator"]),
        (ev.ChatStopped("bob", "why"), ["error: the chat with bob was stopped: why"]),
        (
            ev.KeyFollowed("bob", was_verified=False),
            ["bob has a new key, signed by the old one; it is remembered from now on"],
        ),
        (
            ev.KeyFollowed("bob", was_verified=True),
            [
                "bob has a new key, signed by the old one; it is remembered from now on",
                "You had verified the old one. Compare the new: verify bob",
            ],
        ),
        (
            ev.PeerKeyChanged("bob", "unexplained", was_verified=True),
            [
                "KEY CHANGED for bob",
                "The old key of bob has not signed the new one, and no administrator says that it was reset.",
                "You had verified the old key of bob.",
                "The chat is blocked. Compare the new number with bob by another way: verify bob",
            ],
        ),
        (
            ev.PeerKeyChanged("bob", "revoked", was_verified=False),
            [
                "KEY REVOKED for bob",
                "The server's administrator has revoked the key of bob.",
                "There is no chat with bob until there is a new key.",
            ],
        ),
        (
            ev.LogAlarmed("fork: two logs", "/home/a/evidence/x.txt"),
            [
                "KEY LOG ALARM: fork: two logs",
                "No chat begins at this server any more.",
                "The checkpoints, as the server signed them, are in /home/a/evidence/x.txt",
                "Ask its owner and the other users. When it is settled: messageapp log accept",
            ],
        ),
        (
            ev.LogAlarmed("fork: two logs", "", stored=True),
            [
                "KEY LOG ALARM: fork: two logs",
                "No chat begins at this server any more, since an earlier session.",
                "Ask its owner and the other users. When it is settled: messageapp log accept",
            ],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ev.Event) else None,
)
def test_the_stable_texts(event: ev.Event, lines: list[str]) -> None:
    assert render(event) == lines


def test_the_first_chat_shows_the_number() -> None:
    assert render(ev.ChatSecure("bob", "hybrid", BUNDLE, True, False)) == ["CHAT IS SECURE! with bob"]
    lines = first_chat_lines("bob", NUMBER)
    assert lines[1:4] == [
        "safety number with bob:",
        "  00000 00001 00002 00003 00004 00005",
        "  00006 00007 00008 00009 00010 00011",
    ]
    assert "/verify confirm" in lines[4]


def test_a_changed_key_shows_both_numbers() -> None:
    lines = render(ev.KeyChanged("bob", NUMBER, OTHER))
    assert lines[0] == "KEY CHANGED for bob"
    old, new = lines.index("old safety number with bob:"), lines.index("new safety number with bob:")
    assert "".join(lines[old + 1 : old + 3]).replace(" ", "") == NUMBER
    assert "".join(lines[new + 1 : new + 3]).replace(" ", "") == OTHER
    assert "trust bob " in lines[-1]
    assert not any("\n" in line for line in lines)


def test_every_event_has_a_text() -> None:
    examples: dict[str, object] = {
        "peer": "bob",
        "count": 1,
        "size": 2,
        "number": NUMBER,
        "old_number": NUMBER,
        "new_number": OTHER,
    }
    for kind in ev.Event.__args__:
        given = {name: examples.get(name, "") for name in kind.__dataclass_fields__}
        if kind is ev.Ended:
            given = {"error": None}
        assert isinstance(render(kind(**given)), list)


def test_who_is_online() -> None:
    entries = (
        ListEntry("bob", UserState.IN_CHAT),
        ListEntry("Alice", UserState.RINGING),
        ListEntry("carol", UserState.CALLING),
        ListEntry("dave", UserState.IDLE),
    )
    assert listing_lines(Listing(entries)) == ["Online users:", "Alice", "bob (in chat)", "carol", "dave"]
    assert listing_lines(Listing(())) == ["Online users:"]


def test_numbers_in_two_rows() -> None:
    assert number_lines("bob", NUMBER)[1:] == first_chat_lines("bob", NUMBER)[2:4]


# strangers' text ------------------------------------------------------------------------------------------------------

NASTY = {
    "escape": "\x1b[2Jgone",
    "bell": "\x07",
    "backspace": "abc\x08\x08\x08xyz",
    "c1": "\x9b31m",
    "delete": "\x7f",
    "nul": "\x00",
    "override": "\u202egnp.exe",
    "isolate": "\u2066x\u2069",
    "zero width": "pay\u200bpal",
    "joiner": "\u2060",
    "filler": "\u3164",
    "tag": "\U000e0041",
    "annotation": "\ufff9x\ufffa",
    "byte order": "\ufeff",
    "surrogate": "\ud800",
    "musical": "\U0001d173",
}


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_what_moves_hides_or_reorders_is_replaced(text: str) -> None:
    (line,) = safe_lines(text)
    assert "\ufffd" in line
    assert not set(line) & {char for bad in NASTY.values() for char in bad if not char.isprintable()}


def test_every_line_of_a_stranger_carries_its_name() -> None:
    parts = [
        "CHAT IS SECURE! with bob",
        "",
        "",
        "error: y",
        "REQUEST TO CHAT FROM: <carol> ACCEPT?",
        "z",
        "KEY CHANGED for bob",
    ]
    text = "x" + "".join(end + part for end, part in zip("\n\r\x0b\x0c\u2028\u2029\x85", parts, strict=True))
    lines = render(ev.TextReceived("bob", text, 0, False))
    assert len(lines) == 8
    assert all(line.startswith("<bob> ") for line in lines)


def test_a_flood_of_lines_is_cut() -> None:
    whole = render(ev.TextReceived("bob", "\n" * (MAX_LINES - 1), 0, False))
    assert whole == ["<bob> "] * MAX_LINES
    cut = render(ev.TextReceived("bob", "\n" * 65_000, 0, False))
    assert cut == [*whole, "error: 64,001 more lines from bob are not shown"]


def test_a_flood_of_marks_is_cut() -> None:
    (line,) = safe_lines("a" + "\u0301" * 1000 + "b" + "\u0301")
    assert line == "a" + "\u0301" * MAX_MARKS + "b\u0301"


@pytest.mark.parametrize("between", ["\u200d", "\u0903", "\u1161", "\u0897", "\U0001e6e3"])
def test_nothing_between_marks_lets_more_of_them_through(between: str) -> None:
    """Joiners, spacing marks, vowels without a width, and marks that this interpreter's Unicode does not know yet."""
    (line,) = safe_lines("a" + ("\u0301" * MAX_MARKS + between) * 1000)
    assert line.count("\u0301") <= MAX_MARKS


@pytest.mark.parametrize("text", ["hello", "Grüße", "日本語", "שלום", "👍🏽", "€ × –", "a b"])
def test_honest_text_is_left_alone(text: str) -> None:
    assert safe_lines(text) == [text]


def test_a_tab_is_some_spaces() -> None:
    assert safe_lines("a\tb") == ["a    b"]


@given(st.text(st.characters(codec=None)))
def test_nothing_dangerous_is_left(text: str) -> None:
    for line in safe_lines(text):
        for char in line:
            assert unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
            assert unicodedata.bidirectional(char) not in (
                "LRE",
                "RLE",
                "LRO",
                "RLO",
                "PDF",
                "LRI",
                "RLI",
                "FSI",
                "PDI",
            )
        line.encode()  # and any terminal's encoding can say it


@given(st.text(max_size=500), st.integers(2, 100))
def test_a_strangers_text_within_a_line_of_ours(text: str, most: int) -> None:
    line = one_line(text, most)
    assert len(line) <= most
    assert len(safe_lines(line)) == 1


def test_errors_are_one_line() -> None:
    assert error_line("a\nb\x1b") == "error: a b\ufffd"
    assert len(error_line("x" * 10_000)) < 510


def test_status_says_how_far_the_key_log_was_read() -> None:
    def line(**known: Any) -> str:
        return log_line(LogState(**{"kept": True, "size": 1200, "caught_up": True, **known}))

    assert line() == "key log: 1,200 entries, all verified"
    assert line(thin=True) == "key log: 1,200 entries, by proofs alone"
    assert line(caught_up=False) == "key log: 1,200 entries, all verified, reading on"
    assert line(caught_up=False, trouble="no answer") == "key log: 1,200 entries, all verified, no answer"
    assert line(alarm="fork: two logs") == "key log: ALARM, fork: two logs"
    assert line(kept=False) == "key log: this server keeps none"


@pytest.mark.parametrize("how", ["reset", "unexplained"])
def test_a_changed_key_says_who_changed_it(how: str) -> None:
    plain, lines = (render(ev.KeyChanged("bob", NUMBER, OTHER, how=each)) for each in ("", how))
    assert lines[1] == render(ev.PeerKeyChanged("bob", how, was_verified=False))[1]
    assert lines[:1] + lines[2:] == plain[:1] + plain[2:]
