"""The server: a trio shell around `wire`. It sees names, sizes and times, and ciphertext, never a text."""
