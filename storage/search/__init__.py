"""The nearest documents of a corpus to a query, and indexes of vectors."""
