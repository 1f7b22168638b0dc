"""PEM in and out: the report's keys in both OpenSSL forms, and a clear sentence for everything else."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa, x25519
from hypothesis import example, given, settings
from hypothesis import strategies as st

from messageapp_keys import pem as pem_module
from messageapp_keys.identity import IdentityBundle, PrivateIdentity
from messageapp_keys.pem import (
    PemRefused,
    export_public_pem,
    import_private_pem,
    import_public_pem,
    is_legacy,
    needs_passphrase,
)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program on this machine")

# openssl genrsa -aes256 -traditional -passout pass:report 2048 (OpenSSL 3.0): the form that older OpenSSL wrote
LEGACY = b"""\
-----BEGIN RSA PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-256-CBC,4765BFB3F4A24FD1F788ECBAEA5CFDD0

2UdgiuLpUqwJfVwOGXSRewKh2woCTB0gQhwAF7+YNV4a5bntWlhjmgjIEVubPAPB
6VA9nCp7VbPeD93+TYOG0KIgnQ/uBE2U4pJFE45bVCPcY91uvCTTZuW9GNZNZeKW
oB+MsJNFdGB9Q+bHxObYqE4XzhvwXSyQC31BPV/+lFLwVOdvT0D46CknXZru5gDd
AKfdRnRlLbp8RecXzo0wgiJ1efxJKPtNvsyfX7tLqpWbCmbpawgXfWgZfLXgIz/j
bOvo2ZPywLNsDXPfHsxBogjAVrFR/nDd2xNcVc3uytwz+Dx1nM/nu4Vum2JIdyqz
EuRDAZ7L7jiv0CrFH5nB8HCZVq964phXN8WNkaVEKNlKLqV+igQN4QHmTON25ekd
s18hLMAmW9KAo7rniVYVFnaHudIwWYY10hpoOQwBH6Z0tVS2Y2uGdF5WiIdrS7cb
By4j4s7vn3+H0RD2IjxlO7E0tc6ECshLWlRvV+3MRLzBWvHx5eHKKN3oCaRFI8b5
CVn5uDjzT1GWy2k2M25uFdeTh+uYgWxWQf3AlXqSqY5kj/YrpFnK4UUPBS6aEe8B
hZDV4HV0dIWpbtyXH728syuPJW5anVCbEm5aplgq+PG+SaYRS0IhJpdy5ZIeeLPb
8Ujy3yFQ6ZWabKLdtMkZNrO+oiTkXgYI4Ypv+VQbNax+yqCwy49z6p4pdS22IQBc
ORQyvOMZiq3hSx0ilm9wGCvaflm2GoMZqSaa0+NaIW/Eg6QZkwy/DaedDQ84jQZt
1Eg+fVkyyLFlP40YH/eBY3U7Cki3rIgyZbUuHtjTj2d0WOKzP3ErfMj8yZMLtBit
7RO7g0KNa0wGtSDLUqiahRFOQffOeXfo8DozQvFrddQA1rg3U7gffXwaMa49pGFC
XfTVPHe0oW8q+olNA7wjzE7eDM2FpQB0WqRBFfqSmup3pfcmA7DWzrWW2SfPBd4C
9SeSZG/AzWwkAX+r3uKBl8Canle6xii7do8bwryjFKx6oulHaeenLgdgd/E/3oQX
OcbUAvhttApGOzQ4LT9fEDBeZfcG58krS/f2h2MQGebn9HjxAcn6y0jO+33q3fNz
aohr1B6Xt51s0Bm3RD9uhwO1kAeaoOfwHjgkVv5P6hXArdXI1sMD9zECRUqMMS4J
hEMyh+wLskRJ0zdFS4MgsTF86Jkv4fTC8WJ2rBfcqlbIB70SX/GNOJudhCZaT+Yl
muBFfTyqJlEs3fnVIQvMCyJHqOe8SkW0+9I/IJKhKq/CCZz+PbB5sE/9R+Pln7Io
aMBQAvVMRAGRwNYXKRJr4fwkSe7pybjYVqe+8nwaAs51zj+v/Tj4ACOfDYubIn/x
/stdSAjGJyTCJ3+8Qh5GCna6zxGA27z849VQQHrYXCKMS0jUvW0tCZ2NFABNoAAP
UuTyruB2FdxP3hcdugj/nXmTroDuPMRLbSupfrM7KhC1hHGrn8Ttl26um4y4F874
NuGTyA0R/fvWLgQmxue12z/73PLrUKLUNBRRFn5TD7KloJRbxT6ts1p41M66B//J
SLhpBQGgL854zwbVCbvyTarZXWBI3kaOgJITNEwBtPug8WXcT/rilhYfa7Ie0dAU
-----END RSA PRIVATE KEY-----
"""
LEGACY_SPKI_SHA256 = "6779fc080e5cd839b0c4cbe45814e5b02cd8514911459da2306b1211771a2ec1"

PKCS8 = serialization.PrivateFormat.PKCS8
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL


def private_pem(key: object, form: serialization.PrivateFormat = PKCS8, passphrase: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    assert hasattr(key, "private_bytes")
    data = key.private_bytes(serialization.Encoding.PEM, form, how)
    assert isinstance(data, bytes)
    return data


def public_pem(key: object) -> bytes:
    assert hasattr(key, "public_key")
    data = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(data, bytes)
    return data


@cache
def rsa_2048() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ed() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


@cache
def ml_dsa() -> mldsa.MLDSA65PrivateKey:
    return mldsa.MLDSA65PrivateKey.generate()


def openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60).stdout


# --- private keys


def test_the_legacy_form_is_read() -> None:
    assert is_legacy(LEGACY)
    assert needs_passphrase(LEGACY)
    identity = import_private_pem(LEGACY, b"report")
    ((algorithm, spki),) = identity.bundle.keys
    assert algorithm == 0x0804
    assert hashlib.sha256(spki).hexdigest() == LEGACY_SPKI_SHA256


@pytest.mark.parametrize("form", [PKCS8, TRADITIONAL])
@pytest.mark.parametrize("passphrase", [None, b"p\xc3\xa9 1"])
def test_rsa_in_both_forms(form: serialization.PrivateFormat, passphrase: bytes | None) -> None:
    pem = private_pem(rsa_2048(), form, passphrase)
    assert needs_passphrase(pem) == (passphrase is not None)
    assert is_legacy(pem) == (passphrase is not None and form is TRADITIONAL)
    identity = import_private_pem(pem, passphrase)
    assert export_public_pem(identity.bundle).encode() == public_pem(rsa_2048())


def test_ed25519() -> None:
    identity = import_private_pem(private_pem(ed(), PKCS8, b"x"), b"x")
    assert export_public_pem(identity.bundle).encode() == public_pem(ed())


def test_windows_line_ends_and_text_around_are_fine() -> None:
    pem = b"a note\r\n" + private_pem(ed()).replace(b"\n", b"\r\n") + b"\r\nmore"
    assert import_private_pem(pem, None).bundle == import_private_pem(private_pem(ed()), None).bundle


def test_a_passphrase_that_is_not_needed_is_ignored() -> None:
    import_private_pem(private_pem(ed()), b"unused")


@pytest.mark.parametrize("form", [PKCS8, TRADITIONAL])
def test_wrong_and_missing_passphrases(form: serialization.PrivateFormat) -> None:
    pem = private_pem(rsa_2048(), form, b"right-secret")
    with pytest.raises(PemRefused, match="passphrase is wrong") as caught:
        import_private_pem(pem, b"other-secret")
    assert "secret" not in str(caught.value)
    for missing in (None, b""):
        with pytest.raises(PemRefused, match="none was given"):
            import_private_pem(pem, missing)


@needs_openssl
@pytest.mark.parametrize("extra", [[], ["-traditional"]])
def test_the_reports_own_command(extra: list[str], tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    openssl("genrsa", "-aes256", *extra, "-passout", "pass:report", "-out", str(path), "2048")
    pem = path.read_bytes()
    assert needs_passphrase(pem)
    assert is_legacy(pem) == bool(extra)
    public = openssl("rsa", "-in", str(path), "-passin", "pass:report", "-pubout")
    identity = import_private_pem(pem, b"report")
    assert identity.bundle == import_public_pem(public)
    assert export_public_pem(identity.bundle).encode() == public


@needs_openssl
def test_openssl_reads_what_we_export(tmp_path: Path) -> None:
    path = tmp_path / "pub.pem"
    path.write_text(export_public_pem(import_private_pem(LEGACY, b"report").bundle))
    assert b"Public-Key: (2048 bit)" in openssl("rsa", "-pubin", "-in", str(path), "-noout", "-text")


@needs_openssl
def test_diffie_hellman_keys_are_refused() -> None:
    private = openssl("genpkey", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048")
    with pytest.raises(PemRefused):
        import_private_pem(private, None)
    public = subprocess.run(["openssl", "pkey", "-pubout"], input=private, check=True, capture_output=True).stdout
    with pytest.raises(PemRefused):
        import_public_pem(public)


REFUSED_PRIVATE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "no PEM at all"),
    "a certificate": (lambda: b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "holds CERTIFICATE"),
    "a public key": (lambda: public_pem(ed()), "this is a public key"),
    "two keys": (lambda: private_pem(ed()) * 2, "one PRIVATE KEY block"),
    "P-256": (lambda: private_pem(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
    "X25519": (lambda: private_pem(x25519.X25519PrivateKey.generate()), "neither RSA nor Ed25519"),
    "ML-DSA alone": (lambda: private_pem(ml_dsa()), "neither RSA nor Ed25519"),
    "OpenSSH": (lambda: private_pem(ed(), serialization.PrivateFormat.OpenSSH), "ssh-keygen -p -m PKCS8"),
    "RSA-1024": (lambda: private_pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),  # noqa: S505 - that it is refused is the point
    "RSA with e = 3": (lambda: private_pem(rsa.generate_private_key(3, 2048)), "exponent"),
    "cut": (lambda: private_pem(rsa_2048())[:400], "cannot be read"),
    "damaged": (lambda: private_pem(rsa_2048()).replace(b"MII", b"MIJ"), "cannot be read"),
    "huge": (lambda: private_pem(ed()) + bytes(pem_module.MAX_PEM), "larger than any key"),
}


@pytest.mark.parametrize("name", REFUSED_PRIVATE)
def test_other_private_keys_are_refused_with_a_reason(name: str) -> None:
    make, said = REFUSED_PRIVATE[name]
    with pytest.raises(PemRefused, match=said):
        import_private_pem(make(), None)


# --- public keys


def test_public_round_trips() -> None:
    for identity in (PrivateIdentity([rsa_2048()]), PrivateIdentity([ed()]), PrivateIdentity([rsa_2048(), ml_dsa()])):
        text = export_public_pem(identity.bundle)
        assert text.count("BEGIN PUBLIC KEY") == len(identity.bundle.keys)
        assert import_public_pem(text.encode()) == identity.bundle


@pytest.mark.parametrize("make", [lambda: LEGACY, lambda: private_pem(ed()), lambda: private_pem(ed(), PKCS8, b"x")])
def test_a_private_key_is_no_public_key(make: Callable[[], bytes]) -> None:
    for pem in (make(), public_pem(ed()) + make()):
        with pytest.raises(PemRefused, match=r"this is a private key; only its public half"):
            import_public_pem(pem)


REFUSED_PUBLIC: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "no PEM at all"),
    "binary": (lambda: bytes(range(256)), "no PEM at all"),
    "three": (lambda: public_pem(ed()) * 3, "one or two"),
    "five": (lambda: public_pem(ed()) * 5, "…"),
    "a certificate beside": (
        lambda: public_pem(ed()) + b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "one or two",
    ),
    "twice the same": (lambda: public_pem(ed()) * 2, "cannot be used"),
    "wrong order": (lambda: public_pem(ml_dsa()) + public_pem(ed()), "cannot be used"),
    "ML-DSA alone": (lambda: public_pem(ml_dsa()), "cannot be used"),
    "P-256": (lambda: public_pem(ec.generate_private_key(ec.SECP256R1())), "neither RSA"),
    "X25519": (lambda: public_pem(x25519.X25519PrivateKey.generate()), "neither RSA"),
    "RSA-1024": (lambda: public_pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),  # noqa: S505 - that it is refused is the point
    "RSA with e = 3": (lambda: public_pem(rsa.generate_private_key(3, 2048)), "exponent"),
    "cut": (lambda: public_pem(rsa_2048())[:200], "one or two"),
    "damaged": (lambda: public_pem(rsa_2048()).replace(b"MII", b"MIJ"), "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED_PUBLIC)
def test_other_public_keys_are_refused_with_a_reason(name: str) -> None:
    make, said = REFUSED_PUBLIC[name]
    with pytest.raises(PemRefused, match=said):
        import_public_pem(make())


_LABELS = st.sampled_from([b"PUBLIC KEY", b"PRIVATE KEY", b"RSA PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"X"])


@settings(max_examples=200, deadline=None)
@given(_LABELS, st.binary(max_size=120), st.sampled_from([None, b"", b"p"]))
@example(b"RSA PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA", b"p")
@example(b"RSA PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED\n\nAAAA", b"p")
@example(b"RSA PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED\nDEK-Info: NO-SUCH,0011\n\nAAAA", b"p")
def test_garbage_raises_only_the_declared_error(label: bytes, body: bytes, passphrase: bytes | None) -> None:
    text = b"-----BEGIN " + label + b"-----\n" + body + b"\n-----END " + label + b"-----\n"
    with pytest.raises(PemRefused):
        import_public_pem(text)
    with pytest.raises(PemRefused):
        import_private_pem(text, passphrase)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_public_keys_raise_only_the_declared_error(data: st.DataObject) -> None:
    original = public_pem(ed())
    position = data.draw(st.integers(0, len(original) - 1))
    changed = original[:position] + bytes([data.draw(st.integers(0, 255))]) + original[position + 1 :]
    try:
        found = import_public_pem(changed)
    except PemRefused:
        return
    assert isinstance(found, IdentityBundle)
