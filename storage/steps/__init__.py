"""A job's steps: what each reads, how outcomes lead to later steps, and the shards of its contents."""
