"""Texts cut into windows that fit a model, by paragraphs and by Markdown's structure."""
