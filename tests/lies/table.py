"""What a lying server tries, and what becomes of it: one row a lie, each performed by the act of its name in `acts`.

`docs/security.md` shows this table; `markdown()` writes it. alice is the victim, bob her peer, carol a third.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LIES", "LieRow", "markdown"]

AT_LOGIN = "at the next login"
AT_ONCE = "at once, while logged in"
AT_CALL = "when the call is accepted, before anything is sent"
AT_CHAT = "with the first message of the next chat with anybody who saw the other log"


@dataclass(frozen=True, slots=True)
class LieRow:
    name: str
    does: str  # the server
    seen_by: str  # whose client
    when: str
    event: str  # class in messageapp.client.events
    shows: str  # in the line on the screen


LIES = (
    LieRow(
        "other_key",
        "gives alice a key of its own as bob's, with the proof of the right one",
        "alice",
        AT_CALL,
        "ChatFailed",
        "the key log has another key for bob than the server gives",
    ),
    LieRow(
        "key_not_logged",
        "gives alice a key of its own as bob's, without a proof",
        "alice",
        AT_CALL,
        "ChatFailed",
        "the server does not show the key of bob in its key log",
    ),
    LieRow(
        "forged_proof",
        "proves a key of its own with a leaf that is not in the log",
        "alice",
        AT_CALL,
        "ChatFailed",
        "the key of bob is not in the key log",
    ),
    LieRow(
        "proof_of_another_log",
        "proves a key of its own in a log that another key has signed",
        "alice",
        AT_CALL,
        "ChatFailed",
        "the key log that the server shows for bob is signed by an unknown key",
    ),
    LieRow(
        "somebody_elses_leaf",
        "gives alice carol's key and leaf as bob's",
        "alice",
        AT_CALL,
        "ChatFailed",
        "the server shows somebody else's entry of the key log for bob",
    ),
    LieRow(
        "unreadable_proof",
        "gives a proof that is no proof",
        "alice",
        AT_CALL,
        "ChatFailed",
        "what the server shows of its key log for bob cannot be read",
    ),
    LieRow(
        "old_leaf",
        "gives bob's key of before his change, with its old proof",
        "alice",
        AT_CALL,
        "ChatFailed",
        "the key log has a newer key for bob than the server gives",
    ),
    LieRow(
        "revocation_ignored",
        "gives a revoked key, with its proof of before",
        "alice",
        AT_CALL,
        "ChatFailed",
        "the key of bob was revoked",
    ),
    LieRow(
        "hidden_revocation",
        "shows alice a log that ends before bob's revocation",
        "alice",
        AT_CHAT,
        "LogAlarmed",
        "the server hides from you what others see in the key log",
    ),
    LieRow(
        "fork",
        "shows alice a log in which bob has another key, and everybody else the right one",
        "alice",
        AT_CHAT,
        "LogAlarmed",
        "the server has signed two key logs that do not agree",
    ),
    LieRow(
        "fork_seen_by_the_other",
        "the same; carol is shown the right log, and alice's by alice",
        "carol",
        AT_CHAT,
        "LogAlarmed",
        "the server has signed two key logs that do not agree",
    ),
    LieRow(
        "fork_of_the_past",
        "shows a larger log that does not begin with the one alice holds",
        "alice",
        AT_LOGIN,
        "LogAlarmed",
        "the server has signed two key logs that do not agree",
    ),
    LieRow(
        "fork_under_way",
        "changes to another log of the same size during a session",
        "alice",
        AT_ONCE,
        "LogAlarmed",
        "the server has signed two key logs that do not agree",
    ),
    LieRow(
        "fork_in_a_proof",
        "proves bob's key in another log that it has signed too",
        "alice",
        AT_CALL,
        "LogAlarmed",
        "the server has signed two key logs that do not agree",
    ),
    LieRow(
        "fork_of_proofs",
        "the same as a fork of the past, towards a client that asks for proofs alone",
        "alice",
        AT_LOGIN,
        "LogAlarmed",
        "the server has signed two key logs that do not agree",
    ),
    LieRow(
        "other_leaves",
        "gives other leaves than those that its checkpoint is over",
        "alice",
        AT_ONCE,
        "LogAlarmed",
        "the server has signed two key logs that do not agree",
    ),
    LieRow(
        "rollback",
        "shows an older log than before",
        "alice",
        AT_LOGIN,
        "LogAlarmed",
        "the server shows an older key log than before",
    ),
    LieRow(
        "no_log_any_more",
        "shows no log to a client that knows one",
        "alice",
        AT_LOGIN,
        "LogAlarmed",
        "the server keeps no key log any more",
    ),
    LieRow(
        "log_key_swapped",
        "begins another log, with another key",
        "alice",
        AT_LOGIN,
        "LogAlarmed",
        "the key log is signed by another key than before",
    ),
    LieRow(
        "unsigned_checkpoint",
        "shows a checkpoint that the key of its log has not signed",
        "alice",
        AT_LOGIN,
        "LogAlarmed",
        "the server's checkpoint is not signed by the key of its log",
    ),
    LieRow(
        "unbound_log_key",
        "names a key of its log that its certificate has not signed",
        "alice",
        "at the first login",
        "LogAlarmed",
        "the key of the log is not signed by the server's certificate",
    ),
    LieRow(
        "own_name_reset",
        "writes a key of its own under alice's name, as an administrator's reset",
        "alice",
        AT_ONCE,
        "LogAlarmed",
        "the key log gives your name to a key that is not yours: reset by the server's administrator",
    ),
    LieRow(
        "own_name_away",
        "the same while alice is away, and takes it back before she returns",
        "alice",
        AT_LOGIN,
        "LogAlarmed",
        "the key log gives your name to a key that is not yours",
    ),
    LieRow(
        "own_key_missing",
        "lets alice in with a key that its log does not have",
        "alice",
        "ten seconds after the login",
        "LogAlarmed",
        "the key log does not have your key",
    ),
    LieRow(
        "peer_reset",
        "writes a key of its own under bob's name, as an administrator's reset",
        "alice",
        AT_ONCE,
        "PeerKeyChanged",
        "The server's administrator has reset the key of bob",
    ),
    LieRow(
        "peer_changed_unsigned",
        "writes a key of its own under bob's name, as if bob had changed it",
        "alice",
        AT_ONCE,
        "PeerKeyChanged",
        "The old key of bob has not signed the new one",
    ),
    LieRow(
        "broken_rules",
        "writes a leaf that does not follow the one before",
        "alice",
        AT_ONCE,
        "LogAlarmed",
        "the key log breaks its own rules",
    ),
    LieRow(
        "silence",
        "does not answer about its log",
        "alice",
        "twenty seconds after the login; no chat begins",
        "LogTrouble",
        "the server does not answer about its key log",
    ),
    LieRow(
        "wrong_bundle",
        "gives another bundle than the leaf of bob's new key is about",
        "alice",
        AT_ONCE,
        "LogTrouble",
        "the server gives another key than its log has",
    ),
    LieRow(
        "withheld_messages",
        "keeps a message of bob's back",
        "alice",
        "with the next message of bob's",
        "Missing",
        "1 message from bob did not arrive",
    ),
    LieRow(
        "late_messages",
        "changes the order of two messages of bob's",
        "alice",
        "with the first of them",
        "Missing",
        "1 message from bob did not arrive",
    ),
    LieRow(
        "repeated_message",
        "delivers a message of bob's twice",
        "alice",
        AT_ONCE,
        "UndecryptableText",
        "a message from bob could not be decrypted",
    ),
    LieRow(
        "replayed_invite",
        "connects alice with bob once more, with the invite of an earlier call",
        "alice",
        AT_ONCE,
        "Ended",
        "the server connects us with someone who was not called",
    ),
    LieRow(
        "replayed_exchange",
        "answers a call with what the peer sent in an earlier one",
        "alice",
        "before anything but C1 is sent",
        "ChatFailed",
        "somebody may be between you",
    ),
)


def markdown() -> str:
    """The table as the documentation has it."""
    lines = ["| The server … | who sees it | when | what it shows |", "|---|---|---|---|"]
    lines += [f"| {row.does} | {row.seen_by} | {row.when} | {row.shows} |" for row in LIES]
    return "\n".join(lines) + "\n"
