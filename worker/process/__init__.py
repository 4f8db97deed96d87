"""The supervisor and its device processes, from a hint in the queue to a committed shard."""
