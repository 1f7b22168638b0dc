"""The live check inside a chat: a commitment, two random values, seven emoji to compare (protocol §11.2), sans-IO.

    A                                         B
      | 1 commit = H(label || 00 || r_a)       |
      |--------------------------------------->|
      | 2 r_b                                  |
      |<---------------------------------------|
      | 3 r_a                                  |
      |--------------------------------------->|  checks the commitment, and only then
      |                 both show the same seven
      | 4 the same, or not                     |
      |<-------------------------------------->|

A run of a peer who is out of turn, or opens another value than it committed to, is over (`CheckFailed`); the chat is
not. Each run gives somebody between the two one guess in 2^42, so a chat has few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from messageapp.errors import MessageAppError
from messageapp_keys.codec import Malformed, u8
from messageapp_keys.primitives import Random, same
from messageapp_keys.sas import commitment, seven_numbers
from messageapp_keys.types import ExporterSecret

__all__ = ["MAX_RUNS", "CheckFailed", "CheckRefused", "LiveCheck", "Reaction", "SasMessage"]

MAX_RUNS: Final = 3  # a chat, whoever asks: guesses of somebody in the middle
_RANDOM: Final = 32
_COMMIT, _REPLY, _OPENING, _ANSWER = range(1, 5)
_SIZES: Final = {_COMMIT: 32, _REPLY: _RANDOM, _OPENING: _RANDOM, _ANSWER: 1}


class CheckFailed(MessageAppError):
    """the live check is over"""


class CheckRefused(MessageAppError):
    """there is no live check now"""


@dataclass(frozen=True, slots=True)
class SasMessage:
    """`u8 step | data`: the value of TLV 7."""

    step: int
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        return u8(self.step) + self.data

    @classmethod
    def parse_untrusted(cls, value: bytes) -> SasMessage:
        """`Malformed` for an unknown step, a wrong length, or an answer that is neither 0 nor 1."""
        step, data = value[:1], value[1:]
        if not step or _SIZES.get(step[0]) != len(data) or (step[0] == _ANSWER and data[0] > 1):
            raise Malformed("a step of the live check has not its form")
        return cls(step[0], data)


@dataclass(frozen=True, slots=True)
class Reaction:
    """What follows from one message of the peer."""

    send: SasMessage | None = None
    numbers: tuple[int, ...] = ()  # seven places in the table, to be shown now
    answer: bool | None = None  # the peer's: the same, or not


class _Phase(Enum):
    IDLE = "no run"
    COMMITTED = "A, waits for r_b"
    REPLIED = "B, waits for r_a"
    SHOWN = "both may answer"


class LiveCheck:
    """All runs of one chat. `own_key` and `peer_key` are key_ids; the smaller one is A where both have begun."""

    def __init__(self, exporter: ExporterSecret, own_key: bytes, peer_key: bytes, random: Random) -> None:
        self.runs = 0
        self._exporter = exporter
        self._yields = own_key > peer_key
        self._random = random
        self._phase = _Phase.IDLE
        self._own = b""  # r_a as A, r_b as B
        self._theirs = b""  # the commitment, as B
        self._commits: list[bytes] = []  # our own of this chat
        self._crossed = False  # both have begun, and the peer's question was passed over
        self._answered: bool | None = None
        self._peer_answered: bool | None = None
        self._owed = 0  # answers to runs that our own "not" has ended
        self._handlers: dict[tuple[_Phase, int], Callable[[bytes], Reaction]] = {
            (_Phase.IDLE, _COMMIT): self._receive_commit,
            (_Phase.COMMITTED, _COMMIT): self._receive_crossing,
            (_Phase.COMMITTED, _REPLY): self._receive_reply,
            (_Phase.REPLIED, _OPENING): self._receive_opening,
            (_Phase.SHOWN, _ANSWER): self._receive_answer,
            (_Phase.IDLE, _ANSWER): self._receive_late_answer,
        }

    @property
    def waits_for_peer(self) -> bool:
        """The peer's client is to go on by itself, before anything is shown."""
        return self._phase in (_Phase.COMMITTED, _Phase.REPLIED)

    @property
    def waits_for_answer(self) -> bool:
        """The seven are shown, and our own user has not answered."""
        return self._phase is _Phase.SHOWN and self._answered is None

    def start(self) -> SasMessage:
        """A begins. `CheckRefused` while a run is under way, and after `MAX_RUNS`."""
        if self._phase is not _Phase.IDLE:
            what = {
                True: "answer the live check first: /verify yes or /verify no",
                False: "a live check is under way; the other side has not answered yet",
            }
            raise CheckRefused(what[self.waits_for_answer])
        if self.runs >= MAX_RUNS:
            raise CheckRefused(f"a chat has {MAX_RUNS} live checks at most; compare the safety number, or chat again")
        self._begin(_Phase.COMMITTED)
        self._commits.append(commitment(self._own))
        return SasMessage(_COMMIT, self._commits[-1])

    def answer(self, all_same: bool) -> SasMessage:
        """Our user's answer. `CheckRefused` where none is waited for."""
        if not self.waits_for_answer:
            raise CheckRefused("no live check is waiting for an answer")
        self._answered = all_same
        if not all_same:
            self._owed += self._peer_answered is None
            self._phase = _Phase.IDLE
        self._finish_answered()
        return SasMessage(_ANSWER, u8(all_same))

    def give_up(self) -> None:
        """The peer did not go on in time."""
        self._phase = _Phase.IDLE

    def receive_untrusted(self, message: SasMessage) -> Reaction:
        """Raises `CheckFailed`: the run, if there was one, is over."""
        handler = self._handlers.get((self._phase, message.step), self._out_of_turn)
        try:
            return handler(message.data)
        except CheckFailed:
            self._phase = _Phase.IDLE
            raise

    def _begin(self, phase: _Phase) -> None:
        self.runs += 1
        self._phase, self._own = phase, self._random(_RANDOM)
        self._answered = self._peer_answered = None
        self._crossed = False

    def _receive_commit(self, commit: bytes) -> Reaction:
        if self.runs >= MAX_RUNS:
            raise CheckFailed(f"a chat has {MAX_RUNS} at most, and the other side asked for more")
        self._begin(_Phase.REPLIED)
        return self._reply(commit)

    def _receive_crossing(self, commit: bytes) -> Reaction:
        """Both have begun: the one with the smaller key_id is A."""
        if self._crossed:
            raise CheckFailed("the other side is out of turn")
        self._refuse_own(commit)
        if not self._yields:
            self._crossed = True
            return Reaction()
        self._phase, self._own = _Phase.REPLIED, self._random(_RANDOM)
        return self._reply(commit)

    def _reply(self, commit: bytes) -> Reaction:
        self._refuse_own(commit)
        self._theirs = commit
        return Reaction(send=SasMessage(_REPLY, self._own))

    def _refuse_own(self, commit: bytes) -> None:
        if any(same(commit, own) for own in self._commits):
            raise CheckFailed("the other side sent our own commitment back")

    def _receive_reply(self, r_b: bytes) -> Reaction:
        self._phase = _Phase.SHOWN
        return Reaction(SasMessage(_OPENING, self._own), seven_numbers(self._exporter, self._own, r_b))

    def _receive_opening(self, r_a: bytes) -> Reaction:
        if not same(commitment(r_a), self._theirs):
            raise CheckFailed("the other side opened another value than it had committed to; somebody may cheat")
        self._phase = _Phase.SHOWN
        return Reaction(numbers=seven_numbers(self._exporter, r_a, self._own))

    def _receive_answer(self, data: bytes) -> Reaction:
        if self._peer_answered is not None:
            raise CheckFailed("the other side is out of turn")
        self._peer_answered = data == b"\x01"
        if not self._peer_answered:  # nothing is left to be answered
            self._phase = _Phase.IDLE
        self._finish_answered()
        return Reaction(answer=self._peer_answered)

    def _receive_late_answer(self, data: bytes) -> Reaction:
        """It crossed our own "not", which says it all."""
        if not self._owed:
            return self._out_of_turn(data)
        self._owed -= 1
        return Reaction()

    def _finish_answered(self) -> None:
        if self._answered is not None and self._peer_answered is not None:
            self._phase = _Phase.IDLE

    def _out_of_turn(self, _: bytes) -> Reaction:
        raise CheckFailed("the other side is out of turn")
