"""The client: a trio shell around `wire` and `e2ee`, for the terminal, for scripts and for bots."""
