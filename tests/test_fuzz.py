"""Fuzzing in every test run: 10^5 mutations a message type, every function that sees a stranger's bytes, 512 MiB.

The targets are in `fuzz/`; `nox -s fuzz` attacks the same ones guided by coverage.
"""

from __future__ import annotations

import ast
import base64
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from fuzz import campaign, guided, material
from fuzz.campaign import CORPUS, MOST_RSS, attack, escaped, minimal, shown
from fuzz.mutator import Mutator
from fuzz.registry import TARGETS
from fuzz.target import Harness, Target, same_after_refusal
from messageapp_keys.authority import load_private_key_pem
from messageapp_keys.certificate import CertificateRefused
from messageapp_keys.codec import Malformed, Reader, reading_untrusted, tlvs, vec8, vec16
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import CLASSIC
from messageapp_keys.pem import PemRefused, import_private_pem
from messageapp_keys.vectorkeys import load_temporary_key_untrusted

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "messageapp", ROOT / "keys" / "messageapp_keys", ROOT / "cli" / "messageapp_cli")
GROUPS = 16  # processes, so that they share the cores of whoever runs the tests in parallel
WIRE = ("m1", "m2", "m3", "m4", "alert", "record", "command", "argument-", "frames", "c1", "c2", "chat-c3", "chat-c4")


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_mutation_makes_anything_escape(group: int) -> None:
    """Nor is a forgery taken, nor does a refusal change a machine, nor does it take 512 MiB."""
    names = list(TARGETS)[group::GROUPS]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "cli", ROOT / "keys", ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.campaign", "--json", *names],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=170,
        check=False,
    )
    *results, memory = [json.loads(line) for line in done.stdout.splitlines()] or [{}]
    found = [result["finding"] for result in results if result["finding"]]
    assert not found, "\n".join(found)
    assert done.returncode == 0, done.stderr
    assert [result["name"] for result in results] == names
    assert all(result["inputs"] >= TARGETS[result["name"]].mutations for result in results)
    assert memory["rss"] < MOST_RSS


def test_each_message_type_has_its_hundred_thousand() -> None:
    few = [name for name in TARGETS if name.startswith(WIRE) and TARGETS[name].mutations < 100_000]
    assert few == ["chat-c3-insider"]
    assert TARGETS["ratchet-later"].mutations == TARGETS["envelope-form"].mutations == 100_000


# Every function that sees a stranger's bytes ----------------------------------------------------------------------


def untrusted() -> set[tuple[str, str]]:
    """(file, qualified name) of all whose name says so and that do something."""
    found = set()
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        tree = ast.parse(path.read_text())
        owners: list[ast.Module | ast.ClassDef] = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for owner in (tree, *owners):
            prefix = f"{owner.name}." if isinstance(owner, ast.ClassDef) else ""
            functions = [n for n in owner.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            for node in functions:
                if node.name.endswith("_untrusted") and ast.unparse(node.body[-1]) != "...":
                    found.add((str(path), prefix + node.name))
    return found


def called(attacks: list[tuple[Callable[[bytes], object], list[bytes]]]) -> set[tuple[str, str]]:
    found = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name.endswith("_untrusted"):
            found.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    before = sys.getprofile()
    for accepts, inputs in attacks:
        sys.setprofile(note)
        try:
            for data in inputs:
                accepts(data)
        finally:
            sys.setprofile(before)
    return found


def test_every_untrusted_function_is_reached_by_mutations() -> None:
    """A new one without a target is told by name."""
    attacks: list[tuple[Callable[[bytes], object], list[bytes]]] = []
    for target in TARGETS.values():
        mutator = Mutator(target.harness.seeds, 1)
        attacks.append((target.accepts, [mutator.next() for _ in range(60)]))
    names = untrusted()
    assert len(names) > 50
    assert names - called(attacks) == set()


# The corpus and the recording -------------------------------------------------------------------------------------


def test_the_corpus_is_small_and_each_folder_is_a_target() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(TARGETS)
    assert 100 <= len(files) <= 1200
    assert sum(path.stat().st_size for path in files) < 1 << 20


def test_the_recording_holds_no_more_than_is_used() -> None:
    names = set(material.recording())
    sources = "".join(path.read_text() for path in Path(material.__file__).parent.glob("*.py") if path.stem != "record")
    dynamic = {f"{kind} {suite}" for kind in ("m2", "m3") for suite in ("swift", "hybrid")}
    dynamic |= {f"signature {name}" for name in ("rsa", "p256", "ed25519", "ml-dsa")}
    assert dynamic <= names
    assert {name for name in names - dynamic if f'"{name}"' not in sources} == set()


# The runner finds what is there to be found -----------------------------------------------------------------------


def planted(attack: Callable[[bytes], object], *seeds: bytes, sealed: bool = False) -> Target:
    return Target("planted", lambda: Harness(attack, seeds), (Malformed,), sealed)


@pytest.mark.parametrize("size", [0, 4, 16, 60])
def test_a_crash_at_a_rare_tlv_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """One of exactly three bytes, where that of the seed has another size; its list is a field within a field."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def parse(data: bytes) -> None:
        with reading_untrusted(data) as reader:
            name, inner = reader.vec8(), Reader(reader.vec16())
            found, signature = Reader(inner.vec16()).tlvs(), inner.vec16()
            inner.end()
        if name and len(signature) == 64 and 7 in found and len(found[7]) == 3:
            raise KeyError(7)

    inner = vec16(tlvs({1: b"abcd", 7: bytes(range(size)), 300: b""})) + vec16(bytes(range(64)))
    target = planted(parse, vec8(b"alice") + vec16(inner))
    number, _, finding = attack(target, 100_000)
    assert finding is not None
    assert number < 100_000
    assert finding.error == "KeyError: 7"
    text = shown(target, finding)
    assert "KeyError: 7 in test_fuzz.py:parse" in text
    assert Path(text.rpartition(" ")[2]).read_bytes() == finding.data
    assert escaped(target, finding.data) == finding


def test_a_forgery_that_is_taken_is_found() -> None:
    """Somebody compares all but the last byte of a tag."""
    genuine = bytes(range(64))

    def verify(data: bytes) -> None:
        if data[:-1] != genuine[:-1]:
            raise Malformed("no")

    assert (finding := attack(planted(verify, genuine, sealed=True), 100_000)[2]) is not None
    assert "a forgery was taken" in finding.error
    assert attack(planted(verify, genuine), 10_000)[2] is None


def test_a_refusal_that_changes_something_is_found() -> None:
    """Somebody counts a record before its tag is checked."""
    genuine, counter = b"\x00\x05 tag", 0

    def receive(data: bytes) -> None:
        nonlocal counter
        with same_after_refusal(lambda: counter):
            if data[:2] == genuine[:2]:
                counter += 1
            if data != genuine:
                raise Malformed("no")

    assert (finding := attack(planted(receive, genuine), 1000)[2]) is not None
    assert "has changed something" in finding.error


def test_too_much_memory_is_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["alert-form", "--count", "10"]) == 0
    monkeypatch.setattr(campaign, "MOST_RSS", 1 << 20)
    assert campaign.main(["alert-form", "--count", "10"]) == 1
    assert "at most" in capsys.readouterr().out


def test_what_is_declared_is_no_finding_and_a_panic_is_one() -> None:
    class Panic(BaseException):
        """As that of a library in Rust."""

    def refuse(data: bytes) -> None:
        if data != b"seed":
            raise Malformed("no")

    def panic(data: bytes) -> None:
        if len(data) > 4:
            raise Panic

    assert attack(planted(refuse, b"seed"), 1000)[2] is None
    assert (finding := attack(planted(panic, b"seed"), 1000)[2]) is not None
    assert finding.error.startswith("Panic")
    assert len(minimal(planted(panic, b"seed"), finding).data) == 5


def test_a_target_that_refuses_its_own_seeds_is_no_target() -> None:
    with pytest.raises(ValueError, match="refuses its own seed"):
        attack(planted(lambda data: reading_untrusted(data).u8(), b""), 0)


def test_the_same_seed_gives_the_same_mutations_and_none_is_a_seed() -> None:
    seeds = [bytes(range(40)), b"\x00\x03abc" * 9]
    first, second, other = Mutator(seeds, 3), Mutator(seeds, 3), Mutator(seeds, 4)
    rows = [[mutator.next() for _ in range(3000)] for mutator in (first, second, other)]
    assert rows[0] == rows[1] != rows[2]
    assert len(set(rows[0])) > 2000
    assert {len(data) for data in rows[0]} >= set(range(30, 50))


# Guided -----------------------------------------------------------------------------------------------------------


def test_without_atheris_the_run_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = importlib.import_module

    def missing(name: str) -> object:
        if name == "atheris":
            raise ImportError
        return real(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert guided.main([]) == 2
    assert "atheris is not installed" in capsys.readouterr().out


def test_an_input_is_new_where_it_reaches_another_step() -> None:
    accepts = TARGETS["m1-form"].accepts
    seed = TARGETS["m1-form"].harness.seeds[0]
    same_way = seed[:8] + bytes(32) + seed[40:]
    assert guided.steps(accepts, seed) == guided.steps(accepts, same_way)
    assert guided.steps(accepts, seed[:20]) - guided.steps(accepts, seed)


def test_of_all_inputs_the_new_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = TARGETS["m1-form"].harness.seeds[0]
    (tmp_path / "a").write_bytes(seed[:8] + bytes(32) + seed[40:])
    assert guided._new_inputs("m1-form", tmp_path) == []
    monkeypatch.setattr(guided, "corpus", lambda name: [])
    for name, data in {"b": seed[:21], "c": seed[:20], "d": b""}.items():
        (tmp_path / name).write_bytes(data)
    assert guided._new_inputs("m1-form", tmp_path) == [b"", seed[:20]]
    monkeypatch.setattr(guided, "CORPUS", tmp_path / "corpus")
    guided._keep("m1-form", [b"kept"])
    assert [path.read_bytes() for path in (tmp_path / "corpus" / "m1-form").iterdir()] == [b"kept"]


def test_a_target_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    assert guided.main(["--only", "m9"]) == 2
    told = capsys.readouterr().out
    assert "there is no target m9; the targets are\n" in told
    assert "\n  m1-form\n" in told


# Found ------------------------------------------------------------------------------------------------------------

SHORT_X448 = bytes.fromhex("302e020100300506032b656f04220420") + bytes(32)
"""PKCS#8 of an X448 key that has the length of an Ed25519 one: the library raises no ValueError for it."""


def test_a_private_key_of_a_wrong_length_is_unreadable() -> None:
    text = base64.b64encode(SHORT_X448).decode()
    pem = f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n".encode()
    with pytest.raises(Malformed):
        PrivateIdentity.from_pkcs8([(0x0807, SHORT_X448)])
    with pytest.raises(Malformed):
        load_temporary_key_untrusted(CLASSIC, {"temp_rsa_pkcs8": SHORT_X448})
    with pytest.raises(PemRefused):
        import_private_pem(pem, None)
    with pytest.raises(CertificateRefused):
        load_private_key_pem(pem)
