"""Reading a document of known-answer vectors, and counting what is found (protocol §19). Nothing is believed here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from messageapp.errors import RemoteProtocolError
from messageapp_keys.certificate import Certificate, CertificateRefused
from messageapp_keys.codec import Malformed
from messageapp_keys.kem import SUITES, Suite
from messageapp_keys.names import is_username
from messageapp_keys.primitives import OpenFailed
from messageapp_keys.signing import UnusableKey
from messageapp_keys.vectorkeys import MLKEM_REJECTED, PRIVATE_FIELDS, load_root_untrusted

from .frames import Frame, FrameBuffer, FrameType

__all__ = [
    "DERIVED",
    "RECORD_0",
    "RECORD_1",
    "Case",
    "Report",
    "frame_untrusted",
    "read_case_untrusted",
    "read_document_untrusted",
]

RECORD_0: Final = "record_c2s_0_listx"
RECORD_1: Final = "record_c2s_1_exitx_after_one_update"
_FRAMES: Final = {
    "M1": FrameType.M1,
    "M2": FrameType.M2,
    "M3": FrameType.M3,
    "M4": FrameType.M4,
    RECORD_0: FrameType.RECORD,
    RECORD_1: FrameType.RECORD,
}
_SECRETS: Final = ("IKM", "PRK", "k_m3", "master", "s_c2s_0", "s_s2c_0", "k_c2s_0", "k_s2c_0", "k_c2s_1", "exporter")
DERIVED: Final = ("TH_M2", "TH_E", "TH_M3", "session_id", *_SECRETS)
_TEXTS: Final = ("name", "user", "server")
_DOCUMENT: Final = {"note", "validation_time", "root_der", "cases"}
_PLAIN: Final = re.compile(r"[A-Za-z0-9 ,.+_-]{1,60}", re.ASCII)
_SHOWN: Final = 60  # characters of a stranger's field name
_FAULTS: Final = (Malformed, CertificateRefused, OpenFailed, RemoteProtocolError, UnusableKey)


@dataclass(slots=True)
class Report:
    """What was found so far; `case` is put before each failure."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    case: str = "document"

    def fail(self, text: str) -> None:
        self.failures.append(f"{self.case}: {text}")

    def expect(self, what: str, good: bool) -> None:
        if good:
            self.passed += 1
        else:
            self.fail(f"{what} is wrong")

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """One failure for whatever keeps this part from being gone through to its end."""
        try:
            yield
        except _FAULTS as error:
            self.fail(f"{what}: {error}")


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its fields are read, nothing more."""

    suite: Suite
    user: str
    server: str
    values: Mapping[str, bytes] = field(repr=False)
    frames: Mapping[str, Frame] = field(repr=False)


def frame_untrusted(kind: FrameType, wire: bytes) -> Frame:
    """Exactly one whole frame of that type. `RemoteProtocolError` for its header, `Malformed` for its length."""
    buffer = FrameBuffer()
    buffer.feed(wire)
    frame = buffer.next_untrusted((kind,))
    if frame is None or buffer.pending:
        raise Malformed("not one whole frame")
    return frame


def read_document_untrusted(document: object) -> tuple[Certificate, datetime, list[object]]:
    """(root, time of validation, cases still to be read). `Malformed` for anything else."""
    if not isinstance(document, dict):
        raise Malformed("a vector file is a JSON object")
    when, root, cases = document.get("validation_time"), document.get("root_der"), document.get("cases")
    if not isinstance(when, str) or not isinstance(root, str) or not isinstance(cases, list) or not cases:
        raise Malformed("validation_time, root_der or cases is missing or of another kind")
    if document.keys() - _DOCUMENT:
        raise Malformed(f"unknown field {_shown(document.keys() - _DOCUMENT)}")
    try:
        moment = datetime.fromisoformat(when)
        der = bytes.fromhex(root)
    except ValueError:
        raise Malformed("validation_time is no time, or root_der not hexadecimal") from None
    if moment.tzinfo is None or not 1970 < moment.year < 9999:
        raise Malformed("validation_time has no zone, or a year that no certificate has")
    return load_root_untrusted(der), moment.astimezone(UTC), cases


def read_case_untrusted(entry: object, report: Report) -> Case:
    """Reports each field that is missing, unknown or unreadable; `Malformed` where the rest is of no use without it."""
    if not isinstance(entry, dict):
        raise Malformed("a case is a JSON object")
    name, code = entry.get("name"), entry.get("suite")
    if isinstance(name, str) and _PLAIN.fullmatch(name):
        report.case = name
    else:
        report.fail("name is missing or not plain")
    suite = SUITES.get(code) if type(code) is int else None  # True is not suite 1
    if suite is None:
        raise Malformed("suite is missing or unknown")
    privates = PRIVATE_FIELDS[suite.code]
    inputs = ("identity_bundle", "key_id", *_FRAMES, *privates)
    wanted = [*inputs, *DERIVED]
    if "temp_mlkem_seed" in privates and MLKEM_REJECTED in entry:
        wanted.append(MLKEM_REJECTED)
    unknown = entry.keys() - {"suite", *_TEXTS, *wanted}
    if unknown:
        report.fail(f"unknown field {_shown(unknown)}")
    values: dict[str, bytes] = {}
    for key in wanted:
        try:
            values[key] = bytes.fromhex(entry[key])
        except KeyError:
            report.fail(f"{key} is missing")
        except (TypeError, ValueError):
            report.fail(f"{key} is not hexadecimal")
    user, server = entry.get("user"), entry.get("server")
    if not isinstance(user, str) or not isinstance(server, str) or not is_username(user):
        raise Malformed("user or server is missing, or is none")
    if not values.keys() >= set(inputs):
        raise Malformed("a field without which nothing can be checked is missing or unreadable")
    frames: dict[str, Frame] = {}
    for key, kind in _FRAMES.items():
        with report.part(key):
            frames[key] = frame_untrusted(kind, values[key])
    if len(frames) < len(_FRAMES):
        raise Malformed("a frame without which nothing can be checked is unreadable")
    return Case(suite, user, server, values, frames)


def _shown(names: Iterable[object]) -> str:
    """One of a stranger's field names, printable."""
    return min(map(ascii, names))[:_SHOWN]
