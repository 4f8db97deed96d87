"""Encoder-only models: vectors, weights of tokens, and scores of windows or tokens."""
