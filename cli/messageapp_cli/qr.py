"""QR codes for the terminal: two rows of modules to a line of half blocks."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

__all__ = ["qr_lines"]

_BORDER: Final = 2  # modules of quiet zone; readers of telephones take this, the standard's four cost lines
_BLOCKS: Final = {(1, 1): " ", (1, 0): "▄", (0, 1): "▀", (0, 0): "█"}


def qr_lines(data: bytes | str) -> list[str]:
    """`data` as a QR code with error correction L, light where the terminal's letters are (as on a dark ground).

    Capital letters, digits and `-` alone make a smaller code than other text. `ValueError` for more than 2,953 bytes.
    """
    import segno

    code = segno.make(data, error="l", micro=False)
    rows = [list(row) for row in code.matrix_iter(border=_BORDER)]
    light = [0] * len(rows[0])
    return [
        "".join(_BLOCKS[int(upper), int(lower)] for upper, lower in zip(above, below, strict=True))
        for above, below in zip_longest(rows[::2], rows[1::2], fillvalue=light)
    ]
