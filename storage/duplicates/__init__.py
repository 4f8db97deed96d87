"""Find near duplicates in a corpus, by their words or by their vectors, and keep them as clusters."""
