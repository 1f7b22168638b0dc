"""One tree of errors. Each docstring is the sentence that the user reads; `exit_code` is the command line's contract.

Ours against theirs: a `RemoteProtocolError` says that the other side broke the protocol, a `LocalProtocolError` that
we would have (a bug of ours). Either leaves the connection unusable.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CannotConnect",
    "CannotStore",
    "ConnectionCut",
    "JoinRefused",
    "LocalProtocolError",
    "LoginRefused",
    "MessageAppError",
    "MessageTooLong",
    "RemoteProtocolError",
    "RequestRefused",
    "ServerBusy",
    "ServerGoodbye",
    "ServerNotAuthenticated",
    "UnusableSetup",
]


class MessageAppError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 1

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text or (type(self).__doc__ or "").split("\n", 1)[0].rstrip("."))


class UnusableSetup(MessageAppError):
    """What was asked for cannot be done with these files, this folder or this port."""

    exit_code = 2


class CannotStore(UnusableSetup):
    """Nothing can be stored now: the disk is full, or fails, or another process has the file. That may pass."""


class ServerNotAuthenticated(MessageAppError):
    """the server could not prove who it is"""

    exit_code = 3


class LoginRefused(MessageAppError):
    """the server refused the login: unknown user, or another key than the one it has"""

    exit_code = 4


class JoinRefused(LoginRefused):
    """the server does not let you join

    `code` is one of `wire.joining.JOIN_REFUSALS`. Only the server of the join code can say it: M4 is sealed.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class CannotConnect(MessageAppError):
    """no connection to the server"""

    exit_code = 5


class ServerBusy(CannotConnect):
    """the server is busy"""


class ConnectionCut(MessageAppError):
    """connection cut; the last messages may be missing"""

    exit_code = 5


class ServerGoodbye(MessageAppError):
    """the server said goodbye"""

    exit_code = 5

    def __init__(self, text: str, reason: int) -> None:
        super().__init__(text)
        self.reason = reason


class RemoteProtocolError(MessageAppError):
    """the other side broke the protocol

    `alert` is the code that a server answers before keys exist (protocol §7), None where it just closes.
    """

    exit_code = 5

    def __init__(self, text: str, alert: int | None = None) -> None:
        super().__init__(text)
        self.alert = alert


class LocalProtocolError(MessageAppError):
    """the protocol does not allow this now (a bug of ours)"""


class RequestRefused(MessageAppError):
    """the server refused the request"""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class MessageTooLong(MessageAppError):
    """the message is too long"""
