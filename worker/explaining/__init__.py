"""Explain one result: how it came to be, and what it is when it is computed again."""
