"""What leaves the store, what nothing needs any more, and the proof that it is gone."""
