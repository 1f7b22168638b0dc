"""The first lines of a session, and of one that waits for its server."""

from __future__ import annotations

from messageapp.client.client import Client
from messageapp.client.unconnected import AnyClient, Unconnected

from .render import NO_LOG, auth
from .safe import one_line

__all__ = ["greeting_lines", "news_lines"]

_MEANWHILE = "What you write waits on this disk until then; conversations, history and search work."


def greeting_lines(client: AnyClient) -> list[str]:
    if isinstance(client, Unconnected):
        return [f"not connected to {one_line(client.server_name)}: {one_line(str(client.ended), 200)}", _MEANWHILE]
    others = client.info.welcome.other_sessions
    return [*_login_lines(client), *([f"You are logged in on {others} other device(s)."] if others else [])]


def news_lines(client: Client) -> list[str]:
    """What is another since the last login, above all with the server."""
    return [f"NOTE: {one_line(line, 400)}" for line in client.info.news]


def _login_lines(client: Client) -> list[str]:
    """What the report shows at login: certificate and temporary key; the session's id in place of its key."""
    from messageapp_keys.certificate import describe

    info, summary = client.info, describe(client.info.leaf.cert)
    return [
        f"server certificate: subject {one_line(summary.subject)}, issuer {one_line(summary.issuer)}",
        f"  valid {summary.not_before:%Y-%m-%d} to {summary.not_after:%Y-%m-%d}",
        f"  fingerprint of the certificate {summary.fingerprint_sha256}",
        f"  fingerprint of its authority {describe(info.leaf.successor or info.authority).fingerprint_sha256}",
        f"temporary key: {info.suite.name}, fingerprint {info.temp_fingerprint.hex()[:32]}",
        f"session: {info.session_id.hex()}, {auth(client.account.identity.bundle)}",
        *([] if client.log.kept else [NO_LOG]),
        *news_lines(client),
        one_line(info.welcome.text),
    ]
