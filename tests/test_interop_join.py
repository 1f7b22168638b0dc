"""The second implementation joins the real server by a code that it reads itself, and is told why where it may not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from interop.base import HYBRID, SWIFT, Identity, ProtocolError
from interop.calls import secure, talk
from interop.joining import Code, joining
from interop.peer import Login, Session, log_in
from interop.programs import RealServer, run

KINDS = {"kim": ("rsa2048",), "lea": ("ed25519",), "max": ("rsa2048", "mldsa65")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("server")) as made:
        yield made


def invite(server: RealServer, *words: object) -> Code:
    return Code.read(run("invite", "--no-qr", *words, "--home", server.home).strip())


def join(server: RealServer, code: Code, me: Identity, **choices: object) -> Session:
    login = Login(me, server.ca, server=code.host, **{"suites": (HYBRID, SWIFT), **choices})  # type: ignore[arg-type]
    return log_in(code.port, joining(login, code))


def test_a_code_says_what_the_protocol_says(server: RealServer) -> None:
    code = invite(server, "kim")
    assert (code.host, code.port, code.name) == ("127.0.0.1", server.port, "kim")
    assert code.authority == hashlib.sha256(server.ca.public_bytes(Encoding.DER)).digest()


def test_people_join_talk_and_come_back(server: RealServer) -> None:
    people = [Identity.make(name, *kinds) for name, kinds in KINDS.items()]
    code = invite(server, "--uses", 3)
    for number, person in enumerate(people, 1):
        session = join(server, code, person)
        session.close()
        origin, size, _ = session.tlvs[3].split(b"\n", 2)
        assert (origin, size) == (session.tlvs[5][1:] + b"/msgapp-keys", b"%d" % number), "the own leaf is in"
    # Not at once: a log that grows is told to everybody, between two lines of a talk too.
    one, other = (log_in(server.port, Login(person, server.ca)) for person in people[:2])
    try:
        talk(one, other, secure(one, other, *people[:2]))
    finally:
        one.close()
        other.close()
    with pytest.raises(ProtocolError, match="M4 says erro 001f"):
        join(server, code, Identity.make("ned", "ed25519"))


def test_each_refusal_has_its_number(server: RealServer) -> None:
    owner, other = Identity.make("ola", "ed25519"), Identity.make("ola", "ed25519")
    code = invite(server, "ola")
    join(server, code, owner).close()
    join(server, code, owner).close()  # the same keys again: the answer may have been lost
    with pytest.raises(ProtocolError, match="M4 says erro 001f"):
        join(server, code, other)
    with pytest.raises(ProtocolError, match="M4 says erro 0021"):
        join(server, invite(server), other)
    with pytest.raises(ProtocolError, match="M4 says erro 0022"):
        join(server, invite(server, "pia"), other)
    revoked = invite(server)
    run("invite", "revoke", revoked.id.hex(), "--home", server.home)
    with pytest.raises(ProtocolError, match="M4 says erro 0020"):
        join(server, revoked, Identity.make("pia", "ed25519"))
    again = Code.read(run("user", "reset", "ola", "--home", server.home).strip())
    join(server, again, other).close()
    log_in(server.port, Login(other, server.ca)).close()
