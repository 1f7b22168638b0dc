-- Messages, sessions, prekeys and what waits to be sent. From this number on the file is encrypted as a whole (protocol §15).
CREATE TABLE conversations (
    id          INTEGER PRIMARY KEY,
    server      TEXT NOT NULL,           -- canonical name
    peer        TEXT NOT NULL,           -- lower-case; '' in a group
    group_id    BLOB NOT NULL DEFAULT x'', -- [16] in a group
    name        TEXT NOT NULL,           -- as it is shown: the registered spelling
    draft       TEXT NOT NULL DEFAULT '',
    last_read   INTEGER NOT NULL DEFAULT 0, -- number of the last message that the user has seen
    receipts    INTEGER NOT NULL DEFAULT 0, -- 1: the peer is told what was read
    expire_s    INTEGER NOT NULL DEFAULT 0, -- messages vanish so long after they came; 0: never
    seen_ms     INTEGER NOT NULL DEFAULT 0, -- when the peer was last seen online
    UNIQUE (server, peer, group_id)
) STRICT;

CREATE TABLE messages (
    number       INTEGER PRIMARY KEY AUTOINCREMENT, -- what users say; never used twice
    conversation INTEGER NOT NULL REFERENCES conversations (id),
    id           BLOB NOT NULL,          -- [16] the same on both sides
    own          INTEGER NOT NULL,       -- 1: we wrote it
    device       BLOB NOT NULL DEFAULT x'', -- [16] of the peer's that it came from, or went to; empty: not known
    written_ms   INTEGER NOT NULL,       -- by the writer's clock
    stored_ms    INTEGER NOT NULL,       -- by ours: when it was written to this disk
    state        TEXT NOT NULL,          -- queued | sent | delivered | read | failed; received | unreadable | held
    cause        TEXT NOT NULL DEFAULT '', -- why it is in that state; a word of client/causes.py
    changed_ms   INTEGER NOT NULL,       -- when state or cause last changed
    reply_to     BLOB,                   -- [16] id of the message that it answers
    edited_ms    INTEGER,                -- when its text was last changed
    expire_s     INTEGER NOT NULL DEFAULT 0, -- it vanishes so long after it came
    expires_ms   INTEGER,                -- when that is; NULL: not yet running, or never
    live         INTEGER NOT NULL DEFAULT 0, -- 1: it was said in a chat
    text         TEXT                    -- NULL while it cannot be read; last, as it may be long
) STRICT;
CREATE UNIQUE INDEX messages_id ON messages (conversation, own, id);
CREATE INDEX messages_of ON messages (conversation, number, own);
CREATE INDEX messages_open ON messages (state, number) WHERE state IN ('queued', 'sent', 'failed', 'unreadable', 'held');
CREATE INDEX messages_expiring ON messages (expires_ms) WHERE expires_ms IS NOT NULL;

CREATE VIRTUAL TABLE words USING fts5 (text, content = 'messages', content_rowid = 'number', tokenize = 'unicode61');

CREATE TABLE versions (
    number  INTEGER NOT NULL REFERENCES messages (number) ON DELETE CASCADE,
    text    TEXT NOT NULL,               -- what it was before
    from_ms INTEGER NOT NULL,            -- since when it was that
    PRIMARY KEY (number, from_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE reactions (
    number INTEGER NOT NULL REFERENCES messages (number) ON DELETE CASCADE,
    own    INTEGER NOT NULL,             -- 1: ours
    emoji  TEXT NOT NULL,
    PRIMARY KEY (number, own)
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    server       TEXT NOT NULL,
    peer         TEXT NOT NULL,          -- lower-case
    sid          BLOB NOT NULL,          -- [8]
    device       BLOB NOT NULL DEFAULT x'', -- [16] of the peer's; empty: not known
    key_id       BLOB NOT NULL,          -- [32] of the peer's bundle: a session ends with the key
    own_key_id   BLOB NOT NULL,          -- [32] of ours
    made_ms      INTEGER NOT NULL,       -- the largest is used to send; below 0 it only receives
    confirmed    INTEGER NOT NULL,       -- 1: something came over it
    confirms     INTEGER NOT NULL,       -- 1: the peer's client sends receipts
    state        BLOB NOT NULL,          -- the ratchet
    PRIMARY KEY (server, peer, sid)
) STRICT, WITHOUT ROWID;

CREATE TABLE prekeys (
    server     TEXT NOT NULL,
    id         INTEGER NOT NULL,
    kind       INTEGER NOT NULL,         -- 1 one-time, 2 last-resort
    public     BLOB NOT NULL,            -- as it is uploaded (protocol §9)
    private    BLOB NOT NULL,
    made_ms    INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    uploaded   INTEGER NOT NULL,         -- 1: the server has said that it has it
    PRIMARY KEY (server, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE starts (
    server     TEXT NOT NULL,
    start      BLOB NOT NULL,            -- [32] TH_C3 of a start under a last-resort prekey: never taken twice
    prekey     INTEGER NOT NULL,
    PRIMARY KEY (server, start)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    place    INTEGER PRIMARY KEY AUTOINCREMENT, -- sent in this order
    server   TEXT NOT NULL,
    peer     TEXT NOT NULL,              -- lower-case
    id       BLOB NOT NULL,              -- [16] of the envelope; the server stores it under this, too
    number   INTEGER,                    -- the message; NULL for receipts and other notes between clients
    about    INTEGER,                    -- the message that a note changes: the note goes with it
    content  BLOB NOT NULL DEFAULT x'',  -- the envelope, until it is sealed
    blob     BLOB,                       -- sealed: the same bytes are sent again until the server has them
    live     INTEGER NOT NULL DEFAULT 0, -- 1: said in the chat that is under way; waits for its receipt
    made_ms  INTEGER NOT NULL,
    next_ms  INTEGER NOT NULL DEFAULT 0, -- not tried again before
    tries    INTEGER NOT NULL DEFAULT 0,
    UNIQUE (server, peer, id)
) STRICT;
CREATE INDEX outbox_waits ON outbox (server, next_ms) WHERE live = 0;

CREATE TABLE seen (
    server TEXT NOT NULL,
    hash   BLOB NOT NULL,                -- [16] of a stored message that was taken in: the same bytes again are not shown again
    ms     INTEGER NOT NULL,
    PRIMARY KEY (server, hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE held (
    place  INTEGER PRIMARY KEY AUTOINCREMENT,
    server TEXT NOT NULL,
    peer   TEXT NOT NULL,                -- lower-case: whose key has to be accepted first
    number INTEGER,                      -- the line that stands for it
    id     BLOB NOT NULL,                -- [16] under which the server stored it
    blob   BLOB NOT NULL,
    ms     INTEGER NOT NULL
) STRICT;
CREATE INDEX held_of ON held (server, peer, place);

CREATE TABLE heals (
    server TEXT NOT NULL,
    peer   TEXT NOT NULL,                -- lower-case
    id     BLOB NOT NULL,                -- [16] what could not be read and is asked for again; empty: counts new sessions
    asked  INTEGER NOT NULL,             -- how often
    ms     INTEGER NOT NULL,             -- when last
    PRIMARY KEY (server, peer, id)
) STRICT, WITHOUT ROWID;
