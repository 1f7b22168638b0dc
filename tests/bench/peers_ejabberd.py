"""ejabberd, started as an Erlang node without a name: no distribution, hence no epmd, no cookie, no open port for it.

What was set and why: no shapers and no modules that look at every message (the package enables some thirty: carbons,
archive, stream management, push …); log level of warnings; passwords stored in the plain, which concerns logins only;
the package's emulator flags (kernel polling, number of processes) and its TLS options; the emulator does not busy-wait
(`+sbwt none`), or its threads take the cores from the load generator and count as work that they do not do.
It uses all cores.
"""

from __future__ import annotations

import re
from pathlib import Path

from .peers_base import HOST, Launch, Peer, Place, found
from .peers_xmpp import DELIMITER, DOMAIN, PASSWORD, login, message

__all__ = ["EJABBERD"]

_FLAGS = ["+K", "true", "+P", "250000", "+Q", "65536", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]
_CONFIGURATION = """\
loglevel: warning
log_rotate_count: 0
hosts: ["{domain}"]
auth_method: internal
auth_password_format: plain
disable_sasl_mechanisms: []
default_db: mnesia
acme: {{auto: false}}
{certfiles}
listen:
  -
    port: {port}
    ip: "{host}"
    module: ejabberd_c2s
    max_stanza_size: 262144
    backlog: 1024
    shaper: none
    access: all
    tls: {tls}
    {options}
shaper: {{}}
modules:
  mod_roster: {{}}
"""
_OPTIONS = 'protocol_options: ["no_sslv3", "no_tlsv1", "no_tlsv1_1", "cipher_server_preference", "no_compression"]'
_START = """\
{{ok, _}} = application:ensure_all_started(ejabberd),
[ok = ejabberd_auth:try_register(iolist_to_binary(["user", integer_to_list(I)]), <<"{domain}">>, <<"{password}">>)
 || I <- lists:seq(0, {last})],
[garbage_collect(P) || P <- processes()],
ok = file:write_file("{ready}", <<"ready">>).
"""


def _libraries(control: Path) -> tuple[str, str]:
    """Where ejabberdctl finds `erl` and the modules."""
    text = control.read_text()
    parts = [re.search(rf"^{name}=['\"]?([^'\"\n]+)", text, re.MULTILINE) for name in ("ERL", "ERL_LIBS")]
    erl, libraries = (part[1] if part else "" for part in parts)
    return found(erl) or "erl", libraries


def _prepare(place: Place) -> Launch:
    folder = place.folder
    configuration, joined, ready = folder / "ejabberd.yml", folder / "both.pem", folder / "ready"
    joined.write_bytes(place.certificate.read_bytes() + place.key.read_bytes())
    configuration.write_text(
        _CONFIGURATION.format(
            domain=DOMAIN,
            host=HOST,
            port=place.port,
            tls="true" if place.tls else "false",
            options=_OPTIONS if place.tls else "",
            certfiles=f'certfiles: ["{joined}"]' if place.tls else "",
        )
    )
    (folder / "inetrc").write_text('{lookup,["file","native"]}.\n{host,{127,0,0,1}, ["localhost"]}.\n')
    start = _START.format(domain=DOMAIN, password=PASSWORD, last=place.users - 1, ready=ready)
    erl, libraries = _libraries(Path(found("ejabberdctl") or ""))
    return Launch(
        [erl, *_FLAGS, "-noinput", "-mnesia", "dir", f'"{folder / "mnesia"}"', "-eval", start],
        {
            "EJABBERD_CONFIG_PATH": str(configuration),
            "EJABBERD_LOG_PATH": str(folder / "ejabberd.log"),
            "ERL_INETRC": str(folder / "inetrc"),
            "ERL_CRASH_DUMP_BYTES": "0",
            "ERL_MAX_ETS_TABLES": "1400",
            "ERL_LIBS": libraries,
            "HOME": str(folder),
        },
        ready,
    )


EJABBERD = Peer("ejabberd", "ejabberdctl", "ejabberd", _prepare, login, message, DELIMITER)
