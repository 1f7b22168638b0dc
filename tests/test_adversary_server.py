"""A misbehaving client against the real server: every case of the tables in `adversary` (protocol §2 to §7).

m1              the first frame
join            the same of who is not enrolled, by an invitation
m3              the frame after M2: its form, its turn
encapsulation   Enc(K), in every suite
signatures      the proof of who the user is
records         records that are not the next one
replays         records that come again, elsewhere, or in another order
commands        requests in the wrong form, kind or direction
mail            prekeys and stored messages
calls           requests in the wrong state, and against the calls of others
relay           within a chat
clocks          times, rates and queues, against a server with short ones
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adversary import (
    server_calls,
    server_clocks,
    server_commands,
    server_encapsulation,
    server_join,
    server_m1,
    server_m3,
    server_mail,
    server_no_call,
    server_records,
    server_relay,
    server_replays,
    server_signatures,
)
from adversary.case import Case, ids
from adversary.lines import wanted
from adversary.listing import table, written
from adversary.server_world import STRICT, World, make_people
from interop.base import Identity
from interop.programs import RealServer

PATIENT_GROUPS = (
    server_m1.CASES,
    server_m3.CASES,
    server_join.CASES,
    server_encapsulation.CASES,
    server_signatures.CASES,
    server_records.CASES,
    server_replays.CASES,
    server_commands.CASES,
    server_mail.CASES,
    server_calls.CASES,
    server_no_call.CASES,
    server_relay.CASES,
)
GROUPS = (*PATIENT_GROUPS, server_clocks.CASES)
CASES = [case for cases in GROUPS for case in cases]
LAST = {cases[-1].name for cases in GROUPS}


@pytest.fixture(scope="module")
def people() -> dict[str, Identity]:
    return make_people()


@contextmanager
def world(home: Path, people: dict[str, Identity], limits: dict[str, float]) -> Iterator[World]:
    with RealServer(home, **limits) as server:
        server.enrol(*people.values())
        made = World(server, people)
        with made.watched():
            yield made


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Identity]) -> Iterator[World]:
    with world(
        tmp_path_factory.mktemp("patient"), people, {"preks_per_minute": 1000}
    ) as made:  # one user for many cases
        yield made


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Identity]) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("strict"), people, STRICT) as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_what_is_seen_and_that_nobody_else_is_touched(case: Case[World], request: pytest.FixtureRequest) -> None:
    made: World = request.getfixturevalue("strict" if case in server_clocks.CASES else "patient")
    with made.case():
        assert case.do(made) == case.expected
    if case.name in LAST:
        made.honest_chat()


def test_every_rule_about_a_client_has_a_case() -> None:
    assert {case.line for case in CASES} == wanted("server")


def test_the_readme_lists_them() -> None:
    assert written("server") == table("server", CASES)
