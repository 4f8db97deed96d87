"""Read a source into a corpus: records become documents and contents, and new contents become shards."""
