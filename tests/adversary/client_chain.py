"""Certificate chains that a client must not take, all with a right signature by the leaf's key (protocol §3.2)."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from adversary.case import Case, Outcome, Seen
from adversary.client_rogue import Offer, Plan
from adversary.client_world import Stage
from interop.base import DER, PSS, Private, new_private
from interop.peer import Authority

__all__ = ["AN_ISSUER", "CASES", "Cert", "below", "issued_by_the_ca"]

_NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)  # noqa: UP017
_USAGE = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
          "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
HERE = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
Issuer = tuple[x509.Name, Private]


@dataclass(frozen=True)
class Cert:
    """What a certificate says; as it stands it is a good leaf for this host."""

    name: str = "A rogue server"
    names: tuple[x509.GeneralName, ...] = HERE
    eku: tuple[x509.ObjectIdentifier, ...] = SERVER
    usage: tuple[str, ...] | None = ("digital_signature",)
    ca: bool | None = False  # None: no basicConstraints
    begins: float = -1.0  # days from now
    days: float = 90.0


AN_ISSUER = Cert("A rogue CA", (), (), ("key_cert_sign", "crl_sign"), True)


def issue(cert: Cert, key: Private, by: Issuer) -> x509.Certificate:
    name, by_key = by
    begin = _NOW + datetime.timedelta(days=cert.begins)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(cert.name))
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=cert.days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by_key.public_key()), False)
    )
    if cert.ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(cert.ca, None), True)
    if cert.usage is not None:
        usage = {bit: bit in cert.usage for bit in _USAGE}
        builder = builder.add_extension(x509.KeyUsage(**usage), True)
    if cert.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(cert.names)), False)
    if cert.eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(cert.eku)), False)
    return builder.sign(by_key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _root(stage: Stage) -> Issuer:
    authority = stage.people.authority
    return authority.ca.subject, authority.ca_key


def issued_by_the_ca(cert: Cert, kind: str = "p256") -> Callable[[Stage], Plan]:
    def plan(stage: Stage) -> Plan:
        key = new_private(kind)
        return _sends(key, issue(cert, key, _root(stage)))

    return plan


def _sends(key: Private, *chain: x509.Certificate) -> Plan:
    ders = tuple(cert.public_bytes(DER) for cert in chain)
    return Plan(lambda offer: replace(offer, key=key, chain=ders))


def below(*issuers: Cert) -> Callable[[Stage], Plan]:
    """A good leaf below these, the last one issued by the CA."""

    def plan(stage: Stage) -> Plan:
        by, chain = _root(stage), list[x509.Certificate]()
        for number, issuer in enumerate(reversed(issuers)):
            key = new_private("p256")
            named = replace(issuer, name=f"{issuer.name} {number}")
            chain.insert(0, issue(named, key, by))
            by = (_named(named.name), key)
        key = new_private("p256")
        return _sends(key, issue(Cert(), key, by), *chain)

    return plan


def _of_another_ca(same_name: bool, with_root: bool) -> Callable[[Stage], Plan]:
    def plan(stage: Stage) -> Plan:
        other = Authority("p256")
        name = other.ca.subject if same_name else _named("Another CA")
        key = new_private("p256")
        root = [other.ca] if with_root else []
        return _sends(key, issue(Cert(), key, (name, other.ca_key)), *root)

    return plan


def _self_signed(stage: Stage) -> Plan:
    key = new_private("p256")
    return _sends(key, issue(Cert(), key, (_named(Cert.name), key)))


def _the_ca_itself(stage: Stage) -> Plan:
    authority = stage.people.authority
    return _sends(authority.ca_key, authority.ca)


def _curve(curve: ec.EllipticCurve) -> Callable[[Stage], Plan]:
    def plan(stage: Stage) -> Plan:
        key = ec.generate_private_key(curve)
        return _sends(key, issue(Cert(), key, _root(stage)))

    return plan


def _ed25519_as_rsa(stage: Stage) -> Plan:
    """Under a signature algorithm that is offered, so that only the leaf tells."""
    key = new_private("ed25519")
    leaf = issue(Cert(), key, _root(stage)).public_bytes(DER)
    return Plan(lambda offer: replace(offer, key=key, chain=(leaf,), sigalg=PSS))


def _garbled(*chain: bytes) -> Callable[[Stage], Plan]:
    def offer(offer: Offer) -> Offer:
        return replace(offer, chain=chain)

    return lambda _: Plan(offer)


def _changed_leaf(stage: Stage) -> Plan:
    """A bit of the CA's signature is another."""
    authority = stage.people.authority
    leaf = bytearray(authority.leaf.public_bytes(DER))
    leaf[-1] ^= 1
    return Plan(lambda offer: replace(offer, chain=(bytes(leaf),)))


def _case(name: str, line: str, plan: Callable[[Stage], Plan], text: str) -> Case[Stage]:
    return Case(f"chain/{name}", line, lambda stage: stage.login(plan(stage)), Outcome(Seen.EXIT, 3, detail=text))


_ELSEWHERE = (x509.DNSName("elsewhere.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.2")))
_NAMED_AS_TEXT = (x509.DNSName("127.0.0.1"),)
_KEY = "the certificate's key is not RSA of 2048 to 4096 bits, P-256 or ML-DSA-65"
_RULE = "breaks a rule of X.509"

CASES: tuple[Case[Stage], ...] = (
    _case("expired", "m2-chain-time", issued_by_the_ca(Cert(begins=-91)), "the certificate expired on"),
    _case("not-yet-valid", "m2-chain-time", issued_by_the_ca(Cert(begins=1)), "the certificate is not valid before"),
    _case("issuer-expired", "m2-chain-time", below(replace(AN_ISSUER, begins=-91)), "expired on"),
    _case("398-days-and-a-second", "m2-chain-time", issued_by_the_ca(Cert(days=398 + 1 / 86400)), "more than 398"),
    _case("other-ca", "m2-chain-ca", _of_another_ca(False, False), "was issued by 'Another CA', not by"),
    _case("other-ca-of-the-same-name", "m2-chain-ca", _of_another_ca(True, False), "is not signed by the CA of that"),
    _case("other-ca-with-its-root", "m2-chain-ca", _of_another_ca(True, True), "is not signed by the CA of that"),
    _case("self-signed", "m2-chain-ca", _self_signed, "the certificate is issued by itself"),
    _case("signature-changed", "m2-chain-ca", _changed_leaf, "is not signed by the CA of that"),
    _case("issuer-ca-false", "m2-chain-ca", below(replace(AN_ISSUER, ca=False)), "may not issue certificates"),
    _case("issuer-no-constraints", "m2-chain-ca", below(replace(AN_ISSUER, ca=None)), "may not issue certificates"),
    _case("issuer-may-not-sign", "m2-chain-ca", below(replace(AN_ISSUER, usage=("crl_sign",))), _RULE),
    _case("issuer-not-sent", "m2-chain-ca", lambda stage: _without_issuer(stage), "not by 'An interop CA'"),
    _case("the-ca-itself", "m2-chain-ca", _the_ca_itself, "the certificate names no server"),
    _case("four-long", "m2-chain-ca", below(AN_ISSUER, AN_ISSUER, AN_ISSUER), "the server's answer is not valid"),
    _case("none", "m2-chain-ca", _garbled(), "the server's answer is not valid"),
    _case("unreadable", "m2-chain-ca", _garbled(b"\x30\x03\x02\x01\x00"), "the certificate cannot be read"),
    _case("empty", "m2-chain-ca", _garbled(b""), "the certificate cannot be read"),
    _case("other-name", "m2-chain-name", issued_by_the_ca(Cert(names=_ELSEWHERE[:1])), "not for 127.0.0.1"),
    _case("other-ip", "m2-chain-name", issued_by_the_ca(Cert(names=_ELSEWHERE[1:])), "not for 127.0.0.1"),
    _case(
        "ip-as-dns-name", "m2-chain-name", issued_by_the_ca(Cert(names=_NAMED_AS_TEXT)), "no matching subjectAltName"
    ),
    _case("name-in-the-subject-only", "m2-chain-name", issued_by_the_ca(Cert("127.0.0.1", ())), "names no server"),
    _case("no-eku", "m2-chain-name", issued_by_the_ca(Cert(eku=())), "no extended key usage"),
    _case("client-eku", "m2-chain-name", issued_by_the_ca(Cert(eku=(ExtendedKeyUsageOID.CLIENT_AUTH,))), "another use"),
    _case("no-digital-signature", "m2-key-usage", issued_by_the_ca(Cert(usage=("key_agreement",))), "key usage"),
    _case("leaf-may-issue", "m2-key-usage", issued_by_the_ca(Cert(ca=True)), _RULE),
    _case("ed25519", "m2-leaf-key", _ed25519_as_rsa, _KEY),
    _case("p384", "m2-leaf-key", _curve(ec.SECP384R1()), _KEY),
    _case("rsa-1024", "m2-leaf-key", issued_by_the_ca(Cert(), "rsa1024"), _KEY),
)


def _without_issuer(stage: Stage) -> Plan:
    offer = below(AN_ISSUER)(stage).offer

    def leaf_alone(made: Offer) -> Offer:
        changed = offer(made)
        return replace(changed, chain=changed.chain[:1])

    return Plan(leaf_alone)
