"""Where everything lives.

Beside the tables and what all stands on there are rooms: `readers`, and `intake` of what they read; `flow`, what
a job computes; `leases` of its shards; `export` of its results, and `writers`; `retrieval`; `disposal`.

Imports nothing from ``tasks`` or ``worker``, and no model library.
"""
