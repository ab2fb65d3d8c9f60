"""Texts into vectors, and pairs of texts into scores: beside generation, or instead of it."""
