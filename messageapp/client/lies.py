"""What a server can be caught at with its key log, why a peer's key is refused, and the evidence (protocol §12.5)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Final

from messageapp.errors import MessageAppError, UnusableSetup
from messageapp.store.home import write_file

__all__ = ["KeyRefused", "Lie", "LogLied", "Refusal", "write_evidence"]

_SAME_SECOND: Final = 100  # evidence files; more tell nothing new


class Lie(Enum):
    """An alarm. The value is kept in the store, the sentence is for people."""

    GONE = "gone", "the server keeps no key log any more"
    ROLLBACK = "rollback", "the server shows an older key log than before"
    FORK = "fork", "the server has signed two key logs that do not agree"
    RULES = "rules", "the key log breaks its own rules"
    LOG_KEY = "log-key", "the key log is signed by another key than before"
    UNSIGNED = "unsigned", "the server's checkpoint is not signed by the key of its log"
    UNBOUND = "unbound", "the key of the log is not signed by the server's certificate"
    OWN_KEY = "own-key", "the key log gives your name to a key that is not yours"
    OWN_MISSING = "own-missing", "the key log does not have your key"
    WITHHELD = "withheld", "the server hides from you what others see in the key log"

    def __init__(self, kind: str, sentence: str) -> None:
        self.kind = kind
        self.sentence = sentence


class LogLied(MessageAppError):
    """the key log of the server cannot be trusted

    `shown` and `stored` are the signed notes that do not go together, empty where there is none.
    """

    exit_code = 3

    def __init__(self, lie: Lie, detail: str = "", shown: bytes = b"", stored: bytes = b"") -> None:
        super().__init__(lie.sentence + (f": {detail}" if detail else ""))
        self.lie = lie
        self.shown = shown
        self.stored = stored


class Refusal(Enum):
    """Why the log does not confirm a peer's key. `{peer}` is the peer's name."""

    NO_PROOF = "the server does not show the key of {peer} in its key log"
    MALFORMED = "what the server shows of its key log for {peer} cannot be read"
    UNSIGNED = "the key log that the server shows for {peer} is signed by an unknown key"
    NOT_INCLUDED = "the key of {peer} is not in the key log"
    WRONG_USER = "the server shows somebody else's entry of the key log for {peer}"
    WRONG_KEY = "the key log has another key for {peer} than the server gives"
    REVOKED = "the key of {peer} was revoked"
    OLDER = "the key log has a newer key for {peer} than the server gives"
    NOT_WITNESSED = "the witnesses that you ask for have not confirmed the key of {peer} yet"
    NOT_FOLLOWED = "the key log could not be read"
    ALARM = "the key log of this server is not to be trusted"


class KeyRefused(MessageAppError):
    """the key log does not confirm a key"""

    exit_code = 3

    def __init__(self, refusal: Refusal, peer: str = "", detail: str = "") -> None:
        super().__init__(refusal.value.format(peer=peer) + (f": {detail}" if detail else ""))
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    content: bytes


def _printable(note: bytes) -> str:
    """A note as it is. What is none, and would move the cursor of whoever looks at the file, is written out."""
    text = note.decode("utf-8", "backslashreplace")
    return "".join([char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text])


def write_evidence(folder: Path | None, server: str, user: str, vkey: str, lied: LogLied, now_ms: int) -> Path | None:
    """A new file with both signed notes, whole, what happened and when; None without a folder to write to.

    Anybody who has the log's verifier key can check it without us: the notes are as the server signed them.
    """
    if folder is None:
        return None
    when = datetime.fromtimestamp(now_ms / 1000, UTC)
    head = [
        "MessageApp evidence about a key log (protocol §12.5)",
        f"what: {lied}",
        f"kind: {lied.lie.kind}",
        f"when: {when:%Y-%m-%dT%H:%M:%SZ}",
        f"server: {server}",
        f"seen by: {user}",
        f"log key: {vkey}",
        "",
    ]
    sections = (_Section("the checkpoint that was held", lied.stored), _Section("the checkpoint shown", lied.shown))
    data = "\n".join(head) + "".join(
        f"\n--- {section.title}\n{_printable(section.content)}" for section in sections if section.content
    )
    stem = f"{when:%Y%m%dT%H%M%SZ}-{lied.lie.kind}"
    for number in range(1, _SAME_SECOND + 1):
        path = folder / (f"{stem}.txt" if number == 1 else f"{stem}-{number}.txt")
        if path.exists():
            continue
        try:
            write_file(path, data.encode())
        except UnusableSetup:
            return None  # the alarm counts, also on a full disk
        return path
    return None
