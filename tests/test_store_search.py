"""Search: what is found, what hostile queries do (nothing), and that deleted words are gone from the file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from messageapp.store import changes, conversations, messages, outbox
from messageapp.store.database import Database
from messageapp.store.search import Query, overwrite_deleted, search_numbers
from messageapp.store.states import Cause, State
from support.accounts import KINDS, in_memory, open_kind, readable

SERVER = "chat.example"


def say(database: Database, text: str, peer: str = "bob", *, own: bool = True, at: int = 10) -> int:
    """A message; its number."""
    conversation = conversations.conversation_of(database, SERVER, peer)
    (count,) = database.execute("SELECT count(*) FROM messages").fetchone()
    id = count.to_bytes(16, "big")
    if own:
        number = messages.add_own(database, conversation, id, text, written_ms=at)
    else:
        number = messages.add_received(database, conversation, id, text, written_ms=at, now_ms=at + 5)
    assert number is not None
    return number


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("invoice", [3, 1]),
        ("INVOICE", [3, 1]),
        ("invo", [3, 1]),
        ("in", []),
        ("in*", [3, 1]),
        ('"invo"', []),
        ('"invoice"', [3, 1]),
        ("invo*", [3, 1]),
        ("the invoice", [3, 1]),
        ("invoice dinner", []),
        ('"the invoice"', [3, 1]),
        ('"invoice the"', []),
        ('"the invoice" june', [3]),
        ('"the inv"*', [3, 1]),
        ("uber", [2]),
        ("Über", [2]),
        ("-", []),
        ("invoice -", [3, 1]),
        ("👍", []),
        ("", [3, 2, 1]),
        ("   ", [3, 2, 1]),
    ],
)
def test_words_are_found(database: Database, typed: str, found: list[int]) -> None:
    for text in ("Send me the invoice, please", "über dinner", "the INVOICE of June"):
        say(database, text)
    assert search_numbers(database, SERVER, Query(typed), 9) == found


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("你好", [2, 1]),
        ("晚上", [2]),
        ("晚上 你", [2]),
        ('"晚上"', [2]),
        ("カタ", [3]),
        ("のテスト", [3]),
        ("세계", [4]),
        ("สวัส", [5]),
        ("python의", [4]),
        ("good 世界", [1]),
        ("世%", []),
        ("_好", []),
        ("世|", []),
        ("再見", []),
    ],
)
def test_scripts_without_spaces_are_looked_through(database: Database, typed: str, found: list[int]) -> None:
    texts = ("good 你好世界", "朋友你好，晚上見", "これはカタカナのテスト", "안녕세계 Python의", "ฉันสวัสดี")
    for text in texts:
        say(database, text)
    assert search_numbers(database, SERVER, Query(typed), 9) == found
    assert search_numbers(database, SERVER, Query(typed, own=False), 9) == []


def test_the_newest_come_first_and_no_more_than_asked_for(database: Database) -> None:
    numbers = [say(database, f"common word{i}") for i in range(20)]
    assert search_numbers(database, SERVER, Query("common"), 5) == numbers[:-6:-1]
    assert [one.number for one in messages.search(database, SERVER, Query("common"), 5)] == numbers[:-6:-1]
    assert messages.search(database, SERVER, Query("common"), 0) == []
    assert messages.search(database, SERVER, Query("common"), -1) == []


def test_filters_narrow(database: Database) -> None:
    ours, theirs = say(database, "red one", at=10), say(database, "red two", own=False, at=20)
    carols = say(database, "red three", "carol", own=False, at=30)
    bob, carol = (conversations.conversation_of(database, SERVER, name) for name in ("bob", "carol"))
    for query, found in {
        Query("red", conversation=bob): [theirs, ours],
        Query("red", conversation=carol): [carols],
        Query(conversation=bob, own=True): [ours],
        Query("red", own=False): [carols, theirs],
        Query(before_ms=20): [ours],
        Query(after_ms=20): [carols, theirs],
        Query("red", before_ms=30, after_ms=20, conversation=bob): [theirs],
        Query("blue", conversation=bob): [],
    }.items():
        assert search_numbers(database, SERVER, query, 9) == found, query


SYNTAX = st.text(alphabet="abc \"*():^-+{}ANDORTNE'\\\0;%_\ud800é", max_size=40) | st.text(max_size=30)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_typed_is_an_error(kind: str) -> None:
    with closing(in_memory(kind)) as database:
        kept = [say(database, text) for text in ("a b c", "and or near not", "é")]

        @given(SYNTAX)
        @example('a" OR "b')
        @example("text:a")
        @example("NEAR(a b)")
        @example("a AND")
        @example('"')
        @example('""')
        @example("*")
        @example("\0")
        @example("'); DROP TABLE messages; --")
        @settings(max_examples=100, deadline=None)
        def ask(typed: str) -> None:
            assert set(search_numbers(database, SERVER, Query(typed), 9)) <= set(kept)

        ask()
        assert search_numbers(database, SERVER, Query("and or"), 9) == [kept[1]], "words like others"


# what is deleted is gone ----------------------------------------------------------------------------------------------

SECRET = "xyzzyplugh"


def edited(database: Database, number: int) -> None:
    """The old version is kept: with the message it goes."""
    changes.edit_message(database, number, "harmless", 11)
    changes.delete_message(database, number)


def expired(database: Database, number: int) -> None:
    database.execute("UPDATE messages SET expire_s = 1 WHERE number = ?", (number,))
    messages.set_state(database, number, State.SENT, Cause.AT_SERVER, 1000)
    assert changes.purge_expired(database, 2000) == [number]


WAYS: dict[str, Callable[[Database, int], object]] = {
    "deleted": changes.delete_message,
    "edited, then deleted": edited,
    "expired": expired,
    "forgotten": lambda database, number: changes.forget(database, SERVER, "bob"),
}


def lies_in(folder: Path) -> set[str]:
    """Files with the secret, or with a part of it that the index keeps where terms share their beginning."""
    return {path.name for path in folder.iterdir() if SECRET[3:].encode() in path.read_bytes()}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_what_is_deleted_stays_in_the_file(tmp_path: Path, way: str) -> None:
    with closing(readable(tmp_path / "account.db")) as database:
        overwrite_deleted(database)
        for i in range(30):
            say(database, f"other text {i} xyzabc {'filler ' * 40}", "carol")
        number = say(database, f"the word is {SECRET} {'and more ' * 900}")
        outbox.add(database, SERVER, "bob", b"n" * 16, now_ms=1, number=number, content=SECRET.encode() * 50)
        conversations.save_draft(database, conversations.conversation_of(database, SERVER, "bob"), "a draft")
        for i in range(30):
            say(database, f"later text {i} {'filler ' * 40}", "carol")
        changes.empty_log(database)
        assert lies_in(tmp_path) == {"account.db"}, "it can be seen where it is"
        WAYS[way](database, number)
        changes.empty_log(database)
        assert lies_in(tmp_path) == set()
        assert len(search_numbers(database, SERVER, Query("filler"), 100)) == 60
        database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
    assert lies_in(tmp_path) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_overwriting_is_set_once_and_stays(tmp_path: Path, kind: str) -> None:
    for _ in range(2):
        with closing(open_kind(kind, tmp_path / "account.db")) as database:
            overwrite_deleted(database)
            overwrite_deleted(database)
            assert database.execute("PRAGMA secure_delete").fetchone() == (1,)
            rows = database.execute("SELECT count(*) FROM words_config WHERE k = 'secure-delete'").fetchone()
            if kind == "sealed":
                assert rows == (1,)
            number = say(database, "gone")
            changes.delete_message(database, number)
            changes.empty_log(database)
            assert (tmp_path / "account.db-wal").stat().st_size == 0
