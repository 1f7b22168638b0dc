"""A server that lies with its key log, and the table of what it tries."""
