"""What a job computes: its steps, the way of a text through them, the shards it is cut into; kept pipelines."""
