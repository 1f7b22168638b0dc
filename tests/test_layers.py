"""The folders are layers: who may import whom, read from the sources, each arrow with its reason.

Also imports inside functions count: a lazy import is an arrow too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"messageapp": ROOT, "messageapp_keys": ROOT / "keys", "messageapp_cli": ROOT / "cli"}

EVERYTHING = (
    "client",
    "server",
    "sim",
    "wire",
    "e2ee",
    "store",
    "keys",
    "errors",
    "limits",
    "clock",
    "link",
    "sockets",
    "keypool",
)

# layer → {layer that it may import: why}
ARROWS: dict[str, dict[str, str]] = {
    "keys": {},
    "errors": {},
    "limits": {"errors": "a limit that cannot be is an unusable setup"},
    "wire": {
        "keys": "the only maker of ciphers, hashes and signatures",
        "errors": "one tree",
    },
    "e2ee": {
        "keys": "the only maker of ciphers, hashes and signatures",
        "errors": "one tree",
    },
    "clock": {},
    "sockets": {},
    "link": {
        "wire": "carries its bytes over a stream",
        "keys": "what counts as bytes",
        "errors": "one tree",
        "limits": "how long a write may take",
    },
    "keypool": {
        "keys": "makes temporary keys ahead",
        "errors": "one tree",
        "limits": "how many",
    },
    "store": {
        "keys": "seals and reads identities",
        "errors": "one tree",
        "limits": "what may be stored",
    },
    "server": {
        "link": "its connections",
        "sockets": "what they run on",
        "wire": "the login and the verbs",
        "keys": "certificates, bundles, suites",
        "keypool": "temporary keys for M2",
        "store": "users",
        "errors": "one tree",
        "limits": "every bound on a stranger",
        "clock": "when something was stored",
    },
    "client": {
        "link": "its connection",
        "wire": "the login and the verbs",
        "e2ee": "what the server must not read",
        "keys": "its identity and what it trusts",
        "keypool": "temporary keys for C2",
        "store": "pins",
        "errors": "one tree",
        "limits": "its own bounds",
        "clock": "when something was said",
    },
    "sim": {
        "server": "runs the real one",
        "client": "runs real ones",
        "wire": "what a relay and a log see; the records that it watches",
        "e2ee": "the chats that it watches",
        "store": "the schemas of the program",
        "keys": "identities and certificates out of a seed",
        "errors": "what may go wrong, and when",
        "limits": "bounds that a small run reaches",
        "clock": "how long a day is",
    },
    "package": dict.fromkeys([*EVERYTHING, "cli"], "the public names of the library, and `python -m messageapp`"),
    "cli": dict.fromkeys([*EVERYTHING, "package"], "the outermost layer puts the others together"),
}

# What only some may import from outside: module → {layer or file: why}
RESTRICTED: dict[str, dict[str, str]] = {
    "cryptography": {"keys": "one folder to audit for cryptography"},
    "prompt_toolkit": {"messageapp_cli/terminal.py": "one adapter behind a protocol; the rest runs without a terminal"},
}

# What the sans-IO layers do without: time and randomness are arguments, bytes come from above.
SANS_IO = ("keys", "wire", "e2ee")
IMPURE = {
    "trio": "the event loop is the shell's",
    "asyncio": "the event loop is the shell's",
    "anyio": "the event loop is the shell's",
    "socket": "bytes come from above",
    "select": "bytes come from above",
    "ssl": "the protocol is its own channel",
    "threading": "who calls decides on threads",
    "subprocess": "nothing is started",
    "sqlite3": "the store keeps things",
    "logging": "keys and texts are at hand here",
    "time": "time is an argument",
    "random": "not for keys, and randomness is an argument",
    "secrets": "randomness is an argument",
}
CLOCK_CALLS = {"now", "utcnow", "today", "monotonic", "perf_counter"}


def sources() -> Iterator[tuple[Path, Path]]:
    """(path, path inside its root) of every module."""
    for name, root in PACKAGES.items():
        for path in sorted((root / name).rglob("*.py")):
            yield path, path.relative_to(root)


def layer_of(parts: tuple[str, ...]) -> str:
    """`("messageapp", "wire", "login")` → `wire`."""
    match parts:
        case ("messageapp_keys", *_):
            return "keys"
        case ("messageapp_cli", *_):
            return "cli"
        case ("messageapp",) | ("messageapp", "__init__") | ("messageapp", "__main__"):
            return "package"
        case ("messageapp", layer, *_):
            return layer
    return ""


def imports(path: Path, inside: Path) -> Iterator[tuple[str, ...]]:
    """The dotted names that a module imports, absolute, `from a import b` as a.b."""
    package = inside.with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from ((*base, alias.name) for alias in node.names)


def target_layer(name: tuple[str, ...]) -> str:
    """The layer of an imported name: `from messageapp import wire` is of wire, other names are the package's own."""
    if name[0] not in PACKAGES:
        return ""
    layer = layer_of(name)
    return layer if layer in ARROWS else "package"


MODULES = list(sources())
each_module = pytest.mark.parametrize(("path", "inside"), MODULES, ids=[str(inside) for _, inside in MODULES])


def test_the_reader_sees_modules_and_imports() -> None:
    """Otherwise everything below holds of nothing."""
    assert {layer_of(inside.with_suffix("").parts) for _, inside in MODULES} >= {"keys", "wire", "e2ee", "cli"}
    login = ROOT / "messageapp/wire/login.py"
    seen = set(imports(login, login.relative_to(ROOT)))
    assert ("messageapp", "wire", "records", "Record") in seen
    assert ("messageapp_keys", "kem", "Suite") in seen
    assert target_layer(("messageapp", "wire", "records", "Record")) == "wire"
    assert target_layer(("messageapp", "errors", "MessageAppError")) == "errors"
    assert target_layer(("messageapp_keys", "labels")) == "keys"


def test_the_arrows_go_one_way() -> None:
    """Following them never leads back, the outermost pair apart: the package's own names and the command line."""

    def below(layer: str, seen: frozenset[str]) -> None:
        assert layer not in seen, f"{layer} is below itself"
        for lower in ARROWS[layer]:
            if (layer, lower) not in {("package", "cli"), ("cli", "package")}:
                below(lower, seen | {layer})

    for layer in ARROWS:
        below(layer, frozenset())
    assert "e2ee" not in ARROWS["server"]
    assert all(reason for arrows in ARROWS.values() for reason in arrows.values())


@each_module
def test_imports_follow_the_arrows(path: Path, inside: Path) -> None:
    layer = layer_of(inside.with_suffix("").parts)
    assert layer in ARROWS, f"{inside}: a new layer needs its arrows, with reasons"
    for name in imports(path, inside):
        target = target_layer(name)
        if target and target != layer:
            assert target in ARROWS[layer], f"{inside} imports {'.'.join(name)}: {layer} must not know {target}"


@each_module
def test_restricted_packages(path: Path, inside: Path) -> None:
    layer = layer_of(inside.with_suffix("").parts)
    for name in imports(path, inside):
        allowed = RESTRICTED.get(name[0])
        if allowed is not None:
            assert layer in allowed or inside.as_posix() in allowed, f"{inside} must not import {name[0]}"


@each_module
def test_the_core_does_no_input_output_and_has_no_clock(path: Path, inside: Path) -> None:
    if layer_of(inside.with_suffix("").parts) not in SANS_IO:
        return
    for name in imports(path, inside):
        assert name[0] not in IMPURE, f"{inside} imports {name[0]}: {IMPURE[name[0]]}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in CLOCK_CALLS, f"{inside}:{node.lineno} reads a clock"
        assert not isinstance(node, ast.AsyncFunctionDef), f"{inside}: nothing here waits"


# Where everything may be caught: module → why
BORDERS = {
    "messageapp/server/serve.py": "a bug met by one connection ends no other",
    "messageapp/server/pump.py": "raised again in the reader whose socket it was",
    "messageapp_cli/terminal.py": "carried from its thread to the one that leaves the terminal, and raised there",
    "messageapp/sim/run.py": "whatever a simulated run raises is what it has found",
    "messageapp_cli/main.py": "a bug becomes one line and exit code 1",
}


@each_module
def test_what_is_caught_is_what_is_meant(path: Path, inside: Path) -> None:
    """No bare `except`, no `except Exception` but at the borders or to clean up and raise on."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{inside}:{node.lineno}"
            names = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
            passed_on = any(isinstance(part, ast.Raise) and part.exc is None for part in ast.walk(node))
            if names & {"Exception", "BaseException"} and not passed_on:
                assert inside.as_posix() in BORDERS, f"{inside}:{node.lineno} catches everything"
