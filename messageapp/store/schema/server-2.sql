-- The key log, every key that ever counted, invitations and blocks. Still nothing that opens a message.
-- NULL: enrolled; else since when the key counts no more
ALTER TABLE users ADD COLUMN revoked_ms INTEGER;

CREATE TABLE bundles (
    key_id BLOB PRIMARY KEY,        -- [32]
    bundle BLOB NOT NULL            -- encoded: a client that follows a change of key needs each one between
) STRICT, WITHOUT ROWID;

CREATE TABLE log_leaves (
    log    TEXT NOT NULL,           -- '' at the server; at a client the server's canonical name
    number INTEGER NOT NULL,        -- 0, 1, 2 … without a gap
    folded TEXT NOT NULL,           -- lower-case name of the user whom the leaf is about
    leaf   BLOB NOT NULL,           -- encoded (protocol §12)
    PRIMARY KEY (log, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX log_leaves_of ON log_leaves (log, folded, number);

CREATE TABLE log_tiles (
    log    TEXT NOT NULL,
    level  INTEGER NOT NULL,        -- hashes of complete subtrees of 2^(8 * level) leaves
    number INTEGER NOT NULL,        -- 256 of them to a tile, fewer in the last
    hashes BLOB NOT NULL,
    PRIMARY KEY (log, level, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE cosignatures (
    size    INTEGER NOT NULL,       -- of the checkpoint
    witness TEXT NOT NULL,          -- name of the witness's key
    line    TEXT NOT NULL,          -- the signature line of the note
    PRIMARY KEY (size, witness)
) STRICT, WITHOUT ROWID;

CREATE TABLE invites (
    id         BLOB PRIMARY KEY,    -- [16] derived from the secret, which is not stored
    key        BLOB NOT NULL,       -- [32] derived from the secret: proves that somebody has the code
    name       TEXT NOT NULL,       -- for whom; '' for whoever comes
    reset      INTEGER NOT NULL,    -- 1: replaces the key of a user who is enrolled
    made_ms    INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    uses       INTEGER NOT NULL,    -- how many are left
    used       INTEGER NOT NULL,    -- how many were
    revoked_ms INTEGER,             -- NULL: not revoked
    first      INTEGER NOT NULL     -- 1: printed by `serve` for the first user
) STRICT, WITHOUT ROWID;

CREATE TABLE blocks (
    owner    TEXT NOT NULL,         -- lower-case: who blocks
    blocked  TEXT NOT NULL,         -- lower-case: whom
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (owner, blocked)
) STRICT, WITHOUT ROWID;
CREATE INDEX blocks_of ON blocks (blocked, owner);
