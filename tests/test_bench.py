"""The benchmark itself: its generator counts right and notices what goes wrong, its table tells, its rows come about.

Nothing here says how fast anything is.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bench import run
from bench.bare import READY, hello
from bench.generator import GeneratorMissing, build, driven, generator_has_tls
from bench.groups import GROUPS, Bench
from bench.rows import Row, Table
from bench.targets import Alone, Bare, Ours, frame_size, measure
from bench.traffic import Lane, closed, paced, prepared
from bench.wire import Dialler
from bench.world import enrol, start_bare, start_server
from messageapp.errors import RemoteProtocolError
from messageapp.wire.records import Kind, Record, RecordSealer
from messageapp_keys.kem import SWIFT
from messageapp_keys.types import TrafficSecret

ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = {
    **run.QUICK,
    "pairs": [2],
    "messages": {"1": 20, "32": 80},
    "latency_messages": 5,
    "large_messages": 10,
    "users": [10, 60],
    "scaling_messages": {"1": 20, "32": 20},
    "turns": 1,
    "longer": 2,
    "pool": 1,
    "swift_logins": 4,
    "alone": 2,
    "storm": 10,
    "idle": 20,
}
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark needs Linux")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no C compiler")
    return build(tmp_path_factory.mktemp("generator"), tls=False)


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of the benchmark find it, and the project."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / folder) for folder in (".", "cli", "keys", "tests")))


# the generator --------------------------------------------------------------------------------------------------------


def _messages(count: int, size: int = 50) -> list[bytes]:
    return [size.to_bytes(4, "big") + bytes([i]) * size for i in range(count)]


@contextmanager
def _lane(messages: list[bytes], relay: Callable[[bytes], bytes] = lambda data: data) -> Iterator[Lane]:
    """A pair with a relay between that may do something to all the bytes."""
    with ExitStack() as stack:
        sender, into, out, receiver = (
            stack.enter_context(sock) for pair in (socket.socketpair(), socket.socketpair()) for sock in pair
        )

        def carry() -> None:
            data = b""
            with suppress(OSError):
                while len(data) < sum(map(len, messages)) and (part := into.recv(1 << 16)):
                    data += part
                out.sendall(relay(data))

        thread = threading.Thread(target=carry)
        thread.start()
        try:
            yield Lane(sender, receiver, messages)
        finally:
            for sock in (into, out):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(("in_flight", "pairs"), [(1, 1), (1, 7), (32, 3)])
def test_every_message_arrives_and_is_counted(generator: Path, in_flight: int, pairs: int) -> None:
    target = Alone("alone", pairs)
    lanes = target.lanes(pairs, 40, 100)
    with prepared(generator, lanes, closed(in_flight)) as carried:
        result = carried.reins.go()
        assert result.messages == 40 * pairs
        assert [sent for sent, _, _ in result.pairs] == [40] * pairs
        for i in range(pairs):
            assert carried.received(i, result) == b"".join(lanes[i].messages)
            target.check(i, carried.received(i, result), 40)
    assert 0 < result.p50 <= result.p99 <= result.max <= result.seconds * 1e6
    assert result.strange == result.answers == 0
    target.close()


def test_large_messages_pass_in_parts(generator: Path) -> None:
    target = Alone("alone", 2)
    assert measure(target, generator, pairs=2, each=30, size=100_000, load=closed(8)).shares["server"] is None
    target.close()


@pytest.mark.parametrize("load", [closed(3), paced(1000)])
def test_a_load_ends_early_when_told(generator: Path, load: str) -> None:
    target = Alone("alone", 2)
    with prepared(generator, target.lanes(2, 100_000, 0), load) as carried:
        carried.reins.start()
        result = carried.reins.stop()
        assert result.messages < 200_000
        assert load != closed(3) or result.messages > 0
        for lane, (sent, got, size) in enumerate(result.pairs):
            assert (got, size) == (sent, sent * frame_size(0))
            target.check(lane, carried.received(lane, result), sent)
    target.close()


def test_frames_of_another_length_are_kept_but_are_no_messages(generator: Path) -> None:
    update = (7).to_bytes(4, "big") + b"an rkey"
    messages = _messages(10)
    messages[3] += update
    with _lane(messages) as lane, prepared(generator, [lane], closed(10)) as carried:
        result = carried.reins.go()
        assert (result.messages, result.strange) == (10, 1)
        assert carried.received(0, result) == b"".join(messages)


def test_a_lost_message_is_reported(generator: Path) -> None:
    messages = _messages(10)
    with (
        _lane(messages, lambda data: data[len(messages[0]) :]) as lane,
        prepared(generator, [lane], closed(10), seconds=1) as carried,
        pytest.raises(RuntimeError, match="1 messages had not come"),
    ):
        carried.reins.go()


def test_a_message_in_another_order_is_reported(generator: Path) -> None:
    target = Alone("alone", 1)
    (lane,) = target.lanes(1, 10, 100)
    size = len(lane.messages[0])
    with (
        _lane(list(lane.messages), lambda data: data[size : 2 * size] + data[:size] + data[2 * size :]) as other,
        prepared(generator, [other], closed(10)) as carried,
    ):
        result = carried.reins.go()
        with pytest.raises(RuntimeError, match="other bytes came"):
            target.check(0, carried.received(0, result), 10)
    target.close()


def test_a_message_too_many_is_seen(generator: Path) -> None:
    messages = _messages(10)
    with (
        _lane(messages, lambda data: data + messages[0]) as lane,
        prepared(generator, [lane], closed(10)) as carried,
    ):
        assert carried.reins.go().strange == 1


def test_a_closed_connection_is_reported(generator: Path) -> None:
    with _lane(_messages(3), lambda data: b"") as lane, prepared(generator, [lane], closed(3)) as carried:
        carried.reins.start()
        lane.receiver.shutdown(socket.SHUT_RD)
        with pytest.raises(RuntimeError, match="closed the connection of a receiver"):
            carried.reins.finish()


def _line_server(listener: socket.socket, count: int, answer: bytes) -> None:
    """`count` connections say hello; then what the first says goes to the second."""
    with ExitStack() as stack, suppress(OSError):
        found = []
        for _ in range(count):
            sock = stack.enter_context(listener.accept()[0])
            sock.recv(100)
            sock.sendall(b"welcome, " + answer + b"\n")
            found.append(sock)
        while data := found[0].recv(1 << 16):
            found[1].sendall(data)


@contextmanager
def _script(answer: bytes) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_line_server, args=(listener, 2, answer))
        thread.start()
        try:
            login = f"127.0.0.1 {listener.getsockname()[1]}\nsend {b'hello'.hex()}\nexpect {b'you are in'.hex()}\n"
            yield f"connection sender {login}message {b'text <end>'.hex()}\nconnection receiver {login}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("load", ["closed 1", "closed 16", "paced 200"])
def test_a_script_logs_in_and_counts_by_its_delimiter(generator: Path, load: str) -> None:
    head = f"load {load}\ncount 50\nsettle 1\ndelimiter {b'<end>'.hex()}\n"
    with _script(b"you are in") as connections, driven(generator, head + connections) as reins:
        result = reins.go()
    assert result.messages == 50
    assert result.pairs == [(50, 50, 50 * len(b"text <end>"))]


def test_a_script_that_is_refused_says_what_came(generator: Path) -> None:
    head = f"seconds 1\ndelimiter {b'<end>'.hex()}\n"
    with (
        _script(b"go away") as connections,
        pytest.raises(RuntimeError, match="instead of 'you are in' came 'welcome, go away"),
        driven(generator, head + connections),
    ):
        pass


def test_tls_without_tls_says_so(generator: Path) -> None:
    assert not generator_has_tls(generator)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        job = f"delimiter 0a\nconnection idle 127.0.0.1 {listener.getsockname()[1]}\ntls\n"
        with pytest.raises(RuntimeError, match="without TLS"), driven(generator, job):
            pass


@pytest.mark.parametrize("line", ["nonsense 1", "count", "pair 1", "expect 00"])
def test_a_wrong_job_is_refused(generator: Path, line: str) -> None:
    with pytest.raises(RuntimeError, match="means nothing"), driven(generator, line + "\n"):
        pass


def test_without_a_compiler_the_rows_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    with pytest.raises(GeneratorMissing, match="apt install gcc"):
        build(tmp_path, tls=True)
    table = Table()
    for group in ("relay", "scaling", "large"):  # logins go on without those that need it
        for name, rows in GROUPS[group](Bench(tmp_path, TINY, 100)):
            for row in rows:
                table.add(name, row)
    assert table.failed
    assert table.text().count("FAILED: no C compiler") == 3


# targets --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("form", ["naive", "best"])
def test_the_bare_relay_relays(generator: Path, tmp_path: Path, form: str) -> None:
    with start_bare(form, tmp_path) as server:
        target = Bare("bare", server.port, server.pid, 3)
        for load in (closed(1), closed(40), paced(300)):
            found = measure(target, generator, pairs=3, each=120, size=100, load=load)
            assert found.rate > 0
            assert found.figure("cpu") > 0
        target.close()


def test_a_hello_is_a_frame() -> None:
    assert hello(b"S", 12) == b"\0\0\0\3S12"
    assert READY == b"\0\0\0\0"


@pytest.mark.parametrize("size", [0, 100, 245, 246, 247, 2526, 4096, 65_536])
def test_a_frame_is_as_long_as_a_sealed_record(size: int) -> None:
    sealer = RecordSealer(TrafficSecret(bytes(32)), "user0")
    assert frame_size(size) == 5 + len(sealer.seal(Record(Kind.REQUEST, 1, b"frwd", bytes(size))))


# rows -----------------------------------------------------------------------------------------------------------------


def test_the_table_has_median_spread_and_failures() -> None:
    table = Table()
    for value in (1.0, 30.0, 2.0):
        table.add("group", Row("a row", "messages/s", value, server=0.5, cpu=1234.0, p99=7.0))
    table.add("other", Row("another", "ms", 5.0))
    assert not table.failed
    table.add("group", Row("broken", "", error="RuntimeError: lost"))
    table.add("elsewhere", Row("moved", "ms", 3.0, group="other"))
    assert table.failed
    text = table.text().splitlines()
    head = ["", "unit", "median", "min", "max", "server", "load", "CPU µs", "p50 µs", "p99 µs", "RSS MiB"]
    assert text[0].split() == " ".join(head).split()
    assert text[1] == "group"
    assert text[2].split() == ["a", "row", "messages/s", "2.00", "1.00", "30.0", "50%", "1,234", "7.00"]
    assert text[3].strip() == "broken: FAILED: RuntimeError: lost"
    assert [line.split()[0] for line in text[4:]] == ["other", "another", "moved"]
    rows = table.as_json()
    assert rows[0]["values"] == [1.0, 30.0, 2.0]
    assert rows[0]["cpu"] == [1234.0] * 3
    assert rows[1]["errors"] == ["RuntimeError: lost"]


def test_a_table_without_rows_has_failed() -> None:
    assert Table().failed


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with tiny counts that leaves this process's signals alone."""
    monkeypatch.setattr(run, "QUICK", TINY)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)


@pytest.mark.usefixtures("paths", "small", "generator")
def test_a_run_of_some_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    names = ["logins", "relay", "scaling", "large"]
    only = [f"--only={name}" for name in names]
    code = run.main(["--quick", *only, "--against", str(ROOT), "--json", str(path)])
    said = capsys.readouterr().out
    assert code == 0, said
    document = json.loads(path.read_text())
    assert document["groups"] == names
    groups = {row["group"] for row in document["rows"]}
    assert {"relay", f"relay of {ROOT.name}", f"relay ÷ relay of {ROOT.name}", "64 KiB messages"} <= groups
    for row in document["rows"]:
        assert len(row["values"]) == 1, row
    assert "2 pairs, 32 in flight each" in said


@pytest.mark.usefixtures("paths")
def test_the_rows_of_stored_messages(tmp_path: Path) -> None:
    """What is measured is also checked: all come, once and in order."""
    enrol(tmp_path, 2, 1)
    ((_, rows),) = GROUPS["mail"](Bench(tmp_path, {"mail": 300}, 100))
    assert [row.error for row in rows if row.error] == []
    assert [row.unit for row in rows] == ["messages/s", "messages/s", "messages/s", "s"]
    assert all(row.value for row in rows)


@pytest.mark.usefixtures("paths")
def test_the_rows_of_a_restart(tmp_path: Path) -> None:
    enrol(tmp_path, 10, 1)
    ((_, rows),) = GROUPS["restart"](Bench(tmp_path, {"restart": 10}, 100))
    assert [row.label for row in rows if row.error] == []
    listens, back, tries = (row.value or 0.0 for row in rows)
    assert 0 < listens < back
    assert tries >= 1


@pytest.mark.usefixtures("paths")
def test_the_rows_of_the_key_log(tmp_path: Path) -> None:
    """What is measured is also checked: proofs verify, and a client takes the replay."""
    ((_, rows),) = GROUPS["keylog"](Bench(tmp_path, {"leaves": 600, "replay": 100}, 100))
    assert [row.label for row in rows if row.error] == []
    assert {row.group for row in rows} == {"key log of 600 leaves"}
    labels = {row.label for row in rows}
    assert {"append them all, one transaction", "inclusion proof", "on a client's disk"} <= labels
    assert {f"a client replays {text}" for text in ("100 new leaves, up to 100", "500 new leaves, up to 600")} <= labels
    assert all(row.value for row in rows)


@pytest.mark.usefixtures("paths")
def test_the_rows_of_the_search(tmp_path: Path) -> None:
    """What is measured is also checked: each finds what it shall."""
    ((_, rows),) = GROUPS["search"](Bench(tmp_path, {"stored": 1200}, 100))
    assert [row.label for row in rows if row.error] == []
    assert {row.group for row in rows} == {"account of 1,200 messages, encrypted"}
    assert {"search a rare word", "history of the largest conversation", "on the disk"} <= {row.label for row in rows}
    assert all(row.value for row in rows)


@pytest.mark.usefixtures("paths")
def test_a_changed_record_is_reported(generator: Path, tmp_path: Path) -> None:
    """What comes is opened afterwards: one bit suffices."""
    enrol(tmp_path, 2, 1)
    with start_server(tmp_path, {}) as server:
        target = Ours("relay", tmp_path, server.port, server.pid, 1)
        try:
            with prepared(generator, target.lanes(1, 5, 100), closed(1)) as carried:
                result = carried.reins.go()
                received = bytearray(carried.received(0, result))
            received[-1] ^= 1
            with pytest.raises(RemoteProtocolError):
                target.check(0, bytes(received), 5)
            sessions, _ = Dialler(tmp_path, server.port).log_in(["rsa0"], SWIFT, 1)
            sessions[0].close()
        finally:
            target.close()
