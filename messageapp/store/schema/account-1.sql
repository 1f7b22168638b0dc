-- One user's memory of whom it trusts. No secrets: keys of others, and this device's random number.
CREATE TABLE device (
    id BLOB NOT NULL                -- [16] sent in M1, so that a new login replaces this device's old session
) STRICT;

CREATE TABLE servers (
    name      TEXT NOT NULL,        -- as typed: the name the certificate is checked against
    port      INTEGER NOT NULL,
    spki_hash BLOB NOT NULL,        -- [32] SHA-256 of the leaf's public key
    canonical TEXT NOT NULL,        -- what the server calls itself: the name under which peers are pinned
    ca_pem    BLOB NOT NULL,        -- the authority of the first login, used when none is named
    first_ms  INTEGER NOT NULL,
    PRIMARY KEY (name, port)
) STRICT, WITHOUT ROWID;

CREATE TABLE pins (
    peer     TEXT NOT NULL,         -- lower-case: another spelling is no other person
    server   TEXT NOT NULL,         -- the server's canonical name
    bundle   BLOB NOT NULL,         -- the key that counts
    offered  BLOB,                  -- another key that the server handed out since: the state is then "changed"
    verified INTEGER NOT NULL,      -- 1: the user has compared the safety number
    first_ms INTEGER NOT NULL,
    PRIMARY KEY (peer, server)
) STRICT, WITHOUT ROWID;
