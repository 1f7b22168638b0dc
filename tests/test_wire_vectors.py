"""Known-answer vectors: ours, those of an independent implementation, damaged ones, and documents that are none."""

from __future__ import annotations

import copy
import json
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import messageapp_keys
from messageapp.errors import UnusableSetup
from messageapp.wire.vector_cases import DERIVED
from messageapp.wire.vector_making import make
from messageapp.wire.vectors import check
from messageapp_cli.vectors import vectors
from messageapp_keys import labels
from messageapp_keys.kem import SUITES

OURS = Path(messageapp_keys.__file__).parents[1] / "vectors" / "login.json"
INDEPENDENT = Path(__file__).parent / "data" / "login-vector-classic.json"
TEXTS = {"name", "suite", "user", "server"}
DOCUMENT: dict[str, Any] = json.loads(OURS.read_text())
OTHERS: dict[str, Any] = json.loads(INDEPENDENT.read_text())
SWIFT = 2  # index of the case without RSA decapsulation: the fast one
LABELS = [
    *("SIG_M2", "SIG_M3", "IDENTITY", "TH_M2", "TH_E", "TH_M3", "EXTRACT_LOGIN", "M3_AUTH", "MASTER", "C2S_TRAFFIC"),
    *("S2C_TRAFFIC", "KEY", "TRAFFIC_UPDATE", "SESSION_ID", "EXPORTER"),
]
FIELDS = [(number, name) for number, case in enumerate(DOCUMENT["cases"]) for name in case if name not in TEXTS]


def only(document: dict[str, Any], number: int) -> dict[str, Any]:
    return {**document, "cases": [dict(document["cases"][number])]}


def flipped(text: str, position: int, mask: int) -> str:
    data = bytearray.fromhex(text)
    data[position % len(data)] ^= mask
    return data.hex()


def test_our_own_vectors_pass() -> None:
    passed, failures = check(DOCUMENT)
    assert failures == []
    assert passed == 31 + 32 + 32 + 32 + 4  # a rejected ML-KEM ciphertext in three; M4 names the server in all four
    assert [case["suite"] for case in DOCUMENT["cases"]] == [1, 2, 3, 2]
    assert [case["identity_bundle"][:2] for case in DOCUMENT["cases"]] == ["01", "01", "01", "02"]
    assert "test key" in DOCUMENT["note"]


def test_the_vector_of_an_independent_implementation_passes() -> None:
    assert check(OTHERS) == (31, [])


def test_a_fresh_document_passes() -> None:
    moment = datetime(2031, 5, 6, 7, 8, 9, 10, tzinfo=UTC)
    fresh = json.loads(json.dumps(make(moment, os.urandom)))
    assert check(fresh)[1] == []
    assert fresh["validation_time"] == "2031-05-06T07:08:09+00:00"
    assert fresh["root_der"] != DOCUMENT["root_der"]


@pytest.mark.parametrize(("number", "name"), FIELDS, ids=lambda value: str(value))
def test_a_flipped_byte_in_any_field_is_found(number: int, name: str) -> None:
    document = only(DOCUMENT, number)
    case = document["cases"][0]
    place = random.Random(f"{number} {name}")
    case[name] = flipped(case[name], place.randrange(len(case[name]) // 2), 1 << place.randrange(8))
    assert check(document)[1]


@given(data=st.data(), position=st.integers(0, 10_000), mask=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_flipped_bytes_anywhere_in_a_swift_case_are_found(data: st.DataObject, position: int, mask: int) -> None:
    document = only(DOCUMENT, SWIFT)
    case = document["cases"][0]
    name = data.draw(st.sampled_from([name for name in case if name not in TEXTS]))
    case[name] = flipped(case[name], position, mask)
    assert check(document)[1]


@pytest.mark.parametrize("place", [0, 3, 8, 100, 400, -300, -1])
def test_a_damaged_root_is_refused(place: int) -> None:
    document = only(DOCUMENT, SWIFT)
    document["root_der"] = flipped(document["root_der"], place, 0x10)
    assert check(document) == (0, ["document: not usable: the root is not a certificate signed by itself"])


@pytest.mark.parametrize("label", LABELS)
def test_a_wrong_label_in_our_code_is_found(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, label, b"another label")
    assert check(only(DOCUMENT, SWIFT))[1]


def test_one_wrong_value_is_one_failure_with_its_name() -> None:
    for name in DERIVED:
        document = only(DOCUMENT, SWIFT)
        document["cases"][0][name] = "00" * 32
        assert check(document) == (32, [f"swift: {name} is wrong"])


def test_each_clamped_bit_of_an_x25519_key_counts() -> None:
    for position, mask in ((0, 1), (0, 4), (31, 0x80), (31, 0x40)):
        document = only(DOCUMENT, SWIFT)
        case = document["cases"][0]
        case["temp_x25519"] = flipped(case["temp_x25519"], position, mask)
        assert check(document)[1] == ["swift: not usable: temp_x25519 is not in its one encoding"]


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2020-01-01T00:00:00+00:00", "chain: "),
        ("2099-01-01T00:00:00+00:00", "chain: "),
        ("2026-01-01T00:00:00", "no zone"),
        ("0001-01-01T00:00:00+14:00", "a year that no certificate has"),
        ("9999-12-31T23:59:59-14:00", "a year that no certificate has"),
        ("yesterday", "no time"),
    ],
)
def test_the_time_of_validation_counts(moment: str, words: str) -> None:
    failures = check({**only(DOCUMENT, SWIFT), "validation_time": moment})[1]
    assert len(failures) == 1
    assert words in failures[0]


@pytest.mark.parametrize(
    ("key", "value"), [("user", "mallory"), ("user", "\ud800"), ("server", "127.0.0.1"), ("suite", 2), ("suite", True)]
)
def test_a_changed_text_is_found(key: str, value: object) -> None:
    document = only(DOCUMENT, SWIFT)
    document["cases"][0][key] = value
    assert check(document)[1]


@pytest.mark.parametrize("name", [name for name in DOCUMENT["cases"][1] if name != "temp_mlkem_rejected"])
def test_a_missing_field_is_named(name: str) -> None:
    document = only(DOCUMENT, 1)
    del document["cases"][0][name]
    assert any(name in failure and "missing" in failure for failure in check(document)[1])


def test_a_vector_without_the_rejected_ciphertext_is_whole() -> None:
    document = only(DOCUMENT, SWIFT)
    del document["cases"][0]["temp_mlkem_rejected"]
    assert check(document) == (32, [])


def test_an_unknown_field_is_a_failure_and_made_printable() -> None:
    document = only(DOCUMENT, SWIFT)
    document["cases"][0]["\x1b[31mred"] = "00"
    assert check(document)[1] == [r"swift: unknown field '\x1b[31mred'"]
    assert check({**document, "more": 1})[1] == ["document: not usable: unknown field 'more'"]


def test_a_name_that_is_not_plain_is_not_shown() -> None:
    document = only(DOCUMENT, SWIFT)
    document["cases"][0]["name"] = "\x1b]0;title\x07"
    assert check(document)[1] == ["case 1: name is missing or not plain"]


def test_a_bad_case_does_not_hide_the_next() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["cases"] = [None, document["cases"][SWIFT]]
    assert check(document) == (33, ["case 1: not usable: a case is a JSON object"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@given(document=JSON)
def test_any_json_gives_failures_and_no_exception(document: object) -> None:
    passed, failures = check(document)
    assert passed == 0
    assert failures


@given(data=st.data(), value=JSON | st.binary(max_size=300).map(bytes.hex))
@settings(max_examples=150, deadline=None)
def test_anything_in_the_place_of_a_field_is_a_failure(data: st.DataObject, value: object) -> None:
    document = only(DOCUMENT, SWIFT)
    case = document["cases"][0]
    where = data.draw(st.sampled_from([document, case]))
    key = data.draw(st.sampled_from([key for key in where if key not in ("note", "name")]))
    if where[key] == value and type(where[key]) is type(value):
        return
    where[key] = value
    assert check(document)[1]


@pytest.mark.parametrize("arguments", [["check"], ["check", str(INDEPENDENT)]])
def test_the_command_prints_a_sum_and_ends_with_0(arguments: list[str]) -> None:
    result = CliRunner().invoke(vectors, arguments)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].endswith(" passed, 0 failed")


def test_the_command_prints_failures_and_ends_with_1(tmp_path: Path) -> None:
    document = only(DOCUMENT, SWIFT)
    document["cases"][0]["PRK"] = "00" * 32
    file = tmp_path / "vector.json"
    file.write_text(json.dumps(document))
    result = CliRunner().invoke(vectors, ["check", str(file)])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["swift: PRK is wrong", "32 passed, 1 failed"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000, b"1" * 5000])
def test_a_file_that_is_not_json_is_refused_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "vector.json"
    file.write_bytes(content)
    result = CliRunner().invoke(vectors, ["check", str(file)])
    assert isinstance(result.exception, UnusableSetup)
    assert "not JSON" in str(result.exception)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        assert isinstance(CliRunner().invoke(vectors, ["check", str(path)]).exception, UnusableSetup)


def test_an_installed_copy_finds_the_vectors_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share" / "messageapp" / "vectors"
    folder.mkdir(parents=True)
    (folder / "login.json").write_text(json.dumps(only(DOCUMENT, SWIFT)))
    monkeypatch.setattr(
        messageapp_keys, "__file__", str(tmp_path / "site-packages" / "messageapp_keys" / "__init__.py")
    )
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path) if name == "data" else "")
    assert CliRunner().invoke(vectors, ["check"]).stdout == "33 passed, 0 failed\n"


def test_every_suite_has_a_vector() -> None:
    assert {case["suite"] for case in DOCUMENT["cases"]} == set(SUITES)
