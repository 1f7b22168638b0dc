"""Known-answer vectors of the login (protocol §19): check a document of them with the code that serves and connects.

Encapsulation, OAEP and PSS are randomised, so a vector cannot be reproduced: it is replayed as a third party who holds
the temporary private keys. Every step below is a call of the functions that real logins use; a wrong label, order or
length in one of them makes its value differ. Each value, signature and opening counts as one check.
"""

from __future__ import annotations

from datetime import datetime

from messageapp_keys import labels
from messageapp_keys.certificate import Certificate, ServerLeaf, verify_chain_untrusted
from messageapp_keys.codec import vec8
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.kem import Suite, TemporaryKey
from messageapp_keys.primitives import expand_label, open_once, same
from messageapp_keys.types import HandshakeKey, SessionKey, TrafficSecret
from messageapp_keys.vectorkeys import MLKEM_REJECTED, load_temporary_key_untrusted, mlkem_rejected_untrusted

from .frames import Frame
from .login import (
    LOGIN_COMPLETE,
    Welcome,
    handshake_prk,
    login_body,
    master_secret,
    session_secrets,
    transcript_3,
    transcript_e,
    transcript_m2,
)
from .messages import HIDE_USER, M1, M2, M3, VERSION, M3Proof
from .records import Kind, Record, RecordOpener
from .vector_cases import DERIVED, RECORD_0, RECORD_1, Case, Report, read_case_untrusted, read_document_untrusted

__all__ = ["check", "key_schedule_untrusted"]


def check(document: object) -> tuple[int, list[str]]:
    """(checks passed, one sentence for each that failed) for a parsed JSON document, whatever it holds.

    Raises nothing. A sentence begins with the name of its case; a field that is missing or unknown is a failure. What
    cannot be reached behind a failure is not counted. About 0.2 s a case with RSA. Source: protocol §19; the fields
    are described in keys/vectors/README.md.
    """
    report = Report()
    with report.part("not usable"):
        root, when, cases = read_document_untrusted(document)
        for number, entry in enumerate(cases, 1):
            report.case = f"case {number}"
            with report.part("not usable"):
                _check_case(read_case_untrusted(entry, report), root, when, report)
    return report.passed, report.failures


def key_schedule_untrusted(suite: Suite, temporary: TemporaryKey, m1: Frame, m2: Frame, m3: Frame) -> dict[str, bytes]:
    """Every value between the frames and the record keys, by its name in a vector.

    Uses up `temporary`. Raises `Malformed` for frames that hold no M2 and M3 of this suite. Source: protocol §4.3–§4.5.
    """
    core, encapsulated = M2.parse_untrusted(m2.body).core_bytes, M3.parse_untrusted(m3.body).encapsulated
    keying_material = temporary.decapsulate_untrusted(encapsulated, bytes(32))
    prk = handshake_prk(suite, keying_material)
    sealing, final = transcript_e(m1.wire, m2.wire, encapsulated), transcript_3(m1.wire, m2.wire, m3.wire)
    master = master_secret(prk, final)
    secrets = session_secrets(master, final)
    updated = expand_label(secrets.c2s, labels.TRAFFIC_UPDATE, b"", TrafficSecret)
    return {
        "TH_M2": transcript_m2(m1.wire, core),
        "TH_E": sealing,
        "IKM": keying_material,
        "PRK": prk.expose(),
        "k_m3": expand_label(prk, labels.M3_AUTH, sealing, HandshakeKey).expose(),
        "TH_M3": final,
        "master": master.expose(),
        "s_c2s_0": secrets.c2s.expose(),
        "s_s2c_0": secrets.s2c.expose(),
        "k_c2s_0": expand_label(secrets.c2s, labels.KEY, b"", SessionKey).expose(),
        "k_s2c_0": expand_label(secrets.s2c, labels.KEY, b"", SessionKey).expose(),
        "session_id": secrets.session_id,
        "exporter": secrets.exporter.expose(),
        "k_c2s_1": expand_label(updated, labels.KEY, b"", SessionKey).expose(),
    }


def _check_case(case: Case, root: Certificate, when: datetime, report: Report) -> None:
    frames = case.frames
    m1 = M1.parse_untrusted(frames["M1"].body)
    m2 = M2.parse_untrusted(frames["M2"].body)
    report.expect("user in M1", m1.username == ("" if m1.flags & HIDE_USER else case.user))
    report.expect("server in M1", m1.server == case.server)
    report.expect("version in M2", m2.core.version == VERSION and VERSION in m1.versions)
    report.expect("suite in M2", m2.core.suite == case.suite.code and case.suite.code in m1.suites)
    temporary = load_temporary_key_untrusted(case.suite, case.values)
    report.expect("TempPub in M2", temporary.public == m2.core.temp_pub)
    if MLKEM_REJECTED in case.values:
        report.expect(MLKEM_REJECTED, same(mlkem_rejected_untrusted(case.values), case.values[MLKEM_REJECTED]))
    derived = key_schedule_untrusted(case.suite, temporary, frames["M1"], frames["M2"], frames["M3"])
    for name in DERIVED:
        if name in case.values:  # else it was reported as missing
            report.expect(name, same(derived[name], case.values[name]))
    with report.part("chain"):
        leaf = verify_chain_untrusted(m2.core.chain, root, m1.server, when)
        report.expect("chain", True)
        _check_signatures(case, m1, m2, leaf, derived, report)
        _check_m4(case, leaf, derived, report)
    with report.part("records"):
        _check_records(case, derived, report)


def _check_signatures(case: Case, m1: M1, m2: M2, leaf: ServerLeaf, derived: dict[str, bytes], report: Report) -> None:
    verifier = leaf.verifying_key
    report.expect("signature algorithm of M2", verifier.algorithm == m2.core.sigalg and m2.core.sigalg in m1.sigalgs)
    report.expect("signature of M2", verifier.verify_untrusted(labels.SIG_M2, derived["TH_M2"], m2.signature))
    with report.part("M3"):
        bundle = IdentityBundle.parse_untrusted(case.values["identity_bundle"])
        sealed = M3.parse_untrusted(case.frames["M3"].body).sealed
        proof = M3Proof.parse_untrusted(open_once(HandshakeKey(derived["k_m3"]), sealed, derived["TH_E"]))
        report.expect("sealed part of M3", True)
        report.expect("user in M3", proof.username == case.user)
        report.expect("key_id", same(bundle.key_id, case.values["key_id"]))
        report.expect("key_id in M3", same(proof.key_id, bundle.key_id))
        body = login_body(derived["TH_E"], proof.username, m1.server, leaf.spki_hash)
        report.expect("signatures of M3", bundle.verify_untrusted(labels.SIG_M3, body, proof.signatures))


def _check_m4(case: Case, leaf: ServerLeaf, derived: dict[str, bytes], report: Report) -> None:
    with report.part("M4"):
        record = RecordOpener(TrafficSecret(derived["s_s2c_0"]), case.user).open_untrusted(case.frames["M4"].body)
        report.expect("head of M4", (record.kind, record.id, record.verb) == (Kind.EVENT, 0, b"okay"))
        if record.argument != vec8(LOGIN_COMPLETE.encode()):  # so it was once; now TLVs follow (§4.5)
            report.expect("server in M4", Welcome.parse_untrusted(record.argument).server_name in leaf.names)
        report.expect("text of M4", True)


def _check_records(case: Case, derived: dict[str, bytes], report: Report) -> None:
    opener = RecordOpener(TrafficSecret(derived["s_c2s_0"]), case.user)
    for name, verb in ((RECORD_0, b"list"), (RECORD_1, b"exit")):
        record = opener.open_untrusted(case.frames[name].body)
        report.expect(name, record == Record(Kind.REQUEST, record.id, verb, b"x"))
        opener.update()
