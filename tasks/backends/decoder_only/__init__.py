"""Models that go on with a prompt: generation, and translations and summaries by instruction."""
