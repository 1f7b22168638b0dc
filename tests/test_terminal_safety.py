"""Nothing that a stranger chooses reaches a screen or a log as more than text (protocol §7.5): in one process.

Every string of `support/hostile.py` goes through the ways that a text of others has: names, chat texts, texts of the
server, certificates, files and folders on the command line, log lines. `test_terminal_safety_live.py` does the same
with whole programs.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pyte
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from messageapp.client import events as ev
from messageapp.e2ee.envelope import MAX_TEXT_BYTES
from messageapp.errors import MessageAppError
from messageapp.wire.commands import BadArgument, parse_untrusted
from messageapp.wire.login import Welcome
from messageapp.wire.messages import M1
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_cli.console import Completion, neutral
from messageapp_cli.logs import start_logging
from messageapp_cli.plain import open_plain
from messageapp_cli.render import MAX_LINES, error_line, one_line, render
from messageapp_cli.terminal import open_terminal
from messageapp_keys.authority import make_ca
from messageapp_keys.certificate import CertificateRefused, describe, verify_chain_untrusted
from messageapp_keys.codec import Malformed, tlvs, u8, u16, u24, u32, u64, vec8, vec16
from messageapp_keys.keystore import KeyFileCorrupt, SealedIdentity, seal_identity
from messageapp_keys.names import is_username
from support.commands import called, stretch_lightly
from support.hostile import HOSTILE, LOOK_ALIKES, MIB, MOST_MARKS, SHORT, highest_pile, invisible_in, raw_in
from support.keys import NOW, SERVER, identity, rsa_key
from support.processes import LIGHT, PASSPHRASE

SENT = {name: text for name, text in HOSTILE.items() if len(text.encode("utf-8", "surrogatepass")) <= 255}


def offenders(
    texts: dict[str, str], show: Callable[[str], Iterable[str]], *, raw_only: bool = False
) -> dict[str, list[str]]:
    """What of each text comes out that must not, where `show` gives the lines that are shown for it."""
    found = {}
    for name, text in texts.items():
        lines = list(show(text))
        wrong = raw_in("".join(lines))
        if not raw_only:
            wrong += invisible_in("".join(lines))
            wrong += ["a pile of marks" for line in lines if highest_pile(line) > MOST_MARKS][:1]
        if wrong:
            found[name] = wrong
    return found


def test_the_strings_and_their_judge() -> None:
    assert len(HOSTILE) == 371
    harmless = [name for name, text in HOSTILE.items() if not offenders({"": text}, lambda text: [text])]
    assert len(harmless) == 30  # wide, look-alike and long texts, and what is printable but odd
    assert all(name.split(":")[0] in ("shape", "invisible", "1 MiB") for name in harmless)
    assert max(map(len, HOSTILE.values())) == MIB


# ---- texts


def test_a_chat_text_is_text_behind_its_senders_name() -> None:
    def show(text: str) -> list[str]:
        lines = render(ev.TextReceived("bob", text, 0, False))
        cut = lines[MAX_LINES:]
        assert all(line.startswith("<bob> ") for line in lines[:MAX_LINES])
        assert [line.endswith("more lines from bob are not shown") for line in cut] in ([], [True])
        return lines

    assert offenders(HOSTILE, show) == {}


def test_texts_within_our_own_lines() -> None:
    def show(text: str) -> list[str]:
        lines = [
            one_line(text),
            error_line(text),
            *render(ev.NotDelivered("bob", text, "the chat was over")),
            *render(ev.Ended(MessageAppError(text))),
        ]
        assert len(lines) == 4
        assert max(map(len, lines)) <= 510
        assert lines[1].startswith("error: ")
        return lines

    assert offenders(HOSTILE, show) == {}


def test_whatever_a_console_is_given_controls_nothing() -> None:
    for name, text in HOSTILE.items():
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", neutral(text)), name


# ---- consoles


class _View:
    def prompt(self) -> str:
        return "[CHAT]-> "

    def complete(self, text: str) -> list[Completion]:
        return []

    def toolbar(self) -> str:
        return ""


def _shown(texts: Iterable[str]) -> list[str]:
    """As the client shows them, and once more as if a place had forgotten to make them safe; as long as they come."""
    return [
        line
        for text in (text[:MAX_TEXT_BYTES] for text in texts)
        for line in (*render(ev.TextReceived("bob", text, 0, False)), text)
    ]


async def test_the_plain_console() -> None:
    stdout, stderr = io.StringIO(newline="\n"), io.StringIO()
    reading, writing = os.pipe()
    try:
        with trio.fail_after(60):
            async with open_plain(_View(), reading, stdout, stderr) as console:
                for line in _shown(HOSTILE.values()):
                    console.write(line)
    finally:
        os.close(reading)
        os.close(writing)
    assert set(re.findall("[\x00-\x1f\x7f-\x9f]", stdout.getvalue())) == {"\t", "\n"}


_SEQUENCE = re.compile(
    "\x1b(?:\\[[0-?]*[ -/]*[@-~]|[PX^_\\]].*?(?:\x07|\x1b\\\\)|[ -/]*[0-~])|[\x00-\x1f\x7f-\x9f]", re.DOTALL
)


def sequences(stream: str) -> set[str]:
    """The kinds of control sequences in what a terminal got: numbers do not count."""
    return {re.sub("[0-9]+", "N", found) for found in _SEQUENCE.findall(stream)}


async def _prompts(screen: io.StringIO, count: int) -> None:
    while screen.getvalue().count("CHAT") < count:  # noqa: ASYNC110 - a thread draws it
        await trio.sleep(0.01)


async def _drawn(lines: list[str]) -> str:
    screen = io.StringIO(newline="")
    output = Vt100_Output(screen, lambda: Size(rows=24, columns=80), term="xterm", enable_cpr=False)
    with trio.fail_after(60), create_pipe_input() as keys:
        async with open_terminal(_View(), keyboard=keys, screen=output) as console:
            await _prompts(screen, 1)  # its own sequences belong to every stream
            for line in lines:
                console.write(line)
            await _prompts(screen, 2)
        await trio.testing.wait_all_tasks_blocked()
    return screen.getvalue()


async def test_the_terminal_gets_only_what_prompt_toolkit_itself_sends() -> None:
    lines = _shown(HOSTILE.values())
    assert sequences("\x1b[31m\x1b]0;t\x07\x1bPq\x1b\\\x9b") == {"\x1b[Nm", "\x1b]N;t\x07", "\x1bPq\x1b\\", "\x9b"}
    harmless = sequences(await _drawn(["x" * len(line) for line in lines]))
    assert sequences(await _drawn(lines)) <= harmless | {"\t"}
    assert not any(found.startswith(("\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX")) for found in harmless)


async def test_a_terminals_title_and_screen_are_left_alone() -> None:
    screen = pyte.HistoryScreen(80, 24, history=10_000)
    pyte.Stream(screen).feed(await _drawn(_shown(SHORT.values())))
    assert (screen.title, screen.icon_name) == ("", "")
    assert screen.margins is None
    assert pyte.modes.DECTCEM in screen.mode
    above = ["".join(row[column].data for column in range(80)) for row in screen.history.top]
    assert len(above) + 24 >= len(SHORT)  # nothing was wiped
    assert sum(line.startswith("<bob> ") for line in [*above, *screen.display]) >= len(SHORT)


# ---- names


def _refused(read: Callable[..., object], error: type[Exception], *arguments: object) -> bool:
    try:
        read(*arguments)
    except error:
        return True
    return False


def test_no_such_name_comes_through_a_message_or_a_key_file() -> None:
    owner = identity("ed25519")
    sealed = seal_identity("alice", owner, PASSPHRASE, cost=LIGHT)
    invite, bundle = bytes(16), owner.bundle.encode()
    for name, text in SENT.items():
        encoded = vec8(text.encode("utf-8", "surrogatepass"))
        assert not is_username(text), name
        arguments = {
            b"list": encoded + u8(0),
            b"reqt": encoded + invite,
            b"pubk": invite + u8(1) + encoded + vec16(bundle) + vec16(b"") + u24(0),
        }
        for verb, argument in arguments.items():
            record = Record(Kind.REPLY, 1, verb, argument)
            assert _refused(parse_untrusted, BadArgument, Role.SERVER, record), (name, verb)
        m1 = b"MSGAPP\0\2" + bytes(32) + (u8(1) + u16(2)) * 2 + u8(1) + u16(0x804) + u32(0) + vec8(b"localhost")
        assert _refused(M1.parse_untrusted, Malformed, m1 + encoded + vec16(b"")), name
        m4 = vec8(b"User Login Complete!") + tlvs({1: u64(0), 2: u32(1), 5: encoded})
        printable = text.isascii() and text.isprintable() and " " not in text
        assert _refused(Welcome.parse_untrusted, Malformed, m4) is not printable, name
        file = sealed.replace(vec8(b"alice"), encoded, 1)
        assert _refused(SealedIdentity.parse_untrusted, KeyFileCorrupt, file), name


# ---- the command line

_OWN = ("messageapp: ", "Usage: messageapp", "Try 'messageapp", "Error: ")
_NOT_TYPED = re.compile("[\x00\ud800-\udc7f\udd00-\udfff]")  # nobody can, nor name a file so
TYPED = {name: text for name, text in SHORT.items() if not _NOT_TYPED.search(text)}
FILES = {name: text for name, text in TYPED.items() if "/" not in text}
_SOME_FILES = {
    name: text for name, text in FILES.items() if name.startswith(("bidi 202", "secure after", "lone byte 9B"))
}

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in this process: its exit code and the lines that it shows, each of which must begin as ours do."""
    monkeypatch.setenv("MESSAGEAPP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", PASSPHRASE)
    stretch_lightly(monkeypatch)

    def call(*arguments: str) -> tuple[int, list[str]]:
        code, out, err = called(capsys, *arguments)
        lines = err.split("\n")
        assert all(line.startswith(_OWN) for line in lines if line), lines
        return code, [*out.split("\n"), *lines]

    return call


@pytest.mark.parametrize(
    "words",
    [
        ("keygen", "{}"),
        ("user", "add", "{}"),
        ("user", "remove", "{}"),
        ("user", "add", "alice", "{}"),
        ("keygen", "alice", "--import", "{}"),
        ("keygen", "alice", "--passphrase-file", "{}"),
        ("keys", "export", "alice", "--home", "{}"),
        ("keys", "{}"),
        ("connect", "--user", "{}"),
        ("connect", "127.0.0.1", "{}"),
        ("connect", "--suite", "{}"),
        ("serve", "--limit", "{}"),
        ("serve", "0", "1", "{}"),
        ("vectors", "check", "{}"),
        ("--{}",),
        ("{}",),
    ],
    ids=" ".join,
)
def test_a_wrong_word_on_the_command_line_is_only_shown(words: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    def show(text: str) -> list[str]:
        inside = str(tmp_path / text) if "--home" in words else text
        code, lines = run(*(word.format(inside) if word in ("{}", "--{}") else word for word in words))
        assert code == 2
        return lines

    assert offenders(TYPED, show) == {}


def test_files_with_such_names(run: Run, tmp_path: Path) -> None:
    def show(text: str) -> list[str]:
        file = tmp_path / f"{text}.pem"
        file.write_bytes(b"no key")
        (refused, lines), (unreadable, more) = (run(*words, str(file)) for words in (
            ("user", "add", "bob"), ("keygen", "alice", "--import")))  # fmt: skip
        assert (refused, unreadable) == (2, 2)
        return [*lines, *more]

    assert len(FILES) > 250
    assert offenders(FILES, show) == {}


def test_a_key_that_is_made_in_such_a_folder(run: Run, tmp_path: Path) -> None:
    key = rsa_key("imported", 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    def show(text: str) -> list[str]:
        folder = tmp_path / f"{text}.d"
        file = tmp_path / f"{text}.pem"
        file.write_bytes(key)
        made, lines = run("keygen", "alice", "--import", str(file), "--home", str(folder))
        again, more = run("keygen", "alice", "--home", str(folder))
        assert (made, again) == (0, 2)
        assert any("sealed in" in line for line in lines)
        return [*lines, *more]

    assert offenders(_SOME_FILES, show) == {}


def test_the_question_for_a_passphrase(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = rsa_key("imported", 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"old")
    )
    asked: list[str] = []

    def ask(passphrase_file: str | None, question: str, *, twice: bool = False) -> str:
        asked.append(question)
        return "wrong"

    monkeypatch.setattr("messageapp_cli.keys.ask_passphrase", ask)

    def show(text: str) -> list[str]:
        file = tmp_path / f"{text}.pem"
        file.write_bytes(key)
        code, lines = run("keygen", "alice", "--import", str(file))
        assert code == 4
        return [*lines, asked.pop()]

    assert offenders(_SOME_FILES, show) == {}


# ---- certificates


def _certificate(text: str, ca_key: ec.EllipticCurvePrivateKey, issuer: x509.Name) -> x509.Certificate:
    """Names its subject so, and its server too where the characters can stand there."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _validate=False)])
    dns = x509.DNSName._init_without_validation(text if text.isascii() else "elsewhere.example")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(_LEAF.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([dns]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


_LEAF = ec.generate_private_key(ec.SECP256R1())


def test_certificates_with_such_names() -> None:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    _, ca = make_ca(NOW, "MessageApp CA", ca_key)

    def show(text: str) -> Iterator[str]:
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _validate=False)])
        for issuer in (ca.subject, named):
            certificate = _certificate(text, ca_key, issuer)
            summary = describe(certificate)
            yield from (one_line(summary.subject), one_line(summary.issuer), *summary.names)
            with pytest.raises(CertificateRefused) as refused:
                verify_chain_untrusted([certificate.public_bytes(serialization.Encoding.DER)], ca, SERVER, NOW)
            yield one_line(str(refused.value), 500)

    texts = {name: text for name, text in SHORT.items() if not re.search("[\ud800-\udfff]", text)}
    assert offenders(texts, show) == {}


# ---- logs


@pytest.fixture
def _loggers_as_before() -> Iterator[None]:
    names = ("", "messageapp", "messageapp.server.trace")
    handlers, levels = logging.getLogger().handlers[:], [logging.getLogger(name).level for name in names]
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in zip(names, levels, strict=True):
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("_loggers_as_before")
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_line_stays_one_line_of_text(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(form, trace=True, debug=True)
    log = logging.getLogger("messageapp.server")

    def show(text: str) -> list[str]:
        log.warning("#1 no login: %s", text)
        (line, end) = capsys.readouterr().err.split("\n")
        assert end == ""
        assert line.startswith("messageapp: 2" if form == "text" else '{"time": ')
        return [line]

    # No stranger's text is ever logged (the live test looks): this is the second fence, against control characters.
    assert offenders(HOSTILE, show, raw_only=True) == {}


def test_the_look_alikes_are_what_the_program_really_says() -> None:
    said = [
        *render(ev.ChatSecure("bob", "hybrid", identity("ed25519").bundle, False, True)),
        *render(ev.IncomingCall("carol")),
        *render(ev.KeyChanged("bob", "0" * 60, "1" * 60)),
        *render(ev.TextReceived("carol", "send me the money", 0, False)),
    ]
    assert {LOOK_ALIKES[name] for name in ("secure", "call", "key changed", "another's text")} <= set(said)
