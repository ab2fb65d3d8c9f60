"""Tokens in, text out: the engine; knows nothing of HTTP or terminals."""
