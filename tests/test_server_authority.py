"""The authority's successor and its revocation list, from the owner's command to the client that follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec, mldsa

from messageapp.client.client import open_client
from messageapp.client.login import Account
from messageapp.errors import ServerNotAuthenticated, UnusableSetup
from messageapp.server.authority import (
    finish_change,
    load_authority,
    read_key,
    renew_authority,
    renew_crl,
    revoke_certificate,
)
from messageapp.server.setup import OfferSource, prepare_server
from messageapp.store.home import Home, read_public, write_file
from messageapp.wire.frames import FRAME_LIMITS, FrameType
from messageapp.wire.login import ServerOffer
from messageapp_keys import authority
from messageapp_keys.certificate import (
    RENEW_BEFORE,
    certificate_der,
    certificate_pem,
    crl_der,
    load_certificate_untrusted,
    load_crl_untrusted,
    make_ca,
    make_crl,
    private_key_pem,
    verify_chain_untrusted,
)
from messageapp_keys.signing import SignatureAlgorithm
from support.world import SERVER_NAME, World, open_world

NOW = datetime.now(UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def home_with_server(folder: Path) -> tuple[Home, ServerOffer]:
    """Its first authority is on P-256, which is quick to make."""
    home = Home(folder)
    write_file(home.ca_key, private_key_pem(ec.generate_private_key(ec.SECP256R1())))
    return home, prepare_server(home, [SERVER_NAME], NOW)[0]


def offer_of(home: Home) -> ServerOffer:
    return prepare_server(home, [SERVER_NAME], NOW)[0]


def account(world: World, ca: Any, **changes: Any) -> Account:
    """As the command does it: the authority of the first login counts, unless one is named."""
    made = world.account("alice", **changes)
    known = made.trust.known_server(made.server, made.port)
    return replace(made, authority=ca if known is None else load_certificate_untrusted(known.ca_pem))


async def log_in(world: World, who: Account) -> tuple[str, ...]:
    async with open_client(world.connect(), who, world.keys) as client:
        return client.info.news


async def refusal(world: World, who: Account) -> str:
    with pytest.raises(ServerNotAuthenticated) as refused:
        await log_in(world, who)
    return str(refused.value)


# the owner ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("post_quantum", [False, True])
def test_a_renewed_authority_is_reached_from_the_old_one_and_directly(tmp_path: Path, post_quantum: bool) -> None:
    home, first = home_with_server(tmp_path)
    old = load_authority(home)
    told = " ".join(renew_authority(home, NOW, post_quantum=post_quantum))
    new, offer = load_authority(home), offer_of(home)
    assert len(offer.chain) == 3
    assert offer.authority == offer.chain[2] == certificate_der(new)  # what joins get ends in the new one
    assert offer.join_tail == offer.m2_tail
    assert verify_chain_untrusted(offer.chain, old, SERVER_NAME, NOW).successor == new
    assert verify_chain_untrusted(offer.chain, new, SERVER_NAME, NOW).successor is None
    assert (offer.leaf_spki_hash == first.leaf_spki_hash) is not post_quantum
    assert offer.names == first.names  # the first is the one that peers are pinned under
    assert ("--trust-server" in told) is post_quantum
    assert certificate_pem(old).encode() == (home.path / "ca" / "old-1.pem").read_bytes()
    assert not list(home.path.glob("ca/old-*.key"))
    assert not home.ca_next.exists()


def test_an_authority_of_an_earlier_version_can_have_no_successor(tmp_path: Path) -> None:
    home, _ = home_with_server(tmp_path)
    ca_key, ca = make_ca(NOW, "Old", ec.generate_private_key(ec.SECP256R1()))
    builder = authority._builder(ca.subject, ca.subject, ca_key.public_key(), NOW - DAY, NOW + DAY)
    short = authority._as_ca(builder, path_length=0).sign(ca_key, authority._digest_for(ca_key))
    write_file(home.ca_certificate, certificate_pem(short).encode(), replace=True)
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    with pytest.raises(UnusableSetup, match=r"can have no successor .* a new join code or .* connect --ca FILE"):
        renew_authority(home, NOW)
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before


def test_a_change_that_was_interrupted_is_finished_by_whoever_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, first = home_with_server(tmp_path)
    monkeypatch.setattr("messageapp.server.authority.finish_change", lambda home: None)
    renew_authority(home, NOW, post_quantum=True)
    monkeypatch.undo()
    assert home.ca_next.exists()
    (home.ca_next / "ca" / "ca.pem").replace(home.ca_certificate)  # it had begun
    offer = offer_of(home)
    assert not home.ca_next.exists()
    assert len(offer.chain) == 3
    assert offer.leaf_spki_hash != first.leaf_spki_hash
    verify_chain_untrusted(offer.chain, load_authority(home), SERVER_NAME, NOW)
    finish_change(home)


def test_the_list_grows_and_the_old_authority_leaves_a_last_one(tmp_path: Path) -> None:
    home, first = home_with_server(tmp_path)
    old, gone = load_authority(home), load_certificate_untrusted(first.chain[0])
    assert len(renew_crl(home, NOW)) == 0
    revoke_certificate(home, NOW)
    second = load_certificate_untrusted(offer_of(home).chain[0])
    revoke_certificate(home, NOW)
    crl = renew_crl(home, NOW)
    assert {entry.serial_number for entry in crl} == {gone.serial_number, second.serial_number}
    assert crl.next_update_utc is not None
    assert timedelta(days=29) < crl.next_update_utc - NOW <= timedelta(days=30)
    renew_authority(home, NOW, post_quantum=True)
    last = load_crl_untrusted(read_public(home.path / "ca" / "old-1.crl"))
    assert (len(last), last.next_update_utc) == (2, old.not_valid_after_utc)
    assert len(load_crl_untrusted(read_public(home.ca_crl))) == 0
    verify_chain_untrusted(offer_of(home).chain, old, SERVER_NAME, NOW + timedelta(days=300), last)


def test_a_running_server_looks_at_the_files_and_once_an_hour_at_the_dates(tmp_path: Path) -> None:
    home, first = home_with_server(tmp_path)
    clock = [NOW]
    changed = OfferSource(home, [SERVER_NAME], first, lambda: clock[0])
    assert changed() is None
    revoke_certificate(home, NOW)
    offer = changed()
    assert offer is not None
    assert offer.chain == offer_of(home).chain != first.chain
    assert changed() is None
    end = load_certificate_untrusted(offer.chain[0]).not_valid_after_utc
    clock[0] = end - RENEW_BEFORE + HOUR
    renewed = changed()
    assert renewed is not None
    assert load_certificate_untrusted(renewed.chain[0]).not_valid_after_utc > end
    assert renewed.leaf_spki_hash == offer.leaf_spki_hash
    assert changed() is None
    write_file(home.server_certificate, b"junk", replace=True)
    with pytest.raises(UnusableSetup):
        changed()
    assert changed() is None  # said once


def test_a_first_start_with_post_quantum_keys(tmp_path: Path) -> None:
    home = Home(tmp_path)
    offer, _ = prepare_server(home, [SERVER_NAME], NOW, post_quantum=True)
    assert isinstance(offer.key, mldsa.MLDSA65PrivateKey)
    assert offer.sigalg is SignatureAlgorithm.ML_DSA_65
    assert isinstance(load_authority(home).public_key(), mldsa.MLDSA65PublicKey)
    assert "ca renew --pq" not in " ".join(prepare_server(home, [SERVER_NAME], NOW, post_quantum=True)[1])


# the client -----------------------------------------------------------------------------------------------------------


async def test_a_client_follows_and_then_knows_the_new_authority_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    home, first = home_with_server(tmp_path)
    old = load_authority(home)
    with trio.fail_after(60):
        async with open_world(offer=first) as world:
            assert await log_in(world, account(world, old)) == ()
            renew_authority(home, NOW)
            world.server.offer = offer_of(home)
            (line,) = await log_in(world, account(world, old))
            assert "has a successor, signed by the one that you had" in line
            known = account(world, old)
            assert known.authority == load_authority(home)
            world.server.offer = replace(world.server.offer, chain=world.server.offer.chain[:1])
            assert await log_in(world, known) == ()


@pytest.mark.parametrize("fault", ["another key", "another name", "of before"])
async def test_a_forged_third_certificate_changes_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, fault: str
) -> None:
    home, first = home_with_server(tmp_path)
    old = load_authority(home)
    renew_authority(home, NOW)
    good = offer_of(home)
    own_key = ec.generate_private_key(ec.SECP256R1())
    new_key = read_key(home.ca_key)
    forged = {
        "another key": lambda: make_ca(NOW, "MessageApp CA 2", own_key)[1],
        "another name": lambda: make_ca(NOW, "MessageApp CA 3", new_key)[1],
        "of before": lambda: make_ca(NOW - timedelta(days=4000), "MessageApp CA 2", new_key)[1],
    }[fault]()
    with trio.fail_after(60):
        async with open_world(offer=first) as world:
            await log_in(world, account(world, old))
            world.server.offer = replace(good, chain=(*good.chain[:2], certificate_der(forged)))
            assert await log_in(world, account(world, old)) == ()
            assert account(world, old).authority == old
            world.server.offer = good
            assert len(await log_in(world, account(world, old))) == 1


async def test_a_client_that_has_missed_one_is_told_what_to_do(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    home, first = home_with_server(tmp_path)
    old = load_authority(home)
    with trio.fail_after(60):
        async with open_world(offer=first) as world:
            await log_in(world, account(world, old))
            renew_authority(home, NOW)
            renew_authority(home, NOW)
            world.server.offer = offer_of(home)
            assert "messageapp ca show" in await refusal(world, account(world, old))
            by_hand = replace(account(world, old), authority=load_authority(home))
            assert await log_in(world, by_hand) == ()
            assert await log_in(world, account(world, old)) == ()  # and it is kept


async def test_a_list_is_kept_and_asked_at_every_login(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    home, first = home_with_server(tmp_path)
    ca = load_authority(home)
    empty = renew_crl(home, NOW)
    with trio.fail_after(60):
        async with open_world(offer=first) as world:
            await log_in(world, account(world, ca))
            assert await log_in(world, account(world, ca, revoked=empty)) == ()
            revoke_certificate(home, NOW)
            full = renew_crl(home, NOW)
            # Whoever has the old key goes on; without the new list nobody knows.
            await log_in(world, account(world, ca))
            assert "was revoked on" in await refusal(world, account(world, ca, revoked=full))
            assert "was revoked on" in await refusal(world, account(world, ca))  # kept, though it was refused
            world.server.offer = offer_of(home)
            assert "another key than before" in await refusal(world, account(world, ca))
            await log_in(world, account(world, ca, trust_server=True))
            await log_in(world, account(world, ca))
            assert account(world, ca).trust.known_server(SERVER_NAME, 0).crl is not None  # type: ignore[union-attr]
            # With the next authority it goes, and the user is told.
            renew_authority(home, NOW)
            world.server.offer = offer_of(home)
            news = await log_in(world, account(world, ca))
            assert len(news) == 2
            assert "--crl FILE" in news[1]
            assert await log_in(world, account(world, ca, revoked=renew_crl(home, NOW))) == ()


async def test_a_kept_list_that_has_expired_ends_the_login_with_the_remedy(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    home, first = home_with_server(tmp_path)
    ca = load_authority(home)
    expired = make_crl(read_key(home.ca_key), ca, [], NOW - timedelta(days=31))
    with trio.fail_after(60):
        async with open_world(offer=first) as world:
            await log_in(world, account(world, ca))
            who = account(world, ca)
            assert "expired on" in await refusal(world, replace(who, revoked=expired))
            assert await log_in(world, who) == ()  # one that was no good when it was given is not kept
            pin = who.trust.known_server(SERVER_NAME, 0)
            assert pin is not None
            who.trust.pin_server(replace(pin, crl=crl_der(expired)))
            said = await refusal(world, who)
            assert "the revocation list expired on" in said
            assert "messageapp ca crl" in said
            assert "--crl FILE" in said
            assert await log_in(world, replace(who, revoked=renew_crl(home, NOW))) == ()
            assert await log_in(world, who) == ()


async def test_logins_under_post_quantum_certificates_fit(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    home = Home(tmp_path)
    first, _ = prepare_server(home, [SERVER_NAME], NOW, post_quantum=True)
    old = load_authority(home)
    with trio.fail_after(60):
        async with open_world(offer=first) as world:
            await log_in(world, account(world, old))
            renew_authority(home, NOW, post_quantum=True)
            world.server.offer = offer_of(home)
            assert len(world.server.offer.m2_tail) < FRAME_LIMITS[FrameType.M2] // 2 + 1024
            assert "another key than before" in await refusal(world, account(world, old))
            assert len(await log_in(world, account(world, old, trust_server=True))) == 1
            assert await log_in(world, account(world, old)) == ()


async def test_a_running_server_takes_another_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messageapp.server.serve._OFFER_SECONDS", 0.01)
    home, first = home_with_server(tmp_path)
    ca, source = load_authority(home), OfferSource(home, [SERVER_NAME], first)
    given: list[ServerOffer] = []
    asked_again = trio.Event()

    def changed() -> ServerOffer | None:
        if given:
            trio.from_thread.run_sync(asked_again.set)
        given.extend(filter(None, [offer := source()]))
        return offer

    with trio.fail_after(60):
        async with open_world(offer=first, changed_offer=changed) as world:
            await log_in(world, account(world, ca))
            renew_authority(home, NOW)
            await asked_again.wait()
            assert [world.server.offer] == given
            assert len(await log_in(world, account(world, ca))) == 1
