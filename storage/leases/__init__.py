"""A shard's life: offered, claimed, committed, taken back; and why one waits."""
