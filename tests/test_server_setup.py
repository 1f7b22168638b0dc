"""The server's own keys: what the first start makes, and what later ones keep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from messageapp.server.setup import make_offer, prepare_server
from messageapp.store.home import Home, write_file
from messageapp.wire.messages import M2Core
from messageapp_keys.certificate import load_certificate_untrusted, load_private_key_pem, private_key_pem
from messageapp_keys.signing import SignatureAlgorithm
from support.keys import LEAF_KINDS, leaf, rsa_key

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_the_first_start_makes_a_p256_key_for_the_server(tmp_path: Path) -> None:
    home = Home(tmp_path)
    offer, _ = prepare_server(home, [], NOW)
    key = load_private_key_pem(home.server_key.read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert (offer.sigalg, offer.key.public_key()) == (SignatureAlgorithm.ECDSA_P256, key.public_key())
    assert isinstance(load_private_key_pem(home.ca_key.read_bytes()), rsa.RSAPrivateKey)


def test_a_home_with_an_rsa_key_keeps_it_also_when_the_certificate_is_renewed(tmp_path: Path) -> None:
    """Clients have pinned it."""
    home = Home(tmp_path)
    write_file(home.server_key, private_key_pem(rsa_key("leaf")))
    first, told = prepare_server(home, [], NOW)
    assert "made a server certificate" in " ".join(told)
    renewed, told = prepare_server(home, [], NOW + timedelta(days=390))
    assert "renewed the server certificate" in told[0]
    assert renewed.chain != first.chain
    for offer in (first, renewed):
        assert offer.sigalg is SignatureAlgorithm.RSA_PSS
        assert offer.leaf_spki_hash == first.leaf_spki_hash
        assert offer.key.public_key() == rsa_key("leaf").public_key()
    certificate = load_certificate_untrusted(home.server_certificate.read_bytes())
    assert certificate.public_key() == rsa_key("leaf").public_key()


@pytest.mark.parametrize("kind", LEAF_KINDS)
def test_what_is_made_once_is_what_each_m2_would_say(kind: str) -> None:
    key, certificate = leaf(kind)
    offer = make_offer(certificate, key)
    head = bytes(32) + bytes.fromhex("0002 0003 00000000 0003") + b"key"
    core = M2Core(bytes(32), 2, 3, b"key", offer.chain, offer.sigalg)
    assert core.encode() == head + offer.m2_tail
    assert all(offer.is_ours(spelling(name)) for name in offer.names for spelling in (str, str.upper, str.lower))
    assert not offer.is_ours("elsewhere.example")
    assert "m2_tail" not in repr(offer)
