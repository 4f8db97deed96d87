"""Pipelines: several steps over one corpus, written down in a file, run by hand or by the clock."""
