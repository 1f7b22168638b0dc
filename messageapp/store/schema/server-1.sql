-- The server's directory. It holds public keys only; nothing here opens a message or a private key.
CREATE TABLE users (
    folded   TEXT PRIMARY KEY,      -- lower-case name: names are unique under it
    name     TEXT NOT NULL,         -- the registered spelling, the only one on the wire
    bundle   BLOB NOT NULL,         -- encoded identity bundle (protocol §3)
    added_ms INTEGER NOT NULL       -- wall clock, for display
) STRICT, WITHOUT ROWID;
