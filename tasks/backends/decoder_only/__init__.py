"""Decoder-only models: generation, and translations and summaries by instruction."""
