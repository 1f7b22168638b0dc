"""A request that is not granted: one exception, from wherever that is found out, and the reply that it becomes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from messageapp.errors import MessageAppError
from messageapp.wire.commands import ErrorCode, Errors
from messageapp.wire.records import Kind

from .directory import DirectoryUnreadable
from .session import Session

__all__ = ["RequestDenied", "denials_as_replies", "deny"]


class RequestDenied(MessageAppError):
    """a request that cannot be granted; its code and text are the reply's"""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def deny(session: Session, identifier: int, denied: RequestDenied) -> None:
    session.tell(Kind.REPLY, identifier, "erro", Errors(denied.code, str(denied)))


@contextmanager
def denials_as_replies(session: Session, identifier: int) -> Iterator[None]:
    """What is raised inside is the reply; a directory that cannot be read is `erro` 20."""
    try:
        yield
    except RequestDenied as denied:
        deny(session, identifier, denied)
    except DirectoryUnreadable as error:
        deny(session, identifier, RequestDenied(ErrorCode.STORAGE, str(error)))
