"""The documents say what the program does: generated parts are current, sections, links, limits and options exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from messageapp.errors import MessageAppError
from messageapp.limits import limit_rows
from messageapp.server.presence import RULES
from messageapp.wire.commands import ByeReason, ErrorCode, UserState
from messageapp.wire.frames import FRAME_LIMITS
from messageapp.wire.records import MAX_ARGUMENT
from messageapp_cli import docs
from messageapp_cli.commands import ROWS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SOURCES = ("messageapp", "cli", "keys", "tests", "docs")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FOREIGN = re.compile(r"(?:RFC|FIPS) \d+,? (?:\([^)]*\) )?§ ?[\d.]+")
CITATION = re.compile(r"§ ?(\d+(?:\.\d+)?)")


def pages() -> list[Path]:
    folders = [ROOT, *(ROOT / name for name in SOURCES)]
    found = [*ROOT.glob("*.md"), *(page for folder in folders[1:] for page in folder.rglob("*.md"))]
    return sorted(page for page in found if not any(part.startswith(".") for part in page.relative_to(ROOT).parts))


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def slugs(text: str) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def citations() -> Iterator[tuple[str, str]]:
    """(place, section) of every § that means our protocol document."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".py", ".sql", ".md") or path == Path(__file__).resolve():
                continue
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                for section in CITATION.findall(FOREIGN.sub("", line)):
                    yield f"{path.relative_to(ROOT)}:{number}", section


def test_generated_parts_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_part_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in docs.FILES:
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / name).write_text((DOCS / name).read_text("utf-8").replace("IDLE", "LAZY"), "utf-8")
    (tmp_path / "keys").symlink_to(ROOT / "keys")
    monkeypatch.setattr(docs, "_root", lambda: tmp_path)
    assert docs.main(["--check"]) == 1
    assert "LAZY" in (tmp_path / "docs" / "protocol.md").read_text("utf-8")
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    assert docs.main(["--unknown"]) == 2


def test_every_generated_part_stands_somewhere() -> None:
    text = "".join((DOCS / name).read_text("utf-8") for name in docs.FILES)
    assert sorted(re.findall(r"<!-- generated:([a-z-]+) -->", text)) == sorted(docs.REGIONS)


def test_an_unknown_part_is_an_error() -> None:
    with pytest.raises(KeyError):
        docs.render("<!-- generated:nothing-of-ours -->\n<!-- end -->")


def test_every_section_that_is_cited_exists() -> None:
    headings = re.findall(r"^#+ (\d+(?:\.\d+)?) ", (DOCS / "protocol.md").read_text("utf-8"), re.MULTILINE)
    assert len(headings) == len(set(headings))
    cited = list(citations())
    assert len(cited) > 80
    assert [(place, section) for place, section in cited if section not in headings] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(without_code(page.read_text("utf-8"))):
        target = match["target"]
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} is not there"
        if anchor:
            assert anchor in slugs(path.read_text("utf-8")), f"{target}: no such heading"


def test_every_option_is_documented() -> None:
    text = (DOCS / "cli.md").read_text("utf-8")
    found = 0
    for name, command in docs.cli_commands():
        section = text.split(f"### {name}\n", 1)[1].split("\n### ", 1)[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                found += 1
                assert all(f"`{option}" in section or f", {option}" in section for option in parameter.opts), name
    assert found > 15


def test_every_limit_and_command_is_documented() -> None:
    text = (DOCS / "cli.md").read_text("utf-8")
    for name, default, unit, why in limit_rows():
        assert f"| `{name}` | {default} | {unit} | {why} |" in text
    for row in ROWS:
        usage = row.usage.replace("|", "\\|")  # within a cell of a table
        assert f"| `{usage}` | {row.help} |" in text


def test_every_exit_code_is_documented() -> None:
    def below(kind: type[MessageAppError]) -> Iterator[int]:
        yield kind.exit_code
        for child in kind.__subclasses__():
            yield from below(child)

    assert set(below(MessageAppError)) <= {code for code, _ in docs.EXIT_CODES}


def test_codes_and_sizes_in_the_protocol_document() -> None:
    text = (DOCS / "protocol.md").read_text("utf-8")
    for kind, limit in FRAME_LIMITS.items():
        assert re.search(rf"^\| 0x{kind:02X} \| {kind.name} \|.* \| {limit:,} \|$", text, re.MULTILINE), kind.name
    assert f"{MAX_ARGUMENT:,}" in text
    erro, byee = (text.split(f"| `{name}` | meaning |", 1)[1].split("\n\n", 1)[0] for name in ("erro", "byee"))
    assert re.findall(r"^\| (\d+) \|", erro, re.MULTILINE) == [str(int(code)) for code in ErrorCode]
    assert re.findall(r"^\| (\d+) \|", byee, re.MULTILINE) == [str(int(reason)) for reason in ByeReason]


def test_the_diagram_knows_every_move() -> None:
    diagram = docs.call_diagram()
    for rule in RULES:
        if rule.next is not rule.state:
            assert re.search(rf"{rule.state.name} --> {rule.next.name} : .*\b{rule.event}\b", diagram), rule
    assert all(state.name in diagram for state in UserState)


def test_every_weakness_has_its_test() -> None:
    text = (DOCS / "security.md").read_text("utf-8")
    rows = re.findall(r"^\| ([pi]\d\d) \|", text, re.MULTILINE)
    assert rows == [f"p{n:02}" for n in range(1, 18)] + [f"i{n:02}" for n in range(1, 16)]
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("test_findings_*.py"))
    assert [row for row in rows if f"def test_{row}_" not in sources] == []


def test_tests_that_the_documents_name_exist() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"def (test_\w+)\(", sources)) | {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in pages():
        for name in re.findall(r"`(?:tests/)?(test_\w+(?:\.py)?)`", page.read_text("utf-8")):
            assert name in known, f"{page.name}: {name}"
