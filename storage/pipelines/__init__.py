"""Stored pipelines with their runs and SQL views, and the orders of other programs."""
