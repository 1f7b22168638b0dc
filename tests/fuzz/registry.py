"""Every target by name, and in the groups in which a test run takes them."""

from __future__ import annotations

from typing import Final

from . import (
    backup_targets,
    chat_targets,
    client_log_targets,
    file_targets,
    incoming_targets,
    join_targets,
    key_targets,
    keylog_targets,
    log_targets,
    login_targets,
    mail_targets,
    offline_targets,
    session_targets,
    wire_targets,
)
from .target import Target

__all__ = ["TARGETS"]

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for module in (
        backup_targets,
        wire_targets,
        login_targets,
        mail_targets,
        chat_targets,
        session_targets,
        key_targets,
        file_targets,
        join_targets,
        log_targets,
        keylog_targets,
        client_log_targets,
        offline_targets,
        incoming_targets,
    )
    for target in module.TARGETS
}
