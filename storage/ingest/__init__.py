"""Reading a source into a corpus: records become documents and contents, and new contents are planned."""
