"""Guessing what an answer says next, so that one step can check many tokens; never changes it."""
