"""Stored pipelines with their runs and SQL views."""
