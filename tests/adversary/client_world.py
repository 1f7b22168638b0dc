"""Where the cases against the real client happen: its home, what it has shown, what it remembers, what it must hide."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

from adversary.case import Outcome, Seen
from adversary.client_forks import ForkedClient, Forks
from adversary.client_rogue import Plan, Rogue
from interop.base import DER, XL, Identity, ProtocolError, sign, u, vec
from interop.desk import Desk
from interop.peer import Authority, Closed, Server, Session
from interop.programs import PASSPHRASE, RealClient, write_ca
from messageapp.store.home import Home
from support.processes import open_account

__all__ = ["FORGED", "HONEST", "People", "Stage", "make_home"]

FORGED = "FORGED"  # stands in every text and name that must never be shown
HONEST = Plan()


@dataclass(frozen=True)
class People:
    """Ann uses the real client and has pinned and verified Bob; she knows nothing of the others."""

    ann: Identity = field(default_factory=lambda: Identity.make("ann", "ed25519"))
    bob: Identity = field(default_factory=lambda: Identity.make("bob", "ed25519"))
    carl: Identity = field(default_factory=lambda: Identity.make("carl", "ed25519"))
    dora: Identity = field(default_factory=lambda: Identity.make("dora", "ed25519", "mldsa65"))
    mallory: Identity = field(default_factory=lambda: Identity.make("mallory", "ed25519"))
    authority: Authority = field(default_factory=lambda: Authority(path_length=None))


def private_ders(who: Identity) -> list[bytes]:
    return [key.private_bytes(DER, PrivateFormat.PKCS8, NoEncryption()) for key in who.keys]


def key_file(who: Identity) -> bytes:
    """§15, with the cheapest cost a reader takes: a client that starts a hundred times need not be slow to guess."""
    salt, nonce = os.urandom(16), os.urandom(12)
    head = b"MSGAPPK\x01" + u(1, 1) + u(8, 4) + u(1, 4) + u(1, 1) + salt + nonce
    head += vec(who.name.encode(), 1) + vec(who.bundle, 2)
    key = Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=8).derive(PASSPHRASE.encode())
    entries = [u(sign(key, b"", b"")[0], 2) + vec(der, 2) for key, der in zip(who.keys, private_ders(who), strict=True)]
    return head + vec(AESGCM(key).encrypt(nonce, u(len(entries), 1) + b"".join(entries), head), 3)


def make_home(home: Path, people: People, forks: Forks) -> None:
    """A home that has logged in once, with a verified pin of Bob."""
    (home / "identities").mkdir(mode=0o700, parents=True)
    file = home / "identities" / "ann.key"
    file.touch(0o600)
    file.write_bytes(key_file(people.ann))
    with ExitStack() as stack:
        Stage(home, people, forks, stack).good_run("/verify confirm")


class Stage:
    """One home and what happens to it: servers and clients of one case, all ended with `stack`."""

    def __init__(self, home: Path, people: People, forks: Forks, stack: ExitStack) -> None:
        self.home, self.people, self.forks, self.stack = home, people, forks, stack
        self.secrets = [PASSPHRASE.encode(), *private_ders(people.ann)]
        self.clients: list[RealClient] = []
        self.before = self.rows()

    def copied(self, to: str) -> Stage:
        """Another one, in a copy of this home."""
        shutil.copytree(self.home, self.home.with_name(to))
        return Stage(self.home.with_name(to), self.people, self.forks, self.stack)

    @property
    def database(self) -> Path:
        return self.home / "accounts" / "ann" / "account.db"

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """All that the account remembers of peers and servers. `before` is what it should be."""
        if not self.database.exists():
            return {}
        with closing(open_account(Home(self.home), "ann", PASSPHRASE)) as database:
            return {
                table: sorted(database.execute(f"SELECT * FROM {table}"))  # noqa: S608 - our own names
                for table in ("device", "servers", "pins")
            }

    def server(self, plan: Plan = HONEST, **choices: object) -> Rogue:
        people = self.people
        server = Rogue(plan.authority or people.authority, {"ann": people.ann.bundle}, plan.suite, **choices, plan=plan)  # type: ignore[arg-type]
        self.stack.enter_context(server)
        return server

    def client(self, server: Server, *words: object) -> RealClient:
        ca_file = write_ca(self.people.authority, self.home)
        client = self.stack.enter_context(ForkedClient(self.forks, self.home, server.port, ca_file, *words))
        self.clients.append(client)
        return client

    def session(self, server: Server) -> Session:
        session = server.accept()
        self.stack.callback(session.close)
        self.secrets += [*session.secrets.values(), session.exporter]
        self.secrets += [XL(secret, "key", b"") for secret in session.secrets.values()]
        return session

    def logged_in(self, peer: Identity | None = None, **choices: object) -> tuple[RealClient, Desk]:
        server = self.server(**choices)  # type: ignore[arg-type]
        client = self.client(server)
        desk = Desk(self.session(server), peer or self.people.carl, self.people.ann.bundle, server.canonical)
        client.until("User Login Complete!")
        self.before = self.rows()  # the good server is remembered
        return client, desk

    def login(self, plan: Plan) -> Outcome:
        """A client against a server with this plan; it must end by itself. Its input is at its end from the start."""
        server = self.server(plan)
        client = self.client(server, *plan.words)
        assert client.child.stdin is not None
        client.child.stdin.close()
        with suppress(Closed, ProtocolError):
            self.session(server)
        code = client.end()
        return Outcome(Seen.EXIT, code, detail=self.shown())

    def ended_by(self, do: Callable[[RealClient, Desk], None], peer: Identity | None = None) -> Outcome:
        """A good login, then `do`, which must end the client."""
        client, desk = self.logged_in(peer)
        do(client, desk)
        code = client.end()
        return Outcome(Seen.EXIT, code, detail=self.shown())

    def shown(self) -> str:
        """All that the clients have said, prompts among it."""
        return "\n".join(text for client in self.clients for text in (*client.seen, client.complaints()))

    def leaks(self) -> list[str]:
        """What was shown and must not be: secrets in any usual spelling, forged texts, a repeated text, a traceback."""
        shown = self.shown()
        found = [word for word in (FORGED, "Traceback", "\x1b", "\x9b") if word in shown]
        for secret in self.secrets:
            spellings = (secret.hex(), base64.b64encode(secret).decode().rstrip("="), str(secret)[2:-1])
            found += [spelling for spelling in spellings if spelling in shown]
        texts = [line for client in self.clients for line in client.seen if line.startswith("<")]
        return found + sorted({line for line in texts if texts.count(line) > 1})

    def good_run(self, *more: str) -> None:
        """A good server and a good peer: the same home logs in, chats with Bob both ways, and leaves."""
        client, desk = self.logged_in(self.people.bob)
        client.say("chat bob")
        ratchet = desk.called_by_client()
        client.until("CHAT IS SECURE! with bob")
        desk.forward(5, ratchet.text("how are you"))
        client.until("<bob> how are you")
        client.say("well")
        assert ratchet.open(desk.forwarded(5))[3] == b"well"
        client.say(*more, "/exit")
        desk.left()
        client.say("exit")
        desk.exits()
        assert client.end() == 0
        assert not any("KEY CHANGED" in line for line in client.seen)
