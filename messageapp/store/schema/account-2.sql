-- What this account knows of each server's key log, why a pin is blocked, and whose word it asks for besides the server's.
-- of a change that is not accepted: reset | revoked | unexplained
ALTER TABLE pins ADD COLUMN how TEXT NOT NULL DEFAULT '';
-- the authority's revocation list, DER, once one was given
ALTER TABLE servers ADD COLUMN crl BLOB;

CREATE TABLE logs (
    server         TEXT PRIMARY KEY,  -- canonical name
    log_key        BLOB NOT NULL,     -- [32] Ed25519, pinned
    note           BLOB NOT NULL,     -- the newest checkpoint that was verified, a signed note; empty before the first
    size           INTEGER NOT NULL,
    witnessed_size INTEGER NOT NULL,  -- of the largest checkpoint with enough cosignatures
    thin           INTEGER NOT NULL,  -- 1: proofs only, no replay
    alarm          TEXT NOT NULL,     -- '' or why nothing is sent any more
    accepted       INTEGER NOT NULL   -- leaves about the own name below this number were looked at and accepted
) STRICT, WITHOUT ROWID;

CREATE TABLE log_leaves (
    log    TEXT NOT NULL,             -- the server's canonical name
    number INTEGER NOT NULL,
    folded TEXT NOT NULL,
    leaf   BLOB NOT NULL,
    PRIMARY KEY (log, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX log_leaves_of ON log_leaves (log, folded, number);

CREATE TABLE log_tiles (
    log    TEXT NOT NULL,
    level  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (log, level, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE own_keys (
    key_id BLOB PRIMARY KEY           -- [32] a key that this account has had: a leaf with it is our own doing
) STRICT, WITHOUT ROWID;

CREATE TABLE log_policy (
    server TEXT PRIMARY KEY,
    needed INTEGER NOT NULL           -- so many of the witnesses must have cosigned
) STRICT, WITHOUT ROWID;

CREATE TABLE witnesses (
    server TEXT NOT NULL,
    vkey   TEXT NOT NULL,             -- name+hash+key, as transparency-log tools write it
    PRIMARY KEY (server, vkey)
) STRICT, WITHOUT ROWID;

CREATE TABLE cosigned (
    server TEXT PRIMARY KEY,
    note   BLOB NOT NULL              -- the checkpoint that this account's witness cosigned last, a signed note
) STRICT, WITHOUT ROWID;
