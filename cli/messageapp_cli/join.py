"""`messageapp join CODE`: from a join code to the prompt."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import click

from messageapp.clock import wall_ms

from .connect import RSA_POOL, converse, has_terminal, reconnect_option
from .options import UsernameType, ask_passphrase, home_option, passphrase_option

__all__ = ["join"]

_ASKED: Final = 200  # characters that are read of a name


@click.command()
@click.argument("code", nargs=-1, required=True)
@click.option("--user", type=UsernameType(), help="Your name there, where the code leaves you the choice.")
@click.option("--plain", is_flag=True, help="Commands from stdin, lines to stdout, no escape sequences; for scripts.")
@reconnect_option
@click.option("--pq", is_flag=True, help="A new identity has an ML-DSA-65 key as well.")
@click.option("--trust-server", is_flag=True, help="Accept that the server has another key or name than before.")
@passphrase_option
@home_option
def join(
    code: tuple[str, ...],
    user: str | None,
    plain: bool,
    reconnect: bool | None,
    pq: bool,
    trust_server: bool,
    passphrase_file: str | None,
    home: Any,
) -> int:
    """Join the server that CODE is for, and chat.

    Makes an identity (or takes the one of that name), checks by the code alone that it is the right server, and enrols.
    """
    import trio

    from messageapp.client.login import Account
    from messageapp.client.trust import Trust
    from messageapp.errors import UnusableSetup
    from messageapp.wire.joining import Invitation
    from messageapp_keys.joincode import JoinCode, MistypedCode

    from .hardening import forbid_core_dumps

    forbid_core_dumps()
    try:
        parsed = JoinCode.parse_untrusted(" ".join(code))
    except MistypedCode as error:
        raise UnusableSetup(str(error)) from None
    name = _choose_name(home, parsed.username, user)
    candidate = _Candidate.find(home, name, passphrase_file) or _Candidate.make(home, name, passphrase_file, pq=pq)
    with candidate.database() as database:
        account = Account(
            user=name,
            identity=candidate.identity,
            authority=Invitation.of(parsed),
            trust=Trust(database, name, candidate.identity.bundle, wall_ms),
            server=parsed.host,
            port=parsed.port,
            trust_server=trust_server,
            on_proved=candidate.save,
        )
        plain = plain or not has_terminal()
        return trio.run(_join, account, candidate, plain, not plain if reconnect is None else reconnect)


async def _join(account: Any, candidate: _Candidate, plain: bool, reconnect: bool) -> int:
    from messageapp.client.client import open_client
    from messageapp.client.login import dial
    from messageapp.errors import JoinRefused, MessageAppError
    from messageapp.keypool import open_pool

    from .main import complain
    from .reconnect import returning

    joined = False
    async with open_pool(RSA_POOL) as pool:

        @asynccontextmanager
        async def opening() -> AsyncIterator[Any]:
            nonlocal account, joined
            stream = await dial(account.server, account.port)
            async with open_client(stream, account, pool) as client:
                if not joined:
                    joined = True
                    complain(f"joined as {account.user}; from now on: {_login_of(account, candidate.home)}")
                account = returning(account)
                yield client

        try:
            return await converse(opening, plain=plain, reconnect=reconnect)
        except JoinRefused:
            candidate.take_away()
            raise
        except MessageAppError:
            if candidate.saved and not joined:
                complain(f"the identity {account.user} is kept: the server may have enrolled it. Try the code again")
            raise


def _login_of(account: Any, home: Any) -> str:
    """The command line of the next login, from the same folder and for the same shell."""
    from messageapp.store.identities import list_identities

    words = ["messageapp", "connect", account.server, str(account.port)]
    given = click.get_current_context().get_parameter_source("home")
    words += ["--home", str(home.path)] if given is click.core.ParameterSource.COMMANDLINE else []
    words += ["--user", account.user] if len(list_identities(home)) > 1 else []
    return shlex.join(words)


@dataclass
class _Candidate:
    """An identity that wants to join. A new one is on disk before the server can enrol it."""

    home: Any
    name: str
    identity: Any
    key: Any = None  # of the account's database, unless it is a new one
    passphrase: str = field(default="", repr=False)  # of a new one
    sealed: bytes = b""  # of a new one
    saved: bool = False
    new_account: bool = False

    @classmethod
    def find(cls, home: Any, name: str, passphrase_file: str | None) -> _Candidate | None:
        from messageapp.errors import LoginRefused, UnusableSetup
        from messageapp.store.accounts import unlock
        from messageapp.store.identities import find_identity

        if not home.identity(name).exists():
            return None
        sealed = find_identity(home, name)
        if sealed.user != name:
            raise UnusableSetup(f"this home has an identity {sealed.user}, and the server would know you as {name}")
        try:
            return cls(home, name, *unlock(home, sealed, ask_passphrase(passphrase_file, f"passphrase for {name}")))
        except LoginRefused:
            raise LoginRefused(
                f"this home has an identity {name} already, with another passphrase; give that one, or join with "
                "another --user or --home"
            ) from None

    @classmethod
    def make(cls, home: Any, name: str, passphrase_file: str | None, *, pq: bool) -> _Candidate:
        from messageapp_keys.identity import PrivateIdentity
        from messageapp_keys.keystore import seal_identity

        passphrase = ask_passphrase(passphrase_file, f"new passphrase for {name}", twice=True)
        identity = PrivateIdentity.generate(post_quantum=pq)
        return cls(home, name, identity, None, passphrase, seal_identity(name, identity, passphrase))

    @contextmanager
    def database(self) -> Iterator[Any]:
        """The account's, as its only client."""
        from messageapp.store.accounts import database_key, open_account_database
        from messageapp.store.lock import locked_account

        with locked_account(self.home, self.name):
            places = (self.home.account_key(self.name), self.home.account(self.name), self.home.trust(self.name))
            self.new_account = not any(path.exists() for path in places)
            try:
                key = self.key or database_key(self.home, self.name, self.passphrase)
                with closing(open_account_database(self.home, self.name, key)) as database:
                    yield database
            finally:
                if self.sealed and not self.saved:
                    self._forget_account()

    def save(self) -> None:
        """When the server has proved itself, and before it is told anything."""
        from messageapp.store.home import write_file

        if self.sealed:
            write_file(self.home.identity(self.name), self.sealed)
            self.saved = True

    def take_away(self) -> None:
        """The server has not enrolled it, for certain."""
        if self.saved:
            self.home.identity(self.name).unlink(missing_ok=True)
            self.saved = False

    def _forget_account(self) -> None:
        if self.new_account:
            with suppress(OSError):
                shutil.rmtree(self.home.account_folder(self.name))


def _choose_name(home: Any, invited: str, user: str | None) -> str:
    """That of the code, of --user, or what is typed; where nobody can be asked, this machine's name for the user."""
    from messageapp.errors import UnusableSetup
    from messageapp_keys.names import BadUsername, check_username

    if invited and user not in (None, invited):
        raise UnusableSetup(f"this join code is for {invited}, not for {user}")
    if chosen := invited or user:
        return chosen
    usual = _usual_name(home)
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(f"your name there{f' [{usual}]' if usual else ''}: ".encode())
            typed = terminal.readline(_ASKED).decode("utf-8", "replace").strip()
    except OSError:
        typed = ""
    if not (typed or usual):
        raise UnusableSetup("this join code leaves you the choice of a name: --user NAME")
    try:
        return check_username(typed or usual)
    except BadUsername as error:
        raise UnusableSetup(str(error)) from None


def _usual_name(home: Any) -> str:
    """That of the only identity here, or else of the account on this machine; "" where it cannot be one."""
    import getpass

    from messageapp.store.identities import list_identities
    from messageapp_keys.names import is_username

    found = list_identities(home)
    if len(found) == 1:
        return str(found[0].user)
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        return ""
    return name if is_username(name) else ""
