"""One end of a connection, sans-IO: bytes in, frames and records out, legality from the table of `states`.

    login       receive_data → next_frame … send_frame     one frame a step, by the table
    session     start_session(sealer, opener, now), then receive_data → next_record, send_record → bytes

Whoever raises is done: after any `RemoteProtocolError` or `LocalProtocolError` the state is ERROR and every later call
raises again. Key updates are handled here: an `rkey` of the other side is obeyed and not shown; our own is put behind
the record that made it due (protocol §5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from messageapp.errors import LocalProtocolError, RemoteProtocolError
from messageapp_keys.primitives import Buffer

from .commands import BadArgument, UnknownVerb, Update, make, parse_untrusted
from .frames import Frame, FrameBuffer, FrameType, encode_frame
from .messages import Alert
from .records import UPDATE_AFTER_SECONDS, Kind, Packed, Record, RecordOpener, RecordSealer
from .states import RECEIVES, SENDS, Role, State

__all__ = ["Connection"]


class Connection:
    """`role` is ours. Not for two readers or two writers at once; one of each is fine."""

    __slots__ = ("_buffer", "_key_since", "_opener", "_peer", "_sealer", "role", "state")

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.START
        self._peer = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        self._buffer = FrameBuffer()
        self._sealer: RecordSealer | None = None
        self._opener: RecordOpener | None = None
        self._key_since = 0.0

    # login ------------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        self._buffer.feed(data)

    @property
    def mid_frame(self) -> bool:
        """True where the bytes so far end inside a frame."""
        return self._buffer.pending > 0

    def next_frame(self) -> Frame | None:
        """The next frame that is legal now, or None for want of bytes. `RemoteProtocolError` for any other."""
        legal = RECEIVES[self.role].get(self.state)
        if not legal:
            if self.state in (State.CLOSED, State.ERROR) or self._buffer.pending:
                self.state = State.ERROR
                raise RemoteProtocolError("bytes where none are in turn", 1)
            return None
        try:
            frame = self._buffer.next_untrusted(legal)
        except RemoteProtocolError:
            self.state = State.ERROR
            raise
        if frame is not None:
            self.state = legal[frame.type]
        return frame

    def send_frame(self, kind: FrameType, frame: bytes) -> bytes:
        """Note that `frame` (whole bytes) is sent; `LocalProtocolError` where it is not in turn."""
        legal = SENDS[self.role].get(self.state, {})
        if kind not in legal:
            self.state = State.ERROR
            raise LocalProtocolError(f"{kind.name} is not in turn")
        self.state = legal[kind]
        return frame

    def alert(self, alert: Alert) -> bytes:
        """An ALERT to send before closing; nothing where none may be sent any more."""
        keys_exist = self.state is State.SESSION or self._sealer is not None
        if self.role is Role.CLIENT or keys_exist or self.state is State.CLOSED:
            return b""
        self.state = State.CLOSED
        return encode_frame(FrameType.ALERT, alert.encode())

    # session ----------------------------------------------------------------------------------------------------------

    def start_session(self, sealer: RecordSealer, opener: RecordOpener, now: float) -> None:
        """After M4 was sent or opened. `now` is monotonic, in seconds."""
        self._sealer, self._opener, self._key_since = sealer, opener, now

    def next_record(self) -> Record | None:
        """The next record for the layer above, or None for want of bytes. `RemoteProtocolError` ends the session."""
        packed = next(self.packed_records(), None)
        return None if packed is None else Record.unpack(packed)

    def packed_records(self) -> Iterator[Packed]:
        """All that are there, as `next_record`, in the form in which they can be relayed."""
        opener = self._opener
        if opener is None:
            self.state = State.ERROR
            raise LocalProtocolError("no session yet")
        if self.state is not State.SESSION:
            self.next_frame()  # before M4 nothing may come, after the end neither
            return
        try:
            for body in self._buffer.records_untrusted():
                packed = opener.open_packed_untrusted(body)
                if packed[5:9] == b"rkey":
                    self._follow_update(opener, Record.unpack(packed))
                else:
                    yield packed
        except RemoteProtocolError:
            self.state = State.ERROR
            raise

    def _follow_update(self, opener: RecordOpener, record: Record) -> None:
        try:
            update: Update = parse_untrusted(self._peer, record)
        except (BadArgument, UnknownVerb):
            raise RemoteProtocolError("a key update has not the form of one") from None
        if update.generation != opener.generation + 1:
            raise RemoteProtocolError("a key update skips a key")
        opener.update()

    def send_record(self, record: Record, now: float) -> bytes:
        """The bytes of one record, followed by a key update where one is due."""
        return self.send_packed([record.pack()], now)

    def send_packed(self, records: Sequence[Packed], now: float) -> bytes:
        """The bytes of these records in their order, each followed by a key update where one is due."""
        sealer = self._sealer
        if sealer is None or self.state is not State.SESSION:
            self.state = State.ERROR
            raise LocalProtocolError("no session to send in")
        old = now - self._key_since >= UPDATE_AFTER_SECONDS
        parts: list[Buffer] = []
        try:
            done = sealer.seal_run(records[:1] if old else records, parts)
            while old or done < len(records) or sealer.update_due:
                sealer.seal_run([make(Kind.EVENT, 0, "rkey", Update(sealer.generation + 1)).pack()], parts)
                sealer.update()
                self._key_since, old = now, False
                done += sealer.seal_run(records[done:], parts)
        except LocalProtocolError:
            self.state = State.ERROR
            raise
        return b"".join(parts)
