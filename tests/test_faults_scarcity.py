"""A machine that has run out of something: open files, disk, memory. Who is in stays in, the rest is said clearly."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio

from bench.wire import Session, start_chat
from faults.crowd import Crowd, number_of, said
from faults.figures import LONG, cpu_of, descriptors, eventually, note, percentiles, short_or_long
from faults.flood import flood
from messageapp.client.prekeys import ONE_TIME
from messageapp.keypool import open_pool
from messageapp.wire.commands import Echo
from messageapp_cli.console import Completion
from messageapp_cli.plain import open_plain
from support.processes import SECONDS, Program, Site, command, environment, open_account, open_site

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, prlimit and addresses of 127.0.0.0/8")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path / "home", serving=False) as opened:
        yield opened


def limit(program: Program, kind: int, most: int) -> None:
    """Of a running program. It can be raised again."""
    _, hard = resource.prlimit(program.process.pid, kind)
    resource.prlimit(program.process.pid, kind, (most, hard))


def unlimited(program: Program, kind: int) -> None:
    _, hard = resource.prlimit(program.process.pid, kind)
    resource.prlimit(program.process.pid, kind, (hard, hard))


def exchange(a: Session, b: Session, number: int, taken: list[float]) -> None:
    """One message each way."""
    began = time.perf_counter()
    for one, other in ((a, b), (b, a)):
        one.send("frwd", said(number))
        record = other.next()
        assert (record.verb, number_of(record.argument)) == (b"frwd", number)
    taken.append((time.perf_counter() - began) / 2)


# open files -----------------------------------------------------------------------------------------------------------


def test_no_more_open_files(site: Site) -> None:
    server = site.serve("--limit", "m1_seconds=60", "--limit", "handshake_seconds=60")
    pid, crowd, taken = server.process.pid, Crowd(site, 4), list[float]()
    fds = crowd.at_rest()
    with crowd.chat(0, 1) as (alice, bob):
        limit(server, resource.RLIMIT_NOFILE, descriptors(pid) + 5)
        with flood(site.port, crowd.m1(), ["half"], count=40, rate=2000, seconds=60, network=1) as stranger:
            stranger.until_open()
            server.until_err(lambda log: "cannot accept connections now: too many open files" in log)
            cpu, began = cpu_of(pid).loop, time.monotonic()
            seconds = short_or_long(2, 20)
            while time.monotonic() < began + seconds:
                exchange(alice, bob, len(taken), taken)
                time.sleep(0.02)
            idle = cpu_of(pid).loop - cpu
            stranger.end()
        crowd.timed(2)
        exchange(alice, bob, 0, taken)
    eventually("no descriptor is kept", lambda: descriptors(pid) == fds)
    percentiles("out of open files: messages of those who are in", taken)
    note("out of open files: processor time of the server", idle / seconds * 100, "%")
    note("out of open files: lines in the log", server.err.count("cannot accept"))
    assert server.err.count("cannot accept") == 1
    assert idle < seconds / 10, "it waits, it does not spin"
    assert server.process.poll() is None
    assert server.err.count("error") == 1, "that line"


# disk -----------------------------------------------------------------------------------------------------------------

_EXEC = "os.execv(sys.argv[1], sys.argv[1:])"
_LIMITED = f"import os,resource,sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); {_EXEC}"


class FileLimit:
    """No file may grow: needs no rights. The system says `file too large` where a full disk has no space left."""

    reason = "file too large"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._on = False

    def fill(self) -> None:
        self._on = True

    def free(self) -> None:
        self._on = False

    def command(self, *arguments: str) -> list[str]:
        line = command(*arguments)
        return [sys.executable, "-c", _LIMITED, *line] if self._on else line

    def stop_growth(self, program: Program) -> None:
        limit(program, resource.RLIMIT_FSIZE, 0)

    def let_grow(self, program: Program) -> None:
        unlimited(program, resource.RLIMIT_FSIZE)


class FullDisk(FileLimit):
    """A file system in memory that is really full: needs the right to mount one."""

    reason = "no space left on device"

    def fill(self) -> None:
        size = 1 << 16
        with (self.folder / "filling").open("ab", buffering=0) as file:
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self) -> None:
        (self.folder / "filling").unlink()

    def stop_growth(self, program: Program) -> None:
        self.fill()

    def let_grow(self, program: Program) -> None:
        with suppress(FileNotFoundError):  # it was for another program
            self.free()


@pytest.fixture(params=[FileLimit, FullDisk])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileLimit]:
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o700)
    options = ["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if request.param is FileLimit:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            if not LONG:
                pytest.skip("a disk that is really full is tried instead; `nox -s faults -- --long` tries both")
        yield FileLimit(folder)
        return
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system, so RLIMIT_FSIZE is tried: {mounted.stderr.strip()}")
    try:
        yield FullDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def full_site(disk: FileLimit) -> Iterator[Site]:
    with open_site(disk.folder / "home", "alice", "bob", serving=False) as opened:
        yield opened


def run_on(disk: FileLimit, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        disk.command(*arguments),
        input="",
        capture_output=True,
        text=True,
        env=environment(home, PYTHONDONTWRITEBYTECODE="1"),
        timeout=SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line with the reason; the code for files that cannot be used."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("messageapp: cannot ")
    assert done.stderr.count("\n") == 1
    assert any(word in done.stderr for word in words), done.stderr


def sound(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def sound_account(site: Site, name: str) -> None:
    with closing(open_account(site.home, name)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


MIB = 1 << 20
SQLITE_SAYS = ("disk i/o error", "disk I/O error", "database or disk is full")


def test_keys_on_a_full_disk(disk: FileLimit) -> None:
    """Nothing is left behind, and with room again it works."""
    home = disk.folder / "home"
    (home / "identities").mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    disk.fill()
    refused(run_on(disk, home, "keygen", "carol"), disk.reason)
    assert list((home / "identities").iterdir()) == []
    disk.free()
    assert run_on(disk, home, "keygen", "carol").returncode == 0


def test_a_first_start_on_a_full_disk(disk: FileLimit) -> None:
    home = disk.folder / "home"
    home.mkdir(mode=0o700)
    disk.fill()
    refused(run_on(disk, home, "serve", "0", "--host", "127.0.0.1"), disk.reason, "no space left")
    disk.free()
    server = Program(home, "serve", "0", "--host", "127.0.0.1", "--limit", "rsa_pool=1")
    try:
        server.until("listening on ")
        server.signal(signal.SIGTERM)
        assert server.finish(close=False) == 0
    finally:
        server.close()


def test_users_on_a_full_disk(disk: FileLimit, full_site: Site) -> None:
    """The change is refused as a whole, the directory is as it was, and the server reads it."""
    site = full_site
    site.serve()
    key = site.path / "bob.pem"
    key.write_text(site.run("keys", "export", "bob").stdout)
    listed = site.run("user", "list").stdout
    disk.fill()
    refused(run_on(disk, site.path, "user", "add", "carol", str(key)), *SQLITE_SAYS)
    refused(run_on(disk, site.path, "user", "remove", "bob"), *SQLITE_SAYS)
    disk.free()
    assert site.run("user", "list").stdout == listed
    sound(site.home.directory)
    assert site.run("user", "add", "carol", str(key)).returncode == 0
    assert site.connect("alice").returncode == 0


def test_a_first_login_on_a_full_disk(disk: FileLimit, full_site: Site) -> None:
    """The pin of the server cannot be kept, so there is no login; it comes about when there is room."""
    site = full_site
    site.serve()
    disk.fill()
    done = run_on(disk, site.path, "connect", "127.0.0.1", str(site.port), "--user", "alice")
    refused(done, *SQLITE_SAYS, disk.reason)
    disk.free()
    assert site.connect("alice").returncode == 0
    sound_account(site, "alice")


def until_reachable(site: Site, *names: str) -> None:
    """Their prekeys are at the server, and nothing more is written by itself."""

    def all_there() -> bool:
        with closing(sqlite3.connect(site.home.mail)) as database:
            found = database.execute("SELECT folded, count(*) FROM prekeys GROUP BY folded").fetchall()
        return dict(found) == dict.fromkeys(names, ONE_TIME + 1)

    eventually("their prekeys are at the server", all_there)


def use_up(site: Site, name: str) -> None:
    """What is written next needs room: the write-ahead log has none left from before."""
    with closing(open_account(site.home, name)) as database:
        eventually("nobody writes", lambda: not database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])


def test_chats_go_on_when_the_disk_is_full(disk: FileLimit, full_site: Site, tmp_path: Path) -> None:
    """Bob's is, and the server's. He can send nothing; what alice says comes, once, when there is room again."""
    site = full_site
    server = site.serve()
    elsewhere = shutil.copytree(site.path, tmp_path / "elsewhere")
    alice, bob = site.client("alice", home=elsewhere), site.client("bob")
    until_reachable(site, "alice", "bob")
    site.chat(alice, "alice", bob, "bob")
    use_up(site, "bob")
    for program in (server, bob):
        disk.stop_growth(program)
    bob.send("bob has no room")
    told = bob.until("error: not sent: ")
    assert any(word in told for word in SQLITE_SAYS), told
    alice.send("one", "two")
    told = bob.until("error: cannot use the account's database: ")
    assert any(word in told for word in SQLITE_SAYS), told
    for program in (server, bob):
        disk.let_grow(program)
    alice.send("three")
    bob.until("<alice> three")
    bob.send("bob has room")
    alice.until("<bob> bob has room")
    alice.send("/exit")
    bob.until("alice left the chat")
    eventually("all has come", lambda: {"<alice> one", "<alice> two"} <= {one.split(" (")[0] for one in bob.lines})
    assert (alice.finish(), bob.finish()) == (0, 0)
    assert [bob.out.count(f"<alice> {text}") for text in ("one", "two", "three")] == [1, 1, 1]
    assert bob.out.count("error: cannot use ") == 1, "said once"
    assert "no room" not in alice.out
    server.signal(signal.SIGTERM)
    assert server.finish(close=False) == 0
    sound(site.home.directory)
    sound_account(site, "bob")


def test_a_first_chat_on_a_full_disk(disk: FileLimit, full_site: Site, tmp_path: Path) -> None:
    """Neither the chat nor the peer's key can be kept: this is said, nothing is pinned, and the session goes on."""
    site = full_site
    site.serve()
    elsewhere = shutil.copytree(site.path, tmp_path / "elsewhere")
    alice, bob = site.client("alice"), site.client("bob", home=elsewhere)
    for client in (alice, bob):
        client.until("key log: ")  # otherwise it is the log that cannot be kept
    until_reachable(site, "alice", "bob")
    use_up(site, "alice")
    disk.stop_growth(alice)
    alice.send("chat bob")
    bob.until("REQUEST TO CHAT FROM: <alice> ACCEPT?")
    bob.send("acpt")
    told = alice.until("error: no chat with bob: cannot use ")
    assert any(word in told for word in SQLITE_SAYS), told
    bob.until("alice left the chat")
    disk.let_grow(alice)
    site.chat(alice, "alice", bob, "bob")
    alice.until("This is the first chat with bob")
    assert (alice.finish(), bob.finish()) == (0, 0)
    sound_account(site, "alice")


# memory ---------------------------------------------------------------------------------------------------------------


def address_space(program: Program) -> int:
    for line in Path(f"/proc/{program.process.pid}/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no VmSize")


def test_no_more_memory_for_the_server(site: Site) -> None:
    """Peers that do not read fill their queues until there is none. That ends single sessions, with a line each."""
    server = site.serve("--limit", "queue_bytes=16000000")
    pairs = short_or_long(10, 40)
    crowd, taken = Crowd(site, 2 * pairs + 4), list[float]()
    fds = crowd.at_rest()
    with crowd.chat(2 * pairs, 2 * pairs + 1) as (carol, dave):
        talks = []
        for pair in range(pairs):
            a, b = crowd.log_in(2 * pair), crowd.log_in(2 * pair + 1, receive_buffer=4096)
            start_chat(a, b, os.urandom(16))
            talks.append((a, b))
        limit(server, resource.RLIMIT_AS, address_space(server) + 24 * MIB)
        broken = 0
        for a, _ in talks:
            try:
                for number in range(300):
                    a.send("frwd", said(number, 60_000))
                a.ask("ping", Echo(b"all seen"), "pong")
            except (OSError, RuntimeError):
                broken += 1
        for session in [session for talk in talks for session in talk]:
            session.close()
        eventually("only carol and dave are there", lambda: descriptors(server.process.pid) <= fds + 2)
        exchange(carol, dave, 1, taken)
        crowd.timed(2 * pairs + 2)
    note("out of memory: sessions that ended, of so many that asked for too much", f"{broken} / {pairs}")
    note("out of memory: lines in the log", server.err.count("MemoryError"))
    assert server.process.poll() is None
    assert broken
    assert server.err.count(" error: #") == server.err.count("MemoryError") <= 2 * pairs + 2
    unlimited(server, resource.RLIMIT_AS)
    server.signal(signal.SIGTERM)
    assert server.process.wait(SECONDS) == 0


def test_too_little_memory_to_begin(tmp_path: Path) -> None:
    """Argon2id takes 64 MiB, and the interpreter more than half as much."""
    limited = f"import os,resource,sys; resource.setrlimit(resource.RLIMIT_AS, ({90 * MIB}, {90 * MIB})); {_EXEC}"
    done = subprocess.run(
        [sys.executable, "-c", limited, *command("keygen", "alice")],
        capture_output=True,
        text=True,
        env=environment(tmp_path, MESSAGEAPP_DEBUG=""),
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "messageapp: there is not enough memory\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_no_memory_for_what_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that reads does not die alone, which would leave a program that hears nothing any more."""

    def read(descriptor: int, size: int) -> bytes:
        raise MemoryError

    reading, writing = os.pipe()
    with trio.fail_after(10), os.fdopen(reading), os.fdopen(writing, "w"):
        async with open_plain(_Prompt(), reading, io.StringIO(), io.StringIO()) as console:
            with monkeypatch.context() as patch:
                patch.setattr("messageapp_cli.plain.os.read", read)
                with pytest.raises(MemoryError):
                    await console.inputs.receive()


class _Prompt:
    def prompt(self) -> str:
        return ""

    def complete(self, text: str) -> list[Completion]:
        return []

    def toolbar(self) -> str:
        return ""


async def test_no_memory_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that makes temporary keys tries again; without it there would be none until the next start."""
    monkeypatch.setattr("messageapp.keypool._REST_SECONDS", 0.0)
    made = iter([MemoryError, MemoryError, "key"])

    def make() -> str:
        found = next(made)
        if found is MemoryError:
            raise MemoryError
        return str(found)

    with trio.fail_after(10):
        async with open_pool(1, make, prepare=lambda key: None) as pool:
            assert await pool.take() == "key"
