"""Models that read a text and write another: translations and summaries, on transformers and on CTranslate2."""
