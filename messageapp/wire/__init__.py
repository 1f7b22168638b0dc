"""The link protocol between client and server, sans-IO: bytes, time and randomness come in as arguments."""
