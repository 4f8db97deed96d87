"""Prompt templates and few-shot demonstrations."""
