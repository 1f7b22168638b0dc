"""Blocks as the running server sees them: read at each call and each `list`, some µs, so that other processes count."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from messageapp.clock import wall_ms
from messageapp.store.blocks import TooManyBlocks, add_block, blocked_by, blockers_of, is_blocked, remove_block
from messageapp.store.users import NoSuchUser
from messageapp.wire.commands import Block, BlockList, BlockOp, ErrorCode
from messageapp_keys.names import fold

from .denial import RequestDenied
from .directory import Writer, reading

__all__ = ["Blocks"]


class Blocks:
    """`database` is read between records, `write` changes the file."""

    def __init__(
        self,
        database: sqlite3.Connection,
        write: Writer,
        wall_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._database = database
        self._write = write
        self._wall_ms = wall_ms

    def is_blocked(self, owner: str, blocked: str) -> bool:
        """`DirectoryUnreadable`."""
        with reading():
            return is_blocked(self._database, owner, blocked)

    def blockers_of(self, blocked: str) -> frozenset[str]:
        """In lower case. `DirectoryUnreadable`."""
        with reading():
            return blockers_of(self._database, blocked)

    def listing(self, owner: str) -> BlockList:
        """`DirectoryUnreadable`."""
        with reading():
            return BlockList(tuple(blocked_by(self._database, owner)))

    async def change(self, owner: str, request: Block) -> None:
        """`RequestDenied` where it cannot be, `UnusableSetup`; then nothing has changed."""
        if fold(request.user) == fold(owner):
            raise RequestDenied(ErrorCode.NOT_AVAILABLE, "nobody blocks oneself")
        now_ms = self._wall_ms()
        try:
            if request.op is BlockOp.BLOCK:
                await self._write(lambda database: add_block(database, owner, request.user, now_ms))
            elif not await self._write(lambda database: remove_block(database, owner, request.user)):
                raise RequestDenied(ErrorCode.NOT_AVAILABLE, f"{request.user} is not blocked")
        except NoSuchUser as error:
            raise RequestDenied(ErrorCode.NOT_AVAILABLE, str(error)) from None
        except TooManyBlocks as error:
            raise RequestDenied(ErrorCode.NOT_NOW, str(error)) from None
