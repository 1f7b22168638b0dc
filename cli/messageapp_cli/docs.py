"""`python -m messageapp_cli.docs [--check]`: the parts of docs/ that are made from the code.

A region stands between `<!-- generated:NAME -->` and `<!-- end -->`; its text comes from `REGIONS`, and what stands
around it is written by people. `docs/cli.md` is one region below its title. With `--check` nothing is written,
and the exit code is 1 if a file is not current.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from messageapp.limits import limit_rows
from messageapp.server.presence import RULES, Rule
from messageapp.wire import commands as wire
from messageapp.wire import keylog_forms, mail_forms
from messageapp.wire.records import RecordOpener
from messageapp.wire.states import SENDS, Role, State
from messageapp_keys.types import TrafficSecret

from .commands import ROWS, help_lines
from .main import cli

__all__ = ["REGIONS", "cli_commands", "main", "render"]

FILES: Final = ("cli.md", "protocol.md")
_REGION: Final = re.compile(r"(<!-- generated:(?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

EXIT_CODES: Final = (
    (0, "done"),
    (1, "internal error; for `vectors check`: a check failed; for `sim`: an invariant broke"),
    (2, "usage, or a local file, folder or port that cannot be used"),
    (3, "the server was not authenticated"),
    (4, "the login was refused, or the passphrase is wrong"),
    (5, "cannot connect, or the connection was lost"),
    (130, "interrupted with Ctrl-C before or outside the prompt"),
)
_LAYOUTS: Final[dict[type[object], str]] = {
    wire.Nothing: "`x` or empty",
    wire.Raw: "bytes",
    wire.Echo: "[8] echo",
    wire.Call: "vec8 user, [16] invite",
    wire.Invite: "[16] invite",
    wire.PeerKey: "[16] invite, u8 role, vec8 user, vec16 bundle, vec16 PEM, vec24 proof",
    wire.Listing: "n × (vec8 user, u8 state)",
    wire.Left: "u8 reason",
    wire.Bye: "u8 reason",
    wire.Errors: "u16 code, vec8 text",
    wire.Update: "u32 i",
    keylog_forms.LogRequest: "u8 op, operands (§12)",
    keylog_forms.ReplyForm: "u8 op, answer (§12)",
    keylog_forms.LogHead: "u8 1, vec16 note, [32] log key, u16 sigalg, vec16 signature",
    keylog_forms.NewKey: "vec16 bundle, vec16 signatures of the old key, vec16 signatures of the new key",
    wire.Block: "u8 op, vec8 user",
    wire.BlockList: "n × vec8 user",
    mail_forms.PrekeyUpload: "n × prekey (§9.1); empty: a question",
    mail_forms.PrekeyState: "u16 one-time left, u64 expiry of the last-resort one, u8 this device, u32 seconds kept",
    mail_forms.PrekeyRequest: "vec8 user",
    mail_forms.PeerPrekey: "vec8 user, vec16 bundle, vec24 proof, [16] device, vec16 prekey",
    mail_forms.MailRequest: "vec8 to, [16] id, vec24 blob",
    mail_forms.Stored: "[16] id, u64 seq",
    mail_forms.Delivery: "vec8 from, u64 seq, [16] id, vec24 blob",
    mail_forms.Acknowledgement: "n × u64 seq",
}
_EFFECTS: Final = {
    "ring": "`reqt` (caller) to every session of the peer; reply `reqt` (called user)",
    "remind": "reply `erro 3`",
    "unavailable": "reply `erro 10`",
    "glare": "`pubk` as reply and as event to the other side; `cach` to the other sessions of the user who asked",
    "bind": "`pubk` as reply and as event to the caller; `cach` to the other sessions of the user who asked",
    "refuse": "`refu` to the caller; `cach` to the other sessions of the user; reply `okay`",
    "vanish": "`refu` to the caller",
    "cancel": "`cach` to every session of the peer; reply `okay`",
    "stop_ringing": "`cach` to every session of the peer",
    "expire": "`cach` to every session of the peer; `refu` to the caller",
    "leave": "`exch 0` to the peer's session; reply `okay`",
    "disconnect": "`exch 1` to the peer's session",
    "separate": "`exch 0` to the sessions of both",
}
_PEER_BEFORE: Final = {
    wire.UserState.IDLE: wire.UserState.IDLE,
    wire.UserState.RINGING: wire.UserState.CALLING,
    wire.UserState.CALLING: wire.UserState.RINGING,
    wire.UserState.IN_CHAT: wire.UserState.IN_CHAT,
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# docs/protocol.md -----------------------------------------------------------------------------------------------------


def call_states() -> str:
    """The server's states of a user (protocol §6), from `presence.RULES`."""
    rows = [
        (
            rule.state.name,
            f"`{rule.event}`" if len(rule.event) == 4 and rule.event != "gone" else rule.event,
            rule.when,
            rule.next.name,
            "–" if rule.peer_next is None else rule.peer_next.name,
            _EFFECTS[rule.effect],
        )
        for rule in RULES
    ]
    rows.append(("any", "any other", "–", "same", "–", "reply `erro 3`; an end or a time-out changes nothing"))
    return _table(("state", "event", "when", "next", "peer's next", "effect"), rows)


def call_diagram() -> str:
    """The same as a Mermaid diagram; `peer:` marks what the other user does."""
    edges: dict[tuple[str, str], list[str]] = {}

    def add(before: wire.UserState, after: wire.UserState, label: str) -> None:
        labels = edges.setdefault((before.name, after.name), [])
        if label not in labels:
            labels.append(label)

    def moves(rule: Rule) -> None:
        if rule.next is not rule.state:
            add(rule.state, rule.next, rule.event)
        if rule.peer_next is not None:
            add(_PEER_BEFORE[rule.state], rule.peer_next, f"peer {rule.event}")

    for rule in RULES:
        moves(rule)
    lines = [f"    {before} --> {after} : {', '.join(labels)}" for (before, after), labels in edges.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> IDLE : login", *lines, "```"])


def verbs() -> str:
    """The verb table (protocol §6), from `wire.commands.VERBS`."""

    def forms(row: wire.Verb, role: Role) -> str:
        found = [f"{kind.name.lower()}: {_LAYOUTS[form]}" for (who, kind), form in row.forms.items() if who is role]
        return "; ".join(found) or "–"

    rows = [
        (f"`{row.name}`", row.meaning, forms(row, Role.CLIENT), forms(row, Role.SERVER)) for row in wire.VERBS.values()
    ]
    return _table(("verb", "meaning", "client sends", "server sends"), rows)


def connection_states() -> str:
    """What frame is legal when (protocol §2), from `wire.states`."""

    def cell(role: Role, state: State) -> str:
        legal = SENDS[role].get(state, {})
        return ", ".join(f"{kind.name} → {after.value}" for kind, after in legal.items()) or "–"

    rows = [(state.value, cell(Role.CLIENT, state), cell(Role.SERVER, state)) for state in State]
    return _table(("state", "client may send", "server may send"), rows)


def record_example() -> str:
    """One record byte for byte (protocol §5), from the published vectors."""
    path = _root() / "keys" / "vectors" / "login.json"
    case = json.loads(path.read_text("ascii"))["cases"][0]
    frame = bytes.fromhex(case["record_c2s_0_listx"])
    body = frame[5:]
    secret = TrafficSecret(bytes.fromhex(case["s_c2s_0"]))
    record = RecordOpener(secret, case["user"]).open_untrusted(body)
    plain = record.encode()
    lines = [
        ("username", f'"{case["user"]}"'),
        ("s_c2s[0]", case["s_c2s_0"]),
        ("k_c2s[0]", case["k_c2s_0"]),
        ("frame length", f"{frame[:4].hex()}  = {len(frame) - 4}"),
        ("frame type", f"{frame[4]:02x}  = RECORD"),
        ("counter", body[:16].hex()),
        ("tag", body[16:32].hex()),
        *(("ciphertext" if at == 32 else "", body[at : at + 32].hex()) for at in range(32, len(body), 32)),
        ("IV", body[:12].hex()),
        ("AAD", (case["user"].encode() + body[:16]).hex()),
        ("plaintext", f"{plain.hex()} 80 00 … 00  = kind {plain[0]}, id {record.id}, `{plain[5:9].decode()}`, `x`"),
    ]
    return "```\n" + "\n".join(f"{name:<13} {value}" for name, value in lines) + "\n```"


# docs/cli.md ----------------------------------------------------------------------------------------------------------


def cli_commands() -> Iterator[tuple[str, click.Command]]:
    """("messageapp user add", command) for every command and group, hidden ones left out."""

    def walk(prefix: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is None or command.hidden:
                continue
            yield f"{prefix} {name}", command
            if isinstance(command, click.Group):
                yield from walk(f"{prefix} {name}", command)

    yield "messageapp", cli
    yield from walk("messageapp", cli)


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    parts = [f"### {name}", inspect.cleandoc(command.help or "").replace("\b\n", "")]
    if not isinstance(command, click.Group):
        usage = " ".join((name, *command.collect_usage_pieces(context)))
        parts.insert(1, f"    {usage}")
    rows = [_option(option, context) for option in command.params if isinstance(option, click.Option)]
    if rows:
        parts.append(_table(("option", "meaning"), rows))
    return "\n\n".join(parts)


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    more = " May be given several times." if option.multiple else ""
    return f"`{', '.join(option.opts)}{value}`", (option.help or "") + more


def cli_reference() -> str:
    """Everything of docs/cli.md."""
    prompt = [(f"`{row.usage}`", row.help, "yes" if row.in_chat else "no") for row in ROWS]
    parts = [
        _INTRODUCTION,
        "## Exit codes",
        _table(("code", "meaning"), [(str(code), text) for code, text in EXIT_CODES]),
        "## Commands",
        *(_command(name, command) for name, command in cli_commands()),
        "## At the prompt",
        _table(("command", "meaning", "in a chat or conversation, with `/`"), prompt),
        help_lines()[-2] + " " + help_lines()[-1],
        _PLAIN,
        "## Limits of a server",
        _LIMITS,
        _table(("name", "default", "unit", "why"), [(f"`{row[0]}`", *row[1:]) for row in limit_rows()]),
    ]
    return "\n\n".join(parts)


_INTRODUCTION: Final = """\
This file is made from the program by `python -m messageapp_cli.docs`; a test holds it current.

Results go to stdout. Everything else goes to stderr: messages begin with `messageapp: `, errors of usage with
`Usage:` and `Error:`; with `--plain` the prompts go there, too.

State lies in one **home** folder: `--home DIR`, else `$MESSAGEAPP_HOME`, else the platform's folder for user data.
Folders have the mode 0700, files 0600. One home may hold a server and several users.

| in the home | what |
|---|---|
| `ca/ca.pem`, `ca/ca.key` | the server's certificate authority |
| `server/server.pem`, `server/server.key` | the server's certificate and key |
| `server/directory.db` | the enrolled users: public keys only; the key log, invitations, blocks |
| `server/log.key` | the key that signs the key log's checkpoints |
| `server.toml` | settings of the server, optional |
| `identities/NAME.key` | a private identity, sealed with a passphrase |
| `identities/NAME.next` | the next private key, sealed, while `keys rotate` makes it known to the servers |
| `accounts/NAME/account.db` | messages, keys of peers and servers that were seen, key logs: encrypted as a whole |
| `accounts/NAME/account.key` | the key of `account.db`, sealed with the passphrase |
| `accounts/NAME/lock` | held by the client that uses the account: one at a time |
| `accounts/NAME/witness.key` | the key of a witness, `messageapp log witness` |
| `accounts/NAME/evidence/` | checkpoints with which a server was caught at a lie |

| variable | meaning |
|---|---|
| `MESSAGEAPP_HOME` | the home folder, where `--home` is not given |
| `MESSAGEAPP_PASSPHRASE` | the passphrase, where `--passphrase-file` is not given |
| `MESSAGEAPP_NEW_PASSPHRASE` | the new one of `passwd`, where `--new-passphrase-file` is not given |
| `MESSAGEAPP_DEBUG` | any value: an internal error shows its traceback, which may hold what was typed |"""

_PLAIN: Final = """\
`connect --plain` and `demo --plain` read commands from stdin and print lines without escape sequences. They are chosen
by themselves where stdin or stdout is no terminal, or TERM is empty or `dumb`. A command is carried out before the next
line is read; `msg` waits until the server has the message, or a reason why not is known, 10 s at most. A line that is
no command waits while a call is under way, until the chat is secure or the call is over. The end of the input leaves
the chat and logs off."""

_LIMITS: Final = """\
Set with `serve --limit NAME=VALUE`, or under `[limits]` in `server.toml`; the command line counts more. A value is a
number above 0. What the limits mean is in [protocol.md](protocol.md), section 7.

    # server.toml: every setting, with its default where it has one
    port = 8081
    host = "192.0.2.1"            # default: every address
    names = ["chat.example"]      # names for the certificate; --name adds to them
    classic = true                # take clients that offer the RSA-only suite alone
    witnesses = ["NAME+HASH+KEY"] # who cosigns the key log: what `messageapp log witness` prints
    [limits]
    ring_seconds = 60"""

REGIONS: Final[dict[str, Callable[[], str]]] = {
    "cli": cli_reference,
    "call-states": call_states,
    "call-diagram": call_diagram,
    "verbs": verbs,
    "connection-states": connection_states,
    "record-example": record_example,
}


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def render(text: str) -> str:
    """`text` with every region made anew. KeyError for a region that nobody makes."""
    return _REGION.sub(lambda found: f"{found[1]}\n{REGIONS[found['name']]()}\n\n{found[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or with `--check` 1 where a file is not current; 2 outside a checkout or for an unknown option."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    folder = _root() / "docs"
    if given not in ([], ["--check"]) or not folder.is_dir():
        click.echo("usage, in a checkout: python -m messageapp_cli.docs [--check]", err=True)
        return 2
    stale = 0
    for path in (folder / name for name in FILES):
        old = path.read_text("utf-8")
        new = render(old)
        if new == old:
            continue
        stale += 1
        if given:
            click.echo(f"messageapp: {path.name} is not current; run python -m messageapp_cli.docs", err=True)
        else:
            path.write_text(new, "utf-8")
            click.echo(f"wrote {path.name}")
    return 1 if given and stale else 0


if __name__ == "__main__":
    sys.exit(main())
