"""Full-text search over messages. The index has no text of its own; who changes a message keeps it in step.

Words are found without regard to case and accents, from three letters on also as the beginning of longer ones (`re*`
says so of fewer); `"two words"` is a phrase of whole words. Scripts without spaces between words are looked through as
they are, as the index has whole runs of them. Nothing that somebody types is an error of syntax.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .database import Database, stored

__all__ = ["Query", "index", "overwrite_deleted", "search_numbers", "unindex"]

_TERM: Final = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')
_BEGINNING: Final = 3  # letters from which on a word finds longer ones
_NO_SPACES: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff"  # Thai, Lao, Burmese, Hangul, Khmer
    "\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f"  # kana, Chinese characters
    "\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff]"
)
_SPECIAL: Final = re.compile("([%_|])")
_ESCAPED: Final = r"|\1"
_LONGEST: Final = 1000  # letters of what is looked for anywhere; SQLite has a limit there, too
_CAN_OVERWRITE_WORDS: Final = (3, 42)
_WITHOUT_WORDS: Final = ("messages m", "m.number")
_WITH_WORDS: Final = ("words w CROSS JOIN messages m ON m.number = w.rowid", "w.rowid")


@dataclass(frozen=True, slots=True)
class Query:
    """All that is given has to hold."""

    text: str = ""  # words and phrases
    conversation: int | None = None
    own: bool | None = None
    before_ms: int | None = None  # written before
    after_ms: int | None = None  # written then or later


def index(database: Database, number: int, text: str | None) -> None:
    """Every message has its row, one without a text too. Part of an open transaction. `sqlite3.Error`."""
    database.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, text))


def unindex(database: Database, number: int, text: str | None) -> None:
    """`text` is what was indexed: its words are taken out one by one. Part of an open transaction. `sqlite3.Error`."""
    database.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (number, text))


def overwrite_deleted(database: Database) -> None:
    """From now on what is deleted is overwritten in the file, and so are its words in the index. `UnusableSetup`.

    An SQLite before 3.42 leaves words there until their page is written anew. Encrypted files come with a newer one.
    """
    with stored("the messages"):
        database.execute("PRAGMA secure_delete = ON").fetchone()
        (version,) = database.execute("SELECT sqlite_version()").fetchone()
        if tuple(map(int, version.split(".")[:2])) < _CAN_OVERWRITE_WORDS:
            return
        if database.execute("SELECT 1 FROM words_config WHERE k = 'secure-delete' AND v = 1").fetchone() is None:
            database.execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")


def search_numbers(database: Database, server: str, query: Query, limit: int) -> list[int]:
    """The newest `limit` messages that match, the newest first. `UnusableSetup`."""
    terms = _terms(query.text)
    expression = " ".join(term.expression for term in terms if not term.within)
    # From the index of words to the messages and never the other way, in its order: it stops at the limit.
    source, number = _WITH_WORDS if expression else _WITHOUT_WORDS
    given = {
        "w.words MATCH ?": expression or None,
        # `+`: looked up there, not led by it. Else a common word and a rare peer would lead through the whole file.
        "+w.rowid IN (SELECT number FROM messages WHERE conversation = ?)": query.conversation if expression else None,
        "m.conversation = ?": None if expression else query.conversation,
        "m.own = ?": None if query.own is None else int(query.own),
        "m.written_ms < ?": query.before_ms,
        "m.written_ms >= ?": query.after_ms,
        # `+`: not by the index of conversations, as that would go through the file in no order.
        "+m.conversation IN (SELECT id FROM conversations WHERE server = ?)": server,
    }
    wanted = {condition: value for condition, value in given.items() if value is not None}
    within = [term.pattern for term in terms if term.within]
    conditions = [*wanted, *("m.text LIKE ? ESCAPE '|'" for _ in within)]
    sql = f"SELECT {number} FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {number} DESC LIMIT ?"  # noqa: S608
    with stored("the messages"):
        rows = database.execute(sql, (*wanted.values(), *within, max(limit, 0))).fetchall()
    return [int(found) for (found,) in rows]


@dataclass(frozen=True, slots=True)
class _Term:
    """All terms must be there."""

    text: str
    begins: bool  # words that begin so

    @property
    def within(self) -> bool:
        """It is found anywhere in a text, without the index."""
        return _NO_SPACES.search(self.text) is not None

    @property
    def pattern(self) -> str:
        """For LIKE, with `|` before what would mean more than itself."""
        return f"%{_SPECIAL.sub(_ESCAPED, self.text[:_LONGEST])}%"

    @property
    def expression(self) -> str:
        """A string in FTS5's own syntax."""
        return f'"{self.text}"{"*" if self.begins else ""}'


def _terms(text: str) -> list[_Term]:
    """Without what a string of SQLite cannot have: lone surrogates, and NUL, which would end the expression."""
    found = _TERM.findall(text.encode("utf-8", "replace").decode().replace("\0", " "))
    return [
        _Term(phrase or word.rstrip("*"), bool(star) or word.endswith("*") or len(word) >= _BEGINNING)
        for phrase, star, word in found
    ]
