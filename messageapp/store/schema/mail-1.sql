-- What waits for users who are away: public prekeys, and ciphertext with from, to and time. Nothing here opens a message.
CREATE TABLE devices (
    folded   TEXT NOT NULL,              -- lower-case name
    device   BLOB NOT NULL,              -- [16] the one that receives the user's messages; zeros before the first
    added_ms INTEGER NOT NULL,           -- when the user was enrolled: who has the name later gets nothing of this
    next_seq INTEGER NOT NULL,           -- of the next message for it
    messages INTEGER NOT NULL DEFAULT 0, -- that wait, without those of senders whom the user blocks; kept by the triggers
    bytes    INTEGER NOT NULL DEFAULT 0, -- of these
    PRIMARY KEY (folded, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE prekeys (
    folded     TEXT NOT NULL,
    device     BLOB NOT NULL,
    id         INTEGER NOT NULL,
    kind       INTEGER NOT NULL,         -- 1 one-time, 2 last-resort
    key_id     BLOB NOT NULL,            -- [32] of the bundle that signed it
    expires_ms INTEGER NOT NULL,
    prekey     BLOB NOT NULL,            -- signed (protocol §9)
    PRIMARY KEY (folded, device, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE mail (
    folded  TEXT NOT NULL,               -- for whom
    device  BLOB NOT NULL,
    seq     INTEGER NOT NULL,
    sender  TEXT NOT NULL,               -- in the registered spelling
    id      BLOB NOT NULL,               -- [16] chosen by the sender
    time_ms INTEGER NOT NULL,            -- when it came; for expiry
    size    INTEGER NOT NULL DEFAULT 0,  -- bytes that it had; only where the receiver blocks the sender
    blob    BLOB NOT NULL,               -- ciphertext; empty where the receiver blocks the sender: it is never delivered
    PRIMARY KEY (folded, device, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX mail_id ON mail (folded, device, sender, id);
CREATE INDEX mail_age ON mail (time_ms);
CREATE INDEX mail_blocked ON mail (folded, sender, size) WHERE blob = x'';

CREATE TRIGGER mail_added AFTER INSERT ON mail
BEGIN
    UPDATE devices SET messages = messages + (new.blob <> x''), bytes = bytes + length(new.blob)
    WHERE folded = new.folded AND device = new.device; END;
CREATE TRIGGER mail_removed AFTER DELETE ON mail
BEGIN
    UPDATE devices SET messages = messages - (old.blob <> x''), bytes = bytes - length(old.blob)
    WHERE folded = old.folded AND device = old.device; END;
