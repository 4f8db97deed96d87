"""The documents of a corpus that are nearest to a query, and indexes of vectors that help to find them."""
