"""Search for the documents of a corpus that are nearest to a query, and indexes of vectors."""
