"""Encoder-only models: embeddings."""
