"""`invite` and `join`: in one process up to the network, and once with everything, as whole programs."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import segno

from messageapp.store.database import open_database
from messageapp.store.home import Home
from messageapp.store.invites import list_invites
from messageapp.store.users import list_users, revoke_user
from messageapp_cli.invite import LIFETIME_MS, write_address
from messageapp_cli.qr import qr_lines
from messageapp_keys.certificate import load_certificate_untrusted
from messageapp_keys.certificate_reading import certificate_der
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.joincode import JoinCode
from messageapp_keys.keystore import SealedIdentity
from messageapp_keys.types import InviteSecret
from support.commands import Command, hide_terminal
from support.processes import Site, open_site, run, save, write_certificates

CODE = JoinCode("127.0.0.1", 9, "bob", bytes(32), InviteSecret(bytes(16)))
MISTYPED = "messageapp: this join code is mistyped: a character is wrong, or two have changed places\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    write_certificates(found)
    write_address(found, "127.0.0.1", 8081)
    return found


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_terminal(monkeypatch)


# invite ---------------------------------------------------------------------------------------------------------------


def test_a_code_says_where_for_whom_and_by_which_authority(command: Command, home: Home) -> None:
    code, out, err = command("invite", "bob")
    assert code == 0
    (line,) = out.splitlines()
    parsed = JoinCode.parse_untrusted(line)
    assert (parsed.host, parsed.port, parsed.username) == ("127.0.0.1", 8081, "bob")
    authority = load_certificate_untrusted(home.ca_certificate.read_bytes())
    assert parsed.authority == hashlib.sha256(certificate_der(authority)).digest()
    assert re.fullmatch(r"messageapp: a join code for bob, until \S+ \d\d:\d\d; join with: messageapp join CODE\n", err)


@pytest.mark.parametrize(
    ("words", "name", "uses", "days"),
    [
        (("invite",), "", 1, 1),
        (("invite", "--uses", "5"), "", 5, 1),
        (("invite", "--expires", "2w", "bob"), "bob", 1, 14),
        (("invite", "bob", "--expires", "48h"), "bob", 1, 2),
        (("invite", "new", "list"), "list", 1, 1),
        (("invite", "--expires", "1440m"), "", 1, 1),
    ],
)
def test_what_may_be_said_of_an_invitation(
    command: Command, home: Home, words: tuple[str, ...], name: str, uses: int, days: int
) -> None:
    code, out, _ = command(*words)
    assert code == 0
    assert JoinCode.parse_untrusted(out).username == name
    with closing(open_database(home.directory, "server")) as database:
        (invite,) = list_invites(database)
    assert (invite.name, invite.uses, invite.expires_ms - invite.made_ms) == (name, uses, days * 86_400_000)
    assert LIFETIME_MS == 86_400_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bob", "--uses", "2"), "only one user can be bob"),
        (("--expires", "1y"), "1y is no time; say 30m, 12h, 1d or 2w"),
        (("--expires", "0d"), "0d is no time"),
        (("--expires", "367d"), "366 days at most"),
        (("--uses", "0"), "--uses"),
        (("--uses", "1001"), "for 1 to 1,000 users"),
        (("-bob",), "-b"),
        (("b_b",), "a username has 1 to 16 characters"),
        (
            ("--at", "chat.example:80"),
            "the server's certificate is for localhost, 127.0.0.1, ::1, not for chat.example",
        ),
        (("--at", "localhost"), "localhost is not of the form HOST:PORT"),
        (("--at", "localhost:0"), "is not of the form HOST:PORT"),
        (("--at", "localhost:65536"), "is not of the form HOST:PORT"),
        (("--at", "localhost:²"), "is not of the form HOST:PORT"),
    ],
)
def test_invitations_that_cannot_be(command: Command, home: Home, words: tuple[str, ...], said: str) -> None:
    code, out, err = command("invite", *words)
    assert (code, out) == (2, "")
    assert said in err
    with closing(open_database(home.directory, "server")) as database:
        assert list_invites(database) == []


@pytest.mark.parametrize(("at", "host", "port"), [("LocalHost:80", "localhost", 80), ("[::1]:65535", "::1", 65535)])
def test_another_address(command: Command, at: str, host: str, port: int) -> None:
    parsed = JoinCode.parse_untrusted(command("invite", "--at", at)[1])
    assert (parsed.host, parsed.port) == (host, port)


def test_a_server_that_was_never_started(command: Command, home: Home) -> None:
    home.address.unlink()
    code, _, err = command("invite")
    assert code == 2
    assert "the server has not been started yet: messageapp serve; or say --at HOST:PORT" in err


def test_a_name_that_is_enrolled_already(command: Command, home: Home) -> None:
    save(home, "bob", PrivateIdentity.generate("ed25519"))
    assert command("user", "add", "bob")[0] == 0
    code, _, err = command("invite", "BOB")
    assert code == 2
    assert "there is a user BOB already; a new key for BOB: messageapp user reset BOB" in err


def test_a_code_for_another_key(command: Command, home: Home) -> None:
    save(home, "Bob", PrivateIdentity.generate("ed25519"))
    assert command("user", "add", "Bob")[0] == 0
    code, out, _ = command("user", "reset", "bob")
    assert (code, JoinCode.parse_untrusted(out).username) == (0, "Bob")
    assert command("invite", "list")[1].endswith("used 0, 1 left  new key\n")
    code, _, err = command("user", "reset", "eve")
    assert (code, err) == (2, "messageapp: there is no user eve\n")


def test_the_list_and_what_is_revoked(command: Command) -> None:
    command("invite", "bob")
    command("invite", "--uses", "3")
    rows = command("invite", "list")[1].splitlines()
    form = re.compile(r"([0-9a-f]{8})  (bob|anybody)  until \d{4}-\d\d-\d\d \d\d:\d\d  used 0, ([13]) left")
    found = {match[2]: match[1] for row in rows if (match := form.fullmatch(row))}
    assert set(found) == {"bob", "anybody"}
    assert command("invite", "revoke", found["bob"]) == (0, f"revoked {found['bob']}\n", "")
    assert any(row.startswith(found["bob"]) and row.endswith("used 0, revoked") for row in _rows(command))
    code, _, err = command("invite", "revoke", "nothing")
    assert (code, err) == (2, "messageapp: there is no invitation nothing; `messageapp invite list` shows them\n")


def _rows(command: Command) -> list[str]:
    return command("invite", "list")[1].splitlines()


def test_the_code_as_qr_code(command: Command) -> None:
    plain = command("invite", "--no-qr")[1]
    assert len(plain.splitlines()) == 1
    code, *shown = command("invite", "--qr")[1].splitlines()
    assert shown == qr_lines(code)
    assert max(map(len, shown)) <= 50, "it fits a narrow terminal"
    assert len(shown) <= 24, "and a low one"


@pytest.mark.parametrize("data", [CODE.encode(), bytes(range(65)), "x"])
def test_half_blocks_are_the_modules_of_the_code(data: bytes | str) -> None:
    """Read back: a block is light, as the letters of the terminal."""
    dark = {" ": (1, 1), "▄": (1, 0), "▀": (0, 1), "█": (0, 0)}
    rows: list[list[int]] = []
    for line in qr_lines(data):
        rows += [[dark[char][half] for char in line] for half in (0, 1)]
    wanted = [list(row) for row in segno.make(data, error="l", micro=False).matrix]
    size = len(wanted)
    assert [row[2 : 2 + size] for row in rows[2 : 2 + size]] == wanted
    border = rows[:2] + rows[2 + size :] + [row[:2] + row[2 + size :] for row in rows]
    assert not any(map(any, border))
    assert len(rows) >= size + 4


# join, up to the network ----------------------------------------------------------------------------------------------


def test_a_mistyped_code(command: Command, home: Home) -> None:
    text = CODE.encode()
    wrong = text[:80] + ("1" if text[80] != "1" else "2") + text[81:]
    assert command("join", wrong) == (2, "", MISTYPED)
    assert "too short" in command("join", text[:-3])[2]
    assert "one begins with MSGAPP" in command("join", "127.0.0.1")[2]
    assert not (home.path / "identities").exists()


def test_a_name_that_the_code_is_not_for(command: Command) -> None:
    code, _, err = command("join", CODE.encode(), "--user", "carol")
    assert (code, err) == (2, "messageapp: this join code is for bob, not for carol\n")


@pytest.mark.parametrize("name", ["no name of a user", ""])
def test_a_name_must_be_chosen_where_nobody_can_be_asked(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: name)
    code, _, err = command("join", JoinCode("127.0.0.1", 9, "", bytes(32), CODE.secret).encode())
    assert (code, err) == (2, "messageapp: this join code leaves you the choice of a name: --user NAME\n")


@pytest.fixture
def nowhere() -> Iterator[JoinCode]:
    """A code for a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield JoinCode("127.0.0.1", taken.getsockname()[1], "", bytes(32), CODE.secret)


def test_nobody_listens_and_nothing_is_left_behind(command: Command, home: Home, nowhere: JoinCode) -> None:
    said = f"messageapp: nobody listens on 127.0.0.1:{nowhere.port}\n"
    assert command("join", nowhere.encode(), "--user", "bob") == (5, "", said)
    assert home.identities() == []
    assert not home.account_folder("bob").exists()


def test_the_only_identity_or_this_machines_user_is_the_name(
    command: Command, home: Home, nowhere: JoinCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "carol")
    made: list[str] = []
    monkeypatch.setattr("messageapp_cli.join._Candidate.make", lambda home, name, *rest, **more: made.append(name))
    with pytest.raises(AssertionError):  # what comes behind has no identity
        command("join", nowhere.encode())
    assert made == ["carol"]
    save(home, "Dan", PrivateIdentity.generate("ed25519"))
    assert command("join", nowhere.encode())[0] == 5
    assert made == ["carol"]
    assert home.account("dan").exists()


def test_an_identity_that_is_there_with_another_passphrase(
    command: Command, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(home, "bob", PrivateIdentity.generate("ed25519"))
    before = home.identity("bob").read_bytes()
    monkeypatch.setenv("MESSAGEAPP_PASSPHRASE", "another")
    code, _, err = command("join", CODE.encode())
    assert code == 4
    assert "this home has an identity bob already, with another passphrase; give that one, or join with another" in err
    assert home.identity("bob").read_bytes() == before


def test_an_identity_in_another_spelling(command: Command, home: Home) -> None:
    save(home, "Bob", PrivateIdentity.generate("ed25519"))
    code, _, err = command("join", CODE.encode())
    assert code == 2
    assert "this home has an identity Bob, and the server would know you as bob" in err


# everything -----------------------------------------------------------------------------------------------------------


def test_two_commands_from_nothing_to_the_prompt_and_a_chat(tmp_path: Path) -> None:
    """Real keys, as the first start and the first join make them."""
    with ExitStack() as stack:
        site = Site(tmp_path / "server", stack)
        server = site.serve()
        first = server.until("join code for the first user: ").rpartition(" ")[2]
        assert server.until("join with: ") == f"join with: messageapp join {first}"
        alice = site.start("join", first, "--user", "alice", "--plain", home=tmp_path / "a")
        alice.until("User Login Complete!")
        assert f"joined as alice; from now on: messageapp connect 127.0.0.1 {site.port}\n" in alice.err
        second = run(site.path, "invite", "bob").stdout.strip()
        bob = site.start(
            "join", *second.split("-"), "--plain", "--pq", "--home", f"{tmp_path}/b b", home=tmp_path / "b"
        )
        bob.until("User Login Complete!")
        assert f"from now on: messageapp connect 127.0.0.1 {site.port} --home '{tmp_path}/b b'\n" in bob.err
        site.chat(bob, "bob", alice, "alice")
        bob.send("hello alice")
        alice.until("<bob> hello alice")
        for client in (alice, bob):
            client.send("/exit", "exit")
            assert client.finish() == 0
        sealed = SealedIdentity.parse_untrusted(Home(tmp_path / "b b").identity("bob").read_bytes())
        assert sealed.bundle.kind == "RSA-3072 + ML-DSA-65"
        for home, name in ((tmp_path / "a", "alice"), (tmp_path / "b b", "bob")):
            done = run(home, "connect", "127.0.0.1", str(site.port), "--plain", stdin="exit\n")
            assert (done.returncode, "User Login Complete!" in done.stdout) == (0, True), name


def test_refused_joins_leave_nothing_behind_and_invitations_outlive_the_server(tmp_path: Path) -> None:
    with open_site(tmp_path / "server", serving=False) as site:
        first = site.serve().until("join code for the first user: ").rpartition(" ")[2]
        code = run(site.path, "invite", "--uses", "2").stdout.strip()
        bound = run(site.path, "invite", "eve").stdout.strip()
        assert site.server is not None
        site.server.kill()
        again = site.serve(port=site.port).until("join code for the first user: ").rpartition(" ")[2]
        homes = iter(tmp_path / f"home{number}" for number in range(9))

        def join(code: str, user: str, home: Path) -> tuple[int, str, str]:
            save(Home(home), user, PrivateIdentity.generate("ed25519"))  # a new RSA key takes its time
            done = run(home, "join", code, "--user", user, "--plain", stdin="exit\n")
            return done.returncode, done.stdout.partition("\n")[0], done.stderr

        def made_now(code: str, user: str) -> str:
            home = next(homes)
            done = run(home, "join", code, "--user", user, "--plain", stdin="exit\n")
            assert (done.returncode, done.stdout) == (4, "")
            assert Home(home).identities() == []
            assert not Home(home).account_folder(user).exists()
            return done.stderr

        assert "this join code was revoked" in made_now(first, "ann")
        assert join(code, "ann", next(homes))[0] == 0
        assert "somebody else has this name on the server" in join(code, "ANN", next(homes))[2]
        assert join(code, "bob", next(homes))[0] == 0
        assert "this join code has been used up" in join(code, "cid", next(homes))[2]
        assert join(bound, "eve", next(homes))[0] == 0
        with closing(open_database(site.home.directory, "server")) as database:
            assert [user.name for user in list_users(database)] == ["ann", "bob", "eve"]
            for user in ("ann", "bob", "eve"):
                revoke_user(database, user, 1)
        site.server.kill()
        server = site.serve(port=site.port)
        assert server.until("join code for the first user: ") != again, "nobody's key counts any more"


def test_with_a_user_there_is_no_code_for_the_first_one(tmp_path: Path) -> None:
    with open_site(tmp_path, "alice") as site:
        assert site.server is not None
        site.connect("alice", "--plain", stdin="exit\n")
        assert len(site.server.lines) == 1
        assert site.home.address.read_text() == f"127.0.0.1:{site.port}\n"


def test_the_first_name_is_where_codes_lead(tmp_path: Path) -> None:
    with open_site(tmp_path, serving=False) as site:
        server = site.serve("--name", "Chat.Example", "--name", "other.example")
        text = server.until("join code for the first user: ").rpartition(" ")[2]
        parsed = JoinCode.parse_untrusted(text)
        assert (parsed.host, parsed.port) == ("chat.example", site.port)
        assert "it works on this machine" not in server.out
