"""Many strangers at the door, many guests inside, and guests that do not read: the real server, real sockets."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.proc import many_files
from bench.wire import Session, start_chat
from faults.crowd import Crowd, number_of, said
from faults.figures import (
    LONG,
    cpu_of,
    descriptors,
    eventually,
    note,
    percentiles,
    resident_kib,
    short_or_long,
)
from faults.flood import flood
from messageapp.wire.commands import Echo, Raw, make
from messageapp.wire.records import Kind, Record
from support.processes import Site, open_site

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and all addresses of 127.0.0.0/8")

HALF_OPEN = 500
STRICT = ("connections_per_second=5", "connections_burst=20", "handshakes_per_address=8")  # the defaults


def limits(*wanted: str) -> list[str]:
    return [part for limit in wanted for part in ("--limit", limit)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path, serving=False) as opened:
        yield opened


def pid_of(site: Site) -> int:
    assert site.server is not None
    return site.server.process.pid


def no_errors(site: Site) -> None:
    assert site.server is not None
    assert site.server.process.poll() is None
    assert "error" not in site.server.err


# half-open connections ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [["nothing", "half"], ["m1"]], ids=["no M1", "no M3"])
def test_half_open_connections_that_are_all_let_in(site: Site, kinds: list[str]) -> None:
    """With room for all 500, those who log in wait their turn and no longer."""
    site.serve(*limits(*STRICT, "handshakes=700", "handshakes_crowded=690"))
    crowd = Crowd(site, 10)
    before = crowd.at_rest()
    with flood(site.port, crowd.m1(), kinds, count=HALF_OPEN, rate=5000, seconds=60, network=1, hosts=63) as stranger:
        counted = stranger.until_open()
        assert counted["held"] > HALF_OPEN * 0.9
        eventually("all are let in", lambda: descriptors(pid_of(site)) > before + HALF_OPEN * 0.9)
        taken = [crowd.timed(i % 10, f"127.9.0.{i % 50 + 1}") for i in range(short_or_long(40, 500))]
        counted = stranger.end()
    percentiles(f"login beside {counted['held']} half-open connections ({', '.join(kinds)})", taken)
    assert len(taken) == short_or_long(40, 500), "each within its deadline"
    eventually("no descriptor is kept", lambda: descriptors(pid_of(site)) == before)
    others_are_let_in(crowd)
    no_errors(site)


def test_half_open_connections_under_the_usual_limits(site: Site) -> None:
    """The server lets in 64 strange ones; whoever logged in lately has the other places."""
    site.serve(*limits(*STRICT))
    crowd = Crowd(site, 10)
    before = crowd.at_rest()
    known = [f"127.9.0.{i + 1}" for i in range(short_or_long(10, 50))]
    for i, address in enumerate(known):
        crowd.timed(i % 10, address)
    kinds = ["nothing", "half", "m1", "noise"]
    with flood(site.port, crowd.m1(), kinds, count=HALF_OPEN, rate=500, seconds=60, network=1, hosts=200) as stranger:
        counted = stranger.until_open()
        taken = [crowd.timed(i % 10, known[i % len(known)]) for i in range(short_or_long(40, 500))]
        held = descriptors(pid_of(site)) - before
        counted = stranger.end()
    note("half-open, usual limits: of so many tried", counted["opened"])
    note("half-open, usual limits: held by the server at the end", held)
    percentiles("login from a known address beside them", taken)
    assert held <= 128
    assert counted["closed"] > HALF_OPEN / 2
    eventually("no descriptor is kept", lambda: descriptors(pid_of(site)) == before)
    others_are_let_in(crowd)
    no_errors(site)


def others_are_let_in(crowd: Crowd) -> None:
    """After the flood: from an address that has no good name here yet, and from one of the flood's own."""
    for address in ("127.8.0.1", "127.1.0.2"):
        crowd.timed(0, address)


# many guests ----------------------------------------------------------------------------------------------------------


def test_idle_guests_and_connects(site: Site) -> None:
    """They come, others are served meanwhile, they go; then as many others. No descriptor of them stays.

    The interpreter keeps memory that it once had, in pieces that are not quite empty; the second ones must fit into it.
    """
    count, seconds = short_or_long(150, 2000), short_or_long(2, 60)
    if LONG:
        many_files()
    site.serve()
    crowd, pid = Crowd(site, 2 * count + 3), pid_of(site)
    fds = crowd.at_rest()
    start = resident_kib(pid)
    left = []
    for first in (0, count):
        guests = [crowd.log_in(first + i) for i in range(count)]
        taken, cpu, began = [], cpu_of(pid).loop, time.monotonic()
        with (
            crowd.chat(2 * count, 2 * count + 1) as (a, b),
            flood(
                site.port,
                crowd.m1(),
                ["gone", "nothing", "half", "m1", "noise"],
                count=100_000,
                rate=200,
                seconds=seconds + 30,
                network=2,
            ) as stranger,
        ):
            talked: list[float] = []
            while time.monotonic() < began + seconds:
                taken.append(crowd.timed(2 * count + 2, "127.9.0.1"))
                talk(a, b, len(talked), talked)
            full = resident_kib(pid)
            share = (cpu_of(pid).loop - cpu) / (time.monotonic() - began)
            counted = stranger.end()
        for guest in guests:
            guest.close()
        eventually("no descriptor is kept", lambda: descriptors(pid) == fds, 40)
        left.append(resident_kib(pid))
        where = f"{count:,} idle guests, {counted['opened'] / seconds:.0f} connects a second"
        percentiles(f"{where}: login", taken)
        percentiles(f"{where}: message", talked)
        note(f"{where}: share of a core", share * 100, "%")
        note(f"{where}: memory before, with them, after", f"{start:,} / {full:,} / {left[-1]:,}", "KiB")
        assert counted["opened"] > 100 * seconds
        assert taken
        assert full - start < 10_240 + 50 * count, "KiB: some 25 KiB a guest"
    assert left[1] <= left[0] + max(left[0] // 10, 8192), "KiB: the second time costs nothing more"
    note("memory after the second time, by that after the first", left[1] / left[0])
    no_errors(site)


def talk(a: Session, b: Session, number: int, taken: list[float]) -> None:
    """One message from `a` to `b`, which must be that one."""
    began = time.perf_counter()
    a.send("frwd", said(number))
    while (record := b.next()).verb == b"ping":
        continue
    taken.append(time.perf_counter() - began)
    assert (record.verb, number_of(record.argument)) == (b"frwd", number)


# guests that do not read ----------------------------------------------------------------------------------------------

SMALL_BUFFER = 4096
BIG = 60_000


def test_a_peer_that_does_not_read(site: Site) -> None:
    """Its queue is bounded, its sender is told what was dropped and at last that it is gone; others notice nothing."""
    site.serve(*limits("write_seconds=8"))
    crowd = Crowd(site, 4)
    pid = pid_of(site)
    with crowd.chat(2, 3) as (carol, dave):
        alice = crowd.log_in(0)
        bob = crowd.log_in(1, receive_buffer=SMALL_BUFFER)
        start_chat(alice, bob, os.urandom(16))
        before = resident_kib(pid)
        taken: list[float] = []
        for number in range(200):
            alice.send("frwd", said(number, BIG))
            talk(carol, dave, number, taken)
        alice.send("ping", Echo(b"all seen"))
        refused = 0
        while (record := alice.next()).verb != b"pong":
            assert record.argument[:2] == b"\x00\x0c", "erro 12"
            refused += 1
        grown = resident_kib(pid) - before
        note("peer that does not read: refused of 200 messages of 60 KB", refused)
        percentiles("messages of others meanwhile", taken)
        assert 200 - refused < 150
        assert refused > 0
        assert grown < 20_000, "KiB"
        assert alice.next().verb == b"exch", "after 8 s the peer is gone"
        assert_prefix(bob, 200)
        talk(carol, dave, 200, taken)
        alice.close()
    assert site.server is not None
    site.server.until_err(lambda log: "does not read" in log)
    no_errors(site)


def assert_prefix(session: Session, most: int) -> None:
    """What still comes: messages from the first on, none left out; then the end of a connection that was dropped."""
    number = 0
    try:
        while True:
            record = session.next()
            assert (record.verb, number_of(record.argument)) == (b"frwd", number)
            number += 1
    except OSError:
        session.close()
    assert 0 < number < most


def test_a_guest_that_asks_and_does_not_read_is_sent_away(site: Site) -> None:
    """Replies that find no room end the session, with the reason as its last record."""
    site.serve(*limits("queue_frames=16"))
    crowd = Crowd(site, 3)
    with crowd.chat(0, 1) as (alice, bob):
        rude = crowd.log_in(2, receive_buffer=SMALL_BUFFER)
        rude.sock.settimeout(20)
        asked, taken = 4000, list[float]()
        for batch in range(asked // 100):
            rude.sock.sendall(b"".join(rude.seal(ping(batch * 100 + i)) for i in range(100)))
            talk(alice, bob, batch, taken)
        answered, last = 0, b""
        try:
            while True:
                record = rude.next()
                last, answered = record.verb + record.argument, answered + (record.verb == b"pong")
        except OSError:
            rude.close()
        note("guest that does not read: asked, answered before the goodbye", f"{asked:,} / {answered:,}")
        percentiles("messages of others meanwhile, 100 replies each", taken)
        assert last == b"byee\x04"
        assert answered < asked
        talk(alice, bob, 400, taken)
    no_errors(site)


def ping(number: int) -> Record:
    return make(Kind.REQUEST, number, "ping", Echo(number.to_bytes(8, "big")))


# the end under load ---------------------------------------------------------------------------------------------------


def test_the_server_is_told_to_end_under_load(site: Site) -> None:
    """What it took is delivered, what it did not take was refused; everyone gets the goodbye, strangers too go."""
    drain = short_or_long(4, 60)
    server = site.serve(*limits(f"drain_seconds={drain}", "handshakes=700", "handshakes_crowded=690"))
    pairs, size, most = short_or_long(8, 40), 20_000, 120
    crowd = Crowd(site, 2 * pairs + 2)
    with flood(site.port, crowd.m1(), ["half", "m1"], count=200, rate=2000, seconds=60, network=1) as stranger:
        stranger.until_open()
        talks = []
        for pair in range(pairs):
            a = crowd.log_in(2 * pair)
            b = crowd.log_in(2 * pair + 1, receive_buffer=SMALL_BUFFER)
            start_chat(a, b, os.urandom(16))
            talks.append((a, b))
        deaf = crowd.log_in(2 * pairs, receive_buffer=SMALL_BUFFER)
        for a, _ in talks:
            for number in range(most):
                a.send("frwd", said(number, size))
            a.send("ping", Echo(b"all seen"))
        refused = [set[int]() for _ in talks]
        for (a, _), numbers in zip(talks, refused, strict=True):
            while (record := a.next()).verb != b"pong":
                assert (record.verb, record.argument[:2]) == (b"erro", b"\x00\x0c")
                numbers.add(record.id - (a.number - 1 - most) - 1)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        for (a, b), numbers in zip(talks, refused, strict=True):
            expected = [number for number in range(most) if number not in numbers]
            assert all_until_the_end(b) == (expected, b"\x01")
            assert all_until_the_end(a) == ([], b"\x01")
        assert server.finish(close=False) == 0
        seconds = time.monotonic() - began
        deaf.close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", site.port))
    note(f"SIGTERM with {pairs} chats: messages delivered", sum(most - len(numbers) for numbers in refused))
    note(f"SIGTERM with {pairs} chats: refused before", sum(map(len, refused)))
    note(f"SIGTERM with {pairs} chats: ended after", seconds, "s")
    assert seconds < drain + 10
    assert "stopping; saying goodbye" in server.err


def all_until_the_end(session: Session) -> tuple[list[int], bytes]:
    """The messages, and the reason of the goodbye."""
    numbers = []
    while (record := session.next()).verb == b"frwd":
        numbers.append(number_of(record.argument))
    assert record.verb == b"byee"
    assert session.sock.recv(1) == b"", "the goodbye is the last"
    session.close()
    return numbers, record.argument


def test_raw_is_what_is_sent() -> None:
    """The numbers that these tests look for are where they look."""
    assert isinstance(said(7), Raw)
    assert number_of(said(1 << 40).encode()) == 1 << 40
