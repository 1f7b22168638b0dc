"""Messages as a user interface asks for them: write, read, search, change. Needs no connection.

Everything is on disk when a method returns, each in one transaction; what is to be sent lies in the outbox until a
client that is connected sends it (`Client.mail`). Texts are a stranger's: make them safe before they are shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from messageapp.e2ee.envelope import MAX_EMOJI_BYTES, MAX_IDS, Envelope, check_text
from messageapp.store import changes, conversations, messages, outbox
from messageapp.store.changes import PURGED_AT_ONCE, Version
from messageapp.store.conversations import Conversation
from messageapp.store.database import Database, transaction
from messageapp.store.messages import Message
from messageapp.store.search import overwrite_deleted
from messageapp_keys.names import BadUsername, check_username, fold, is_username
from messageapp_keys.primitives import Random

from .causes import Cause, State
from .queries import MessagesRefused, parse_query
from .sessions import retire_unanswered

__all__ = ["Cause", "Conversation", "Message", "Messages", "MessagesRefused", "State", "Version", "envelope_of"]

_WORD: Final = re.compile(r"[^\W\d_]{2}")
_FOREVER_S: Final = 1 << 32  # the field of an envelope has 32 bits


def envelope_of(message: Message) -> Envelope:
    """What an own message is sealed as, the first time and again: the same id, the same time."""
    return Envelope(
        message.id,
        message.written_ms,
        message.text,
        reply_to=message.reply_id or b"",
        expire_s=message.expire_s or None,
    )


class Messages:
    """One account's messages at one server; `server` is its canonical name, `wall_ms` the wall clock in ms.

    `MessagesRefused`, `MessageTooLong` and, where the file cannot be used, `UnusableSetup`.
    """

    def __init__(self, database: Database, server: str, user: str, wall_ms: Callable[[], int], random: Random) -> None:
        self._database = database
        self._server = server
        self._user = user
        self._wall_ms = wall_ms
        self._random = random
        overwrite_deleted(database)

    # writing ----------------------------------------------------------------------------------------------------------

    def write(self, peer: str, text: str, *, reply_to: int | None = None, live: bool = False) -> int:
        """Queue a text for `peer`; its number. `reply_to` is the number of a message of the same conversation.

        `live`: it is to be said in the chat under way; the row waits there for who seals it (`outbox.of_message`).
        """
        text, now = check_text(text) if live else self._checked(text), self._wall_ms()
        with transaction(self._database):
            conversation = self._open(peer)
            answered = None if reply_to is None else self.message(reply_to)
            if answered and fold(answered.peer) != fold(peer):
                raise MessagesRefused(f"message {reply_to} is of the conversation with {answered.peer}")
            number = messages.add_own(
                self._database,
                conversation.id,
                self._random(16),
                text,
                written_ms=now,
                reply_to=answered.id if answered else None,
                expire_s=conversation.expire_s,
                live=live,
                cause=Cause.IN_CHAT if live else Cause.WAITING,
            )
            assert number is not None  # noqa: S101 - 128 random bits
            self._queue(self.message(number), live)
        return number

    def edit(self, number: int, text: str) -> None:
        """Another text for an own message; the one before is kept."""
        text, now = self._checked(text), self._wall_ms()
        with transaction(self._database):
            message = self.message(number)
            if not message.own:
                raise MessagesRefused(f"message {number} is {message.peer}'s: only own ones can be edited")
            if not changes.edit_message(self._database, number, text, now):
                return
            waiting = outbox.of_message(self._database, number)
            content = envelope_of(self.message(number)).encode()
            if waiting and outbox.set_content(self._database, waiting.place, content):
                return  # nobody has the text before
            if message.state is not State.FAILED:  # `retry` takes the text as it is then
                self._note(message.peer, Envelope(self._random(16), now, text, edits=message.id), number)

    def react(self, number: int, emoji: str) -> None:
        """Our reaction to a message, at most 64 bytes and no spaces; empty takes it back."""
        emoji = check_text(emoji)
        if len(emoji.encode()) > MAX_EMOJI_BYTES or (emoji and emoji.split() != [emoji]):
            raise MessagesRefused(f"a reaction is one emoji, at most {MAX_EMOJI_BYTES} bytes of it")
        if _WORD.search(emoji) or emoji.isalnum():
            raise MessagesRefused("a reaction is an emoji and no word; reply N TEXT answers in words")
        with transaction(self._database):
            message = self.message(number)
            if message.text is None:
                raise MessagesRefused(f"message {number} cannot be read yet")
            if changes.react(self._database, number, emoji, own=True):
                note = Envelope(self._random(16), self._wall_ms(), react=(message.id, emoji))
                self._note(message.peer, note, number)

    def retry(self, number: int) -> None:
        """Queue a message again that failed or is not confirmed, with the same id; or try a queued one now."""
        with transaction(self._database):
            message = self.message(number)
            if not message.own or message.state not in messages.OPEN:
                state = f"is {message.state}" if message.own else f"is {message.peer}'s"
                raise MessagesRefused(f"message {number} {state}: there is nothing to try again")
            conversation = self._conversation(message.peer)
            if message.state is State.SENT and conversation.seen_ms >= message.changed_ms:
                # He was there and has not taken it; so he has not seen how a session began with it, either.
                retire_unanswered(self._database, self._server, message.peer)
            if message.state is not State.QUEUED:
                messages.set_state(self._database, number, State.QUEUED, Cause.WAITING, self._wall_ms())
                self._queue(message, live=False)
            outbox.wake(self._database, self._server, message.peer)

    def delete(self, number: int) -> None:
        """On this side only. What is not sent yet will not be."""
        with transaction(self._database):
            self.message(number)
            changes.delete_message(self._database, number)
        changes.empty_log(self._database)

    def forget(self, peer: str) -> int:
        """All of the conversation but the pin and the sessions; how many messages that was."""
        return sum(self.forgetting(peer))

    def forgetting(self, peer: str) -> Iterator[int]:
        """The same in portions of a moment each, so that others have their turn; how many messages each was.

        What comes meanwhile stays. Left half way, the rest is still there.
        """
        self._conversation(peer)
        yield from changes.forgetting(self._database, self._server, peer, PURGED_AT_ONCE)

    # of a conversation ------------------------------------------------------------------------------------------------

    def set_expiry(self, peer: str, seconds: int) -> None:
        """Messages vanish so long after they came, on both sides, from now on; 0: never. The peer is told."""
        if not 0 <= seconds < _FOREVER_S:
            raise MessagesRefused("messages cannot be kept for such a time")
        with transaction(self._database):
            if conversations.set_expiry(self._database, self._open(peer).id, seconds):
                self._note(peer, Envelope(self._random(16), self._wall_ms(), expire_s=seconds))

    def set_receipts(self, peer: str, on: bool) -> None:
        """Whether the peer is told what was read."""
        with transaction(self._database):
            conversations.set_receipts(self._database, self._open(peer).id, on)

    def mark_read(self, peer: str) -> int:
        """All that came is read; how many were not before. Tells the peer where `set_receipts` is on."""
        with transaction(self._database):
            conversation = self.conversation(peer)
            if conversation is None:
                return 0
            ids = conversations.mark_read(self._database, conversation.id)
            for start in range(0, len(ids) if conversation.receipts else 0, MAX_IDS):
                read = tuple(ids[start : start + MAX_IDS])
                self._note(peer, Envelope(self._random(16), self._wall_ms(), read=read))
        return conversation.unread

    def conversations(self) -> list[Conversation]:
        """The one with the newest message first."""
        return conversations.list_conversations(self._database, self._server)

    def conversation(self, peer: str) -> Conversation | None:
        """The one with `peer`, in any spelling; None also for a name that cannot be."""
        return conversations.find_conversation(self._database, self._server, peer) if is_username(peer) else None

    def unread(self, peer: str | None = None) -> int:
        """Of one conversation, or of all."""
        if peer is None:
            return conversations.count_unread(self._database, self._server)
        found = self.conversation(peer)
        return found.unread if found else 0

    def draft(self, peer: str) -> str:
        """What was half typed; empty where there is nothing."""
        found = self.conversation(peer)
        return found.draft if found else ""

    def save_draft(self, peer: str, text: str) -> None:
        """Empty takes it away. Nothing is kept for a name that cannot be."""
        with transaction(self._database):
            if text or self.conversation(peer):
                conversations.save_draft(self._database, self._open(peer).id, check_text(text))

    # reading ----------------------------------------------------------------------------------------------------------

    def history(self, peer: str, n: int = 20, before: int | None = None) -> list[Message]:
        """The last `n` (below number `before`), the oldest first; empty where there is no conversation."""
        found = self.conversation(peer)
        return messages.history(self._database, found.id, n, before) if found else []

    def search(self, text: str, limit: int = 50) -> list[Message]:
        """The newest `limit` that match, the newest first. Words (from 3 letters: or what begins so), `"a phrase"`, and

        `in:bob` · `from:bob` · `from:me` · `before:2026-01-31` · `after:2026-01-31` (that day or later, local time).
        """
        query = parse_query(text, self._user, lambda peer: self._conversation(peer).id)
        return messages.search(self._database, self._server, query, limit)

    def message(self, number: int) -> Message:
        found = messages.find_message(self._database, self._server, number)
        if found is None:
            raise MessagesRefused(f"there is no message {number}")
        return found

    def versions(self, number: int) -> list[Version]:
        """The texts that it had before, the oldest first."""
        return changes.versions(self._database, self.message(number).number)

    def next_try(self, number: int) -> int:
        """When a queued message is tried again, ms; 0: as soon as its turn comes."""
        return outbox.held_until(self._database, number)

    def pending(self) -> list[Message]:
        """Own messages that are not delivered: queued, sent, failed; the oldest first."""
        return messages.find_open(self._database, self._server)

    def export(self, peer: str) -> Iterator[Message]:
        """All of the conversation, the oldest first."""
        return messages.export(self._database, self._conversation(peer).id)

    def purge(self) -> list[int]:
        """Delete what has had its time, at whatever server, in a moment's portion; the numbers. A client that is
        connected does it by itself."""
        return changes.purge_expired(self._database, self._wall_ms(), PURGED_AT_ONCE)

    # inside -----------------------------------------------------------------------------------------------------------

    def _open(self, peer: str) -> Conversation:
        """The conversation with `peer`, made if it is not there."""
        try:
            check_username(peer)
        except BadUsername as error:
            raise MessagesRefused(str(error)) from None
        if fold(peer) == fold(self._user):
            raise MessagesRefused("that is you")
        conversations.conversation_of(self._database, self._server, peer)
        return self._conversation(peer)

    def _conversation(self, peer: str) -> Conversation:
        found = self.conversation(peer)
        if found is None:
            raise MessagesRefused(f"there is no conversation with {peer}")
        return found

    @staticmethod
    def _checked(text: str) -> str:
        if not text.strip():
            raise MessagesRefused("there is no text")
        return check_text(text)

    def _queue(self, message: Message, live: bool) -> None:
        outbox.add(
            self._database,
            self._server,
            message.peer,
            message.id,
            now_ms=self._wall_ms(),
            number=message.number,
            content=envelope_of(message).encode(),
            live=live,
        )

    def _note(self, peer: str, envelope: Envelope, about: int | None = None) -> None:
        outbox.add(
            self._database,
            self._server,
            peer,
            envelope.id,
            now_ms=self._wall_ms(),
            about=about,
            content=envelope.encode(),
        )
