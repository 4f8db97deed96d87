"""The store: corpora, jobs, shards and results in SQL, with the readers and writers of files.

It imports nothing from ``tasks`` or ``worker``, and no model library.
"""
