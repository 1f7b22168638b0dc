"""Two clients chat and leave each other messages; then every byte of every file of their homes is looked through."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from messageapp.store.home import Home, write_file
from messageapp.store.identities import find_identity, unseal
from messageapp.store.users import add_user
from messageapp_keys.identity import PrivateIdentity
from support.processes import PASSPHRASE, Program, Site, open_account, open_site, save

OWN, PEER = "alice", "barnabas"
SPOKEN = "the meeting is at the old mill"
LEFT = "bring the green umbrella"
ANSWER = "only when it rains there"
SHORT = 12  # bytes: a shorter value may turn up by chance


class Two:
    """A server, and two clients that each have a home of their own."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.site = site
        self.homes = {name: Home(folder / name) for name in (OWN, PEER)}
        for name, home in self.homes.items():
            identity = PrivateIdentity.generate("ed25519")
            save(home, name, identity)
            site.tell_directory(add_user, name, identity.bundle, 0)
            write_file(home.ca_certificate, site.home.ca_certificate.read_bytes())

    def client(self, name: str) -> Program:
        return self.site.client(name, home=self.homes[name].path)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with open_site(tmp_path / "site") as site:
        yield Two(tmp_path, site)


def files(home: Home) -> dict[str, bytes]:
    return {str(path.relative_to(home.path)): path.read_bytes() for path in home.path.rglob("*") if path.is_file()}


def secrets(home: Home, name: str) -> dict[str, bytes]:
    """Every value of every table, and the keys that open them; but for what the head of the identity says of itself."""
    found = {"passphrase": PASSPHRASE.encode()}
    identity = unseal(find_identity(home, name), PASSPHRASE)
    for number, (_, der) in enumerate(identity.pkcs8()):
        found[f"private key {number}"] = der[-32:]
    with closing(open_account(home, name)) as database:
        listed = database.execute("SELECT name FROM pragma_table_list WHERE type = 'table' AND schema = 'main'")
        for (table,) in listed.fetchall():
            for row_number, row in enumerate(database.execute(f"SELECT * FROM {table}")):  # noqa: S608
                for column, value in enumerate(row):
                    data = value.encode() if isinstance(value, str) else value
                    if isinstance(data, bytes) and len(data) >= SHORT and data not in identity.bundle.encode():
                        found[f"{table}, row {row_number}, column {column}"] = data
    return found


def assert_unreadable(home: Home, name: str, peer: str, *texts: str) -> None:
    names = {"the peer": peer.encode(), "the server": b"localhost", "a schema": b"CREATE TABLE", "SQLite": b"SQLite f"}
    wanted = {**names, **{text: text.encode() for text in texts}, **secrets(home, name)}
    for place, data in files(home).items():
        if place == "ca/ca.pem":  # what every user of the server has
            continue
        for what, value in wanted.items():
            for form in (value, value.hex().encode(), base64.b64encode(value)[: len(value) // 3 * 4]):
                assert form not in data, f"{what} in {place}"
            if what in texts or what in names:
                assert value.decode().encode("utf-16-le") not in data, f"{what} in {place}, in UTF-16"
        for word in peer, *texts:
            assert word.encode() not in data.lower(), f"{word} in {place}, in lower case"


def test_nothing_of_a_chat_can_be_read_on_disk(two: Two) -> None:
    """Neither while the clients run, nor after one was killed and the other has ended."""
    two.site.serve()
    alice, barnabas = two.client(OWN), two.client(PEER)
    two.site.chat(alice, OWN, barnabas, PEER)
    alice.send(SPOKEN)
    barnabas.until(f"<{OWN}> {SPOKEN}")
    barnabas.send(ANSWER)
    alice.until(f"<{PEER}> {ANSWER}")
    assert_unreadable(two.homes[OWN], OWN, PEER, SPOKEN, ANSWER)
    alice.process.kill()
    alice.process.wait()
    assert barnabas.finish() == 0
    assert_unreadable(two.homes[OWN], OWN, PEER, SPOKEN, ANSWER)
    assert_unreadable(two.homes[PEER], PEER, OWN, SPOKEN, ANSWER)


def test_nothing_of_a_message_that_was_left_can_be_read_on_disk(two: Two) -> None:
    """Nor in the files of the server; neither before it is fetched nor afterwards."""
    two.site.serve()
    two.client(PEER).finish()  # his prekeys are there now
    alice = two.client(OWN)
    alice.send(f"msg {PEER} {LEFT}", "pending")
    alice.until(f"#1 to {PEER}")
    assert_unreadable(two.homes[OWN], OWN, PEER, LEFT)
    for place, data in files(two.site.home).items():
        assert LEFT.encode() not in data, place
    barnabas = two.client(PEER)
    barnabas.until(f"<{OWN}> {LEFT}")
    barnabas.send(f"msg {OWN} {ANSWER}")
    alice.until(f"<{PEER}> {ANSWER}")
    assert (alice.finish(), barnabas.finish()) == (0, 0)
    for own, peer in ((OWN, PEER), (PEER, OWN)):
        assert_unreadable(two.homes[own], own, peer, LEFT, ANSWER)
        with closing(open_account(two.homes[own], own)) as database:  # where it is
            texts = database.execute("SELECT text FROM messages ORDER BY number").fetchall()
            assert texts == [(LEFT,), (ANSWER,)]
