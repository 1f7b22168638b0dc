"""A misbehaving server, relay and chat peer against the real client as a process: the tables of `adversary.client_*`.

Every case is one broken rule. Seen must be the exit code and the text for the user, and nothing else may have happened:
no secret, no forged or repeated text shown, nothing changed in what the account remembers. After each group the same
home logs in to a good server and chats with a good peer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from adversary import (
    client_caller,
    client_chain,
    client_check,
    client_commands,
    client_m2,
    client_m4,
    client_pubk,
    client_ratchet,
    client_receiver,
    client_records,
    client_sealed,
    client_stored,
    client_temporary,
)
from adversary.case import Case, Outcome, Seen, ids
from adversary.client_forks import Forks
from adversary.client_live import Live
from adversary.client_rogue import Plan
from adversary.client_world import FORGED, People, Stage, make_home
from adversary.lines import wanted
from adversary.listing import table, written
from interop.base import ProtocolError

STAGED: tuple[Case[Stage], ...] = (
    *client_m2.CASES,
    *client_chain.CASES,
    *client_temporary.CASES,
    *client_m4.CASES,
    *client_records.CASES,
    *client_commands.CASES,
    *client_pubk.CASES,
)
LIVE: tuple[Case[Live], ...] = (
    *client_commands.LIVE,
    *client_caller.CASES,
    *client_receiver.CASES,
    *client_sealed.CASES,
    *client_ratchet.CASES,
    *client_check.CASES,
    *client_stored.CASES,
)


def group_of(case: Case[Stage] | Case[Live]) -> str:
    return case.name.partition("/")[0]


CHATTING = ("ratchet", "skipped", "check", "check-limit")
GROUPS = sorted({*map(group_of, STAGED), *map(group_of, LIVE)})


@pytest.fixture(scope="module")
def people() -> People:
    return People()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, people: People, forks: Forks) -> Path:
    home = tmp_path_factory.mktemp("adversary-home") / "home"
    make_home(home, people, forks)
    return home


class Homes:
    """One home for each group, so that what a case did to it would be met by the next ones."""

    def __init__(self, made: Path, people: People, forks: Forks) -> None:
        self.made, self.people, self.forks = made, people, forks

    def stage(self, group: str, stack: ExitStack) -> Stage:
        home = self.made.with_name(group)
        if not home.exists():
            shutil.copytree(self.made, home)
        return Stage(home, self.people, self.forks, stack)


@pytest.fixture(scope="module")
def homes(made: Path, people: People, forks: Forks) -> Homes:
    return Homes(made, people, forks)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def check(seen: Outcome, expected: Outcome) -> None:
    assert (seen.seen, seen.code) == (expected.seen, expected.code), seen.detail
    assert expected.detail in seen.detail


class Lives:
    """The clients that live through many cases, started when they are first needed, and anew after a failure."""

    def __init__(self, homes: Homes, stack: ExitStack) -> None:
        self.homes, self.stack = homes, stack
        self.living: dict[str, Live] = {}

    def __call__(self, group: str) -> Live:
        live = self.living.get(group)
        if live is None or not live.fresh:
            self.end(group)
            stack = self.stack.enter_context(ExitStack())
            live = Live(self.homes.stage(group, stack), chatting=group in CHATTING, stack=stack)
            self.living[group] = live
        return live

    def end(self, group: str) -> None:
        """An account has one client: who comes next must find it free."""
        if group in self.living:
            self.living.pop(group).stack.close()


@pytest.fixture(scope="module")
def lives(homes: Homes) -> Iterator[Lives]:
    with ExitStack() as stack:
        yield Lives(homes, stack)


@pytest.mark.parametrize("case", STAGED, ids=ids(STAGED))
def test_the_client_ends_and_says_why(case: Case[Stage], homes: Homes, stack: ExitStack) -> None:
    stage = homes.stage(group_of(case), stack)
    check(case.do(stage), case.expected)
    assert stage.leaks() == []
    assert stage.rows() == stage.before


@pytest.mark.parametrize("case", LIVE, ids=ids(LIVE))
def test_the_client_lives_and_says_what_happened(case: Case[Live], lives: Lives) -> None:
    live = lives(group_of(case))
    live.begin()
    live.fresh = False  # unless this case ends well
    check(case.do(live), case.expected)
    live.fresh = not live.spent
    assert live.stage.leaks() == []
    assert live.stage.rows() == live.stage.before
    assert case.expected.seen is not Seen.LEFT or "SECURE" not in live.lines()


@pytest.mark.parametrize("group", GROUPS)
def test_afterwards_the_same_home_logs_in_and_chats(group: str, homes: Homes, lives: Lives, stack: ExitStack) -> None:
    lives.end(group)
    stage = homes.stage(group, stack)
    stage.good_run("/verify confirm")
    assert stage.leaks() == []
    assert [row[:1] for row in stage.rows()["pins"]] == [("bob",)]


def test_every_rule_has_a_case() -> None:
    assert {case.line for case in STAGED} | {case.line for case in LIVE} == wanted("client")


# ---- the same steps without a broken rule: what the cases prove, they prove by the one thing that is wrong in them

HARMLESS: dict[str, Callable[[Stage], Plan]] = {
    "leaf": client_chain.issued_by_the_ca(client_chain.Cert()),
    "leaf-of-398-days": client_chain.issued_by_the_ca(client_chain.Cert(days=398)),
    "one-issuer": client_chain.below(client_chain.AN_ISSUER),
    "two-issuers": client_chain.below(client_chain.AN_ISSUER, client_chain.AN_ISSUER),
    "rsa-key": lambda _: client_temporary.hybrid_with(client_temporary.rsa_spki(client_temporary.N, 65537)),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_m2_is_answered(name: str, homes: Homes, stack: ExitStack) -> None:
    stage = homes.stage("harmless", stack)
    server = stage.server(HARMLESS[name](stage))
    stage.client(server)
    with pytest.raises(ProtocolError, match=r"^(bad signature|trailing bytes)$"):
        server.accept()  # which judges M3 as if it had sent its own leaf and key


def test_a_good_record_in_a_case_is_shown(homes: Homes, stack: ExitStack) -> None:
    stage = homes.stage("harmless", stack)
    client, desk = stage.logged_in()
    client_records.changed(bytes)(desk.session)
    client.until("REQUEST TO CHAT FROM")
    assert stage.leaks() == [FORGED]


class Content(Live):
    """Waits for what must not come in a case."""

    def left(self) -> Outcome:
        return self.shows(f"CHAT IS SECURE! with {self.desk.me.name}")

    def goes_on(self) -> Outcome:
        return self.shows(f"<bob> {FORGED}") if self.number else super().goes_on()

    def shows(self, line: str) -> Outcome:
        self.client.until(line)
        return Outcome(Seen.SESSION)


EXCHANGES = {
    "calls": client_caller.calls(c4=client_caller.good_c4),
    "is-called": client_receiver.is_called(c3=bytes, first=bytes),
    "calls-one-with-two-keys": client_caller.calls(c4=client_caller.good_c4, peer="dora"),
    "is-called-by-one-with-two-keys": client_receiver.is_called(c3=bytes, first=bytes, peer="dora"),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_good_exchange_in_a_case_becomes_a_chat(name: str, homes: Homes, stack: ExitStack) -> None:
    EXCHANGES[name](Content(homes.stage("harmless", stack), chatting=False, stack=stack))


@pytest.mark.parametrize("do", [client_sealed.forged(lambda _: None), client_sealed.new_turn])
def test_a_good_message_in_a_case_is_shown(do: Callable[[Live], Outcome], homes: Homes, stack: ExitStack) -> None:
    live = Content(homes.stage("harmless", stack), chatting=True, stack=stack)
    do(live)
    assert live.stage.leaks() == [FORGED]


def test_a_good_prekey_in_a_case_is_written_over(homes: Homes, stack: ExitStack) -> None:
    """And the second implementation reads what the program has sealed for it, and answers.

    In a home of its own: where there was a chat with Carl before, its session is used, and no prekey.
    """
    live = Live(homes.stage("written-over", stack), chatting=False, stack=stack)
    client_stored.written_over_a_good_prekey(live)
    assert live.stage.leaks() == []


def test_the_readme_lists_them() -> None:
    assert written("client") == table("client", [*STAGED, *LIVE])
