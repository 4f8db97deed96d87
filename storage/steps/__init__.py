"""A job's steps: their inputs, the propagation of outputs to later steps, and the sharding of contents."""
