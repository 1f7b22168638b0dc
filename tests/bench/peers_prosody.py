"""Prosody, configured for speed: the built-in epoll backend, no Nagle, no rate limits, no debug log, few modules.

What was set and why: `limits` is not loaded (10 kB/s a client in the package's configuration); `nagle = false`; the
garbage collector waits until the heap has doubled (Lua's own default), as with Prosody's, 105 %, it is nearly always at
work and a message costs two to four times as much processor time, while an idle connection takes a fifth less memory
(the generational collector costs about as much time, and more memory); `opportunistic_writes` stays off, as by default:
it makes 32 in flight half as expensive again, and one in flight hardly cheaper; modules that look at every message
(carbons, message archive, stream management, client state) are left out; passwords are stored in the plain, which
concerns logins only. One process, one thread: Prosody has no other form.
"""

from __future__ import annotations

from .peers_base import HOST, Launch, Peer, Place, found
from .peers_xmpp import DELIMITER, DOMAIN, PASSWORD, login, message

__all__ = ["PROSODY"]

_CONFIGURATION = """\
run_as_root = true
daemonize = false
data_path = "{folder}/data"
pidfile = "{folder}/prosody.pid"
log = {{ warn = "{folder}/log" }}
interfaces = {{ "{host}" }}
network_backend = "epoll"
network_settings = {{ nagle = false; tcp_backlog = 1024; read_timeout = 86400 }}
gc = {{ mode = "incremental", threshold = 200, speed = 500 }}
statistics = false
modules_enabled = {{ "disco"; "roster"; "saslauth"; {tls_module} }}
modules_disabled = {{ "s2s"; "offline" }}
c2s_ports = {{ {plain} }}
legacy_ssl_ports = {{ }}
c2s_direct_tls_ports = {{ {direct} }}
c2s_direct_tls_ssl = {{ certificate = "{certificate}"; key = "{key}" }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
storage = "internal"
ssl = {{ certificate = "{certificate}"; key = "{key}" }}
VirtualHost "{domain}"
"""


def _prepare(place: Place) -> Launch:
    accounts = place.folder / "data" / DOMAIN / "accounts"
    accounts.mkdir(parents=True)
    for user in range(place.users):
        (accounts / f"user{user}.dat").write_text(f'return {{ ["password"] = "{PASSWORD}" }};\n')
    configuration = place.folder / "prosody.cfg.lua"
    configuration.write_text(
        _CONFIGURATION.format(
            folder=place.folder,
            host=HOST,
            domain=DOMAIN,
            plain="" if place.tls else place.port,
            direct=place.port if place.tls else "",
            tls_module='"tls"' if place.tls else "",
            certificate=place.certificate,
            key=place.key,
        )
    )
    return Launch([found("prosody") or "prosody", "-F", "--config", str(configuration)])


PROSODY = Peer("Prosody", "prosody", "prosody", _prepare, login, message, DELIMITER)
