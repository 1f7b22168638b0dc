"""Questions to the server about its key log, and what no honest server answers (protocol §12.3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import trio

from messageapp.errors import MessageAppError, RequestRefused
from messageapp.wire.commands import ErrorCode
from messageapp.wire.keylog_forms import (
    LogBundle,
    LogConsistency,
    LogHead,
    LogInclusion,
    LogLeaves,
    LogRequest,
    LogUser,
)
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle

__all__ = ["LogQuestions", "LogUnavailable", "NoLog"]

REPLAY_BYTES: Final = 64 << 20  # leaves fetched in one go; 50,000 honest ones have 25 MiB at most
ASK_SECONDS: Final = 20.0
RATE_SECONDS: Final = 2.0  # the server takes one question a second
RATE_TRIES: Final = 45

_T = TypeVar("_T")


class LogUnavailable(MessageAppError):
    """the key log could not be read"""

    exit_code = 5


class NoLog(LogUnavailable):
    """this server keeps no key log"""


class LogQuestions:
    """`request` sends a verb and gives its typed reply. All raise `LogUnavailable`, or what ended the session."""

    def __init__(self, request: Callable[[str, Any], Awaitable[Any]]) -> None:
        self._request = request

    async def head(self) -> LogHead:
        return await self._ask(LogRequest.head(), LogHead)

    async def leaves(self, start: int, stop: int) -> list[bytes]:
        """Encoded, each of them."""
        found: list[bytes] = []
        size = 0
        while start + len(found) < stop:
            at = start + len(found)
            reply = await self._ask(LogRequest.range(at, stop), LogLeaves)
            size += sum(map(len, reply.leaves))
            if reply.start != at or len(reply.leaves) > stop - at or size > REPLAY_BYTES:
                raise LogUnavailable("the server's entries of the key log are not those that were asked for")
            found += reply.leaves
        return found

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        return (await self._ask(LogRequest.consistency(old, new), LogConsistency)).proof

    async def inclusion(self, number: int, size: int) -> LogInclusion:
        return await self._ask(LogRequest.inclusion(number, size), LogInclusion)

    async def numbers_of(self, user: str) -> list[int]:
        """Of the newest leaves of this user, as the server says; each is still to be proved."""
        return [number for number, _ in (await self._ask(LogRequest.user(user), LogUser)).entries]

    async def bundle(self, key_id: bytes) -> IdentityBundle:
        """The bundle that a leaf is about."""
        reply = await self._ask(LogRequest.keys(key_id), LogBundle)
        try:
            bundle = IdentityBundle.parse_untrusted(reply.bundle)
        except Malformed:
            raise LogUnavailable("the server gives a key of its log that cannot be read") from None
        if bundle.key_id != key_id:
            raise LogUnavailable("the server gives another key than its log has")
        return bundle

    async def cosign(self, line: bytes) -> None:
        """A witness's signature line, with its end, for the server's present checkpoint.

        `RequestRefused` where it is no such line, or the server does not know the witness.
        """
        for _ in range(RATE_TRIES):
            try:
                with trio.fail_after(ASK_SECONDS):
                    await self._request("klog", LogRequest.cosign(line))
                return
            except trio.TooSlowError:
                raise LogUnavailable("the server does not answer about its key log") from None
            except RequestRefused as error:
                if error.code != ErrorCode.RATE:
                    raise
                await trio.sleep(RATE_SECONDS)
        raise LogUnavailable("the server takes no more cosignatures")

    async def _ask(self, request: LogRequest, form: type[_T]) -> _T:
        for _ in range(RATE_TRIES):
            try:
                with trio.fail_after(ASK_SECONDS):
                    reply = await self._request("klog", request)
            except trio.TooSlowError:
                raise LogUnavailable("the server does not answer about its key log") from None
            except RequestRefused as error:
                if error.code == ErrorCode.UNKNOWN_VERB:
                    raise NoLog from None
                if error.code != ErrorCode.RATE:
                    raise LogUnavailable("the server does not answer a question about its key log") from None
                await trio.sleep(RATE_SECONDS)
                continue
            if not isinstance(reply, form):
                raise LogUnavailable("the server's answer about its key log does not fit the question")
            return reply
        raise LogUnavailable("the server takes no more questions about its key log")
