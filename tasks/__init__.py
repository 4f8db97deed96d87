"""The computation of documents: kinds of tasks, specs, windows, batches, the engine and the backends.

It imports ``storage`` and never ``worker``; only ``tasks.backends`` imports torch and other model libraries.
"""
