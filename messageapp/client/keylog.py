"""What one account knows of one server's key log, and the judgement of what the server shows (protocol §12.5).

No network: `following` asks the server and brings the answers here. A state is stored only after it was verified, in
one transaction; another process of the same account may read on at the same time, so each step begins at what is
stored. What cannot be an honest server's is raised as `LogLied`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from messageapp.store.database import Database, transaction
from messageapp.store.keylog import LogStore
from messageapp.store.logs import (
    KnownLog,
    WitnessPolicy,
    find_log,
    find_policy,
    own_keys,
    remember_leaf,
    save_log,
    start_afresh,
)
from messageapp.wire.keylog_forms import LogHead, PeerProof
from messageapp_keys import labels
from messageapp_keys.codec import Malformed
from messageapp_keys.keylog import Leaf, follows, log_key_body, log_origin
from messageapp_keys.merkle import (
    EMPTY_ROOT,
    ProofRefused,
    leaf_hash,
    verify_consistency_untrusted,
    verify_inclusion_untrusted,
)
from messageapp_keys.notes import Checkpoint, Note, VerifierKey, verify_cosignature_untrusted, verify_untrusted
from messageapp_keys.signing import VerifyingKey

from .lies import KeyRefused, Lie, LogLied, Refusal

__all__ = ["KeyLog", "NoteRefused", "Own", "OwnEntries", "Shown", "Verdict"]

_COMPARED: Final = 64  # checkpoints remembered as compared where not all leaves are held


class NoteRefused(Exception):
    """A note that is not a checkpoint of this log, signed by its key."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A checkpoint under a signature of the log's key."""

    size: int
    root: bytes  # [32]
    note: Note
    data: bytes  # the note as it came


class Verdict(Enum):
    """What the log says of a peer's key, where it does not refuse it."""

    FINE = "fine"
    NEWER = "newer"  # shown in a checkpoint that is to be fetched first
    UNWITNESSED = "unwitnessed"


class Own(Enum):
    FINE = "fine"
    MISSING = "missing"
    REVOKED = "revoked"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class OwnEntries:
    """What the log says of the own name; `before` counts the entries before this account's first key."""

    own: Own
    before: int = 0
    leaf: Leaf | None = None  # the newest, or the first foreign one


class KeyLog:
    """`known` is None before the first contact; then `pin` comes first."""

    def __init__(self, database: Database, server: str, user: str) -> None:
        self.server = server
        self.user = user
        self.origin = log_origin(server)
        self._database = database
        self._compared: list[tuple[int, bytes]] = []
        self.known: KnownLog | None = None
        self.policy = WitnessPolicy()
        self.store = LogStore(database, server)
        self.refresh()

    # what is held -----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Take over what another process of this account has stored."""
        self.known = find_log(self._database, self.server)
        self.policy = find_policy(self._database, self.server)

    @property
    def size(self) -> int:
        return 0 if self.known is None else self.known.size

    @property
    def thin(self) -> bool:
        return self.known is not None and self.known.thin

    @property
    def note(self) -> bytes:
        """The newest checkpoint that was verified; empty before the first."""
        return b"" if self.known is None else self.known.note

    @property
    def verifier(self) -> VerifierKey | None:
        return None if self.known is None else VerifierKey(self.origin, self.known.log_key)

    def root(self) -> bytes:
        """[32] of what is held."""
        return self._held().root if self.size else EMPTY_ROOT

    def _held(self) -> Shown:
        try:
            return self.read_untrusted(self.note)
        except NoteRefused:
            raise LogLied(Lie.UNSIGNED, "the stored checkpoint is damaged", stored=self.note) from None

    # reading ----------------------------------------------------------------------------------------------------------

    def pin_untrusted(self, head: LogHead, server_key: VerifyingKey) -> Shown:
        """The checkpoint of `head`. The log's key is pinned if it is the first; it must be bound by the certificate."""
        known = self.known
        if known is not None and known.log_key != head.log_key:
            raise LogLied(Lie.LOG_KEY, shown=head.note, stored=known.note)
        body = log_key_body(self.server, head.log_key)
        if head.sigalg != server_key.algorithm or not server_key.verify_untrusted(
            labels.SIG_LOG_KEY, body, head.signature
        ):
            raise LogLied(Lie.UNBOUND, shown=head.note)
        if known is None:
            self.known = KnownLog(self.server, head.log_key)
        try:
            shown = self.read_untrusted(head.note)
        except NoteRefused:
            self.known = known
            raise LogLied(Lie.UNSIGNED, shown=head.note, stored=self.note) from None
        if known is None and self.known is not None:
            with transaction(self._database):
                if find_log(self._database, self.server) is None:
                    save_log(self._database, self.known)
        return shown

    def read_untrusted(self, data: bytes) -> Shown:
        """`NoteRefused` for anything but a checkpoint of this log under the pinned key."""
        verifier = self.verifier
        try:
            note = Note.parse_untrusted(data)
            checkpoint = Checkpoint.parse_untrusted(note.text)
        except Malformed:
            raise NoteRefused from None
        if verifier is None or checkpoint.origin != self.origin or not verify_untrusted(note, verifier):
            raise NoteRefused
        return Shown(checkpoint.size, checkpoint.root, note, data)

    # comparing --------------------------------------------------------------------------------------------------------

    def agrees(self, shown: Shown, proof: Sequence[bytes] | None = None, *, by_server: bool = True) -> bool:
        """Whether `shown`, not larger than what is held, is part of it; `LogLied` where it is not.

        False: not all leaves are held, and a consistency `proof` from `shown` to the size that is held is needed. What
        the server shows may bring signatures of witnesses; a peer's note could bring any number of lines.
        """
        known = self.known
        assert known is not None  # noqa: S101 - there is no `Shown` before
        if shown.size == known.size or not known.thin:
            root = self.root() if shown.size == known.size else self.store.root(shown.size)
            if root != shown.root:
                raise LogLied(Lie.FORK, f"at {shown.size:,} entries", shown.data, known.note)
            if by_server:
                self._take_signatures(shown)
            return True
        if (shown.size, shown.root) in self._compared:
            return True
        if proof is None:
            return False
        self._verify_consistency(shown, self._held(), proof, shown)
        self._compared = [*self._compared[-_COMPARED:], (shown.size, shown.root)]
        return True

    def _verify_consistency(self, old: Shown, new: Shown, proof: Sequence[bytes], shown: Shown) -> None:
        try:
            verify_consistency_untrusted(old.size, old.root, new.size, new.root, proof)
        except ProofRefused as error:
            raise LogLied(Lie.FORK, str(error), shown.data, self.note) from None

    def _take_signatures(self, shown: Shown) -> None:
        """Witnesses may have signed the checkpoint that is held, or one before it, meanwhile."""
        known = self.known
        assert known is not None  # noqa: S101 - there is no `Shown` before
        by = replace(known, witnessed_size=max(known.witnessed_size, self._witnessed(shown)))
        if shown.size == known.size and len(shown.note.signatures) > len(self._held().note.signatures):
            by = replace(by, note=shown.data)
        if by != known:
            self._replace(known, by)

    def _witnessed(self, shown: Shown) -> int:
        """The size, if enough of the witnesses have cosigned; else 0."""
        good = 0
        for vkey in set(self.policy.witnesses):
            try:
                witness = VerifierKey.parse_untrusted(vkey)
            except Malformed:
                continue
            good += verify_cosignature_untrusted(shown.note, witness) is not None
        return shown.size if 0 < self.policy.needed <= good else 0

    # growing ----------------------------------------------------------------------------------------------------------

    def replay(self, shown: Shown, encoded: Sequence[bytes]) -> bool:
        """Take the leaves from `replay_start` to `shown.size`, if they make its root: all of them, or `LogLied`.

        False where another process was faster: nothing has changed, `refresh` and look again.
        """
        known = self.known
        assert known is not None  # noqa: S101 - there is no `Shown` before
        start = self.replay_start
        try:
            with transaction(self._database):
                if find_log(self._database, self.server) != known:
                    return False
                if known.thin:
                    start_afresh(self._database, self.server)
                self._check_rules(start, encoded, shown)
                self.store.append(encoded)
                whole = len(encoded) == shown.size - start
                was_there = not known.thin or known.size == 0 or self.store.root(known.size) == self.root()
                if not whole or not was_there or self.store.root(shown.size) != shown.root:
                    detail = f"the entries {start:,} to {shown.size - 1:,} do not lead to it"
                    raise LogLied(Lie.FORK, detail, shown.data, self.note)
                grown = self._grown(known, shown, thin=False)
                save_log(self._database, grown)
        except Malformed as error:
            raise LogLied(Lie.RULES, str(error), shown.data, self.note) from None
        self.known = grown
        return True

    @property
    def replay_start(self) -> int:
        """The first leaf that is not held."""
        return 0 if self.thin else self.size

    def step(self, shown: Shown, proof: Sequence[bytes]) -> bool:
        """Take a larger checkpoint by its consistency proof alone. False as in `replay`; `LogLied`."""
        known = self.known
        assert known is not None  # noqa: S101 - there is no `Shown` before
        if known.size:
            self._verify_consistency(self._held(), shown, proof, shown)
        self._compared.clear()
        return self._replace(known, self._grown(known, shown, thin=True))

    def _replace(self, known: KnownLog, by: KnownLog) -> bool:
        """False where another process was faster."""
        with transaction(self._database):
            if find_log(self._database, self.server) != known:
                return False
            save_log(self._database, by)
        self.known = by
        return True

    def _grown(self, known: KnownLog, shown: Shown, *, thin: bool) -> KnownLog:
        witnessed = max(known.witnessed_size, self._witnessed(shown))
        return replace(known, note=shown.data, size=shown.size, witnessed_size=witnessed, thin=thin)

    def _check_rules(self, start: int, encoded: Sequence[bytes], shown: Shown) -> None:
        """Versions and numbers of previous leaves, as protocol §12.1 has them."""
        last: dict[str, tuple[int, Leaf] | None] = {}
        for number, data in enumerate(encoded, start):
            try:
                leaf = Leaf.parse_untrusted(data)
            except Malformed as error:
                raise LogLied(Lie.RULES, f"entry {number:,}: {error}", shown.data, self.note) from None
            if leaf.folded not in last:
                last[leaf.folded] = self.store.latest(leaf.folded) if start else None  # most often the first time
            if not follows(leaf, last[leaf.folded]):
                raise LogLied(Lie.RULES, f"entry {number:,} does not follow the one before", shown.data, self.note)
            last[leaf.folded] = (number, leaf)

    def remember(self, number: int, data: bytes, proof: Sequence[bytes]) -> Leaf:
        """One leaf of the checkpoint that is held, by its inclusion proof. `LogLied`."""
        held = self._held()
        try:
            leaf = Leaf.parse_untrusted(data)
            verify_inclusion_untrusted(leaf_hash(data), number, held.size, proof, held.root)
        except (Malformed, ProofRefused) as error:
            raise LogLied(Lie.FORK, f"entry {number:,}: {error}", shown=held.data) from None
        remember_leaf(self._database, self.server, number, leaf.folded, data)
        return leaf

    # judging ----------------------------------------------------------------------------------------------------------

    def judge_untrusted(self, peer: str, key_id: bytes, data: bytes) -> tuple[Verdict, Shown, int]:
        """Whether the proof in `pubk` confirms `key_id` for `peer`; with its checkpoint and the leaf's number.

        Raises `KeyRefused`, and `LogLied` where the checkpoint is of another log. After `NEWER` the checkpoint is to be
        fetched, then asked again.
        """
        if not data:
            raise KeyRefused(Refusal.NO_PROOF, peer)
        try:
            proof = PeerProof.parse_untrusted(data)
            leaf = Leaf.parse_untrusted(proof.leaf)
        except Malformed:
            raise KeyRefused(Refusal.MALFORMED, peer) from None
        try:
            shown = self.read_untrusted(proof.note)
        except NoteRefused:
            raise KeyRefused(Refusal.UNSIGNED, peer) from None
        if leaf.user != peer:
            raise KeyRefused(Refusal.WRONG_USER, peer)
        if leaf.key_id != key_id:
            raise KeyRefused(Refusal.WRONG_KEY, peer)
        if leaf.revoked:
            raise KeyRefused(Refusal.REVOKED, peer)
        try:
            verify_inclusion_untrusted(leaf_hash(proof.leaf), proof.index, shown.size, proof.proof, shown.root)
        except ProofRefused as error:
            raise KeyRefused(Refusal.NOT_INCLUDED, peer, str(error)) from None
        if shown.size > self.size or not self.agrees(shown):
            return Verdict.NEWER, shown, proof.index
        latest = self.store.latest(peer)
        if latest is not None and latest[0] > proof.index:
            raise KeyRefused(Refusal.REVOKED if latest[1].revoked else Refusal.OLDER, peer)
        if self.known is not None and self.policy.needed and proof.index >= self.known.witnessed_size:
            return Verdict.UNWITNESSED, shown, proof.index
        return Verdict.FINE, shown, proof.index

    def own_entries(self) -> OwnEntries:
        """What the leaves that are held say of the own name (protocol §12.5, rule 4)."""
        keys, accepted = own_keys(self._database), 0 if self.known is None else self.known.accepted
        before, seen, newest = 0, False, None
        retired: set[bytes] = set()  # own keys that gave way to another own one: whoever has stolen one has it still
        for number, leaf in self.store.of_user(self.user):
            if newest is not None and newest[1].key_id in keys and newest[1].key_id != leaf.key_id:
                retired.add(newest[1].key_id)
            newest = (number, leaf)
            if leaf.key_id in keys and (leaf.key_id not in retired or number < accepted):
                seen = True
            elif not seen:
                before += 1
            elif number >= accepted:
                return OwnEntries(Own.FOREIGN, before, leaf)
        if newest is None or newest[1].key_id not in keys:
            settled = newest is not None and newest[0] < accepted
            return OwnEntries(Own.FINE if settled else Own.MISSING, before, newest[1] if newest else None)
        return OwnEntries(Own.REVOKED if newest[1].revoked else Own.FINE, before, newest[1])

    def later_leaves(self, peer: str, key_id: bytes) -> list[tuple[int, Leaf]]:
        """Those that changed the peer's key since it was `key_id`; all of them where it never was. Oldest first."""
        entries = self.store.of_user(peer)
        last = max((place for place, (_, leaf) in enumerate(entries) if _gives(leaf, key_id)), default=-1)
        return entries[last + 1 :]

    def raise_alarm(self, reason: str) -> None:
        """Keep it: nothing is sent any more, also after a restart."""
        with transaction(self._database):
            self.known = find_log(self._database, self.server)
            if self.known is not None:
                self.known = replace(self.known, alarm=reason)
                save_log(self._database, self.known)


def _gives(leaf: Leaf, key_id: bytes) -> bool:
    return leaf.key_id == key_id and not leaf.revoked
