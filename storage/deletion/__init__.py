"""Garbage collection, removal and retention, and the search for traces of a removed text."""
