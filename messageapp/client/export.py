"""The key log as a folder that any transparency-log tool reads (protocol §12.2, https://c2sp.org/tlog-tiles)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from messageapp.errors import UnusableSetup
from messageapp.store.home import make_folder, read_public, write_file

from .auditing import LogUnverified, recompute
from .following import LogState

if TYPE_CHECKING:
    from .client import Client

__all__ = ["export_log"]

_KEY = "log.vkey"
_CHECKPOINT = "checkpoint"
_README = """\
The key log of a MessageApp server, in the layout of https://c2sp.org/tlog-tiles: checkpoint is a signed note, log.vkey
the key to verify it with, tile/ the hashes, tile/entries/ the entries (MessageApp's docs/protocol.md, section 12.1).
"""


async def export_log(client: Client, state: LogState, folder: Path) -> None:
    """Write the log of `state` to a new or empty `folder`, or bring an older export there up to it.

    Every entry is hashed anew; the checkpoint is written last, so it never stands above tiles that are not there.
    `LogUnverified` where the folder holds another history of this log, `UnusableSetup` where it holds something else.
    """
    _prepare(folder, f"{state.vkey}\n".encode())

    def keep(path: str, content: bytes) -> None:
        file = folder / path
        if not file.exists():
            write_file(file, content)
        elif read_public(file) != content:
            raise LogUnverified(f"{file} is another than the log has now: the folder holds another history of this log")

    await recompute(client, state, keep)
    write_file(folder / _CHECKPOINT, state.note, replace=True)


def _prepare(folder: Path, vkey: bytes) -> None:
    make_folder(folder)
    if any(folder.iterdir()) and not ((folder / _KEY).is_file() and read_public(folder / _KEY) == vkey):
        raise UnusableSetup(f"{folder} is not empty and no export of this log; name a new folder")
    write_file(folder / _KEY, vkey, replace=True)
    write_file(folder / "README", _README.encode(), replace=True)
