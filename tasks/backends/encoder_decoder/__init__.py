"""Encoder-decoder models: translations and summaries, on transformers and on CTranslate2."""
