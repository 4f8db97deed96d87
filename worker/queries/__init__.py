"""The query process that keeps a model loaded between searches, and its client."""
