"""The process that makes the load: one job from stdin, its rows to stdout. `run.py` starts it.

It speaks the real protocol with `messageapp.wire`: logins, chats, sealing beforehand and opening afterwards. In between
the generator in C moves the bytes, on the same sockets.
"""

from __future__ import annotations

from .clients import clients
from .large import large
from .logins import logins
from .mail import mail
from .relay import relay
from .rows import run_job
from .scaling import memory, scaling

if __name__ == "__main__":
    run_job(
        {
            "clients": clients,
            "large": large,
            "logins": logins,
            "mail": mail,
            "memory": memory,
            "relay": relay,
            "scaling": scaling,
        }
    )
