"""Where everything lives: schema, migrations, ingest, shards and leases, results, readers and writers.

Imports nothing from ``tasks`` or ``worker``, and no model library.
"""
