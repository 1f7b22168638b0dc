"""Signed notes, cosignatures and checkpoints, against published ones of other programs."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from messageapp_keys.codec import Malformed
from messageapp_keys.notes import (
    COSIGNER,
    MAX_NOTE,
    MAX_SIGNATURES,
    MAX_SIZE,
    Checkpoint,
    LogKey,
    Note,
    NoteSignature,
    VerifierKey,
    cosign,
    sign_note,
    verify_cosignature_untrusted,
    verify_untrusted,
)
from support.keys import identity

# Published: golang.org/x/mod/sumdb/note, note_test.go.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"  # behind PRIVATE+KEY+PeterNeumann+c74f20a3+
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# Published: a checkpoint of a log of certificates, with four witnesses, whose keys are published too.
REAL = (Path(__file__).parent / "data" / "checkpoint-real.txt").read_text("utf-8")
REAL_LOG = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
REAL_WITNESSES = (
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
)
REAL_TIME = 1_779_573_024
# Published: C2SP tlog-cosignature, the example; its keys are not.
EXAMPLE = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
EXAMPLE_LINE = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZ"
    "qhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)


def peter() -> LogKey:
    data = base64.b64decode(PETER_SECRET)
    assert data[0] == 1
    return LogKey(ed25519.Ed25519PrivateKey.from_private_bytes(data[1:]))


def note(*lines: str, text: str = TEXT) -> Note:
    return Note.parse_untrusted((text + "\n" + "".join(lines)).encode())


# Notes of others --------------------------------------------------------------------------------------------------


def test_we_sign_as_go_does() -> None:
    signed = sign_note(TEXT, "PeterNeumann", peter())
    assert signed.encode().decode() == TEXT + "\n" + PETER_LINE
    assert peter().verifier("PeterNeumann").encode() == PETER


@pytest.mark.parametrize("vkey", [PETER, ENOCH, REAL_LOG, *REAL_WITNESSES])
def test_published_verifier_keys(vkey: str) -> None:
    assert VerifierKey.parse_untrusted(vkey).encode() == vkey


def test_a_published_note_verifies_by_each_of_its_keys() -> None:
    both = note(PETER_LINE, ENOCH_LINE)
    assert both.text == TEXT
    assert [entry.name for entry in both.signatures] == ["PeterNeumann", "EnochRoot"]
    assert both.encode().decode() == TEXT + "\n" + PETER_LINE + ENOCH_LINE
    for vkey in (PETER, ENOCH):
        key = VerifierKey.parse_untrusted(vkey)
        assert verify_untrusted(both, key)
        assert not verify_untrusted(replace(both, text=TEXT.replace("y", "z")), key)
    assert not verify_untrusted(note(PETER_LINE), VerifierKey.parse_untrusted(ENOCH))


def test_a_real_checkpoint_verifies_by_its_log_and_its_witnesses() -> None:
    real = Note.parse_untrusted(REAL.encode())
    assert real.encode() == REAL.encode()
    checkpoint = Checkpoint.parse_untrusted(real.text)
    assert (checkpoint.origin, checkpoint.size) == ("arche2025h1.staging.ct.transparency.dev", 1_432_088_532)
    assert checkpoint.encode() == real.text
    assert verify_untrusted(real, VerifierKey.parse_untrusted(REAL_LOG))
    other = replace(real, text=Checkpoint(checkpoint.origin, 42, checkpoint.root).encode())
    assert not verify_untrusted(other, VerifierKey.parse_untrusted(REAL_LOG))
    for vkey in REAL_WITNESSES:
        witness = VerifierKey.parse_untrusted(vkey)
        assert witness.kind == COSIGNER
        assert verify_cosignature_untrusted(real, witness) == REAL_TIME
        assert verify_cosignature_untrusted(other, witness) is None
        assert not verify_untrusted(real, witness), "a cosignature is not a signature of the text alone"
    assert verify_cosignature_untrusted(real, VerifierKey.parse_untrusted(REAL_LOG)) is None


def test_the_time_in_the_published_example_of_a_cosignature() -> None:
    entry = NoteSignature.parse_untrusted(EXAMPLE_LINE)
    assert entry.encode() == EXAMPLE_LINE
    assert (entry.name, entry.key_hash.hex(), len(entry.signature)) == ("witness.example.com/w1", "8d66cf3f", 72)
    assert int.from_bytes(entry.signature[:8], "big") == 1_679_315_147


def test_what_a_witness_signs_is_the_published_text() -> None:
    key = LogKey.generate()
    entry = cosign(EXAMPLE, "witness.example.com/w1", key, 1_679_315_147)
    signed = (
        "cosignature/v1\ntime 1679315147\n"
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    ed25519.Ed25519PublicKey.from_public_bytes(key.public).verify(entry.signature[8:], signed.encode())


# Our own ----------------------------------------------------------------------------------------------------------


def test_witnesses_add_their_lines() -> None:
    log, first, second = LogKey.generate(), LogKey.generate(), LogKey.generate()
    text = Checkpoint("here/msgapp-keys", 7, bytes(32)).encode()
    signed = sign_note(text, "here/msgapp-keys", log)
    both = signed.adding([cosign(text, "w1", first, 100), cosign(text, "w2", second, 200)])
    assert Note.parse_untrusted(both.encode()) == both
    assert verify_untrusted(both, log.verifier("here/msgapp-keys"))
    assert verify_cosignature_untrusted(both, first.verifier("w1", COSIGNER)) == 100
    assert verify_cosignature_untrusted(both, second.verifier("w2", COSIGNER)) == 200
    assert verify_cosignature_untrusted(both, second.verifier("w1", COSIGNER)) is None
    assert verify_cosignature_untrusted(both, first.verifier("w1")) is None, "the key of a log is no witness"
    assert verify_cosignature_untrusted(signed, first.verifier("w1", COSIGNER)) is None


def test_the_time_of_a_cosignature_is_signed() -> None:
    key = LogKey.generate()
    witness = key.verifier("w", COSIGNER)
    entry = cosign(EXAMPLE, "w", key, 100)
    late = replace(entry, signature=(101).to_bytes(8, "big") + entry.signature[8:])
    assert verify_cosignature_untrusted(Note(EXAMPLE, (late,)), witness) is None
    short = replace(entry, signature=entry.signature[:-1])
    assert verify_cosignature_untrusted(Note(EXAMPLE, (short,)), witness) is None
    later = cosign(EXAMPLE, "w", key, 300)
    for entries in ((late, later, entry), (entry, later, late)):
        assert verify_cosignature_untrusted(Note(EXAMPLE, entries), witness) == 300
    most = cosign(EXAMPLE, "w", key, MAX_SIZE)
    assert verify_cosignature_untrusted(Note(EXAMPLE, (most,)), witness) == MAX_SIZE
    beyond = cosign(EXAMPLE, "w", key, MAX_SIZE + 1)
    assert verify_cosignature_untrusted(Note(EXAMPLE, (beyond,)), witness) is None


def test_a_key_signs_in_the_way_of_its_kind_alone() -> None:
    key = LogKey.generate()
    log, witness = key.verifier("x"), key.verifier("x", COSIGNER)
    assert log.key_hash != witness.key_hash
    bare, timed = key.sign(EXAMPLE.encode()), cosign(EXAMPLE, "x", key, 100).signature
    assert verify_untrusted(Note(EXAMPLE, (NoteSignature("x", log.key_hash, bare),)), log)
    assert not verify_untrusted(Note(EXAMPLE, (NoteSignature("x", witness.key_hash, bare),)), witness)
    assert verify_cosignature_untrusted(Note(EXAMPLE, (NoteSignature("x", witness.key_hash, timed),)), witness) == 100
    assert verify_cosignature_untrusted(Note(EXAMPLE, (NoteSignature("x", log.key_hash, timed),)), log) is None


def test_a_signature_of_a_known_key_that_does_not_verify_spoils_the_note() -> None:
    """As C2SP has it: a reader who checks only one of them would see another note."""
    key = VerifierKey.parse_untrusted(PETER)
    entry = NoteSignature.parse_untrusted(PETER_LINE)
    bad = replace(entry, signature=entry.signature[:-1] + b"\0")
    assert verify_untrusted(Note(TEXT, (entry, entry)), key)
    assert not verify_untrusted(Note(TEXT, (entry, bad)), key)
    assert not verify_untrusted(Note(TEXT, (bad, entry)), key)
    stranger = replace(bad, key_hash=b"\0\0\0\0")
    assert verify_untrusted(Note(TEXT, (stranger, entry)), key), "an unknown key does not matter"
    assert not verify_untrusted(Note(TEXT, (replace(entry, key_hash=b"\0\0\0\0"),)), key)
    assert not verify_untrusted(Note(TEXT, (replace(entry, name="Peter"),)), key)


def test_a_public_key_that_is_none_verifies_nothing() -> None:
    for public in (b"\xff" * 32, b"\x02" + bytes(31)):
        key = VerifierKey("x", public)
        assert not verify_untrusted(Note(TEXT, (NoteSignature("x", key.key_hash, bytes(64)),)), key)


def test_the_private_key_goes_into_a_file_and_never_into_text() -> None:
    key = LogKey.generate()
    again = LogKey.from_pem(key.pem())
    assert again.public == key.public
    assert again.sign(b"x") == key.sign(b"x")
    assert repr(key) == f"<LogKey {key.public.hex()[:16]}>"
    for pem in (b"", b"garbage", key.pem()[:-40], b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(Malformed, match="cannot be read"):
            LogKey.from_pem(pem)


def test_a_key_of_another_kind_is_not_the_key_of_a_log() -> None:
    ((_, der),) = identity("rsa").pkcs8()
    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"
    with pytest.raises(Malformed, match="is an Ed25519 key"):
        LogKey.from_pem(pem)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\tb", "a\nb", "a\u2003b", "a\u00a0b"])
def test_names_that_cannot_be_one(name: str) -> None:
    with pytest.raises(Malformed, match="the name of a key"):
        sign_note(TEXT, name, peter())


# What is refused --------------------------------------------------------------------------------------------------

BAD_NOTES = {
    "no signatures": TEXT,
    "no signatures behind the empty line": TEXT + "\n",
    "no end of the line": TEXT + "\n" + PETER_LINE[:-1],
    "a control character": "\x01" + TEXT + "\n" + PETER_LINE,
    "a carriage return": TEXT + "\n" + PETER_LINE[:-1] + "\r\n",
    "a bad name": TEXT + "\n" + PETER_LINE.replace("PeterNeumann", "Bad Name"),
    "a plus in a name": TEXT + "\n" + PETER_LINE.replace("PeterNeumann", "Peter+Neumann"),
    "no name": TEXT + "\n" + PETER_LINE.replace("PeterNeumann", ""),
    "another line": TEXT + "\n" + PETER_LINE + "Unexpected line.\n",
    "a hyphen for the dash": TEXT + "\n" + PETER_LINE.replace("—", "-"),
    "two blanks": TEXT + "\n" + PETER_LINE.replace("Neumann ", "Neumann  "),
    "no padding": TEXT + "\n" + PETER_LINE.replace("=", ""),
    "base64 with other letters": TEXT + "\n" + PETER_LINE.replace("/", "_"),
    "base64 with bits behind its end": TEXT + "\n" + PETER_LINE.replace("nAM=", "nAN="),
    "a signature of nothing": TEXT + "\n— PeterNeumann x08gow==\n",
    "nothing": "",
    "an empty line": "\n\n",
    "a line above the text missing": "\n" + PETER_LINE,
    "too many": TEXT + "\n" + PETER_LINE * (MAX_SIGNATURES + 1),
}


@pytest.mark.parametrize("name", BAD_NOTES)
def test_malformed_notes(name: str) -> None:
    with pytest.raises(Malformed):
        Note.parse_untrusted(BAD_NOTES[name].encode())


def test_a_note_is_utf_8() -> None:
    with pytest.raises(Malformed, match="UTF-8"):
        Note.parse_untrusted(b"\xff" + (TEXT + "\n" + PETER_LINE).encode())


def test_a_text_may_have_empty_lines() -> None:
    """Only the last one parts it from the signatures."""
    text = "one\n\n— PeterNeumann x08go/ZJ\n\ntwo\n"
    signed = sign_note(text, "PeterNeumann", peter())
    assert Note.parse_untrusted(signed.encode()) == signed
    assert verify_untrusted(signed, VerifierKey.parse_untrusted(PETER))


def test_32_signatures_and_16_kib_are_the_most() -> None:
    assert len(note(*[PETER_LINE] * MAX_SIGNATURES).signatures) == MAX_SIGNATURES
    rest = len(("\n" + PETER_LINE).encode())
    longest = "x" * (MAX_NOTE - rest - 1) + "\n"
    assert note(PETER_LINE, text=longest).text == longest
    with pytest.raises(Malformed, match="too long"):
        note(PETER_LINE, text="x" + longest)


def test_no_part_of_a_verifier_key_can_be_left_out_or_changed() -> None:
    """As note_test.go mangles it."""
    for start in range(len(PETER)):
        for end in range(start + 1, len(PETER) + 1):
            if (start, end) != (0, len(PETER)):
                with pytest.raises(Malformed):
                    VerifierKey.parse_untrusted(PETER[start:end])
    for at, letter in enumerate(PETER):
        with pytest.raises(Malformed):
            VerifierKey.parse_untrusted(PETER[:at] + chr(ord(letter) + 1) + PETER[at + 1 :])


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # wrong length, right hash
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # unknown algorithm, right hash
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        PETER + "\n",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "rekor.sigstore.dev+12345678+AwEB",
    ],
)
def test_verifier_keys_that_are_none(vkey: str) -> None:
    with pytest.raises(Malformed):
        VerifierKey.parse_untrusted(vkey)


ROOT = base64.b64encode(bytes(range(32))).decode()
BAD_CHECKPOINTS = {
    "empty": "",
    "no end of the line": f"o\n1\n{ROOT}",
    "two lines": "o\n1\n",
    "an extension": f"o\n1\n{ROOT}\nmore\n",
    "an empty line": f"o\n1\n{ROOT}\n\n",
    "no origin": f"\n1\n{ROOT}\n",
    "size 0": f"o\n0\n{ROOT}\n",
    "a leading zero": f"o\n01\n{ROOT}\n",
    "a sign": f"o\n+1\n{ROOT}\n",
    "negative": f"o\n-1\n{ROOT}\n",
    "a blank": f"o\n1 \n{ROOT}\n",
    "other digits": f"o\n\N{ARABIC-INDIC DIGIT ONE}\n{ROOT}\n",
    "grouped": f"o\n1_000\n{ROOT}\n",
    "2^63": f"o\n{2**63}\n{ROOT}\n",
    "very long": f"o\n{'9' * 5000}\n{ROOT}\n",
    "a short root": f"o\n1\n{base64.b64encode(bytes(31)).decode()}\n",
    "a long root": f"o\n1\n{base64.b64encode(bytes(33)).decode()}\n",
    "a root with bits behind its end": f"o\n1\n{ROOT.replace('8=', '9=')}\n",
    "a root in other letters": f"o\n1\n{ROOT.replace('A', 'é')}\n",
    "no root": "o\n1\n\n",
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_malformed_checkpoints(name: str) -> None:
    with pytest.raises(Malformed):
        Checkpoint.parse_untrusted(BAD_CHECKPOINTS[name])


@pytest.mark.parametrize("size", [1, 10, MAX_SIZE])
def test_checkpoints(size: int) -> None:
    text = f"o\n{size}\n{ROOT}\n"
    assert Checkpoint.parse_untrusted(text) == Checkpoint("o", size, bytes(range(32)))
    assert Checkpoint("o", size, bytes(range(32))).encode() == text
