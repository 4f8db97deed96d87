"""Leases of shards: dispatch, claim, commit and reclaim, and the diagnosis of stalled jobs."""
