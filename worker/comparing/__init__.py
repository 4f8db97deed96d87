"""Compare the results of two jobs over a corpus."""
