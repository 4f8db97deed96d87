"""What happens to a document: specs, windows, batches, the engine, backends, one file per task kind.

Imports ``storage`` and never ``worker``; only ``tasks.backends`` imports torch and its kin.
"""
