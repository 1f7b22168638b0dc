"""Server certificates: what is made, what is accepted, every reason for a refusal, and bytes of a stranger."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp_keys import certificate_diagnosis
from messageapp_keys.certificate import (
    CertificateRefused,
    Refusal,
    ServerLeaf,
    can_have_successor,
    certificate_der,
    certificate_pem,
    crl_pem,
    cross_sign,
    describe,
    leaf_names,
    load_certificate_untrusted,
    load_crl_untrusted,
    load_private_key_pem,
    make_ca,
    make_crl,
    make_server_certificate,
    needs_renewal,
    private_key_pem,
    spki_hash,
    verify_chain_untrusted,
)
from messageapp_keys.signing import PrivateKey, sign

# The chain of the published login vector `classic`: 398 days, no key usage, no subject key identifier.
VECTOR_ROOT = base64.b64decode(
    """
MIID5jCCAk6gAwIBAgIBATANBgkqhkiG9w0BAQsFADASMRAwDgYDVQQDDAdUZXN0IENBMCAXDTI1MTIzMTAwMDAwMFoYDzIxMjUxMjA4MDAwMDAw
WjASMRAwDgYDVQQDDAdUZXN0IENBMIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEAnflS/KOch/NAwfxetP1pm6bQeeYyYZhRy6z4gjpA
m0VL0Lzw6HJe9ORI1J3Io7kDNqFEzsu12jZ6YWOkdnS1jEt4ubdkdxB8cFkKevc0pf1CLOcYEBfXkpHHpOfo9ZNAPwBAPiYoNsIZ+k2bPyYgzckW
VSMh07f9W7JgJpKLi1lQHRJbUGF+Ch8hAGKoanaz/jE3kaGEYSbzwx5PLtWS59lP9Ul1XnoItT/8wXZznakc/wb7b3zu7dIcJrMrFKHHkoM2o5Yb
Ghu38S8Ni2tBpnlhhuX9KjP3+BrGy1cexqTKAFA7C0V100RhMiMQOr7Enuj6UjY9mCiWmN78Gv0VblVJfRQ4vF88bfwz0lZ+Yo30qInTU+sNTXl+
x6sJlzKL2NKQ649o+QNIpMCTAzi1CE/LOzwZF9wKFfGkcdKomKS1zEhPg707zCHRgIEydww5wcNvqHUc2gWXIGJiSowvnd56SEcCcbBC4MVfcb0j
2I9Rcsqt2hzrrKw6RNmlBlD3AgMBAAGjRTBDMBIGA1UdEwEB/wQIMAYBAf8CAQAwDgYDVR0PAQH/BAQDAgEGMB0GA1UdDgQWBBRpRvGCpoAvmTzE
yY9sDinvWmnMOTANBgkqhkiG9w0BAQsFAAOCAYEAbORw+AgZ8IBo3SzJCIQXvuhC/o54/QGusVXqDemSBc4d4Mmm77MfU7jTuAtVzhbqa3fPu//N
4H6CsQ0RDs63BiixUYYb0lA1Iaad0F9SKjgyHB4u/T6WehgbeUwIm+6H1F5PaYSlhJxRpG/TxGOHgiZLu8Wfg+hbHoNVMBvQKh/iwe6M7stPUEle
8NircluoTbfbDpC3FFrrMfOV8EE0PQ0ayIX0U6l5X2+Mn4DTWJ2OWcVtUvEjgCmCaK063lrUvnHU+XsDGMo6ZgYkaBzHt5HLQWpICem1BfH98WjK
XuNmvaKUwrn7HywEn/y7tN09V2wzfCPvKWo675Q/ZJMzFKmo0SwrYaZydhXLe7w6UZaO3v8rVKEB9vdWJA58Rnag9/95tA0c+A4DvYTbAvV8nZoE
BsSLrzMJL2U7S9s86PpjPoFl3XhuLplDTAuy7dU7vbssaqzjKFOeXJXBWrUAhWP9Xqc/N1KO6U79PSjaQsa9EGdp7V8WOvvzce5cyn6T
    """
)
VECTOR_LEAF = base64.b64decode(
    """
MIID6zCCAlOgAwIBAgIBAjANBgkqhkiG9w0BAQsFADASMRAwDgYDVQQDDAdUZXN0IENBMB4XDTI1MTIzMTAwMDAwMFoXDTI3MDIwMjAwMDAwMFow
FTETMBEGA1UEAwwKTWVzc2FnZUFwcDCCAaIwDQYJKoZIhvcNAQEBBQADggGPADCCAYoCggGBAL4XPdiWy5sbUDA16Nr8cicIx6BmW1KjgPIiOgMf
iYPO47JpvgWdjciRlXVuk+AED3TX/cMm9KDpTxLzQPeQc+f/DL6CJ9JF/mqamQYT8/ZvsTKB1SU2+CBF/OVMJJKc1mf2V2ii7bjFN0wImHBVC73D
9SUhwZ3NjtgpPWuX8tjFzuTjJTzGpe7NUccbS+o7p1tGCHmWDcvt4Fnfi6OavPo+NjIGqXoNUY1sdLQ6hrFK5f7CWE8AnjfWB203/cQZ3gDw/96B
2vpXb2V8U/emv/rA7zn1wU0zLCUBPXjWXNRaRuhaYekZtrueZg5ORk3gZrI5ELhoO/NOG7A9oYElqVCmMFf50ISqJkZGN5Tw3WqopG5/UxP0mqXk
wgP7mpDWRHZ/8Z6wP/mXNbqv/SGr6o1DYMH94nmF95ssQO5rCggvRPfYPFgHOfcajbG2eb1CpKr3xyaowBqtZIUoyryBvFX1HdTVx1s2qQ5J6IWC
rCt6GmtWq+azN7d178x8x3cVvwIDAQABo0kwRzAPBgNVHREECDAGhwR/AAABMBMGA1UdJQQMMAoGCCsGAQUFBwMBMB8GA1UdIwQYMBaAFGlG8YKm
gC+ZPMTJj2wOKe9aacw5MA0GCSqGSIb3DQEBCwUAA4IBgQCZcKNcwQiaOPM10N2h6ukl7E07ilfs7gqArwK+9MGpa69j+jFQnJiTWcbJ7JgghyJ7
Nf7F5go6OuNntFVQjytDgwPNCpwgTJsgz6ltAOKrPVnEGeJHfBFs/keaFcSusPScg6fIFWDCuA4Q2lqUz4aDYzTb8aDBChZblg87SwId2To3h0NM
lgKsaU8J9Wxa+APFGy4srzVLkP8XlrIxvZJoG29zdLLgwSBN7sT7tBTfNLU5izK1l8IOAIyYhgTE+A/rhORpA+j9s8cheeanXmcqR+U+M1OK327D
kKiesDFYO39GdT693veDNufoLPZwexvpTnBCQAbSC2HcWhU8uY1/N/bJNQwBEkwUWx/ZRVig3ItV5KVrfpXfDEO0l3kyNEfwOtm2Q/k9Uh54jXze
FM5MrW1PmnHiqCMHPYS2RjqL32mfBB4WDtH24gdzJdD7Dsw6ByrKkJnHDIzO/zC9Sq0+JKVAJWsw5TmhJE/Tut04uUEn0F29QvZV6lIjtfMf8No=
    """
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NAMES = ["localhost", "127.0.0.1", "::1", "chat.example"]
SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


@cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ca(name: str = "MessageApp CA", number: int = 0) -> tuple[PrivateKey, x509.Certificate]:
    return make_ca(NOW - DAY, name, rsa_key(number))


@cache
def leaf_key(kind: str = "p256") -> PrivateKey:
    if kind == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "mldsa65":
        return mldsa.MLDSA65PrivateKey.generate()
    return rsa_key(1)


@cache
def good_leaf() -> x509.Certificate:
    return make_server_certificate(*ca(), NAMES, NOW, leaf_key())[1]


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(**given: bool) -> x509.KeyUsage:
    fields = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    fields += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{field: given.get(field, False) for field in fields})


def issue(
    *,
    issuer: tuple[PrivateKey, x509.Certificate] | None = None,
    key: Any = None,
    subject: str = "chat.example",
    start: datetime = NOW - HOUR,
    end: datetime = NOW + 90 * DAY,
    names: Sequence[x509.GeneralName] | None = (x509.DNSName("chat.example"),),
    eku: x509.ExtendedKeyUsage | None = SERVER_AUTH,
    key_usage: x509.KeyUsage | None = None,
    is_ca: bool = False,
    extra: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    """A certificate with any one thing wrong."""
    issuer_key, issuer_cert = issuer or ca()
    key = key or leaf_key()
    builder = x509.CertificateBuilder(
        issuer_cert.subject, name_of(subject), key.public_key(), x509.random_serial_number(), start, end
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_cert.public_key()),  # type: ignore[arg-type]
        critical=False,
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if eku is not None:
        builder = builder.add_extension(eku, critical=False)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    for extension in extra:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def open_ca(key: PrivateKey | None = None) -> tuple[PrivateKey, x509.Certificate]:
    """A root that may have CAs below it (ours may not)."""
    key = key or rsa_key()
    builder = x509.CertificateBuilder(
        name_of("root"), name_of("root"), key.public_key(), 1, NOW - DAY, NOW + 3000 * DAY
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return key, builder.sign(key, hashes.SHA256())


def below(
    issuer: tuple[PrivateKey, x509.Certificate], subject: str, *, number: int, **changes: Any
) -> tuple[PrivateKey, x509.Certificate]:
    key = rsa_key(number)
    changes = {"is_ca": True, "key_usage": usage(key_cert_sign=True), **changes}
    return key, issue(issuer=issuer, key=key, subject=subject, names=None, eku=None, **changes)


def crl_for(
    *serials: int,
    issuer: tuple[PrivateKey, x509.Certificate] | None = None,
    signer: PrivateKey | None = None,
    start: datetime = NOW - DAY,
    end: datetime = NOW + DAY,
    extension: x509.ExtensionType | None = None,
) -> x509.CertificateRevocationList:
    key, cert = issuer or ca()
    builder = x509.CertificateRevocationListBuilder(cert.subject, start, end)
    for serial in serials:
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, NOW - DAY).build())
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(signer or key, hashes.SHA256())


def verify(
    *chain: x509.Certificate,
    root: x509.Certificate | None = None,
    name: str = "chat.example",
    now: datetime = NOW,
    crl: x509.CertificateRevocationList | None = None,
) -> ServerLeaf:
    return verify_chain_untrusted([certificate_der(cert) for cert in chain], root or ca()[1], name, now, crl)


def refused(*chain: x509.Certificate, **arguments: Any) -> tuple[Refusal, str]:
    with pytest.raises(CertificateRefused) as caught:
        verify(*chain, **arguments)
    text = str(caught.value)
    assert text.isprintable()
    assert text[0].islower() or text[0] == "'"
    assert caught.value.__cause__ is None
    return caught.value.reason, text


# --- good ones


@pytest.mark.parametrize("name", [*NAMES, "LOCALHOST", "Chat.Example", "0:0:0:0:0:0:0:1", "::1%lo"])
def test_our_own_certificate_is_good_for_each_of_its_names(name: str) -> None:
    assert verify(good_leaf(), name=name).names == tuple(NAMES)


@pytest.mark.parametrize(("kind", "sigalg"), [("rsa", 0x0804), ("p256", 0x0403), ("mldsa65", 0x0905)])
def test_the_kinds_of_leaf_key(kind: str, sigalg: int) -> None:
    key, cert = make_server_certificate(*ca(), NAMES, NOW, leaf_key(kind))
    leaf = verify(cert)
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert leaf.sigalgs == (sigalg,)
    assert leaf.spki_hash == hashlib.sha256(spki).digest() == spki_hash(cert)
    assert leaf.public_key == key.public_key()
    signature = sign(key, b"label", b"body")
    assert leaf.verifying_key.verify_untrusted(b"label", b"body", signature)
    assert not leaf.verifying_key.verify_untrusted(b"label", b"bodY", signature)


def test_defaults_are_an_rsa_3072_key_for_the_ca_and_a_p256_key_for_the_server() -> None:
    ca_key, root = make_ca(NOW)
    assert isinstance(ca_key, rsa.RSAPrivateKey)
    assert (ca_key.key_size, ca_key.public_key().public_numbers().e) == (3072, 65537)
    key, cert = make_server_certificate(ca_key, root, ["chat.example"], NOW)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    verify(cert, root=root)


def test_the_ca_certificate() -> None:
    root = ca()[1]
    get = root.extensions.get_extension_for_class
    assert get(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=1)
    assert get(x509.KeyUsage).value == usage(key_cert_sign=True, crl_sign=True)
    assert root.not_valid_after_utc - root.not_valid_before_utc == 3650 * DAY
    assert describe(root).subject == "CN=MessageApp CA"


def test_the_server_certificate() -> None:
    cert, root = good_leaf(), ca()[1]
    get = cert.extensions.get_extension_for_class
    assert leaf_names(cert) == NAMES
    assert get(x509.ExtendedKeyUsage).value == SERVER_AUTH
    assert get(x509.KeyUsage).value == usage(digital_signature=True)
    assert get(x509.AuthorityKeyIdentifier).value.key_identifier == (
        root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    )
    assert cert.not_valid_before_utc == NOW - HOUR
    assert cert.not_valid_after_utc - cert.not_valid_before_utc == timedelta(days=398)
    assert cert.subject == name_of("localhost")


def test_a_leaf_does_not_outlive_its_ca_and_long_names_are_cut_in_the_common_name() -> None:
    root = ca()[1]
    late = root.not_valid_after_utc - 10 * DAY
    long = "a" * 60 + ".example"
    cert = make_server_certificate(*ca(), [long, long], late, leaf_key())[1]
    assert cert.not_valid_after_utc == root.not_valid_after_utc
    assert leaf_names(cert) == [long]
    assert cert.subject == name_of(long[:64])


def test_a_host_name_that_is_no_dns_name_does_no_harm() -> None:
    cert = make_server_certificate(*ca(), ["localhost", "my_host"], NOW, leaf_key())[1]
    assert verify(cert, name="localhost").names == ("localhost", "my_host")


@pytest.mark.parametrize("names", [[], ["bücher.example"]])
def test_names_that_cannot_be_certified(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"name|A-label"):
        make_server_certificate(*ca(), names, NOW, leaf_key())


def test_naive_times_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="zone"):
        verify(good_leaf(), now=NOW.replace(tzinfo=None))


def test_another_zone_is_the_same_time() -> None:
    verify(good_leaf(), now=NOW.astimezone(timezone(timedelta(hours=9))))


def test_the_published_login_vector_has_a_good_chain_without_key_usage() -> None:
    root = load_certificate_untrusted(VECTOR_ROOT)
    leaf = verify_chain_untrusted([VECTOR_LEAF], root, "127.0.0.1", datetime(2026, 1, 1, tzinfo=UTC))
    assert leaf.sigalgs == (0x0804,)
    with pytest.raises(x509.ExtensionNotFound):
        leaf.cert.extensions.get_extension_for_class(x509.KeyUsage)


def test_a_chain_of_three_and_one_with_the_root_in_it() -> None:
    root = open_ca()
    first = below(root, "first", number=2)
    second = below(first, "second", number=3)
    leaf = issue(issuer=second)
    verify(leaf, second[1], first[1], root=root[1])
    verify(leaf, first[1], second[1], root=root[1])
    verify(good_leaf(), ca()[1])


def test_398_days_are_allowed_and_a_second_more_is_not() -> None:
    start = NOW - HOUR
    verify(issue(start=start, end=start + 398 * DAY))
    reason, text = refused(issue(start=start, end=start + 398 * DAY + timedelta(seconds=1)))
    assert reason is Refusal.LIFETIME
    assert "more than 398" in text


def test_a_wildcard_is_good_for_one_label() -> None:
    cert = issue(names=[x509.DNSName("*.chat.example")])
    verify(cert, name="a.chat.example")
    assert refused(cert, name="a.b.chat.example")[0] is Refusal.WRONG_NAME


# --- refusals


def test_no_certificate_and_four() -> None:
    assert refused()[0] is Refusal.CHAIN
    assert refused(*[good_leaf()] * 4) == (Refusal.CHAIN, "the server sent 4 certificates, not one to 3")


def test_another_ca() -> None:
    cert = make_server_certificate(*ca("Evil CA", 4), NAMES, NOW, leaf_key())[1]
    expected = (Refusal.WRONG_CA, "the certificate was issued by 'Evil CA', not by 'MessageApp CA'")
    assert refused(cert) == expected
    assert refused(cert, ca("Evil CA", 4)[1])[0] is Refusal.WRONG_CA


def test_another_ca_of_the_same_name() -> None:
    cert = make_server_certificate(*ca(number=4), NAMES, NOW, leaf_key())[1]
    reason, text = refused(cert)
    assert reason is Refusal.WRONG_CA
    assert "not signed by the CA of that name" in text


def test_self_signed() -> None:
    key, cert = rsa_key(5), make_ca(NOW, "chat.example", rsa_key(5))[1]
    leaf = issue(issuer=(key, cert), key=key)
    reason, text = refused(leaf)
    assert reason is Refusal.WRONG_CA
    assert "issued by itself ('chat.example')" in text


def test_an_issuer_that_is_no_ca() -> None:
    middle = rsa_key(6), issue(key=rsa_key(6), subject="middle")
    reason, text = refused(issue(issuer=middle), middle[1])
    assert reason is Refusal.WRONG_CA
    assert "'middle', which may not issue" in text


def test_one_ca_may_stand_below_our_own_and_none_below_that() -> None:
    new_key, new = make_ca(NOW, "successor", rsa_key(7))
    cross = cross_sign(*ca(), new, NOW)
    assert verify(issue(issuer=(new_key, new)), cross).successor is None  # the third certificate is not there
    assert verify(issue(issuer=(new_key, new)), cross, new).successor == new
    middle = below((new_key, cross), "middle", number=8)
    assert refused(issue(issuer=middle), middle[1], cross)[0] is Refusal.PROFILE


def test_a_ca_of_before_takes_none_below_it() -> None:
    key = rsa_key(7)
    extension = x509.BasicConstraints(ca=True, path_length=0)
    builder = x509.CertificateBuilder().subject_name(name_of("old")).issuer_name(name_of("old"))
    builder = builder.public_key(key.public_key()).serial_number(5).not_valid_before(NOW - DAY)
    builder = builder.not_valid_after(NOW + DAY).add_extension(extension, critical=True)
    assert not can_have_successor(builder.sign(key, hashes.SHA256()))
    assert can_have_successor(ca()[1])
    assert can_have_successor(open_ca()[1])


@pytest.mark.parametrize("make", [lambda: rsa_key(9), mldsa.MLDSA65PrivateKey.generate])
def test_our_own_revocation_list(make: Callable[[], PrivateKey]) -> None:
    key, root = make_ca(NOW - DAY, "MessageApp CA", make())
    first, second, third = (make_server_certificate(key, root, NAMES, NOW, leaf_key())[1] for _ in range(3))
    crl = make_crl(key, root, [first], NOW)
    crl = make_crl(key, root, [second], NOW, before=crl)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    assert refused(first, root=root, crl=crl)[0] is Refusal.REVOKED
    assert refused(second, root=root, crl=crl)[0] is Refusal.REVOKED
    verify(third, root=root, crl=crl)
    assert refused(third, root=root, crl=crl, now=NOW + 31 * DAY)[0] is Refusal.CRL
    verify(third, root=root, crl=load_crl_untrusted(crl_pem(crl).encode()), now=NOW + 29 * DAY)


def test_a_missing_intermediate() -> None:
    root = open_ca()
    middle = below(root, "middle", number=8)
    assert refused(issue(issuer=middle), root=root[1]) == (
        Refusal.WRONG_CA,
        "the certificate was issued by 'middle', not by 'root'",
    )


def test_expired_and_not_yet_valid() -> None:
    cert = issue(start=datetime(2024, 6, 1, tzinfo=UTC), end=datetime(2025, 1, 1, tzinfo=UTC))
    assert refused(cert) == (Refusal.EXPIRED, "the certificate expired on 2025-01-01 00:00 UTC")
    cert = issue(start=NOW + HOUR)
    assert refused(cert) == (Refusal.NOT_YET_VALID, "the certificate is not valid before 2026-03-01 13:00 UTC")


def test_the_last_and_the_first_second() -> None:
    cert = issue(start=NOW, end=NOW + DAY)
    for now in (NOW, NOW + DAY):
        verify(cert, now=now)
    assert refused(cert, now=NOW - timedelta(seconds=1))[0] is Refusal.NOT_YET_VALID
    assert refused(cert, now=NOW + DAY + timedelta(seconds=1))[0] is Refusal.EXPIRED


def test_an_expired_ca_and_an_expired_intermediate() -> None:
    later = ca()[1].not_valid_after_utc + DAY
    reason, text = refused(issue(start=later - DAY, end=later + DAY), now=later)
    assert (reason, "the CA certificate of 'MessageApp CA' expired on" in text) == (Refusal.EXPIRED, True)
    root = open_ca()
    middle = below(root, "middle", number=9, start=NOW - 2 * DAY, end=NOW - DAY)
    reason, text = refused(issue(issuer=middle), middle[1], root=root[1])
    assert (reason, "the CA certificate of 'middle' expired" in text) == (Refusal.EXPIRED, True)


def test_wrong_names() -> None:
    cert = make_server_certificate(*ca(), ["localhost", "127.0.0.1"], NOW, leaf_key())[1]
    assert refused(cert) == (
        Refusal.WRONG_NAME,
        "the certificate is for localhost, 127.0.0.1, not for chat.example",
    )
    for name in ("127.0.0.2", "::1", "localhost.example", "ocalhost"):
        assert refused(cert, name=name)[0] is Refusal.WRONG_NAME


def test_an_address_written_as_a_dns_name_does_not_count() -> None:
    assert refused(issue(names=[x509.DNSName("127.0.0.1")]), name="127.0.0.1")[0] in {
        Refusal.WRONG_NAME,
        Refusal.PROFILE,
    }


def test_the_common_name_does_not_count() -> None:
    reason, text = refused(issue(names=None))
    assert reason is Refusal.WRONG_NAME
    assert "names no server" in text
    assert refused(issue(names=[x509.RFC822Name("chat.example")]))[0] is Refusal.WRONG_NAME


@pytest.mark.parametrize(
    "name", ["", "a b", "bücher.example", "a_b", "*.example", "a..b", "x" * 300, "a\x1b[2J", "::g"]
)
def test_a_wanted_name_that_is_none(name: str) -> None:
    reason, text = refused(good_leaf(), name=name)
    assert reason is Refusal.WRONG_NAME
    assert "not a name that a certificate can carry" in text


def test_many_names_make_a_short_sentence() -> None:
    cert = issue(names=[x509.DNSName(f"h{i}.example") for i in range(300)])
    assert refused(cert)[1].endswith("h4.example, h5.example and 294 more, not for chat.example")


def test_six_names_of_100_letters_are_shown() -> None:
    assert (certificate_diagnosis._SHOWN_NAMES, certificate_diagnosis._SHOWN_LENGTH) == (6, 100)
    long = [".".join(["a" * 49, "b" * 49, f"{i}"]) for i in range(7)]  # 101 letters
    for count, more in ((6, ""), (7, " and 1 more")):
        said = refused(issue(names=[x509.DNSName(name) for name in long[:count]]))[1]
        shown = ", ".join(name[:100] for name in long[:6])
        assert said == f"the certificate is for {shown}{more}, not for chat.example"


def test_the_name_of_a_stranger_is_made_printable() -> None:
    evil = "\x1b[2J\u202egood\u2028\x9b\\"
    shown = r"\x1b[2J\u202egood\u2028\x9b\\"
    cert = make_server_certificate(*ca(evil, 4), NAMES, NOW, leaf_key())[1]
    assert refused(cert)[1] == f"the certificate was issued by '{shown}', not by 'MessageApp CA'"
    assert describe(cert).issuer.isprintable()
    named = issue(names=[x509.DNSName("a\x1b]0;x\x07b")])
    assert leaf_names(named) == [r"a\x1b]0;x\x07b"]
    assert r"is for a\x1b]0;x\x07b, not for" in refused(named)[1]


def test_the_extended_key_usage_is_required() -> None:
    reason, text = refused(issue(eku=None))
    assert (reason, "no extended key usage" in text) == (Refusal.NO_SERVER_AUTH, True)
    for other in (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE):
        assert refused(issue(eku=x509.ExtendedKeyUsage([other])))[0] is Refusal.NO_SERVER_AUTH
    verify(issue(eku=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])))


def test_key_usage_if_present_must_allow_signatures() -> None:
    verify(issue(key_usage=usage(digital_signature=True, key_encipherment=True)))
    assert refused(issue(key_usage=usage(key_encipherment=True)))[0] is Refusal.KEY_USAGE


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ed25519.Ed25519PrivateKey.generate(),
        lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - that it is refused is the point
        lambda: rsa.generate_private_key(3, 2048),
        lambda: mldsa.MLDSA44PrivateKey.generate(),
    ],
    ids=["P-384", "Ed25519", "RSA-1024", "RSA e=3", "ML-DSA-44"],
)
def test_other_keys_are_refused(make: Callable[[], Any]) -> None:
    assert refused(issue(key=make())) == (
        Refusal.KEY,
        "the certificate's key is not RSA of 2048 to 4096 bits, P-256 or ML-DSA-65",
    )


def test_a_ca_certificate_is_no_leaf() -> None:
    assert refused(issue(is_ca=True))[0] is Refusal.PROFILE


def test_an_unknown_critical_extension() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert refused(issue(extra=[unknown]))[0] is Refusal.PROFILE


# --- revocation


def test_revocation() -> None:
    cert = good_leaf()
    verify(cert, crl=crl_for())
    verify(cert, crl=crl_for(cert.serial_number + 1))
    expected = (Refusal.REVOKED, "the certificate was revoked on 2026-02-28 12:00 UTC")
    assert refused(cert, crl=crl_for(5, cert.serial_number)) == expected


def test_a_revoked_intermediate() -> None:
    root = open_ca()
    middle = below(root, "middle", number=10)
    crl = crl_for(middle[1].serial_number, issuer=root)
    assert refused(issue(issuer=middle), middle[1], root=root[1], crl=crl)[0] is Refusal.REVOKED


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: crl_for(signer=rsa_key(4)), "not signed by the CA"),
        (lambda: crl_for(issuer=ca("Other CA", 0)), "not signed by the CA"),
        (lambda: crl_for(start=NOW - 3 * DAY, end=NOW - 2 * DAY), "expired on 2026-02-27 12:00 UTC"),
        (lambda: crl_for(start=NOW + HOUR, end=NOW + DAY), "in the future"),
        (lambda: crl_for(extension=x509.DeltaCRLIndicator(1)), "partial kind"),
    ],
)
def test_a_revocation_list_that_is_not_good(make: Callable[[], x509.CertificateRevocationList], said: str) -> None:
    reason, text = refused(good_leaf(), crl=make())
    assert reason is Refusal.CRL
    assert said in text


def test_revocation_lists_are_loaded_from_der_and_pem() -> None:
    crl = crl_for(1)
    for encoding in (serialization.Encoding.DER, serialization.Encoding.PEM):
        assert load_crl_untrusted(crl.public_bytes(encoding)) == crl
    with pytest.raises(CertificateRefused) as caught:
        load_crl_untrusted(b"junk")
    assert caught.value.reason is Refusal.CRL


# --- files, renewal, display


def test_certificates_and_keys_through_their_files() -> None:
    cert = good_leaf()
    assert load_certificate_untrusted(certificate_pem(cert).encode()) == cert
    assert load_certificate_untrusted(certificate_der(cert)) == cert
    for kind in ("rsa", "p256", "mldsa65"):
        pem = private_key_pem(leaf_key(kind))
        assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
        assert private_key_pem(load_private_key_pem(pem)) == pem


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_files_that_are_none(data: bytes) -> None:
    for load in (load_certificate_untrusted, load_private_key_pem):
        with pytest.raises(CertificateRefused) as caught:
            load(data)
        assert caught.value.reason is Refusal.MALFORMED


def test_a_private_key_of_another_kind() -> None:
    key = x25519.X25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pytest.raises(CertificateRefused) as caught:
        load_private_key_pem(pem)
    assert caught.value.reason is Refusal.KEY


def test_renewal() -> None:
    cert = good_leaf()
    end = cert.not_valid_after_utc
    assert not needs_renewal(cert, NAMES, NOW)
    assert not needs_renewal(cert, ["LOCALHOST", "0:0::1"], end - 30 * DAY)
    assert needs_renewal(cert, NAMES, end - 30 * DAY + timedelta(seconds=1))
    assert needs_renewal(cert, [*NAMES, "new.example"], NOW)


def test_describe() -> None:
    cert = good_leaf()
    summary = describe(cert)
    assert summary.subject == "CN=localhost"
    assert summary.issuer == "CN=MessageApp CA"
    assert (summary.not_before, summary.not_after) == (cert.not_valid_before_utc, cert.not_valid_after_utc)
    assert summary.fingerprint_sha256.replace(":", "") == hashlib.sha256(certificate_der(cert)).hexdigest()
    assert summary.fingerprint_sha256.count(":") == 31
    assert summary.names == tuple(NAMES)


# --- strangers


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=5))
def test_garbage_raises_only_the_declared_error(chain: list[bytes]) -> None:
    with pytest.raises(CertificateRefused) as caught:
        verify_chain_untrusted(chain, ca()[1], "chat.example", NOW)
    assert caught.value.reason in {Refusal.MALFORMED, Refusal.CHAIN}


def test_a_country_of_many_letters_gives_no_warning() -> None:
    der = certificate_der(make_server_certificate(*ca("Evil CA", 4), NAMES, NOW, leaf_key())[1])
    odd = der.replace(b"\x55\x04\x03", b"\x55\x04\x06")  # common name -> country, which has two letters
    with pytest.raises(CertificateRefused) as caught:
        verify_chain_untrusted([odd], ca()[1], "chat.example", NOW)
    assert caught.value.reason is Refusal.WRONG_CA
    assert describe(load_certificate_untrusted(odd)).issuer == "C=Evil CA"


def test_a_signature_with_unused_bits_is_refused() -> None:
    """No key signed that number, and the library takes it where the bits are 0."""
    while True:
        cert = make_server_certificate(*ca(), NAMES, NOW, leaf_key())[1]
        if not cert.signature[-1] & 1:
            break
    der = bytearray(certificate_der(cert))
    verify_chain_untrusted([bytes(der)], ca()[1], "chat.example", NOW)
    assert der[-len(cert.signature) - 1] == 0
    der[-len(cert.signature) - 1] = 1
    with pytest.raises(CertificateRefused) as caught:
        verify_chain_untrusted([bytes(der)], ca()[1], "chat.example", NOW)
    assert caught.value.reason is Refusal.MALFORMED


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_no_changed_certificate_is_accepted(data: st.DataObject) -> None:
    changed = bytearray(certificate_der(good_leaf()))
    position = data.draw(st.integers(0, len(changed) - 1))
    changed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CertificateRefused) as caught:
        verify_chain_untrusted([bytes(changed)], ca()[1], "chat.example", NOW)
    assert str(caught.value).isprintable()


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_changed_certificates_signed_again_raise_only_the_declared_error(data: st.DataObject) -> None:
    """A stranger with a CA of his own that the client trusts: the signature is good, the contents are not."""
    original = good_leaf()
    body = bytearray(original.tbs_certificate_bytes)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(4, len(body) - 1))] = data.draw(st.integers(0, 255))
    key = ca()[0]
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = key.sign(bytes(body), padding.PKCS1v15(), hashes.SHA256())
    der = certificate_der(original)
    tail = der[der.index(original.tbs_certificate_bytes) + len(body) : -len(signature)]
    forged = der[: der.index(original.tbs_certificate_bytes)] + bytes(body) + tail + signature
    text = "accepted"
    try:
        leaf = verify_chain_untrusted([forged], ca()[1], "chat.example", NOW, crl_for(1))
        assert "chat.example" in [name.lower() for name in leaf.names]
        text = describe(leaf.cert).subject
    except CertificateRefused as error:
        text = str(error)
    assert text.isprintable()


def test_a_successor_under_which_this_server_would_be_refused_is_none() -> None:
    """Whoever followed to it could not log in any more."""
    key, new = make_ca(NOW, "successor", rsa_key(7))
    cross = cross_sign(*ca(), new, NOW)
    builder = x509.CertificateBuilder().subject_name(new.subject).issuer_name(new.subject).public_key(key.public_key())
    builder = builder.serial_number(5).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    for extension in new.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    elsewhere = x509.NameConstraints([x509.DNSName("elsewhere.example")], None)
    leaf = issue(issuer=(key, new))
    assert verify(leaf, cross, builder.sign(key, hashes.SHA256())).successor is not None
    assert verify(leaf, cross, builder.add_extension(elsewhere, True).sign(key, hashes.SHA256())).successor is None
