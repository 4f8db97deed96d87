"""Pipelines: several steps over one corpus, declared in a file, run by hand or on a schedule."""
