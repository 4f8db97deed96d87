"""Explain one result: how it came to be."""
