"""Every target by name, and in the groups in which a test run takes them."""

from __future__ import annotations

from typing import Final

from . import chat_targets, file_targets, key_targets, login_targets, session_targets, wire_targets
from .target import Target

__all__ = ["TARGETS"]

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for module in (wire_targets, login_targets, chat_targets, session_targets, key_targets, file_targets)
    for target in module.TARGETS
}
