"""The bounded search for attacks on the handshakes: each query has its verdict (docs/models/README.md)."""

from __future__ import annotations

import pytest

from models.scenarios import ATTACKS, QUERIES, SAFE, Query
from models.search import MODELS, explore, found, judge


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.name}: {query.words}: {query.alarm}")
def test_query(query: Query) -> None:
    assert found(query) is query.expected, explore(query.scenario).attacks.get(query.alarm)


_A_AND_S = "end(server, t1, s, a, k(t1), none)"


@pytest.mark.parametrize(
    ("alarm", "knows", "claims"),
    [
        ("impersonated", "nil", _A_AND_S),
        ("misbound", "nil", f"{_A_AND_S} run(client, t2, a, e, k(t1), none)"),
        ("replayed", "nil", f"{_A_AND_S} end(server, t2, s, a, k(t1), none)"),
        ("unproved", "nil", "end(server, t1, s, m, k(t1), none)"),
        ("leaked", "sec(t1)", "silent"),
        ("forged-command", "nil", "got-forged(t1)"),
        ("named", "u", "silent"),
        ("downgraded", "nil", "end(client, t1, a, s, k(t1), classic . all)"),
        ("login-done", "nil", f"{_A_AND_S} end(client, t2, a, s, k(t1), none)"),
    ],
)
def test_every_alarm_can_go_off(alarm: str, knows: str, claims: str) -> None:
    assert alarm in judge(f"{{ [ {knows} ] | idle | nil | {claims} }}")


def test_no_alarm_without_a_reason() -> None:
    fair = f"run(client, t2, a, s, k(t1), none) run(server, t1, s, a, k(t1), none) {_A_AND_S}"
    assert not judge(f"{{ [ sk(m) aead(k(t1), n0, none, sec(t1)) ] | idle | nil | {fair} }}")


def test_the_intruder_composes_and_decomposes() -> None:
    known = "{ [ k(t1) aead(kd(root, k(t1), none), n0, none, a . sec(t1)) ] | idle | nil | silent }"
    assert judge(known) == {"leaked"}
    assert not judge(known.replace("k(t1) aead", "k(t2) aead"))


def test_the_known_attacks_are_in_the_table() -> None:
    assert {query.name for query in QUERIES} >= {f"p0{number}" for number in range(1, 8)}
    assert {query.alarm for query in QUERIES if not query.expected} >= set(ATTACKS)


def test_the_bounds_are_those_of_the_documents() -> None:
    text = (MODELS / "README.md").read_text("utf-8")
    states = [explore(scenario).states for scenario in {query.scenario for query in QUERIES if query.name in SAFE}]
    assert f"{min(states)} to {max(states):,} states, {round(sum(states), -3):,} for all" in text


def test_a_trace_names_the_steps() -> None:
    (query,) = (query for query in QUERIES if query.name == "p02")
    steps = explore(query.scenario).attacks[query.alarm]
    assert [step.split(":")[0] for step in steps if not step.startswith(" ")] == [
        "server-M2",
        "caller-C1",
        "caller-C3",
        "server-M4",
    ]
    assert any("end(server, t1, s, a, " in step for step in steps)


def test_the_models_take_part_in_the_documents() -> None:
    """Each query's name is explained beside the models."""
    text = (MODELS / "README.md").read_text("utf-8")
    assert all(f"`{name}" in text for name in {query.name for query in QUERIES if not query.name.startswith("p0")})
